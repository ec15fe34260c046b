/*
 * The textbook client, linked with the library instead of opening /dev/kvm:
 *
 *	cc first.c $(pkg-config --cflags --libs userkvm) -o first && ./first
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <userkvm/userkvm.h>

int main(void)
{
	/* mov dx,3f8h; add al,bl; add al,'0'; out dx,al; mov al,10; out dx,al; hlt */
	static const unsigned char code[] = {0xba, 0xf8, 0x03, 0x00, 0xd8, 0x04, '0', 0xee, 0xb0, '\n', 0xee, 0xf4};
	int kvm = userkvm_open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = userkvm_ioctl(kvm, KVM_CREATE_VM, 0);
	unsigned char *mem = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region region = {
		.guest_phys_addr = 0x1000, .memory_size = 0x1000, .userspace_addr = (unsigned long)mem,
	};
	struct kvm_regs regs = {.rip = 0x1000, .rax = 2, .rbx = 2, .rflags = 2};
	struct kvm_sregs sregs;
	struct kvm_run *run;
	int vcpu;

	memcpy(mem, code, sizeof(code));
	userkvm_ioctl(vm, KVM_SET_USER_MEMORY_REGION, (unsigned long)&region);
	vcpu = userkvm_ioctl(vm, KVM_CREATE_VCPU, 0);
	run = userkvm_mmap(NULL, (size_t)userkvm_ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED,
			   vcpu, 0);
	userkvm_ioctl(vcpu, KVM_GET_SREGS, (unsigned long)&sregs);
	sregs.cs.base = sregs.cs.selector = 0;
	userkvm_ioctl(vcpu, KVM_SET_SREGS, (unsigned long)&sregs);
	userkvm_ioctl(vcpu, KVM_SET_REGS, (unsigned long)&regs);
	while (userkvm_ioctl(vcpu, KVM_RUN, 0) == 0 && run->exit_reason == KVM_EXIT_IO)
		putchar(*((char *)run + run->io.data_offset));
	return run->exit_reason == KVM_EXIT_HLT ? 0 : 1;
}
