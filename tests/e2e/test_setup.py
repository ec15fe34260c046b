"""Set-up as a newcomer meets it: scripts/deps on systems that lack something, and make's order.

usage: test_setup.py

Nothing is installed: the programs that scripts/deps asks are ones of these cases.
"""
import os
import re
import shutil
import stat
import tempfile

import tap

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
DEPS = os.path.join(TOP, "scripts/deps")


def deps(target, programs):
    """The output and status of scripts/deps where `programs` (name: shell text) and a few real ones exist."""
    with tempfile.TemporaryDirectory() as bin_:
        for name in ("bash", "env", "echo", "cat", "mktemp", "rm", "grep", "tail", "dirname"):
            os.symlink(shutil.which(name), os.path.join(bin_, name))
        for name, text in programs.items():
            path = os.path.join(bin_, name)
            with open(path, "w") as f:
                f.write("#!/bin/sh\n" + text + "\n")
            os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        return tap.run("bash", DEPS, target, env={"PATH": bin_, "STATE": bin_})


ROOT = {"id": "echo 0", "sleep": "echo slept >>$STATE/sleeps"}
NOTHING_INSTALLED = {"dpkg-query": "exit 1"}
ALL_INSTALLED = {"dpkg-query": "echo installed"}


def sentence(out):
    lines = [line for line in out.split("\n") if line and not line.startswith("installing: ")]
    assert len(lines) == 1 and lines[0].startswith("deps: "), out
    return lines[0]


def nothing_missing_is_silent():
    assert deps("clients", {**ROOT, **ALL_INSTALLED, "apt-get": "exit 9"}) == ("", 0)


def neither_root_nor_sudo_names_the_packages():
    out, status = deps("demo", {"id": "echo 1000", **NOTHING_INSTALLED, "apt-get": "exit 9"})
    assert status == 1 and "as root: apt-get install" in sentence(out) and "libzydis-dev" in out and "cpio" in out, out


def sudo_that_wants_a_password_without_a_terminal_is_not_waited_for():
    out, status = deps("demo", {"id": "echo 1000", **NOTHING_INSTALLED, "apt-get": "exit 9", "sudo": "exit 1"})
    assert status == 1 and "sudo wants a password" in sentence(out), out


def no_network_is_told_with_what_is_missing():
    apt = "echo 'E: Failed to fetch http://archive/x.deb  Temporary failure resolving archive' >&2; exit 100"
    out, status = deps("build", {**ROOT, **NOTHING_INSTALLED, "apt-get": apt})
    assert status == 1 and "no network" in sentence(out) and "liburcu-dev" in out, out


def another_failure_of_apt_is_told_in_its_words():
    out, status = deps("build", {**ROOT, **NOTHING_INSTALLED, "apt-get": "echo 'E: Unable to locate package x' >&2; exit 100"})
    assert status == 1 and "apt-get says: Unable to locate package x" in sentence(out), out


def a_locked_dpkg_is_waited_for():
    apt = ("echo >>$STATE/calls; [ $(grep -c . $STATE/sleeps 2>/dev/null || true) = 3 ] && exit 0\n"
           "echo 'E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 1 (apt)' >&2; exit 100")
    out, status = deps("build", {**ROOT, **NOTHING_INSTALLED, "apt-get": apt})
    assert status == 0 and "waiting for it" in sentence(out), out


def without_apt_the_libraries_are_named():
    cc = "exit 1"
    out, status = deps("build", {**ROOT, "cc": cc, "pkg-config": "exit 1"})
    line = sentence(out)
    assert status == 1 and "without apt" in line and "liburcu-bp" in line and "Zydis 4" in line and "cmocka" in line, out
    out, status = deps("install", {**ROOT, "cc": cc, "pkg-config": "exit 1"})
    assert "cmocka" not in sentence(out), out
    have = {"cc": "exit 0", "pkg-config": "exit 0", "meson": "exit 0", "ninja": "exit 0"}
    assert deps("build", {**ROOT, **have}) == ("", 0)


def everything_missing_is_told_before_anything_is_compiled():
    for target in ("demo", "check", "bench", "clients", "install"):
        out, status = tap.run("make", "-n", "-C", TOP, target)
        assert status == 0 and re.search(rf"scripts/deps {target}\b", out), out
        assert out.index(f"scripts/deps {target}") < min(out.find(w) % 10**9 for w in ("ninja", "scripts/install")), out


tap.main(nothing_missing_is_silent, neither_root_nor_sudo_names_the_packages,
         sudo_that_wants_a_password_without_a_terminal_is_not_waited_for, no_network_is_told_with_what_is_missing,
         another_failure_of_apt_is_told_in_its_words, a_locked_dpkg_is_waited_for, without_apt_the_libraries_are_named,
         everything_missing_is_told_before_anything_is_compiled)
