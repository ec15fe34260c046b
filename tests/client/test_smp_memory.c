/*
 * Several vCPUs and one memory: locked instructions, code that another vCPU
 * writes, memslots that go while vCPUs write to them.
 */
#include "smp.h"

#define CPUS 4
#define ADDS 20000
#define TABLE_ADDS 3000

/* --- locked instructions --- */

GUEST(lock_add, "code16", "mov $20000, %ecx\n"
			  "1: lock; incl 0x600\n"
			  "dec %ecx\n jnz 1b\n hlt");

static void lock_inc_by_4_vcpus_loses_nothing(void **state)
{
	struct smp s;

	smp_open(&s, CPUS, 1 << 20, false);
	for (int i = 0; i < CPUS; i++)
		guest_real(&s, i, 0x1000, lock_add);
	smp_start(&s, 0, CPUS);
	smp_join(&s, 0, CPUS);
	for (int i = 0; i < CPUS; i++)
		assert_int_equal(s.cpu[i].reason, KVM_EXIT_HLT);
	assert_int_equal(smp_load32(&s, 0x600), CPUS * ADDS);
	smp_close(&s);
}

/* Across pages 1fffeh..20001h; with ES at a segment of memory in another place. */
GUEST(lock_split, "code64", "1: lock; incl 0x200ffe\n" /* two pages, contiguous for the host */
			    "lock; incl 0x3ffffe\n"    /* two slots, that are not */
			    "dec %ecx\n jnz 1b\n hlt");

static void locked_accesses_across_pages_and_slots_lose_nothing(void **state)
{
	size_t size = 2 << 20;
	uint8_t *slots = mmap(NULL, 3 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const uint32_t n = ADDS;
	uint16_t lo, hi;
	struct smp s;

	smp_open(&s, CPUS, size, false);
	/* the other way round in host memory */
	client_slot(&s.c, 1, 0, size, slots + 2 * size, size);
	client_slot(&s.c, 2, 0, 2 * size, slots, size);
	for (int i = 0; i < CPUS; i++) {
		smp_long_mode(&s, i, 0x1000);
		smp_reg(&s, i, rcx, n);
	}
	memcpy(s.c.mem + 0x1000, guest_lock_split, GUEST_SIZE(lock_split));
	smp_start(&s, 0, CPUS);
	smp_join(&s, 0, CPUS);
	for (int i = 0; i < CPUS; i++)
		assert_int_equal(s.cpu[i].reason, KVM_EXIT_HLT);
	assert_memory_equal(slots + 2 * size + 0xffe, &(uint32_t){CPUS * n}, 4);
	lo = *(uint16_t *)(slots + 3 * size - 2);
	hi = *(uint16_t *)slots;
	assert_int_equal((uint32_t)hi << 16 | lo, CPUS * n);
	smp_close(&s);
	munmap(slots, 3 * size);
}

/* An entry of the PD in use that maps nothing: with shadow paging each write is emulated. Then aligned accesses of 2 and 8 bytes. */
GUEST(lock_table, "code64", "1: lock; addl $2, 0x12800\n lock; addw $2, 0x12806\n mov $2, %eax\n lock; xadd %rax, 0x12808\n"
			    "2: mov 0x12810, %rax\n lea 2(%rax), %rbx\n lock; cmpxchg %rbx, 0x12810\n jnz 2b\n"
			    "dec %ecx\n jnz 1b\n hlt");

static void locked_accesses_to_page_tables_lose_nothing(void **state)
{
	struct smp s;

	smp_open(&s, CPUS, 2 << 20, false);
	for (int i = 0; i < CPUS; i++) {
		smp_long_mode(&s, i, 0x1000);
		smp_reg(&s, i, rcx, TABLE_ADDS);
	}
	memcpy(s.c.mem + 0x1000, guest_lock_table, GUEST_SIZE(lock_table));
	smp_start(&s, 0, CPUS);
	smp_join(&s, 0, CPUS);
	for (int i = 0; i < CPUS; i++)
		assert_int_equal(s.cpu[i].reason, KVM_EXIT_HLT);
	assert_int_equal(smp_load32(&s, 0x12800), 2 * CPUS * TABLE_ADDS);
	assert_int_equal(smp_load32(&s, 0x12804) >> 16, 2 * CPUS * TABLE_ADDS);
	assert_int_equal(smp_load32(&s, 0x12808), 2 * CPUS * TABLE_ADDS);
	assert_int_equal(smp_load32(&s, 0x12810), 2 * CPUS * TABLE_ADDS);
	smp_close(&s);
}

GUEST(cas16, "code64", "mov $20000, %esi\n"
		       "1: mov 0x3000, %rax\n mov 0x3008, %rdx\n"
		       "2: mov %rax, %rbx\n mov %rdx, %rcx\n inc %rbx\n add $3, %rcx\n"
		       "lock; cmpxchg16b 0x3000\n jnz 2b\n"
		       "dec %esi\n jnz 1b\n hlt");

static void cmpxchg16b_by_4_vcpus_loses_nothing(void **state)
{
	uint64_t *pair;
	struct smp s;

	smp_open(&s, CPUS, 2 << 20, false);
	for (int i = 0; i < CPUS; i++)
		smp_long_mode(&s, i, 0x1000);
	memcpy(s.c.mem + 0x1000, guest_cas16, GUEST_SIZE(cas16));
	smp_start(&s, 0, CPUS);
	smp_join(&s, 0, CPUS);
	pair = (uint64_t *)(s.c.mem + 0x3000);
	assert_int_equal(pair[0], CPUS * 20000);
	assert_int_equal(pair[1], CPUS * 60000);
	smp_close(&s);
}

/* --- code --- */

/*
 * vCPU 0 writes the immediate of MOV AX at 2001h, then the version at 600h, and
 * waits for all readers (count at 604h). The others wait for the version,
 * serialise by IRET, call 2000h and compare.
 */
GUEST(code_writer, "code16", "mov $1, %ax\n"
			     "1: mov %ax, 0x2001\n mov %ax, 0x600\n"
			     "2: pause\n cmpw $3, 0x604\n jne 2b\n"
			     "movw $0, 0x604\n inc %ax\n cmp $500, %ax\n jne 1b\n hlt");
GUEST(code_reader, "code16", "mov $1, %bx\n"
			     "1: pause\n cmp %bx, 0x600\n jne 1b\n"
			     "pushf\n push %cs\n push $(0x4000 + 3f - guest_code_reader)\n iret\n"
			     "3: mov $0x2000, %dx\n call *%dx\n cmp %ax, %bx\n jne 9f\n"
			     "lock; incw 0x604\n inc %bx\n cmp $500, %bx\n jne 1b\n hlt\n"
			     "9: out %ax, $0x99\n");

static void code_written_by_one_vcpu_is_run_by_the_others(void **state)
{
	struct smp s;

	smp_open(&s, CPUS, 1 << 20, false);
	memcpy(s.c.mem + 0x2000, "\xb8\0\0\xc3", 4); /* mov $0, %ax; ret */
	guest_real(&s, 0, 0x1000, code_writer);
	for (int i = 1; i < CPUS; i++) {
		guest_real(&s, i, 0x4000, code_reader);
		smp_reg(&s, i, rsp, 0x8000 - 0x400 * (uint64_t)i);
	}

	smp_start(&s, 0, CPUS);
	smp_join(&s, 0, CPUS);
	for (int i = 0; i < CPUS; i++)
		assert_int_equal(s.cpu[i].reason, KVM_EXIT_HLT);
	smp_close(&s);
}

/* --- memslots --- */

GUEST(write_slot, "code16", "mov $0x8000, %ax\n mov %ax, %ds\n"
			    "1: lock; incl (%di)\n addl $1, 0x1000(%di)\n jmp 1b");

static bool all_have_written(const uint8_t *hva)
{
	for (int i = 0; i < CPUS; i++)
		if (__atomic_load_n((const uint32_t *)(hva + i * 8), __ATOMIC_SEQ_CST) <= 100)
			return false;
	return true;
}

static void a_deleted_memslot_is_written_no_more(void **state)
{
	struct kvm_userspace_memory_region gone = {.slot = 1, .guest_phys_addr = 0x80000};
	uint64_t deadline;
	uint8_t *hva;
	struct smp s;
	long rounds = 0;

	smp_open(&s, CPUS, 0x80000, false);
	hva = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	client_slot(&s.c, 1, 0, 0x80000, hva, 0x10000);
	for (int i = 0; i < CPUS; i++) {
		guest_real(&s, i, 0x1000, write_slot);
		smp_reg(&s, i, rdi, (uint64_t)i * 8);
	}
	smp_start(&s, 0, CPUS);
	deadline = smp_now_ms() + 1500;
	/* on a busy machine until every vCPU has had its turns */
	while (smp_now_ms() < deadline || !all_have_written(hva)) {
		uint32_t before[CPUS], after[CPUS];

		assert_int_equal(ioctl(s.c.vm, KVM_SET_USER_MEMORY_REGION, &gone), 0);
		for (int i = 0; i < CPUS; i++)
			before[i] = __atomic_load_n((uint32_t *)(hva + i * 8), __ATOMIC_SEQ_CST);
		usleep(300);
		for (int i = 0; i < CPUS; i++)
			after[i] = __atomic_load_n((uint32_t *)(hva + i * 8), __ATOMIC_SEQ_CST);
		assert_memory_equal(before, after, sizeof(before));
		client_slot(&s.c, 1, 0, 0x80000, hva, 0x10000);
		usleep(300);
		rounds++;
	}
	smp_stop(&s, 0, CPUS);
	assert_true(rounds > 10);
	smp_close(&s);
	munmap(hva, 0x10000);
}

/* What is not in the dirty bitmap did not change: none of the vCPUs' writes is lost. */
static void every_vcpus_write_is_in_the_dirty_log(void **state)
{
	enum { PAGES = 16 };
	struct kvm_dirty_log log = {.slot = 1};
	uint8_t *hva, *copy;
	uint64_t bitmap, deadline;
	struct smp s;

	smp_open(&s, CPUS, 0x80000, false);
	hva = mmap(NULL, PAGES << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	copy = calloc(PAGES, 4096);
	client_slot(&s.c, 1, KVM_MEM_LOG_DIRTY_PAGES, 0x80000, hva, PAGES << 12);
	for (int i = 0; i < CPUS; i++) {
		guest_real(&s, i, 0x1000, write_slot);
		smp_reg(&s, i, rdi, (uint64_t)i * 0x3000 + 8);
	}
	smp_start(&s, 0, CPUS);
	log.dirty_bitmap = &bitmap;
	deadline = smp_now_ms() + 1000;
	while (smp_now_ms() < deadline) {
		assert_int_equal(ioctl(s.c.vm, KVM_GET_DIRTY_LOG, &log), 0);
		for (int p = 0; p < PAGES; p++)
			if (bitmap >> p & 1)
				memcpy(copy + (p << 12), hva + (p << 12), 4096);
		usleep(200);
	}
	smp_stop(&s, 0, CPUS);
	assert_int_equal(ioctl(s.c.vm, KVM_GET_DIRTY_LOG, &log), 0);
	for (int p = 0; p < PAGES; p++)
		if (bitmap >> p & 1)
			memcpy(copy + (p << 12), hva + (p << 12), 4096);
	assert_memory_equal(copy, hva, PAGES << 12);
	assert_true(*(uint32_t *)(hva + 8) > 100);
	smp_close(&s);
	free(copy);
	munmap(hva, PAGES << 12);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lock_inc_by_4_vcpus_loses_nothing),
		cmocka_unit_test(locked_accesses_across_pages_and_slots_lose_nothing),
		cmocka_unit_test(locked_accesses_to_page_tables_lose_nothing),
		cmocka_unit_test(cmpxchg16b_by_4_vcpus_loses_nothing),
		cmocka_unit_test(code_written_by_one_vcpu_is_run_by_the_others),
		cmocka_unit_test(a_deleted_memslot_is_written_no_more),
		cmocka_unit_test(every_vcpus_write_is_in_the_dirty_log),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
