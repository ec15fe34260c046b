/*
 * Looking into a core file: the requests of the control socket, answered out of
 * a dead process's memory, so that every command works on both.
 *
 * Everything read from the file is checked: an address that is not in it, a
 * list that does not end, a core of another build, a file that is cut off.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/beacon.h"
#include "mmu/shadow.h"
#include "tools/see/core.h"

#define MAX_VMS 256

static struct {
	const uint8_t *file;
	size_t size;
	const Elf64_Phdr *ph;
	unsigned nr_ph;
	struct control_beacon beacon;
} core;

const void *core_at(uint64_t addr, size_t n)
{
	for (unsigned i = 0; i < core.nr_ph; i++) {
		const Elf64_Phdr *p = &core.ph[i];

		if (p->p_type == PT_LOAD && addr - p->p_vaddr < p->p_filesz &&
		    n <= p->p_filesz - (addr - p->p_vaddr))
			return core.file + p->p_offset + (addr - p->p_vaddr);
	}
	return NULL;
}

bool core_copy(uint64_t addr, void *to, size_t n)
{
	const void *from = core_at(addr, n);

	return from ? memcpy(to, from, n) != NULL : false;
}

static bool is_beacon(const struct control_beacon *b)
{
	return memcmp(b->magic, CONTROL_BEACON_MAGIC, sizeof(b->magic)) == 0 && b->vms;
}

static bool find_beacon(void)
{
	for (unsigned i = 0; i < core.nr_ph; i++) {
		const Elf64_Phdr *p = &core.ph[i];

		if (p->p_type != PT_LOAD || !(p->p_flags & PF_W))
			continue;
		for (uint64_t o = 0; o + sizeof(core.beacon) <= p->p_filesz; o += 8) {
			memcpy(&core.beacon, core.file + p->p_offset + o, sizeof(core.beacon));
			if (is_beacon(&core.beacon))
				return true;
		}
	}
	return false;
}

static bool check_elf(const char *path)
{
	const Elf64_Ehdr *eh = (const void *)core.file;

	if (core.size < sizeof(*eh) || memcmp(eh->e_ident, ELFMAG, SELFMAG) != 0 || eh->e_type != ET_CORE ||
	    eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_machine != EM_X86_64)
		return see_fail("%s: not a core file of an x86-64 process", path);
	if (eh->e_phentsize != sizeof(Elf64_Phdr) || eh->e_phoff > core.size || eh->e_phoff % 8 ||
	    eh->e_phnum > (core.size - eh->e_phoff) / sizeof(Elf64_Phdr))
		return see_fail("%s: cut off", path);
	core.ph = (const void *)(core.file + eh->e_phoff);
	core.nr_ph = eh->e_phnum;
	for (unsigned i = 0; i < core.nr_ph; i++)
		if (core.ph[i].p_offset > core.size || core.ph[i].p_filesz > core.size - core.ph[i].p_offset)
			return see_fail("%s: cut off", path);
	return true;
}

bool see_open_core(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	const struct control_beacon *b = &core.beacon;
	struct stat st;
	void *p;

	if (fd < 0 || fstat(fd, &st)) {
		if (fd >= 0)
			close(fd);
		return see_fail("%s: %s", path, strerror(errno));
	}
	p = st.st_size ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
	close(fd);
	if (p == MAP_FAILED)
		return see_fail("%s: not a core file", path);
	core.file = p;
	core.size = (size_t)st.st_size;
	if (!check_elf(path))
		return false;
	if (!find_beacon())
		return see_fail("%s: the process had no VM of userkvm, or its memory is not in the core", path);
	if (b->size_kvm != sizeof(struct kvm) || b->size_mmu_vm != sizeof(struct kvm_mmu_vm) ||
	    b->size_root != sizeof(struct kvm_mmu_page) || b->size_slots != sizeof(struct kvm_memslots) ||
	    b->size_slot != sizeof(struct kvm_memory_slot) || b->size_vcpu != sizeof(struct kvm_vcpu) ||
	    b->size_mmu_vcpu != sizeof(struct kvm_mmu_vcpu) || b->size_shadow_page != sizeof(struct shadow_page))
		return see_fail("%s: of another version of userkvm", path);
	return true;
}

pid_t see_core_pid(void)
{
	return core.file ? core.beacon.pid : 0;
}

/* The mapping as /proc/PID/maps would have told it, as far as a core knows. */
bool see_core_mapping(uint64_t addr, char *line, size_t size)
{
	for (unsigned i = 0; i < core.nr_ph; i++) {
		const Elf64_Phdr *p = &core.ph[i];

		if (p->p_type != PT_LOAD || addr - p->p_vaddr >= p->p_memsz)
			continue;
		snprintf(line, size, "%llx-%llx %c%c%c (in the core)", (ull)p->p_vaddr, (ull)(p->p_vaddr + p->p_memsz),
			 p->p_flags & PF_R ? 'r' : '-', p->p_flags & PF_W ? 'w' : '-', p->p_flags & PF_X ? 'x' : '-');
		return true;
	}
	return false;
}

/* --- the requests --- */

/* The VM of that serial, or the index-th; false: none. */
static bool get_vm(uint64_t serial, unsigned index, struct core_vm *v)
{
	uint64_t link = 0;
	unsigned i = 0;

	if (!core_copy((uintptr_t)core.beacon.vms, &link, sizeof(link)))
		return false;
	for (; link && i < MAX_VMS; i++) {
		if (!core_copy(link, &v->mmu, sizeof(v->mmu)) || !core_copy((uintptr_t)v->mmu.kvm, &v->kvm, sizeof(v->kvm)))
			return false;
		if (serial ? v->kvm.serial == serial : i == index)
			return true;
		link = (uintptr_t)v->mmu.next_vm;
	}
	return false;
}

static void vms(FILE *f)
{
	struct core_vm v;

	for (unsigned i = MAX_VMS; i-- > 0;) /* the list begins with the youngest */
		if (get_vm(0, i, &v))
			fprintf(f, "vm %llu %u 0 %d\n", (ull)v.kvm.serial, v.kvm.nr_vcpus, v.kvm.dead);
}

bool core_next_slot(const struct core_vm *v, int as, uint32_t *i, struct kvm_memory_slot *s)
{
	uint64_t where = (uintptr_t)v->kvm.memslots[as], p;
	struct kvm_memslots set;

	if (!core_copy(where, &set, sizeof(set)) || set.used_slots > CORE_MAX_SLOTS)
		return false;
	while (*i < set.used_slots) {
		uint64_t at = where + sizeof(set) + (*i)++ * sizeof(p);

		if (core_copy(at, &p, sizeof(p)) && core_copy(p, s, sizeof(*s)))
			return true;
	}
	return false;
}

static void slots(FILE *f, const struct core_vm *v)
{
	struct kvm_memory_slot s;

	for (int as = 0; as < KVM_ADDRESS_SPACE_NUM; as++)
		for (uint32_t i = 0; core_next_slot(v, as, &i, &s);)
			fprintf(f, "slot %d %u %llx %llx %llx %x\n", as, s.id, (ull)s.base_gfn << PAGE_SHIFT,
				(ull)s.npages << PAGE_SHIFT, (ull)s.userspace_addr, s.flags);
}

static bool get_root(const struct core_vm *v, unsigned i, struct kvm_mmu_page *root)
{
	return i < v->mmu.nr_roots && i < KVM_MMU_MAX_ROOTS &&
	       core_copy((uintptr_t)v->mmu.roots[i], root, sizeof(*root)) && root_level(root) >= 1 &&
	       root_level(root) <= 5;
}

static void root_line(FILE *f, const struct kvm_mmu_page *root)
{
	fprintf(f, "root %d %d %d %llx\n", root_as_id(root), root_level(root), root_has_ad(root),
		(ull)(uintptr_t)root->spt);
}

/* A line for each leaf: whoever reads them can put neighbours together. */
static void leaves(FILE *f, uint64_t table, int level, gfn_t base, size_t *budget)
{
	const uint64_t *e = *budget ? core_at(table, PAGE_SIZE) : NULL;

	*budget -= e != NULL;
	for (unsigned i = 0; e && i < SPTE_ENTRIES; i++) {
		gfn_t gfn = base + i * level_pages(level);
		ull start = (ull)gfn << PAGE_SHIFT, end = start + (level_pages(level) << PAGE_SHIFT);

		if (spte_is_mmio(e[i]))
			fprintf(f, "mmio %llx %llx %llx\n", start, end, (ull)mmio_spte_gen(e[i]));
		else if (spte_is_table(e[i], level))
			leaves(f, e[i] & EPT_ADDR_MASK, level - 1, gfn, budget);
		else if (spte_is_present(e[i]))
			fprintf(f, "leaf %llx %llx %d %llx\n", start, end, level, (ull)e[i]);
	}
}

static void ept(FILE *f, const struct core_vm *v)
{
	size_t budget = core.size / PAGE_SIZE; /* each table once: tables that go round do not go on for ever */
	struct kvm_mmu_page root;

	for (unsigned i = 0; get_root(v, i, &root); i++) {
		root_line(f, &root);
		leaves(f, (uintptr_t)root.spt, root_level(&root), 0, &budget);
	}
	if (!budget)
		fputs("truncated\n", f);
}

/* The deepest root of the address space: it reaches all that the others do. */
static bool find_root(const struct core_vm *v, int as, struct kvm_mmu_page *root)
{
	struct kvm_mmu_page each;
	bool found = false;

	for (unsigned i = 0; get_root(v, i, &each); i++) {
		if (root_as_id(&each) != as || (found && root_level(&each) <= root_level(root)))
			continue;
		found = true;
		*root = each;
	}
	return found;
}

void core_walk(FILE *f, const struct core_vm *v, int as, gpa_t gpa)
{
	struct kvm_mmu_page root;
	uint64_t table;

	if (!find_root(v, as, &root))
		return;
	root_line(f, &root);
	if (gpa >> PAGE_SHIFT >= level_pages(root_level(&root) + 1))
		return;
	table = (uintptr_t)root.spt;
	for (int level = root_level(&root); level; level--) {
		unsigned n = spte_index(gpa >> PAGE_SHIFT, level);
		uint64_t e;

		if (!core_copy(table + n * 8ull, &e, sizeof(e)))
			return;
		fprintf(f, "step %d %u %llx %llx\n", level, n, (ull)table, (ull)e);
		if (!spte_is_table(e, level))
			return;
		table = e & EPT_ADDR_MASK;
	}
}

char *see_ask_core(const char *request)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	char name[16] = "";
	ull serial = 0, gpa = 0;
	struct core_vm v;
	int as = 0; /* or the vCPU */

	if (!f)
		return NULL;
	sscanf(request, "%15s %llu %d %llx", name, &serial, &as, &gpa);
	if (strcmp(name, "vms") == 0) {
		vms(f);
	} else if (strcmp(name, "guest") == 0 || strcmp(name, "guest2") == 0) {
		fputs("error a core file does not tell how the guest pages; give a guest-physical address\n", f);
	} else if (!get_vm(serial, 0, &v)) {
		fprintf(f, "error there was no VM %llu\n", serial);
	} else if (strcmp(name, "slots") == 0) {
		slots(f, &v);
	} else if (strcmp(name, "ept") == 0) {
		ept(f, &v);
	} else if (strcmp(name, "walk") == 0) {
		core_walk(f, &v, as, gpa);
	} else if (strcmp(name, "walk2") == 0) {
		core_walk2(f, &v, (uint32_t)as, gpa);
	} else if (strcmp(name, "ept2") == 0) {
		core_ept2(f, &v, (uint32_t)as);
	}
	fclose(f);
	return text;
}
