"""userkvm gdb: guests under gdb, and under a small client of its protocol.

usage: test_gdb.py USERKVM BUILD [CASE...]
"""
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import initramfs
import tap

USERKVM, BUILD = (os.path.abspath(p) for p in sys.argv[1:3])
HERE = os.path.dirname(os.path.abspath(__file__))
KERNEL = os.path.join(BUILD, "demo/vmlinuz")
CLIENT = (sys.executable, os.path.join(HERE, "gdb_client.py"))
CODE = "48ffc04889042500600000ffc34889c631c989f00fa24889f0ebe5"
tmp = tempfile.TemporaryDirectory()


class Client(tap.Client):
    """gdb_client.py, by itself or (argv) by whatever starts it."""
    argv = (USERKVM, "run", "--", *CLIENT)

    def counts(self):
        return [int(w) for w in self.tell("count").split()]

    def moves(self):
        """Which vCPUs run."""
        before = self.counts()
        time.sleep(0.1 * tap.PATIENCE)
        return [a != b for a, b in zip(before, self.counts())]

    def all_run_on(self):
        deadline = time.time() + 10 * tap.PATIENCE
        while not all(self.moves()):
            assert time.time() < deadline, "the guest does not run on"
        assert self.tell("bytes") == CODE, "something is left in the guest's code"
        exits = self.tell("exits")  # no KVM_EXIT_DEBUG (4), no KVM_EXIT_SHUTDOWN (8)
        assert not re.search(r"'\d", exits), exits


def gdb(pid, *commands, status=0):
    if not shutil.which("gdb"):
        raise tap.Skip("no gdb")
    argv = [USERKVM, "gdb", pid, "-batch", "-nx"]
    for c in commands:
        argv += ["-ex", c]
    out, got = tap.run(*argv)
    assert got == status, (got, out)
    return out


class Stub:
    """userkvm gdb --stdio, spoken to by packets."""

    def __init__(self, pid, *argv):
        self.p = subprocess.Popen([USERKVM, "gdb", "--stdio", *argv, pid], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.buf = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.p.kill()
        self.p.wait()

    def send(self, data):
        data = data.encode()
        self.p.stdin.write(b"$" + data + b"#%02x" % (sum(data) % 256))

    def receive(self, timeout=10):
        deadline = time.time() + timeout * tap.PATIENCE
        while not re.search(rb"\$[^#]*#..", self.buf):
            if not select.select([self.p.stdout], [], [], max(0, deadline - time.time()))[0]:
                return None
            more = os.read(self.p.stdout.fileno(), 65536)
            if not more:
                return None
            self.buf += more
        m = re.search(rb"\$([^#]*)#..", self.buf)
        self.buf = self.buf[m.end():]
        try:
            self.p.stdin.write(b"+")
        except BrokenPipeError:  # it was its last word
            pass
        return m[1].decode()

    def ask(self, data):
        self.send(data)
        return self.receive()


# --- with gdb ---

def check_breaks_steps_and_watches(**env):
    with Client(**env) as c:
        out = gdb(c.pid, "info threads", "break *0x700b", "continue", "x/7i $pc", "stepi", "printf \"pc %#x\\n\", $pc", "stepi",
                  "printf \"pc %#x\\n\", $pc", "x/1xb 0x700b", "stepi", "stepi", "stepi", "printf \"pc %#x\\n\", $pc", "delete",
                  "watch *(long *)0x6008", "continue", "continue", "info registers rip cr3 efer fs_base", "thread", "detach")
        assert re.search(r"Thread 1 \(vCPU 0\).*\n.*Thread 2 \(vCPU 1\)", out), out
        assert "Thread 1 hit Breakpoint 1, 0x000000000000700b" in out, out
        assert re.search(r"=> 0x700b:\tinc +%ebx\n.*0x700d:\tmov +%rax,%rsi\n(.*\n){3}.*0x7016:\tmov +%rsi,%rax\n", out), out
        # CPUID is emulated, and ends its step like others
        assert re.findall(r"^pc (\w+)$", out, re.M) == ["0x700d", "0x7010", "0x7016"], out
        assert re.search(r"^0x700b:\t0xff$", out, re.M), "gdb sees its breakpoint in memory\n" + out
        values = [(int(a), int(b)) for a, b in re.findall(r"Old value = (\d+)\nNew value = (\d+)", out)]
        assert len(values) == 2 and all(b == a + 1 for a, b in values), out
        assert re.search(r"rip +0x710b", out) and re.search(r"cr3 +0x8000 ", out) and re.search(r"efer +0x500 ", out), out
        assert "[Current thread is 2 (Thread 2)]" in out, out
        c.all_run_on()


def gdb_breaks_steps_and_watches():
    check_breaks_steps_and_watches()


def gdb_breaks_steps_and_watches_interpreted():
    check_breaks_steps_and_watches(USERKVM_ENGINE="interp")


def gdb_breaks_steps_and_watches_on_shadow_page_tables():
    check_breaks_steps_and_watches(USERKVM_PARAMS="ept=0")


def gdb_changes_registers_and_memory():
    with Client() as c:
        out = gdb(c.pid, "thread 2", "set $rax = 0x1000000000", "set $xmm3.v2_int64[1] = 0x55", "set *(long *)0x6100 = 0x1234",
                  "set $rip = 0x7100", "set $cr4 = $cr4 | 0x200", "print/x *(long *)0x6100", "print/x $xmm3.v2_int64[1]", "print/x $cr4",
                  "print *(int *)0xffffffffff600000", "hbreak *0x710b", "continue", "info registers rip", "detach", status=0)
        assert "0x1234" in out and "0x55" in out and "= 0x220" in out, out
        assert "Cannot access memory at address 0xffffffffff600000" in out, out
        assert "Thread 2 hit Breakpoint 1, 0x000000000000710b" in out, out
        c.all_run_on()
        assert c.counts()[1] > 0x1000000000, c.counts()


# xsetbv; vmovups [0x6100], ymm3; vorps ymm4, ymm3, ymm3; nop
AVX_CODE = "31c9b80700000031d20f01d1c5fc111c2500610000c5e456e390"
# xsetbv; vmovups [0x6140], zmm17; kmovw eax, k3; kmovw k4, eax; vmovups zmm20, [0x6140]; nop
AVX512_CODE = "31c9b8e700000031d20f01d162e17c48110c2540610000c5f893c3c5f892e062e17c481024254061000090"


def run_at_0x7200(pid, code, *commands):
    """gdb's commands, the code to its NOP, and what is said of ymm4, k4 and zmm20 then."""
    code = bytes.fromhex(code)
    return gdb(pid, "thread 1", *(f"set *(unsigned char *){0x7200 + i} = {b}" for i, b in enumerate(code)), "set $cr4 = $cr4 | 0x40200",
               "set $rip = 0x7200", *commands[:-1], f"hbreak *{0x7200 + len(code) - 1}", "continue", "print/x $pc", commands[-1],
               "set $rip = 0x7000", "detach")


def check_vector_registers(**env):
    info, status = tap.run(USERKVM, "doctor", "--json")
    flags = json.loads(info)["cpuid_offers"]
    with Client(**env) as c:
        if "avx" not in flags:
            assert "ymm" not in gdb(c.pid, "info registers vector")
            raise tap.Skip("no AVX")
        out = run_at_0x7200(c.pid, AVX_CODE, "set $ymm3.v4_int64[3] = 0x1122334455667788", "set $ymm3.v4_int64[0] = 7",
                            "x/4gx 0x6100", "print/x $ymm4.v4_int64")
        assert "= 0x7219" in out and "{0x7, 0x0, 0x0, 0x1122334455667788}" in out, out
        if "avx512f" not in flags:
            assert "zmm" not in gdb(c.pid, "info registers vector")
            raise tap.Skip("no AVX-512")
        out = run_at_0x7200(c.pid, AVX512_CODE, "set $zmm17.v8_int64[7] = 0x99", "set $zmm17.v8_int64[0] = 5", "set $zmm17.v8_int64[3] = 6",
                            "set $k3 = 0x1234", "printf \"%#lx %#lx %#lx %#lx\\n\", $k4, $zmm20.v8_int64[0], $zmm20.v8_int64[3], $zmm20.v8_int64[7]")
        assert "0x1234 0x5 0x6 0x99" in out, out
        c.all_run_on()


def gdb_has_the_vector_registers():
    check_vector_registers()


def gdb_has_the_vector_registers_interpreted():
    check_vector_registers(USERKVM_ENGINE="interp")


def gdb_starts_a_client_before_its_first_instruction():
    if not shutil.which("gdb"):
        raise tap.Skip("no gdb")
    path = os.path.join(tmp.name, "socket")
    p = subprocess.Popen([USERKVM, "gdb", "--listen", path, "--", *CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    try:
        assert p.stdout.readline() == "ready\n"
        assert p.stderr.readline() == f"userkvm gdb: gdb -ex 'target remote {path}'\n"
        out, status = tap.run("gdb", "-batch", "-nx", "-ex", f"target remote {path}", "-ex", "info registers rip rax", "-ex", "x/2gd 0x6000",
                              "-ex", "info threads", "-ex", "stepi", "-ex", "stepi", "-ex", "info registers rip rax", "-ex", "detach")
        assert status == 0 and re.search(r"rip +0x7000 .*\nrax +0x0 +0\n0x6000:\t0\t0\n", out), out
        assert re.search(r"rip +0x700b .*\nrax +0x1 ", out), out
        p.stdin.write("count\n")
        p.stdin.flush()
        assert all(int(n) for n in p.stdout.readline().split())
        p.stdin.close()
        assert p.wait(20) == 0 and not os.path.exists(path), p.returncode
    finally:
        p.kill()
        p.wait()


SCRIPT = ("#!/bin/sh\nexport PATH=/bin\nmount -t proc proc /proc\nmount -t devtmpfs dev /dev\ngrep -w __x64_sys_newuname /proc/kallsyms\n"
          "(while :; do uname > /dev/null; done) &\n(while :; do uname > /dev/null; done) &\n"
          "echo guest: ready\nread line\necho guest: done\npoweroff -f\n")


def gdb_breaks_in_debians_kernel_on_two_processors():
    if not shutil.which("gdb"):
        raise tap.Skip("no gdb")
    img = os.path.join(tmp.name, "img")
    initramfs.write(img, SCRIPT, {})
    p = subprocess.Popen([USERKVM, "boot", KERNEL, "--initrd", img, "--append", "quiet panic=-1 nokaslr", "--no-reboot", "--smp", "2",
                          "--watchdog", "120"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        text = b""
        while b"guest: ready" not in text:
            more = os.read(p.stdout.fileno(), 4096)
            assert more, text
            text += more
        at = re.search(rb"(ffffffff[0-9a-f]{8}) T __x64_sys_newuname", text)[1].decode()
        out = gdb(str(p.pid), f"break *0x{at}", "continue", "info registers rip cs", "x/8i $pc", "stepi", "stepi", "continue", "delete",
                  f"hbreak *0x{at}", "continue", "info threads", "detach")
        assert len(re.findall(rf"Thread \d hit Breakpoint \d, 0x{at}", out)) >= 3, out
        assert re.search(rf"rip +0x{at} .*\ncs +0x10 ", out) and len(re.findall(r"^(?:=>|  ) 0xffffffff\w+:\t", out, re.M)) == 8, out
        p.stdin.write(b"\n")
        p.stdin.close()
        text = p.stdout.read()
        assert p.wait() == 0 and b"guest: done" in text, text[-3000:]
        assert b"BUG" not in text and b"int3" not in text, text[-3000:]
    finally:
        p.kill()
        p.wait()


def a_guests_own_breakpoints_are_its_own():
    """Linux tests INT3 on itself when it starts, and patches code with it; gdb is there from the first instruction on."""
    img = os.path.join(tmp.name, "img2")
    initramfs.write(img, "#!/bin/sh\nexport PATH=/bin\necho guest: done\npoweroff -f\n", {})
    p = subprocess.Popen([USERKVM, "gdb", "--listen", ":0", "boot", KERNEL, "--initrd", img, "--append", "panic=-1", "--no-reboot",
                          "--watchdog", "120"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        port = int(re.search(rb"127\.0\.0\.1:(\d+)", p.stderr.readline())[1])
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.sendall(b"$?#3f")
            got = b""
            while b"#" not in got:
                got += s.recv(4096)
            assert b"$T05thread:1;" in got, got
            s.sendall(b"$vCont;c#a8")
            s.settimeout(120 * tap.PATIENCE)
            got = b""
            while b"W00" not in got:
                more = s.recv(4096)
                assert more, got
                got += more
        text = p.stdout.read()
        assert p.wait() == 0 and b"guest: done" in text and b"BUG" not in text, text[-3000:]
    finally:
        p.kill()
        p.wait()


# --- with packets ---

def an_interrupt_stops_all_and_continue_runs_all():
    with Client() as c, Stub(c.pid) as s:
        assert re.fullmatch(r"T05thread:[12];", s.ask("?"))
        assert c.moves() == [False, False]
        s.send("vCont;c")
        c.all_run_on()
        s.p.stdin.write(b"\x03")
        assert re.fullmatch(r"T02thread:[12];", s.receive()) and c.moves() == [False, False]
        s.send("vCont;c:2")  # one of them
        deadline = time.time() + 10
        while c.moves() != [False, True]:
            assert time.time() < deadline
        s.p.stdin.write(b"\x03")
        assert re.fullmatch(r"T02thread:[12];", s.receive())
        assert s.ask("Hg1") == "OK" and re.fullmatch(r"[0-9a-f]{16}", s.ask("p10"))
        assert s.ask("D") == "OK" and s.p.wait(10) == 0
        c.all_run_on()


def death_of_the_stub_leaves_the_guest_running():
    for stopped in (True, False):
        with Client() as c, Stub(c.pid) as s:
            assert s.ask("?") and s.ask("Z0,7003,1") == "OK" and s.ask("Z2,6000,8") == "OK"
            assert c.tell("bytes") != CODE, "no breakpoint in memory"
            if not stopped:
                s.send("vCont;c")
                assert re.match(r"T05thread:1;", s.receive())
                assert s.ask("z2,6000,8") == "OK" and s.ask("z0,7003,1") == "OK" and s.ask("Z0,7f00,1") == "OK"
                s.send("vCont;c")
            s.p.kill()
            c.all_run_on()
            with Stub(c.pid) as again:
                assert again.ask("?")


def a_breakpoint_that_both_have_reached_is_none_of_the_guests():
    """CPUID exits, so that both are stopped there at once; then only one of them steps, with the breakpoints out."""
    with Client() as c, Stub(c.pid) as s:
        assert s.ask("?")
        for _ in range(30):
            for at in ("7003", "7103", "7014", "7114", "700b", "710b"):
                assert s.ask(f"Z0,{at},1") == "OK", at
            s.send("vCont;c")
            thread = int(re.match(r"T05thread:(\d);", s.receive())[1])
            for at in ("7003", "7103", "7014", "7114", "700b", "710b"):
                assert s.ask(f"z0,{at},1") == "OK", at
            s.send(f"vCont;s:{thread}")
            assert re.match(rf"T05thread:{thread};", s.receive())
            s.send("vCont;c")
            time.sleep(0.01)
            s.p.stdin.write(b"\x03")
            assert re.match(r"T02thread", s.receive())
        assert s.ask("D") == "OK"
        c.all_run_on()


def the_vmcs_of_a_stopped_guest_is_what_the_debugger_has_made():
    """userkvm vmcs beside gdb: where the guest stopped, after a step, with registers that gdb has written; and it stays stopped."""
    def rip(vcpu):
        out, status = tap.run(USERKVM, "vmcs", "--json", "--vcpu", str(vcpu), c.pid)
        assert status == 0, out
        v = {f["name"]: f["value"] for f in json.loads(out)["fields"]}
        return v["GUEST_RIP"], v["GUEST_CR3"], v["GUEST_FS_BASE"]

    with Client() as c, Stub(c.pid) as s:
        assert s.ask("?") and s.ask("Z0,700b,1") == "OK"
        s.send("vCont;c")
        assert re.match(r"T05thread:1;", s.receive())
        counts = c.counts()
        assert rip(0) == (0x700B, 0x8000, 0), rip(0)
        assert 0x7100 <= rip(1)[0] < 0x711B, rip(1)
        assert s.ask("z0,700b,1") == "OK"
        s.send("vCont;s:1")
        assert re.match(r"T05thread:1;", s.receive())
        assert rip(0)[0] == 0x700D
        assert s.ask("Hg1") == "OK"
        xml = s.ask("qXfer:features:read:target.xml:0,3f00")
        number = re.findall(r'<reg name="(\w+)"', xml).index("fs_base")
        assert s.ask(f"P{number:x}=" + (0x1234).to_bytes(8, "little").hex()) == "OK"
        assert s.ask("P10=" + (0x7003).to_bytes(8, "little").hex()) == "OK"
        assert rip(0) == (0x7003, 0x8000, 0x1234), rip(0)
        assert tap.run(USERKVM, "vmcs", "check", "--01", c.pid)[0].endswith("every check of VM entry passes\n")
        assert c.counts() == counts, "a look has let the guest run"
        assert s.ask("D") == "OK"
        c.all_run_on()


def signals_of_the_clients_end_kvm_run_while_it_is_stopped():
    with Client() as c, Stub(c.pid) as s:
        assert s.ask("?")
        before = c.counts()
        for _ in range(20):
            assert c.tell("kick") == "kicked"
            time.sleep(0.01)
        assert c.counts() == before, "the guest has run"
        deadline = time.time() + 10
        while "EINTR" not in c.tell("exits"):
            assert time.time() < deadline, c.tell("exits")
        assert re.fullmatch(r"[0-9a-f]+", s.ask("g"))
        s.send("vCont;c")
        c.all_run_on()


def client_and_debugger_are_not_both():
    with Client() as c, Stub(c.pid) as s:
        assert s.ask("?")
        assert c.tell("debug 1") == "EBUSY" and c.tell("debug 0") == "done"
        out, status = tap.run(USERKVM, "gdb", "--stdio", c.pid)
        assert status == 1 and out == f"userkvm gdb: process {c.pid}: the VM has a debugger, or its client is one (KVM_SET_GUEST_DEBUG)\n", out
        assert s.ask("D") == "OK"
        s.p.wait()
        c.all_run_on()
    with Client() as c:
        assert c.tell("debug 1") == "done"
        out, status = tap.run(USERKVM, "gdb", "--stdio", c.pid)
        assert status == 1 and "KVM_SET_GUEST_DEBUG" in out, out
        assert c.tell("debug 0") == "done" and all(c.moves())
        gdb(c.pid, "detach")
        c.all_run_on()


def packets_that_make_no_sense_are_answered():
    with Client() as c, Stub(c.pid) as s:
        for packet, answer in (("m", "E16"), ("mzz,1", "E16"), ("m7000,", "E16"), ("m7fff0000000000,4", "E0e"), ("M7000,2:0", "E16"),
                               ("X7000,4:a", "E16"), ("p999", "E16"), ("P10=00", "E16"), ("G00", "E16"), ("Z0,", "E16"), ("Z9,7000,1", ""),
                               ("Z2,6001,8", "E16"), ("Z1,7fff0000000000,1", "OK"), ("Z0,7fff0000000000,1", "E0e"), ("z0,7100,1", "E02"),
                               ("Hg7", "E02"), ("T7", "E02"), ("vCont;x", "E16"), ("vMustReplyEmpty", ""), ("qRcmd,00", ""), ("!", ""),
                               ("qXfer:features:read:none.xml:0,10", "E00"), ("qXfer:features:read:target.xml:0,x", "E16"),
                               ("m7000,ffffffffffff", None), ("qAttached", "1"), ("", "")):
            got = s.ask(packet)
            assert got == answer or answer is None and got and not got.startswith("E"), (packet, got)
        s.p.stdin.write(b"$m7000,4#00")  # a wrong checksum: it is asked for again
        time.sleep(0.2)
        s.p.stdin.write(b"+++$m7000,4#" + b"%02x" % (sum(b"m7000,4") % 256))
        assert s.receive() == CODE[:8]
        s.p.stdin.write(b"$" + b"x" * 70000)  # longer than we said
        assert s.p.wait(10) == 0
        c.all_run_on()


def the_end_of_the_client_is_told():
    with Client() as c, Stub(c.pid) as s:
        assert s.ask("?")
        s.send("vCont;c")
        c.p.kill()
        assert s.receive() == "W00"
        assert s.p.wait(10) == 0, s.p.returncode
    with Client() as c, Stub(c.pid) as s:
        assert s.ask("?")
        s.send("k")
        assert c.p.wait(10) == -signal.SIGKILL


def a_signal_leaves_no_client_behind():
    for signo in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL):
        p = subprocess.Popen([USERKVM, "gdb", "--listen", ":0", "--", *CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
        assert p.stdout.readline() == "ready\n" and "target remote" in p.stderr.readline()
        p.send_signal(signo)
        assert p.wait(10) == -signo
        assert select.select([p.stdout], [], [], 10 * tap.PATIENCE)[0] and not p.stdout.read(), "the client runs on"
        for f in (p.stdin, p.stdout, p.stderr):
            f.close()


def wrong_use_is_one_line():
    with Client() as c:
        for argv, status in ((("gdb",), 2), (("gdb", "--stdio"), 2), (("gdb", "--listen", "1.2.3.4:5", c.pid), 2),
                             (("gdb", "--listen", ":99999", c.pid), 2), (("gdb", "--listen", ":0", "--stdio", c.pid), 2),
                             (("gdb", "--arch", "arm", c.pid), 2), (("gdb", "--vm", "x", c.pid), 2), (("gdb", "--vm", "7", c.pid), 1),
                             (("gdb", "--stdio", "1"), 1), (("gdb", "--stdio", c.pid, "more"), 2), (("gdb", "--stdio", "sh"), 2),
                             (("gdb", "--listen", "/none/such", c.pid), 1), (("gdb", "--listen", "/" + "x" * 200, c.pid), 1),
                             (("gdb", "--listen", ":0", "no-such-client"), 127)):
            out, got = tap.run(USERKVM, *argv)
            lines = [line for line in out.splitlines() if "target remote" not in line]
            assert got == status and 1 <= len(lines) <= 2, (argv, got, out)
        assert all(c.moves())


CASES = (gdb_breaks_steps_and_watches, gdb_breaks_steps_and_watches_interpreted, gdb_breaks_steps_and_watches_on_shadow_page_tables,
         gdb_changes_registers_and_memory, gdb_has_the_vector_registers, gdb_has_the_vector_registers_interpreted, gdb_starts_a_client_before_its_first_instruction,
         gdb_breaks_in_debians_kernel_on_two_processors, a_guests_own_breakpoints_are_its_own,
         an_interrupt_stops_all_and_continue_runs_all, death_of_the_stub_leaves_the_guest_running, a_breakpoint_that_both_have_reached_is_none_of_the_guests,
         the_vmcs_of_a_stopped_guest_is_what_the_debugger_has_made,
         signals_of_the_clients_end_kvm_run_while_it_is_stopped, client_and_debugger_are_not_both, packets_that_make_no_sense_are_answered,
         the_end_of_the_client_is_told, a_signal_leaves_no_client_behind, wrong_use_is_one_line)
tap.select(CASES, (), sys.argv[3:])
