"""QEMU -accel kvm: an L1 hypervisor is saved, loaded and moved while its own guest, L2, runs.

usage: test_nested_state.py USERKVM BUILD [all | CASE...]
"""
import os
import re
import shutil
import subprocess
import sys

import initrd
import tap
from qemu import Machine

USERKVM, BUILD = (os.path.abspath(x) for x in sys.argv[1:3])
DEMO = os.path.join(BUILD, "demo")
SCRATCH = os.path.abspath(os.path.join(BUILD, "test-nested-state"))
ENGINES = ("jit", "interp")


class L1:
    """One kind of L1: how QEMU starts it, and what its console says of L2."""

    def __init__(self, tick, after, *args, memory):
        self.tick, self.after, self.args, self.memory = re.compile(tick), after, args, memory

    def start(self, engine, *more):
        return Machine(USERKVM, "-M", "q35", "-cpu", "host", *self.args, *more, memory=self.memory,
                       env={"USERKVM_ENGINE": engine})

    def ticks(self, console):
        return [(self.number(n), s) for n, s in self.tick.findall(console)]

    @staticmethod
    def number(text):
        return int(text, 0)

    def goes_on(self, m, start=0):
        """Until L2 has done `after` rounds more than the console says since `start`."""
        m.wait_for(self.tick.pattern, 90, start)
        first = self.ticks(m.console[start:])[-1][0]
        while self.ticks(m.console[start:])[-1][0] < first + self.after:
            m.wait_for(self.tick.pattern, start=len(m.console) - 1)
            assert "LOST" not in m.console, m.console[-500:]

    def check(self, console, sums):
        ticks = self.ticks(console)
        assert "LOST" not in console and "VM entry failed" not in console, console[-500:]
        for (a, _), (b, _) in zip(ticks, ticks[1:]):
            assert b == a + 8, f"round {b} comes after round {a}"
        for n, s in ticks:
            assert sums.setdefault(n, s) == s, f"round {n}: {s}, not {sums[n]}"


def small_l1():
    """tests/e2e/guest/l1_ticks.c: EPT12 that changes all the time, A/D flags, a preemption timer."""
    os.makedirs(SCRATCH, exist_ok=True)
    program = os.path.join(SCRATCH, "l1_ticks")
    subprocess.run(["cc", "-O1", "-Wall", "-Wextra", "-std=gnu17", "-ffreestanding", "-nostdlib", "-static", "-no-pie",
                    "-fno-pic", "-mno-red-zone", "-mgeneral-regs-only", "-fno-stack-protector",
                    "-fno-asynchronous-unwind-tables", "-fcf-protection=none",
                    # run_guest() of the examples keeps these of neither side
                    *(f"-ffixed-r{n}" for n in range(8, 16)),
                    "-Wl,-Ttext-segment=0x100000,-z,max-page-size=4096,--build-id=none,-e,start", "-o", program,
                    os.path.join(initrd.HERE, "guest/l1_ticks.c")], check=True)
    return L1(r"tick (0x[0-9a-f]+)\s+sum (0x[0-9a-f]+)\s", 24, "-kernel", program, memory="32")


def debian_l1():
    """Debian's kvm-intel as L1, its L2 by `userkvm boot --kvm`: the same kernel, with a program that checks memory."""
    if not os.path.exists(DEMO + "/modules/kvm-intel.ko"):
        raise tap.Skip("no kernel with kvm-intel (scripts/demo-files)")
    os.makedirs(SCRATCH, exist_ok=True)
    l2 = initrd.make(SCRATCH + "/l2.img", "dirty 4 1000000\n", programs=["dirty.c"])
    library = os.path.dirname(os.path.realpath(os.path.join(BUILD, "src/preload/libuserkvm.so.0")))
    script = (f"export LD_LIBRARY_PATH={library}\n"
              "userkvm boot --kvm /dev/kvm /vmlinuz --initrd /l2.img --mem 96M --no-reboot "
              "--append 'quiet panic=-1 console=ttyS0'\n")
    image = initrd.make(SCRATCH + "/l1.img", script, modules_folder=DEMO + "/modules", modules=("kvm-intel",),
                        dynamic=[USERKVM], files={"vmlinuz": DEMO + "/vmlinuz", "l2.img": l2})
    l1 = L1(r"tick (\d+) ([0-9a-f]{16})\s", 48, "-kernel", DEMO + "/vmlinuz", "-initrd", image, "-append",
            "console=ttyS0 quiet panic=-1", memory="384")
    l1.number = int
    return l1


def move(l1, engine, times):
    """To another QEMU, so many times; each goes on from where the one before was."""
    sums, path = {}, os.path.join(SCRATCH, "migration.socket")
    a = l1.start(engine)
    try:
        l1.goes_on(a)
        for _ in range(times):
            b = l1.start(engine, "-incoming", "unix:" + path)
            try:
                b.qmp("query-status")
                a.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 30, "downtime-limit": 500})
                a.migrate("unix:" + path)
                a.watch(0.1)
                l1.check(a.console, sums)
                before = l1.ticks(a.console)
                a.__exit__()
                a, b = b, None
            finally:
                if b:
                    b.__exit__()
            a.wait_for(l1.tick.pattern, 60)
            if before:
                now = l1.ticks(a.console)[0][0]
                assert before[-1][0] < now <= before[-1][0] + 16, (before[-1], now)
        l1.goes_on(a)
        l1.check(a.console, sums)
    finally:
        a.__exit__()


def save_and_load(l1, engine):
    """Back to where it was, and on from there: the same rounds have the same sums again."""
    if not shutil.which("qemu-img"):
        raise tap.Skip("qemu-img (package qemu-utils) is not installed")
    disk, sums = os.path.join(SCRATCH, "snapshots.qcow2"), {}
    # No client: a sanitizer's runtime, which userkvm needs under SANITIZE=1, has hung it at its exit.
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True, env=plain)
    with l1.start(engine, "-drive", f"file={disk},if=none,id=d,format=qcow2", "-device", "virtio-blk-pci,drive=d") as m:
        l1.goes_on(m)
        for name in ("one", "two"):
            said = m.hmp("savevm " + name)
            assert not said.strip(), said
            m.watch(0.1)
            saved = l1.ticks(m.console)[-1][0]
            l1.goes_on(m)
        l1.check(m.console, sums)
        for name in ("two", "one", "two"):
            m.hmp("stop")
            m.watch(0.2)
            mark = len(m.console)
            said = m.hmp("loadvm " + name)
            assert not said.strip(), said
            m.hmp("cont")
            m.wait_for(l1.tick.pattern, start=mark)
            again = l1.ticks(m.console[mark:])[0][0]
            assert again <= saved + 16, (again, saved)
            l1.goes_on(m, mark)
            l1.check(m.console[mark:], sums)


def an_l1_moves_while_its_l2_runs():
    for engine in ENGINES:
        move(small_l1(), engine, 4)


def an_l1_is_saved_and_loaded_while_its_l2_runs():
    for engine in ENGINES:
        save_and_load(small_l1(), engine)


def kvm_intel_moves_while_its_guest_runs():
    move(debian_l1(), "jit", 2)


def an_l1_moves_fifty_times():
    move(small_l1(), "jit", 50)


def kvm_intel_moves_on_the_interpreter():
    move(debian_l1(), "interp", 4)


def kvm_intel_is_saved_and_loaded():
    for engine in ENGINES:
        save_and_load(debian_l1(), engine)


tap.select((an_l1_moves_while_its_l2_runs, an_l1_is_saved_and_loaded_while_its_l2_runs, kvm_intel_moves_while_its_guest_runs),
           (an_l1_moves_fifty_times, kvm_intel_moves_on_the_interpreter, kvm_intel_is_saved_and_loaded), sys.argv[3:])
