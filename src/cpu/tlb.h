/*
 * Address translation: EPT, the two-dimensional walk, and the software TLB.
 * tlb.c's header has the picture and the invariants.
 *
 * Locks: none; all of it belongs to the processor's thread.
 */
#ifndef USERKVM_CPU_TLB_H
#define USERKVM_CPU_TLB_H

#include "isa/isa.h"
#include "lib/types.h"
#include "sdm/paging.h"

struct vmx_cpu;

/* --- walk.c, tlb.c, tlb_select.c --- */
/* Mode, CPL, AC, paging controls changed: choose cs->tlb again, recompute code_mode and stack_mode. */
void cpu_mode_changed(struct vmx_cpu *cpu);
/* TLB invalidations of the instructions: see tlb.c. */
void cpu_tlb_flush_all(struct vmx_cpu *cpu);			/* CR0.PG, CR4.PAE/PGE/PSE/… changes */
void cpu_tlb_flush_cr3(struct vmx_cpu *cpu, uint64_t new_cr3);	/* MOV CR3, bit 63 included */
void cpu_tlb_invlpg(struct vmx_cpu *cpu, gva_t gva);
void cpu_tlb_invpcid(struct vmx_cpu *cpu, unsigned type, uint16_t pcid, gva_t gva);
/* PAE PDPTEs from CR3 (through EPT), checked: false leaves everything unchanged (#GP). */
bool cpu_load_pdptrs(struct vmx_cpu *cpu, uint64_t cr3);

/* --- ept.c --- */
enum cpu_access { CPU_READ = 1, CPU_WRITE = 2, CPU_EXEC = 4 }; /* EPT bit order */
struct cpu_ept_result {
	hpa_t host;	/* of the 4 KiB page */
	uint32_t rights; /* enum cpu_access; CPU_WRITE only if no D bit has to be set first */
	bool write_back, ignore_pat; /* memory type of the leaf */
};
#define CPU_NO_GLA (~0ULL)
/*
 * Guest-physical to host; VM exit on violation and misconfiguration. gla: the
 * linear address on whose account, or CPU_NO_GLA; final: gpa is its translation,
 * not that of a paging-structure entry. Sets accessed and dirty flags.
 */
struct cpu_ept_result cpu_ept_translate(struct vmx_cpu *cpu, gpa_t gpa, uint32_t access, gva_t gla, bool final);
/*
 * The same by what is cached of the tables, for an access that changes no flag. Nothing is walked, raised or changed:
 * false, it is not known.
 */
bool cpu_ept_known(const struct vmx_cpu *cpu, gpa_t gpa, uint32_t access, struct cpu_ept_result *out);
/* --- single entries; levels as in the SDM's tables, 1 is the PTE's --- */
/* Set bits in an entry that still is `old`; false: it has changed. */
static inline bool cpu_entry_or(uint64_t *p, uint64_t old, uint64_t bits)
{
	return __atomic_compare_exchange_n(p, &old, old | bits, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/* --- walk.c --- */
/* Which rights apply: the sub-tables of a TLB context. */
enum cpu_priv { PRIV_SUPER_SMAP, PRIV_SUPER, PRIV_USER, NR_PRIVS };
struct cpu_walk_result {
	hpa_t host;	/* of the 4 KiB page */
	gpa_t gpa;	/* of the 4 KiB page */
	uint32_t rights; /* for `priv`; CPU_WRITE only if every D bit is set */
	uint8_t page_shift; /* of the guest's mapping */
	bool global;
	bool write_back; /* memory type, CR0.CD aside */
	uint16_t key; /* BIT(protection key) of a user-mode address, else 0 */
};
/* Linear to host; #PF or VM exit when the access is not allowed. Sets A and D. */
void cpu_walk(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv,
	      struct cpu_walk_result *out);

/*
 * cpu_walk() for data where it sets no flag, by tables of four levels and what is known of guest-physical addresses.
 * Raises nothing; false: cpu_walk() has to be asked.
 */
bool cpu_walk_known(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv,
		    struct cpu_walk_result *out);

/* --- tlb.c --- */
#define TLB_NR_CONTEXTS 8
#define PDE_CACHE_ENTRIES 64
#define EPT_CACHE_ENTRIES 2048
struct tlb_side {
	uint8_t page_shift;
	bool global;
	bool listed;
	bool write_back;
	uint16_t key; /* as struct cpu_walk_result's */
};
struct tlb_sub {
	struct isa_tlb_entry e[ISA_TLB_ENTRIES];
	struct tlb_side side[ISA_TLB_ENTRIES];
	uint16_t filled[ISA_TLB_ENTRIES];
	uint32_t nr_filled;
	uint32_t code_gen; /* moves when a translation for execution may have been dropped, */
	uint32_t cr3_gen;  /* or this, where guest-physical mappings and global pages stay */
	uint32_t apic_rights; /* enum cpu_access, to apic_page */
	gva_t apic_page;      /* is mapped to the APIC-access page; APIC_NO_MAPPING: none known */
};
/*
 * What a walk has learned of 2 MiB of linear addresses: the PDE that refers to
 * their page table, or the entry of the larger page that maps them.
 */
struct pde_cache_entry {
	uint64_t tag; /* (gva >> 21) + 1; 0: empty */
	uint64_t e;
	uint64_t rights; /* as for cpu_page_rights() (pte.h): of the larger page, or of all above its PTEs */
	int level; /* of the table that e refers to, or of the larger page: 1, or 2 and 3 */
};
struct tlb_context {
	struct cpu_state *cs; /* (c) whose stack slot goes with whatever is dropped here */
	bool used;
	bool emptied; /* its entries have been made ones of no page */
	uint16_t vpid, pcid;
	uint64_t eptp, mode, last_use;
	hpa_t apic_access; /* cpu->apic.access under which it was filled */
	uint32_t keys; /* protection keys of user-mode addresses that have entries: BIT(key) */
	uint64_t large[8]; /* a set, by hash, of larger pages that have fragments here (tlb.c) */
	struct tlb_sub sub[NR_PRIVS];
	struct pde_cache_entry pde[PDE_CACHE_ENTRIES];
};
/* A guest-physical mapping of the EPTP in use. */
struct ept_cache_entry {
	uint64_t tag;  /* gpa of the page | generation; 0: empty */
	uint64_t host; /* of the page | the rest of struct cpu_ept_result (ept.c) */
};
struct cpu_tlb {
	struct tlb_context *cur;
	struct tlb_checker *check; /* USERKVM_CHECK=tlb (tlb_check.c), or NULL */
	struct ghost_cpu *ghost; /* USERKVM_CHECK=guesttlb (ghost.c), or NULL */
	struct l1vpid *l1vpid;	 /* USERKVM_CHECK=l1vpid (l1vpid.c), or NULL */
	struct ghost_walk *path; /* where walks note their paths, all of them: a sanitizer's; or NULL */
	uint64_t clock;
	uint64_t ept_gen; /* 1 .. PAGE_SIZE - 1 */
	uint32_t path_gen; /* moves with EPT violations, each of which drops a guest-physical mapping */
	struct tlb_context ctx[TLB_NR_CONTEXTS];
	struct ept_cache_entry ept[EPT_CACHE_ENTRIES];
	struct isa_tlb_entry empty[ISA_TLB_ENTRIES]; /* never hits */
};
must_check int cpu_tlb_create(struct vmx_cpu *cpu); /* -ENOMEM */
/* Host pointer of the byte at gva for an access that is now allowed; fills the TLB. */
uint8_t *cpu_translate(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv);
/*
 * For emitted code: its probe of `slot` has missed this page. True: the entry allows the access now. False: there
 * is more to it than a walk that sets no flag. Raises nothing; the guest's tables are read, and may have vanished.
 */
bool cpu_tlb_refill(struct vmx_cpu *cpu, gva_t page, const struct isa_tlb_entry *slot, uint32_t access);
void cpu_tlb_entry_flush(struct vmx_cpu *cpu); /* VPID 0: entries end at entry and exit */
void cpu_tlb_drop_ept(struct vmx_cpu *cpu, uint64_t eptp, bool all);
/* Another EPTP: ept[] knows of one only. */
void cpu_tlb_new_eptp(struct vmx_cpu *cpu, uint64_t eptp);
/* A page fault, and an EPT violation (gla: CPU_NO_GLA unless gpa is its translation). */
void cpu_tlb_page_fault(struct vmx_cpu *cpu, gva_t gva);
void cpu_tlb_ept_violation(struct vmx_cpu *cpu, gpa_t gpa, gva_t gla);
void cpu_tlb_drop_vpid(struct vmx_cpu *cpu, unsigned type, uint16_t vpid, gva_t gla);
/* A page became code (0: any page may have): its write tags go. */
void cpu_tlb_drop_write(struct vmx_cpu *cpu, hpa_t page);
/* Data accesses are to be looked at again: all read and write tags go. */
void cpu_tlb_drop_data(struct vmx_cpu *cpu);
/* PKRU has changed in these bits: read and write tags of addresses with their keys go. */
void cpu_tlb_pkru_changed(struct vmx_cpu *cpu, uint32_t changed);
/* What the sanitizer of translations asks for (ghost.h): pages, and write tags of frames. */
struct ghost_drop;
void cpu_tlb_drop_asked(struct vmx_cpu *cpu, const struct ghost_drop *d, unsigned nr);
/* Memory type WB (CR0.CD aside) of the page of a translation that was just made. */
bool cpu_tlb_write_back(const struct vmx_cpu *cpu, gva_t gva, enum cpu_priv priv);
/* Every entry is reachable, listed, and aligned; for tests. */
bool cpu_tlb_check(const struct cpu_tlb *t);
enum cpu_priv cpu_data_priv(const struct vmx_cpu *cpu, enum isa_access how);
/* The PCID that a value of CR3 selects. */
static inline uint16_t cpu_pcid(const struct cpu_state *cs, uint64_t cr3)
{
	return cs->cr4 & X86_CR4_PCIDE ? (uint16_t)(cr3 & CR3_PCID_MASK) : 0;
}
/* The registers that decide how tables are read: CR0, CR4, EFER. */
uint64_t cpu_paging_mode(const struct cpu_state *cs);

#endif
