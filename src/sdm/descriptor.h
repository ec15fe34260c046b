/*
 * Segment and system descriptors of 8 bytes (SDM Vol. 3, "Segment Descriptors",
 * "System Descriptor Types").
 */
#ifndef USERKVM_SDM_DESCRIPTOR_H
#define USERKVM_SDM_DESCRIPTOR_H

#include "sdm/vmx.h"

/* Types with S clear ("System-Segment and Gate-Descriptor Types"). */
enum sdm_system_type {
	SYS_TSS16 = 1,
	SYS_LDT = 2,
	SYS_TSS16_BUSY = 3,
	SYS_CALL_GATE16 = 4,
	SYS_TASK_GATE = 5,
	SYS_INTR_GATE16 = 6,
	SYS_TRAP_GATE16 = 7,
	SYS_TSS32 = 9,	     /* IA-32e: 64-bit TSS */
	SYS_TSS32_BUSY = 11,
	SYS_CALL_GATE32 = 12, /* IA-32e: 64-bit call gate */
	SYS_INTR_GATE32 = 14,
	SYS_TRAP_GATE32 = 15,
};

#define SYS_TSS_BUSY 2U /* in the type of a TSS's descriptor */

/* The least limit of a TSS of this type (SDM Vol. 3, "TSS Descriptor"; "16-Bit Task-State Segment (TSS)"). */
static inline uint32_t sdm_tss_least_limit(unsigned type)
{
	return type & 8 ? 0x67 : 0x2b;
}

static inline uint32_t sdm_descriptor_base(uint64_t d)
{
	return (uint32_t)(((d >> 16) & 0xffffff) | ((d >> 32) & 0xff000000));
}

/* Access rights as the VMCS has them (VMX_AR_*). */
static inline uint32_t sdm_descriptor_rights(uint64_t d)
{
	return (uint32_t)((d >> 40) & 0xf0ff);
}

/* The last offset, in bytes. */
static inline uint32_t sdm_descriptor_limit(uint64_t d)
{
	uint32_t limit = (uint32_t)((d & 0xffff) | ((d >> 32) & 0xf0000));

	return sdm_descriptor_rights(d) & VMX_AR_G ? limit << 12 | 0xfff : limit;
}

#endif
