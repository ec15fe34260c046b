"""Statically linked clients under `userkvm run`: glibc, musl, Go; every way to trap; what is refused.

usage: test_static.py USERKVM BUILD [all]
"""
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

import tap
from lesser_kernel import without

USERKVM, BUILD = (os.path.abspath(x) for x in sys.argv[1:3])
SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "static")
WAYS = ("", "seccomp", "arch_prctl", "seccomp,arch_prctl")
tmp = tempfile.TemporaryDirectory()
built = {}


def path(name):
    return os.path.join(tmp.name, name)


def build(name, *argv, **more):
    if name not in built:
        out, status = tap.run(*argv, "-o", path(name), timeout=300, **more)
        assert status == 0, out
        built[name] = path(name)
    return built[name]


def c_client(name, compiler, *flags):
    if not shutil.which(compiler):
        raise tap.Skip(f"no {compiler}")
    # musl-gcc knows no Linux headers; they are the last to be looked for.
    linux = [f"-idirafter{d}" for d in ("/usr/include/x86_64-linux-gnu", "/usr/include")] if "musl" in compiler else []
    return build(name, compiler, "-O2", "-Wall", "-D_GNU_SOURCE", *flags, *linux, os.path.join(SOURCES, "client.c"))


def musl_client():
    return c_client("client-musl", "musl-gcc", "-static")


def glibc_client():
    return c_client("client-glibc", "gcc", "-static", "-no-pie")


def pie_client():
    return c_client("client-pie", "gcc", "-static-pie")


def go_client(cgo="0"):
    if not shutil.which("go"):
        raise tap.Skip("no go")
    env = dict(os.environ, CGO_ENABLED=cgo, GOCACHE=path("go-cache"), GO111MODULE="off", GOFLAGS="")
    name = "client-go" + cgo
    files = [os.path.join(SOURCES, "client.go")]
    if cgo == "1":
        files = [shutil.copy(files[0], tmp.name), path("cgo.go")]
        with open(files[-1], "w") as f:
            f.write("package main\n\n// #include <unistd.h>\nimport \"C\"\n\nfunc init() { C.getppid() }\n")
    if name not in built:
        # go wants its -o before the file
        out, status = tap.run("go", "build", "-o", path(name), *files, env=env, timeout=600)
        assert status == 0, out
        built[name] = path(name)
    return built[name]


def run(*argv, ways="", **more):
    env = dict(os.environ, USERKVM_TRAP=ways, **more.pop("env", {}))
    return tap.run(USERKVM, "run", "--", *argv, env=env, timeout=120, **more)


def passes(client, **more):
    out, status = run(client, **more)
    assert status == 0 and "client done" in out, f"{client}, {more}: exit status {status}\n{out}"
    return out


def one_line(out):
    lines = [line for line in out.split("\n") if line]
    assert len(lines) == 1 and lines[0].startswith("userkvm run: "), out
    return lines[0]


# --- clients ---


def musl_client_runs_on_every_way():
    for ways in WAYS:
        passes(musl_client(), ways=ways)


def glibc_client_runs_on_every_way():
    for ways in WAYS:
        passes(glibc_client(), ways=ways)


def not_in_the_sanitizers_shadow():
    if os.environ.get("SANITIZE"):
        raise tap.Skip("the sanitizer's shadow lies where this client's memory goes")


def position_independent_client_runs():
    not_in_the_sanitizers_shadow()
    passes(pie_client())


def go_client_runs_on_every_way():
    not_in_the_sanitizers_shadow()
    client = go_client()
    for ways in WAYS:
        out = passes(client, ways=ways)
        assert out.split()[-1] == client, out  # /proc/self/exe is its own


# --- dynamic programs whose system calls trap ---


def dynamic_client():
    return c_client("client-dynamic", "gcc")


def inline_client():
    return build("client-inline", "gcc", "-O2", "-Wall", "-D_GNU_SOURCE", os.path.join(SOURCES, "inline.c"))


def trapped(*argv, **more):
    return tap.run(USERKVM, "run", "--trap", "--", *argv, timeout=120, **more)


def program_with_a_loader_is_trapped_on_request():
    not_in_the_sanitizers_shadow()
    for ways in WAYS:
        out, status = trapped(dynamic_client(), env=dict(os.environ, USERKVM_TRAP=ways))
        assert status == 0 and "client done" in out, out
    # Each library is there once, and nobody notices what stands in its place.
    out, status = trapped("cat", "/proc/self/maps")
    code = [line.split("/")[-1] for line in out.split("\n") if "/libuserkvm" in line and " r-xp " in line]
    assert status == 0 and code and len(code) == len(set(code)), out
    out, status = trapped("sh", "-c", f"{dynamic_client()} && exec {musl_client()}")
    assert status == 0 and out.count("client done") == 2, out
    assert trapped("true") == ("", 0)


def calls_past_the_c_library_are_served_on_request_or_told():
    not_in_the_sanitizers_shadow()
    strace = dict(os.environ, USERKVM_STRACE="-")
    out, status = trapped(inline_client(), env=strace)
    assert status == 0 and "inline 12" in out and "KVM_GET_API_VERSION, 0) = 12" in out, out
    out, status = run(inline_client(), env=dict(USERKVM_STRACE="-"))
    assert "KVM_GET_API_VERSION" not in out and "--trap" in out.split("\n")[0], out
    out, status = run(dynamic_client())
    assert status == 0 and "--trap" not in out, out


def go_client_with_cgo_is_found_and_served():
    not_in_the_sanitizers_shadow()
    for ways in WAYS:
        out = passes(go_client(cgo="1"), ways=ways)
        assert out.split()[-1] == go_client(cgo="1"), out
    out, status = run("sh", "-c", go_client(cgo="1") + "; exit $?")
    assert status == 0 and "client done" in out, out


def client_with_musl_as_a_shared_library_is_found_and_served():
    not_in_the_sanitizers_shadow()
    if not os.path.exists("/lib/ld-musl-x86_64.so.1"):
        raise tap.Skip("no musl loader")
    passes(c_client("client-musl-shared", "musl-gcc"))


def client_runs_in_the_legacy_memory_layout():
    out, status = tap.run("sh", "-c", f"ulimit -s unlimited && exec {USERKVM} run -- {musl_client()}")
    assert status == 0 and "client done" in out, out


def strace_option_shows_its_ioctls():
    out, status = tap.run(USERKVM, "run", "--strace", "--", musl_client())
    assert status == 0 and "KVM_CREATE_VM" in out and "KVM_RUN" in out, out


# --- a process like any other ---


def busybox():
    place = shutil.which("busybox")
    if not place:
        raise tap.Skip("no busybox-static")
    return place


def shell_sees_dev_kvm_and_serves_its_children():
    box = busybox()
    # The shell, a static child of it, a dynamic one; each must see the device.
    script = f"test -c /dev/kvm && {box} test -c /dev/kvm && python3 -c 'import os; os.stat(\"/dev/kvm\")' && " \
             f"{musl_client()} | tail -n 1"
    out, status = run(box, "sh", "-c", script)
    assert status == 0 and out.strip().split("\n")[-1] == "client done", out


def script_of_a_static_interpreter_is_served():
    script = path("script")
    with open(script, "w") as f:
        f.write(f"#!{busybox()} sh\ntest -c /dev/kvm && echo \"$0 $1 served\"\n")
    os.chmod(script, 0o755)
    out, status = run(script, "one")
    assert (out, status) == (f"{script} one served\n", 0), out


def exit_status_and_signals_pass():
    box = busybox()
    assert run(box, "sh", "-c", "exit 9")[1] == 9
    assert run(box, "sh", "-c", "kill -TERM $$")[1] == -signal.SIGTERM
    assert run(box, "sh", "-c", "kill -SEGV $$")[1] == -signal.SIGSEGV
    assert run(box, "sh", "-c", "trap 'echo caught; exit 3' TERM; kill -TERM $$; sleep 5") == ("caught\n", 3)
    # A blocking system call is ended by a signal from outside.
    with subprocess.Popen([USERKVM, "run", "--", box, "sh", "-c", "trap 'exit 4' USR1; echo ready; while :; do read x; done"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        assert p.stdout.readline() == b"ready\n"
        p.send_signal(signal.SIGUSR1)
        started = time.time()
        assert p.wait(timeout=60) == 4 and time.time() - started < 50


def arguments_and_environment_are_its_own():
    box = busybox()
    out, status = run(box, "sh", "-c", "tr '\\0' ' ' < /proc/$$/cmdline; echo; env | grep USERKVM_STATIC; cat /proc/$$/comm")
    assert status == 0, out
    lines = out.split("\n")
    assert lines[0].startswith(f"{box} sh -c") and lines[1] == "busybox", out


def the_host_looks_like_one_with_vmx():
    """By the files that programs look at before they open /dev/kvm."""
    box, parameters = busybox(), "/sys/module/kvm_intel/parameters/"
    for argv, says in (
            (("grep", "-cE", "^flags.* vmx( |$)", "/proc/cpuinfo"), str(os.cpu_count())),
            (("grep", "-cE", "^vmx flags.* ept( |$)", "/proc/cpuinfo"), str(os.cpu_count())),
            (("cat", parameters + "ept", "/sys/module/kvm/parameters/tdp_mmu"), "Y\nY"),
            (("stat", "-c", "%F", "/sys/module/kvm_intel"), "directory"),
            (("test", "-r", parameters + "nested"), ""), (("test", "-d", "/sys/module/kvm_amd"), None)):
        out, status = run(box, *argv)
        assert (status == 0) == (says is not None) and out.strip() == (says or ""), (argv, out)
    out, status = tap.run(USERKVM, "run", "--no-host-vmx", "--", box, "cat", "/proc/cpuinfo")
    lines = [x for x in out.split("\n") if x and "MHz" not in x]
    assert status == 0 and lines == [x for x in open("/proc/cpuinfo").read().split("\n") if x and "MHz" not in x]


# --- what is refused, in words ---


def elf(name, cls=2, machine=62, kind=2, headers=b"", phnum=0):
    head = b"\x7fELF" + bytes([cls, 1, 1]) + bytes(9)
    if cls == 2:
        head += struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0x400000, 64, 0, 0, 64, 56, phnum, 64, 0, 0)
    else:
        head += struct.pack("<HHIIIIIHHHHHH", kind, machine, 1, 0x400000, 52, 0, 0, 52, 32, phnum, 40, 0, 0)
    with open(path(name), "wb") as f:
        f.write(head + headers)
    os.chmod(path(name), 0o755)
    return path(name)


def segment(vaddr, offset=0, filesz=0, memsz=4096):
    return struct.pack("<IIQQQQQQ", 1, 7, offset, vaddr, vaddr, filesz, memsz, 4096)


def programs_that_cannot_be_served_are_refused_in_a_line():
    for program, word in (
            (elf("x86", cls=1, machine=3), "32-bit"),
            (elf("arm", machine=183), "another machine"),
            (elf("empty"), "make no sense"),
            (elf("cut", phnum=3), "make no sense"),
            (elf("object", kind=1, phnum=1, headers=segment(0x400000)), "make no sense"),
            (elf("high", phnum=1, headers=segment(0x7f0000000000)), "make no sense"),
            (elf("shrinks", phnum=1, headers=segment(0x400000, filesz=8192)), "make no sense"),
            (elf("crooked", phnum=1, headers=segment(0x400010)), "make no sense"),
            (elf("wraps", phnum=1, headers=segment(0x400000, memsz=2**64 - 4096)), "make no sense")):
        out, status = run(program)
        assert status == 126 and word in one_line(out), f"{program}: {status} {out}"


def set_user_id_program_is_refused_in_a_line():
    if os.getuid() != 0:
        raise tap.Skip("only root can make a set-user-ID file of another user")
    program = path("setuid")
    shutil.copy("/bin/true", program)
    os.chown(program, 65534, 65534)
    os.chmod(program, 0o4755)
    out, status = run(program)
    assert status == 126 and "other rights" in one_line(out), out


DISPATCH, SECCOMP = (157, 59), (317, None)


# --- executed by a dynamic client ---

CALLS = ("execve", "execv", "execvp", "execvpe", "execl", "execle", "execlp", "fexecve", "execveat", "execveat-empty",
         "posix_spawn", "posix_spawnp", "vfork")


def executes(call, client, *argv, **more):
    program = build("executes", "gcc", "-O2", "-Wall", "-D_GNU_SOURCE", os.path.join(SOURCES, "executes.c"))
    env = dict(USERKVM_STRACE="-", **more.pop("env", {}))
    out, status = run(program, call, client, *argv, env=env, **more)
    return out, status, "KVM_CREATE_VM" in out  # in the library's own record, so that no other /dev/kvm was it


def static_programs_of_a_dynamic_client_are_served():
    for call in CALLS:
        out, status, served = executes(call, glibc_client(), "opens")
        assert status == 0 and served, f"{call}: exit status {status}\n{out}"
    out, status, served = executes("execvp", musl_client(), "all")
    assert status == 0 and served and "client done" in out, out


def executed_programs_are_found_as_libc_finds_them():
    client = glibc_client()
    beside = dict(PATH=f"/nonexistent::{os.path.dirname(client)}:{os.environ['PATH']}")
    for call in ("execvp", "execvpe", "execlp", "posix_spawnp"):
        out, status, served = executes(call, os.path.basename(client), "opens", env=beside)
        assert status == 0 and served, f"{call}: exit status {status}\n{out}"
    for call in CALLS:
        if call not in ("fexecve", "execveat-empty"):
            out, status, _ = executes(call, path("absent"), "opens")
            assert status == 100 and "No such file" in out, f"{call}: exit status {status}\n{out}"


def static_program_without_the_library_in_its_environment_is_left_alone():
    for call in ("execve", "execvpe", "execle", "fexecve", "posix_spawn"):
        out, status, served = executes(call, glibc_client(), "opens", env=dict(WITHOUT="1"))
        assert not served and status != 100, f"{call}: exit status {status}\n{out}"


def kernel_without_user_dispatch_falls_back():
    passes(musl_client(), preexec_fn=without(DISPATCH))


def kernel_without_any_way_is_told_in_a_line():
    out, status = run(musl_client(), preexec_fn=without(DISPATCH, SECCOMP))
    assert status == 126 and "traps no system calls" in one_line(out), out


# --- at length ---


def clients_run_many_times():
    for _ in range(30):
        for client in (musl_client, glibc_client, go_client):
            passes(client())


tap.select((musl_client_runs_on_every_way, glibc_client_runs_on_every_way, position_independent_client_runs,
            go_client_runs_on_every_way, program_with_a_loader_is_trapped_on_request,
            calls_past_the_c_library_are_served_on_request_or_told, go_client_with_cgo_is_found_and_served,
            client_with_musl_as_a_shared_library_is_found_and_served, client_runs_in_the_legacy_memory_layout, strace_option_shows_its_ioctls,
            shell_sees_dev_kvm_and_serves_its_children, script_of_a_static_interpreter_is_served,
            exit_status_and_signals_pass, arguments_and_environment_are_its_own, the_host_looks_like_one_with_vmx,
            programs_that_cannot_be_served_are_refused_in_a_line, set_user_id_program_is_refused_in_a_line,
            static_programs_of_a_dynamic_client_are_served, executed_programs_are_found_as_libc_finds_them,
            static_program_without_the_library_in_its_environment_is_left_alone,
            kernel_without_user_dispatch_falls_back, kernel_without_any_way_is_told_in_a_line),
           (clients_run_many_times,), sys.argv[3:])
