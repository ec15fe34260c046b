/*
 * The local APIC's registers and fields by their SDM names (SDM vol. 3,
 * "Local APIC", table "Local APIC Register Address Map").
 */
#ifndef USERKVM_IRQ_APICDEF_H
#define USERKVM_IRQ_APICDEF_H

/* F(name, offset, access): x xAPIC only, b both; r readable, w writable, each else '-'. */
#define APIC_REGISTERS(F)               \
	F(APIC_ID, 0x020, 'b', "rw")    \
	F(APIC_LVR, 0x030, 'b', "r-")   \
	F(APIC_TASKPRI, 0x080, 'b', "rw") \
	F(APIC_ARBPRI, 0x090, 'x', "r-") \
	F(APIC_PROCPRI, 0x0a0, 'b', "r-") \
	F(APIC_EOI, 0x0b0, 'b', "-w")   \
	F(APIC_LDR, 0x0d0, 'b', "rw")   \
	F(APIC_DFR, 0x0e0, 'x', "rw")   \
	F(APIC_SPIV, 0x0f0, 'b', "rw")  \
	F(APIC_ISR, 0x100, 'b', "r-")   \
	F(APIC_TMR, 0x180, 'b', "r-")   \
	F(APIC_IRR, 0x200, 'b', "r-")   \
	F(APIC_ESR, 0x280, 'b', "rw")   \
	F(APIC_LVTCMCI, 0x2f0, 'b', "rw") \
	F(APIC_ICR, 0x300, 'b', "rw")   \
	F(APIC_ICR2, 0x310, 'x', "rw")  \
	F(APIC_LVTT, 0x320, 'b', "rw")  \
	F(APIC_LVTTHMR, 0x330, 'b', "rw") \
	F(APIC_LVTPC, 0x340, 'b', "rw") \
	F(APIC_LVT0, 0x350, 'b', "rw")  \
	F(APIC_LVT1, 0x360, 'b', "rw")  \
	F(APIC_LVTERR, 0x370, 'b', "rw") \
	F(APIC_TMICT, 0x380, 'b', "rw") \
	F(APIC_TMCCT, 0x390, 'b', "r-") \
	F(APIC_TDCR, 0x3e0, 'b', "rw")  \
	F(APIC_SELF_IPI, 0x3f0, '2', "-w")

enum apic_register {
#define APIC_ENUM(name, offset, mode, access) name = offset,
	APIC_REGISTERS(APIC_ENUM)
#undef APIC_ENUM
};

/* Version 14h, as KVM offers; bits 23:16 are the last LVT entry's number. */
#define APIC_VERSION_VALUE 0x14U
#define APIC_NR_LVT 6U /* and LVTCMCI, where machine checks have that interrupt */
#define APIC_LVR_DIRECTED_EOI (1U << 24)

#define APIC_DEFAULT_PHYS_BASE 0xfee00000ULL
#define APICBASE_BSP (1ULL << 8)
#define APICBASE_X2APIC_ENABLE (1ULL << 10)
#define APICBASE_ENABLE (1ULL << 11)

#define APIC_SPIV_APIC_ENABLED (1U << 8)
#define APIC_SPIV_FOCUS_DISABLED (1U << 9)
#define APIC_SPIV_DIRECTED_EOI (1U << 12)

#define APIC_DFR_FLAT 0xffffffffU
#define APIC_DFR_MODEL 0xf0000000U
#define APIC_DFR_CLUSTER 0x0fffffffU

/* Fields shared by the ICR, the LVTs and redirection entries. */
#define APIC_VECTOR_MASK 0xffU
#define APIC_MODE_MASK 0x700U
#define APIC_DM_FIXED 0x000U
#define APIC_DM_LOWEST 0x100U
#define APIC_DM_SMI 0x200U
#define APIC_DM_REMRD 0x300U
#define APIC_DM_NMI 0x400U
#define APIC_DM_INIT 0x500U
#define APIC_DM_STARTUP 0x600U
#define APIC_DM_EXTINT 0x700U
#define APIC_DEST_LOGICAL 0x800U
#define APIC_ICR_BUSY (1U << 12)
#define APIC_INT_ASSERT (1U << 14)
#define APIC_INT_LEVELTRIG (1U << 15)
#define APIC_SHORT_MASK 0xc0000U
#define APIC_DEST_NOSHORT 0x00000U
#define APIC_DEST_SELF 0x40000U
#define APIC_DEST_ALLINC 0x80000U
#define APIC_DEST_ALLBUT 0xc0000U

#define APIC_LVT_LEVEL_TRIGGER (1U << 15)
#define APIC_LVT_MASKED (1U << 16)
#define APIC_LVT_TIMER_MODE_MASK (3U << 17)
#define APIC_LVT_TIMER_ONESHOT (0U << 17)
#define APIC_LVT_TIMER_PERIODIC (1U << 17)
#define APIC_LVT_TIMER_TSCDEADLINE (2U << 17)

/* What software can set in each LVT. */
#define APIC_LVTT_MASK (APIC_VECTOR_MASK | APIC_LVT_MASKED)
#define APIC_LVT_MODE_MASK (APIC_LVTT_MASK | APIC_MODE_MASK)
#define APIC_LVT_LINT_MASK (APIC_LVT_MODE_MASK | (1U << 13) | (1U << 14) | APIC_LVT_LEVEL_TRIGGER)

/* Error status (SDM "Error Handling"). */
#define APIC_ESR_SEND_ILLEGAL (1U << 5)
#define APIC_ESR_RECV_ILLEGAL (1U << 6)
#define APIC_ESR_ILLEGAL_REGISTER (1U << 7)

#define XAPIC_BROADCAST 0xffU
#define X2APIC_BROADCAST 0xffffffffU

#endif
