/*
 * What KVM's descriptors are to calls that are not KVM's; and a client that closes all descriptors but those that
 * it knows, as daemons do.
 */
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>

#include "client.h"
#include "guest_code.h"

GUEST_CODE(ticks_port, 16, "mov $1, %al; out %al, $0x20; out %al, $0x99; hlt");

#define LAST_FD 2048

static void assert_link(int fd, const char *name)
{
	char path[40], link[80] = "";

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	assert_true(readlink(path, link, sizeof(link) - 1) > 0);
	assert_string_equal(link, name);
}

static void assert_no_file(int fd)
{
	char c[8];

	assert_int_equal(read(fd, c, sizeof(c)), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(write(fd, c, sizeof(c)), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(lseek(fd, 5, SEEK_SET), 0);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(errno, EINVAL);
}

static void descriptors_are_what_linux_has(void **state)
{
	struct client c;
	struct stat st;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	assert_link(c.kvm, "/dev/kvm");
	assert_link(c.vm, "anon_inode:kvm-vm");
	assert_link(c.vcpu, "anon_inode:kvm-vcpu:0");
	assert_no_file(c.kvm);
	assert_no_file(c.vm);
	assert_no_file(c.vcpu);
	assert_ptr_equal(mmap(NULL, 4096, PROT_READ, MAP_SHARED, c.kvm, 0), MAP_FAILED);
	assert_int_equal(errno, ENODEV);
	assert_ptr_equal(mmap(NULL, 4096, PROT_READ, MAP_SHARED, c.vm, 0), MAP_FAILED);
	assert_int_equal(errno, ENODEV);
	assert_int_equal(fstat(c.vcpu, &st), 0);
	assert_int_equal(st.st_mode, 0600);
	assert_int_equal(st.st_size, 0);
	client_close(&c);
}

struct served {
	struct client c;
	int irqfd, ioeventfd;
};

static void open_served(struct served *s)
{
	struct kvm_irqfd irqfd = { .gsi = 4 };
	struct kvm_ioeventfd io = { .addr = 0x20, .len = 1, .flags = KVM_IOEVENTFD_FLAG_PIO };

	client_open_vm(&s->c, 1 << 20);
	assert_int_equal(ioctl(s->c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(&s->c);
	s->irqfd = eventfd(0, EFD_NONBLOCK);
	s->ioeventfd = eventfd(0, EFD_NONBLOCK);
	irqfd.fd = (uint32_t)s->irqfd;
	io.fd = s->ioeventfd;
	assert_int_equal(ioctl(s->c.vm, KVM_IRQFD, &irqfd), 0);
	assert_int_equal(ioctl(s->c.vm, KVM_IOEVENTFD, &io), 0);
	client_real_mode(&s->c, 0x1000, ticks_port, GUEST_CODE_SIZE(ticks_port));
}

/* Both eventfds do what they are for. */
static void assert_served(struct served *s)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_PIC_MASTER };
	uint64_t count = 1;

	assert_int_equal(ioctl(s->c.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(s->c.run->io.port, 0x99);
	assert_int_equal(read(s->ioeventfd, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 1);
	assert_int_equal(write(s->irqfd, &count, sizeof(count)), sizeof(count));
	for (int n = 0; n < 5000 && !(chip.chip.pic.irr & 0x10); n++) {
		nanosleep(&pause, NULL);
		assert_int_equal(ioctl(s->c.vm, KVM_GET_IRQCHIP, &chip), 0);
	}
	assert_int_equal(chip.chip.pic.irr & 0x10, 0x10);
	close(s->irqfd);
	close(s->ioeventfd);
	client_close(&s->c);
}

static bool is_known(const struct served *s, int fd)
{
	return fd < 3 || fd == s->c.kvm || fd == s->c.vm || fd == s->c.vcpu || fd == s->irqfd || fd == s->ioeventfd;
}

static void loop_over_all_numbers_leaves_the_librarys(void **state)
{
	struct served s;

	open_served(&s);
	for (int fd = 0; fd < LAST_FD; fd++)
		if (!is_known(&s, fd))
			close(fd);
	assert_served(&s);
}

static void ranges_over_all_numbers_leave_the_librarys(void **state)
{
	struct served s;
	int first = 0, fd;

	open_served(&s);
	for (fd = 0; fd < LAST_FD; fd++)
		if (is_known(&s, fd)) {
			if (first < fd)
				assert_int_equal(close_range((unsigned)first, (unsigned)fd - 1, 0), 0);
			first = fd + 1;
		}
	assert_int_equal(close_range((unsigned)first, ~0U, 0), 0);
	assert_served(&s);
}

/* Numbers that a client has never been given are not open to it. */
static void number_that_is_not_the_clients_is_no_descriptor(void **state)
{
	struct served s;
	int found = 0;

	open_served(&s);
	for (int fd = 512; fd < LAST_FD; fd++) {
		if (fcntl(fd, F_GETFD) < 0)
			continue;
		found++;
		assert_int_equal(close(fd), -1);
		assert_int_equal(errno, EBADF);
		assert_true(fcntl(fd, F_GETFD) >= 0);
	}
	assert_true(found > 0);
	assert_served(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(descriptors_are_what_linux_has),
		cmocka_unit_test(loop_over_all_numbers_leaves_the_librarys),
		cmocka_unit_test(ranges_over_all_numbers_leave_the_librarys),
		cmocka_unit_test(number_that_is_not_the_clients_is_no_descriptor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
