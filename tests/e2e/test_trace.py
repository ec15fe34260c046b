"""userkvm trace and walkthrough: what a person, trace-cmd and a JSON reader get.

usage: test_trace.py USERKVM BUILD
"""
import fcntl
import html
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unicodedata

import tap

USERKVM, BUILD = sys.argv[1:3]
CLIENT = os.path.join(BUILD, "tests/client/test_client_irq")
tmp = tempfile.TemporaryDirectory()

# The walk-through's trees: depth, words, and the event that must have happened.
TREES = {
    1: """\
0 kvm_create_vm                                     kvm_create_vm
1 kvm->mm = current->mm                             kvm_mm
1 kvm_alloc_memslots                                kvm_alloc_memslots
2 slots->id_to_index[i] = slots->memslots[i].id = i id_to_index
1 kvm_arch_init_vm                                  kvm_arch_init_vm
2 kvm_mmu_init_vm                                   kvm_mmu_init_vm
0 kvm_vm_ioctl_create_vcpu                          kvm_vm_ioctl_create_vcpu
1 kvm_arch_vcpu_create                              kvm_arch_vcpu_create
2 kvm_x86_ops->vcpu_create/vmx_create_vcpu          vmx_create_vcpu
3 vmx->vpid = allocate_vpid()                       allocate_vpid
3 kvm_vcpu_init                                     kvm_vcpu_init
4 kvm_arch_vcpu_init                                kvm_arch_vcpu_init
5 kvm_mmu_create                                    kvm_mmu_create
1 kvm_arch_vcpu_setup                               kvm_arch_vcpu_setup
2 kvm_init_mmu                                      kvm_init_mmu
3 init_kvm_tdp_mmu                                  init_kvm_tdp_mmu
4 context->page_fault = tdp_page_fault              context_page_fault
4 context->direct_map = true                        context_direct_map
4 context->set_cr3 = kvm_x86_ops->set_tdp_cr3       context_set_cr3
4 context->get_cr3 = get_cr3                        context_get_cr3""",
    2: """\
0 kvm_vm_ioctl(KVM_SET_USER_MEMORY_REGION)          kvm_vm_ioctl
1 kvm_vm_ioctl_set_memory_region                    kvm_vm_ioctl_set_memory_region
2 kvm_set_memory_region                             kvm_set_memory_region
3 __kvm_set_memory_region                           __kvm_set_memory_region
4 as_id = mem->slot >> 16                           as_id
4 slot_id = (u16)mem->slot                          slot_id
4 kvm_memslots = __kvm_memslots(kvm, as_id)         __kvm_memslots
4 kvm_memory_slot = id_to_memslot(kvm_memslots, slot_id)  id_to_memslot""",
    3: """\
0 vcpu_enter_guest                                  vcpu_enter_guest
1 kvm_mmu_reload                                    kvm_mmu_reload
2 kvm_mmu_load                                      kvm_mmu_load
3 mmu_alloc_roots                                   mmu_alloc_roots
4 kvm_alloc_direct_roots/mmu_alloc_direct_roots     mmu_alloc_direct_roots
5 kvm_mmu_get_page                                  kvm_mmu_get_page
6 kvm_mmu_alloc_page                                kvm_mmu_alloc_page
5 vcpu->arch.mmu->root_hpa = __pa(kvm_mmu_page->spt)  root_hpa
3 kvm_mmu_sync_roots                                kvm_mmu_sync_roots
3 kvm_mmu_load_cr3                                  kvm_mmu_load_cr3
4 vcpu->arch.mmu->set_cr3()/vmx_set_cr3()           vmx_set_cr3
5 eptp = construct_eptp(vcpu, cr3)                  construct_eptp
5 vmcs_write64(EPT_POINTER, eptp)                   vmcs_write64_EPT_POINTER
5 guest_cr3 = kvm_read_cr3()                        kvm_read_cr3
5 vmcs_writel(GUEST_CR3, guest_cr3)                 vmcs_writel_GUEST_CR3""",
    4: """\
0 handle_ept_violation                              handle_ept_violation
1 exit_qualification = vmcs_readl(EXIT_QUALIFICATION)  vmcs_readl_EXIT_QUALIFICATION
1 vcpu->arch.exit_qualification = exit_qualification  arch_exit_qualification
1 kvm_mmu_page_fault                                kvm_mmu_page_fault
2 tdp_page_fault                                    tdp_page_fault""",
}
WANTED = {n: [(int(line[0]), *re.match(r"\d (.*\S) +(\S+)$", line).groups()) for line in text.split("\n")]
          for n, text in TREES.items()}
WORDS = {words.strip(): event for tree in WANTED.values() for _, words, event in tree}


def walkthrough(*argv):
    out, status = tap.run(USERKVM, "walkthrough", *argv)
    assert status == 0, out
    return out


def pieces(out, tree):
    """Each piece of a tree: [(depth, event)] of the lines the walk-through has."""
    part = re.split(r"^(?=\d\. )", out, flags=re.M)[tree]
    result = []
    for text in part.split("\n  [")[1:]:
        lines = []
        for line in text.split("\n")[1:]:
            m = re.match(r"( *)(\S.*)", line)
            if not m or m.group(2)[:2] in ("//", "| ") or m.group(2)[0] in "(（":
                continue
            words = re.split(r"  +", m.group(2))[0]
            if words in WORDS:
                lines.append((len(m.group(1)) // 2 - 1, WORDS[words]))
        result.append(lines)
    return result


def unique(lines):
    """Without the second of two that are the same: one line an address space."""
    return [line for i, line in enumerate(lines) if i == 0 or lines[i - 1] != line]


def walkthrough_has_the_four_trees_as_the_seed_nests_them():
    out = walkthrough()
    for tree, wanted in WANTED.items():
        want = [(depth, event) for depth, _, event in wanted]
        got = [unique(p) for p in pieces(out, tree)]
        if tree == 1:  # VM and vCPU are two pieces
            got = [got[0] + got[1]]
        assert want in got, (tree, want, got[:3])


def walkthrough_decodes_this_runs_values():
    out = walkthrough()
    root = re.search(r"root_hpa = __pa\(kvm_mmu_page->spt\) += (0x\w+)", out).group(1)
    eptp = int(re.search(r"construct_eptp\(vcpu, cr3\) += (0x\w+)", out).group(1), 16)
    assert eptp & ~0xfff == int(root, 16) and eptp & 7 == 6 and eptp >> 3 & 7 == 3, (root, hex(eptp))
    assert f"root table at {root}" in out
    assert "guest_cr3 = kvm_read_cr3()                    = 0x2000, VMCS 0x0" in out, out
    assert "slot 0x2, gpa 0xc00000..0xc0ffff" in out and "READONLY" in out
    assert "= 0x182\n" in out and "| bit  1     = 1  data write: the access was a data write" in out
    assert "RET_PF_EMULATE" in out and "KVM_MR_DELETE" in out
    # without PML the dirty log takes write access, and the fast path gives it back
    out, _ = tap.run(USERKVM, "walkthrough", env=dict(os.environ, USERKVM_PARAMS="pml=0"))
    assert re.search(r"fast_page_fault +gfn 0x\w+: 0x\w+ to 0x\w+$", out, re.M), out


def in_order(text, *patterns):
    """Each pattern on a line of its own, one below the other, nothing deeper than it is between."""
    at = 0
    for pattern in patterns:
        m = re.compile(pattern, re.M).search(text, at)
        assert m, (pattern, text[at:at + 1500])
        at = m.end()


def what_the_trees_lead_to_is_shown_to_its_end():
    out = walkthrough()
    in_order(out, r"^  kvm_mmu_reset_context +the guest's paging: 0 levels, now 2$", r"why kvm_init_mmu a second time",
             r"^    kvm_init_mmu$", r"^      init_kvm_tdp_mmu$")
    in_order(out, r"^  handle_ept_violation", r"= 0x83$", r"bits 1:0   = 3  read and write at once")
    in_order(out, r"^  handle_ept_violation", r"no slot$", r"misconfigured on purpose", r"^        return +RET_PF_EMULATE$",
             r"^    x86_emulate_instruction +vcpu 0, rip 0x\w+$",
             r"^      vcpu->run->exit_reason = KVM_EXIT_MMIO +write of 4 bytes at 0x1000000$")
    in_order(out, r"^  handle_ept_misconfig +vcpu 0, gpa 0x1000000$", r"^    x86_emulate_instruction", r"= KVM_EXIT_MMIO")


def without_ept_the_shadow_mmu_is_shown():
    out, status = tap.run(USERKVM, "walkthrough", env=dict(os.environ, USERKVM_PARAMS="ept=0"))
    assert status == 0 and "construct_eptp" not in out and "tdp_page_fault" not in out, out
    in_order(out, r"^        init_kvm_softmmu$", r"^          context->page_fault = nonpaging_page_fault$",
             r"^          context->set_cr3 = set_shadow_cr3$", r"^      init_kvm_softmmu$",
             r"^        context->page_fault = shadow_page_fault$", r"^        context->direct_map = false$")
    root = re.search(r"kvm_mmu_load_cr3 +root_hpa (0x\w+)$", out, re.M).group(1)
    assert re.search(rf"vmcs_writel\(GUEST_CR3, guest_cr3\) +{root}$", out, re.M), out
    in_order(out, r"^4\. ", r"^  kvm_handle_page_fault +vcpu 0, rip 0x1000, cr2 0x1000, error_code 0x10$", r"P: no entry was there",
             r"^    kvm_mmu_page_fault", r"^      shadow_page_fault +gva 0x1000$", r"^        mmu_guest_walk +gva 0x1000 is gpa 0x1000, by a PDE$",
             r"^        kvm_faultin_page +gfn 0x1: slot 0", r"^        shadow entry +level 1", r"^        return +RET_PF_FIXED$")


def without_unrestricted_guest_the_identity_map_pages_first():
    out, status = tap.run(USERKVM, "walkthrough", env=dict(os.environ, USERKVM_PARAMS="unrestricted_guest=0"))
    assert status == 0, out
    in_order(out, r"^ +guest_cr3 = kvm_read_cr3\(\) +\= 0x0, VMCS 0x0$", r"the processor enters no guest\n",
             r"^ +vmcs_writel\(GUEST_CR3, guest_cr3\) +0xfffbc000$", r"entries of 4 MiB",
             r"^ +guest_cr3 = kvm_read_cr3\(\) +\= 0x2000, VMCS 0xfffbc000$", r"^ +vmcs_writel\(GUEST_CR3, guest_cr3\) +0x2000$")
    in_order(out, r"^4\. ", r"gpa 0xfffbc", r"RET_PF_EMULATE", r"= KVM_EXIT_MMIO")
    # the slot that the table lies in is made while the vCPU is: the first tree stands all the same
    want = [(depth, event) for depth, _, event in WANTED[1]]
    assert want in [unique(p) + unique(q) for p, q in zip(pieces(out, 1), pieces(out, 1)[1:])], pieces(out, 1)


def walkthrough_of_a_hypervisor_has_the_third_mmu_and_both_kinds_of_violation():
    out = walkthrough("--nested")
    in_order(out, r"^    handle_vmlaunch +VMLAUNCH, vcpu 0, rip 0x1\w+$", r"^      nested_vmx_run +vmcs12 at gpa 0x9000$",
             r"^        nested_vmx_enter_non_root_mode +vcpu 0$", r"^          prepare_vmcs02 +L2's rip 0x2000, cr3 0x3000, EPT of L1's$",
             r"^            nested_ept_init_mmu_context +EPTP12 0xc01e$", r"^              kvm_init_shadow_ept_mmu +EPTP12 0xc01e$",
             r"^    kvm_init_mmu$", r"^      init_kvm_nested_mmu$", r"^      kvm_mmu_load$", r"^          mmu_alloc_shadow_roots$",
             # satisfied by L0
             r"^    kvm_mmu_page_fault +gpa 0x10000,", r"^      ept_page_fault +L2's gpa 0x10000$",
             r"^        mmu_ept12_walk +L2's gpa 0x10000 is L1's gpa 0x10000, by an entry of level 1$",
             r"^        shadow entry +level 1", r"^        return +RET_PF_FIXED$",
             # reflected
             r"^    kvm_mmu_page_fault +gpa 0x11000,", r"^        mmu_ept12_walk +L2's gpa 0x11000: L1's tables forbid it$",
             r"^        nested_ept_inject_page_fault +L2's gpa 0x11000$", r"^          nested_vmx_vmexit +reason 48, qualification 0x181$",
             r"^  nested_vmx_vmexit +reason 18, qualification 0x0$")
    assert "while L2 runs for each EPTP12" in " ".join(out.replace("//", "").split()), out
    assert "prepare_vmcs02" in walkthrough("--nested", "--lang", "zh", "--order", "tree")
    out, status = tap.run(USERKVM, "walkthrough", "--nested", env=dict(os.environ, USERKVM_PARAMS="nested=0"))
    assert status == 1 and "VMX in CPUID: Operation not supported" in out, out
    out, status = tap.run(USERKVM, "walkthrough", "--nested", "--", "true")
    assert status == 2 and "no PROGRAM" in out, out


def masking_a_tracepoint_removes_its_line_and_only_that():
    whole = walkthrough()
    for tree, wanted in WANTED.items():
        all_events = {e for p in pieces(whole, tree) for _, e in p}
        for event in {event for _, _, event in wanted}:
            out = walkthrough("--mask", event)
            got = {e for p in pieces(out, tree) for _, e in p}
            assert got == all_events - {event}, (event, all_events - got, got - all_events)


def walkthrough_of_any_client_and_in_chinese():
    out = walkthrough("--lang", "zh", "--order", "tree", "--", CLIENT)
    assert "1. 初始化" in out and "4. 退出 Guest" in out and "EPT 不允许任何访问" in out, out
    assert re.search(r"\[test_client_irq-\d+", out) or "[test_client_irq" in out, out


def walkthrough_of_a_client_is_told_as_it_happens():
    # the client waits when its guest has run: all of it is told before the client ends
    p = subprocess.Popen([USERKVM, "walkthrough", "--", "sh", "-c", f"{CLIENT} >/dev/null; exec sleep 1000"],
                         stdout=subprocess.PIPE, text=True)
    seen = ""
    while "handle_ept_violation" not in seen or "vcpu_enter_guest" not in seen:
        line = p.stdout.readline()
        assert line, seen
        seen += line
    assert seen.startswith("In the order of time") and re.search(r"^1\. Initialisation\n  \[test_client_irq-\d+ \+0\.000 ms\]$", seen, re.M), seen
    p.stdout.close()
    p.send_signal(signal.SIGTERM)
    assert p.wait(60 * tap.PATIENCE) in (128 + signal.SIGTERM, -signal.SIGPIPE), p.returncode


def a_closed_output_ends_the_client():
    r, w = os.pipe()
    p = subprocess.Popen([USERKVM, "walkthrough", "--", "sh", "-c", f"sleep 0.2; echo $$ >&2; {CLIENT} >/dev/null; exec sleep 1000"],
                         stdout=w, stderr=subprocess.PIPE, text=True)
    os.close(w)
    os.close(r)
    client = p.stderr.readline().strip()
    assert p.wait(60 * tap.PATIENCE) != 0 and not os.path.exists(f"/proc/{client}"), "the client is an orphan"


def lines_are_folded_to_the_terminal():
    for columns in (50, 100):
        pid, fd = pty.fork()
        if pid == 0:
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
            os.execv(USERKVM, [USERKVM, "walkthrough", "--lang", "zh" if columns == 50 else "en"])
        out = b""
        try:
            while more := os.read(fd, 65536):
                out += more
        except OSError:
            pass
        os.waitpid(pid, 0)
        os.close(fd)
        lines = out.decode().split("\r\n")
        wide = [x for x in lines if sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in x) > columns]
        assert len(lines) > 200 and not wide, wide[:5]


NOTES = """\
# What I read
```c
kvm_create_vm
  kvm->mm = current->mm                 // whose memory
  kvm_alloc_memslots
vcpu_enter_guest
  kvm_mmu_reload
    kvm_mmu_load
      kvm_mmu_load_cr3
        vcpu->arch.mmu->set_cr3()
          eptp = construct_eptp(vcpu, cr3)
handle_ept_violation
  kvm_mmu_page_fault
    tdp_page_fault
```
"""


def notes_are_ticked_off():
    path = os.path.join(tmp.name, "notes.md")
    open(path, "w").write(NOTES)
    out = walkthrough("--follow", path)
    assert "   # What I read\n" in out and "12 lines happened in this run (✓), 0 did not (✗)" in out, out
    in_order(out, r"^✓  kvm_create_vm$", r"^✓    kvm->mm = current->mm +// whose memory$", r"^ +→ address space number 1$",
             r"^✓            eptp = construct_eptp\(vcpu, cr3\)$", r"^ +→ = 0x\w+05e$")
    # the wrong order, the wrong caller, what is nowhere
    open(path, "w").write(NOTES.replace("    tdp_page_fault", "    fast_page_fault").replace("  kvm_alloc_memslots", "  kvm_mmu_load"))
    out, status = tap.run(USERKVM, "walkthrough", "--follow", path)
    assert status == 1 and re.findall(r"^✗ +(\w+)$", out, re.M) == ["kvm_mmu_load", "fast_page_fault"], out
    assert "10 lines happened in this run (✓), 2 did not (✗)" in out, out
    out, status = tap.run(USERKVM, "walkthrough", "--follow", "/nowhere.md")
    assert status == 1 and out.count("\n") == 1 and "/nowhere.md: No such file" in out, out


def the_page_is_one_file_with_the_run_in_it():
    page = os.path.join(tmp.name, "page.html")
    assert walkthrough("--html", page) == ""
    text = open(page).read()
    # nothing is fetched when it is opened
    assert not re.search(r"https?://|src=|@import|url\(", text), re.search(r".*(https?://|src=|@import|url\().*", text)
    run = json.loads(re.search(r'<script id="run" type="application/json">(.*?)</script>', text, re.S).group(1))
    steps, changes = run["steps"], run["changes"]
    assert [s["t"] for s in steps] == sorted(s["t"] for s in steps), "not in order of time"
    assert {s["tree"] for s in steps} == {1, 2, 3, 4} and all(s["s"] for s in steps), [s for s in steps if not s["s"]]
    # the first fault: three tables and a leaf, one below the other, are what is written between its steps
    fault = next(i for i, s in enumerate(steps) if s["n"] == "kvm_tdp_mmu_map")
    wrote = changes[steps[fault - 1]["c"]:steps[fault]["c"]]
    assert [c[2] for c in wrote] == [4, 3, 2, 1] and int(wrote[3][3], 16) == int(steps[fault]["a"], 16) >> 12, wrote
    assert wrote[3][4] in steps[fault]["v"], (wrote, steps[fault]["v"])
    names = {f[2] for s in steps for f in s["f"][0]}
    assert {"EPT page-walk length minus 1", "guest linear-address valid", "ignore PAT memory type"} <= names, names
    assert all(len(s["f"][0]) == len(s["f"][1]) for s in steps)
    # what a client is called ends no script
    evil = os.path.join(tmp.name, "a<")
    os.symlink(CLIENT, evil)
    walkthrough("--html", page, "--", evil)
    assert len(re.findall("</script>", open(page).read())) == 2


def browser(*argv):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        raise tap.Skip("no chromium is installed")
    return subprocess.run([chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=4000",
                           "--allow-file-access-from-files", "--user-data-dir=" + os.path.join(tmp.name, "chromium"), *argv],
                          capture_output=True, text=True, timeout=120 * tap.PATIENCE).stdout


def the_page_in_a_browser():
    page = os.path.join(tmp.name, "page.html")
    walkthrough("--html", page)
    steps = json.loads(re.search(r'<script id="run" type="application/json">(.*?)</script>', open(page).read(), re.S).group(1))["steps"]
    number = {n: next(i for i, s in enumerate(steps, 1) if s["n"] == n) for n in ("handle_ept_violation", "kvm_tdp_mmu_map")}
    # Three steps beside each other, each as wide as a telephone; what they show, and whether it fits.
    views = [f"#{number['handle_ept_violation']}", f"#{number['kvm_tdp_mmu_map']}", f"#{number['kvm_tdp_mmu_map'] + 1},zh,trees"]
    frames = "".join(f'<iframe src="page.html{v}" style="width:390px;height:800px"></iframe>' for v in views)
    with open(os.path.join(tmp.name, "phone.html"), "w") as f:
        f.write(f"""{frames}<pre id=o></pre><script>onload = () => {{ for (const f of document.querySelectorAll("iframe")) {{
            const d = f.contentDocument, e = d.documentElement, text = q => [...d.querySelectorAll(q)].map(x => x.textContent);
            document.getElementById("o").textContent += "@@" + JSON.stringify({{ wide: e.scrollWidth - e.clientWidth, lang: e.lang, now: text(".step.now"),
              lit: text(".e.read, .e.wrote, .e.miss, .e.path"), tables: text(".box").length, card: text("#now")[0] }}); }} }}</script>""")
    dom = browser("--dump-dom", "file://" + os.path.join(tmp.name, "phone.html"))
    told = [json.loads(html.unescape(x)) for x in re.search(r"<pre id=\"o\">(.*?)</pre>", dom, re.S).group(1).split("@@")[1:]]
    assert len(told) == 3, dom[-2000:]
    first, mapped, chinese = told
    assert all(t["wide"] <= 0 and t["tables"] == 4 and len(t["now"]) == 1 for t in told), told
    assert first["now"] == ["handle_ept_violation"] and first["lit"] == ["ends here[0] empty"] and first["lang"] == "en", first
    assert mapped["now"] == ["kvm_tdp_mmu_map"] and len(mapped["lit"]) == 4, mapped
    assert all(x.startswith("wrote[") and "RWX" in x for x in [y.replace("written", "wrote") for y in mapped["lit"]]), mapped
    assert chinese["lang"] == "zh" and "退出 Guest" in chinese["card"] and len(chinese["lit"]) == 4, chinese


def lab(*argv, answers=""):
    r = subprocess.run([USERKVM, "lab", *argv], input=answers, capture_output=True, text=True, timeout=60 * tap.PATIENCE)
    return r.stdout + r.stderr, r.returncode


def exercises_are_graded_by_the_run():
    out, status = lab()
    assert status == 0 and re.findall(r"^ *(\d+)  \S", out, re.M) == [str(n) for n in range(1, 11)], out
    right = ["2", "2", "3", "3", "0x83", "129", "8", "ret_pf_emulate", "0x31", "6"]
    out, status = lab(*(str(n) for n in range(1, 11)), answers="\n".join(right) + "\n")
    assert status == 0 and out.count("\n> Right: ") == 10, out
    # the piece that has the answer is shown
    in_order(out, r"Right: 0x83\.", r"handle_ept_violation", r"= 0x83$", r"Right: 0x81\.", r"= 0x81$", r"Right: 0x6\.", r"fast_page_fault +gfn 0x6: ")
    for n in range(1, 11):
        out, status = lab(str(n), answers="12345\n")
        assert status == 1 and "No: it is " in out, out
    out, status = lab("--lang", "zh", "5", answers="0x83\n")
    assert status == 0 and "对：0x83。" in out, out
    out, status = lab("5")
    assert status == 1 and "Right" not in out, out
    for wrong in ("0", "11", "x"):
        out, status = lab(wrong)
        assert status == 2 and "1 to 10" in out and out.count("\n") == 1, out


def a_forgotten_invept_hides_a_write_from_the_dirty_log():
    repaired = {}
    for forget in ("", "invept"):
        env = dict(os.environ, USERKVM_PARAMS="pml=0", **({"USERKVM_FORGET": forget} if forget else {}))
        out, status = tap.run(USERKVM, "walkthrough", "--all", env=env)
        assert status == 0, out
        repaired[forget] = set(re.findall(r"fast_page_fault +gfn (0x\w+):", out))
    assert "0x6" in repaired[""] and "0x6" not in repaired["invept"], repaired
    # the checker of our own translations is told what was due
    for forget in ("", "invept"):
        env = dict(os.environ, USERKVM_PARAMS="pml=0", USERKVM_CHECK="tlb", **({"USERKVM_FORGET": forget} if forget else {}))
        out, status = tap.run(USERKVM, "walkthrough", "--all", env=env)
        found = re.findall(r"USERKVM_CHECK=tlb: .* used for \w+ at rip .* after it had to be invalidated", out)
        assert status == 0 and bool(found) == bool(forget), (forget, found)
    out, status = tap.run(USERKVM, "run", "true", env=dict(os.environ, USERKVM_FORGET="everything"))
    assert status == 2 and "unknown word 'everything'" in out, out


def traced(*argv, outputs=("dat", "txt", "json"), client=(CLIENT,)):
    files = {s: os.path.join(tmp.name, "trace." + s) for s in outputs}
    options = [x for f in files.values() for x in ("-o", f)]
    out, status = tap.run(USERKVM, "trace", *argv, *options, "--", *client)
    assert status == 0 and "lost" not in out, out
    return files


def text_has_kvms_events_in_kvms_words():
    text = open(traced("-e", "kvm")["txt"]).read()
    for pattern in (r"kvm_entry: +vcpu 0, rip 0x\w+$", r"kvm_exit: +vcpu 0 reason HLT rip 0x\w+ info1 0x0{16} ",
                    r"kvm_pio: +pio_write at 0x\w+ size 1 count 1 val 0x\w+ $", r"kvm_inj_virq: +IRQ 0x\w+$",
                    r"kvm_page_fault: +vcpu 0 rip 0x\w+ address 0x\w{16} error_code 0x\w+$",
                    r"kvm_userspace_exit: +reason KVM_EXIT_IO \(2\)$", r"kvm_pic_set_irq: +chip \d pin \d \(edge(\|masked)?\)"):
        assert re.search(pattern, text, re.M), pattern
    assert "kvm_mmu_set_spte" not in text
    stamps = [float(s) for s in re.findall(r"\] +([\d.]+): ", text)]
    assert stamps == sorted(stamps) and len(stamps) > 100


def trace_cmd_reads_the_same_from_trace_dat():
    if not shutil.which("trace-cmd"):
        raise tap.Skip("trace-cmd is not installed")
    files = traced("-e", "*")
    # -N: without plug-ins, which have formats of their own for some events
    theirs = subprocess.run(["trace-cmd", "report", "-N", files["dat"]], capture_output=True, text=True).stdout
    ours = open(files["txt"]).read()
    # events of the same microsecond may come in another order
    assert sorted(ours.split("\n")) == sorted(theirs.split("\n"))
    with_plugins = subprocess.run(["trace-cmd", "report", files["dat"]], capture_output=True, text=True).stdout
    assert "kvm_exit:" in with_plugins and "reason EPT_VIOLATION" in with_plugins


def json_has_the_same_events_and_slices():
    files = traced("-e", "kvm")
    events = json.load(open(files["json"]))["traceEvents"]
    instants = [e for e in events if e["ph"] == "i"]
    assert len(instants) == len(open(files["txt"]).read().strip().split("\n")) - 1
    slices = [e for e in events if e["ph"] == "X"]
    assert {"guest", "HLT", "EPT_VIOLATION"} <= {e["name"] for e in slices}
    assert all(e["dur"] >= 0 for e in slices)


def choosing_and_leaving_out_events():
    text = open(traced("-e", "kvmmmu:kvm_mmu_set_spte", "-e", "kvm_pio", outputs=["txt"])["txt"]).read()
    assert set(re.findall(r": (\w+):  ", text)) <= {"kvm_mmu_set_spte", "kvm_pio"} and "kvm_pio" in text, text
    text = open(traced("-x", "kvm_exit", outputs=["txt"])["txt"]).read()
    assert "kvm_entry:" in text and "kvm_exit:" not in text


def fields_are_filtered():
    whole = open(traced("-e", "kvm", outputs=["txt"])["txt"]).read()
    text = open(traced("-e", "kvm", "-f", "kvm_exit.exit_reason==12", "-f", "kvm_pio.port!=0x20", outputs=["txt"])["txt"]).read()
    assert set(re.findall(r"kvm_exit: .* reason (\w+) ", text)) == {"HLT"} < set(re.findall(r"kvm_exit: .* reason (\w+) ", whole)), text[:2000]
    assert " at 0x20 " in whole and " at 0x20 " not in text and "kvm_pio:" in text
    assert text.count("kvm_inj_virq") > 0  # events without a filter stay
    for wrong in ("kvm_exit", "kvm_exit.nothing==1", "nothing.exit_reason==1", "kvm_exit.exit_reason=1", "kvm_exit.exit_reason==x"):
        out, status = tap.run(USERKVM, "trace", "-f", wrong, "--", CLIENT)
        assert status == 2 and out.count("\n") == 1 and "EVENT.FIELD" in out, out


class Waiting:
    """A client that runs its guest when it is told."""

    def __enter__(self):
        self.p = subprocess.Popen([USERKVM, "run", "--", sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "see_client.py")],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.p.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_):
        self.p.stdin.close()
        self.p.stdout.close()
        self.p.kill()
        self.p.wait()

    def run(self):
        self.p.stdin.write("run\n")
        self.p.stdin.flush()
        assert self.p.stdout.readline() == "exit 2\n"


def a_process_that_runs_is_traced_and_left_alone():
    path = os.path.join(tmp.name, "running.txt")
    with Waiting() as client:
        client.run()
        for attempt in range(2):  # a second tracer comes when the first has gone
            t = subprocess.Popen([USERKVM, "trace", "-p", str(client.p.pid), "-o", path], stderr=subprocess.PIPE, text=True)
            deadline = time.time() + 60 * tap.PATIENCE
            while open(f"/proc/{client.p.pid}/maps").read().count("memfd:userkvm-trace") <= attempt:
                assert time.time() < deadline and t.poll() is None
                time.sleep(0.01)
            time.sleep(0.1)  # the mapping comes a moment before the events
            out, status = tap.run(USERKVM, "trace", "-p", str(client.p.pid), "-d", "0.01")
            assert status == 1 and out.endswith("it is traced already\n"), out
            client.run()
            client.run()
            time.sleep(0.1)
            t.send_signal(signal.SIGINT)
            assert t.wait(60 * tap.PATIENCE) == 0 and t.stderr.read() == ""
            t.stderr.close()
            text = open(path).read()
            assert text.count("kvm_userspace_exit: ") == 2 and text.count(": kvm_entry") >= 2, text
        client.run()
        # by time; and until it ends
        out, status = tap.run(USERKVM, "trace", "-p", str(client.p.pid), "-d", "0.1", "-o", path)
        assert status == 0 and not out, out
        t = subprocess.Popen([USERKVM, "trace", "-p", str(client.p.pid), "-o", path])
        time.sleep(0.3)
        client.p.kill()
        assert t.wait(60 * tap.PATIENCE) == 0
    for argv, words, want in ((["-p", "1"], "", 1), (["-p", "x"], "no process id", 2), (["-p", "1", "true"], "not both", 2), (["-d", "1", "true"], "-d is for", 2),
                              (["-p", "999999999"], "no process 999999999", 1)):
        out, status = tap.run(USERKVM, "trace", *argv)
        assert status == want and words in out and out.count("\n") == 1, (argv, out, status)


def a_process_that_runs_is_walked_through():
    with Waiting() as client:
        client.run()
        w = subprocess.Popen([USERKVM, "walkthrough", "-p", str(client.p.pid)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.time() + 60 * tap.PATIENCE
        while "memfd:userkvm-trace" not in open(f"/proc/{client.p.pid}/maps").read():
            assert time.time() < deadline and w.poll() is None
            time.sleep(0.01)
        time.sleep(0.1)
        client.run()
        assert w.stdout.readline().startswith("In the order of time")  # while both run
        w.send_signal(signal.SIGINT)
        out, err = w.stdout.read(), w.stderr.read()
        w.stdout.close(), w.stderr.close()
        assert w.wait(60 * tap.PATIENCE) == 0 and not err and "vcpu_enter_guest" in out and "kvm_create_vm" not in out, (out, err)
        client.run()
        # without a guest that runs, and into a page
        out, status = tap.run(USERKVM, "walkthrough", "-p", str(client.p.pid), "-d", "0.1")
        assert status == 1 and "nothing to show" in out and out.count("\n") == 1, out
        page = os.path.join(tmp.name, "running.html")
        w = subprocess.Popen([USERKVM, "walkthrough", "--html", page, "-p", str(client.p.pid), "-d", "1"])
        while w.poll() is None:
            client.run()
        assert w.returncode == 0 and "vcpu_enter_guest" in open(page).read()
    for argv, words, want in ((["-p", "1"], "", 1), (["-p", "x"], "no process id", 2), (["-p", "1", "--", "true"], "not both", 2),
                              (["-d", "1"], "-d is for", 2), (["-p", "1", "--nested"], "--nested is about", 2)):
        out, status = tap.run(USERKVM, "walkthrough", *argv)
        assert status == want and words in out and out.count("\n") == 1, (argv, out, status)


def small_ring_reports_what_is_lost():
    out, status = tap.run(USERKVM, "trace", "-e", "*", "-b", "4", "-o", os.path.join(tmp.name, "l.txt"), "--",
                          os.path.join(BUILD, "tests/client/test_client_first"))
    kept = len(open(os.path.join(tmp.name, "l.txt")).read().split("\n")) - 2
    m = re.search(r"(\d+) events lost", out)
    # either all fitted, or the rest is told
    assert status == 0 and kept > 0 and (m or kept > 700), (out, kept)


def clients_exit_status_is_ours():
    out, status = tap.run(USERKVM, "trace", "--", "sh", "-c", "exit 7")
    assert status == 7, (out, status)
    out, status = tap.run(USERKVM, "trace", "--", "sh", "-c", "kill -9 $$")
    assert status == 137, (out, status)


def a_signal_ends_the_client_and_keeps_what_was_recorded():
    # The client runs a guest and then waits; the shell's pid is the client's, for exec keeps it.
    for number, name in ((signal.SIGTERM, "term"), (signal.SIGHUP, "hup")):
        path, said = os.path.join(tmp.name, name + ".txt"), os.path.join(tmp.name, name)
        p = subprocess.Popen([USERKVM, "trace", "-o", path, "--", "sh", "-c",
                              f"{CLIENT} >/dev/null 2>&1; echo $$ >{said}; exec sleep 1000"])
        deadline = time.time() + 60 * tap.PATIENCE
        while not (os.path.exists(said) and open(said).read().endswith("\n")) and time.time() < deadline:
            time.sleep(0.05)
        p.send_signal(number)
        assert p.wait(60 * tap.PATIENCE) == 128 + number, p.returncode
        assert "kvm_entry" in open(path).read(), "nothing was written"
        assert not os.path.exists(f"/proc/{open(said).read().strip()}"), "the client is an orphan"


def a_signal_at_any_moment_leaves_no_orphan():
    # to the process (SIGTERM, SIGHUP) and, as a terminal does, to all of its group (SIGINT)
    for i in range(36):
        number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[i % 3]
        path = os.path.join(tmp.name, f"moment{i}.txt")
        argv = [USERKVM, "trace", "-o", path] if i % 2 else [USERKVM, "walkthrough"]
        p = subprocess.Popen([*argv, "--", "sh", "-c", f"{CLIENT}; sleep 1000"], start_new_session=True,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(i * 0.03 if i < 18 else (i - 18) * 0.001)  # most of what a start consists of is over in 20 ms
        (os.killpg if number == signal.SIGINT else os.kill)(p.pid, number)
        said = p.stderr.read() if p.wait(60 * tap.PATIENCE) is None else ""
        p.stderr.close()
        try:  # SIGTERM ends the shell, which does not pass it on: what it had started ends with the session
            os.killpg(p.pid, signal.SIGKILL)
            left = True
        except ProcessLookupError:
            left = False
        assert p.returncode in (1, -number, 128 + number), (i, number, p.returncode, said)
        assert not left or number != signal.SIGINT, (i, "something ran on")


def bad_input_is_one_line():
    # 2: wrong usage; 1: the work failed
    for argv, words, want in ((["trace", "-e", "nonsense", "--", CLIENT], "no such event", 2),
                              (["trace", "-o", "x.xml", "--", CLIENT], "no format", 2),
                              (["trace", "-o", "/nowhere/x.txt", "--", CLIENT], "No such file", 1),
                              (["trace", "-b", "0", "--", CLIENT], "ring size", 2),
                              (["trace", "--list", "nonsense"], "no such event", 2),
                              (["trace", "-o", os.path.join(tmp.name, "n.txt"), "--", "true"], "did not open /dev/kvm", 1),
                              (["walkthrough", "--lang", "xx"], "en and zh", 2),
                              (["walkthrough", "--order", "xx"], "time or tree", 2),
                              (["walkthrough", "--html", "/nowhere/x"], "/nowhere/x: No such file", 1),
                              (["walkthrough", "--html", "/dev/full"], "/dev/full: No space left", 1),
                              (["walkthrough", "--mask", "nonsense"], "no such event", 2),
                              (["walkthrough", "--", "true"], "nothing to show", 1)):
        out, status = tap.run(USERKVM, *argv)
        assert status == want and words in out and out.count("\n") == 1, (argv, status, out)


def foreign_ring_file_is_refused_and_the_client_runs():
    for content in (b"", b"hello", b"\0" * 1000000):
        path = os.path.join(tmp.name, "ring")
        open(path, "wb").write(content)
        out, status = tap.run(USERKVM, "run", CLIENT, env=dict(os.environ, USERKVM_TRACE=path))
        assert status == 0 and "is no ring file" in out, out
        assert open(path, "rb").read() == content


def listing_gives_formats():
    out, status = tap.run(USERKVM, "trace", "--list")
    assert status == 0 and "kvm:kvm_exit\n" in out and "userkvm:tdp_page_fault\n" in out
    out, status = tap.run(USERKVM, "trace", "--list", "kvm_exit")
    assert status == 0 and "field:unsigned int exit_reason;\toffset:8;\tsize:4;\tsigned:0;" in out, out


def probes_are_in_the_library():
    if not shutil.which("readelf"):
        raise tap.Skip("readelf is not installed")
    notes = subprocess.run(["readelf", "-n", os.path.join(BUILD, "src/preload/libuserkvm.so")],
                           capture_output=True, text=True).stdout
    if "stapsdt" not in notes:
        raise tap.Skip("built without sys/sdt.h")
    at = notes.index("Name: kvm_exit\n")
    semaphore = re.search(r"Semaphore: 0x(\w+)", notes[at:]).group(1)
    assert int(semaphore, 16) != 0
    assert len(re.search(r"Arguments: (.*)", notes[at:]).group(1).split()) == 8


tap.main(*[case for name, case in list(globals().items())
           if callable(case) and getattr(case, "__module__", "") == "__main__"
           and name not in ("walkthrough", "pieces", "unique", "traced", "browser", "in_order", "Waiting", "lab")])
