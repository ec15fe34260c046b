"""userkvm boot with the hypervisors of examples/l1, and Debian's kvm-intel as one where its files are at hand.

usage: test_nested.py USERKVM BUILD
"""
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


CLIENTS = ("first",)
MODULES = ("irqbypass", "kvm", "kvm-intel")
INIT = ("#!/bin/sh\nexport PATH=/bin\nmount -t proc proc /proc\nmount -t devtmpfs dev /dev\n" +
        "".join(f"busybox insmod /bin/{m}.ko\n" for m in MODULES) +
        "".join(f"echo client: {c}; CMOCKA_MESSAGE_OUTPUT=TAP /bin/{c}; echo status: $?\n" for c in CLIENTS) +
        "echo guest: done\npoweroff -f\n")


def kvm_intel_in_the_guest_runs_clients():
    """Debian's own KVM as L1, and on its /dev/kvm the programs that are our tests."""
    demo = os.path.join(BUILD, "demo")
    if not os.path.exists(demo + "/modules/kvm-intel.ko"):
        raise tap.Skip("no kernel with kvm-intel (scripts/demo-files)")
    files = {m + ".ko": f"{demo}/modules/{m}.ko" for m in MODULES}
    files.update({c: os.path.join(BUILD, "tests/client/test_client_static_" + c) for c in CLIENTS})
    with tempfile.TemporaryDirectory() as tmp:
        initramfs.write(tmp + "/l1.img", INIT, files)
        out, _ = tap.run(USERKVM, "boot", demo + "/vmlinuz", "--initrd", tmp + "/l1.img", "--mem", "512M", "--no-reboot",
                         "--append", "quiet panic=-1", env=dict(os.environ, USERKVM_PARAMS="nested=1"), timeout=400)
    assert "guest: done" in out, out
    assert out.count("status: 0") == len(CLIENTS) and "not ok" not in out, out


tap.select((a_hypervisor_without_ept_answers_its_guest, a_hypervisor_with_ept_moves_logs_and_emulates_memory,
            a_hypervisor_on_two_processors_shoots_down_what_a_tlb_holds,
            the_tables_stay_in_order, without_nested_there_is_no_vmx), (kvm_intel_in_the_guest_runs_clients,), sys.argv[3:])
