/*
 * The checker finds what is wrong: each test breaks one thing, and puts it back.
 * With USERKVM_CHECK=1 the next operation does, says so, and ends the process.
 */
#include "mmu/internal.h"

#include "fixture.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define GPA 0x10000
#define SIZE 0x10000

static char *mem;

static void map_pages(uint32_t flags)
{
	mem = get_memory(SIZE, 4096, PROT_READ | PROT_WRITE);
	assert_int_equal(set_slot(0, flags, GPA, SIZE, mem), 0);
	assert_int_equal(take_fault(vcpu, GPA, PFERR_WRITE_MASK), RET_PF_FIXED);
	assert_int_equal(take_fault(vcpu, GPA + 0x1000, 0), RET_PF_FIXED);
	assert_int_equal(take_fault(vcpu, 0xfee00000, 0), RET_PF_EMULATE);
	assert_int_equal(mmu_check(vm), 0);
}

/* The entry at `level` on the way to gpa. */
static uint64_t *entry(gpa_t gpa, int level)
{
	uint64_t *table = (uint64_t *)(uintptr_t)fake.loaded_root;
	int l;

	for (l = fake.loaded_level; l > level; l--)
		table = spte_table(table[spte_index(gpa >> PAGE_SHIFT, l)]);
	return &table[spte_index(gpa >> PAGE_SHIFT, level)];
}

static void found_when(uint64_t *word, uint64_t value)
{
	uint64_t right = *word;

	*word = value;
	assert_true(mmu_check(vm) > 0);
	*word = right;
	assert_int_equal(mmu_check(vm), 0);
}

static void wrong_leaves_are_found(void **state)
{
	uint64_t *e, other;

	map_pages(0);
	e = entry(GPA, 1);
	other = *entry(GPA + 0x1000, 1);
	found_when(e, *e + 0x1000);				/* another page's address */
	found_when(e, *e & ~EPT_READ);				/* write-only */
	found_when(e, *e | BIT_ULL(60));			/* a bit that is nobody's */
	found_when(e, *e & ~EPT_IPAT);				/* the guest's memory type */
	found_when(e, *e & ~SPTE_HOST_WRITABLE);		/* writable against the host */
	found_when(e, *e & ~EPT_WRITE);				/* dirty, and cannot be written */
	found_when(e, 1);					/* read, and not present to us */
	found_when(e, 0);					/* a leaf less than is counted */
	found_when(entry(GPA + SIZE, 1), other);		/* outside of its slot */
}

static void wrong_tables_are_found(void **state)
{
	uint64_t *e;

	map_pages(0);
	e = entry(GPA, 2);
	found_when(e, *e & ~EPT_WRITE);
	found_when(e, *e | EPT_DIRTY);
	found_when(entry(GPA + 0x200000, 2), *e); /* reached twice */
	found_when(entry(GPA, 3), 0);
	found_when(entry(0xfee00000, 1), MMIO_SPTE_VALUE); /* not its gfn */
}

static void wrong_counters_are_found(void **state)
{
	map_pages(0);
	found_when(&vm->mmu_vm->table_pages, vm->mmu_vm->table_pages + 1);
	found_when(&vm->mmu_vm->leaves[1], 1);
	found_when(&vm->mmu_vm->mmio_entries, 0);
	found_when(&vm->nr_memslot_pages, 0);
}

static void unnoticed_writes_to_logged_pages_are_found(void **state)
{
	struct kvm_memory_slot *s;
	uint64_t *e;

	map_pages(KVM_MEM_LOG_DIRTY_PAGES);
	s = gfn_to_memslot_as(vm, 0, GPA >> PAGE_SHIFT);
	assert_int_equal(s->dirty_bitmap[0], 1);
	found_when(s->dirty_bitmap, 0);
	e = entry(GPA + 0x1000, 1);
	assert_false(*e & EPT_WRITE);
	found_when(e, *e | EPT_WRITE);
}

static void writes_to_read_only_slots_are_found(void **state)
{
	uint64_t *e;

	mem = get_memory(SIZE, 4096, PROT_READ | PROT_WRITE);
	assert_int_equal(set_slot(0, KVM_MEM_READONLY, GPA, SIZE, mem), 0);
	assert_int_equal(take_fault(vcpu, GPA, 0), RET_PF_FIXED);
	e = entry(GPA, 1);
	found_when(e, *e | EPT_WRITE | SPTE_MMU_WRITABLE | SPTE_HOST_WRITABLE);
}

/* A counter goes wrong, then `operation`: what the process says and how it ends. */
static int ends_with(void (*operation)(void), char *said, size_t size)
{
	int out[2], status;
	ssize_t n, used = 0;
	pid_t child;

	assert_int_equal(pipe(out), 0);
	child = fork();
	if (child == 0) {
		dup2(out[1], STDERR_FILENO);
		setenv("USERKVM_CHECK", "tlb,1", 1);
		signal(SIGABRT, SIG_DFL);
		setup(NULL); /* a VM of the child's own: its parent's mappings are not followed */
		map_pages(0);
		vm->mmu_vm->table_pages++;
		operation();
		_exit(0);
	}
	close(out[1]);
	while ((n = read(out[0], said + used, size - 1 - (size_t)used)) > 0)
		used += n;
	said[used] = 0;
	close(out[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

static void do_nothing(void)
{
}

static void do_fault(void)
{
	(void)take_fault(vcpu, GPA + 0x2000, 0);
}

static void do_slot(void)
{
	(void)!set_slot(1, 0, 0x100000, SIZE, mem);
}

static void do_invalidate(void)
{
	kvm_mmu_invalidate_hva_range((hva_t)mem, (hva_t)mem + 0x1000);
}

static void do_harvest(void)
{
	struct kvm_dirty_log log = {0};

	(void)!kvm_vm_ioctl_get_dirty_log(vm, &log);
}

static void each_operation_is_followed_by_a_check(void **state)
{
	static const struct {
		void (*operation)(void);
		const char *says;
	} row[] = {
		{do_fault, "mmu_check after a page fault: table_pages is wrong"},
		{do_slot, "mmu_check after a change of memslots: table_pages is wrong"},
		{do_invalidate, "mmu_check after an invalidation: table_pages is wrong"},
		{do_harvest, "mmu_check after a harvest of the dirty log: table_pages is wrong"},
	};
	char said[4096];
	size_t i;

	assert_int_equal(ends_with(do_nothing, said, sizeof(said)), 0);
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		int status = ends_with(row[i].operation, said, sizeof(said));

		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
		assert_non_null(strstr(said, row[i].says));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(each_operation_is_followed_by_a_check), /* first: the variable is read once */
		TEST(wrong_leaves_are_found),
		TEST(wrong_tables_are_found),
		TEST(wrong_counters_are_found),
		TEST(unnoticed_writes_to_logged_pages_are_found),
		TEST(writes_to_read_only_slots_are_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
