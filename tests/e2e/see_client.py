"""A small KVM client for test_see.py, told what to do on standard input.

A 32-bit guest with paging: 0-4 MiB identity; page 0x400000 read-only and page
0x401000 absent in the guest's own tables. Memslots: 0 plain, 1 read-only,
2 with a dirty log. Each `run` is one round of the guest's loop. With WIDE in the
environment CPUID says 52 bits of guest-physical address, and slot 3 is at bit 50.
With LONG the guest is a 64-bit one, its first 2 MiB mapped one to one by 4 KiB pages, and slots
5 and 6 are halves of one mapping, beside each other and touched.
"""
import ctypes
import fcntl
import mmap
import os
import struct
import sys

KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE, KVM_CREATE_VCPU, KVM_RUN = 0xAE01, 0xAE04, 0xAE41, 0xAE80
KVM_SET_USER_MEMORY_REGION, KVM_SET_REGS = 0x4020AE46, 0x4090AE82
KVM_GET_SREGS, KVM_SET_SREGS = 0x8138AE83, 0x4138AE84
KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2, KVM_PRE_FAULT_MEMORY = 0xC008AE05, 0x4008AE90, 0xC040AED5
CODE = bytes.fromhex(
    "a3 00 50 00 00"  # mov [0x5000], eax
    "8b 1d 00 00 20 00"  # mov ebx, [0x200000]
    "a3 00 00 30 00"  # mov [0x300000], eax
    "8b 1d 00 10 30 00"  # mov ebx, [0x301000]
    "e6 10"  # out 0x10, al
    "eb e6"  # again
)
memory = []


def slot(vm, number, flags, gpa, size):
    m = mmap.mmap(-1, size)
    hva = ctypes.addressof(ctypes.c_char.from_buffer(m))
    memory.append((m, hva))
    fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("IIQQQ", number, flags, gpa, size, hva))
    return m, hva


def flat_mode(vcpu):
    s = bytearray(312)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, s)
    for i, kind in enumerate([11, 3, 3, 3, 3, 3]):  # cs ds es fs gs ss
        struct.pack_into("<QIHBBBBBBBBBB", s, i * 24, 0, 0xFFFFFFFF, 8 if i == 0 else 16, kind, 1, 0, 1, 1, 0, 1, 0, 0, 0)
    struct.pack_into("<QQQQ", s, 224, 0x80010011, 0, 0x2000, 0x10)  # cr0 PG WP ET PE, cr2, cr3, cr4 PSE
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(s))
    fcntl.ioctl(vcpu, KVM_SET_REGS, struct.pack("<18Q", *[0] * 16, 0x1000, 2))


def long_mode(vm, vcpu):
    for table, entry in ((0x8000, 0x9003), (0x9000, 0xA003), (0xA000, 0xB003)):
        ram[table:table + 8] = struct.pack("<Q", entry)
    ram[0xB000:0xC000] = b"".join(struct.pack("<Q", i << 12 | 3) for i in range(512))
    ram[0x7000:0x7004] = bytes.fromhex("e610ebfc")  # out 0x10, al; again
    s = bytearray(312)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, s)
    for i, kind in enumerate([11, 3, 3, 3, 3, 3]):
        struct.pack_into("<QIHBBBBBBBBBB", s, i * 24, 0, 0xFFFFFFFF, 8 if i == 0 else 16, kind, 1, 0, i > 0, 1, i == 0, 1, 0, 0, 0)
    struct.pack_into("<QQQQQQ", s, 224, 0x80010011, 0, 0x8000, 0x20, 0, 0x500)  # cr0, cr2, cr3, cr4 PAE, cr8, efer LME LMA
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(s))
    fcntl.ioctl(vcpu, KVM_SET_REGS, struct.pack("<18Q", *[0] * 16, 0x7000, 2))
    both = mmap.mmap(-1, 0x20000)
    hva = ctypes.addressof(ctypes.c_char.from_buffer(both))
    memory.append((both, hva))
    for number in (5, 6):
        at = (number - 5) * 0x10000
        fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("IIQQQ", number, 0, 0x400000 + at, 0x10000, hva + at))
    both[:] = bytes(0x20000)
    fcntl.ioctl(vcpu, KVM_PRE_FAULT_MEMORY, bytearray(struct.pack("<QQQ40x", 0x400000, 0x20000, 0)))


def wide(kvm, vm, vcpu):
    cpuid = bytearray(8 + 256 * 40)
    struct.pack_into("<I", cpuid, 0, 256)
    fcntl.ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid)
    for at in range(8, 8 + 40 * struct.unpack_from("<I", cpuid)[0], 40):
        if struct.unpack_from("<I", cpuid, at)[0] == 0x80000008:
            cpuid[at + 12] = 52
    # without CPUID the vCPU has four levels: this root comes first
    fcntl.ioctl(vcpu, KVM_PRE_FAULT_MEMORY, bytearray(struct.pack("<QQQ40x", 0, 0x1000, 0)))
    fcntl.ioctl(vcpu, KVM_SET_CPUID2, cpuid)
    slot(vm, 3, 0, 1 << 50, 0x10000)
    fcntl.ioctl(vcpu, KVM_PRE_FAULT_MEMORY, bytearray(struct.pack("<QQQ40x", 1 << 50, 0x2000, 0)))


kvm = os.open("/dev/kvm", os.O_RDWR)
vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
ram, ram_hva = slot(vm, 0, 0, 0, 0x100000)
slot(vm, 1, 2, 0x200000, 0x10000)
slot(vm, 2, 1, 0x300000, 0x10000)
ram[0x1000:0x1000 + len(CODE)] = CODE
ram[0x2000:0x2008] = struct.pack("<II", 0x83, 0x3003)
ram[0x3000:0x3004] = struct.pack("<I", 0x10001)
vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
run = mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
flat_mode(vcpu)
if os.environ.get("LONG"):
    long_mode(vm, vcpu)
if os.environ.get("WIDE"):
    wide(kvm, vm, vcpu)
print("ready", flush=True)
for line in sys.stdin:
    command = line.strip()
    if command == "run":
        fcntl.ioctl(vcpu, KVM_RUN, 0)
        reason, = struct.unpack_from("<I", run, 8)
        print("exit", reason, flush=True)
    elif command == "unmap":
        ctypes.CDLL(None).munmap(ctypes.c_void_p(ram_hva + 0x8000), ctypes.c_size_t(0x1000))
        print("unmapped", flush=True)
    elif command == "close":
        run.close()
        for fd in (vcpu, vm, kvm):
            os.close(fd)
        print("closed", flush=True)
