"""Initial RAM disks for guests: busybox, kernel modules in order, one script.

The script is run by the kernel's /init with the console on its standard output;
when it ends, the guest is powered off.
"""
import os
import re
import subprocess
import tempfile

import tap

HERE = os.path.dirname(os.path.abspath(__file__))

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
for m in $(cat /modules/order); do insmod /modules/$m || echo "guest: no module $m"; done
echo "guest: init is running"
. /script
echo "guest: script done"
poweroff -f
"""


class Cpio:
    """The "newc" archive the kernel unpacks (Documentation: buffer-format)."""

    def __init__(self):
        self.blob = bytearray()
        self.inode = 0

    def add(self, name, mode, data=b""):
        self.inode += 1
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        self.blob += b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0"
        self.blob += bytes(-len(self.blob) % 4) + data
        self.blob += bytes(-len(self.blob) % 4)

    def directory(self, name):
        self.add(name, 0o040755)

    def file(self, name, data, mode=0o755):
        self.add(name, 0o100000 | mode, data if isinstance(data, bytes) else data.encode())

    def end(self):
        self.add("TRAILER!!!", 0)
        return bytes(self.blob)


def module_order(folder, wanted):
    """The wanted modules and all they depend on, dependencies first."""
    order = []

    def visit(name):
        path = os.path.join(folder, name + ".ko")
        if name in order or not os.path.exists(path):
            return
        depends = re.search(rb"\0depends=([^\0]*)\0", open(path, "rb").read())
        for d in (depends.group(1).decode() if depends else "").split(","):
            if d:
                visit(d)
        order.append(name)

    for w in wanted:
        visit(w)
    return order


def compile_into(folder, source):
    """A program of tests/e2e/guest for a guest, which may have no libraries."""
    out = os.path.join(folder, "program")
    subprocess.run(["cc", "-O2", "-static", "-o", out, os.path.join(HERE, "guest", source)], check=True)
    return out


def compile_static(source):
    with tempfile.TemporaryDirectory() as tmp:
        return open(compile_into(tmp, source), "rb").read()


def run_here(source, *args):
    """What such a program prints on this machine, without any VM."""
    with tempfile.TemporaryDirectory() as tmp:
        return subprocess.run([compile_into(tmp, source), *args], capture_output=True, text=True, check=True,
                              timeout=60 * tap.PATIENCE).stdout


def add_of_this_machine(archive, program, made):
    """A program of this machine's, with its loader and its shared libraries at their places."""
    out = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    archive.file("bin/" + os.path.basename(program), open(program, "rb").read())
    for library in map(os.path.normpath, re.findall(r"/\S+", out)):
        parts = library.strip("/").split("/")
        for k in range(1, len(parts)):
            folder = "/".join(parts[:k])
            if folder not in made:
                made.add(folder)
                archive.directory(folder)
        archive.file("/".join(parts), open(library, "rb").read())


def make(path, script, modules_folder=None, modules=(), programs=(), busybox="/bin/busybox", dynamic=(), files=None):
    """dynamic: programs of this machine's; files: {path in the guest: path here}."""
    archive = Cpio()
    for d in ("bin", "dev", "proc", "sys", "tmp", "mnt", "modules"):
        archive.directory(d)
    archive.file("bin/busybox", open(busybox, "rb").read())
    order = module_order(modules_folder, modules) if modules_folder else []
    for m in order:
        archive.file(f"modules/{m}.ko", open(os.path.join(modules_folder, m + ".ko"), "rb").read(), 0o644)
    archive.file("modules/order", "".join(m + ".ko\n" for m in order), 0o644)
    for p in programs:
        archive.file("bin/" + os.path.splitext(p)[0], compile_static(p))
    made = set()
    for p in dynamic:
        add_of_this_machine(archive, p, made)
    for name, source in (files or {}).items():
        archive.file(name, open(source, "rb").read())
    archive.file("init", INIT)
    archive.file("script", script)
    with open(path, "wb") as f:
        f.write(archive.end())
    return path
