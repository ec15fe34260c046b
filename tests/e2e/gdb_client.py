"""A KVM client for test_gdb.py: VCPUS vCPUs in 64-bit mode, each on a thread of its own.

The first 2 MiB are mapped one to one. vCPU n runs at 0x7000 + 0x100 * n: it counts in RAX and at 0x6000 + 8 * n, and
asks CPUID on its way. `count` on standard input prints the counters, `exits` how often KVM_RUN returned and why, `debug N` what
KVM_SET_GUEST_DEBUG with control N answers, `bytes` the guest's code as the client sees it.
"""
import collections
import ctypes
import errno
import fcntl
import mmap
import os
import queue
import signal
import struct
import sys
import threading
import time

KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE, KVM_CREATE_VCPU, KVM_RUN = 0xAE01, 0xAE04, 0xAE41, 0xAE80
KVM_SET_USER_MEMORY_REGION, KVM_SET_REGS = 0x4020AE46, 0x4090AE82
KVM_GET_SREGS, KVM_SET_SREGS = 0x8138AE83, 0x4138AE84
KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2, KVM_SET_GUEST_DEBUG = 0xC008AE05, 0x4008AE90, 0x4048AE9B
CODE, COUNT = 0x7000, 0x6000

libc = ctypes.CDLL(None, use_errno=True)
kvm = os.open("/dev/kvm", os.O_RDWR)
vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
ram = mmap.mmap(-1, 0x100000)
hva = ctypes.addressof(ctypes.c_char.from_buffer(ram))
fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("IIQQQ", 0, 0, 0, 0x100000, hva))
for table, entry in ((0x8000, 0x9003), (0x9000, 0xA003), (0xA000, 0xB003)):
    ram[table:table + 8] = struct.pack("<Q", entry)
ram[0xB000:0xC000] = b"".join(struct.pack("<Q", i << 12 | 3) for i in range(512))
exits = collections.Counter()
wanted, answers = queue.Queue(), queue.Queue()  # KVM_SET_GUEST_DEBUG's control, and what it gave


def code(n):
    return (bytes.fromhex("48ffc0")                                       # +0  inc rax
            + bytes.fromhex("48890425") + struct.pack("<I", COUNT + 8 * n)  # +3  mov [count], rax
            + bytes.fromhex("ffc3")                                       # +11 inc ebx
            + bytes.fromhex("4889c6")                                     # +13 mov rsi, rax
            + bytes.fromhex("31c9" "89f0" "0fa2")                         # +16 xor ecx, ecx; mov eax, esi; cpuid
            + bytes.fromhex("4889f0")                                     # +22 mov rax, rsi
            + bytes.fromhex("ebe5"))                                      # +25 again


def make(n):
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, n)
    cpuid = bytearray(8 + 256 * 40)
    struct.pack_into("<I", cpuid, 0, 256)
    fcntl.ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid)
    fcntl.ioctl(vcpu, KVM_SET_CPUID2, cpuid)
    s = bytearray(312)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, s)
    for i, kind in enumerate([11, 3, 3, 3, 3, 3]):
        struct.pack_into("<QIHBBBBBBBBBB", s, i * 24, 0, 0xFFFFFFFF, 8 if i == 0 else 16, kind, 1, 0, i > 0, 1, i == 0, 1, 0, 0, 0)
    struct.pack_into("<QQQQQQ", s, 224, 0x80010011, 0, 0x8000, 0x20, 0, 0x500)
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(s))
    fcntl.ioctl(vcpu, KVM_SET_REGS, struct.pack("<18Q", *[0] * 6, 0x5000, *[0] * 9, CODE + 0x100 * n, 2))
    ram[CODE + 0x100 * n:CODE + 0x100 * n + 27] = code(n)
    return vcpu, mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))


def run(vcpu, page):
    while True:
        r = libc.ioctl(vcpu, ctypes.c_ulong(KVM_RUN), ctypes.c_ulong(0))
        exits[errno.errorcode[ctypes.get_errno()] if r else str(struct.unpack_from("<I", page, 8)[0])] += 1
        if vcpu == vcpus[0][0] and not wanted.empty():
            r = libc.ioctl(vcpu, ctypes.c_ulong(KVM_SET_GUEST_DEBUG), struct.pack("<II64x", wanted.get(), 0))
            answers.put(errno.errorcode[ctypes.get_errno()] if r else "done")


def kick():
    for t in threading.enumerate():
        signal.pthread_kill(t.ident, signal.SIGUSR1)


signal.signal(signal.SIGUSR1, lambda *_: None)
vcpus = [make(n) for n in range(int(os.environ.get("VCPUS", "2")))]
for vcpu in vcpus:
    threading.Thread(target=run, args=vcpu, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    command = line.strip()
    if command == "count":
        print(*struct.unpack_from(f"<{len(vcpus)}Q", ram, COUNT), flush=True)
    elif command == "exits":
        print(dict(exits), flush=True)
    elif command == "bytes":
        print(ram[CODE:CODE + 27].hex(), flush=True)
    elif command == "kick":
        kick()
        print("kicked", flush=True)
    elif command.startswith("debug"):
        wanted.put(int(command[5:]))
        while answers.empty():  # a kick may come before the thread is in KVM_RUN
            kick()
            time.sleep(0.01)
        print(answers.get(), flush=True)
