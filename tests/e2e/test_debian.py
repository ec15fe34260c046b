#!/usr/bin/env python3
"""A whole Debian in QEMU -accel kvm: systemd to a login, apt, python3, gcc, a disk and the network.

usage: test_debian.py USERKVM BUILD [all | CASE...]
"""
import hashlib
import os
import random
import sys

import initrd
import servers
import tap
from debian import Debian

USERKVM, BUILD = (os.path.abspath(x) for x in sys.argv[1:3])
SCRATCH = os.path.join(BUILD, "test-debian")


def debian_boots_to_a_login_and_works():
    os.makedirs(SCRATCH, exist_ok=True)
    path, data = os.path.join(SCRATCH, "disk"), random.Random(7).randbytes(16 << 20)
    with open(path, "wb") as f:
        f.write(data)
    with Debian(USERKVM, BUILD, SCRATCH, "-smp", "2", disk=path) as m:
        m.login()
        out, _ = m.run("systemctl is-system-running --wait")
        assert "running" in out, out
        m.run("apt-get update && apt-get -y install userkvm-guest")
        out, _ = m.run("dpkg -s userkvm-guest")
        assert "Status: install ok installed" in out, out
        ticks = [x for x in initrd.run_here("dirty.c", "1", "16").split("\n") if "tick" in x]
        # the program that apt brought, built there, says what it says here
        out, _ = m.run("gcc -O2 -Wall -o dirty /usr/share/userkvm-guest/dirty.c && ./dirty 1 16")
        assert [x for x in out.split("\n") if "tick" in x] == ticks, out
        out, _ = m.run("python3 -c 'import hashlib; print(hashlib.sha256(open(\"/dev/vdb\", \"rb\").read()).hexdigest())'")
        assert hashlib.sha256(data).hexdigest() in out, out
        m.network_up()
        with servers.transfers(data) as (port, _, _):
            out, _ = m.run(f"sha256sum </dev/tcp/10.0.2.2/{port}")
        assert hashlib.sha256(data).hexdigest() in out, out
        out, _ = m.run("dmesg --level=emerg,alert,crit,err | cat")
        assert not [bad for bad in ("BUG", "Oops", "Call Trace", "unchecked MSR") if bad in out], out
        m.power_off()


tap.select((debian_boots_to_a_login_and_works,), (), sys.argv[3:])
