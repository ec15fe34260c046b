#!/usr/bin/env python3
"""Hosts whose policy keeps programs from gaining executable memory: systemd's MemoryDenyWriteExecute=, SELinux without
execmem. The host is a Debian that runs as a guest, so its kernel may have any policy; userkvm runs in it from the tarball.

usage: test_policies.py USERKVM BUILD TARBALLS      TARBALLS/userkvm-VERSION-x86_64.tar.xz, by make tarball
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

import tap
from debian import Debian

USERKVM, BUILD = (os.path.abspath(x) for x in sys.argv[1:3])
TARBALL = os.path.abspath(glob.glob(os.path.join(sys.argv[3], "userkvm-*.tar.xz"))[0])

# The names of the security identifiers that the kernel has before a policy, in its order.
INITIAL = """kernel security unlabeled fs file file_labels init any_socket port netif netmsg node igmp_packet icmp_socket
tcp_socket sysctl_modprobe sysctl sysctl_fs sysctl_kernel sysctl_net sysctl_net_unix sysctl_vm sysctl_dev kmod policy
scmp_packet devnull""".split()
PROCESS = "(process (transition dyntransition execmem execstack execheap))"
# What a policy does not name is allowed. `strict` lacks execmem; `stricter` may execute no file of shared memory either.
POLICY = "\n".join([
    "(handleunknown allow) (mls false)", "(class process (transition dyntransition execmem execstack execheap))",
    "(class file (execute execmod))", "(classorder (process file))", "(sensitivity s0) (sensitivityorder (s0))",
    "(user u) (role r) (userrole u r) (userlevel u (s0)) (userrange u ((s0) (s0)))",
    *(f"(type {t}) (roletype r {t})" for t in ("free", "strict", "stricter", "memory")),
    *(f"(sid {s}) (sidcontext {s} (u r free ((s0) (s0))))" for s in INITIAL), f"(sidorder ({' '.join(INITIAL)}))",
    "(fsuse trans tmpfs (u r memory ((s0) (s0))))",
    f"(allow free self {PROCESS})", "(allow free strict (process (transition dyntransition)))",
    "(allow free stricter (process (transition dyntransition)))",
    *(f"(allow {t} free (file (execute)))" for t in ("free", "strict", "stricter")),
    "(allow free memory (file (execute execmod)))", "(allow strict memory (file (execute)))",
]) + "\n"
WRITABLE_AND_EXECUTABLE = "python3 -c 'import mmap; mmap.mmap(-1, 4096, prot=7)' 2>&1 | tail -n 1"


def disk(folder):
    """A tar of userkvm, unpacked, and the policy."""
    if not shutil.which("secilc"):
        raise tap.Skip("secilc is not installed")
    tree = os.path.join(folder, "tree")
    os.makedirs(tree + "/userkvm")
    with open(folder + "/policy.cil", "w") as f:
        f.write(POLICY)
    subprocess.run(["secilc", "-M", "false", "-c", "33", "-o", tree + "/policy", "-f", "/dev/null", folder + "/policy.cil"], check=True)
    subprocess.run(["tar", "-xJf", TARBALL, "-C", tree + "/userkvm", "--strip-components=1"], check=True)
    subprocess.run(["tar", "-C", tree, "-cf", folder + "/disk", "."], check=True)
    os.truncate(folder + "/disk", (os.path.getsize(folder + "/disk") | 0xfffff) + 1)
    return folder + "/disk"


def guests_run_without_leave_to_write_what_is_executed():
    with tempfile.TemporaryDirectory(prefix="userkvm-policies-", dir="/tmp") as folder, \
            Debian(USERKVM, BUILD, folder, "-append", "console=ttyS0 quiet panic=-1 lsm=selinux selinux=1 enforcing=0",
                   disk=disk(folder)) as m:
        m.login()
        m.run("tar -C /srv -xf /dev/vdb && export PATH=/srv/userkvm/bin:$PATH USERKVM_JIT=threshold:1")

        unit = "systemd-run --quiet --pipe --wait -p MemoryDenyWriteExecute=yes -E USERKVM_JIT=threshold:1 "
        out, _ = m.run(unit + WRITABLE_AND_EXECUTABLE)
        assert "PermissionError" in out, out
        out, _ = m.run(unit + "/srv/userkvm/bin/userkvm doctor --preflight")
        assert "guests run here, engine jit" in out, out
        out, _ = m.run(unit + "/srv/userkvm/bin/userkvm walkthrough | grep -c RET_PF_FIXED | sed 's/^/lines: /'")
        assert re.search("lines: [1-9]", out), out

        m.run("cat /srv/policy >/sys/fs/selinux/load && echo 1 >/sys/fs/selinux/enforce")
        enter = "printf u:r:%s >/proc/self/attr/current; sed 's/^/now /' /proc/self/attr/current; echo; "
        out, _ = m.run(f"( {enter % 'strict'} {WRITABLE_AND_EXECUTABLE}; userkvm doctor --preflight; userkvm walkthrough | grep -c RET_PF_FIXED | sed 's/^/lines: /' )")
        assert "now u:r:strict" in out and "PermissionError" in out and "guests run here, engine jit" in out, out
        assert re.search("lines: [1-9]", out), out
        # a memfd's label is the file system's: one that may not be executed leaves nothing to serve guests from
        out, _ = m.run(f"( {enter % 'stricter'} userkvm doctor --preflight; echo status $? )")
        assert "now u:r:stricter" in out and "no executable memory" in out and "status 5" in out, out
        m.power_off()


tap.select((guests_run_without_leave_to_write_what_is_executed,), (), sys.argv[4:])
