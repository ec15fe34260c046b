/*
 * A fault that waits for its page while the world changes: each of the three things that
 * is_page_fault_stale() looks at, alone. A stale fault leaves no entry behind, and the next one maps what is
 * there then.
 */
#include "use.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define GPA (16 * MIB)
#define OTHER_GPA (32 * MIB)
#define SIZE (1 * MIB) /* no large page: one leaf is one page */
#define SLOT 3

static char *mem;
static int uffd;

/* --- a page that is waited for --- */

/* What happens to the VM before the page is there. */
static void (*meanwhile)(void);

static void *bring_page(void *arg)
{
	static char page[PAGE_SIZE] __attribute__((aligned(4096))) = "brought";
	struct pollfd p = { .fd = uffd, .events = POLLIN };
	struct uffdio_copy copy = { .src = (uintptr_t)page, .len = PAGE_SIZE };
	struct uffd_msg m;

	assert_int_equal(poll(&p, 1, 60000), 1);
	assert_int_equal(read(uffd, &m, sizeof(m)), sizeof(m));
	meanwhile();
	copy.dst = ALIGN_DOWN(m.arg.pagefault.address, PAGE_SIZE);
	assert_int_equal(ioctl(uffd, UFFDIO_COPY, &copy), 0);
	return NULL;
}

static bool watch_memory(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register r = { .range = { (uintptr_t)mem, SIZE }, .mode = UFFDIO_REGISTER_MODE_MISSING };

	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &r)) {
		print_message("no userfaultfd here\n");
		return false;
	}
	return true;
}

static uint64_t entry(gpa_t gpa)
{
	int level;

	return ept_entry(gpa, &level);
}

/* The first access to GPA waits until `change` has happened. */
static void fault_while(void (*change)(void))
{
	pthread_t t;

	meanwhile = change;
	assert_int_equal(pthread_create(&t, NULL, bring_page, NULL), 0);
	touch(GPA, PFERR_WRITE_MASK);
	pthread_join(t, NULL);
	close(uffd);
}

static void open_slot(void)
{
	mem = get_memory(SIZE, 2 * MIB, PROT_READ | PROT_WRITE);
	assert_int_equal(set_slot(SLOT, 0, GPA, SIZE, mem), 0);
	touch(GPA + SIZE - PAGE_SIZE, 0); /* the tables are there: only the leaf is looked at */
	assert_int_equal(entry(GPA), 0);
}

/* --- the three --- */

static void fault_between_begin_and_end_maps_nothing(void **state)
{
	struct kvm_mmu_invalidation inv;

	open_slot();
	kvm_mmu_invalidate_begin(&inv, (uintptr_t)mem, (uintptr_t)mem + SIZE);
	touch(GPA, PFERR_WRITE_MASK);
	assert_int_equal(entry(GPA), 0);
	kvm_mmu_invalidate_end(&inv);
	touch(GPA, PFERR_WRITE_MASK);
	assert_true(spte_permits(entry(GPA), true, false));
}

static void invalidate(void)
{
	kvm_mmu_invalidate_hva_range((uintptr_t)mem, (uintptr_t)mem + PAGE_SIZE);
}

static void fault_that_an_invalidation_overtakes_maps_nothing(void **state)
{
	open_slot();
	if (!watch_memory())
		skip();
	fault_while(invalidate);
	assert_int_equal(entry(GPA), 0);
	touch(GPA, PFERR_WRITE_MASK);
	assert_true(spte_permits(entry(GPA), true, false));
}

static void delete_slot(void)
{
	assert_int_equal(set_slot(SLOT, 0, GPA, 0, mem), 0);
}

static void fault_whose_slot_is_deleted_maps_nothing(void **state)
{
	open_slot();
	if (!watch_memory())
		skip();
	fault_while(delete_slot);
	assert_int_equal(entry(GPA), 0);
	assert_int_equal(take_fault(vcpu, GPA, PFERR_WRITE_MASK), RET_PF_EMULATE);
}

static void move_slot(void)
{
	assert_int_equal(set_slot(SLOT, 0, OTHER_GPA, SIZE, mem), 0);
}

static void fault_whose_slot_moves_maps_nothing_at_the_old_place(void **state)
{
	open_slot();
	if (!watch_memory())
		skip();
	fault_while(move_slot);
	assert_int_equal(entry(GPA), 0);
	touch(OTHER_GPA, 0);
	assert_int_equal(entry(OTHER_GPA) & EPT_ADDR_MASK, (uintptr_t)mem);
	assert_string_equal(mem, "brought");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(fault_between_begin_and_end_maps_nothing),
		TEST(fault_that_an_invalidation_overtakes_maps_nothing),
		TEST(fault_whose_slot_is_deleted_maps_nothing),
		TEST(fault_whose_slot_moves_maps_nothing_at_the_old_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
