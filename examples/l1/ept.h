/*
 * EPT tables for a guest whose physical addresses are the machine's own: 1 GiB by 2 MiB pages, the
 * fifth of them by 4 KiB pages, so that single pages can be something else. SDM Vol. 3, "The
 * Extended Page Table Mechanism".
 */
#ifndef EXAMPLES_L1_EPT_H
#define EXAMPLES_L1_EPT_H

#include "vmx.h"

#define EPT_READ 1u
#define EPT_WRITE 2u
#define EPT_EXEC 4u
#define EPT_ALL 7u
#define EPT_WRITE_BACK (6u << 3)
#define EPT_LARGE (1u << 7)
#define EPT_DIRTY (1u << 9)
#define EPTP_AD (1u << 6)

#define SMALL_PAGES 0x00800000UL /* the fifth 2 MiB */

uint64_t ept4[512] PAGE, ept3[512] PAGE, ept2[512] PAGE, ept1[512] PAGE;

/* The entry of one of the small pages. */
static uint64_t *small_page(uint64_t address)
{
	return &ept1[address >> 12 & 511];
}

/* The tables; flags of the EPT pointer. */
static uint64_t identity_ept(uint64_t flags)
{
	ept4[0] = (uint64_t)ept3 | EPT_ALL;
	ept3[0] = (uint64_t)ept2 | EPT_ALL;
	for (uint64_t i = 0; i < 512; i++) {
		ept2[i] = i << 21 | EPT_ALL | EPT_WRITE_BACK | EPT_LARGE;
		ept1[i] = (SMALL_PAGES + (i << 12)) | EPT_ALL | EPT_WRITE_BACK;
	}
	ept2[SMALL_PAGES >> 21] = (uint64_t)ept1 | EPT_ALL;
	return (uint64_t)ept4 | 3u << 3 | 6 | flags;
}

static void invept(uint64_t eptp)
{
	struct {
		uint64_t eptp, zero;
	} operand = {eptp, 0};

	__asm__ volatile("invept %0, %1" : : "m"(operand), "r"(1UL) : "cc", "memory");
}

#endif
