"""userkvm boot with the hypervisors of examples/l1, and Debian's kvm-intel as one where its files are at hand.

usage: test_nested.py USERKVM BUILD
"""
import base64
import gzip
import os
import sys
import tempfile

import initramfs
import tap

USERKVM, BUILD = sys.argv[1:3]


def boot(name, params="nested=1", *more):
    out, status = tap.run(USERKVM, "boot", os.path.join(BUILD, "examples/l1/l1_" + name), "--no-reboot", "--mem", "64M", *more,
                          env=dict(os.environ, USERKVM_PARAMS=params))
    return out.split("\n"), status


def a_hypervisor_without_ept_answers_its_guest():
    lines, status = boot("hello")
    assert status == 0 and "hello: the guest says 0x10e1" in lines and "hello: exits 0x2" in lines, lines


def hypervisors_run_without_unrestricted_guest():
    """L1's way to protected mode is emulated then, and no control of that name is offered to it."""
    for name, want, *more in (("hello", "hello: the guest says 0x10e1"), ("ept", "ept: behind the moved page 0x5"),
                              ("smp", "smp: stale reads 0x0", "--smp", "2")):
        lines, status = boot(name, "unrestricted_guest=0", *more)
        assert status == 0 and want in lines, lines


def a_hypervisor_with_ept_moves_logs_and_emulates_memory():
    lines, status = boot("ept")
    want = ["ept: device access at 0x800000", "ept: qualification 0x181", "ept: the guest says 0x1234",
            "ept: pages written 0x1", "ept: written: page 0x801000", "ept: the guest says 0xc",
            "ept: behind the moved page 0x5"]
    assert status == 0 and all(line in lines for line in want), lines
    assert lines.count("ept: written: page 0x802000") == 1, lines


def a_hypervisor_on_two_processors_shoots_down_what_a_tlb_holds():
    lines, status = boot("smp", "nested=1", "--smp", "2")
    want = ["smp: the guest reads 0x1", "smp: and then 0x2", "smp: stale reads 0x0"]
    assert status == 0 and all(line in lines for line in want), lines


def the_tables_stay_in_order():
    out, status = tap.run(USERKVM, "boot", os.path.join(BUILD, "examples/l1/l1_ept"), "--no-reboot", "--mem", "64M",
                          env=dict(os.environ, USERKVM_PARAMS="nested=1", USERKVM_CHECK="ept02"))
    assert status == 0 and "ept: behind the moved page 0x5" in out, out


def without_nested_there_is_no_vmx():
    # IA32_FEATURE_CONTROL refuses the bit: #GP without an IDT, a shutdown
    lines, status = boot("hello", "nested=0")
    assert status != 0 and not any("guest says" in line for line in lines), lines


# The programs of tests/client that ask KVM about VMX pass on Linux's own as they do on ours.
CLIENTS = ("first", "nested_insn", "nested_checks", "nested_exits", "nested_state", "nested_random", "nested_timer", "nested_tlb",
           "nested_ad", "nested_tpr", "nested_move")
MODULES = ("irqbypass", "kvm", "kvm-intel")


def in_kvm_intel(script, files, timeout, params="nested=1"):
    """What the script prints in Debian with its kvm-intel, which is L1. files: {name in /bin: path}."""
    demo = os.path.join(BUILD, "demo")
    if not os.path.exists(demo + "/modules/kvm-intel.ko"):
        raise tap.Skip("no kernel with kvm-intel (scripts/demo-files)")
    if not all(os.path.exists(f) for f in files.values()):
        raise tap.Skip("no static programs in a sanitized build")
    init = ("#!/bin/sh\nexport PATH=/bin\nmount -t proc proc /proc\nmount -t devtmpfs dev /dev\n" +
            "".join(f"busybox insmod /bin/{m}.ko\n" for m in MODULES) + script + "echo guest: done\npoweroff -f\n")
    with tempfile.TemporaryDirectory() as tmp:
        initramfs.write(tmp + "/l1.img", init, {**{m + ".ko": f"{demo}/modules/{m}.ko" for m in MODULES}, **files})
        out, _ = tap.run(USERKVM, "boot", demo + "/vmlinuz", "--initrd", tmp + "/l1.img", "--mem", "512M", "--no-reboot",
                         "--append", "quiet panic=-1", env=dict(os.environ, USERKVM_PARAMS=params), timeout=timeout)
    out = out.replace("\r", "")
    assert "guest: done" in out, out
    return out


def static_client(name):
    return os.path.join(BUILD, "tests/client/test_client_static_" + name)


def kvm_intel_in_the_guest_runs_clients():
    """Debian's own KVM as L1, and on its /dev/kvm the programs that are our tests."""
    script = "".join(f"echo client: {c}; CMOCKA_MESSAGE_OUTPUT=TAP /bin/{c}; echo status: $?\n" for c in CLIENTS)
    out = in_kvm_intel(script, {c: static_client(c) for c in CLIENTS}, timeout=400)
    assert out.count("status: 0") == len(CLIENTS) and "not ok" not in out, out


def kvm_intel_runs_clients_without_unrestricted_guest():
    """L1's real mode is emulated on its way up, and so is that of its guests, by it."""
    clients = ("first", "nested_insn", "nested_exits")
    script = "".join(f"echo client: {c}; CMOCKA_MESSAGE_OUTPUT=TAP /bin/{c}; echo status: $?\n" for c in clients)
    out = in_kvm_intel(script, {c: static_client(c) for c in clients}, 400, "unrestricted_guest=0")
    assert out.count("status: 0") == len(clients) and "not ok" not in out, out


def an_l2_moves_to_linux_and_back():
    """KVM_GET_NESTED_STATE of ours loads into a kernel's KVM, and a kernel's into ours: an L2 in the middle of its work."""
    move = os.path.join(BUILD, "tests/client/test_client_nested_move")
    with tempfile.TemporaryDirectory() as tmp:
        out, status = tap.run(USERKVM, "run", "--", move, "save", tmp + "/ours")
        assert status == 0, out
        out = in_kvm_intel("move load /bin/state; echo loaded: $?; move save /tmp/state; echo saved: $?\n"
                           "echo begin; busybox gzip -c /tmp/state | busybox base64; echo end\n",
                           {"move": static_client("nested_move"), "state": tmp + "/ours"}, timeout=100)
        assert "loaded: 0" in out and "saved: 0" in out and "skip" not in out, out
        with open(tmp + "/linux", "wb") as f:
            f.write(gzip.decompress(base64.b64decode(out.split("begin\n")[1].split("end\n")[0])))
        out, status = tap.run(USERKVM, "run", "--", move, "load", tmp + "/linux")
        assert status == 0, out


tap.select((a_hypervisor_without_ept_answers_its_guest, hypervisors_run_without_unrestricted_guest, a_hypervisor_with_ept_moves_logs_and_emulates_memory,
            a_hypervisor_on_two_processors_shoots_down_what_a_tlb_holds,
            the_tables_stay_in_order, without_nested_there_is_no_vmx, an_l2_moves_to_linux_and_back),
           (kvm_intel_in_the_guest_runs_clients, kvm_intel_runs_clients_without_unrestricted_guest), sys.argv[3:])
