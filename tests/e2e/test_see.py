"""userkvm ept, userkvm stat and userkvm run --strace, on running VMs and on what is none.

usage: test_see.py USERKVM BUILD
"""
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import xml.etree.ElementTree

import tap

USERKVM, BUILD = (os.path.abspath(p) for p in sys.argv[1:3])
HERE = os.path.dirname(os.path.abspath(__file__))
NOBODY = 65534
tmp = tempfile.TemporaryDirectory()


class Client(tap.Client):
    """see_client.py under userkvm run."""
    argv = (USERKVM, "run", "--", sys.executable, os.path.join(HERE, "see_client.py"))

    def run(self):
        assert self.tell("run") == "exit 2"  # KVM_EXIT_IO


ask, refused = tap.asker(USERKVM)


def path(name):
    return os.path.join(tmp.name, name)


# --- looking ---

def dump_json_agrees_with_slots_and_counters():
    with Client() as c:
        c.run()
        d = json.loads(ask("ept", "dump", "--json", c.pid))
        assert [(s["id"], s["start"], s["size"], s["flags"]) for s in d["slots"]] == \
            [(0, 0, 0x100000, 0), (1, 0x200000, 0x10000, 2), (2, 0x300000, 0x10000, 1)], d
        ranges = d["roots"][0]["ranges"]
        hva = {s["id"]: s["hva"] for s in d["slots"]}
        written = [r for r in ranges if r["start"] <= 0x5000 < r["end"]][0]
        assert written["w"] and written["dirty"] and written["accessed"] and written["memtype"] == "WB", written
        assert written["hva"] - written["start"] == hva[0]
        logged = {r["start"]: r for r in ranges if 0x300000 <= r["start"] < 0x310000}
        assert logged[0x300000]["dirty"] and not logged[0x301000]["dirty"], logged
        assert not [r for r in ranges if r["start"] == 0x200000][0]["w"]
        stats = ask("stat", "-1", "-s", "0.1", "-p", c.pid)
        count = {int(n): int(re.search(rf"^pages_{s}\s+(\d+)", stats, re.M)[1]) for n, s in ((1, "4k"), (2, "2m"))}
        for level, size in ((1, 0x1000), (2, 0x200000)):
            assert sum(r["end"] - r["start"] for r in ranges if r["level"] == level) == count[level] * size, stats


def walk_ends_at_the_clients_memory():
    with Client() as c:
        c.run()
        out = ask("ept", "walk", c.pid, "0x5000")
        assert re.search(r"^  PML4E \[  0\] .* table at", out, re.M) and re.search(r"^  PTE   \[  5\] ", out, re.M), out
        hva = int(re.search(r"host-virtual (0x[0-9a-f]+)", out)[1], 16)
        with open(f"/proc/{c.pid}/mem", "rb") as mem:
            mem.seek(hva - 0x4000)
            assert mem.read(5) == bytes.fromhex("a300500000"), "the guest's code is not there"


def five_levels_are_shown():
    with Client(WIDE="1") as c:
        c.run()
        out = ask("ept", "walk", c.pid, hex(1 << 50))
        assert "5 levels" in out and out.count("table at") == 4, out
        assert re.search(r"^  PML5E \[  4\] at .*\n  PML4E \[  0\] ", out, re.M), out
        out = ask("ept", "walk", c.pid, "0x5000")
        assert re.search(r"^  PML5E \[  0\] at .*\n  PML4E \[  0\] ", out, re.M), out
        d = json.loads(ask("ept", "dump", "--json", c.pid))
        assert [r["levels"] for r in d["roots"]] == [4, 5], "the walks above have chosen"
        root = [r for r in d["roots"] if r["levels"] == 5][0]
        high = [r for r in root["ranges"] if r["start"] >= 1 << 50]
        slot = [s for s in d["slots"] if s["id"] == 3][0]
        assert high and high[0]["start"] == 1 << 50 and high[0]["hva"] == slot["hva"] and high[0]["w"], high
        assert re.search(r"^0x4000000000000-0x40000000\w+ .* slot 3$", ask("ept", "dump", c.pid), re.M)


def two_dimensional_walk_shows_both_tables():
    with Client() as c:
        c.run()
        out = ask("ept", "walk", "--gva", c.pid, "0x400123")
        assert "32-bit, 2 levels" in out and "CR3 0x2000" in out, out
        assert "guest PDE   at gpa 0x2004" in out and "guest PTE   at gpa 0x3000" in out, out
        assert "=> guest-physical 0x10123" in out, out
        assert out.count("PML4E") == 3, "three guest-physical addresses, three walks of the EPT\n" + out


def grid_numbers_the_24_references_of_the_longest_walk():
    with Client(LONG="1") as c:
        c.run()
        g = json.loads(ask("ept", "walk", "--gva", "--grid", "--json", c.pid, "0x7000"))
        refs = g["references"]
        assert [r["number"] for r in refs] == list(range(1, 25)), refs
        rows = [[r for r in refs if r["of"] == of] for of in ("PML4E", "PDPTE", "PDE", "PTE", "page")]
        assert [[r["entry_of"] for r in row] for row in rows] == [["ept"] * 4 + ["guest"]] * 4 + [["ept"] * 4], rows
        assert [row[4]["at"] for row in rows[:4]] == [0x8000, 0x9000, 0xA000, 0xB038] and rows[4][0]["gpa"] == 0x7000, rows
        # the root's first entry is read five times, and four times it is the same
        assert [row[0]["same_as"] for row in rows] == [0, 1, 1, 1, 1], rows
        for r in refs:  # an entry is where the one before it leads to
            before = refs[r["number"] - 2]
            if r["number"] > 1 and r["entry_of"] == "ept" and before["entry_of"] == "ept" and before["gpa"] == r["gpa"]:
                assert r["at"] == (before["entry"] & 0xFFFFFFFFFF000) + 8 * r["index"], (before, r)
        out = ask("ept", "walk", "--gva", "--grid", "-o", path("grid.svg"), c.pid, "0x7000")
        assert out == "" and "24 references; 12 of them" in ask("ept", "walk", "--gva", "--grid", c.pid, "0x7000")
        texts = [t.text for t in xml.etree.ElementTree.parse(path("grid.svg")).iter("{http://www.w3.org/2000/svg}text")]
        assert {str(n) for n in range(1, 25)} <= set(texts) and "EPT PML4E" in texts, texts
        for command in ("walk", "explain"):
            out = ask("ept", command, "--gva", c.pid, "0x8000_0000_0000".replace("_", ""))
            assert "not canonical" in out and "#GP" in out and "PML4E" not in out, out
        assert "/dev/full: No space left" in refused("ept", "walk", "--gva", "--grid", "-o", "/dev/full", c.pid, "0x7000")
        # one mapping in two slots: no line crosses from one to the other
        dump = ask("ept", "dump", c.pid)
        assert re.search(r"^0x000000400000-0x000000410000 .* slot 5$", dump, re.M) and re.search(r"^0x000000410000-0x000000420000 .* slot 6$", dump, re.M), dump


def a_process_in_another_network_namespace_answers():
    if not shutil.which("unshare") or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        raise tap.Skip("unshare -n: not allowed here")
    for namespaces in (["-n"], ["-n", "-p", "-f"]):
        p = subprocess.Popen(["unshare", *namespaces, USERKVM, "run", "--", sys.executable, os.path.join(HERE, "see_client.py")],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline() == "ready\n"
        pid = str(p.pid)
        if "-f" in namespaces:
            pid = open(f"/proc/{pid}/task/{pid}/children").read().split()[0]
        assert "memslots" in ask("ept", "dump", pid)
        if os.geteuid() == 0:
            out, status = tap.run("setpriv", f"--reuid={NOBODY}", "--clear-groups", USERKVM, "ept", "dump", pid)
            assert status == 1 and out.count("\n") == 1 and "not permitted" in out, out
        p.stdin.close()
        p.stdout.close()
        p.wait(60 * tap.PATIENCE)


def explain_names_the_bit_the_slot_and_the_mapping():
    with Client() as c:
        c.run()
        for argv, wants in (
            (("0x5000", "w"), ("succeeds without a VM exit", "bit 1 (W)", "memslot 0", "rw-")),
            (("0x200000", "r"), ("succeeds without a VM exit", "memslot 1")),
            (("0x200000", "w"), ("EPT violation", "lacks bit 1 (W)", "KVM_MEM_READONLY", "KVM_EXIT_MMIO")),
            (("0x301000", "w"), ("succeeds without a VM exit", "sets D (bit 9)", "PML buffer", "dirty log")),
            (("0x30f000", "w"), ("EPT violation", "is empty", "4K, since the slot's writes are logged")),
            (("0x900000", "r"), ("EPT violation", "no memslot holds", "KVM_EXIT_MMIO")),
            (("0x7f00000000000000",), ("reach to bit 47",)),
            (("--gva", "0x400000", "r"), ("guest-physical 0x10000", "memslot 0")),
            (("--gva", "0x400000", "w"), ("refused by the guest's own", "R/W (bit 1) is clear and CR0.WP", "error code 0x3")),
            (("--gva", "0x401000", "r"), ("refused by the guest's own", "PTE", "P (bit 0) is clear", "error code 0x0")),
            (("--gva", "--user", "0x5000", "r"), ("U/S (bit 2) is clear", "error code 0x5")),
        ):
            options = [a for a in argv if a.startswith("--")]
            rest = [a for a in argv if not a.startswith("--")]
            out = ask("ept", "explain", *options, c.pid, *rest)
            for want in wants:
                assert want in out, f"{argv}: no {want!r} in\n{out}"
            j = json.loads(ask("ept", "explain", "--json", *options, c.pid, *rest))
            assert j["explanation"] == out.split("\n")[0], (j, out)
            want = [o for w, o in (("succeeds", "no exit"), ("KVM_EXIT_MMIO", "mmio"), ("tries again", "faulted in"),
                                   ("own page tables", "guest page fault")) if w in j["explanation"]]
            assert j["outcome"] == want[0], (j, out)


def json_says_what_the_text_says():
    with Client() as c:
        ask("ept", "dump", "-o", path("empty"), c.pid)
        c.run()
        ask("ept", "dump", "-o", path("full"), c.pid)
        out = ask("ept", "diff", path("empty"), path("full"))
        j = json.loads(ask("ept", "diff", "--json", path("empty"), path("full")))
        changes, size = re.search(r"^(\d+) changes, (\S+)$", out, re.M).groups()
        assert len(j["changes"]) == int(changes) and j["bytes"] == sum(x["end"] - x["start"] for x in j["changes"]), (out, j)
        one = [x for x in j["changes"] if x["start"] == 0x300000][0]
        assert one["was"] is None and one["end"] == 0x301000 and one["is"]["page"] == "4K" and one["is"]["w"] is True, one
        assert json.loads(ask("ept", "diff", "--json", path("full"), path("full"))) == {"changes": [], "bytes": 0}

        j = json.loads(ask("ept", "walk", "--json", c.pid, "0x5000"))
        out = ask("ept", "walk", c.pid, "0x5000")
        assert j["result"] == "mapped" and f"host-virtual {j['hva']:#x} of" in out and j["mapping"] in out, (j, out)
        assert [x["name"] for x in j["ept"]] == ["PML4E", "PDPTE", "PDE", "PTE"][:len(j["ept"])], j
        assert all(f"at 0x{x['at']:012x} = 0x{x['entry']:016x}" in out for x in j["ept"]), (j, out)
        j = json.loads(ask("ept", "walk", "--json", "--gva", c.pid, "0x400000"))
        out = ask("ept", "walk", "--gva", c.pid, "0x400000")
        assert j["gpa"] == 0x10000 and j["result"] == "not mapped" and len(j["guest"]["entries"]) == out.count("  guest P"), (j, out)
        assert json.loads(ask("ept", "walk", "--json", "--gva", c.pid, "0x401000"))["result"] == "guest page fault"
        j = json.loads(ask("ept", "walk", "--json", c.pid, "0x900000"))
        assert j["result"] == "not mapped" and "hva" not in j, j

        j = json.loads(ask("ept", "idle", "--json", "--interval", "0", c.pid))
        assert j["accessed"] == 0 and sum(x["end"] - x["start"] for x in j["idle"]) == j["mapped"] > 0, j
        assert {x["slot"] for x in j["idle"]} >= {0, 1}, j
        assert "draws a picture" in ask("ept", "map", "--json", c.pid, status=2)


def explain_names_write_protection_of_the_dirty_log():
    with Client(USERKVM_PARAMS="pml=0") as c:
        c.run()
        out = ask("ept", "explain", c.pid, "0x301000", "w")
        for want in ("EPT violation", "lacks bit 1 (W)", "fast_page_fault", "dirty log"):
            assert want in out, out
        assert c.run() is None
        assert "succeeds" in ask("ept", "explain", c.pid, "0x300000", "w")


def shadow_paging_has_no_ept_to_look_at():
    p = subprocess.run([USERKVM, "run", "--params", "ept=0", sys.executable, os.path.join(HERE, "see_client.py")],
                       input="", capture_output=True, text=True, timeout=60 * tap.PATIENCE)
    if p.returncode:
        raise tap.Skip("ept=0: no shadow MMU in this build")
    with Client(USERKVM_PARAMS="ept=0") as c:
        assert "no EPT" in refused("ept", "dump", c.pid)
        assert "no EPT" in refused("ept", "walk", c.pid, "0")


def explain_notices_what_the_client_unmapped():
    with Client() as c:
        c.run()
        assert c.tell("unmap") == "unmapped"
        out = ask("ept", "explain", c.pid, "0x8000", "r")
        assert "EFAULT" in out and re.search(r"client's mapping of host-virtual 0x[0-9a-f]+: none", out), out


def diff_shows_what_a_round_of_the_guest_changed():
    with Client() as c:
        ask("ept", "dump", "-o", path("before"), c.pid)
        c.run()
        ask("ept", "dump", "-o", path("after"), c.pid)
        out = ask("ept", "diff", path("before"), path("after"))
        assert re.search(r"^0x000000300000-0x000000301000 +4K\n  \+ PTE +R W X A D", out, re.M), out
        assert not re.search(r"^  -", out, re.M), out
        assert ask("ept", "diff", path("after"), path("after")) == "no changes\n"
        assert ask("ept", "diff", "--interval", "0.1", c.pid) == "no changes\n"


def idle_is_what_the_guest_has_not_touched_since(params):
    with Client(USERKVM_PARAMS=params) as c:
        c.run()
        out = ask("ept", "idle", "--interval", "0", c.pid)
        assert "\naccessed within 0 s: 0B of " in out, out
        assert re.search(r"^0x00000000\w+-0x00000000\w+ +\w+ idle  slot 0$", out, re.M), out
        p = subprocess.Popen([USERKVM, "ept", "idle", "--interval", "1", c.pid], stdout=subprocess.PIPE, text=True)
        try:
            while p.poll() is None:
                c.run()
            out = p.stdout.read()
        finally:
            p.kill()
            p.stdout.close()
        ranges = [(int(a, 16), int(b, 16)) for a, b in re.findall(r"^(0x\w+)-(0x\w+) +\w+ idle", out, re.M)]
        for gpa in (0x1000, 0x5000, 0x200000, 0x300000, 0x301000):
            assert not any(a <= gpa < b for a, b in ranges), out
        assert not re.search(r": 0B of", out), out


def idle_memory_by_accessed_bits():
    idle_is_what_the_guest_has_not_touched_since("eptad=1")


def idle_memory_without_accessed_bits():
    idle_is_what_the_guest_has_not_touched_since("eptad=0")
    with Client(USERKVM_PARAMS="eptad=0") as c:
        c.run()
        ask("ept", "idle", "--interval", "0", c.pid)
        assert "to notice the next access" in ask("ept", "explain", c.pid, "0x5000", "r")
        assert "to notice the next access" in ask("ept", "explain", c.pid, "0x5000", "w")
        c.run()
        assert "succeeds" in ask("ept", "explain", c.pid, "0x5000", "w")


def dump_file_says_the_same_as_the_live_vm():
    with Client() as c:
        c.run()
        ask("ept", "dump", "-o", path("dump"), c.pid)
        ask("ept", "map", "-o", path("live.svg"), c.pid)
        ask("ept", "map", "-o", path("file.svg"), path("dump"))
        assert open(path("live.svg")).read() == open(path("file.svg")).read()


def map_is_well_formed_and_shows_every_slot():
    with Client() as c:
        c.run()
        ask("ept", "map", "-o", path("map.svg"), c.pid)
        root = xml.etree.ElementTree.parse(path("map.svg")).getroot()
        words = ["".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")]
        for want in ("slot 0  1M", "slot 1  64K", "slot 2  64K", "read-only", "read-write, dirty log", "dirty"):
            assert want in words, words
        drawn = {p.get("fill") for p in root.iter("{http://www.w3.org/2000/svg}path") if p.get("d")}
        assert "#e8a33d" in drawn and "url(#ro)" in drawn, drawn
        tips = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
        assert "0x1000-0x3000: 4 KiB pages, accessed, dirty" in tips and "0x201000-0x210000: not mapped yet" in tips, tips
        # SMM's slots are the normal ones again: they are counted once
        dump = ask("ept", "dump", c.pid)
        with open(path("smm.txt"), "w") as f:
            f.write(dump + re.search(r"^slot 0 .*\n", dump, re.M)[0].replace("as 0", "as 1"))
        assert ask("ept", "map", path("smm.txt")).split("in ")[1].startswith("3 memslots")


def core_file_says_the_same_as_the_live_vm():
    with Client(cwd=tmp.name) as c:
        c.run()
        live = ask("ept", "dump", c.pid)
        live_json = json.loads(ask("ept", "dump", "--json", c.pid))
        walk = ask("ept", "walk", c.pid, "0x5000")
        core = tap.core_file(c, tmp.name)
    assert ask("ept", "dump", "--core", core) == live
    assert json.loads(ask("ept", "dump", "--json", "--core", core)) == live_json
    assert ask("ept", "walk", "--core", core, "0x5000").splitlines()[:-1] == walk.splitlines()[:-1]
    out = ask("ept", "explain", "--core", core, "0x200000", "w")
    assert "KVM_MEM_READONLY" in out and "(in the core)" in out, out
    ask("ept", "map", "--core", core, "-o", path("core.svg"))
    assert "does not tell how the guest pages" in refused("ept", "walk", "--gva", "--core", core, "0")
    assert "no VM 5" in refused("ept", "dump", "--vm", "5", "--core", core)
    with open(core, "rb") as f:
        good = f.read()
    for content, word in ((good[:100], "cut off"), (good[:len(good) // 2], "cut off"), (b"hello", "not a core file"),
                          (b"", "not a core file"), (good.replace(b"userkvm beacon\n", b"-" * 15), "no VM of userkvm")):
        with open(path("bad"), "wb") as f:
            f.write(content)
        assert word in refused("ept", "dump", "--core", path("bad")), word


# --- counters ---

def stat_counts_what_the_guest_does():
    with Client() as c:
        def io_exits():
            return int(re.search(r"^io_exits\s+(\d+)", ask("stat", "-1", "-s", "0.1", "-p", c.pid), re.M)[1])

        before = io_exits()
        for _ in range(5):
            c.run()
        assert io_exits() == before + 5


def stat_takes_a_process_behind_its_options_too():
    with Client() as c:
        named = [ask("stat", "-1", *words).split("\n")[0] for words in (("-p", c.pid), (c.pid,))]
        assert named[0] == named[1] != "", named
        ask("stat", "-1", "-p", c.pid, c.pid, status=2)
        ask("stat", "-1", c.pid, c.pid, status=2)
        ask("stat", "-1", "x", status=2)


def a_stopped_process_is_said_to_be_stopped():
    with Client() as c:
        os.kill(int(c.pid), signal.SIGSTOP)
        try:
            assert "does not answer: it is stopped" in refused("ept", "dump", c.pid)
        finally:
            os.kill(int(c.pid), signal.SIGCONT)


def stat_log_is_a_header_and_lines():
    with Client() as c:
        p = subprocess.Popen([USERKVM, "stat", "-l", "-s", "0.1", "-f", "exits", "-p", c.pid], stdout=subprocess.PIPE, text=True)
        lines = [p.stdout.readline() for _ in range(3)]
        p.terminate()
        assert p.wait(5) == 0
        p.stdout.close()
        assert "io_exits" in lines[0] and len(lines[1].split()) == len(lines[0].split()), lines


def stat_exits_tells_host_time_from_client_time():
    """Twenty milliseconds between two KVM_RUNs are the client's, and are the exit's that KVM_RUN returned for."""
    with Client() as c:
        c.run()
        begun = json.loads(ask("stat", "--exits", "-j", "-s", "0.1", "-p", c.pid))
        assert begun == {"exits": []}, begun
        for _ in range(6):
            c.run()
            time.sleep(0.02)
        rows = {r["exit"]: r for r in json.loads(ask("stat", "--exits", "-j", "-s", "0.1", "-p", c.pid))["exits"]}
        io = rows["IO_INSTRUCTION"]
        assert io["count"] == 5 and io["client"]["count"] == 5 and io["reason"] == 30 and io["level"] == 1, rows
        assert io["client"]["min_ns"] >= 20e6 and io["client"]["max_ns"] >= io["client"]["mean_ns"] >= io["client"]["min_ns"], io
        assert 0 < io["host"]["min_ns"] <= io["host"]["mean_ns"] <= io["host"]["max_ns"] < io["client"]["min_ns"], io
        assert abs(io["client"]["mean_ns"] * 5 - io["client"]["total_ns"]) < 10, io
        assert sum(r["share"] for r in rows.values()) > 99.9, rows
        table = ask("stat", "--exits", "-1", "-s", "0.1", "-p", c.pid)
        assert re.search(r"^IO_INSTRUCTION +5 ", table, re.M) and "vCPU 0" in table, table
        p = subprocess.Popen([USERKVM, "stat", "-e", "-c", "-f", "io_", "-s", "0.1", "-p", c.pid], stdout=subprocess.PIPE, text=True)
        header, *lines = [p.stdout.readline().rstrip("\n").split(",") for _ in range(3)]
        p.terminate()
        p.communicate()
        assert all(dict(zip(header, v))["exit"] == "IO_INSTRUCTION" and len(v) == len(header) for v in lines), lines


def stat_of_all_processes_finds_the_client():
    with Client() as c:
        c.run()
        assert re.search(r"^exits\s+[1-9]", ask("stat", "-1", "-s", "0.1"), re.M)


def stat_names_what_inhibits_apic_virtualization():
    def rows(c):
        out = ask("stat", "-1", "-s", "0.1", "-p", c.pid, "-f", "apicv")
        return {line.split()[0]: int(line.split()[1]) for line in out.splitlines() if line.startswith("apicv_")}

    with Client() as c:  # without KVM_CREATE_IRQCHIP
        assert rows(c) == {"apicv_inhibit_absent": 1}, rows(c)
    with Client(USERKVM_PARAMS="enable_apicv=0") as c:
        assert rows(c) == {"apicv_inhibit_absent": 1, "apicv_inhibit_disable": 1}, rows(c)


def jit_counters(c):
    j = json.loads(ask("stat", "-j", "-s", "0.1", "-p", c.pid, "-f", "_"))
    return {r["name"]: r["value"] for r in j["counters"] if r["name"].startswith(("jit_", "cpu_"))}


def stat_counts_what_the_translator_does():
    with Client(USERKVM_ENGINE="jit", USERKVM_JIT="threshold:1") as c:
        before = jit_counters(c)
        for _ in range(5):
            c.run()
        after = jit_counters(c)
        assert before["jit_units"] == 0 and after["jit_units"] > 0 and after["jit_bytes"] > 0, after
        left = sum(after[n] for n in ("jit_exit_cell", "jit_exit_indirect", "jit_exit_insn", "jit_left"))
        assert 0 < left <= after["jit_entries"], after  # a unit may also be left by an exit from within
        assert after["cpu_exits"] > before["cpu_exits"], (before, after)
        header = subprocess.run(f"timeout 5 {USERKVM} stat -c -s 0.1 -p {c.pid} | head -1", shell=True, capture_output=True, text=True)
        assert "jit_units" in header.stdout.strip().split(","), header
    with Client(USERKVM_ENGINE="interp") as c:
        c.run()
        n = jit_counters(c)
        assert n["jit_units"] == n["jit_entries"] == 0 and n["cpu_instructions"] + n["cpu_exits"] > 0, n


def three_runs(words):
    """Of the client under the translator, which closes no descriptor before it exits: what it says, and its process."""
    p = subprocess.Popen([USERKVM, "run", "--", sys.executable, os.path.join(HERE, "see_client.py")], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         env=dict(os.environ, USERKVM_ENGINE="jit", USERKVM_JIT="threshold:1," + words))
    out, err = p.communicate("run\nrun\nrun\n", timeout=60)
    assert p.returncode == 0 and out.splitlines() == ["ready"] + 3 * ["exit 2"], (out, err)
    return err, p.pid


def at_end(err, counter):
    values = re.findall(rf"vCPU counter {counter} (\d+)", err)
    assert len(values) == 1, err
    return int(values[0])


def translator_tells_its_counters_when_a_client_ends():
    assert at_end(three_runs("stat")[0], "jit_units") > 0


def translator_does_what_its_words_say():
    units = at_end(three_runs("stat")[0], "jit_units")
    err = three_runs("stat,dump")[0]
    assert len(re.findall(r"unit \d+: page", err)) == units and "guest 000: mov [0x00005000], eax" in err, err
    assert re.search(r"host \w+: [0-9a-f]+ +mov ", err), err
    assert at_end(three_runs("stat,bisect:0-0")[0], "jit_units") == 1
    assert at_end(three_runs("stat,bisect:100-200")[0], "jit_units") == 0
    pid = three_runs("perf")[1]
    name = f"/tmp/perf-{pid}.map"
    with open(name) as f:
        lines = f.read().splitlines()
    os.unlink(name)
    assert len(lines) == units and all(re.fullmatch(r"[0-9a-f]+ [0-9a-f]+ jit_[0-9a-f]+_\d+", li) for li in lines), lines
    # mov, mov, mov, mov, and from the second round on jmp: OUT exits, which is not its end
    assert at_end(three_runs("stat,count")[0], "cpu_retired") == 14


def stat_json_and_csv_say_what_the_lines_say():
    with Client() as c:
        c.run()
        lines = dict(re.findall(r"^(\w+) +(\d+)", ask("stat", "-1", "-s", "0.1", "-p", c.pid), re.M))
        j = json.loads(ask("stat", "-j", "-s", "0.1", "-p", c.pid))
        assert {r["name"]: str(r["value"]) for r in j["counters"]} == lines and j["seconds"] > 0, j
        apart = json.loads(ask("stat", "-j", "-b", "-s", "0.1", "-p", c.pid))["counters"]
        assert {r["pid"] for r in apart} == {int(c.pid)} and {r.get("vcpu") for r in apart} == {None, 0}, apart
        p = subprocess.Popen([USERKVM, "stat", "-c", "-s", "0.1", "-p", c.pid], stdout=subprocess.PIPE, text=True)
        header, *rows = [p.stdout.readline().rstrip("\n").split(",") for _ in range(3)]
        p.terminate()
        p.communicate()
        assert header == ["seconds", *(r["name"] for r in j["counters"])], header
        assert all(len(row) == len(header) for row in rows) and float(rows[0][0]) < float(rows[1][0]), rows
        assert "\033" not in ask("stat", "-s", "0.1", "-p", c.pid), "escapes into a pipe"


def on_a_terminal(rows, columns, keys, *argv):
    """What a command writes to a terminal of that size while it is sent keys (None: SIGINT), its status, and whether the
    terminal was given back as it was."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    before = termios.tcgetattr(slave)
    p = subprocess.Popen([USERKVM, *argv], stdin=slave, stdout=slave, stderr=slave)
    out = b""
    for key in keys:
        deadline = time.time() + 0.5 * tap.PATIENCE
        while select.select([master], [], [], max(0, deadline - time.time()))[0]:
            out += os.read(master, 65536)
        if key:
            os.write(master, key)
        else:
            p.send_signal(signal.SIGINT)
    while p.poll() is None:
        if select.select([master], [], [], 0.1)[0]:
            out += os.read(master, 65536)
    while select.select([master], [], [], 0.1)[0]:
        out += os.read(master, 65536)
    after = termios.tcgetattr(slave)
    os.close(master)
    os.close(slave)
    return out.decode(), p.returncode, before == after


def stat_fits_its_window_and_gives_the_terminal_back():
    with Client() as c:
        c.run()
        for rows, columns in ((10, 40), (60, 200)):
            out, status, given_back = on_a_terminal(rows, columns, (b"b", b"o", b"f", b"exits\n", b"q"), "stat", "-s", "0.2", "-p", c.pid)
            assert status == 0 and given_back, status
            assert out.startswith("\033[?1049h") and out.rstrip().endswith("\033[?1049l"), (out[:20], out[-20:])
            pictures = out.split("\033[H\033[2J")[1:]
            assert len(pictures) >= 4, pictures
            for picture in pictures[:-1]:
                lines = re.sub(r"\033\[[\d;?]*\w", "", picture.split(f"\033[{rows};1H")[0]).replace("\r", "").split("\n")
                assert len(lines) <= rows and all(len(line) < columns for line in lines), (rows, columns, lines)
            assert f"{c.pid}/1/0" in out or columns == 40, out
            last = [line for line in pictures[-1].replace("\r", "").split("\n")[3:] if line.strip() and "\033" not in line]
            assert last and all(re.match(r"\w*exits\w* +\d+\b", line) for line in last), last
        out, status, given_back = on_a_terminal(24, 80, (None,), "stat", "-s", "0.2", "-p", c.pid)
        assert status == 0 and given_back and "\033[?1049l" in out, (status, given_back)


def qemu_reads_the_counters_of_its_vm():
    if not shutil.which("qemu-system-x86_64"):
        raise tap.Skip("qemu-system-x86_64 is not installed")
    p = subprocess.Popen([USERKVM, "run", "--", "qemu-system-x86_64", "-accel", "kvm", "-m", "64", "-display", "none", "-nodefaults",
                          "-S", "-qmp", "stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def command(name, **arguments):
        p.stdin.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        p.stdin.flush()
        while True:
            answer = json.loads(p.stdout.readline())
            if "return" in answer:
                return answer["return"]
            assert "error" not in answer, answer

    def exits():
        return {s["name"]: s["value"] for s in command("query-stats", target="vcpu")[0]["stats"]}["exits"]

    with p:
        command("qmp_capabilities")
        before = exits()
        command("cont")
        deadline = time.time() + 20
        while exits() <= before and time.time() < deadline:
            time.sleep(0.1)
        assert exits() > before
        names = {s["name"] for s in command("query-stats", target="vm")[0]["stats"]}
        assert {"pages_4k", "pages_2m", "remote_tlb_flush"} <= names, names
        command("quit")


# --- strace ---

def strace_shows_arguments_results_errors_and_time():
    out = path("strace")
    argv = [USERKVM, "run", "--strace", "-T", "-o", out, "--", sys.executable, os.path.join(HERE, "see_client.py")]
    p = subprocess.run(argv, input="run\n", capture_output=True, text=True, timeout=60 * tap.PATIENCE)
    assert p.returncode == 0 and p.stdout == "ready\nexit 2\n" and not p.stderr, p
    text = open(out).read()
    for want in (r'^open\("/dev/kvm", O_RDWR\|O_CLOEXEC\) = \d+ <\d+\.\d{6}>$', r"^ioctl\(\d+, KVM_CREATE_VM, 0\) = \d+ <",
                 r"KVM_SET_USER_MEMORY_REGION, \{slot=1, flags=0x2, guest_phys_addr=0x200000, memory_size=65536, "
                 r"userspace_addr=0x[0-9a-f]+\}\) = 0 <",
                 r"KVM_SET_REGS, \{rax=0, .*rip=0x1000, rflags=0x2\}\) = 0",
                 r"KVM_RUN, 0\) = 0 \(KVM_EXIT_IO, out port 0x10 size 1 count 1\)"):
        assert re.search(want, text, re.M), f"no {want} in\n{text}"


def strace_without_a_file_goes_to_standard_error():
    p = subprocess.run([USERKVM, "run", "--strace", sys.executable, "-c",
                        "import fcntl, os; fcntl.ioctl(os.open('/dev/kvm', 2), 0xAE00, 1)"], capture_output=True, text=True)
    assert "KVM_GET_API_VERSION, 1) = -1 EINVAL (Invalid argument)\n" in p.stderr, p.stderr
    refusal, status = tap.run(USERKVM, "run", "--strace", "-o", "/nowhere/file", "true")
    assert status == 126 and "No such file" in refusal, refusal


# --- what is not there ---

def wrong_processes_are_one_line():
    gone = subprocess.Popen(["true"])
    gone.wait()
    for command in (["ept", "dump"], ["ept", "map"], ["ept", "walk", "PID", "0"], ["ept", "explain", "PID", "0", "r"],
                    ["ept", "diff"], ["stat", "-1", "-p"]):
        def put(pid):
            return [pid if w == "PID" else w for w in command] if "PID" in command else [*command, pid]

        assert "there is no process" in refused(*put(str(gone.pid))), command
        assert "has no VM of userkvm" in refused(*put(str(os.getpid()))), command
    assert "not a process id" in refused("ept", "dump", "x1")
    assert "not a process id" in refused("stat", "-p", "0")


def nonsense_is_one_line():
    with Client() as c:
        assert "not a number" in refused("ept", "walk", c.pid, "there")
        assert "no access" in refused("ept", "explain", c.pid, "0", "q")
        assert "has no VM 7" in refused("ept", "dump", "--vm", "7", c.pid)
        assert "no vCPU 9" in refused("ept", "walk", "--gva", "--vcpu", "9", c.pid, "0")
        assert "/nowhere/f" in refused("ept", "dump", "-o", "/nowhere/f", c.pid)
        for argv in (["ept"], ["ept", "what"], ["ept", "dump"], ["ept", "walk", c.pid], ["ept", "dump", "--as", "3", c.pid],
                     ["stat", "-s", "never"], ["stat", "x"]):
            line = ask(*argv, status=2)
            assert line.startswith("userkvm " + argv[0] + ": ") and line.count("\n") == 1, (argv, line)
        c.run()


def other_users_may_not_look():
    if os.geteuid() != 0:
        raise tap.Skip("needs root to become somebody else")
    with Client() as c:
        copy = path("userkvm")
        shutil.copy(USERKVM, copy)
        os.chmod(tmp.name, 0o755)
        for name in os.listdir(os.path.join(BUILD, "src/preload")):
            if name.startswith("libuserkvm.so") and os.path.isfile(os.path.join(BUILD, "src/preload", name)):
                shutil.copy(os.path.join(BUILD, "src/preload", name), path(name))
        env = dict(os.environ, LD_LIBRARY_PATH=tmp.name)
        for argv in (["ept", "dump", c.pid], ["stat", "-1", "-p", c.pid]):
            out, status = tap.run(copy, *argv, user=NOBODY, group=NOBODY, extra_groups=[], env=env)
            assert status == 1 and len(out.splitlines()) == 1 and "not permitted" in out, out
        c.run()


def switched_off_there_is_nothing_to_look_at():
    with Client(USERKVM_CONTROL="0") as c:
        assert "has no VM of userkvm" in refused("ept", "dump", c.pid)
        assert "userkvm-control" not in [open(f"/proc/{c.pid}/task/{t}/comm").read().strip() for t in os.listdir(f"/proc/{c.pid}/task")]


def vm_that_dies_meanwhile_is_one_line():
    with Client() as c:
        c.run()
        p = subprocess.Popen([USERKVM, "ept", "diff", "--interval", "1", c.pid], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(0.4)
        assert c.tell("close") == "closed"
        out, _ = p.communicate(timeout=10 * tap.PATIENCE)
        assert p.returncode == 1 and "no VM 1, or no longer" in out and len(out.splitlines()) == 1, out
        assert "no VM at present" in refused("ept", "dump", c.pid)
        assert "no VM at present" in refused("stat", "-1", "-p", c.pid)
    with Client() as c:
        p = subprocess.Popen([USERKVM, "stat", "-l", "-s", "0.5", "-p", c.pid], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(0.2)
        c.p.kill()
        c.p.wait()
        out, err = p.communicate(timeout=10 * tap.PATIENCE)
        assert p.returncode == 1 and len(err.splitlines()) == 1, err


def bad_dump_files_are_one_line():
    with Client() as c:
        c.run()
        ask("ept", "dump", "-o", path("good"), c.pid)
    good = open(path("good")).read()
    for content in ("", "hello\n", good[:-40], good[:len(good) // 2], "\0" * 3000, good.replace("hva 0x", "hva ?", 1)):
        with open(path("bad"), "w") as f:
            f.write(content)
        refused("ept", "diff", path("good"), path("bad"))
        refused("ept", "map", path("bad"))
    assert "No such file" in refused("ept", "map", "/nowhere/dump")


# --- the target is unharmed ---

def raw(pid, request, wait=True):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(f"\0userkvm/{pid}")
        s.sendall(request)
        return s.makefile("rb").read() if wait else None


def bad_peers_do_not_harm_the_target():
    with Client() as c:
        for request in (b"\n", b"x" * 5000, b"ept\n", b"ept 1 2 3 4 5\n", b"walk 1 0 -1x\n", b"walk 1 99 0\n", b"\0\0\0",
                        b"guest 1 99999999999999 0\n", b"guest 1 0 0xffffffffffffffff\n", b"ept 18446744073709551615\n"):
            try:
                assert raw(c.pid, request).startswith((b"error ", b"ok\n")), request
            except ConnectionError:  # it had enough of us
                pass
        silent = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for s in silent:
            s.connect(f"\0userkvm/{c.pid}")
        raw(c.pid, b"ept 1\n", wait=False)
        started = time.time()
        ask("ept", "dump", c.pid)
        assert time.time() - started < 9
        for s in silent:
            s.close()
        c.run()


def taken_address_and_silent_strangers_keep_nobody_out():
    if os.geteuid() != 0:
        raise tap.Skip("needs root to become somebody else")
    # Somebody else takes the address of the process before it has a VM.
    code = ("import fcntl, os, sys\nprint(os.getpid(), flush=True); sys.stdin.readline()\n"
            "v = fcntl.ioctl(os.open('/dev/kvm', 2), 0xAE01, 0)\nprint('ready', flush=True); sys.stdin.readline()\n")
    p = subprocess.Popen([USERKVM, "run", "--", sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid = p.stdout.readline().strip()
    squat = ("import os, socket, sys\nos.setgid(65534); os.setuid(65534)\ns = socket.socket(socket.AF_UNIX); s.bind('\\0userkvm/' + sys.argv[1])\n"
             "s.listen()\nprint('taken', flush=True); sys.stdin.readline()\n")
    q = subprocess.Popen([sys.executable, "-c", squat, pid], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert q.stdout.readline() == "taken\n"
    p.stdin.write("\n")
    p.stdin.flush()
    assert p.stdout.readline() == "ready\n"
    out, status = tap.run(USERKVM, "ept", "dump", pid)
    assert status == 0 and "not trusted" not in out, out
    q.communicate("\n")
    p.communicate("\n")
    # Connections of a stranger's that say nothing.
    with Client() as c:
        hold = ("import os, socket, sys\nos.setgid(65534); os.setuid(65534)\nl = [socket.socket(socket.AF_UNIX) for _ in range(6)]\n"
                "for s in l: s.connect('\\0userkvm/' + sys.argv[1])\nprint('held', flush=True); sys.stdin.readline()\n")
        q = subprocess.Popen([sys.executable, "-c", hold, c.pid], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert q.stdout.readline() == "held\n"
        started = time.time()
        ask("ept", "dump", c.pid)
        assert time.time() - started < 5  # six peers with two seconds each
        q.communicate("\n")


def client_that_closes_every_descriptor_is_left_alone():
    code = ("import fcntl, os, socket, sys, time\nk = os.open('/dev/kvm', 2)\nv = fcntl.ioctl(k, 0xAE01, 0)\n"
            "for fd in range(3, 64):\n    if fd not in (k, v):\n        try: os.close(fd)\n        except OSError: pass\n"
            "mine = socket.socket(socket.AF_UNIX); mine.bind('\\0see-test-%d' % os.getpid()); mine.listen()\n"
            "print('ready', flush=True)\npeer, _ = mine.accept(); print(peer.recv(9).decode())\n")
    p = subprocess.Popen([USERKVM, "run", "--", sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == "ready\n"
    for _ in range(2):
        tap.run(USERKVM, "ept", "dump", str(p.pid))
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"\0see-test-{p.pid}")
        s.sendall(b"for you")
        assert p.stdout.readline() == "for you\n"
    assert p.wait(10) == 0
    p.stdout.close()


def forked_child_does_not_answer_for_its_parent():
    code = ("import fcntl, os, time\nk = os.open('/dev/kvm', 2)\nv = fcntl.ioctl(k, 0xAE01, 0)\npid = os.fork()\n"
            "if pid: print(pid, flush=True); os._exit(0)\ntime.sleep(20)\n")
    p = subprocess.Popen([USERKVM, "run", "--", sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(p.stdout.readline())
    try:
        p.wait(10)
        end = time.monotonic() + 10 * tap.PATIENCE  # the child may not have run yet
        while f"@userkvm/{p.pid}" in open("/proc/net/unix").read():
            assert time.monotonic() < end, "the child keeps the socket open"
            time.sleep(0.05)
        assert "has no VM of userkvm" in refused("ept", "dump", str(child))
    finally:
        os.kill(child, 9)
        p.stdout.close()


def a_kernel_boots_while_everything_is_looked_at():
    argv = [USERKVM, "boot", os.path.join(BUILD, "demo/vmlinuz"), "--initrd", os.path.join(BUILD, "demo/initrd.img"),
            "--append", "demo.batch panic=-1", "--no-reboot"]
    p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    pid, looks, stop = str(p.pid), [], threading.Event()

    def look(*command):
        while not stop.is_set():
            out, status = tap.run(USERKVM, *[pid if w == "PID" else w for w in command])
            looks.append((command[1], status))
            assert status in (0, 1), out

    threads = [threading.Thread(target=look, args=a) for a in (
        ("ept", "dump", "PID"), ("ept", "walk", "--gva", "PID", "0xffffffff81000000"),
        ("ept", "explain", "--gva", "PID", "0xffffffff82000000", "w"), ("ept", "idle", "--interval", "0.1", "PID"), ("stat", "-1", "-s", "0.1", "-p", "PID"))]
    for t in threads:
        t.start()
    out = p.communicate(timeout=240 * tap.PATIENCE)[0].decode(errors="replace")
    stop.set()
    for t in threads:
        t.join()
    assert p.returncode == 0 and "userkvm: demo done" in out, out[-3000:]
    for bad in ("Kernel panic", "BUG:", "Oops", "Call Trace", "userkvm: a VM is stopped"):
        assert bad not in out, out[-3000:]
    assert sum(status == 0 for _, status in looks) > 20, looks


cases = (json_says_what_the_text_says, dump_json_agrees_with_slots_and_counters, walk_ends_at_the_clients_memory, five_levels_are_shown, two_dimensional_walk_shows_both_tables,
         grid_numbers_the_24_references_of_the_longest_walk, a_process_in_another_network_namespace_answers,
         explain_names_the_bit_the_slot_and_the_mapping, explain_names_write_protection_of_the_dirty_log,
         shadow_paging_has_no_ept_to_look_at, explain_notices_what_the_client_unmapped,
         diff_shows_what_a_round_of_the_guest_changed, idle_memory_by_accessed_bits,
         idle_memory_without_accessed_bits, dump_file_says_the_same_as_the_live_vm,
         map_is_well_formed_and_shows_every_slot, core_file_says_the_same_as_the_live_vm, stat_counts_what_the_guest_does, stat_log_is_a_header_and_lines, stat_takes_a_process_behind_its_options_too,
         a_stopped_process_is_said_to_be_stopped,
         stat_exits_tells_host_time_from_client_time,
         stat_names_what_inhibits_apic_virtualization, stat_of_all_processes_finds_the_client,
         stat_counts_what_the_translator_does, translator_tells_its_counters_when_a_client_ends,
         translator_does_what_its_words_say, stat_json_and_csv_say_what_the_lines_say,
         stat_fits_its_window_and_gives_the_terminal_back, qemu_reads_the_counters_of_its_vm, strace_shows_arguments_results_errors_and_time,
         strace_without_a_file_goes_to_standard_error, wrong_processes_are_one_line, nonsense_is_one_line,
         other_users_may_not_look, switched_off_there_is_nothing_to_look_at, vm_that_dies_meanwhile_is_one_line,
         bad_dump_files_are_one_line, bad_peers_do_not_harm_the_target, taken_address_and_silent_strangers_keep_nobody_out, client_that_closes_every_descriptor_is_left_alone,
         forked_child_does_not_answer_for_its_parent, a_kernel_boots_while_everything_is_looked_at)
tap.main(*[f for f in cases if not sys.argv[3:] or f.__name__ in sys.argv[3:]])
