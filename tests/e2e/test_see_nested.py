"""userkvm vmcs and userkvm ept --l2, on a guest that is a hypervisor.

usage: test_see_nested.py USERKVM BUILD
"""
import json
import os
import re
import subprocess
import sys
import tempfile

import tap

USERKVM, BUILD = (os.path.abspath(p) for p in sys.argv[1:3])
CPUID, JMP = "0fa2", "ebfe"
PIN, PRIMARY, SECONDARY, EPTP, RFLAGS, TR, HOST_TR, LINK = 0x4000, 0x4002, 0x401E, 0x201A, 0x6820, 0x4822, 0xC0C, 0x2800


class L1:
    """l1_on_command.c under userkvm run."""

    def __init__(self, *words):
        self.errors = tempfile.TemporaryFile("w+")
        self.p = subprocess.Popen([USERKVM, "run", "--", os.path.join(BUILD, "tests/client/l1_on_command")], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=self.errors, text=True, env=dict(os.environ, USERKVM_PARAMS="nested=1"))
        ready = self.p.stdout.readline()
        if ready != "ready\n":
            raise tap.Skip("no VMX is offered")
        self.pid = str(self.p.pid)
        for word in words:
            assert self.tell(word) == "done"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.p.kill()
        self.p.wait()
        self.p.stdin.close()
        self.p.stdout.close()

    def tell(self, line):
        self.p.stdin.write(line + "\n")
        self.p.stdin.flush()
        return self.p.stdout.readline().strip()

    def said(self):
        self.errors.seek(0)
        return self.errors.read()


def ask(*argv, status=0):
    out, got = tap.run(USERKVM, *argv)
    assert got == status, f"{argv}: status {got}\n{out}"
    return out


def refused(*argv):
    """Status 1 and one line, which is returned."""
    lines = ask(*argv, status=1).splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def fields(*argv):
    v = json.loads(ask("vmcs", *argv, "--json"))
    return {f["name"]: f for f in v["fields"]}, v


# --- userkvm vmcs ---

def each_vmcs_is_told_where_there_is_one():
    with L1() as c:
        assert "no VMX operation" in ask("vmcs", c.pid) and "VMCS01" in ask("vmcs", "--01", c.pid)
        assert "VMXON" in refused("vmcs", "--12", c.pid) and "VMXON" in refused("vmcs", "--02", c.pid)
        assert "no vCPU 7" in refused("vmcs", "--vcpu", "7", c.pid)
        assert c.tell("vmxon") == "done"
        assert "VMCS02" in refused("vmcs", "--02", c.pid)
        got, v = fields("--12", c.pid)
        assert v["vmx_operation"] and not v["l2_runs"] and v["gpa"] == 0x31000 and not v["launched"], v
        assert got["GUEST_RFLAGS"]["value"] == 2 and got["HOST_TR_SELECTOR"]["encoding"] == HOST_TR, got
        assert c.tell("vmclear") == "done"
        assert "VMPTRLD" in refused("vmcs", "--12", c.pid)


def control_fields_are_told_bit_by_bit():
    with L1("vmxon", "code " + CPUID) as c:
        assert c.tell(f"write {PRIMARY} {0x84006172 | 1 << 7 | 1 << 30}") == "done"
        assert c.tell("launch") == "exit 10"
        got, v = fields("--12", c.pid)
        bits = got["CPU_BASED_VM_EXEC_CONTROL"]["bits"]
        assert bits["HLT exiting"] and bits["PAUSE exiting"] and not bits["use MSR bitmaps"] and v["launched"], bits
        assert got["VM_EXIT_REASON"]["words"] == "CPUID", got["VM_EXIT_REASON"]
        out = ask("vmcs", "--12", c.pid)
        assert re.search(r"^  CPU_BASED_VM_EXEC_CONTROL +4002h +0xc40061f2$", out, re.M), out
        assert re.search(r"^      1  .*HLT exiting \(7\)", out, re.M) and re.search(r"^      0  .*use TSC offsetting \(3\)", out, re.M), out
        heads = [line for line in out.splitlines() if not line.startswith(" ")]
        assert heads[1:] == ["guest-state area: register state", "guest-state area: non-register state", "host-state area",
                             "VM-execution control fields", "VM-exit control fields", "VM-entry control fields",
                             "VM-exit information fields"], heads


def a_vmcs_is_copied_while_l2_runs():
    with L1("vmxon", "ept", "code " + CPUID) as c:
        assert c.tell("launch") == "exit 10"
        assert c.tell("code " + JMP) == "done" and c.tell("loop") == "loops"
        for _ in range(20):
            got, v = fields(c.pid)
            if v["l2_runs"]:
                break
        assert v["l2_runs"] and v["vmcs"] == "VMCS02" and got["GUEST_RIP"]["value"] == 0x40000, v
        assert "L2 runs" in ask("vmcs", "--01", c.pid)
        d = json.loads(ask("vmcs", "--json", c.pid, "--diff", "12", "02"))
        rule = {x["name"]: x for x in d["differ"]}
        assert rule["EPT_POINTER"]["a"] == 0x5001E and rule["EPT_POINTER"]["rule"] == "L0's own", rule["EPT_POINTER"]
        assert rule["CPU_BASED_VM_EXEC_CONTROL"]["rule"] == "merged" and "HOST_RIP" in rule, rule
        assert "GUEST_CS_SELECTOR" not in rule and all(x["why"] for x in d["differ"]), rule
        out = ask("vmcs", "--diff", "12", "02", c.pid)
        assert "vmcs12 at guest-physical 0x31000, launched | VMCS02, launched" in out, out
        assert re.search(r"^      only in VMCS02: .*unconditional I/O exiting \(24\)", out, re.M), out


def a_waiting_vcpu_is_copied_too():
    with L1("vmxon", "code " + CPUID) as c:
        assert c.tell("launch") == "exit 10"
        assert c.tell("code f4ebfd") == "done" and c.tell("loop") == "loops"  # hlt, for ever: no interrupt comes
        for _ in range(20):
            got, v = fields(c.pid)
            if v["l2_runs"] and got["GUEST_RIP"]["value"] == 0x40001:
                return
        assert False, v


def check_tells_each_failing_check_and_what_would_pass():
    with L1("vmxon", "code " + CPUID) as c:
        assert "every check of VM entry passes" in ask("vmcs", "check", "--12", c.pid)
        assert "every check of VM entry passes" in ask("vmcs", "check", "--01", c.pid)
        for field, value in ((PIN, 0x14), (HOST_TR, 0), (RFLAGS, 0), (TR, 0x83)):
            assert c.tell(f"write {field} {value}") == "done"
        out = ask("vmcs", "check", c.pid, status=1)
        for want in ("vmcs12 at guest-physical 0x31000, not launched: 4 checks of VM entry fail",
                     "CTL_PIN_ALLOWED: PIN_BASED_VM_EXEC_CONTROL (4000h) = 0x14, must be: allowed by IA32_VMX_TRUE_PINBASED_CTLS; "
                     'with 0x16 it would pass [SDM "Checks on VMX Controls"]',
                     'HOST_TR_ZERO: HOST_TR_SELECTOR (c0ch) = 0, must be: not 0 [SDM "Checks on Host-State Area"]',
                     "GUEST_RFLAGS_RESERVED: GUEST_RFLAGS (6820h) = 0, must be", "with 0x2 it would pass",
                     "SEG_TR_TYPE: GUEST_TR_AR_BYTES (4822h) = 0x83", "with 0x8b it would pass"):
            assert want in out, f"no {want!r} in\n{out}"
        v = json.loads(ask("vmcs", "check", "--12", "--json", c.pid, status=1))
        assert [f["check"] for f in v["failed"]] == ["CTL_PIN_ALLOWED", "HOST_TR_ZERO", "SEG_TR_TYPE", "GUEST_RFLAGS_RESERVED"], v
        # what it says would pass, does
        for f in v["failed"]:
            assert c.tell(f"write {f['encoding']} {f.get('passes', 40)}") == "done"
        assert "every check" in ask("vmcs", "check", "--12", c.pid)
        assert c.tell("launch") == "exit 10"
        assert c.tell(f"write {PIN} 0x14") == "done" and c.tell("resume") == "fail 7"
        assert "CTL_PIN_ALLOWED" in c.said(), c.said()


def the_clients_own_failed_entry_explains_itself():
    with L1() as c:
        assert c.tell("client") == "client 0x80000021"
        assert re.search(r"^userkvm: vCPU 0: VM entry failed \(exit 33\): SEG_TR_TYPE: GUEST_TR_AR_BYTES \(4822h\) = 0x\w+, must be: ",
                         c.said(), re.M), c.said()
        out = ask("vmcs", "check", "--01", c.pid, status=1)
        assert "VMCS01, not launched: 1 check of VM entry fails" in out and "SEG_TR_TYPE" in out, out


def wrong_words_are_wrong_usage():
    for argv in (("vmcs",), ("vmcs", "--01", "--12", "1"), ("vmcs", "--diff", "12", "1"), ("vmcs", "--diff", "1", "12", "12"),
                 ("vmcs", "check", "--02", "1"), ("vmcs", "--vcpu", "x", "1")):
        ask(*argv, status=2)


tap.select((each_vmcs_is_told_where_there_is_one, control_fields_are_told_bit_by_bit, a_vmcs_is_copied_while_l2_runs,
            a_waiting_vcpu_is_copied_too, check_tells_each_failing_check_and_what_would_pass,
            the_clients_own_failed_entry_explains_itself, wrong_words_are_wrong_usage), (), sys.argv[3:])
