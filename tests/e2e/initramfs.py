"""An initramfs in cpio's "newc" format: busybox, an /init script, more programs."""
import os
import stat

APPLETS = ("sh mount cat grep nproc poweroff dmesg sleep seq wc md5sum dd true head cut taskset ls rm mkdir "
           "expr kill wait tr sort").split()


def entry(number, name, mode, data):
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % f for f in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def write(path, init, programs):
    """programs: {name in /bin: path on this machine}."""
    files = [(d, stat.S_IFDIR | 0o755, b"") for d in ("bin", "dev", "proc", "sys", "tmp")]
    for name, source in {"busybox": "/bin/busybox", **programs}.items():
        with open(source, "rb") as f:
            files.append(("bin/" + name, stat.S_IFREG | 0o755, f.read()))
    files += [("bin/" + a, stat.S_IFLNK | 0o777, b"busybox") for a in APPLETS]
    files.append(("init", stat.S_IFREG | 0o755, init.encode()))
    with open(path, "wb") as out:
        for number, (name, mode, data) in enumerate(files, 1):
            out.write(entry(number, name, mode, data))
        out.write(entry(0, "TRAILER!!!", 0, b""))
