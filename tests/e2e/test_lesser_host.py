"""Hosts that lack a system call or refuse one: served by the next best way, or refused in a sentence.

usage: test_lesser_host.py USERKVM BUILD

The host is made lesser by a seccomp filter that gives an errno.
"""
import ctypes
import errno
import os
import struct
import sys

import tap

USERKVM, BUILD = sys.argv[1:3]
FIRST = os.path.join(BUILD, "tests/client/test_client_first")
STATS = os.path.join(BUILD, "tests/client/test_client_stats")
NR_MMAP, NR_MEMFD_CREATE, NR_MEMBARRIER = 9, 319, 324
PROT_EXEC, MAP_SHARED = 4, 1
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LD, JEQ, JSET, RET = 0x20, 0x15, 0x45, 0x06
ALLOW, ERRNO = 0x7fff0000, 0x00050000

libc = ctypes.CDLL(None, use_errno=True)


def insn(code, k, true=0, false=0):
    return struct.pack("<HBBI", code, true, false, k)


def install(*program):
    """A seccomp filter, to be inherited."""
    code = ctypes.create_string_buffer(b"".join(program))
    fprog = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code))
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, fprog, 0, 0) == 0


def without(nr, error):
    return lambda: install(insn(LD, 0), insn(JEQ, nr, 0, 1), insn(RET, ERRNO | error), insn(RET, ALLOW))


def without_executable_memory():
    """mmap() of shared memory with PROT_EXEC is EPERM; a program's and a library's own are private."""
    install(insn(LD, 0), insn(JEQ, NR_MMAP, 0, 5), insn(LD, 16 + 8 * 2), insn(JSET, PROT_EXEC, 0, 3),
            insn(LD, 16 + 8 * 3), insn(JSET, MAP_SHARED, 0, 1), insn(RET, ERRNO | errno.EPERM), insn(RET, ALLOW))


def passes(program, lesser):
    out, status = tap.run(USERKVM, "run", "--", program, preexec_fn=lesser)
    assert status == 0 and "FAILED" not in out, out
    return out


def a_host_without_memfd_create_uses_nameless_files():
    for error in (errno.ENOSYS, errno.EPERM):
        passes(FIRST, without(NR_MEMFD_CREATE, error))
        passes(STATS, without(NR_MEMFD_CREATE, error))
    out, status = tap.run(USERKVM, "doctor", preexec_fn=without(NR_MEMFD_CREATE, errno.ENOSYS))
    assert status == 0 and "no memfd_create(): nameless files" in out and "VM and vCPU      can be made" in out, out


def a_shortage_of_descriptors_stays_one():
    out, status = tap.run(USERKVM, "doctor", preexec_fn=without(NR_MEMFD_CREATE, errno.EMFILE))
    assert status in (3, 4) and "Too many open files" in out, out


def a_host_without_membarrier_is_served():
    passes(FIRST, without(NR_MEMBARRIER, errno.ENOSYS))


def executable_memory_that_is_refused_is_told():
    out, status = tap.run(USERKVM, "doctor", preexec_fn=without_executable_memory)
    assert status == 5 and "code memory      REFUSED: Operation not permitted" in out, out
    assert "VM and vCPU      CANNOT BE MADE: Operation not permitted" in out, out
    out, status = tap.run(USERKVM, "run", "--", FIRST, preexec_fn=without_executable_memory)
    assert status != 0 and "this host lets the process have no executable memory" in out, out


tap.main(a_host_without_memfd_create_uses_nameless_files, a_shortage_of_descriptors_stays_one,
         a_host_without_membarrier_is_served, executable_memory_that_is_refused_is_told)
