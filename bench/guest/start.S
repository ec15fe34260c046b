/*
 * A bare guest: PVH entry (32-bit, flat, paging off) to 64-bit mode with 1 GiB
 * of identity mapping in 2 MiB pages, user-accessible, and a SYSCALL entry that
 * only returns.
 */
	.section .note.pvh, "a"
	.balign 4
	.long 4, 4, 18			/* namesz, descsz, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long entry

	.code32
	.section .text.entry, "ax"
	.globl entry
entry:
	cli
	mov $stack_top, %esp
	/* PML4 -> PDPT -> PD of 512 large pages */
	mov $pdpt + 7, %eax
	mov %eax, pml4
	mov $pd + 7, %eax
	mov %eax, pdpt
	mov $pd, %edi
	mov $0x87, %eax			/* P RW US PS */
	mov $512, %ecx
1:	mov %eax, (%edi)
	add $0x200000, %eax
	add $8, %edi
	dec %ecx
	jnz 1b
	mov $pml4, %eax
	mov %eax, %cr3
	mov $0x620, %eax		/* PAE OSFXSR OSXMMEXCPT */
	mov %eax, %cr4
	mov $0xc0000080, %ecx
	xor %edx, %edx
	mov $0x101, %eax		/* LME SCE */
	wrmsr
	mov %cr0, %eax
	or $0x80000033, %eax		/* PG NE ET MP PE */
	and $~0xc, %eax			/* no TS, EM */
	mov %eax, %cr0
	lgdt gdt_pointer
	ljmp $0x08, $long_mode

	.code64
long_mode:
	mov $0x10, %eax
	mov %eax, %ss
	mov %eax, %ds
	mov %eax, %es
	mov $0xc0000081, %ecx		/* STAR: kernel 08h, user base 10h (SS 18h, CS 20h) */
	xor %eax, %eax
	mov $0x00100008, %edx
	wrmsr
	mov $0xc0000082, %ecx		/* LSTAR */
	lea syscall_entry(%rip), %rax
	mov %rax, %rdx
	shr $32, %rdx
	wrmsr
	mov $0xc0000084, %ecx		/* SYSCALL_MASK */
	mov $0x200, %eax
	xor %edx, %edx
	wrmsr
	mov $stack_top - 8, %rsp	/* as after a call */
	jmp guest_main

syscall_entry:
	sysretq

/* void enter_user(void (*fn)(void)): ring 3 for good */
	.globl enter_user
enter_user:
	mov %rdi, %rcx
	mov $0x3002, %r11d		/* IOPL 3: ring 3 may print */
	mov $stack_top - 8, %rsp
	sysretq

	.section .data
	.balign 16
gdt:	.quad 0
	.quad 0x00af9b000000ffff	/* 08 kernel code */
	.quad 0x00cf93000000ffff	/* 10 kernel data */
	.quad 0x00cff3000000ffff	/* 18 user data */
	.quad 0x00affb000000ffff	/* 20 user code */
	.globl tss_descriptor
tss_descriptor:				/* 28 */
	.quad 0, 0
gdt_pointer:
	.word gdt_pointer - gdt - 1
	.long gdt

	.section .bss
	.balign 4096
	.globl pml4, pdpt
pml4:	.skip 4096
pdpt:	.skip 4096
pd:	.skip 4096
	.skip 16384
	.globl stack_top
stack_top:
