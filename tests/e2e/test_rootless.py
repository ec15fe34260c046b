"""Nothing of the machine is needed: another user, a user namespace of its own, no node in /dev.

usage: test_rootless.py USERKVM BUILD
"""
import os
import shutil
import subprocess
import sys

import tap

USERKVM, BUILD = (os.path.abspath(x) for x in sys.argv[1:3])
KERNEL = os.path.join(BUILD, "demo/vmlinuz")
INITRD = os.path.join(BUILD, "demo/initrd.img")
NOBODY = 65534


def confined(script, timeout=120):
    """Run a shell script as nobody, /dev an empty directory."""
    if not shutil.which("unshare"):
        raise tap.Skip("unshare is not installed")
    shell = "mount -t tmpfs none /dev && test -z \"$(ls /dev)\" || { echo NO-NAMESPACE; exit 99; }\n" + script
    become = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    with open(os.devnull) as null:
        r = subprocess.run(["unshare", "-Urm", "sh", "-c", shell], stdin=null, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=timeout * tap.PATIENCE, cwd="/", **become)
    out = r.stdout.decode(errors="replace")
    if "unshare" in out and "failed" in out or "NO-NAMESPACE" in out:
        raise tap.Skip("no unprivileged user namespaces here: " + out.strip()[:100])
    if "ermission denied" in out and BUILD in out:
        raise tap.Skip("the build tree cannot be read by other users: " + out.strip()[:100])
    return out, r.returncode


def dev_kvm_is_there_without_a_node():
    out, status = confined(f"{USERKVM} run -- sh -c 'test -c /dev/kvm && test -r /dev/kvm && test -w /dev/kvm && "
                           "echo seen'; test ! -e /dev/kvm && echo gone")
    assert status == 0 and "gone" in out, out


def clients_pass():
    for name in ("first", "signals", "irq", "state", "static_first", "static_signals"):
        program = os.path.join(BUILD, "tests/client/test_client_" + name)
        if name.startswith("static") and not os.path.exists(program):
            continue  # a sanitized build has none
        out, status = confined(f"{USERKVM} run -- {program}")
        assert status == 0, f"{name}: exit status {status}\n{out[-2000:]}"


def debians_kernel_boots():
    out, status = confined(f"{USERKVM} boot {KERNEL} --initrd {INITRD} --append 'demo.batch panic=-1' --no-reboot",
                           timeout=240)
    assert status == 0 and "userkvm: demo done" in out, f"exit status {status}\n" + out[-3000:]


tap.main(dev_kvm_is_there_without_a_node, clients_pass, debians_kernel_boots)
