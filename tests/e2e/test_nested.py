"""userkvm boot with the hypervisors of examples/l1, and Debian's kvm-intel as one where its files are at hand.

usage: test_nested.py USERKVM BUILD
"""
import os
import sys

import tap

USERKVM, BUILD = sys.argv[1:3]


def boot(name, params="nested=1"):
    out, status = tap.run(USERKVM, "boot", os.path.join(BUILD, "examples/l1/l1_" + name), "--no-reboot", "--mem", "64M",
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


def the_tables_stay_in_order():
    out, status = tap.run(USERKVM, "boot", os.path.join(BUILD, "examples/l1/l1_ept"), "--no-reboot", "--mem", "64M",
                          env=dict(os.environ, USERKVM_PARAMS="nested=1", USERKVM_CHECK="1"))
    assert status == 0 and "ept: behind the moved page 0x5" in out, out


def without_nested_there_is_no_vmx():
    # IA32_FEATURE_CONTROL refuses the bit: #GP without an IDT, a shutdown
    lines, status = boot("hello", "nested=0")
    assert status != 0 and not any("guest says" in line for line in lines), lines


tap.select((a_hypervisor_without_ept_answers_its_guest, a_hypervisor_with_ept_moves_logs_and_emulates_memory,
            the_tables_stay_in_order, without_nested_there_is_no_vmx), (), sys.argv[3:])
