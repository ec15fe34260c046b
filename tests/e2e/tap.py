"""A little TAP: cases are functions, a case fails by raising."""
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import traceback


# Times to wait are multiplied by it: tests/run knows how slow a sanitized build is.
PATIENCE = float(os.environ.get("PATIENCE", "1"))


# In the background of a script SIGINT is ignored, and would be by what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def die_with_parent():
    """In a child that a test has forked: SIGTERM when the test is killed, so that nothing is left behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Skip(Exception):
    pass


def main(*cases):
    failed = 0
    print(f"1..{len(cases)}", flush=True)
    for number, case in enumerate(cases, 1):
        try:
            case()
            print(f"ok {number} - {case.__name__}", flush=True)
        except Skip as why:
            print(f"ok {number} - {case.__name__} # skip {why}", flush=True)
        except Exception:
            failed += 1
            for line in traceback.format_exc().rstrip().split("\n"):
                print("# " + line)
            print(f"not ok {number} - {case.__name__}", flush=True)
    sys.exit(1 if failed else 0)


def select(cases, more, names):
    """The short list; "all" adds the long one; or the cases named."""
    named = {f.__name__: f for f in (*cases, *more)}
    main(*(named.values() if names == ["all"] else [named[n] for n in names] if names else cases))


def run(*argv, timeout=60, **more):
    """Standard output and error together, and the exit status."""
    r = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       timeout=timeout * PATIENCE, **more)
    return r.stdout.decode(errors="replace"), r.returncode


class Client:
    """A client with a VM, started and told what to do line by line. Without argv: `argv` of the class."""
    argv = ()

    def __init__(self, *argv, cwd=None, **env):
        self.p = subprocess.Popen(argv or self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr(), text=True,
                                  cwd=cwd, env={**os.environ, **env})
        self.started(self.p.stdout.readline())
        self.pid = str(self.p.pid)

    def stderr(self):
        return None

    def started(self, line):
        assert line == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.p.terminate()  # in a build that counts lines it writes its counters then
        try:
            self.p.wait(5 * PATIENCE)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        self.p.stdin.close()
        self.p.stdout.close()

    def tell(self, line):
        self.p.stdin.write(line + "\n")
        self.p.stdin.flush()
        return self.p.stdout.readline().strip()


def core_file(c, where):
    """The core of a client that runs in the folder, by the kernel or by gcore; the client may be gone after it."""
    resource.prlimit(c.p.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if open("/proc/sys/kernel/core_pattern").read().strip() == "core":
        c.p.send_signal(6)
        c.p.wait(30)
        for name in (os.path.join(where, "core"), os.path.join(where, f"core.{c.pid}")):
            if os.path.exists(name):
                return name
    elif shutil.which("gcore"):
        run("gcore", "-o", os.path.join(where, "core"), c.pid)
        if os.path.exists(os.path.join(where, f"core.{c.pid}")):
            return os.path.join(where, f"core.{c.pid}")
    raise Skip("this machine writes no core file into the working directory, and there is no gcore")


def asker(userkvm):
    """ask(*argv, status=0): what `userkvm argv` says; refused(*argv): status 1 and one line, which is returned."""
    def ask(*argv, status=0):
        out, got = run(userkvm, *argv)
        assert got == status, f"{argv}: status {got}\n{out}"
        return out

    def refused(*argv):
        lines = ask(*argv, status=1).splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return ask, refused
