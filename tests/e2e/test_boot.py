"""userkvm boot with guests of a few bytes: what becomes of one that hangs, faults or resets for ever.

usage: test_boot.py USERKVM BUILD
"""
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time

import tap

USERKVM = sys.argv[1]
tmp = tempfile.TemporaryDirectory()
AT = 0x100000  # where the code is loaded and entered, in 32-bit protected mode

PRINT = bytes.fromhex("66baf803") + b"".join(bytes([0xb0, c, 0xee]) for c in b"hello\nworld\n")  # mov dx, 3f8h; out of each
SPIN = bytes.fromhex("ebfe")
HALT = bytes.fromhex("faf4ebfc")  # cli; hlt, for ever
RESET = bytes.fromhex("66baf90c" "b006" "ee" "ebfe")  # out 0cf9h, 6
TRIPLE = bytes.fromhex("0f011d20001000" "0f0b").ljust(0x20, b"\x90") + bytes(6)  # lidt of an empty table; ud2


def kernel(name, code):
    """A 64-bit ELF with one segment at AT and a PVH note."""
    note = struct.pack("<III", 4, 4, 18) + b"Xen\0" + struct.pack("<I", AT)
    headers = 64 + 2 * 56
    load = struct.pack("<IIQQQQQQ", 1, 7, 0x1000, AT, AT, len(code), len(code), 0x1000)
    pt_note = struct.pack("<IIQQQQQQ", 4, 4, headers, 0, 0, len(note), len(note), 4)
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, AT, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    path = os.path.join(tmp.name, name)
    with open(path, "wb") as f:
        f.write((head + load + pt_note + note).ljust(0x1000, b"\0") + code)
    return path


def boot(code, *options):
    """Standard output, standard error, exit status and seconds."""
    started = time.time()
    r = subprocess.run([USERKVM, "boot", kernel("guest", code), "--mem", "16M", *options], stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60 * tap.PATIENCE, text=True)
    return r.stdout, r.stderr, r.returncode, time.time() - started


def a_guest_that_spins_is_ended_with_where_it_stands():
    out, err, status, seconds = boot(PRINT + SPIN, "--watchdog", "2")
    assert status == 1 and 2 <= seconds < 20, (status, seconds)
    assert "hello" in out, out
    assert "nothing on the guest's console for 2 s" in err, err
    assert "| hello" in err and "| world" in err, err
    rip = AT + len(PRINT)
    assert f"vCPU 0, running: rip 0x{rip:x}, " in err and "no exception" in err, err
    assert "12 exits, the last of reason 2" in err, err


def a_guest_that_has_halted_is_ended_too():
    _, err, status, _ = boot(HALT, "--watchdog", "1", "--smp", "2")
    assert status == 1 and "it has written nothing" in err, err
    assert "vCPU 0, halted: " in err and "vCPU 1, not started: " in err, err


def a_guest_that_writes_is_not_ended():
    # a byte and then a loop of less than the patience, for ever
    loop = bytes.fromhex("66baf803" "b061ee" "b900000001" "e2fe" "ebf4")  # mov dx; mov al, out; mov ecx, loop; jmp
    p = subprocess.Popen([USERKVM, "boot", kernel("writes", loop), "--mem", "16M", "--watchdog", "3"], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(7)
    assert p.poll() is None, p.stderr.read()
    p.kill()
    assert p.stdout.read().count(b"a") > 1
    p.wait()


def at_terminal(code, seconds, keys=b""):
    """A guest with a pseudo-terminal: its exit status within so many seconds, or None when it still runs."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(USERKVM, [USERKVM, "boot", kernel("terminal", code), "--mem", "16M", "--watchdog", "2"])
    os.write(fd, keys)
    deadline, status = time.time() + seconds * tap.PATIENCE, None
    while time.time() < deadline and status is None:
        while select.select([fd], [], [], 0.1)[0]:
            try:
                os.read(fd, 4096)
            except OSError:  # it has ended
                break
        done, s = os.waitpid(pid, os.WNOHANG)
        status = os.waitstatus_to_exitcode(s) if done else None
    if status is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os.close(fd)
    return status


def at_a_terminal_what_idles_or_has_been_typed_to_goes_on():
    assert at_terminal(PRINT + HALT, 5) is None
    assert at_terminal(PRINT + SPIN, 5, b"x") is None
    assert at_terminal(PRINT + SPIN, 20) == 1


def a_triple_fault_is_told():
    _, err, status, _ = boot(TRIPLE)
    assert status == 1 and "vCPU 0: triple fault" in err and f"rip 0x{AT + 7:x}" in err, err


def resets_without_end_end():
    _, err, status, _ = boot(RESET)
    assert status == 1 and "not started again" in err and err.count("starting it again") == 2, err
    _, err, status, _ = boot(RESET, "--no-reboot")
    assert status == 0 and not err, err


def a_watchdog_of_no_seconds_is_refused():
    for value in ("0", "-1", "x", "1m", "1000000"):
        out, status = tap.run(USERKVM, "boot", "kernel", "--watchdog", value)
        assert status == 2 and "not a number of seconds" in out, (value, out)


tap.main(a_guest_that_spins_is_ended_with_where_it_stands, a_guest_that_has_halted_is_ended_too,
         a_guest_that_writes_is_not_ended, at_a_terminal_what_idles_or_has_been_typed_to_goes_on, a_triple_fault_is_told, resets_without_end_end, a_watchdog_of_no_seconds_is_refused)
