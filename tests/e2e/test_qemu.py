"""Debian's QEMU, unmodified, -accel kvm: machines, interrupt controllers, virtio devices with every byte checked.

usage: test_qemu.py USERKVM BUILD [all | CASE...]
"""
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import time

import initrd
import servers
import tap
from qemu import HYPERV, Machine

USERKVM, BUILD = (os.path.abspath(x) for x in sys.argv[1:3])
KERNEL = os.path.join(BUILD, "demo/vmlinuz")
MODULES = os.path.join(BUILD, "demo/modules")
SCRATCH = os.path.join(BUILD, "test-qemu")
BAD = ("Kernel panic", "BUG:", "Oops", "Call Trace", "unchecked MSR", "guest: no module")


def boot(name, script, *args, modules=(), programs=(), dynamic=(), append="", **more):
    os.makedirs(SCRATCH, exist_ok=True)
    if modules and not os.path.isdir(MODULES):
        raise tap.Skip("no kernel modules: scripts/demo-files DIR makes them")
    image = initrd.make(os.path.join(SCRATCH, name + ".img"), script, MODULES, modules, programs, dynamic=dynamic)
    return Machine(USERKVM, "-kernel", KERNEL, "-initrd", image, "-append",
                   "console=ttyS0 quiet panic=-1 " + append, *args, **more)


def finish(m, timeout=120):
    status = m.wait_end(timeout)
    assert status == 0, f"exit status {status}\n" + m.errors() + "\n" + m.console[-3000:]
    assert "guest: script done" in m.console, m.console[-3000:]
    for bad in BAD:
        assert bad not in m.console, f"{bad}\n" + m.console[-4000:]


def boots(name, *args, lacks_features=False, **more):
    with boot(name, "cat /proc/interrupts\n", *args, **more) as m:
        finish(m)
        # neither QEMU's own models nor the host's ask for a CPUID bit that is not offered
        assert lacks_features or "requested feature" not in m.errors(), m.errors()
        return m.console


def q35_with_the_kernels_irqchip():
    boots("q35", "-M", "q35")


def q35_with_a_split_irqchip():
    assert "IO-APIC" in boots("q35-split", "-M", "q35,kernel-irqchip=split")


def q35_with_qemus_own_irqchip():
    boots("q35-off", "-M", "q35,kernel-irqchip=off")


def pc_with_qemus_own_irqchip_and_the_hosts_processor():
    """No local APIC of KVM's: the guest must not be told of its TSC-deadline timer."""
    out = boots("pc-off", "-M", "pc,kernel-irqchip=off", "-cpu", "host")
    assert re.search(r"LOC: +[1-9]", out), out


def microvm_with_qemus_own_irqchip():
    boots("microvm-off", "-M", "microvm,kernel-irqchip=off", "-cpu", "host")


def q35_without_smm():
    boots("q35-nosmm", "-M", "q35,smm=off")


def q35_that_halts_without_exits():
    # QEMU asks for all that may be disabled; the guest idles in the processor's HLT and sees steal time
    boots("cpu-pm", "-M", "q35", "-overcommit", "cpu-pm=on", "-cpu", "host")


def microvm():
    boots("microvm", "-M", "microvm")


def random_file(name, size, seed):
    path = os.path.join(SCRATCH, name)
    os.makedirs(SCRATCH, exist_ok=True)
    data = random.Random(seed).randbytes(size)
    open(path, "wb").write(data)
    return path, data


def virtio_blk_reads_and_writes_every_byte():
    """The guest copies a disk of random bytes to a second one, blocks in reverse order."""
    path, data = random_file("disk-in.raw", 4 << 20, 1)
    back = os.path.join(SCRATCH, "disk-out.raw")
    open(back, "wb").truncate(len(data))
    script = """
md5sum </dev/vda
n=0
while [ $n -lt 64 ]; do
	dd if=/dev/vda of=/dev/vdb bs=64k count=1 skip=$n seek=$((63 - n)) conv=notrunc 2>/dev/null
	n=$((n + 1))
done
sync
"""
    with boot("blk", script, "-M", "q35", "-drive", f"file={path},if=virtio,format=raw,readonly=on",
              "-drive", f"file={back},if=virtio,format=raw", modules=["virtio_pci", "virtio_blk"]) as m:
        finish(m)
        assert hashlib.md5(data).hexdigest() in m.console, m.console
    blocks = [data[i:i + 65536] for i in range(0, len(data), 65536)]
    assert open(back, "rb").read() == b"".join(reversed(blocks)), "the disk written differs"


def virtio_net_transfers_every_byte_both_ways():
    _, data = random_file("net.bin", 2 << 20, 2)
    with servers.transfers(data) as (down, up, got):
        script = f"""
ifconfig eth0 10.0.2.15 up
nc 10.0.2.2 {down} </dev/null >/tmp/file
md5sum </tmp/file
nc 10.0.2.2 {up} </tmp/file
sleep 1
"""
        with boot("net", script, "-M", "pc", "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n",
                  modules=["virtio_pci", "virtio_net"]) as m:
            finish(m)
            assert hashlib.md5(data).hexdigest() in m.console, m.console
    assert got and got[0] == data, f"{len(got[0]) if got else 0} of {len(data)} bytes came back"


def confined_vcpus_have_a_disk_and_a_network():
    os.environ["USERKVM_CONFINE"] = "1"
    try:
        virtio_blk_reads_and_writes_every_byte()
        virtio_net_transfers_every_byte_both_ways()
        q35_with_qemus_own_irqchip()
    finally:
        del os.environ["USERKVM_CONFINE"]


def intel_iommu_remaps_interrupts():
    """x2APIC ids and remapped MSIs, through QEMU's own IOAPIC and the routing table."""
    path, data = random_file("remap.raw", 1 << 20, 6)
    with boot("remap", "md5sum </dev/vda\ncat /proc/interrupts\ndmesg | grep DMAR-IR\n",
              "-M", "q35,kernel-irqchip=split", "-smp", "2", "-device", "intel-iommu,intremap=on,eim=on",
              "-drive", f"file={path},if=none,id=d,format=raw", "-device", "virtio-blk-pci,drive=d,disable-legacy=on",
              modules=["virtio_pci", "virtio_blk"], append="intel_iommu=on") as m:
        finish(m)
        assert hashlib.md5(data).hexdigest() in m.console, m.console
        assert "Enabled IRQ remapping in x2apic mode" in m.console, m.console
        assert re.search(r"IR-IO-APIC .*ttyS0", m.console) and re.search(r"IR-PCI-MSI.* virtio0-req", m.console), m.console


def virtio_serial_carries_every_byte():
    path, data = random_file("serial.bin", 1 << 20, 3)
    back = os.path.join(SCRATCH, "serial.out")
    script = "sleep 1\ncat /dev/vda >/dev/vport1p1\nsync\nsleep 1\n"
    with boot("serial", script, "-M", "q35", "-drive", f"file={path},if=none,id=d,format=raw",
              "-device", "virtio-blk-pci,drive=d,bus=pcie.0,addr=5",
              "-device", "virtio-serial-pci,bus=pcie.0,addr=6", "-chardev", f"file,id=c,path={back}",
              "-device", "virtserialport,chardev=c,nr=1",
              modules=["virtio_pci", "virtio_blk", "virtio_console"]) as m:
        finish(m)
        console = m.console
    assert open(back, "rb").read() == data, "the bytes differ\n" + console[-2000:]


def microvm_with_virtio_mmio_disk():
    path, data = random_file("mmio.raw", 1 << 20, 4)
    with boot("mmio", "md5sum </dev/vda\n", "-M", "microvm", "-drive", f"file={path},if=none,id=d,format=raw",
              "-device", "virtio-blk-device,drive=d", modules=["virtio_mmio", "virtio_blk"]) as m:
        finish(m)
        assert hashlib.md5(data).hexdigest() in m.console, m.console


# A disk, a file system, a firmware: what takes longer is for `make clients`.

def cpu_model(model):
    def case():
        boots("cpu", "-M", "q35", "-cpu", model, lacks_features=model not in ("host", "max", "qemu64"))
    case.__name__ = "cpu_" + model.replace("-", "_").lower()
    return case


def ovmf_boots_the_kernel():
    """UEFI from flash, read-only memory and flash commands by MMIO, to the kernel given with -kernel."""
    code, variables = "/usr/share/OVMF/OVMF_CODE.fd", os.path.join(SCRATCH, "OVMF_VARS.fd")
    if not os.path.exists(code):
        raise tap.Skip("package ovmf is not installed")
    os.makedirs(SCRATCH, exist_ok=True)
    with open(variables, "wb") as f:
        f.write(open("/usr/share/OVMF/OVMF_VARS.fd", "rb").read())
    with boot("ovmf", "ls /sys/firmware/efi/runtime && echo uefi: yes\n", "-M", "q35,smm=off",
              "-drive", f"if=pflash,format=raw,readonly=on,file={code}",
              "-drive", f"if=pflash,format=raw,file={variables}") as m:
        finish(m, 300)
        assert "uefi: yes" in m.console, m.console[-2000:]


def ovmf_in_smm_keeps_variables():
    """The secure-boot build: flash is writable from SMM alone, and a variable set in the shell arrives in it."""
    code, variables = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", os.path.join(SCRATCH, "OVMF_VARS_4M.fd")
    if not os.path.exists(code):
        raise tap.Skip("package ovmf is not installed")
    os.makedirs(SCRATCH, exist_ok=True)
    with open(variables, "wb") as f:
        f.write(open("/usr/share/OVMF/OVMF_VARS_4M.fd", "rb").read())
    name = "userkvm.shows.smm".encode("utf-16-le")
    assert name not in open(variables, "rb").read()
    with Machine(USERKVM, "-M", "q35,smm=on", "-smp", "2", "-global", "driver=cfi.pflash01,property=secure,value=on",
                 "-global", "ICH9-LPC.disable_s3=1",
                 "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}",
                 "-drive", f"if=pflash,format=raw,unit=1,file={variables}") as m:
        m.wait_for("Shell> ", 200)
        m.process.stdin.write(b"setvar userkvm.shows.smm -guid 5b5e2a6c-0f43-4b0e-9a4c-3c2d1e0f9a87 -nv -bs =0x414243\r\n"
                              b"echo do-^ne\r\n")
        m.process.stdin.flush()
        m.wait_for("do-ne", 60)
    assert name in open(variables, "rb").read()


def linux_on_the_hyperv_clock():
    """-cpu hv-*: the guest takes us for Hyper-V and its time from the reference TSC page."""
    clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    with boot("hyperv", f"echo clock: $(cat {clock})\ndmesg | grep -e 'Hyper-V' -e unchecked\n", "-M", "q35",
              "-cpu", "host,-kvm,hv-time,hv-vpindex,hv-frequencies,hv-relaxed,hv-spinlocks=0x1fff") as m:
        finish(m)
        assert "Hypervisor detected: Microsoft Hyper-V" in m.console, m.console[-2000:]
        assert "clock: hyperv_clocksource_tsc_page" in m.console, m.console[-2000:]


def linux_uses_all_of_hyperv():
    """Two vCPUs: their ticks from direct synthetic timers, IPIs and TLB flushes by hypercall, EOIs by MSR."""
    script = """
cat /proc/interrupts
grep -H . /sys/devices/system/clockevents/clockevent*/current_device
dmesg | grep -i -e Hyper-V -e clocksource
"""
    with boot("hyperv-all", script, "-M", "q35", "-smp", "2", "-cpu", HYPERV) as m:
        finish(m)
        for words in ("Hypervisor detected: Microsoft Hyper-V", "Using enlightened APIC", "Using hypercall for remote TLB flush",
                      "Using IPI hypercalls", "clockevent0/current_device:Hyper-V clockevent",
                      "clockevent1/current_device:Hyper-V clockevent"):
            assert words in m.console, words + " is missing\n" + m.console[-4000:]
        ticks = re.search(r"HVS: +([0-9]+) +([0-9]+) +Hyper-V stimer0", m.console)
        assert ticks and min(int(t) for t in ticks.groups()) > 20, m.console[-4000:]


def vmbus(name, script, cpu, *args):
    if not os.path.exists(os.path.join(MODULES, "hv_vmbus.ko")):
        raise tap.Skip("no hv_vmbus among the kernel's modules: scripts/demo-files DIR fetches it")
    return boot(name, script, "-M", "q35", "-device", "vmbus-bridge", "-cpu", cpu, *args, modules=["hv_vmbus"])


def linux_talks_to_qemus_vmbus():
    """Messages both ways: HvPostMessage to QEMU, its answers by message page and SINT route; timers by message, too."""
    script = """
dmesg | grep -i vmbus
sleep 1
cat /proc/interrupts
cat /sys/devices/system/clockevents/clockevent?/current_device
"""
    with vmbus("vmbus", script, HYPERV.replace(",hv-stimer-direct", ""), "-smp", "2") as m:
        finish(m)
        assert "hv_vmbus: Vmbus version:" in m.console, m.console[-4000:]
        assert m.console.count("Hyper-V clockevent") == 2, m.console[-4000:]
        calls = re.search(r"HYP: +([0-9]+) +([0-9]+) +Hypervisor callback", m.console)
        assert calls and min(int(n) for n in calls.groups()) > 10, m.console[-4000:]


def a_crash_is_told_by_hyperv():
    """hv-crash: QEMU hears of the guest's panic and its five words before the guest resets."""
    with vmbus("hv-crash", "echo c >/proc/sysrq-trigger\n", HYPERV, "-action", "panic=pause") as m:
        m.wait_status("guest-panicked", 60)
        assert "Kernel panic" in m.console, m.console[-2000:]


def virtiofs_shares_a_folder():
    daemon, folder = "/usr/lib/qemu/virtiofsd", os.path.join(SCRATCH, "shared")
    if not os.path.exists(daemon):
        raise tap.Skip("virtiofsd is not installed")
    os.makedirs(folder, exist_ok=True)
    _, data = random_file("shared/in", 1 << 20, 5)
    path = os.path.abspath(os.path.join(SCRATCH, "virtiofs.socket"))
    server = subprocess.Popen([daemon, "--socket-path=" + path, "-o", "source=" + os.path.abspath(folder),
                               "-o", "sandbox=chroot"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        for _ in range(100):
            if os.path.exists(path) or server.poll() is not None:
                break
            time.sleep(0.05)
        if server.poll() is not None:
            raise tap.Skip("virtiofsd does not start here: " + server.stderr.read().decode()[-100:])
        with boot("virtiofs", "mount -t virtiofs share /mnt && md5sum </mnt/in && cp /mnt/in /mnt/out\n", "-M", "q35",
                  "-object", "memory-backend-memfd,id=m,size=256M,share=on", "-numa", "node,memdev=m",
                  "-chardev", "socket,id=c,path=" + path, "-device", "vhost-user-fs-pci,chardev=c,tag=share",
                  modules=["virtio_pci", "virtiofs"]) as m:
            finish(m)
            assert hashlib.md5(data).hexdigest() in m.console, m.console
        assert open(os.path.join(folder, "out"), "rb").read() == data
    finally:
        server.kill()
        server.wait()


def bus_locks_are_limited_by_qemu():
    """bus-lock-ratelimit: KVM_CAP_X86_BUS_LOCK_EXIT. Each split lock of the guest is one exit; QEMU lets 20 a second by."""
    calls = os.path.abspath(os.path.join(SCRATCH, "bus-lock.strace"))
    os.makedirs(SCRATCH, exist_ok=True)
    os.environ["USERKVM_STRACE"] = calls
    try:
        with boot("bus-lock", "bus_lock 50\n", "-M", "q35,bus-lock-ratelimit=20", programs=["bus_lock.c"]) as m:
            finish(m)
            took = re.search(r"bus_lock: 50 in (\d+) ms", m.console)
            assert took and int(took.group(1)) >= 1000, m.console[-2000:]
    finally:
        del os.environ["USERKVM_STRACE"]
    exits = sum("(KVM_EXIT_X86_BUS_LOCK) KVM_RUN_X86_BUS_LOCK" in line for line in open(calls, errors="replace"))
    os.unlink(calls)
    assert exits == 50, exits


def protection_keys_hold_in_linux():
    """Faults by key, and a PKRU that outlives QEMU's reading and writing of all registers."""
    if "pku" not in open("/proc/cpuinfo").read().split():
        raise tap.Skip("this host has no protection keys")
    with boot("pkeys", "pkeys 300 3\n", "-cpu", "host,migratable=off", "-M", "q35", "-smp", "2", programs=["pkeys.c"]) as m:
        m.wait_for(r"pkeys: key \d+, 601 of 601 right")
        for _ in range(5):
            m.qmp("stop")
            m.hmp("info registers")
            m.qmp("cont")
        finish(m)
        assert "pkeys: later 2" in m.console, m.console[-2000:]


def every_cpu_method_of_stress_ng_runs_in_a_guest():
    """Code that compilers choose by the processor's model: what the model is known to have is there."""
    stress_ng = shutil.which("stress-ng")
    if not stress_ng:
        raise tap.Skip("stress-ng is not installed")
    out, _ = tap.run(stress_ng, "--cpu", "1", "--cpu-method", "which")
    methods = [w for w in out.split("must be one of:")[1].split() if w != "all"]
    script = "".join(f"stress-ng --cpu 1 --cpu-method {m} --cpu-ops 2 -t 20 --quiet; echo \"method {m}: $?\"\n" for m in methods)
    with boot("stress-ng", script, "-M", "q35", "-cpu", "host,migratable=off", dynamic=[stress_ng], memory="512") as m:
        finish(m, timeout=240)
        ran = dict(re.findall(r"method (\w+): (\d+)", m.console))
        assert len(methods) > 30 and set(ran) == set(methods), (methods, ran)
        assert set(ran.values()) == {"0"}, {k: v for k, v in ran.items() if v != "0"}


def stress_ng_runs_clean():
    if not shutil.which("stress-ng"):
        raise tap.Skip("stress-ng is not installed")
    out, status = tap.run(USERKVM, "run", "--", "stress-ng", "--kvm", "2", "-t", "10", "--verify", "--metrics-brief")
    assert status == 0 and "successful run completed" in out, out
    assert "fail" not in out, out
    done = re.search(r"\bkvm +(\d+)", out)
    assert done and int(done.group(1)) > 10, out


CASES = (q35_with_the_kernels_irqchip, q35_with_a_split_irqchip, microvm_with_virtio_mmio_disk,
         virtio_blk_reads_and_writes_every_byte, virtio_net_transfers_every_byte_both_ways, linux_uses_all_of_hyperv)
MORE = (confined_vcpus_have_a_disk_and_a_network, q35_that_halts_without_exits, microvm, q35_with_qemus_own_irqchip, pc_with_qemus_own_irqchip_and_the_hosts_processor,
        microvm_with_qemus_own_irqchip, q35_without_smm, intel_iommu_remaps_interrupts, virtio_serial_carries_every_byte,
        *(cpu_model(m) for m in ("host", "max", "qemu64", "Skylake-Client", "EPYC")), ovmf_boots_the_kernel,
        ovmf_in_smm_keeps_variables, linux_on_the_hyperv_clock, linux_talks_to_qemus_vmbus, a_crash_is_told_by_hyperv, bus_locks_are_limited_by_qemu,
        virtiofs_shares_a_folder, protection_keys_hold_in_linux,
        every_cpu_method_of_stress_ng_runs_in_a_guest, stress_ng_runs_clean)
# What named models may lack, and why (docs/processor.md): never offered; not yet; AMD's, offered on AMD.
NEVER = set("hle rtm mpx core-capability split-lock-detect 3dnow 3dnowext xop fma4 tbm "
            "avx512pf avx512er avx512-4vnniw avx512-4fmaps".split())
NOT_YET = set("la57 misalignsse fxsr-opt perfctr-core cr8legacy".split())
AMD = set("mmxext osvw clzero xsaveerptr".split())
# QEMU's names of what the host's own instructions do, by doctor's where these differ.
SILICON = {"abm": "lzcnt", "lahf-lm": "lahf-lm", "sse4_1": "sse4.1", "sse4_2": "sse4.2"}


def doctor_words(out, heading):
    return out.split(heading)[1].split("\n  ", 1)[0].split("\n\n")[0].split() if heading in out else []


def named_models_start_unless_for_a_known_reason():
    """Each of QEMU's models asks for nothing but what is offered, what this host lacks, and the lists above."""
    import json
    out, status = tap.run(USERKVM, "doctor")
    assert status == 0, out
    out = re.sub(r"\n {18} ", " ", out)
    host, safe = doctor_words(out, "host has"), doctor_words(out, "safe models")
    allowed = NEVER | NOT_YET | (set() if "AuthenticAMD" in open("/proc/cpuinfo").read() else AMD)
    with Machine(USERKVM, "-M", "pc", "-S") as m:
        models = {d["name"]: set(d.get("unavailable-features", ())) for d in m.qmp("query-cpu-definitions")}
    wrong = {}
    for name, lacking in models.items():
        more = {f for f in lacking - allowed if SILICON.get(f, f).replace("-", "") in {h.replace("-", "") for h in host}}
        if more:
            wrong[name] = sorted(more)
    assert not wrong, wrong
    for name in safe:
        assert not models.get(name, ()), f"doctor calls {name} safe, QEMU says {models[name]}"
    starting = [n for n, lacking in models.items() if not lacking]
    print(f"# {len(starting)} of {len(models)} named models start with enforce", flush=True)
    if "avx2" in host and "rdseed" in host:
        assert {"Broadwell-noTSX", "Skylake-Client-v4", "Nehalem", "kvm64", "n270", "core2duo"} <= set(starting), starting
    if "avx512vnni" in host and "pku" in host:
        assert {"Skylake-Server-v5", "Cascadelake-Server-v5", "Cascadelake-Server-noTSX"} <= set(starting), starting
        assert len(starting) >= 71, len(starting)
    last = [n for n in safe if n in models][-1]
    for name, starts in ((last, True), ("KnightsMill", False)):
        out, status = tap.run("timeout", "5", USERKVM, "run", "--", "qemu-system-x86_64", "-accel", "kvm", "-M", "pc", "-cpu",
                              name + ",enforce", "-m", "64", "-S", "-display", "none", "-nodefaults")
        assert (status == 124) == starts, f"{name}: {status}\n{out}"


CASES = (*CASES, named_models_start_unless_for_a_known_reason)
tap.select(CASES, MORE, sys.argv[3:])
