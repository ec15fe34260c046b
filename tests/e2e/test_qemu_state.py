"""QEMU -accel kvm: machines stopped, looked into, saved, moved while they write memory.

usage: test_qemu_state.py USERKVM BUILD [all | CASE...]
"""
import ctypes
import os
import re
import shutil
import struct
import subprocess
import sys

import initrd
import tap
from qemu import HYPERV, Gdb, Machine

USERKVM, BUILD = (os.path.abspath(x) for x in sys.argv[1:3])
KERNEL = os.path.join(BUILD, "demo/vmlinuz")
SCRATCH = os.path.abspath(os.path.join(BUILD, "test-qemu-state"))
MIB = 16
TICK = re.compile(r"tick (\d+) ([0-9a-f]{16})")


def machine(name, script, *args, programs=(), append="", **more):
    os.makedirs(SCRATCH, exist_ok=True)
    image = initrd.make(os.path.join(SCRATCH, name + ".img"), script, programs=programs)
    return Machine(USERKVM, "-M", "q35", "-kernel", KERNEL, "-initrd", image, "-append",
                   "console=ttyS0 quiet panic=-1 " + append, *args, memory="128", **more)


# --- a guest that writes memory and checks it; its sums are the same everywhere ---

def busy(name, *args, others=0, **more):
    """With `others`, so many more of them that say nothing, to keep more vCPUs at it."""
    script = f"dirty {MIB} 1000000 | grep LOST &\n" * others + f"dirty {MIB} 1000000\n"
    return machine(name, script, *args, programs=["dirty.c"], **more)


def true_sums(up_to):
    """{round: sum} as the same program computes them here, without any VM."""
    out = initrd.run_here("dirty.c", str(MIB), str(up_to))
    return {int(n): s for n, s in TICK.findall(out)}


def check_ticks(console, after):
    """All sums are right, and the guest went on past round `after`."""
    ticks = [(int(n), s) for n, s in TICK.findall(console)]
    assert ticks and ticks[-1][0] > after, (ticks[-1:], after)
    assert "LOST" not in console, console[-500:]
    right = true_sums(ticks[-1][0])
    for n, s in ticks:
        assert right[n] == s, f"round {n}: {s}, not {right[n]}"


def last_round(m):
    return int(TICK.findall(m.console)[-1][0])


def goes_on(m, rounds=48, start=0):
    """Wait until the guest has done so many more rounds than the console says since `start`."""
    m.wait_for(TICK.pattern + r"\s", start=start)
    first = int(TICK.findall(m.console[start:])[-1][0])
    m.wait_for(r"tick %d " % (first // 8 * 8 + rounds), start=start)


def live_migration_loses_no_page(*args):
    with busy("from", *args) as a:
        goes_on(a, 16)
        path = os.path.join(SCRATCH, "migration.socket")
        with busy("to", *args, "-incoming", "unix:" + path) as b:
            b.qmp("query-status")
            a.qmp("migrate-set-parameters", **{"max-bandwidth": 50 << 20, "downtime-limit": 500})
            info = a.migrate("unix:" + path)
            a.watch(0.2)
            before = last_round(a)
            goes_on(b)
            # dirty pages were sent again while the guest ran
            assert info["ram"]["dirty-sync-count"] >= 2, info
            assert a.qmp("query-status")["status"] == "postmigrate"
            check_ticks(a.console, 0)
            check_ticks(b.console, before)


def hyperv_guests_go_on_elsewhere():
    """Its ticks, clock and IPIs are Hyper-V's: SynIC, timers that run and the reference TSC page move with it."""
    live_migration_loses_no_page("-smp", "2", "-cpu", HYPERV)


def has_userfaultfd():
    """As QEMU asks for it: faults of the kernel's own accesses too, so this needs a right."""
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    fd = ctypes.CDLL(None).syscall(323, flags)  # __NR_userfaultfd
    if fd >= 0:
        os.close(fd)
    return fd >= 0


def postcopy_migration_loses_no_page():
    """Two vCPUs go on where most of their memory is not yet: each page is fetched when it is touched."""
    if not has_userfaultfd():
        raise tap.Skip("no userfaultfd here (root, CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1)")
    # only the host's model has kvm-asyncpf-int
    with busy("from", "-smp", "2", "-cpu", "host", others=1) as a:
        goes_on(a, 16)
        path = os.path.join(SCRATCH, "postcopy.socket")
        with busy("to", "-smp", "2", "-cpu", "host", "-incoming", "unix:" + path, others=1,
                  trace="kvm:kvm_async_pf_*") as b:
            for m in (a, b):
                m.qmp("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": True}])
            # all pages were sent and many written again; slow after: the guest waits for hundreds of them
            a.qmp("migrate-set-parameters", **{"max-bandwidth": 32 << 20, "max-postcopy-bandwidth": 8 << 20,
                                               "downtime-limit": 1})
            a.qmp("migrate", uri="unix:" + path)
            a.wait_migration(lambda info: info["status"] == "active" and info["ram"]["dirty-sync-count"] >= 2)
            a.qmp("migrate-start-postcopy")
            a.wait_migration(lambda info: info["status"] == "postcopy-active")
            b.wait_status("running")
            assert a.qmp("query-migrate")["status"] == "postcopy-active", "too fast: it ran with all its pages"
            info = a.wait_migration(lambda info: info["status"] == "completed")
            assert info["ram"]["postcopy-requests"] > 20, info
            a.watch(0.2)
            before = last_round(a)
            goes_on(b)
            check_ticks(a.console, 0)
            check_ticks(b.console, before)
            check_async_pf(b.traced())


def check_async_pf(events):
    """The guest was told of pages that were not there; each token came back when its page had come."""
    absent = re.findall(r"kvm_async_pf_not_present: +token (\S+)", events)
    ready = re.findall(r"kvm_async_pf_ready: +token (\S+)", events)
    assert absent and len(set(absent)) == len(absent), events[-2000:]
    assert set(absent) <= set(ready), set(absent) - set(ready)


def migration_to_a_file_and_back():
    image = os.path.join(SCRATCH, "saved")
    with busy("file") as a:
        goes_on(a, 16)
        a.qmp("stop")
        a.migrate("exec:cat > " + image)
        a.watch(0.2)
        before = last_round(a)
    with busy("file", "-incoming", "exec:cat " + image) as b:
        b.wait_status("paused")
        b.qmp("cont")
        goes_on(b)
        check_ticks(b.console, before)


def savevm_and_loadvm_go_back_in_time():
    if not shutil.which("qemu-img"):
        raise tap.Skip("qemu-img (package qemu-utils) is not installed")
    os.makedirs(SCRATCH, exist_ok=True)
    disk = os.path.join(SCRATCH, "snapshots.qcow2")
    # No client: a sanitizer's runtime, which userkvm needs under SANITIZE=1, has hung it at its exit.
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True, env=plain)
    with busy("snap", "-drive", f"file={disk},if=none,id=d,format=qcow2", "-device", "virtio-blk-pci,drive=d") as m:
        goes_on(m, 16)
        said = m.hmp("savevm one")
        assert not said.strip(), said
        m.watch(0.2)
        saved = last_round(m)
        goes_on(m)
        then = last_round(m)
        m.hmp("stop")
        m.watch(0.2)
        mark = len(m.console)
        said = m.hmp("loadvm one")
        assert not said.strip(), said
        m.hmp("cont")
        m.wait_for(TICK.pattern + r"\s", start=mark)
        again = int(TICK.findall(m.console[mark:])[0][0])
        assert again <= saved + 8, (again, saved, then)
        goes_on(m, start=mark)
        check_ticks(m.console[mark:], again + 24)


# --- looking in ---

def monitor_reads_memory_and_page_tables():
    with machine("monitor", "while :; do sleep 1; done\n", append="nokaslr") as m:
        m.wait_for("guest: init is running")
        m.qmp("stop")
        mem = m.hmp("info mem")
        # the kernel's text: mapped, user may not, nobody may write
        assert re.search(r"ffffffff81000000-[0-9a-f]+ [0-9a-f]+ -r-", mem), mem[:2000]
        banner = m.hmp("x/2i 0xffffffff81000000")
        assert "0xffffffff81000000" in banner and "Cannot" not in banner, banner
        virtual = m.hmp("x/8xw 0xffffffff81000000").split(":")[1].split()[:4]
        physical = m.hmp("xp/8xw 0x1000000").split(":")[1].split()[:4]
        assert virtual == physical, (virtual, physical)
        assert "CR0=8005003" in m.hmp("info registers")


def dump_guest_memory_is_an_elf_of_the_memory():
    path = os.path.join(SCRATCH, "core")
    with machine("dump", "while :; do sleep 1; done\n", append="nokaslr") as m:
        m.wait_for("guest: init is running")
        m.qmp("dump-guest-memory", paging=False, protocol="file:" + path)
        words = m.hmp("xp/4xw 0x1000000").split(":")[1].split()
    with open(path, "rb") as f:
        head = f.read(64)
        assert head[:5] == b"\x7fELF\x02"
        phoff, = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        loads = []
        for n in range(count):
            f.seek(phoff + n * size)
            kind, _, offset, _, paddr, filesz = struct.unpack("<IIQQQQ", f.read(40))
            if kind == 1:
                loads.append((paddr, filesz, offset))
        assert sum(n for _, n, _ in loads) >= 128 << 20, loads
        paddr, _, offset = next(x for x in loads if x[0] <= 0x1000000 < x[0] + x[1])
        f.seek(offset + 0x1000000 - paddr)
        assert [f"0x{w:08x}" for w in struct.unpack("<4I", f.read(16))] == words


# --- gdb ---

def debugged(name):
    path = os.path.join(SCRATCH, "gdb.socket")
    m = machine(name, "while :; do echo round; sleep 1; done\n", "-S", "-gdb", f"unix:{path},server=on,wait=off",
                append="nokaslr")
    m.qmp("query-status")
    return m, Gdb(path)


def gdb_steps_by_instruction():
    m, g = debugged("step")
    with m:
        g.ask("qSupported")
        assert g.rip() == 0xfff0
        at = []
        for _ in range(4):
            assert g.ask("s").startswith("T05")
            at.append(g.rip())
        # the reset vector's far jump, then forwards through SeaBIOS
        assert at[0] == 0xe05b, at
        assert all(0 < b - a < 16 for a, b in zip(at, at[1:])), at
        g.close()


class Debugged:
    """A running guest with gdb attached; do_nanosleep and jiffies are at .where."""

    SCRIPT = "grep -w -e do_nanosleep -e jiffies /proc/kallsyms\nwhile :; do echo round; sleep 0.2; done\n"

    def __init__(self, *args, connect=True):
        self.path = os.path.join(SCRATCH, "gdb.socket")
        self.machine = machine("break", self.SCRIPT, "-gdb", f"unix:{self.path},server=on,wait=off", *args,
                               append="nokaslr")
        self.gdb = None
        self.machine.wait_for("round")
        self.where = {n: int(a, 16) for a, n in
                      re.findall(r"([0-9a-f]{16}) \w (do_nanosleep|jiffies)\s", self.machine.console)}
        if not connect:
            return
        self.gdb = Gdb(self.path)
        self.gdb.ask("qSupported")
        self.gdb.ask("?")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.gdb:
            self.gdb.close()
        self.machine.__exit__(*exc)

    def breakpoint_stops(self, kind):
        at = self.where["do_nanosleep"]
        assert self.gdb.ask(f"Z{kind},{at:x},1") == "OK"
        for _ in range(3):
            self.gdb.send("c")
            stop = self.gdb.receive()
            assert stop.startswith("T05") and self.gdb.rip() == at, (stop, hex(self.gdb.rip()))
        assert self.gdb.ask(f"z{kind},{at:x},1") == "OK"

    def goes_on(self):
        mark = len(self.machine.console)
        self.gdb.send("c")
        self.machine.wait_for("round", start=mark)


def gdb_software_breakpoint_stops_each_time():
    with Debugged() as d:
        d.breakpoint_stops(0)
        d.goes_on()


def gdb_hardware_breakpoint_and_watchpoint_stop():
    with Debugged() as d:
        d.breakpoint_stops(1)
        at = d.where["jiffies"]
        assert d.gdb.ask(f"Z2,{at:x},8") == "OK"
        values = []
        for _ in range(3):
            d.gdb.send("c")
            stop = d.gdb.receive()
            assert f"watch:{at:x}" in stop, stop
            values.append(int.from_bytes(bytes.fromhex(d.gdb.ask(f"m{at:x},8")), "little"))
        assert values == sorted(set(values)), values
        assert d.gdb.ask(f"z2,{at:x},8") == "OK"
        d.goes_on()


def gdb_itself_breaks_steps_and_watches_two_vcpus():
    """Debian's gdb with a script, on a guest that runs; it goes on when gdb has left."""
    if not shutil.which("gdb"):
        raise tap.Skip("gdb is not installed")
    with Debugged("-smp", "2", connect=False) as d:
        at, jiffies = (d.where[n] for n in ("do_nanosleep", "jiffies"))
        old = "$old = *(long *)%#x" % jiffies
        script = ["set pagination off", "set architecture i386:x86-64", f"target remote {d.path}", "info threads",
                  f"hbreak *{at:#x}", "continue", 'printf "hbreak %#lx\\n", $rip', "delete",
                  'x/3i $rip', "stepi", "stepi", 'printf "stepped %ld\\n", $rip - ' + f"{at:#x}",
                  f"break *{at:#x}", "continue", 'printf "break %#lx\\n", $rip',
                  # on the breakpoint's own instruction again: gdb steps over it
                  "continue", 'printf "again %#lx\\n", $rip', "delete",
                  f"set {old}", f"watch *(long *){jiffies:#x}", "continue",
                  'printf "watch %ld\\n", *(long *)' + f"{jiffies:#x} - $old", "delete",
                  f"rwatch *(long *){jiffies:#x}", "continue", 'printf "rwatch\\n"', "delete", "detach"]
        out, status = tap.run("gdb", "-nx", "-batch", *(x for line in script for x in ("-ex", line)))
        assert status == 0, out
        for said in (f"hbreak {at:#x}", f"break {at:#x}", f"again {at:#x}", "Old value", "rwatch"):
            assert said in out, f"no {said!r}\n{out}"
        assert len(re.findall(r"Thread 1\.\d .*\[(?:running|halted)", out)) >= 2, out
        assert 2 <= int(re.search(r"^stepped (\d+)", out, re.M).group(1)) < 30, out
        assert int(re.search(r"^watch (\d+)", out, re.M).group(1)) >= 1, out
        mark = len(d.machine.console)
        d.machine.wait_for("round", start=mark)


CASES = (live_migration_loses_no_page, savevm_and_loadvm_go_back_in_time, monitor_reads_memory_and_page_tables,
         gdb_steps_by_instruction)
MORE = (hyperv_guests_go_on_elsewhere, postcopy_migration_loses_no_page, migration_to_a_file_and_back, dump_guest_memory_is_an_elf_of_the_memory, gdb_software_breakpoint_stops_each_time,
        gdb_hardware_breakpoint_and_watchpoint_stop, gdb_itself_breaks_steps_and_watches_two_vcpus)
tap.select(CASES, MORE, sys.argv[3:])
