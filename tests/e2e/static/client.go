// A client of /dev/kvm in Go, without cgo: the runtime makes its system calls,
// its threads and its signal handlers by itself. Two vCPUs on goroutines, a
// dirty log, an ioeventfd, kicks by signals, while the collector works.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const (
	getAPIVersion   = 0xae00
	createVM        = 0xae01
	createVCPU      = 0xae41
	run             = 0xae80
	getDirtyLog     = 0x4010ae42
	setMemoryRegion = 0x4020ae46
	ioeventfd       = 0x4040ae79
	setRegs         = 0x4090ae82
	getSregs        = 0x8138ae83
	setSregs        = 0x4138ae84

	logDirtyPages = 1
	pio           = 2
	exitIO        = 2

	memorySize = 1 << 20
	added      = 1000
	kicks      = 200
)

// As in client.c.
var code = []byte{0xc6, 0x06, 0x00, 0x50, 1, 0xc6, 0x06, 0x00, 0x70, 1, 0xe6, 0x20, 0xb9, 0xe8, 0x03,
	0xf0, 0xff, 0x06, 0x00, 0x60, 0xe2, 0xf9, 0xe6, 0x10, 0xeb, 0xfe}

type region struct {
	slot, flags             uint32
	guestPhys, size, memory uint64
}

type dirtyLog struct {
	slot, padding uint32
	bitmap        unsafe.Pointer
}

type ioEvent struct {
	datamatch, addr uint64
	len             uint32
	fd              int32
	flags           uint32
	pad             [36]byte
}

type regs struct {
	general     [16]uint64
	rip, rflags uint64
}

type vcpu struct {
	fd          uintptr
	run         []byte
	tid         int32
	interrupted int32
	stop        int32
	ended       int32
}

func check(ok bool, what string) {
	if !ok {
		fmt.Println("failed:", what)
		os.Exit(1)
	}
}

func ioctl(fd, request uintptr, arg unsafe.Pointer) (uintptr, syscall.Errno) {
	r, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(arg))
	return r, errno
}

func must(fd, request uintptr, arg unsafe.Pointer, what string) uintptr {
	r, errno := ioctl(fd, request, arg)
	check(errno == 0, what+": "+errno.Error())
	return r
}

func number(n uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&n)) }

func openVCPU(vm uintptr, id int) *vcpu {
	v := &vcpu{fd: must(vm, createVCPU, number(uintptr(id)), "KVM_CREATE_VCPU")}
	var err error
	v.run, err = syscall.Mmap(int(v.fd), 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	check(err == nil, "mmap of a vCPU")
	var s [312]byte
	must(v.fd, getSregs, unsafe.Pointer(&s), "KVM_GET_SREGS")
	*(*uint64)(unsafe.Pointer(&s[0])) = 0  // cs.base
	*(*uint16)(unsafe.Pointer(&s[12])) = 0 // cs.selector
	must(v.fd, setSregs, unsafe.Pointer(&s), "KVM_SET_SREGS")
	r := regs{rip: 0x1000, rflags: 2}
	must(v.fd, setRegs, unsafe.Pointer(&r), "KVM_SET_REGS")
	return v
}

// To the output (the runtime's own signals may interrupt), then kicked out of the spinning guest.
func (v *vcpu) main(done *sync.WaitGroup) {
	runtime.LockOSThread()
	defer done.Done()
	atomic.StoreInt32(&v.tid, int32(syscall.Gettid()))
	for {
		_, errno := ioctl(v.fd, run, nil)
		if errno == 0 {
			break
		}
		check(errno == syscall.EINTR, "KVM_RUN: "+errno.Error())
	}
	check(*(*uint32)(unsafe.Pointer(&v.run[8])) == exitIO, "exit reason")
	for atomic.LoadInt32(&v.stop) == 0 {
		_, errno := ioctl(v.fd, run, nil)
		check(errno == syscall.EINTR, "KVM_RUN of a spinning guest: "+errno.Error())
		atomic.AddInt32(&v.interrupted, 1)
	}
	atomic.StoreInt32(&v.ended, 1)
}

func (v *vcpu) signal() syscall.Errno {
	defer time.Sleep(100 * time.Microsecond)
	tid := atomic.LoadInt32(&v.tid)
	if tid == 0 {
		return 0
	}
	_, _, errno := syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(syscall.Getpid()), uintptr(tid), uintptr(syscall.SIGUSR1))
	return errno
}

func (v *vcpu) kick() {
	before := atomic.LoadInt32(&v.interrupted)
	for atomic.LoadInt32(&v.interrupted) == before {
		check(v.signal() == 0, "tgkill")
	}
}

// A signal that was sent before may do; then the thread is gone.
func (v *vcpu) end() {
	atomic.StoreInt32(&v.stop, 1)
	for atomic.LoadInt32(&v.ended) == 0 {
		errno := v.signal()
		check(errno == 0 || errno == syscall.ESRCH, "tgkill")
	}
}

func dirtyPages(vm uintptr) uint64 {
	var bits [memorySize / 4096 / 64]uint64
	log := dirtyLog{bitmap: unsafe.Pointer(&bits)}
	must(vm, getDirtyLog, unsafe.Pointer(&log), "KVM_GET_DIRTY_LOG")
	return bits[0]
}

var kept [][]byte

// Work for the collector, so that it stops the world while vCPUs run.
func garbage(stop *int32, done *sync.WaitGroup) {
	defer done.Done()
	for i := 0; atomic.LoadInt32(stop) == 0; i++ {
		kept = append(kept, make([]byte, 4096))
		if i%256 == 0 {
			kept = nil
			runtime.GC()
		}
	}
}

func recovers() (caught bool) {
	defer func() { caught = recover() != nil }()
	var nowhere *int
	*nowhere = 1
	return false
}

func main() {
	signals := make(chan os.Signal, 1024)
	signal.Notify(signals, syscall.SIGUSR1)
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	check(err == nil, "/dev/kvm")
	kvm := f.Fd()
	check(must(kvm, getAPIVersion, nil, "KVM_GET_API_VERSION") == 12, "API version")
	vm := must(kvm, createVM, nil, "KVM_CREATE_VM")
	memory, err := syscall.Mmap(-1, 0, memorySize, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_SHARED|syscall.MAP_ANONYMOUS)
	check(err == nil, "mmap")
	r := region{flags: logDirtyPages, size: memorySize, memory: uint64(uintptr(unsafe.Pointer(&memory[0])))}
	must(vm, setMemoryRegion, unsafe.Pointer(&r), "KVM_SET_USER_MEMORY_REGION")
	copy(memory[0x1000:], code)
	event, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, 0, 0)
	check(errno == 0, "eventfd")
	io := ioEvent{addr: 0x20, len: 1, fd: int32(event), flags: pio}
	must(vm, ioeventfd, unsafe.Pointer(&io), "KVM_IOEVENTFD")

	var vcpus, others sync.WaitGroup
	var stop int32
	v := []*vcpu{openVCPU(vm, 0), openVCPU(vm, 1)}
	others.Add(1)
	go garbage(&stop, &others)
	for _, one := range v {
		vcpus.Add(1)
		go one.main(&vcpus)
	}
	for n := 0; n < kicks; n++ {
		v[n%2].kick()
	}
	for _, one := range v {
		one.end()
	}
	vcpus.Wait()
	atomic.StoreInt32(&stop, 1)
	others.Wait()

	check(*(*uint16)(unsafe.Pointer(&memory[0x6000])) == 2*added, "counter")
	var count [8]byte
	n, err := syscall.Read(int(event), count[:])
	check(err == nil && n == 8 && count[0] == 2, "ioeventfd")
	check(dirtyPages(vm) == 1<<5|1<<6|1<<7, "dirty log")
	check(dirtyPages(vm) == 0, "dirty log, again")
	check(len(signals) > 0, "no signal came to the channel")
	check(recovers(), "nil pointer")
	out, err := exec.Command("test", "-c", "/dev/kvm").CombinedOutput()
	check(err == nil, "a child does not see /dev/kvm: "+string(out))
	self, err := os.Executable()
	check(err == nil, "own path")
	fmt.Println("client done:", self)
}
