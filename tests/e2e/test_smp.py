"""Debian's kernel with four vCPUs under load: userkvm boot --smp, and QEMU -smp.

usage: test_smp.py USERKVM BUILD [CASE...]
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

import initramfs
import tap

USERKVM, BUILD = sys.argv[1:3]
HERE = os.path.dirname(os.path.abspath(__file__))
KERNEL = os.path.join(BUILD, "demo/vmlinuz")
PARTS = "fork exec pipe mmap mprotect atomic clock code turns".split()
# lines of the kernel's log that no healthy machine has
BAD = ("Kernel panic", "BUG:", "Oops", "Call Trace", "WARNING: CPU", "unchecked MSR", "soft lockup", "rcu_sched self-detected",
       "rcu: INFO", "RCU stall", "TSC warp", "unstable", "hung_task", "segfault", "not responding", "general protection",
       "Measured", "invalid opcode", "timed out", "FAILED")

INIT = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
echo "smp: nproc $(nproc)"
echo "smp: clocksource $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
sums=
for cpu in $(seq 0 $(($(nproc) - 1))); do
	(for i in $(seq 20); do seq 500 | md5sum | cut -d' ' -f1; done | sort | md5sum | cut -d' ' -f1 >/tmp/sum$cpu) &
done
wait
echo "smp: shell sums $(sort -u /tmp/sum* | wc -l) of $(nproc)"
stress %d %s
echo "smp: stress exits with $?"
grep -E "^ *(LOC|RES|CAL|TLB)" /proc/interrupts
for cpu in 3 2 1; do
	echo 0 >/sys/devices/system/cpu/cpu$cpu/online
	echo 1 >/sys/devices/system/cpu/cpu$cpu/online
done
echo "smp: nproc $(nproc) after hotplug"
echo "smp: done"
poweroff -f
"""


def prepared(seconds, part=""):
    d = tempfile.mkdtemp()
    if not os.access(KERNEL, os.R_OK):
        raise tap.Skip("no demo kernel: scripts/demo-files BUILD/demo")
    subprocess.run(["gcc", "-O2", "-static", "-pthread", "-o", d + "/stress", HERE + "/guest/stress.c"], check=True)
    initramfs.write(d + "/initrd.img", INIT % (seconds, part), {"stress": d + "/stress"})
    return d


def check(out, status, cpus):
    tail = out[-5000:]
    assert status == 0, f"exit status {status}\n" + tail
    for want in (rf"Brought up 1 node, {cpus} CPUs", rf"smp: nproc {cpus}\b", rf"smp: shell sums 1 of {cpus}",
                 r"smp: stress exits with 0", rf"smp: nproc {cpus} after hotplug", r"smp: done"):
        assert re.search(want, out), f"no {want!r} in\n" + tail
    for part in PARTS:
        assert re.search(rf"stress: {part} ok [1-9]", out), f"{part} did not run\n" + tail
    for bad in BAD:
        assert bad not in out, f"{bad!r} in\n" + out[max(0, out.index(bad) - 500):][:4000]


def under_load(seconds, *argv):
    d = prepared(seconds)
    try:
        return tap.run(*(a.replace("INITRD", d + "/initrd.img") for a in argv), timeout=150)
    finally:
        shutil.rmtree(d)


def debian_with_4_vcpus_survives_stress_under_userkvm_boot():
    out, status = under_load(6, USERKVM, "boot", KERNEL, "--initrd", "INITRD", "--smp", "4", "--append", "panic=-1",
                             "--no-reboot")
    check(out, status, 4)


def debian_with_4_vcpus_survives_stress_under_qemu():
    if not shutil.which("qemu-system-x86_64"):
        raise tap.Skip("qemu-system-x86_64 is not installed")
    out, status = under_load(4, USERKVM, "run", "--", "qemu-system-x86_64", "-accel", "kvm", "-m", "512", "-smp", "4", "-cpu", "host,migratable=off",
                             "-nographic", "-nodefaults", "-no-reboot", "-serial", "stdio", "-kernel", KERNEL,
                             "-initrd", "INITRD", "-append", "console=ttyS0 panic=-1")
    check(out, status, 4)


cases = {f.__name__: f for f in (debian_with_4_vcpus_survives_stress_under_userkvm_boot,
                                 debian_with_4_vcpus_survives_stress_under_qemu)}
if __name__ == "__main__":
    tap.main(*(cases[name] for name in sys.argv[3:] or cases))
