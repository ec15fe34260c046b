"""userkvm vmcs and userkvm ept --l2, on a guest that is a hypervisor.

usage: test_see_nested.py USERKVM BUILD
"""
import json
import os
import re
import sys
import tempfile
import xml.etree.ElementTree

import tap

USERKVM, BUILD = (os.path.abspath(p) for p in sys.argv[1:3])
CPUID, JMP = "0fa2", "ebfe"
PIN, PRIMARY, SECONDARY, EPTP, RFLAGS, TR, HOST_TR, LINK = 0x4000, 0x4002, 0x401E, 0x201A, 0x6820, 0x4822, 0xC0C, 0x2800


class L1(tap.Client):
    """l1_on_command.c under userkvm run."""
    argv = (USERKVM, "run", "--", os.path.join(BUILD, "tests/client/l1_on_command"))

    def __init__(self, *words, **how):
        super().__init__(USERKVM_PARAMS="nested=1", **how)
        for word in words:
            assert self.tell(word) == "done"

    def stderr(self):
        self.errors = tempfile.TemporaryFile("w+")
        return self.errors

    def started(self, line):
        if line != "ready\n":
            raise tap.Skip("no VMX is offered")

    def said(self):
        self.errors.seek(0)
        return self.errors.read()


ask, refused = tap.asker(USERKVM)


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


def a_vcpu_that_waits_for_sipi_is_copied_and_goes_on_waiting():
    with L1("second") as c:
        for _ in range(20):
            assert "VMCS01" in ask("vmcs", "--vcpu", "1", c.pid)
        assert c.tell("vmxon") == "done", "KVM_RUN of the second ended by a look"


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


# check, field, value, and others that make it apply
PROC_IO, PROC_MSRS = 1 << 25, 1 << 28
ROWS = (
    ("CTL_PRIMARY_ALLOWED", 0x4002, 0x84006170), ("CTL_SECONDARY_ALLOWED", 0x401E, 1 << 31), ("CTL_CR3_TARGET_COUNT", 0x400A, 5),
    ("CTL_IO_BITMAP_A", 0x2000, 1, (0x4002, 0x84006172 | PROC_IO)), ("CTL_IO_BITMAP_B", 0x2002, 1 << 60, (0x4002, 0x84006172 | PROC_IO)),
    ("CTL_MSR_BITMAP", 0x2004, 0x10, (0x4002, 0x84006172 | PROC_MSRS)), ("CTL_APIC_ACCESS", 0x2014, 8, (0x401E, 1)),
    ("CTL_VIRTUAL_NMI", 0x4000, 0x36), ("CTL_NMI_WINDOW", 0x4002, 0x84006172 | 1 << 22), ("CTL_VPID", 0, 0, (0x401E, 1 << 5)),
    ("CTL_EPTP_MEMTYPE", 0x201A, 0x50019, (0x401E, 2)), ("CTL_EPTP_WALK", 0x201A, 0x50006, (0x401E, 2)),
    ("CTL_EPTP_RESERVED", 0x201A, 0x5089E, (0x401E, 2)), ("CTL_UNRESTRICTED", 0x401E, 1 << 7), ("CTL_PML", 0x200E, 8, (0x201A, 0x5001E), (0x401E, 1 << 17 | 2)),
    ("CTL_VMREAD_BITMAP", 0x2026, 1, (0x401E, 1 << 14)), ("CTL_EXIT_ALLOWED", 0x400C, 0x200), ("CTL_ENTRY_ALLOWED", 0x4012, 0x200),
    ("CTL_SAVE_TIMER", 0x400C, 0x36FFB | 1 << 22), ("CTL_EXIT_STORE", 0x2006, 8, (0x400E, 1)), ("CTL_ENTRY_LOAD", 0x200A, 1 << 60, (0x4014, 1)),
    ("CTL_INJECT_TYPE", 0x4016, 0x80000103), ("CTL_INJECT_VECTOR", 0x4016, 0x80000203), ("CTL_INJECT_HAS_ERROR", 0x4016, 0x8000030D),
    ("CTL_INJECT_ERROR", 0x4018, 1 << 16, (0x4016, 0x80000B0D)), ("CTL_INJECT_RESERVED", 0x4016, 0x80001306),
    ("CTL_INJECT_LENGTH", 0x401A, 16, (0x4016, 0x80000420)),
    ("HOST_CR0_FIXED", 0x6C00, 0x80000011), ("HOST_CR4_FIXED", 0x6C04, 0x20), ("HOST_CR3_WIDTH", 0x6C02, 1 << 60), ("HOST_SYSENTER_ESP", 0x6C10, 1 << 63),
    ("HOST_PAE", 0x6C04, 0x2000), ("HOST_RIP_WIDTH", 0x6C16, 1 << 63), ("HOST_SELECTORS", 0xC02, 9), ("HOST_CS_ZERO", 0xC02, 0), ("HOST_FS_BASE_CANONICAL", 0x6C06, 1 << 63),
    ("HOST_PAT_TYPES", 0x2C00, 2, (0x400C, 0x36FFB | 1 << 19)), ("HOST_EFER_BITS", 0x2C02, 0x100, (0x400C, 0x36FFB | 1 << 21)),
    ("GUEST_CR0_FIXED", 0x6800, 0x80000011), ("GUEST_CR4_FIXED", 0x6804, 0x20), ("GUEST_CR3_WIDTH", 0x6802, 1 << 60), ("GUEST_DR7_WIDTH", 0x681A, 1 << 32, (0x4012, 0x13FB | 4)),
    ("GUEST_DEBUGCTL", 0x2802, 4, (0x4012, 0x13FB | 4)), ("GUEST_ACTIVITY", 0x4826, 2), ("GUEST_LINK_ALIGNED", 0x2800, 0x33008),
    ("GUEST_SYSENTER_EIP_CANONICAL", 0x6826, 1 << 63), ("GUEST_RIP_RANGE", 0x681E, 1 << 63), ("GUEST_RFLAGS_RESERVED", 0x6820, 1 << 22 | 2), ("GUEST_RFLAGS_VM", 0x6820, 1 << 17 | 2),
    ("SEG_CS_TYPE", 0x4816, 0xA093), ("SEG_CS_L_AND_D", 0x4816, 0xE09B), ("SEG_SS_TYPE", 0x4818, 0xC091), ("SEG_PRESENT", 0x481A, 0xC013),
    ("SEG_DATA_ACCESSED", 0x481A, 0xC092), ("SEG_BASE_32_BITS", 0x680C, 1 << 32), ("SEG_BASE_CANONICAL", 0x680E, 1 << 63), ("SEG_TR_TYPE", 0x4822, 0x83), ("SEG_TR_USABLE", 0x4822, 0x1008B),
    ("SEG_LDTR_TYPE", 0x4820, 0x83), ("SEG_IN_LDT", 0x80E, 0x2C), ("SEG_SYSTEM", 0x4822, 0x9B), ("SEG_CODE_OR_DATA", 0x481A, 0xC083), ("SEG_GRANULARITY", 0x481A, 0xC093, (0x4806, 0)),
    ("GUEST_TABLE_LIMIT", 0x4810, 1 << 16), ("GUEST_TABLE_BASE", 0x6818, 1 << 63), ("GUEST_INT_RESERVED", 0x4824, 1 << 5), ("GUEST_INT_STI", 0x4824, 1),
    ("GUEST_INT_SMI", 0x4824, 4), ("GUEST_INT_NMI", 0x4824, 2, (0x4016, 0x80000202)), ("GUEST_RFLAGS_IF", 0x6820, 2, (0x4016, 0x80000020)), ("GUEST_DBG_RESERVED", 0x6822, 1 << 20),
    ("GUEST_HLT_DPL", 0x4818, 0xC0F3, (0x4826, 1)), ("GUEST_HLT_SHADOW", 0x4824, 2, (0x4826, 1)), ("GUEST_HLT_EVENT", 0x4016, 0x80000306, (0x4826, 1)),
)


def each_check_is_told_and_what_is_said_to_pass_does():
    wrong = []
    with L1("vmxon", "code " + CPUID) as c:
        for name, field, value, *more in ROWS:
            c.tell("fill")
            for f, v in (*more, (field, value)):
                assert c.tell(f"write {f} {v}") == "done"
            failed = json.loads(tap.run(USERKVM, "vmcs", "check", "--12", "--json", c.pid)[0])["failed"]
            mine = [f for f in failed if f["check"] == name]
            if len(mine) != 1 or mine[0]["encoding"] not in (field, 0xC02):
                # HOST_SELECTORS is of seven fields, told of one
                wrong.append((name, [f["check"] for f in failed]))
                continue
            if "passes" not in mine[0]:
                continue
            assert c.tell(f"write {mine[0]['encoding']} {mine[0]['passes']}") == "done"
            failed = json.loads(tap.run(USERKVM, "vmcs", "check", "--12", "--json", c.pid)[0])["failed"]
            if any(f["check"] == name for f in failed):
                wrong.append((name, "does not pass", mine[0]["passes"]))
    assert not wrong, wrong


def a_look_touches_no_memory_that_may_be_gone():
    with L1("vmxon", f"write {PRIMARY} {0x84006172 | 1 << 21}", "write 0x2012 0x48000", "unmap 0x48000 0") as c:
        assert "every check of VM entry passes" in ask("vmcs", "check", "--12", c.pid)
        assert c.tell(f"write {LINK} 0x48000") == "done"
        assert "VM entry pass" in ask("vmcs", "check", "--12", c.pid)
        assert c.tell("vmclear") == "done", "the client is no more"


def the_clients_own_failed_entry_explains_itself():
    with L1() as c:
        assert c.tell("client") == "client 0x80000021"
        assert re.search(r"^userkvm: vCPU 0: VM entry failed \(exit 33\): SEG_TR_TYPE: GUEST_TR_AR_BYTES \(4822h\) = 0x\w+, must be: ",
                         c.said(), re.M), c.said()
        out = ask("vmcs", "check", "--01", c.pid, status=1)
        assert "VMCS01, not launched: 1 check of VM entry fails" in out and "SEG_TR_TYPE" in out, out


# --- userkvm ept --l2 ---

EPT = 0x50000  # the four tables of EPT12: 0x50000 to 0x53000
READ_60 = "488b1c2500000600"  # mov rbx, [0x60000]
WRITE_61 = "48891c2500100600"  # mov [0x61000], rbx


def pte(page):
    return EPT + 0x3000 + 8 * page


def verdict(c, address, *more):
    out = ask("ept", "walk", "--l2", *more, c.pid, hex(address))
    return re.search(r"^=> EPT02, against EPT12: (.*)$", out, re.M)[1], out


def without_an_l2_one_line_says_so():
    with L1() as c:
        for command in (("dump",), ("walk", "0"), ("explain", "0", "w"), ("map",)):
            assert "not in VMX operation" in refused("ept", command[0], "--l2", c.pid, *command[1:])
        assert c.tell("vmxon") == "done" and c.tell("code " + CPUID) == "done"
        assert "no L2 with EPT yet" in refused("ept", "dump", "--l2", c.pid)
        assert c.tell("launch") == "exit 10"
        assert "no L2 with EPT yet" in refused("ept", "walk", "--l2", c.pid, "0")
        assert c.tell("code " + JMP) == "done" and c.tell("loop") == "loops"
        for _ in range(50):
            if "without EPT" in refused("ept", "dump", "--l2", c.pid):
                return
        assert False, refused("ept", "dump", "--l2", c.pid)


def three_tables_stand_side_by_side():
    with L1("vmxon", "ept", "code " + READ_60 + WRITE_61 + CPUID) as c:
        assert c.tell("launch") == "exit 10"
        said, out = verdict(c, 0x60123)
        assert said.startswith("equal (the same rights"), out
        assert re.search(r"^  PTE   \[ 96\] at L1 0x000053300 = 0x0000000000060037  R W X \. \. WB +4K page at L1 0x60000$", out, re.M), out
        hva = int(re.search(r"^=> L2 guest-physical 0x60123 is L1 guest-physical 0x60123 is host-virtual (0x\w+)", out, re.M)[1], 16)
        with open(f"/proc/{c.pid}/mem", "rb") as mem:
            mem.seek(hva - 0x123 - 0x60000 + 0x40000)
            assert mem.read(8) == bytes.fromhex(READ_60)
        assert re.search(rf"^  EPT02  PTE   4K  R W X \. \.  host-virtual {hex(hva)}$", out, re.M), out
        assert verdict(c, 0x70000)[0].startswith("not yet made"), out
        assert verdict(c, 0x200000)[0].startswith("equal (neither"), out
        said, out = verdict(c, 0x40000, "--gva")
        assert "PTE   at L2 0x13200 (L1 0x13200) = 0x0000000000040027" in out and said.startswith("equal"), out
        assert "#GP" in ask("ept", "walk", "--l2", "--gva", c.pid, "0x800000000000")
        assert "L2 gets #PF" in ask("ept", "walk", "--l2", "--gva", c.pid, "0x40000000")
        d = json.loads(ask("ept", "dump", "--l2", "--json", c.pid))
        assert d["eptp12"] == 0x5001E and [(r["start"], r["end"], r["l1"]) for r in d["ept12"]] == [(0, 0x200000, 0)], d
        assert any(r["start"] <= 0x61000 < r["end"] and r["w"] and r["hva"] - r["start"] == hva - 0x60123 for r in d["ept02"]), d
        text = ask("ept", "dump", "--l2", c.pid)
        assert re.search(r"^0x000000000000-0x000000200000     2M PTE   R W X . . WB       PG  L1 0x000000000000  slot 0$", text, re.M), text
        svg = ask("ept", "map", "--l2", c.pid)
        texts = [t.text for t in xml.etree.ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
        assert "EPT12" in texts and "EPT02 leaves" in texts and any("range 0" in t for t in texts), texts


def the_verdict_says_why_ept02_is_narrower():
    with L1("vmxon", "ept", f"write {EPTP} 0x5005e", "code " + READ_60 + CPUID) as c:  # A/D on
        assert c.tell("launch") == "exit 10"
        said, out = verdict(c, 0x60000)
        assert said.startswith("narrower (- W -") and "D flag (bit 9)" in said, out
        assert re.search(r"^  EPT12  PTE   4K  R W X A -  ", out, re.M), out
        assert "EPT02 lacks bit 1 (W)" in ask("ept", "explain", "--l2", c.pid, "0x60000", "w")
    with L1("vmxon", "ept", "log", "code " + READ_60 + CPUID) as c:
        assert c.tell("launch") == "exit 10"
        said, out = verdict(c, 0x60000)
        assert said.startswith("narrower (- W -") and "dirty log" in said, out
    # mov rbx, [0x53000]: the lowest table of EPT12 itself
    with L1("vmxon", "ept", "code 488b1c2500300500" + CPUID) as c:
        assert c.tell("launch") == "exit 10"
        said, out = verdict(c, 0x53000)
        assert said.startswith("narrower (- W -") and "table of EPT12's" in said, out
    # a large page of EPT12's over memory of small ones
    with L1("vmxon", "ept", f"store {EPT + 0x2000} {0xB7}", "log", "code " + READ_60 + CPUID) as c:
        assert c.tell("launch") == "exit 10"
        said, out = verdict(c, 0x60000)
        assert "R W X" in out and "PDE   2M" in out and "EPT02  PTE   4K" in out and said.startswith("narrower"), out
    with L1("vmxon", "ept", f"store {pte(0x60)} {0x10000037}", "code " + CPUID) as c:
        assert c.tell("launch") == "exit 10"
        said, out = verdict(c, 0x60000)
        assert said.startswith("none, a device") and "L1 guest-physical 0x10000000, in no memslot" in out, out
        assert "KVM_EXIT_MMIO" in ask("ept", "explain", "--l2", c.pid, "0x60000", "w")


def ept02_lags_behind_what_no_processor_has_told():
    with L1("vmxon", "ept", "code " + READ_60 + WRITE_61 + CPUID) as c:
        assert c.tell("launch") == "exit 10"
        for entry, want in ((0, "EPT12 maps nothing there any more"), (0x62037, "another page than EPT12's now"),
                            (0x60035, "EPT02 still allows - W -, which EPT12 has taken away")):
            assert c.tell(f"poke {pte(0x60)} {entry}") == "done"
            said, out = verdict(c, 0x60000)
            assert said.startswith("lags (") and want in said and "INVEPT" in said, out


def explain_says_who_hears_of_the_fault():
    with L1("vmxon", "ept", f"store {pte(0x60)} {0x60035}", f"store {pte(0x63)} {0x63032}", f"store {pte(0x64)} 0", "code " + CPUID) as c:
        assert c.tell("launch") == "exit 10"
        for argv, wants in (
            (("0x60000", "w"), ("L2's guest-physical 0x60000 makes L1 an EPT violation", "bits 5:0 0x2a", "EPT12's PTE lacks bit 1 (W)")),
            (("0x60000", "r"), ("userkvm settles alone", "EPT02 has no entry yet", "PTE   [ 96] at L1")),
            (("0x63000", "r"), ("EPT misconfiguration (exit reason 49)", "PTE has W without R", "W without R: EPT misconfiguration for L1")),
            (("0x64000", "x"), ("makes L1 an EPT violation", "bits 5:0 0x4", "not present")),
            (("0x40000", "x"), ("succeeds without a VM exit", "bit 2 (X)", "memslot 0")),
            (("--gva", "0x40000", "w"), ("L2's guest-virtual 0x40000", "succeeds without a VM exit")),
            (("--gva", "0x40000000", "r"), ("refused by the guest's own page tables", "P (bit 0) is clear")),
        ):
            options = [a for a in argv if a.startswith("--")]
            out = ask("ept", "explain", "--l2", *options, c.pid, *[a for a in argv if not a.startswith("--")])
            for want in wants:
                assert want in out, f"{argv}: no {want!r} in\n{out}"
        # and so it comes: the write is L1's exit 48 with that qualification
        assert c.tell("code " + "48891c2500000600") == "done" and c.tell("resume") == "exit 48"
        got, _ = fields("--12", c.pid)
        assert got["EXIT_QUALIFICATION"]["value"] & 0x3F == 0x2A, got["EXIT_QUALIFICATION"]


def json_of_l2_says_what_the_text_says():
    with L1("vmxon", "ept", f"store {pte(0x61)} {0x61035}", f"store {pte(0x63)} {0x63032}", "code " + READ_60 + CPUID) as c:
        assert c.tell("launch") == "exit 10"
        for address, *options in ((0x60123,), (0x61000,), (0x63000,), (0x70000,), (0x200000,), (0x40000, "--gva"), (0x40000000, "--gva"),
                                  (0x800000000000, "--gva")):
            said = ask("ept", "walk", "--l2", *options, c.pid, hex(address))
            j = json.loads(ask("ept", "walk", "--l2", "--json", *options, c.pid, hex(address)))
            for table in ("ept12", "ept02"):
                for e in j.get(table, ()):
                    assert re.search(rf"{e['name']} .*0x0*{e['at']:x} = 0x{e['entry']:016x}", said), (e, said)
            for e in j.get("guest", {}).get("entries", ()):
                assert j["result"] == "refused" or f"at L2 {e['gpa']:#x} (L1 {e['l1']:#x}) = 0x{e['entry']:016x}" in said, (e, said)
            want = {0x63000: "not mapped by L1", 0x200000: "not mapped by L1", 0x40000000: "guest page fault", 0x800000000000: "refused"}
            assert j["result"] == want.get(address, "mapped"), j
            if "verdict" in j:
                assert f"EPT02, against EPT12: {j['verdict']} ({j['verdict_why']})" in said, (j, said)
            if j["result"] == "mapped":
                assert f"is L1 guest-physical {j['l1']:#x} is host-virtual {j['hva']:#x} of" in said and j["mapping"] in said, (j, said)
            for kind in "rwx":
                said = ask("ept", "explain", "--l2", *options, c.pid, hex(address), kind).split("\n")[0]
                j = json.loads(ask("ept", "explain", "--l2", "--json", *options, c.pid, hex(address), kind))
                outcome = next(o for w, o in (("exit reason 49", "L1's misconfiguration"), ("makes L1 an EPT violation", "L1's violation"),
                                              ("without a VM exit", "no exit"), ("has no entry yet", "faulted in"),
                                              ("the guest takes #PF", "guest page fault"), ("#GP", "not canonical")) if w in said)
                assert j["explanation"] == said and j["outcome"] == outcome and j["access"] == kind, (j, said)
        assert {e["kind"] for e in json.loads(ask("ept", "walk", "--l2", "--json", c.pid, "0x63000"))["ept12"]} == {"table", "misconfigured"}


def a_vmx_abort_names_the_msr():
    with L1("vmxon", "code " + CPUID, "poke 0x45000 0xdeadbeef", "write 0x2008 0x45000", "write 0x4010 1") as c:
        c.tell("launch")  # L1 is no more
        assert re.search(r"VMX abort 4, L1 shuts down: entry 1 of the VM-exit MSR-load area at 0x45000, MSR 0xdeadbeef, value 0: "
                         r'WRMSR of that value would be #GP \[SDM "VMX Aborts"\]$', c.said(), re.M), c.said()


def kvms_nested_tracepoints_are_recorded():
    """What Linux's have, on L1's that do all of it."""
    if tap.run(USERKVM, "trace", "--list", "kvm_nested_vmenter")[1]:
        raise tap.Skip("built without tracepoints")
    got = {}
    for client in ("nested_exits", "nested_checks"):
        path = os.path.join(BUILD, "tests/client/test_client_" + client)
        with tempfile.TemporaryDirectory() as tmp:
            out, status = tap.run(USERKVM, "trace", "-e", "kvm_nested_*", "-o", tmp + "/t.txt", "--", path)
            assert status == 0, out
            with open(tmp + "/t.txt") as f:
                for line in f:
                    m = re.search(r" (kvm_nested_\w+): +(.*)", line)
                    if m:
                        got.setdefault(m[1], []).append(m[2])
    for event, want in (
        ("kvm_nested_vmenter", r"^rip: 0x\w+ vmcs: 0x0000000000031000 nested_rip: 0x0000000000040000 .* nested_ept=n guest_cr3: 0x0000000000010000$"),
        ("kvm_nested_vmexit", r"^vcpu 0 reason CPUID rip 0x40000 info1 0x0000000000000000 "),
        ("kvm_nested_vmexit", r"^vcpu 0 reason INVALID_STATE FAILED_VMENTRY "),
        ("kvm_nested_vmexit_inject", r"^reason: CPUID ext_inf1: 0x0000000000000000 "),
        ("kvm_nested_vmexit_inject", r"^reason: EXTERNAL_INTERRUPT "),
        ("kvm_nested_intr_vmexit", r"^rip: 0x0000000000040\w+$"),
        ("kvm_nested_vmenter_failed", r"^CTL_PIN_ALLOWED err 7$"),
        ("kvm_nested_vmenter_failed", r"^HOST_TR_ZERO err 8$"),
    ):
        assert any(re.search(want, line) for line in got.get(event, ())), (event, want, got.get(event, ())[:5])


def a_core_file_says_the_same_of_l2():
    with tempfile.TemporaryDirectory() as tmp:
        with L1("vmxon", "ept", "code " + CPUID, cwd=tmp) as c:
            assert c.tell("launch") == "exit 10"
            asked = [("dump",), ("dump", "--json"), ("walk", "0x40000"), ("walk", "0x60000"), ("walk", "0x40000000"),
                     ("explain", "0x40000", "x"), ("explain", "0x61000", "w")]
            live = [ask("ept", a[0], "--l2", c.pid, *a[1:]) for a in asked]
            core = tap.core_file(c, tmp)
        for a, was in zip(asked, live):
            now = ask("ept", a[0], "--l2", "--core", core, *a[1:])
            # of a mapping's name a core knows less
            now, was = ([line for line in text.splitlines() if not re.search(r"[0-9a-f]+-[0-9a-f]+ [r-][w-][x-]", line)] for text in (now, was))
            assert now == was, (a, was, now)
        assert "svg" in ask("ept", "map", "--l2", "--core", core, "-o", "/dev/stdout")
        assert "does not tell how the guest pages" in refused("ept", "walk", "--l2", "--gva", "--core", core, "0")
        assert "no vCPU 5" in refused("ept", "dump", "--l2", "--vcpu", "5", "--core", core)


def wrong_words_are_wrong_usage():
    for argv in (("ept", "idle", "--l2", "1"), ("ept", "map", "--l2", "file"), ("ept", "walk", "--l2", "--gva", "--grid", "1", "0"),
                 ("vmcs",), ("vmcs", "--01", "--12", "1"), ("vmcs", "--diff", "12", "1"), ("vmcs", "--diff", "1", "12", "12"),
                 ("vmcs", "check", "--02", "1"), ("vmcs", "--vcpu", "x", "1")):
        ask(*argv, status=2)


tap.select((without_an_l2_one_line_says_so, three_tables_stand_side_by_side, the_verdict_says_why_ept02_is_narrower,
            ept02_lags_behind_what_no_processor_has_told, explain_says_who_hears_of_the_fault, json_of_l2_says_what_the_text_says,
            each_vmcs_is_told_where_there_is_one, control_fields_are_told_bit_by_bit, a_vmcs_is_copied_while_l2_runs,
            a_waiting_vcpu_is_copied_too, check_tells_each_failing_check_and_what_would_pass,
            each_check_is_told_and_what_is_said_to_pass_does, a_vcpu_that_waits_for_sipi_is_copied_and_goes_on_waiting,
            a_look_touches_no_memory_that_may_be_gone, the_clients_own_failed_entry_explains_itself, a_vmx_abort_names_the_msr, kvms_nested_tracepoints_are_recorded, a_core_file_says_the_same_of_l2,
            wrong_words_are_wrong_usage), (), sys.argv[3:])
