"""Debian with systemd in a guest: to a login, then commands on its console. The disk is scripts/debian-root's."""
import os
import time

import initrd
from qemu import Machine

MODULES = ("virtio_pci", "virtio_blk", "virtio_net")
SCRIPT = "mount /dev/vda /mnt\nexec switch_root /mnt /sbin/init\n"


class Debian(Machine):
    """Its disk is a throw-away copy; a second one, `disk`, is /dev/vdb; the host is 10.0.2.2 after network_up()."""

    def __init__(self, userkvm, build, scratch, *args, disk=None, accel="kvm"):
        os.makedirs(scratch, exist_ok=True)
        demo = os.path.join(build, "demo")
        image = initrd.make(os.path.join(scratch, "debian.img"), SCRIPT, demo + "/modules", MODULES)
        drives = [f"file={build}/debian/root.ext4,if=virtio,format=raw,snapshot=on"]
        if disk:
            drives += [f"file={disk},if=virtio,format=raw,readonly=on"]
        self.started = time.time()
        super().__init__(userkvm, "-M", "q35", "-kernel", demo + "/vmlinuz", "-initrd", image,
                         "-append", "console=ttyS0 quiet panic=-1", *(x for d in drives for x in ("-drive", d)),
                         "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile=", *args,
                         accel=accel, memory="512")
        self.commands = 0

    def type(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def login(self, timeout=400):
        """Seconds from power-on to the login prompt; afterwards root's shell is there."""
        self.wait_for(r"debian login: ", timeout)
        seconds = time.time() - self.started
        self.type("root")
        self.wait_for(r"root@debian:~# ", 120)
        self.run("bind 'set enable-bracketed-paste off'")
        return seconds

    def run(self, command, timeout=300):
        """(output, seconds) of a shell command that has to succeed."""
        self.commands += 1
        mark, started = len(self.console), time.time()
        # the echo of the line itself has no number where the pattern wants one
        self.type(f"{command}; echo end-$?-$(({self.commands} + 1000))")
        m = self.wait_for(rf"end-(\d+)-{self.commands + 1000}\b", timeout, mark)
        seconds = time.time() - started
        out = self.console[mark:m.start()].split("\n", 1)[-1]
        assert m.group(1) == "0", f"{command}: exit status {m.group(1)}\n{out}"
        return out.replace("\r", ""), seconds

    def network_up(self):
        self.run("for i in /sys/class/net/e*; do ip addr add 10.0.2.15/24 dev ${i##*/} && ip link set ${i##*/} up; done")

    def power_off(self, timeout=120):
        self.type("systemctl poweroff")
        status = self.wait_end(timeout)
        assert status == 0, f"exit status {status}\n" + self.errors()
