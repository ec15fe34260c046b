"""The userkvm command as a person meets it: usage, bad files, exit statuses.

usage: test_command.py USERKVM BUILD
"""
import glob
import os
import struct
import sys
import tempfile

import tap

USERKVM, BUILD = sys.argv[1:3]
tmp = tempfile.TemporaryDirectory()


def file(name, content):
    path = os.path.join(tmp.name, name)
    with open(path, "wb") as f:
        f.write(content)
    return path


def one_line(out):
    lines = [line for line in out.split("\n") if line]
    assert len(lines) == 1, out
    return lines[0]


def boot(*argv):
    out, status = tap.run(USERKVM, "boot", *argv)
    return one_line(out), status


def help_goes_to_stdout_with_status_0():
    for argv in (["--help"], ["boot", "--help"], ["run", "--help"], ["doctor", "--help"]):
        out, status = tap.run(USERKVM, *argv)
        assert status == 0 and out.startswith("usage: userkvm"), (argv, out, status)


def wrong_usage_is_status_2():
    for argv in ([], ["nonsense"], ["boot"], ["boot", "--what"], ["run"], ["boot", "a", "b"]):
        out, status = tap.run(USERKVM, *argv)
        assert status == 2 and out, (argv, out, status)


def missing_kernel_file_is_one_line():
    line, status = boot("/nowhere/vmlinuz")
    assert status == 1 and "No such file" in line, line


def file_that_is_no_kernel_is_one_line():
    for content in (b"", b"hello\n", b"\0" * 5000, b"\x7fELF" + b"\0" * 100, b"\x7fELF\x02\x01\x01" + b"\xff" * 200):
        line, status = boot(file("junk", content))
        assert status == 1 and "kernel" in line or "ELF" in line, (content[:8], line)


def truncated_bzimage_is_one_line():
    good = open(os.path.join(BUILD, "demo/vmlinuz"), "rb").read()
    for size in (0x300, 100000, len(good) // 2):
        line, status = boot(file("short", good[:size]))
        assert status == 1 and ("cut off" in line or "kernel" in line), line
    start = (good[0x1F1] + 1) * 512 + struct.unpack("<I", good[0x248:0x24C])[0]
    line, status = boot(file("damaged", good[:start + 4] + b"\xff" * 4 + good[start + 8:]))
    assert status == 1 and "damaged" in line, line


def too_little_memory_is_one_line():
    line, status = boot(os.path.join(BUILD, "demo/vmlinuz"), "--mem", "20M")
    assert status == 1 and "too little memory" in line, line
    line, status = boot(os.path.join(BUILD, "demo/vmlinuz"), "--mem", "1K")
    assert status == 1 and "too little memory" in line, line


def nonsense_memory_size_is_status_2():
    for size in ("x", "-5", "12Q", ""):
        line, status = boot("kernel", "--mem", size)
        assert status == 2 and "not a size" in line, line


def run_passes_the_exit_status_on():
    for want in (0, 7):
        _, status = tap.run(USERKVM, "run", "--", "sh", "-c", f"exit {want}")
        assert status == want
    out, status = tap.run(USERKVM, "run", "--", "/nowhere/program")
    assert status == 127 and "No such file" in one_line(out)


def doctor_tells_what_a_client_will_see():
    out, status = tap.run(USERKVM, "doctor")
    assert status == 0, out
    for word in ("API version      12", "not a security boundary", "memslots", "CPUID offers"):
        assert word in out, out


def engine_that_does_not_exist_is_refused():
    env = dict(os.environ, USERKVM_ENGINE="warp")
    out, status = tap.run(USERKVM, "boot", os.path.join(BUILD, "demo/vmlinuz"), env=env)
    assert status == 1 and "no such engine" in out, out
    out, status = tap.run(USERKVM, "doctor", env=env)
    assert status == 0 and "no VM will start" in out, out


def unknown_parameter_is_told_once():
    env = dict(os.environ, USERKVM_PARAMS="eptad=1,warp=9")
    out, status = tap.run(USERKVM, "doctor", env=env)
    assert status == 0 and out.count("unknown parameter 'warp' ignored") == 1 and "'eptad'" not in out, out


def installed_tree_works_by_itself():
    root = os.path.join(tmp.name, "root")
    out, status = tap.run("meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", root)
    assert status == 0, out
    bindir = glob.glob(root + "/**/bin/userkvm", recursive=True)[0]
    lib = os.path.dirname(glob.glob(root + "/**/libuserkvm.so", recursive=True)[0])
    include = os.path.dirname(os.path.dirname(glob.glob(root + "/**/userkvm.h", recursive=True)[0]))
    first = os.path.join(tmp.name, "first")
    example = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/examples/first.c")
    out, status = tap.run("cc", "-Wall", "-Werror", example, "-I" + include, "-L" + lib, "-luserkvm", "-o", first)
    assert status == 0, out
    env = dict(os.environ, LD_LIBRARY_PATH=lib)
    assert tap.run(first, env=env) == ("4\n", 0)
    out, status = tap.run(bindir, "doctor", env=env)
    assert status == 0 and "NOT FOUND" not in out, out
    host = glob.glob(root + "/**/userkvm-static", recursive=True)[0]
    assert os.path.dirname(os.path.dirname(host)) == lib, host  # where `userkvm run` looks
    out, status = tap.run(bindir, "run", "--", "busybox", "test", "-c", "/dev/kvm", env=env)
    assert status == 0, out


tap.main(installed_tree_works_by_itself, unknown_parameter_is_told_once, engine_that_does_not_exist_is_refused, help_goes_to_stdout_with_status_0, wrong_usage_is_status_2, missing_kernel_file_is_one_line,
         file_that_is_no_kernel_is_one_line, truncated_bzimage_is_one_line, too_little_memory_is_one_line,
         nonsense_memory_size_is_status_2, run_passes_the_exit_status_on, doctor_tells_what_a_client_will_see)
