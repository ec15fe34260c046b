/* The I/O buses against a naive model. */
#include <stdlib.h>

#include "fixture.h"

struct probe {
	struct kvm_io_device dev;
	gpa_t addr;
	int len;
	bool refuses;
	int hits, goodbyes;
};

static struct probe *last_hit;

static int probe_write(struct kvm_vcpu *v, struct kvm_io_device *dev, gpa_t addr, int len,
		       const void *val)
{
	struct probe *p = container_of(dev, struct probe, dev);

	if (p->refuses)
		return -EOPNOTSUPP;
	p->hits++;
	last_hit = p;
	return 0;
}

static int probe_read(struct kvm_vcpu *v, struct kvm_io_device *dev, gpa_t addr, int len, void *val)
{
	memset(val, 0x5a, (size_t)len);
	return 0;
}

static void probe_bye(struct kvm_io_device *dev)
{
	container_of(dev, struct probe, dev)->goodbyes++;
}

static const struct kvm_io_device_ops probe_ops = { probe_read, probe_write, probe_bye };

static int setup(void **state)
{
	fix_start(FIX_NONE, 1);
	return 0;
}

static int add(struct probe *p, gpa_t addr, int len)
{
	int err;

	*p = (struct probe){ .dev = { &probe_ops }, .addr = addr, .len = len };
	pthread_mutex_lock(&vm->slots_lock);
	err = kvm_io_bus_register_dev(vm, KVM_MMIO_BUS, addr, len, &p->dev);
	pthread_mutex_unlock(&vm->slots_lock);
	return err;
}

static void drop(struct probe *p)
{
	pthread_mutex_lock(&vm->slots_lock);
	kvm_io_bus_unregister_dev(vm, KVM_MMIO_BUS, &p->dev);
	pthread_mutex_unlock(&vm->slots_lock);
}

static int poke(gpa_t addr, int len)
{
	uint64_t v = 0;

	return kvm_io_bus_write(cpu[0], KVM_MMIO_BUS, addr, len, &v);
}

static void access_must_lie_within_the_device(void **state)
{
	struct probe p;
	uint32_t v = 0;

	assert_int_equal(poke(0x1000, 4), -EOPNOTSUPP);
	assert_int_equal(add(&p, 0x1000, 8), 0);
	assert_int_equal(poke(0x1000, 4), 0);
	assert_int_equal(poke(0x1004, 4), 0);
	assert_int_equal(poke(0x1006, 4), -EOPNOTSUPP);
	assert_int_equal(poke(0xffe, 4), -EOPNOTSUPP);
	assert_int_equal(poke(0x1008, 1), -EOPNOTSUPP);
	assert_int_equal(kvm_io_bus_read(cpu[0], KVM_MMIO_BUS, 0x1000, 4, &v), 0);
	assert_int_equal(v, 0x5a5a5a5a);
	assert_int_equal(kvm_io_bus_write(cpu[0], KVM_PIO_BUS, 0x1000, 4, &v), -EOPNOTSUPP);
	drop(&p);
	assert_int_equal(p.goodbyes, 1);
	assert_int_equal(poke(0x1000, 4), -EOPNOTSUPP);
}

static void refusal_passes_the_access_on(void **state)
{
	struct probe a, b;

	assert_int_equal(add(&a, 0x1000, 4), 0);
	assert_int_equal(add(&b, 0x1000, 4), 0);
	a.refuses = true;
	assert_int_equal(poke(0x1000, 4), 0);
	assert_int_equal(b.hits, 1);
	a.refuses = false;
	b.refuses = true;
	assert_int_equal(poke(0x1000, 4), 0);
	assert_int_equal(a.hits, 1);
	drop(&a);
	drop(&b);
}

static void any_length_device_takes_its_start_address_only(void **state)
{
	struct probe p;

	assert_int_equal(add(&p, 0x1000, 0), 0);
	assert_int_equal(poke(0x1000, 8), 0);
	assert_int_equal(poke(0x1000, 0), 0);
	assert_int_equal(poke(0x1001, 1), -EOPNOTSUPP);
	drop(&p);
}

static void bus_takes_a_thousand_devices_and_no_more(void **state)
{
	struct probe *p = calloc(1001, sizeof(*p));

	for (int i = 0; i < 1000; i++)
		assert_int_equal(add(&p[i], (gpa_t)i * 16, 16), 0);
	assert_int_equal(add(&p[1000], 0x100000, 16), -ENOSPC);
	for (int i = 0; i < 1000; i++)
		drop(&p[i]);
	free(p);
}

#define NR 40

static void random_ranges_agree_with_a_naive_search(void **state)
{
	static struct probe p[NR];
	bool used[NR] = { false };

	srandom(42);
	for (int round = 0; round < 20000; round++) {
		int i = (int)(random() % NR);

		if (round % 50 == 0 && !used[i]) {
			assert_int_equal(add(&p[i], (gpa_t)(random() % 256), (int)(random() % 64)), 0);
			used[i] = true;
		} else if (round % 97 == 0 && used[i]) {
			drop(&p[i]);
			used[i] = false;
		} else {
			gpa_t addr = (gpa_t)(random() % 330);
			int len = 1 << random() % 4;
			bool expect = false;

			for (int k = 0; k < NR; k++)
				expect |= used[k] && (p[k].len ? addr >= p[k].addr &&
								 addr + (gpa_t)len <=
									 p[k].addr + (gpa_t)p[k].len
							       : addr == p[k].addr);
			last_hit = NULL;
			assert_int_equal(poke(addr, len), expect ? 0 : -EOPNOTSUPP);
			if (expect && last_hit->len)
				assert_true(addr >= last_hit->addr);
		}
	}
	for (int i = 0; i < NR; i++)
		if (used[i])
			drop(&p[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, fix_stop)
		T(access_must_lie_within_the_device),
		T(refusal_passes_the_access_on),
		T(any_length_device_takes_its_start_address_only),
		T(bus_takes_a_thousand_devices_and_no_more),
		T(random_ranges_agree_with_a_naive_search),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
