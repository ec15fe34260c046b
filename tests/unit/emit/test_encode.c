/*
 * The byte writers against another decoder: what emit.c writes, Zydis must read
 * back as the operands that were asked for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include <Zydis/Zydis.h>

#include "emit/emit.h"

static uint8_t room[64];
static ZydisDecodedInstruction insn;
static ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

static struct emitter emitter(void)
{
	return (struct emitter){ .b = room, .size = sizeof(room), .run = 0x7f0000001000 };
}

static void decode(const struct emitter *e)
{
	ZydisDecoder z;

	assert_false(e->full);
	ZydisDecoderInit(&z, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&z, room, e->n, &insn, op)));
	assert_int_equal(insn.length, e->n);
}

static int number(ZydisRegister r)
{
	return r == ZYDIS_REGISTER_NONE ? HOST_NONE : ZydisRegisterGetId(r);
}

static void every_memory_operand_reads_back(void **state)
{
	static const int32_t disps[] = { 0, 1, -1, 127, 128, -128, -129, 0x12345678,
					 INT32_MAX, INT32_MIN };
	unsigned tried = 0;

	for (unsigned base = 0; base <= 16; base++)
		for (unsigned index = 0; index <= 16; index++)
			for (unsigned d = 0; d < ARRAY_SIZE(disps); d++)
				for (unsigned reg = 0; reg < 16; reg++) {
					struct emitter e = emitter();
					struct host_mem m = {
						.base = base == 16 ? HOST_NONE : (uint8_t)base,
						.index = index == 16 ? HOST_NONE : (uint8_t)index,
						.shift = index == 16 ? 0 : (uint8_t)(reg & 3),
						.disp = disps[d],
					};

					if (index == HOST_SP)
						continue;
					emit_op_mem(&e, reg & 1, 0x8b, reg, &m);
					decode(&e);
					assert_int_equal(insn.mnemonic, ZYDIS_MNEMONIC_MOV);
					assert_int_equal(op[0].size, reg & 1 ? 64 : 32);
					assert_int_equal(number(op[0].reg.value), reg);
					assert_int_equal(number(op[1].mem.base), m.base);
					assert_int_equal(number(op[1].mem.index), m.index);
					if (index != 16)
						assert_int_equal(op[1].mem.scale, 1u << m.shift);
					assert_int_equal(op[1].mem.disp.value, m.disp);
					tried++;
				}
	assert_int_equal(tried, 17 * 16 * 10 * 16);
}

static void a_rip_relative_operand_leads_to_its_address_past_an_immediate(void **state)
{
	for (unsigned after = 0; after <= 4; after += 4) {
		struct emitter e = emitter();
		struct host_mem m = { .absolute = true, .address = e.run - 0x7000000 };
		ZyanU64 to;

		emit_byte(&e, 0x48);
		emit_byte(&e, after ? 0x81 : 0x03);
		emit_modrm_mem(&e, after ? 0 : 3, &m, after);
		if (after)
			emit_u32(&e, 0x11223344);
		decode(&e);
		assert_int_equal(insn.mnemonic, ZYDIS_MNEMONIC_ADD);
		assert_true(ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&insn, &op[after ? 0 : 1],
								  e.run, &to)));
		assert_int_equal(to, m.address);
	}
}

static void registers_and_jumps_read_back(void **state)
{
	for (unsigned a = 0; a < 16; a++)
		for (unsigned b = 0; b < 16; b++) {
			struct emitter e = emitter();

			emit_op_reg(&e, true, 0x89, a, b);
			decode(&e);
			assert_int_equal(number(op[0].reg.value), a);
			assert_int_equal(number(op[1].reg.value), b);

			e = emitter();
			emit_op_imm(&e, b & 1, 4, a, -(int)b);
			decode(&e);
			assert_int_equal(insn.mnemonic, ZYDIS_MNEMONIC_AND);
			assert_int_equal(number(op[0].reg.value), a);
			assert_int_equal(op[1].imm.value.s, -(int)b);

			e = emitter();
			emit_patch(&e, emit_jcc(&e, b), 0x1000 + a);
			decode(&e);
			assert_int_equal(op[0].imm.value.s, 0x1000 + a - 6);
		}
}

static void a_full_buffer_is_never_written_past(void **state)
{
	struct emitter e = emitter();

	e.size = 3;
	memset(room, 0xcc, sizeof(room));
	emit_mov_imm32(&e, HOST_R11, 0);
	assert_true(e.full);
	assert_int_equal(room[3], 0xcc);
	emit_patch(&e, 1, 60);
	assert_int_equal(room[3], 0xcc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_memory_operand_reads_back),
		cmocka_unit_test(a_rip_relative_operand_leads_to_its_address_past_an_immediate),
		cmocka_unit_test(registers_and_jumps_read_back),
		cmocka_unit_test(a_full_buffer_is_never_written_past),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
