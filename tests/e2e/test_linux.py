"""Debian's kernel: under userkvm boot, and under Debian's QEMU with -accel kvm.

usage: test_linux.py USERKVM BUILD [CASE...]
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

import initramfs
import tap

USERKVM, BUILD = sys.argv[1:3]
KERNEL = os.path.join(BUILD, "demo/vmlinuz")
INITRD = os.path.join(BUILD, "demo/initrd.img")


def check_console(out, status):
    assert status == 0, f"exit status {status}\n" + out[-3000:]
    for want in (r"Hypervisor detected: KVM", r"userkvm: init is running", r"# uname -a\r*\nLinux .* x86_64 GNU/Linux",
                 r"00100000-[0-9a-f]+ : System RAM", r"model name\s*:", r"Mem:\s+\d+", r"userkvm: demo done"):
        assert re.search(want, out), f"no {want!r} in\n" + out[-3000:]
    for bad in ("Kernel panic", "BUG:", "Oops", "Call Trace", "unchecked MSR"):
        assert bad not in out, f"{bad} in\n" + out[-6000:]


def debian_kernel_runs_to_power_off_under_userkvm_boot():
    out, status = tap.run(USERKVM, "boot", KERNEL, "--initrd", INITRD, "--append", "demo.batch panic=-1", "--no-reboot",
                          "--watchdog", "120", timeout=240)
    check_console(out, status)
    # what the kernel says of processors that no firmware has set up
    for bad in ("Disabled fast string operations", "MTRRs disabled", "CPU MTRRs all blank", "PAT support disabled"):
        assert bad not in out, bad
    assert re.search(r"x86/PAT: Configuration \[0-7\]: WB  WC", out), out[:6000]
    assert re.search(r"ACPI: LAPIC_NMI \(acpi_id\[0xff\] .*lint\[0x1\]\)", out), out[:6000]


def no_stale_translation_is_used_while_debian_boots():
    """The TLB's checker says each on standard error (src/cpu/tlb_check.h)."""
    out, status = tap.run(USERKVM, "boot", KERNEL, "--initrd", INITRD, "--append", "demo.batch panic=-1", "--no-reboot",
                          timeout=480, env={**os.environ, "USERKVM_CHECK": "tlb"})
    check_console(out, status)
    assert "USERKVM_CHECK" not in out, out[-6000:]


def check_guesttlb(append, smp, **env):
    out, status = tap.run(USERKVM, "boot", KERNEL, "--initrd", INITRD, "--append", "demo.batch panic=-1" + append, "--no-reboot",
                          "--smp", str(smp), timeout=240, env={**os.environ, "USERKVM_CHECK": "guesttlb", **env})
    if env: # reports stand in the middle of the console's lines
        assert status == 0 and "demo done" in out, out[-3000:]
    else:
        check_console(out, status)
    found = re.search(r"guesttlb: (\d+) reports .*?\)(?:; of hidden invalidations (\d+) \(hidden: (\d+)\)[^;]*)?; (\d+) translations narrowed", out)
    assert found, out[-3000:]
    return out, [int(n or 0) for n in found.groups()]


def a_kernel_that_flushes_is_not_reported():
    for append, smp in (("", 1), ("", 2), (" pti=on", 2), (" nopcid", 2)):
        out, (reports, _, _, narrowed) = check_guesttlb(append, smp)
        assert reports == 0 and narrowed > 100, (append, smp, out[-6000:])


def each_report_is_of_an_invalidation_that_was_hidden():
    log = os.path.join(BUILD, "test-logs", f"guesttlb-{os.getpid()}.json")
    out, (reports, of_hidden, hidden, _) = check_guesttlb("", 2, USERKVM_GHOST_DEAF="2", USERKVM_CHECK_LOG=log)
    assert hidden > 100 and reports >= 5 and of_hidden == reports, out[-6000:]
    with open(log) as f:
        lines = [json.loads(line) for line in f]
    os.unlink(log)
    assert lines[-1]["class"] == "end" and lines[-1]["reports"] == reports and len(lines) == reports + 1, lines[-1]
    assert {line["class"] for line in lines[:-1]} >= {"reachable"} and all(line["hidden"] for line in lines[:-1]), lines[:3]


SHOOTDOWN = ("#!/bin/sh\nexport PATH=/bin\nmount -t proc proc /proc\nmount -t devtmpfs dev /dev\nmount -t sysfs sys /sys\n"
             "echo 1 > /sys/kernel/mm/ksm/run\necho always > /sys/kernel/mm/transparent_hugepage/enabled\n"
             "shootdown 4\necho guest: done\npoweroff -f\n")


def pages_that_are_taken_from_reading_threads_are_not_reported():
    if not shutil.which("gcc"):
        raise tap.Skip("no gcc for the guest's program")
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run(["gcc", "-O1", "-static", "-pthread", "-o", tmp + "/shootdown",
                        os.path.join(os.path.dirname(os.path.abspath(__file__)), "guest/shootdown.c")], check=True)
        initramfs.write(tmp + "/img", SHOOTDOWN, {"shootdown": tmp + "/shootdown"})
        out, status = tap.run(USERKVM, "check", "boot", KERNEL, "--initrd", tmp + "/img", "--append", "quiet panic=-1", "--no-reboot",
                              "--smp", "2", timeout=200)
    assert status == 0 and re.search(r"shootdown: [1-9]\d* calls", out) and "guest: done" in out, (status, out[-3000:])
    assert "userkvm check: 0 reports" in out, out[-6000:]


def check_ends_with_a_status_and_names_functions():
    with tempfile.TemporaryDirectory() as tmp:
        # where Linux enters from user mode, and the rest of its text as one function; KASLR is on
        with open(tmp + "/System.map", "w") as f:
            f.write("ffffffff80000000 T everything\nffffffff80000080 T entry_SYSCALL_64\nffffffff80000100 T the_rest\n")
        boot = ("boot", KERNEL, "--initrd", INITRD, "--append", "demo.batch panic=-1", "--no-reboot")
        out, status = tap.run(USERKVM, "check", "--check-exit", "77", "--symbols", tmp + "/System.map", *boot, timeout=240,
                              env={**os.environ, "USERKVM_GHOST_DEAF": "2"})
        told = re.search(r"userkvm check: (\d+) reports", out)
        assert status == 77 and int(told[1]) > 0, (status, out[-2000:])
        assert re.search(r"userkvm check: reachable: address 0x.* by cpu0 at \w+", out), out[-3000:]
        out, status = tap.run(USERKVM, "check", "--check-log", tmp + "/log", *boot, timeout=240)
        assert status == 0 and "userkvm check: 0 reports" in out, (status, out[-2000:])
        with open(tmp + "/log") as f:
            assert json.loads(f.read())["class"] == "end"
    out, status = tap.run(USERKVM, "check", "true")
    assert status == 1 and "told its counts" in out, (status, out)


def boot_and_run_have_the_options_of_check():
    out, status = tap.run(USERKVM, "boot", KERNEL, "--initrd", INITRD, "--append", "demo.batch panic=-1", "--no-reboot",
                          "--check", "guesttlb", "--check-exit", "78", timeout=240, env={**os.environ, "USERKVM_GHOST_DEAF": "2"})
    assert status == 78 and re.search(r"userkvm check: [1-9]\d* reports", out), (status, out[-2000:])
    client = os.path.join(BUILD, "tests/client/test_client_nested_l1ept")
    with tempfile.TemporaryDirectory() as tmp:
        log = tmp + "/log"
        # its hypervisors have a bug each
        out, status = tap.run(USERKVM, "run", "--check", "l1ept", "--check-exit", "79", "--check-log", log, "--", client, timeout=120)
        if "SKIPPED" in out:
            raise tap.Skip("no nested VMX here")
        told = re.search(r"userkvm check: (\d+) reports", out)
        assert status == 79 and int(told[1]) >= 15, (status, out[-2000:])
        with open(log) as f:
            lines = [json.loads(line) for line in f]
        assert sum(line["class"] == "l1ept" and not line["suppressed"] for line in lines) == int(told[1]), lines
        out, status = tap.run(USERKVM, "run", "--check", "l1ept", "--suppress", "1000-2000", "--", "true")
        assert status == 1 and "told its counts" in out, (status, out)


# Shadow paging; and without unrestricted guest SeaBIOS's real mode is emulated.
SHADOW = {**os.environ, "USERKVM_PARAMS": "ept=0"}


def debian_kernel_runs_to_power_off_on_shadow_page_tables():
    out, status = tap.run(USERKVM, "boot", KERNEL, "--initrd", INITRD, "--append", "demo.batch panic=-1", "--no-reboot",
                          timeout=240, env=SHADOW)
    check_console(out, status)


def debian_kernel_runs_to_power_off_on_lesser_hosts():
    """What USERKVM_HOST_CPUID leaves of this host; without XSAVE first."""
    for host, missing in (("sse2", "ssse3"), ("nehalem", "xsave"), ("haswell", "sha_ni")):
        out, status = tap.run(USERKVM, "boot", KERNEL, "--initrd", INITRD, "--append", "demo.batch panic=-1", "--no-reboot",
                              timeout=240, env={**os.environ, "USERKVM_HOST_CPUID": host})
        check_console(out, status)
        flags = re.search(r"flags\s*:(.*)", out)
        assert not flags or missing not in flags.group(1).split(), f"{missing} on {host}: {flags.group(1)}"


def qemu(*more, **how):
    if not shutil.which("qemu-system-x86_64"):
        raise tap.Skip("qemu-system-x86_64 is not installed")
    return tap.run(USERKVM, "run", "--", "qemu-system-x86_64", "-accel", "kvm", "-m", "512", "-nographic", "-nodefaults",
                   "-no-reboot", "-serial", "stdio", *more, timeout=300, **how)


def qemu_pc_with_seabios_and_kernel_irqchip_boots_debian():
    check_console(*qemu("-M", "pc", "-kernel", KERNEL, "-initrd", INITRD, "-append", "console=ttyS0 demo.batch panic=-1"))


def qemu_pc_with_two_processors_boots_debian_on_shadow_page_tables():
    check_console(*qemu("-M", "pc", "-smp", "2", "-kernel", KERNEL, "-initrd", INITRD, "-append",
                        "console=ttyS0 demo.batch panic=-1", env=SHADOW))


def qemu_pc_with_two_processors_boots_debian_without_unrestricted_guest():
    check_console(*qemu("-M", "pc", "-smp", "2", "-kernel", KERNEL, "-initrd", INITRD, "-append",
                        "console=ttyS0 demo.batch panic=-1", env={**os.environ, "USERKVM_PARAMS": "unrestricted_guest=0"}))


def qemu_pc_with_seabios_and_its_own_irqchip_boots_debian():
    check_console(*qemu("-M", "pc,kernel-irqchip=off", "-kernel", KERNEL, "-initrd", INITRD, "-append",
                        "console=ttyS0 demo.batch panic=-1"))


cases = {f.__name__: f for f in (debian_kernel_runs_to_power_off_under_userkvm_boot,
                                 debian_kernel_runs_to_power_off_on_shadow_page_tables,
                                 qemu_pc_with_two_processors_boots_debian_on_shadow_page_tables,
                                 qemu_pc_with_two_processors_boots_debian_without_unrestricted_guest,
                                 qemu_pc_with_seabios_and_kernel_irqchip_boots_debian,
                                 qemu_pc_with_seabios_and_its_own_irqchip_boots_debian)}
checked = {f.__name__: f for f in (pages_that_are_taken_from_reading_threads_are_not_reported, check_ends_with_a_status_and_names_functions,
                                   boot_and_run_have_the_options_of_check, a_kernel_that_flushes_is_not_reported, each_report_is_of_an_invalidation_that_was_hidden,
                                   no_stale_translation_is_used_while_debian_boots,
                                   debian_kernel_runs_to_power_off_on_lesser_hosts)}
tap.main(*({**cases, **checked}[name] for name in sys.argv[3:] or cases))
