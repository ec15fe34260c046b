"""The userkvm command as a person meets it: usage, bad files, exit statuses.

usage: test_command.py USERKVM BUILD
"""
import ctypes
import glob
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

import tap

USERKVM, BUILD = sys.argv[1:3]
MAN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../man")
COMMANDS = ([], ["boot"], ["run"], ["check"], ["walkthrough"], ["lab"], ["trace"], ["ept"], ["vmcs"], ["explain"], ["gdb"], ["stat"], ["doctor"],
            ["completion"])
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
    for command in COMMANDS:
        for option in ("--help", "-h"):
            out, status = tap.run(USERKVM, *command, option)
            assert status == 0 and out.startswith(" ".join(["usage: userkvm", *command])), (command, out, status)


def wrong_usage_is_status_2():
    out, status = tap.run(USERKVM)
    assert status == 2 and out.startswith("usage: userkvm"), (out, status)


def wrong_words_are_one_line_with_status_2():
    for argv in (["boot"], ["boot", "a", "b"], ["run"], ["run", "-o"], ["run", "-T", "true"], ["run", "--check-exit", "0", "true"],
                 ["boot", "--check-exit", "x", "k"], ["run", "-o", "f", "true"],
                 ["trace"], ["trace", "-e"], ["ept"], ["ept", "what"], ["ept", "walk", "1"], ["ept", "dump", "--vm", "x", "1"],
                 ["stat", "-s", "0"], ["stat", "-f"], ["doctor", "me"], ["walkthrough", "--lang"],
                 *([*command, "--what"] for command in COMMANDS)):
        out, status = tap.run(USERKVM, *argv)
        name = "userkvm " + argv[0] if argv[0] != "--what" else "userkvm"
        assert status == 2 and f"; see {name} --help" in one_line(out) and out.startswith(name + ": "), (argv, out, status)


def output_that_nobody_gets_is_status_1():
    for argv in (["--help"], ["--version"], ["doctor"], ["trace", "--list"], ["walkthrough"], ["run", "--help"]):
        with open("/dev/full", "w") as full:
            r = subprocess.run([USERKVM, *argv], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60 * tap.PATIENCE)
        assert r.returncode == 1 and r.stderr == "userkvm: standard output: No space left on device\n", (argv, r)


def closed_streams_are_nobody_elses():
    # Were descriptor 1 a VM's or a socket's, the guest's console would be written into it.
    script = f"exec {USERKVM} trace -o {tmp.name}/t.txt -- sh -c 'for n in 0 1 2; do readlink /proc/self/fd/$n; done >{tmp.name}/fds' "
    out, status = tap.run("sh", "-c", script + "<&- >&- 2>&-")
    assert open(tmp.name + "/fds").read().split("\n")[0] == "/dev/null", (out, status)


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
    out, status = tap.run(USERKVM, "run", "--", "no-such-program")
    assert status == 127 and "No such file" in one_line(out)


def run_finds_programs_as_execvp_does():
    there, hidden = os.path.join(tmp.name, "there"), os.path.join(tmp.name, "hidden")
    os.makedirs(os.path.join(hidden, "greet"))  # a directory of that name is passed over
    os.makedirs(there)
    with open(os.path.join(there, "greet"), "w") as f:
        f.write("#!/bin/sh\necho hello\n")
    env = dict(os.environ, PATH=f"{hidden}:{there}:/usr/bin:/bin")
    out, status = tap.run(USERKVM, "run", "--", "greet", env=env)
    assert status == 126 and "Permission denied" in one_line(out), (out, status)
    os.chmod(os.path.join(there, "greet"), 0o755)
    assert tap.run(USERKVM, "run", "--", "greet", env=env) == ("hello\n", 0)
    os.chmod(hidden, 0)  # to all but root: a directory that cannot be searched
    out, status = tap.run(USERKVM, "run", "--", "no-such-program", env=env)
    os.chmod(hidden, 0o755)
    assert status == 127 and "No such file" in one_line(out), (out, status)
    env["PATH"] = hidden + "::/usr/bin:/bin"  # an empty entry is the directory one is in
    assert tap.run(USERKVM, "run", "--", "greet", env=env, cwd=there) == ("hello\n", 0)
    for there_but in (tmp.name, "/etc/passwd"):
        out, status = tap.run(USERKVM, "run", "--", there_but)
        assert status == 126 and "Permission denied" in one_line(out), (out, status)
    for command in ("trace", "walkthrough"):
        out, status = tap.run(USERKVM, command, "--", "/nowhere/program")
        assert status == 127 and out.count("userkvm") == 1, (command, out, status)


def special_file_is_no_kernel():
    line, status = boot("/dev/null")
    assert status == 1 and "not a regular file" in line, line


def doctor_tells_what_a_client_will_see():
    out, status = tap.run(USERKVM, "doctor")
    says = re.search(r"  its own CPUID +(.*)", out).group(1)
    assert ("VMX, by CPUID faulting" in says) == ("cpuid_fault" in open("/proc/cpuinfo").read().split()), says
    none, _ = tap.run(USERKVM, "doctor", env=dict(os.environ, USERKVM_HOST_VMX="0"))
    assert "the machine's (USERKVM_HOST_VMX=0)" in none, none
    assert status == 0, out
    for word in ("API version      12", "not a security boundary", "memslots", "CPUID offers",
                 "VM and vCPU      can be made", "code memory      can be had"):
        assert word in out, out


def doctor_says_what_the_local_apic_is_left_to():
    for params, words in (("", "enable_apicv=1, flexpriority=1"), ("flexpriority=0", "enable_apicv=1, flexpriority=0"),
                          ("enable_apicv=0", "enable_apicv=0, flexpriority=1"),
                          ("ept=0", "enable_apicv=0 (it needs ept=1 and unrestricted_guest=1), flexpriority=1")):
        out, _ = tap.run(USERKVM, "doctor", env=dict(os.environ, USERKVM_PARAMS=params))
        assert f"\n  local APIC       {words}\n" in out, (params, out)


def doctor_says_when_no_vm_can_be_made():
    if os.environ.get("SANITIZE"):
        raise tap.Skip("a sanitizer's shadow takes more address space than any limit on it would leave")
    # A limit on its memory is the simplest confinement.
    out, status = tap.run("sh", "-c", f"ulimit -v 80000; exec {USERKVM} doctor")
    assert status in (3, 4) and "CANNOT BE MADE: Cannot allocate memory" in out, out


def preflight_says_in_a_line_and_a_status_what_does_not_work():
    out, status = tap.run(USERKVM, "doctor", "--preflight")
    assert status == 0 and re.fullmatch(r"userkvm [\d.]+: guests run here, engine (jit|interp)\n", out), out
    out, status = tap.run(USERKVM, "doctor", "--preflight", env=dict(os.environ, USERKVM_HOST_CPUID="-avx3"))
    assert status == 4 and out.splitlines()[-1] == "userkvm doctor: no VM or vCPU can be made: Invalid argument", (out, status)
    out, status = tap.run(USERKVM, "doctor", "--preflight", env=dict(os.environ, USERKVM_PARAMS="ept=7"))
    assert status == 2 and "ept" in one_line(out), (out, status)
    alone = os.path.join(tmp.name, "alone")
    os.mkdir(alone)
    shutil.copy(USERKVM, alone)
    out, status = tap.run(os.path.join(alone, "userkvm"), "doctor", "--preflight",
                          env=dict(os.environ, LD_LIBRARY_PATH=os.path.join(BUILD, "src/preload")))
    assert status == 6 and "libuserkvm-preload.so" in one_line(out), (out, status)


def a_directory_that_ld_preload_cannot_name_is_told():
    there = os.path.join(tmp.name, "some where")
    os.makedirs(os.path.join(there, "tools"))
    shutil.copy(USERKVM, os.path.join(there, "tools"))
    shutil.copytree(os.path.join(BUILD, "src/preload"), os.path.join(there, "src/preload"), ignore=shutil.ignore_patterns("*.p"))
    out, status = tap.run(os.path.join(there, "tools/userkvm"), "run", "true", env=dict(os.environ, LD_LIBRARY_PATH=os.path.join(BUILD, "src/preload")))
    assert status == 126 and "with a space or a colon" in one_line(out), (out, status)


OUTPUTS = (["walkthrough"], ["walkthrough", "--lang", "zh"], ["trace", "--list"], ["trace", "--list", "kvm_exit"], ["doctor"], ["doctor", "--json"],
           ["doctor", "--params"], ["doctor", "--preflight"], ["completion", "bash"], ["help"], ["explain"], ["--version"], ["stat", "-1", "-s", "0.1"])


def outputs_that_fail_are_one_line():
    for argv in OUTPUTS:
        if argv == ["explain"]:
            continue  # it wants words
        with open("/dev/full", "w") as full:
            r = subprocess.run([USERKVM, *argv], stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60 * tap.PATIENCE)
        nothing = argv[0] == "stat" and "no process" in r.stderr
        assert nothing or (r.returncode == 1 and "No space left" in one_line(r.stderr)), (argv, r)
        closed = subprocess.run(["sh", "-c", f'exec "$0" "$@" >&-', USERKVM, *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                timeout=60 * tap.PATIENCE)
        assert closed.returncode in (0, 1) and len(closed.stderr.splitlines()) <= 1, (argv, closed)
        # who reads the first line only
        head = subprocess.run(["sh", "-c", f'"$0" "$@" | head -1', USERKVM, *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=60 * tap.PATIENCE)
        assert len(head.stderr.splitlines()) <= 1, (argv, head)


def twenty_five_wrong_command_lines():
    for argv, words in ((["rum"], "did you mean 'run'"), (["walktrough"], "did you mean 'walkthrough'"), (["help", "nothing"], "no command"),
                        (["help", "run", "boot"], "one command"), (["--hlep"], "no command"), (["run", "--engien", "jit", "true"], "did you mean '--engine'"),
                        (["run", "--engine"], "wants its NAME"), (["run", "--engine", "warp", "true"], "unknown word 'warp'"),
                        (["run", "--params", "ept=7", "true"], "`7' invalid"), (["run", "--params", "epd=1", "true"], "'epd'"),
                        (["run", "--log", "all", "true"], "unknown word 'all'"), (["run", "--inject", "KVM_RUN", "true"], "KVM_RUN"),
                        (["boot"], "see userkvm boot"), (["boot", "--mem", "much", "/dev/null"], "much"), (["boot", "--mem"], "wants its"),
                        (["trace", "-b", "0", "true"], "ring size"), (["trace", "-e", "kvm_nothing", "true"], "no such event"),
                        (["trace", "-o", "x.pdf", "true"], "no format"), (["walkthrough", "--lang", "fr"], "en and zh"),
                        (["walkthrough", "--order", "up"], "time or tree"), (["ept", "dmp", "1"], "did you mean 'dump'"), (["ept", "walk", "1"], "few or too many words"),
                        (["ept", "dump", "--as", "2", "1"], "no good value"), (["stat", "-s", "0"], "0"), (["doctor", "--jsno"], "did you mean '--json'"),
                        (["completion", "csh"], "csh"), (["ept", "walk", "--grid", "1", "2"], "--gva")):
        out, status = tap.run(USERKVM, *argv)
        assert status == 2 and words in one_line(out), (argv, status, out)


def doctor_json_says_what_doctor_says():
    out, status = tap.run(USERKVM, "doctor", "--json", env=dict(os.environ, USERKVM_PARAMS="pml=0"))
    d = json.loads(out)
    text, _ = tap.run(USERKVM, "doctor")
    assert status == 0 == d["status"] and d["failed"] == "" and d["api_version"] == 12, out
    assert d["parameters"]["pml"] == "0" and d["parameters"]["ept"] == "1", out
    assert d["cpuid_offers"] == text.split("CPUID offers")[1].split("safe models")[0].split(), out
    assert f"memslots               {d['capabilities']['memslots']}\n" in text and d["preload"] in text, out
    out, status = tap.run(USERKVM, "doctor", "--json", env=dict(os.environ, USERKVM_HOST_CPUID="-avx3"))
    d = json.loads(out[out.index("{"):])
    assert status == 4 == d["status"] and d["failed"] == "vm" and d["why"], out


def run_needs_no_proc():
    """A bare chroot has none mounted."""
    def without_proc(*argv):
        # nor does the loader know $ORIGIN there: as installed, where none is needed
        return tap.run("unshare", "--mount", "sh", "-c", 'umount -l /proc || exit 99; exec "$0" "$@"', *argv,
                       env=dict(os.environ, LD_LIBRARY_PATH=os.path.join(BUILD, "src/preload")))

    if without_proc("true")[1]:
        raise tap.Skip("/proc cannot be unmounted here")
    out, status = without_proc(USERKVM, "run", "--", "ls", "-l", "/dev/kvm")
    assert status == 0 and "10, 232" in out, out
    out, status = without_proc(USERKVM, "doctor", "--preflight")
    assert status == 0 and "guests run here" in out, out


def doctor_asks_the_device_whether_it_is_kvm():
    if os.geteuid() != 0 or not os.path.exists("/dev/kvm"):
        raise tap.Skip("needs root and a /dev/kvm to hide")
    # Containers may not mount; in a chroot the root directory is no mount point.
    hide = ["unshare", "-m", "sh", "-c"]
    if tap.run(*hide, "mount --bind /dev/null /dev/kvm")[1] != 0:
        raise tap.Skip("may not mount here")
    out, status = tap.run(*hide, f"mount --bind /dev/null /dev/kvm && exec {USERKVM} doctor")
    assert status == 0 and "there, but no KVM" in out, out


def engine_that_does_not_exist_is_refused():
    env = dict(os.environ, USERKVM_ENGINE="warp")
    out, status = tap.run(USERKVM, "boot", os.path.join(BUILD, "demo/vmlinuz"), env=env)
    assert status == 2 and one_line(out).endswith("USERKVM_ENGINE: unknown word 'warp', it has interp,jit"), out
    out, status = tap.run(USERKVM, "doctor", env=env)
    assert status == 4 and "no VM will start" in out and "CANNOT BE MADE" in out, out


def masked_host_is_shown_and_a_wrong_mask_refused():
    out, status = tap.run(USERKVM, "doctor", env=dict(os.environ, USERKVM_HOST_CPUID="nehalem,-popcnt"))
    offers = out.split("CPUID offers")[1].split("\n\n")[0].split()
    assert status == 0 and "less             USERKVM_HOST_CPUID=nehalem,-popcnt" in out, out
    assert "avx" not in offers and "popcnt" not in offers and "erms" in offers and "fsrm" in offers, out
    out, status = tap.run(USERKVM, "doctor", env=dict(os.environ, USERKVM_HOST_CPUID="-avx3"))
    assert status == 4 and "NO VM WILL START" in out and "CANNOT BE MADE" in out, out
    out, status = tap.run(USERKVM, "boot", os.path.join(BUILD, "demo/vmlinuz"),
                          env=dict(os.environ, USERKVM_HOST_CPUID="haswel"))
    assert status == 1 and "'haswel' is neither -FEATURE nor a processor's name" in out, out


def unknown_parameter_is_told_once():
    env = dict(os.environ, USERKVM_PARAMS="eptad=1,warp=9")
    out, status = tap.run(USERKVM, "doctor", env=env)
    assert status == 0 and out.count("unknown parameter 'warp', ignored") == 1 and "'eptad'" not in out, out


def unknown_word_of_a_list_is_told_once():
    for variable, words in (("USERKVM_LOG", "info,error"), ("USERKVM_CHECK", "tlb,error,,0")):
        out, status = tap.run(USERKVM, "doctor", env=dict(os.environ, **{variable: words}))
        assert status == 0 and out.count("unknown word") == 1, out
        assert f"userkvm: {variable}: unknown word 'error', it has " in out, out


def wrong_environment_starts_no_client():
    for variable, value, words in (("USERKVM_PARAMS", "ept=7", "`7' invalid for parameter `ept'"),
                                   ("USERKVM_PARAMS", "nx_huge_pages=some", "`some' invalid"),
                                   ("USERKVM_PARAMS", "epta=1", "unknown parameter 'epta'"),
                                   ("USERKVM_LOG", "error", "unknown word 'error'"),
                                   ("USERKVM_ENGINE", "warp", "unknown word 'warp'"),
                                   ("USERKVM_PARMS", "ept=0", "USERKVM_PARMS: there is no such variable")):
        for command in ("run", "trace", "walkthrough"):
            out, status = tap.run(USERKVM, command, "--", "echo", "ran", env=dict(os.environ, **{variable: value}))
            assert status == 2 and words in one_line(out) and "ran" not in out, (command, variable, out, status)
    out, status = tap.run(USERKVM, "run", "--params", "ept=0,ept=7", "--", "echo", "ran")
    assert status == 2 and "`7'" in one_line(out), out


def injected_errors_are_checked_before_the_client():
    for rule in ("KVM_CREATE_VCPU", "KVM_CREATE_VCPU=ENOMEN", "KVM_CREATE_CPU=ENOMEM", "KVM_RUN=EINTR@0", "KVM_RUN=EINTR@x",
                 "KVM_RUN=EINTR%3+", "=EINTR"):
        out, status = tap.run(USERKVM, "run", "--inject", "open=ENOENT", "--inject", rule, "--", "echo", "ran")
        assert status == 2 and rule in one_line(out) and "ran" not in out, (rule, out, status)
    out, status = tap.run(USERKVM, "run", "--inject", "open=EMFILE", "--", sys.executable, "-c", "open('/dev/kvm', 'rb+', buffering=0)")
    assert status == 1 and "OSError: [Errno 24]" in out, (out, status)


def the_machines_kvm_is_used_where_it_is_good():
    shows = [sys.executable, "-c", "import os; print('preloaded' if 'userkvm' in os.environ.get('LD_PRELOAD', '') else 'bare')"]
    out, status = tap.run(USERKVM, "run", "--prefer-kvm", "--", *shows)
    good = "on the machine's own KVM" in out
    assert status == 0 and len(out.splitlines()) == 2 and ("bare" if good else "preloaded") in out, out
    assert good or "does not serve (" in out and out.splitlines()[0].endswith("): on userkvm"), out
    out, status = tap.run(USERKVM, "run", "--require-kvm", "--", *shows)
    assert (status == 0 and "bare" in out) if good else (status == 126 and "does not serve" in one_line(out)), (status, out)


def exits_are_explained():
    def explained(*argv):
        out, status = tap.run(USERKVM, "explain", "exit", *argv)
        assert status == 0, out
        return out

    for reason in ("48", "0x30", "EPT_VIOLATION", "exit_reason_ept_violation"):
        out = explained(reason, "0x182")
        assert "48 EPT_VIOLATION" in out and "a write of what the linear address translates to; the entry is not present" in out, out
    assert "is present and does not allow it" in explained("48", "0x18a")
    out = explained("CR_ACCESS", "0x703")  # MOV to CR3 from RDI
    assert re.search(r"3:0 +0x3 +control register$", out, re.M) and "access: MOV to CR" in out and "general register of MOV: RDI" in out, out
    out = explained("30", "0x3f80009")
    assert "size of the access: 2 bytes" in out and "direction: IN" in out and re.search(r"31:16 +0x3f8 +port$", out, re.M), out
    assert "size of the access: reserved" in explained("30", "2")
    assert "bits 0x80 are reserved" in explained("DR_ACCESS", "0x80")
    assert "VM entry failed" in explained("0x80000021", "2") and "a PDPTE" in explained("33", "2")
    assert "access: guest-physical, during event delivery" in explained("44", "0xa000")
    assert "access: guest-physical, fetch or" in explained("44", "0xf000") and "access: reserved" in explained("44", "0xb000")
    assert "means nothing" in explained("HLT", "1") and "qualification 0" in explained("HLT")
    j = json.loads(explained("--json", "48", "0x18a"))
    assert (j["name"], j["reserved"], j["fields"][1]["means"]) == ("EPT_VIOLATION", 0, "yes") and "does not allow it" in j["in_short"], j
    j = json.loads(explained("--json", "30", "0x3f80009"))
    assert j["fields"][-1] == {"low": 16, "high": 31, "name": "port", "value": 0x3f8}, j
    # what the manual alone has
    assert "11 GETSEC" in explained("getsec") and "direction: IN" in explained("IO_SMI", "8")
    assert "tables: have no entry" in explained("66", "0x800")
    # every reason of the table of names has words
    for n in range(80):
        out, status = tap.run(USERKVM, "explain", "exit", *(["--json"] if n % 2 else []), str(n), "0xffffffffffffffff")
        assert (json.loads(out)["reason"] == n if n % 2 else True) if status == 0 else (status == 2 and "no exit reason" in one_line(out)), (n, out)
    for argv in (["48", "x"], ["NOTHING"], ["71"], ["48", "1", "2"], []):
        out, status = tap.run(USERKVM, "explain", "exit", *argv)
        assert status == 2 and one_line(out), (argv, out)


def parameters_are_listed():
    out, status = tap.run(USERKVM, "doctor", "--params")
    names = [line.split()[0] for line in out.splitlines()[1:]]
    assert status == 0 and {"ept", "eptad", "vpid", "max_table_pages"} <= set(names), out
    for name in names:
        assert re.search(rf"Cm {name}\b", open(os.path.join(MAN, "userkvm.1")).read()), f"userkvm(1) has no {name}"


def typing_errors_are_guessed():
    for argv, guess in ((["rnu"], "'run'"), (["run", "--starce"], "'--strace'"), (["ept", "walks"], "'walk'"),
                        (["stat", "--onec"], "'--once'"), (["help", "bot"], "'boot'")):
        out, status = tap.run(USERKVM, *argv)
        assert status == 2 and f"did you mean {guess}?" in one_line(out), (argv, out, status)


def help_and_version_have_all_their_names():
    assert tap.run(USERKVM, "help") == tap.run(USERKVM, "--help")
    assert tap.run(USERKVM, "help", "ept") == tap.run(USERKVM, "ept", "--help")
    out, status = tap.run(USERKVM, "-V")
    assert (out, status) == tap.run(USERKVM, "--version") and status == 0 and out.startswith("userkvm "), out


def options_of(command):
    """The options that a command's help shows, as a set of "--name" and "-x"."""
    out, status = tap.run(USERKVM, *command, "--help")
    found = set()
    for line in out.splitlines():
        m = re.match(r"  (-\w)?(?:, )?(--[\w-]+)?(?: |$)", line)
        if m and (m[1] or m[2]):
            found |= {word for word in m.groups() if word}
    return found


def man_pages_have_the_options_that_help_has():
    for command in COMMANDS[1:]:
        page = os.path.join(MAN, f"userkvm-{command[0]}.1")
        if not os.path.exists(page):
            page = os.path.join(MAN, "userkvm.1")
        text = open(page).read()
        for option in options_of(command):
            assert re.search(rf"(Fl|,) {option[1:]}\b", text), f"{page}: {option} is missing"
        if page.endswith("userkvm.1"):
            continue
        for name in set(re.findall(r"\bFl (-?[\w-]{2,}|\w)\b", text)) - {"-help", "-"}:
            assert "-" + name in options_of(command), f"{page}: {command[0]} has no -{name}"


def completion_offers_what_help_has():
    script, status = tap.run(USERKVM, "completion", "bash")
    assert status == 0
    for command in COMMANDS[1:]:
        words = f"COMP_WORDS=(userkvm {command[0]} -); COMP_CWORD=2; _userkvm; echo ${{COMPREPLY[*]}}"
        out, status = tap.run("bash", "-c", script + words)
        assert status == 0 and options_of(command) | {"--help"} == set(out.split()), (command, out)
    words = "COMP_WORDS=(userkvm walkthrough --lang ''); COMP_CWORD=3; _userkvm; echo ${COMPREPLY[*]}"
    assert tap.run("bash", "-c", script + words) == ("en zh\n", 0)
    for shell in ("zsh", "fish"):
        out, status = tap.run(USERKVM, "completion", shell)
        assert status == 0 and "strace" in out, shell
        if shutil.which(shell):
            assert tap.run(shell, "-n", "-c" if shell == "fish" else "-c", out)[1] == 0, shell


def installed_tree_works_by_itself():
    root = os.path.join(tmp.name, "root")
    out, status = tap.run("meson", "install", "-C", BUILD, "--no-rebuild", "--tags", "runtime,devel", "--destdir", root)
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


def dynamic(path):
    """What a library defines: {name: its version or ""}, and what it needs."""
    out = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    words = [line.split() for line in out.splitlines()]
    names = {w[-1].partition("@")[0]: w[-1].partition("@")[2].lstrip("@") for w in words if w[-2] in "TWBDRV"}
    needed = re.findall(r"NEEDED.*\[(.*)\]", subprocess.run(["readelf", "-d", path], capture_output=True, text=True).stdout)
    return names, needed


def the_librarys_code_is_there_once():
    header = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../include/userkvm/userkvm.h")).read()
    api = set(re.findall(r"\b(userkvm_\w+)\(", header))
    library, _ = dynamic(os.path.join(BUILD, "src/preload/libuserkvm.so"))
    preload, needed = dynamic(os.path.join(BUILD, "src/preload/libuserkvm-preload.so"))
    libc = ctypes.CDLL(None)
    mine = {name for name, version in library.items() if version == "USERKVM_PRIVATE"}
    public = set(library) - mine
    assert api <= public and all(hasattr(libc, n) for n in public - api), public - api  # libc's own names
    assert mine and all(re.match(r"abi_|own_|params_get_bool$", n) for n in mine), mine
    assert all(hasattr(libc, n) for n in preload), [n for n in preload if not hasattr(libc, n)]
    assert "libuserkvm.so.0" in needed and not [n for n in needed if "Zydis" in n or "urcu" in n], needed
    assert len(preload) > 100 and {"open", "ioctl", "sigaction", "syscall"} <= set(preload), preload


def elf32(name, address):
    """A 32-bit ELF file whose symbol table has one function."""
    names = b"\0" + name.encode() + b"\0"
    symbols = bytes(16) + struct.pack("<IIIBBH", 1, address, 64, 0x12, 0, 1)
    head = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01", 2, 3, 1, 0, 0, 52, 0, 52, 0, 0, 40, 3, 2)
    at = 52 + 3 * 40
    return b"".join((head, bytes(40), struct.pack("<10I", 0, 2, 0, 0, at, len(symbols), 2, 1, 4, 16),
                     struct.pack("<10I", 0, 3, 0, 0, at + len(symbols), len(names), 0, 0, 1, 0), symbols, names))


REPORT = '{"class":"%s","address":"0x5000","cpu":1,"rip":"%#x",%s"new":"0","writer":{"cpu":0,"rip":"%#x"},%s"suppressed":%s}'


def reports_are_counted_named_and_told_by_the_status():
    """What the library logs is written by the command itself here."""
    wide = file("System.map", b"ffffffff81000000 T unmap\nffffffff81000100 T entry_SYSCALL_64\n")
    low = file("kernel32", elf32("unmap32", 0x80100000))
    old, moved = '"old":"0x1067",', '"lstar":"0xffffffff91000100",'
    for symbols, lines, words in (
            (wide, [REPORT % ("use", 0x401000, old, 0xffffffff91000020, moved, "false")],
             "use: address 0x5000, cpu1 at 0x401000; entry 0x1067 -> 0 by cpu0 at unmap+0x20"),
            # where the kernel has moved is not known
            (wide, [REPORT % ("use", 0x401000, old, 0xffffffff81000020, "", "false")], "entry 0x1067 -> 0 by cpu0 at 0xffffffff81000020"),
            # L2's own address has no name in L1's kernel
            (wide, [REPORT % ("l1ept", 0xffffffff91000020, '"eptp":"0x1000",', 0xffffffff91000024, moved, "false")],
             "l1ept: address 0x5000, L2 of cpu1 at 0xffffffff91000020; entry 0 by cpu0 at unmap+0x24"),
            # but that of L1's VM entry has
            (wide, [REPORT % ("l1ept", 0xffffffff91000020, '"access":"reachable","eptp":"0x1000",', 0xffffffff91000024, moved, "false")],
             "l1ept: address 0x5000, L2 entered by cpu1 at unmap+0x20; entry 0 by cpu0 at unmap+0x24"),
            (low, [REPORT % ("use", 0x1000, old, 0x80100008, "", "false")], "cpu1 at 0x1000; entry 0x1067 -> 0 by cpu0 at unmap32+0x8"),
            (low, [REPORT % ("use", 0x1000, old, 0x80100008, "", "false")] * 3 + ['{"class":"end","told":7}'], "userkvm check: 7 reports"),
            (low, [REPORT % ("use", 0x1000, old, 0x80100008, "", "true"), '{"class":"end","told":0}'], "userkvm check: 0 reports")):
        text = file("lines", ("\n".join(lines) + "\n").encode())
        script = f'cat {text} >> "$USERKVM_CHECK_LOG"; echo "checks $USERKVM_CHECK"'
        none = "check: 0 reports" in words
        for command, check in ((["check"], "guesttlb"), (["run", "--check", "l1ept"], "l1ept")):
            out, status = tap.run(USERKVM, *command, "--symbols", symbols, "--check-exit", "70", "--", "sh", "-c", script)
            assert status == (0 if none else 70) and words in out and f"checks {check}\n" in out, (command, status, out)
            # a status of the command's own goes before
            out, status = tap.run(USERKVM, *command, "--", "sh", "-c", script + "; exit 5")
            assert status == 5 and "reports" in out, (command, status, out)


def a_signal_is_the_checked_commands_and_reports_are_counted():
    text = file("lines", (REPORT % ("use", 0x1000, "", 0x2000, "", "false") + "\n").encode())
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        p = subprocess.Popen([USERKVM, "run", "--check", "guesttlb", "--", "sh", "-c",
                              f'cat {text} >> "$USERKVM_CHECK_LOG"; echo $$; exec sleep 1000'], start_new_session=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        child = int(p.stdout.readline())
        (os.killpg if number == signal.SIGINT else os.kill)(p.pid, number)
        _, err = p.communicate(timeout=60 * tap.PATIENCE)
        assert not os.path.exists(f"/proc/{child}"), (number, "it runs on")
        assert p.returncode == 128 + number and "userkvm check: 1 reports" in err, (number, p.returncode, err)


tap.main(a_signal_is_the_checked_commands_and_reports_are_counted, reports_are_counted_named_and_told_by_the_status, wrong_environment_starts_no_client, the_librarys_code_is_there_once, the_machines_kvm_is_used_where_it_is_good, exits_are_explained, injected_errors_are_checked_before_the_client, parameters_are_listed, typing_errors_are_guessed,
         help_and_version_have_all_their_names, man_pages_have_the_options_that_help_has, completion_offers_what_help_has,
         unknown_word_of_a_list_is_told_once, wrong_words_are_one_line_with_status_2, output_that_nobody_gets_is_status_1, closed_streams_are_nobody_elses,
         run_finds_programs_as_execvp_does, special_file_is_no_kernel, doctor_asks_the_device_whether_it_is_kvm,
         installed_tree_works_by_itself, masked_host_is_shown_and_a_wrong_mask_refused, unknown_parameter_is_told_once, engine_that_does_not_exist_is_refused, help_goes_to_stdout_with_status_0, wrong_usage_is_status_2, missing_kernel_file_is_one_line,
         file_that_is_no_kernel_is_one_line, truncated_bzimage_is_one_line, too_little_memory_is_one_line,
         nonsense_memory_size_is_status_2, run_passes_the_exit_status_on, doctor_tells_what_a_client_will_see,
         doctor_says_what_the_local_apic_is_left_to, doctor_says_when_no_vm_can_be_made, preflight_says_in_a_line_and_a_status_what_does_not_work,
         doctor_json_says_what_doctor_says, a_directory_that_ld_preload_cannot_name_is_told, outputs_that_fail_are_one_line,
         twenty_five_wrong_command_lines, run_needs_no_proc)
