"""Debian's QEMU under `userkvm run`, driven by QMP, its console and its gdb stub."""
import json
import os
import re
import select
import shutil
import socket
import subprocess
import tempfile
import time

import tap


# -cpu: everything of Hyper-V's interface that one would give a Windows guest
HYPERV = ("host,-kvm,hv-relaxed,hv-vapic,hv-spinlocks=0x1fff,hv-vpindex,hv-runtime,hv-synic,hv-stimer,hv-stimer-direct,"
          "hv-time,hv-frequencies,hv-tlbflush,hv-ipi,hv-reset,hv-crash,hv-xmm-input")


class Machine:
    """One QEMU. Console output gathers in .console; `with` ends it whatever happened. Events that `trace` names
    are in traced(), which ends it as well."""

    def __init__(self, userkvm, *args, accel="kvm", memory="256", trace=None, env=None):
        if not shutil.which("qemu-system-x86_64"):
            raise tap.Skip("qemu-system-x86_64 is not installed")
        self.folder = tempfile.mkdtemp(prefix="userkvm-qemu-")
        self.console = ""
        self.socket = None
        argv = [] if accel == "tcg" else [userkvm, "run", "--"]
        if trace:
            argv = [userkvm, "trace", "-e", trace, "-o", self.folder + "/trace.txt", "--"]
        argv += ["qemu-system-x86_64", "-accel", accel, "-m", memory, "-nographic", "-nodefaults", "-no-reboot",
                 "-serial", "stdio", "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off", *args]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=open(self.folder + "/stderr", "wb"), cwd=self.folder,
                                        env={**os.environ, **(env or {})}, preexec_fn=tap.die_with_parent)
        os.set_blocking(self.process.stdout.fileno(), False)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.socket:
            self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def errors(self):
        """What QEMU said."""
        return open(self.folder + "/stderr", errors="replace").read()

    def traced(self):
        self.qmp("quit")
        self.process.wait(60)
        return open(self.folder + "/trace.txt", errors="replace").read()

    def _read(self, seconds):
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return True
        data = self.process.stdout.read()
        self.console += (data or b"").decode(errors="replace")
        return bool(data)

    def wait_for(self, pattern, timeout=60, start=0):
        """The match of a pattern on the console; fails when QEMU ends or time is over without it."""
        end = time.time() + timeout * tap.PATIENCE
        alive = True
        while True:
            m = re.compile(pattern).search(self.console, start)
            if m:
                return m
            left = end - time.time()
            if left <= 0 or not alive:
                raise AssertionError(f"no {pattern!r} on the console ({'time is over' if alive else 'QEMU ended'})\n"
                                     + self.errors() + "\n" + self.console[-3000:])
            alive = self._read(min(left, 1))

    def wait_end(self, timeout=60):
        """QEMU's exit status; the console is complete afterwards."""
        end = time.time() + timeout * tap.PATIENCE
        while self._read(1):
            if time.time() > end:
                raise AssertionError("QEMU does not end\n" + self.errors() + "\n" + self.console[-3000:])
        return self.process.wait(max(1, end - time.time()))

    def watch(self, seconds):
        end = time.time() + seconds
        while time.time() < end and self._read(max(0, end - time.time())):
            pass

    # --- QMP ---

    def _connect(self):
        end = time.time() + 30 * tap.PATIENCE
        while not self.socket:
            try:
                s = socket.socket(socket.AF_UNIX)
                s.settimeout(60 * tap.PATIENCE)
                s.connect(self.folder + "/qmp")
                self.socket = s
            except OSError:
                s.close()
                if time.time() > end or self.process.poll() is not None:
                    raise AssertionError("no QMP\n" + self.errors())
                time.sleep(0.05)
        self.lines = self.socket.makefile("rb")
        self.lines.readline()
        self.qmp("qmp_capabilities")

    def qmp(self, command, **arguments):
        if not self.socket:
            self._connect()
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            line = self.lines.readline()
            if not line:
                raise AssertionError(f"QMP ended at {command}\n" + self.errors())
            answer = json.loads(line)
            if "error" in answer:
                raise AssertionError(f"{command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def hmp(self, line):
        return self.qmp("human-monitor-command", **{"command-line": line})

    def migrate(self, uri, timeout=60):
        """Out to `uri`, to the end; the statistics."""
        self.qmp("migrate", uri=uri)
        return self.wait_migration(lambda info: info["status"] == "completed", timeout)

    def wait_migration(self, reached, timeout=60):
        """The statistics once reached(them); fails when the migration does, or is over without it."""
        end = time.time() + timeout * tap.PATIENCE
        while True:
            info = self.qmp("query-migrate")
            if reached(info):
                return info
            assert info["status"] not in ("completed", "failed") and time.time() < end, str(info) + self.errors()
            self.watch(0.05)

    def wait_status(self, wanted, timeout=60):
        """Until the VM is `wanted`: running, paused, postmigrate … (QMP's RunState)."""
        end = time.time() + timeout * tap.PATIENCE
        while self.qmp("query-status")["status"] != wanted:
            assert time.time() < end, f"not {wanted}: {self.qmp('query-status')}\n" + self.errors()
            self.watch(0.05)


class Gdb:
    """The remote serial protocol, as much as a test needs."""

    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(60 * tap.PATIENCE)
        for _ in range(200):
            try:
                self.s.connect(path)
                break
            except OSError:
                time.sleep(0.05)
        self.buffer = b""

    def send(self, packet):
        data = packet.encode()
        self.s.sendall(b"$" + data + b"#%02x" % (sum(data) % 256))

    def receive(self):
        while True:
            m = re.search(rb"\$([^#]*)#..", self.buffer)
            if m:
                self.buffer = self.buffer[m.end():]
                self.s.sendall(b"+")
                return m.group(1).decode()
            data = self.s.recv(4096)
            assert data, "the gdb stub has hung up"
            self.buffer += data

    def ask(self, packet):
        self.send(packet)
        answer = self.receive()
        # the stop that connecting caused may be told late
        while packet[0] in "zZmg" and answer.startswith("T"):
            answer = self.receive()
        return answer

    def rip(self):
        # 16 general registers of 8 bytes, then rip
        return int.from_bytes(bytes.fromhex(self.ask("g")[16 * 16:17 * 16]), "little")

    def close(self):
        self.s.close()


