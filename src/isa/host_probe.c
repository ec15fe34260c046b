/*
 * What the manuals leave to the processor, asked of the silicon itself: some of it exists outside 64-bit
 * code only, and some raises an exception, so a child runs it that shares our memory and dies.
 *
 *   parent ── clone(CLONE_VM | CLONE_VFORK) ──> child: signal handlers of its own, then
 *                                               stage 1, 2, … each by itself; an exception goes to the next
 *
 * Invariants
 * 1. The child runs the code below and nothing else: no C, no stack or thread-local memory of ours. Its
 *    signals are open and have handlers, for a core dump of it would take the parent along.
 * 2. An answer counts only if the child has come to its end (asked).
 *
 * Where it cannot be asked (no executable memory, no clone, a seccomp filter, no 32-bit code segment) the vendor decides, as
 * observed: Intel's family 6 model 207, AMD's Zen 4.
 *
 * Locks: pthread_once() of isa_host_fill().
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "isa/host.h"
#include "lib/program.h"
#include "lib/valgrind.h"

#define PLACE_BYTES 65536u
#define DATA 0x1000
#define NR_STAGES 4
/* The assembly's copies of these stand beside it. */
#define SA_RESTORER_FLAG 0x04000000ul
#define SA_NODEFER_FLAG 0x40000000ul
#define USER32_CS 0x23
#define USER_CS 0x33

struct far {
	uint32_t offset;
	uint16_t selector;
} __attribute__((packed));

/* At DATA of the place. */
struct probe_data {
	uint32_t stage;		  /* 00: the one that runs; behind the last the child has ended */
	uint32_t pushed;	  /* 04: all ones, then a PUSH FS of 32 bits */
	uint8_t done[8];	  /* 08: [n] stage n has raised nothing */
	struct {
		uint64_t handler, flags, restorer, mask;
	} action;		  /* 10: the kernel's struct sigaction */
	uint64_t no_signals;	  /* 30 */
	struct far push32, vpinsrd32, back; /* 38, 3e, 44 */
	uint8_t has_avx, has_sha; /* 4a, 4b */
	uint8_t unaligned[32];	  /* 4c */
};
static_assert(offsetof(struct probe_data, done) == 8 && offsetof(struct probe_data, action) == 0x10 &&
	      offsetof(struct probe_data, no_signals) == 0x30 && offsetof(struct probe_data, push32) == 0x38 &&
	      offsetof(struct probe_data, vpinsrd32) == 0x3e && offsetof(struct probe_data, back) == 0x44 &&
	      offsetof(struct probe_data, has_avx) == 0x4a && offsetof(struct probe_data, unaligned) == 0x4c, "assembly");

extern const uint8_t probe_code[], probe_next[], probe_push32[], probe_vpinsrd32[], probe_end[];

/* RBP (EBP): the place, below 4 GiB. 32-bit code uses SS alone, as DS and ES are null in 64-bit programs. */
__asm__(".pushsection .rodata, \"a\"\n"
	".macro probe_action signo\n"
	"	mov $13, %eax; mov $\\signo, %edi; lea 0x1010(%rbp), %rsi; xor %edx, %edx; mov $8, %r10d; syscall\n"
	".endm\n"
	".globl probe_code, probe_next, probe_push32, probe_vpinsrd32, probe_end\n"
	".hidden probe_code, probe_next, probe_push32, probe_vpinsrd32, probe_end\n"
	"probe_code:\n"
	"	probe_action 4\n probe_action 7\n probe_action 11\n"
	"	mov $14, %eax; mov $2, %edi; lea 0x1030(%rbp), %rsi; xor %edx, %edx; mov $8, %r10d; syscall\n"
	"probe_next:\n" /* the end of a stage, and the signal handler */
	"	mov 0x1000(%rbp), %eax; inc %eax; mov %eax, 0x1000(%rbp)\n"
	"	cmp $1, %eax; je 1f; cmp $2, %eax; je 2f; cmp $3, %eax; je 3f; cmp $4, %eax; je 4f\n"
	"	mov $60, %eax; xor %edi, %edi; syscall\n"
	"1:	ljmp *0x1038(%rbp)\n"
	"2:	cmpb $0, 0x104a(%rbp); je probe_next\n"
	"	ljmp *0x103e(%rbp)\n"
	"3:	.byte 0x0f, 0x0d, 0xc9\n" /* PREFETCHW with a register */
	"	movb $1, 0x100b(%rbp); jmp probe_next\n"
	"4:	cmpb $0, 0x104b(%rbp); je probe_next\n"
	"	sha256msg1 0x104d(%rbp), %xmm0\n"
	"	movb $1, 0x100c(%rbp); jmp probe_next\n"
	".code32\n"
	"probe_push32:\n"
	"	lea 0xc000(%ebp), %esp; movl $-1, 0xbffc(%ebp); push %fs\n"
	"	mov 0xbffc(%ebp), %eax; mov %eax, 0x1004(%ebp); movb $1, 0x1009(%ebp); ljmp *0x1044(%ebp)\n"
	"probe_vpinsrd32:\n"
	"	.byte 0xc4, 0xe3, 0xf9, 0x22, 0xc0, 0x00\n" /* VPINSRD xmm0, xmm0, eax, 0 with VEX.W = 1 */
	"	movb $1, 0x100a(%ebp); ljmp *0x1044(%ebp)\n"
	".code64\n"
	"probe_end:\n"
	".popsection\n");

static uint32_t place_of(uint8_t *place, const uint8_t *code)
{
	return (uint32_t)(uintptr_t)place + (uint32_t)(code - probe_code);
}

static void prepare(uint8_t *place, const bool *has)
{
	struct probe_data *d = (struct probe_data *)(place + DATA);

	memcpy(place, probe_code, (size_t)(probe_end - probe_code));
	d->action.handler = d->action.restorer = place_of(place, probe_next);
	d->action.flags = SA_RESTORER_FLAG | SA_NODEFER_FLAG;
	d->push32 = (struct far){ place_of(place, probe_push32), USER32_CS };
	d->vpinsrd32 = (struct far){ place_of(place, probe_vpinsrd32), USER32_CS };
	d->back = (struct far){ place_of(place, probe_next), USER_CS };
	d->has_avx = has[HOST_AVX];
	d->has_sha = has[HOST_SHA];
}

/* The child's pid, or -errno. It begins at the place's first byte, with a stack at the place's end. */
static long run(uint8_t *place)
{
	register long stack __asm__("rsi") = (long)(place + PLACE_BYTES);
	register long zero __asm__("r10") = 0;
	register long tls __asm__("r8") = 0;
	long r = SYS_clone;

	__asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\tmov %[place], %%rbp\n\tjmp *%%rbp\n\t1:"
			 : "+a"(r)
			 : "D"((long)(CLONE_VM | CLONE_VFORK | CLONE_UNTRACED)), "r"(stack), "d"(0L), "r"(zero), "r"(tls),
			   [place] "r"(place)
			 : "rcx", "r11", "memory", "cc");
	return r;
}

/* False: it could not be asked. */
static bool ask(uint8_t *place, const bool *has)
{
	struct probe_data *d = (struct probe_data *)(place + DATA);
	long pid;

	prepare(place, has);
	if (mprotect(place, DATA, PROT_READ | PROT_EXEC))
		return false;
	pid = run(place);
	if (pid <= 0)
		return false;
	while (syscall(SYS_wait4, pid, NULL, __WCLONE, NULL) < 0 && errno == EINTR)
		;
	return d->stage == NR_STAGES + 1 && d->done[1];
}

/* A filter may end the process for the clone (QEMU's -sandbox spawn=deny, which libvirt asks for, does). */
static bool is_filtered(void)
{
	static const char line[] = "\nSeccomp:\t0";
	char text[4096];
	int fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/status", O_RDONLY | O_CLOEXEC);
	long n = fd < 0 ? -1 : syscall(SYS_read, fd, text, sizeof(text));

	if (fd >= 0)
		syscall(SYS_close, fd);
	return n <= 0 || !memmem(text, (size_t)n, line, sizeof(line) - 1);
}

/* In the host of static programs the system calls of other code than the library's are the program's. */
static bool may_ask(void)
{
	return !lib_on_valgrind() && !program_is_trapping_host() && !is_filtered();
}

void isa_host_probe(struct isa_host *h)
{
	bool intels = h->vendor != HOST_AMD;
	uint8_t *place = MAP_FAILED;

	h->push_sreg_writes_16 = h->vpinsrd_ignores_w = h->prefetchw_takes_registers = h->sha_wants_alignment = intels;
	if (may_ask())
		place = mmap(NULL, PLACE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (place == MAP_FAILED)
		return;
	h->asked = ask(place, h->has);
	if (h->asked) {
		const struct probe_data *d = (const struct probe_data *)(place + DATA);

		h->push_sreg_writes_16 = d->pushed >> 16 == 0xffff;
		h->prefetchw_takes_registers = d->done[3];
		if (h->has[HOST_AVX])
			h->vpinsrd_ignores_w = d->done[2];
		if (h->has[HOST_SHA])
			h->sha_wants_alignment = !d->done[4];
	}
	munmap(place, PLACE_BYTES);
}
