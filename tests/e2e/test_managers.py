#!/usr/bin/env python3
"""Managers of machines, unmodified under `userkvm run`: libvirt as root and as a user, microsandbox, libguestfs.

usage: test_managers.py USERKVM BUILD [all | CASE...]
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import initrd
import tap

USERKVM, BUILD = (os.path.abspath(x) for x in sys.argv[1:3])
KERNEL = os.path.join(BUILD, "demo/vmlinuz")
NOBODY = 65534

DOMAIN = """<domain type='kvm'>
  <name>one</name> <memory unit='MiB'>192</memory> <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{folder}/vmlinuz</kernel><initrd>{folder}/initrd.img</initrd>
    <cmdline>console=ttyS0 panic=-1</cmdline></os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>kvm64</model></cpu>
  <on_poweroff>destroy</on_poweroff> <on_reboot>destroy</on_reboot> <on_crash>destroy</on_crash>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
    <serial type='file'><source path='{folder}/serial'/></serial> <memballoon model='none'/></devices>
</domain>
"""
# Each in a world of its own: what a daemon of the system's writes lies on file systems that end with it.
SYSTEM = """
for d in /run /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /etc/libvirt/qemu; do mount -t tmpfs none $d; done
mkdir -p /run/libvirt /var/lib/libvirt/qemu /var/log/libvirt/qemu
virtlogd & log=$!
"$0" run -- libvirtd -f "$1/libvirtd.conf" & daemon=$!
trap 'kill $daemon; wait $daemon; kill $log' TERM
wait $daemon
wait
"""
# A shell is the world's first process: it reaps QEMUs whose parents have ended, which libvirtd, in that place, waits for in vain.
REAPED = """
"$@" & daemon=$!
trap 'kill $daemon; wait $daemon' TERM
wait $daemon
"""


class Daemon:
    """A libvirtd in a folder; virsh() of it."""

    def __init__(self, folder, number, root):
        self.folder, self.root = os.path.join(folder, str(number)), root
        os.makedirs(self.folder)
        with open(self.folder + "/libvirtd.conf", "w") as f:
            # else the two would be one host
            f.write(f'host_uuid = "0000000{number}-aaaa-bbbb-cccc-000000000000"\nunix_sock_dir = "{self.folder}"\n'
                    'auth_unix_rw = "none"\nauth_unix_ro = "none"\nunix_sock_rw_perms = "0777"\n')
        self.env = dict(os.environ, HOME=self.folder, **{f"XDG_{x}": self.folder for x in (
            "RUNTIME_DIR", "CONFIG_HOME", "CACHE_HOME", "DATA_HOME")})
        self.log = open(self.folder + "/log", "wb")
        if root:
            argv, self.uri = [*apart(), "bash", "-c", SYSTEM, USERKVM,
                              self.folder], f"qemu+unix:///system?socket={self.folder}/libvirt-sock"
        else:
            os.system(f"chown -R {NOBODY}:{NOBODY} {self.folder}")
            argv = [*apart(), *as_nobody(), "bash", "-c", REAPED, "bash", USERKVM, "run", "--", "libvirtd", "-f", self.folder + "/libvirtd.conf"]
            self.uri = f"qemu+unix:///session?socket={self.folder}/libvirt-sock"
        self.process = subprocess.Popen(argv, env=self.env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        start_new_session=True)

    def virsh(self, *words, timeout=90):
        prefix = [] if self.root else as_nobody()
        out, status = tap.run(*prefix, "virsh", "-c", self.uri, *words, env=self.env, timeout=timeout)
        assert status == 0, f"virsh {' '.join(words)}: {out}\n{self.said()}"
        return out

    def said(self):
        return open(self.folder + "/log", errors="replace").read()[-3000:]

    def wait_until_it_listens(self):
        end = time.time() + 60 * tap.PATIENCE
        while not os.path.exists(self.folder + "/libvirt-sock"):
            assert time.time() < end and self.process.poll() is None, self.said()
            time.sleep(0.2)

    def end(self):
        try:
            self.process.terminate()
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, 9)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()


def apart():
    """With processes of its own: all of them end with it."""
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"] if os.geteuid() == 0 else []


def as_nobody():
    return [] if os.geteuid() != 0 else ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def ticks(path):
    text = open(path, errors="replace").read() if os.path.exists(path) else ""
    return max((int(n) for n in re.findall(r"tick (\d+)\r?\n", text)), default=0)


def ticks_go_on(path, beyond=0):
    """The guest counts on its console; the number it has come to."""
    end = time.time() + 120 * tap.PATIENCE
    while ticks(path) <= beyond:
        if time.time() > end:
            raise AssertionError(f"no tick {beyond + 1}:\n" + open(path, errors="replace").read()[-2000:])
        time.sleep(0.3)
    return ticks(path)


def through_a_life(root):
    for program in ("libvirtd", "virsh", "virtlogd", "qemu-system-x86_64"):
        if not shutil.which(program):
            raise tap.Skip(f"{program} is not installed")
    folder = tempfile.mkdtemp(prefix="userkvm-libvirt-", dir="/tmp")
    os.chmod(folder, 0o777)
    shutil.copy(KERNEL, folder)
    initrd.make(folder + "/initrd.img", "grep -c ^processor /proc/cpuinfo\nn=0\nwhile sleep 0.2; do n=$((n+1)); echo tick $n; done\n",
                os.path.join(BUILD, "demo/modules"), (), ())
    daemons = []
    try:
        for number in (1, 2):
            daemons.append(Daemon(folder, number, root))
        first, second = daemons
        for d in daemons:
            d.wait_until_it_listens()
        xml = os.path.join(folder, "one.xml")
        with open(xml, "w") as f:
            f.write(DOMAIN.format(folder=folder))
        assert "<domain>kvm</domain>" in first.virsh("domcapabilities", "--virttype", "kvm")
        first.virsh("define", xml)
        first.virsh("start", "one")
        serial = folder + "/serial"
        now = ticks_go_on(serial, 3)
        assert first.virsh("vcpucount", "one", "--current", "--live").strip() == "2"
        first.virsh("suspend", "one")
        assert "paused" in first.virsh("domstate", "one")
        first.virsh("resume", "one")
        now = ticks_go_on(serial, now)
        first.virsh("save", "one", folder + "/saved")
        assert "shut off" in first.virsh("domstate", "one")
        first.virsh("restore", folder + "/saved")
        assert "running" in first.virsh("domstate", "one")
        now = ticks_go_on(serial, now)
        first.virsh("migrate", "--live", "--migrateuri", f"unix://{folder}/socket", "one", second.uri, timeout=180)
        assert "running" in second.virsh("domstate", "one") and "shut off" in first.virsh("domstate", "one")
        ticks_go_on(serial, now)
        second.virsh("destroy", "one")
        first.virsh("undefine", "one")
    finally:
        for d in daemons:
            d.end()
        shutil.rmtree(folder, ignore_errors=True)


def libvirt_as_root():
    if os.geteuid() != 0:
        raise tap.Skip("not root")
    through_a_life(root=True)


def libvirt_as_a_user():
    through_a_life(root=False)


def microsandbox_runs_a_command():
    """It looks for VMX in /proc/cpuinfo, and boots a kernel of its own (libkrun) on a directory."""
    place = os.path.join(BUILD, "microsandbox")
    msb = os.path.join(place, "node_modules/@superradcompany/microsandbox-linux-x64-gnu/bin/msb")
    if not os.path.exists(msb):
        raise tap.Skip("no microsandbox: scripts/microsandbox fetches it where npm is installed")
    with tempfile.TemporaryDirectory(prefix="userkvm-msb-") as home:
        env = dict(os.environ, HOME=home)
        out, status = tap.run(USERKVM, "run", "--", msb, "doctor", env=env)
        assert status == 0 and re.search(r"CPU virt +vmx", out) and "Host setup is ready" in out, out
        for engine in ("interp", "jit"):
            env.update(USERKVM_ENGINE=engine)
            out, status = tap.run(USERKVM, "run", "--", msb, "run", "-c", "2", "--no-tty", place + "/root", "--", "/bin/sh", "-c",
                                  "nproc; echo $((6 * 7)) from $(uname -s); exit 5", env=env, timeout=180)
            assert (out.replace("\r", ""), status) == ("2\n42 from Linux\n", 5), (out, status)


# supermin looks below /lib/modules, which this world gets the modules in; nothing of it stays.
GUESTFISH = """
mount -t tmpfs none "$2" && mkdir "$2/up" "$2/work" "$2/tmp"
mount -t overlay -o "lowerdir=/usr/lib,upperdir=$2/up,workdir=$2/work" none /usr/lib
mkdir -p /lib/modules && cp -r "$1"/lib/modules/* /lib/modules/
export TMPDIR="$2/tmp" LIBGUESTFS_BACKEND=direct SUPERMIN_KERNEL_VERSION="$4"
export SUPERMIN_KERNEL="$1/boot/vmlinuz-$4" SUPERMIN_MODULES="/lib/modules/$4"
cd "$2/tmp" && "$3" run -- guestfish -v -N fs:ext4:64M -m /dev/sda1 write /greeting "kept in a file" : cat /greeting : ls / 2>log
status=$?
grep -e "qemu KVM:" -e "Hypervisor detected" log
exit $status
"""


def guestfish_writes_a_file():
    """It asks QEMU whether KVM works, and boots an appliance made of the host's own packages."""
    if not shutil.which("guestfish") or os.geteuid() != 0:
        raise tap.Skip("guestfish is not installed, or not root (file systems are mounted)")
    package = open(os.path.join(BUILD, "demo/package")).read().strip()
    with tempfile.TemporaryDirectory(prefix="userkvm-guestfish-", dir="/tmp") as folder:
        out, status = tap.run("bash", "-c", 'cd "$1" && apt-get -qq -o APT::Sandbox::User=root download "$2" && dpkg-deb -x ./*.deb kernel '
                              '&& depmod -b kernel "$3" && mkdir world', "-", folder, package, package.removeprefix("linux-image-"))
        if status != 0:
            raise tap.Skip("the kernel's package cannot be fetched: " + out[-200:])
        out, status = tap.run(*apart(), "bash", "-c", GUESTFISH, "-", folder + "/kernel", folder + "/world", USERKVM,
                              package.removeprefix("linux-image-"), timeout=280)
        assert status == 0 and "kept in a file\n" in out and "lost+found" in out, out
        assert "qemu KVM: enabled" in out and "Hypervisor detected: KVM" in out, out


tap.select((libvirt_as_root, libvirt_as_a_user, microsandbox_runs_a_command, guestfish_writes_a_file), (), sys.argv[3:])
