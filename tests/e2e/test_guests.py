"""Guests that are no Linux for the cloud, in Debian's QEMU -accel kvm: firmware, a memory tester, a hypervisor with
a paravirtual Linux on it, kernels of 32 bits and a real-time one; with EPT and with shadow paging.

usage: test_guests.py USERKVM BUILD [all | CASE...]
"""
import contextlib
import os
import re
import sys
import time
import zlib

import initrd
import tap
from qemu import Machine

USERKVM, BUILD = (os.path.abspath(x) for x in sys.argv[1:3])
GUESTS = os.path.join(BUILD, "guests")
SCRATCH = os.path.join(BUILD, "test-guests")
BAD = ("Kernel panic", "BUG:", "Oops", "Call Trace", "unchecked MSR")


def guest(name):
    path = os.path.join(GUESTS, name)
    if not os.path.exists(path):
        raise tap.Skip(f"no {name}: scripts/guest-files fetches it")
    return path


@contextlib.contextmanager
def parameters(params):
    os.environ["USERKVM_PARAMS"] = params
    try:
        yield
    finally:
        del os.environ["USERKVM_PARAMS"]


def both_ways(case):
    """The case with EPT, and without."""
    def shadow():
        with parameters("ept=0"):
            case()
    shadow.__name__ = case.__name__ + "_without_ept"
    return case, shadow


# --- U-Boot: its GDT is in ROM ---

def u_boot(bits):
    def case():
        with Machine(USERKVM, "-bios", guest(f"u-boot{bits}.rom")) as m:
            m.wait_for("=> ", 60)
            for line, answer in (("version", "U-Boot 20"), ("mw.l 1000000 deadbeef 1000", "=> "),
                                 ("crc32 1000000 4000", f"{zlib.crc32(bytes.fromhex('efbeadde') * 4096):08x}")):
                start = len(m.console)
                m.process.stdin.write((line + "\n").encode())
                m.process.stdin.flush()
                m.wait_for(answer, 30, start)
    case.__name__ = f"u_boot_of_{bits}_bits"
    return case


# --- xv6, 32 bits with paging of two levels ---

def xv6_passes_its_user_tests():
    """On two processors at once."""
    if not os.path.exists(os.path.join(GUESTS, "xv6-fs.img")):
        raise tap.Skip("no xv6: XV6=TREE scripts/guest-files builds it from its source tree")
    drives = [f"file={guest(name)},index={n},media=disk,format=raw,snapshot=on"
              for n, name in enumerate(("xv6.img", "xv6-fs.img"))]
    # it writes to a VGA's screen too, and panics without one
    with Machine(USERKVM, "-vga", "std", "-smp", "2", "-drive", drives[0], "-drive", drives[1]) as m:
        m.wait_for(r"\$ ", 60)
        m.process.stdin.write(b"usertests\n")
        m.process.stdin.flush()
        m.wait_for("ALL TESTS PASSED", 200)


# --- Memtest86+ ---

def screen(console):
    """What a terminal shows, as lines."""
    rows, row, column = {}, 1, 1
    for m in re.finditer(r"\x1b\[(\d+);(\d+)H|\x1b\[[0-9;?]*[A-Za-z]|([^\x1b\r\n])", console):
        if m[1]:
            row, column = int(m[1]), int(m[2])
        elif m[3]:
            rows.setdefault(row, {})[column] = m[3]
            column += 1
    return ["".join(cells.get(x, " ") for x in range(1, 81)) for _, cells in sorted(rows.items())]


def memtest_finds_no_error():
    """To the fifth of its tests, on two processors at once."""
    end = time.time() + 200 * tap.PATIENCE
    with Machine(USERKVM, "-cpu", "host", "-smp", "2", "-kernel", guest("memtest"), "-append", "console=ttyS0,115200",
                 memory="64") as m:
        while not re.search(r"Test #[5-9]", text := "\n".join(screen(m.console))):
            assert time.time() < end and m.process.poll() is None, text + m.errors()
            m.watch(1)
    assert "2T" in text and re.search(r"Errors: 0 ", text), text


# --- Linux ---

SCRIPT = """uname -rm
i=0; while [ $i -lt 100 ]; do true | cat; i=$((i+1)); done
dd if=/dev/zero bs=1M count=8 2>/dev/null | md5sum
grep -c processor /proc/cpuinfo | sed 's/^/processors: /'
"""
ZEROES = "96995b58d4cbf6aaa9041b4f00c7f6ae" # md5sum of 8 MiB of them


def image(name, before="", **more):
    os.makedirs(SCRATCH, exist_ok=True)
    return initrd.make(os.path.join(SCRATCH, name + ".img"), before + SCRIPT, **more)


def assert_script_done(console):
    for wanted in ("guest: script done", ZEROES, "processors: 2"):
        assert wanted in console, console[-3000:]
    for bad in BAD:
        assert bad not in console, f"{bad}\n" + console[-4000:]


def linux(name, **more):
    def case():
        kernel, disk = guest("linux-" + name), image(name, **{k: guest(v) for k, v in more.items()})
        with Machine(USERKVM, "-cpu", "host", "-smp", "2", "-kernel", kernel, "-initrd", disk, "-append",
                     "console=ttyS0 quiet panic=-1") as m:
            assert m.wait_end(240) == 0, m.errors()
            assert_script_done(m.console)
    case.__name__ = "linux_" + name.replace("-", "_")
    return case


def xen_runs_a_paravirtual_linux():
    # the cloud kernel has no driver of Xen's console: by the kernel's log
    kernel, disk = os.path.join(BUILD, "demo/vmlinuz"), image("dom0", "exec >/dev/kmsg 2>&1\n")
    with Machine(USERKVM, "-smp", "2", "-kernel", guest("xen"), "-append",
                 "console=com1 com1=115200,8n1 noreboot dom0_mem=500M", "-initrd",
                 f"{kernel} earlyprintk=xen keep_bootcon,{disk}", memory="1024") as m:
        m.wait_for("Hardware Dom0 halted", 240)
        assert_script_done(m.console)


CASES = (u_boot(64),)
MORE = (u_boot(32), xv6_passes_its_user_tests, memtest_finds_no_error, *both_ways(linux("686", busybox="busybox-i386")),
        *both_ways(linux("686-pae", busybox="busybox-i386")), *both_ways(linux("rt")),
        *both_ways(xen_runs_a_paravirtual_linux))
tap.select(CASES, MORE, sys.argv[3:])
