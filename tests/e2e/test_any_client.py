"""Programs that are not made for userkvm, and tools around clients: each does what it does on a machine with KVM.

usage: test_any_client.py USERKVM BUILD
"""
import os
import shutil
import subprocess
import sys
import tempfile

import tap
from lesser_kernel import without

USERKVM, BUILD = sys.argv[1:3]
CLIENT = os.path.join(BUILD, "tests/client/test_client_first")
# Faults that the library takes itself are shown to a debugger first.
GDB = ("-batch", "-ex", "handle SIGSEGV SIGBUS SIGFPE SIGILL nostop noprint pass", "-ex", "run")
tmp = tempfile.TemporaryDirectory()


def need(program):
    if not shutil.which(program):
        raise tap.Skip(f"{program} is not installed")


def client(*argv, **more):
    """A program under `userkvm run`: what it says, and its status."""
    return tap.run(USERKVM, "run", "--", *argv, **more)


def python(text, **more):
    return client(sys.executable, "-c", text, **more)


def python_keeps_its_kvm_through_subprocess():
    """subprocess makes its child by vfork(); the child closes descriptors and resets handlers."""
    out, status = python("""
import fcntl, os, signal, subprocess
k = os.open("/dev/kvm", os.O_RDWR); vm = fcntl.ioctl(k, 0xAE01, 0); vcpu = fcntl.ioctl(vm, 0xAE41, 0)
hits = []; signal.signal(signal.SIGUSR1, lambda *a: hits.append(1))
assert subprocess.run(["true"], close_fds=True, restore_signals=True).returncode == 0
os.kill(os.getpid(), signal.SIGUSR1)
print(fcntl.ioctl(k, 0xAE00, 0), fcntl.ioctl(vcpu, 0x8090AE81, bytearray(144)), hits)
""")
    assert (out, status) == ("12 0 [1]\n", 0), out


def debugger_inside_runs_a_client():
    need("gdb")
    out, status = client("gdb", *GDB, "--args", CLIENT)
    assert status == 0 and "exited normally" in out and "not ok" not in out, out


def debugger_outside_runs_a_client():
    need("gdb")
    out, status = tap.run("gdb", *GDB, "--args", USERKVM, "run", "--", CLIENT)
    assert status == 0 and "exited normally" in out and "not ok" not in out, out


def device_node_is_one_to_programs_that_only_look():
    """In a /dev without it: what provisioning scripts and udev's kin do, and listings."""
    script = """
mount -t tmpfs none /dev && mknod /dev/null c 1 3 2>/dev/null || : > /dev/null
exec "$0" run -- bash -c '
set -e
ls -l /dev/kvm | grep -q "^crw-rw-rw- 1 root root 10, 232"
chmod 600 /dev/kvm; chmod a+rw /dev/kvm; chown 0:0 /dev/kvm; touch /dev/kvm
test "$(find /dev -name kvm)" = /dev/kvm
ls /dev | grep -qx kvm
test "$(echo /dev/k*)" = /dev/kvm
cd /dev; test "$(stat -c %t:%T kvm)" = a:e8; test "$(echo k*)" = kvm; cd /
! mknod /dev/kvm c 10 232 2>/dev/null
! rm -f /dev/kvm 2>/dev/null
! getfattr /dev/kvm -n user.x 2>/dev/null
cat /dev/kvm 2>&1 | grep -q "Invalid argument"
dd if=/dev/kvm count=0 2>/dev/null
'
status=$?
ls -A /dev | grep -x kvm && exit 1
exit $status
"""
    unshare = ("unshare", "--user", "--map-root-user", "--mount")
    if tap.run(*unshare, "true")[1]:
        raise tap.Skip("no user namespaces here")
    out, status = tap.run(*unshare, "bash", "-c", script.replace("exec \"$0\"", "\"$0\""), USERKVM)
    assert (out, status) == ("", 0), (out, status)


def device_node_has_an_access_list_and_attributes():
    """As a machine's manager copies them. What root sets is seen in the process, and users' attributes are refused."""
    out, status = python("""
import os, struct
path = "/dev/kvm"
def entries(*all): return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in all)
def refused(f, *a):
    try: f(*a)
    except OSError as e: return e.errno
own, group, other = (1, 6, 2**32 - 1), (4, 4, 2**32 - 1), (32, 0, 2**32 - 1)
acl = "system.posix_acl_access"
print(os.listxattr(path), refused(os.getxattr, path, acl), refused(os.setxattr, path, "user.x", b"1"))
if os.geteuid() == 0:
    os.setxattr(path, acl, entries(own, group, other))
    print(oct(os.stat(path).st_mode), refused(os.getxattr, path, acl))
    named = entries(own, (2, 6, 77), group, (16, 6, 2**32 - 1), other)
    os.setxattr(path, acl, named)
    print(oct(os.stat(path).st_mode), os.getxattr(path, acl) == named, os.listxattr(path))
    os.removexattr(path, acl)
    os.setxattr(path, "trusted.note", b"abc", os.XATTR_CREATE)
    print(os.listxattr(path), os.getxattr(path, "trusted.note"), refused(os.setxattr, path, "trusted.note", b"", os.XATTR_CREATE))
""")
    root = """0o20640 61
0o20660 True ['system.posix_acl_access']
['trusted.note'] b'abc' 17
""" if os.geteuid() == 0 else ""
    assert (out, status) == ("[] 61 1\n" + root, 0), out


def host_looks_like_one_with_vmx():
    """Programs look for it before they open /dev/kvm."""
    look = r"""
grep -qE "^flags.* vmx( |$)" /proc/cpuinfo
grep -qE "^vmx flags.* ept( |$)" /proc/cpuinfo
test "$(grep -c ^processor /proc/cpuinfo)" = "$(grep -cE '^flags.* vmx' /proc/cpuinfo)"
test -d /sys/module/kvm_intel
test -r /sys/module/kvm_intel/parameters/ept
test "$(cat /sys/module/kvm_intel/parameters/ept)" = "$0"
test "$(cat /sys/module/kvm_intel/parameters/nested)" = Y
"""
    assert client("bash", "-ec", look, "Y") == ("", 0)
    without = look.replace('grep -qE "^vmx', '! grep -qE "^vmx')
    assert client("bash", "-ec", without, "N", env=dict(os.environ, USERKVM_PARAMS="ept=0")) == ("", 0)
    assert python("print([l for l in open('/proc/cpuinfo') if l.startswith('vmx flags')] != [])") == ("True\n", 0)
    same = "import sys; print(sum(1 for l in open('/proc/cpuinfo')))"
    out, status = tap.run(USERKVM, "run", "--no-host-vmx", "--", sys.executable, "-c", same)
    assert (out, status) == tap.run(sys.executable, "-c", same)


CPUID_C = r"""
#include <cpuid.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned r[4];
static int vmx(void)
{
    __cpuid(1, r[0], r[1], r[2], r[3]);
    return r[2] >> 5 & 1;
}
static void *in_thread(void *p) { *(int *)p = vmx(); return p; }
static int handled;
static void on_segv(int n, siginfo_t *i, void *c) { handled++; if (i->si_addr != (void *)8) _exit(9); _exit(handled == 1 && vmx() >= 0 ? 0 : 8); }
int main(int argc, char **argv)
{
    struct sigaction a = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_NODEFER };
    int here, thread, status, child, blocked;
    pthread_t t;
    sigset_t all, old;
    char vendor[13] = "";

    here = vmx();
    pthread_create(&t, NULL, in_thread, &thread);
    pthread_join(t, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    blocked = vmx(); /* whatever it says, the program lives */
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    __cpuid(0, r[0], r[1], r[2], r[3]);
    memcpy(vendor, &r[1], 4); memcpy(vendor + 4, &r[3], 4); memcpy(vendor + 8, &r[2], 4);
    for (unsigned n = 0; n < 300; n++) /* more than are kept */
        __cpuid_count(0xd, n, r[0], r[1], r[2], r[3]);
    __cpuid_count(0xd, 0, r[0], r[1], r[2], r[3]);
    printf("%d %d %d %s %u %d\n", here, thread, vmx(), vendor, r[2], blocked >= 0);
    sigaction(SIGSEGV, &a, NULL); /* faults of its own still are */
    fflush(stdout);
    if (!(child = fork())) { *(volatile int *)8 = 1; }
    waitpid(child, &status, 0);
    printf("%d %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1, vmx());
    signal(SIGSEGV, SIG_DFL);
    fflush(stdout);
    if (!(child = fork())) { *(volatile int *)8 = 1; }
    waitpid(child, &status, 0);
    printf("%d %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : -1, vmx());
    fflush(stdout);
    if (argc > 1) execl(argv[1], argv[1], NULL);
    return 0;
}
"""


def cpuid_says_vmx():
    """By CPUID faulting, in every thread and program; signals of the program's own stay so."""
    if "cpuid_fault" not in open("/proc/cpuinfo").read().split():
        raise tap.Skip("this host has no CPUID faulting")
    source, program = os.path.join(tmp.name, "cpuid.c"), os.path.join(tmp.name, "cpuid")
    with open(source, "w") as f:
        f.write(CPUID_C)
    subprocess.run(["cc", "-O1", "-pthread", "-w", "-o", program, source], check=True)
    native, status = tap.run(program)
    assert status == 0, native
    lines = native.split("\n")
    vendor, size = lines[0].split()[3:5]
    expected = f"1 1 1 {vendor} {size} 1\n0 1\n11 1\n"
    assert client(program) == (expected, 0)
    assert client(program, program) == (2 * expected, 0)
    assert tap.run(USERKVM, "run", "--no-host-vmx", "--", program) == (native, 0)


def programs_that_are_not_served_are_told():
    """Each goes its own way, after one line."""
    other = os.path.join(tmp.name, "other")
    assert client("sh", "-c", "true; /bin/true") == ("", 0)
    if os.geteuid() != 0:
        return
    shutil.copy("/bin/true", other)
    os.chown(other, 65534, 65534)
    os.chmod(other, 0o4755)
    out, status = client("sh", "-c", other + "; exit $?")
    assert status == 0 and out.count("\n") == 1 and "other rights" in out, (out, status)


def clients_with_sanitizers_start_without_settings():
    source, program = os.path.join(tmp.name, "sane.c"), os.path.join(tmp.name, "sane")
    with open(source, "w") as f:
        f.write("#include <fcntl.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <sys/ioctl.h>\n"
                "int main(int argc, char **argv) { volatile char *p = malloc(10);\n"
                "printf(\"%d\\n\", ioctl(open(\"/dev/kvm\", O_RDWR), 0xAE00, 0)); if (argc > 1) p[10] = 1; free((void *)p); return 0; }\n")
    env = {k: v for k, v in os.environ.items() if not k.endswith("SAN_OPTIONS")}
    started = 0
    # A client's lock is held when a thread makes its first call, and taken in one that has made it.
    locks = os.path.join(tmp.name, "locks.c")
    with open(locks, "w") as f:
        f.write("#include <fcntl.h>\n#include <pthread.h>\n#include <stdio.h>\n#include <sys/ioctl.h>\n"
                "static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER; static int vm;\n"
                "static void *f(void *p) { pthread_mutex_lock(&m); ioctl(vm, 0xAE03, 1); pthread_mutex_unlock(&m);\n"
                "pthread_mutex_lock(&m); pthread_mutex_unlock(&m); return 0; }\n"
                "int main(void) { pthread_t t; vm = ioctl(open(\"/dev/kvm\", O_RDWR), 0xAE01, 0); ioctl(vm, 0xAE60, 0);\n"
                "for (int i = 0; i < 3; i++) { pthread_create(&t, 0, f, 0); f(0); pthread_join(t, 0); }\n"
                "printf(\"%d\\n\", ioctl(ioctl(vm, 0xAE41, 0), 0x8090AE81, &(char[144]){ 0 })); return 0; }\n")
    for sanitizer in ("address", "thread"):
        if tap.run("cc", "-fsanitize=" + sanitizer, "-o", program, source)[1] or tap.run(program, env=env)[1]:
            continue  # no such runtime here
        started += 1
        out, status = client(program, env=env)
        assert (out, status) == ("12\n", 0), out
        if sanitizer == "address":
            out, status = client(program, "x", env=env)
            assert status != 0 and "heap-buffer-overflow" in out, out
        out, status = tap.run("cc", "-fsanitize=" + sanitizer, "-o", program, locks)
        assert status == 0, out
        out, status = client(program, env=env)
        assert (out, status) == ("0\n", 0), out
    if not started:
        raise tap.Skip("no sanitizer's runtime is installed")


def memcheck_sees_the_clients_heap_and_runs_its_guest():
    need("valgrind")
    source, program = os.path.join(tmp.name, "heap.c"), os.path.join(tmp.name, "heap")
    with open(source, "w") as f:
        f.write("#include <stdlib.h>\nint main(void) { volatile char *p = malloc(10); return p[12] == 77; }\n")
    out, status = tap.run("cc", "-g", "-o", program, source)
    assert status == 0, out
    out, status = client("valgrind", "--error-exitcode=9", program)
    assert status == 9 and "Invalid read of size 1" in out and "10 bytes allocated" in out, out
    for engine in ("interp", "jit"):
        out, status = client("valgrind", "-q", CLIENT, env=dict(os.environ, USERKVM_ENGINE=engine))
        assert status == 0 and "not ok" not in out, out


def calls_by_number_are_served():
    """libc's syscall(): not by the names that the library takes over."""
    out, status = python("""
import ctypes
call = ctypes.CDLL(None).syscall
k = call(257, -100, b"/dev/kvm", 2, 0); vm = call(16, k, 0xAE01, 0)
print(call(16, k, 0xAE00, 0), call(16, vm, 0xAE41, 0) > vm, call(3, vm), call(16, vm, 0xAE41, 0), call(39) > 0)
""", env=dict(os.environ, USERKVM_STRACE="-"))
    assert status == 0 and "12 True 0 -1 True\n" in out and "KVM_CREATE_VM, 0) = " in out and "KVM_CREATE_VCPU, 0) = " in out, out


def confinement_is_refused_where_the_host_cannot():
    """Not run without a wall. landlock_create_ruleset() is 444, and seccomp() 317."""
    def confined(**more):
        return tap.run(USERKVM, "run", "--confine", "--", os.path.join(BUILD, "tests/client/test_client_confine"), **more)
    for call, word in ((444, "Landlock"), (317, "seccomp")):
        out, status = confined(preexec_fn=without((call, None)))
        assert status == 126 and word in out and out.count("\n") == 1, out
    out, status = confined()
    if status == 126 and "Landlock" in out:
        raise tap.Skip("no Landlock here")
    assert status == 0 and "not ok" not in out, out


CASES = (confinement_is_refused_where_the_host_cannot, device_node_has_an_access_list_and_attributes, calls_by_number_are_served, memcheck_sees_the_clients_heap_and_runs_its_guest, clients_with_sanitizers_start_without_settings, programs_that_are_not_served_are_told, host_looks_like_one_with_vmx, cpuid_says_vmx, device_node_is_one_to_programs_that_only_look, python_keeps_its_kvm_through_subprocess, debugger_inside_runs_a_client, debugger_outside_runs_a_client)
tap.select(CASES, (), sys.argv[3:])
