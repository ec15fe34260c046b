/*
 * A debugger's session (debug.h): its thread, and what frames ask.
 *
 * Invariants
 * 1. While `stopped` every vCPU is on hold, and only then is a vCPU's state looked at.
 * 2. The thread blocks every signal but those that touching client memory raises, as in an ioctl.
 * 3. It waits for the peer without a limit while the guest is stopped, which nobody else has to wait for; the VM may go
 *    meanwhile (its descriptors are closed), which ends the session.
 */
#include "control/debug.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "abi/introspect.h"
#include "control/debug_points.h"
#include "control/internal.h"
#include "host/client_threads.h"
#include "host/fault_mask.h"
#include "host/thread.h"
#include "lib/error.h"
#include "lib/fork.h"
#include "lib/futex.h"
#include "lib/log.h"
#include "lib/own.h"
#include "lib/own_fd.h"
#include "lib/stream.h"
#include "virt/kvm.h"
#include "x86/debugger.h"

#define RUNNING_LOOK_NS (3ULL * 1000 * 1000) /* how late an order to stop may be seen */
#define STOPPED_LOOK_MS 300		    /* ... and the end of the VM */
#define PEER_LIMIT_S 10			    /* for one frame */

struct session {
	struct kvm *kvm; /* a reference */
	int fd;		 /* -1 until it is served */
	bool stopped;
	bool has_late; /* a reply is followed by the event `late`: a vCPU had been stopped beside the one that was told of */
	struct debug_frame late;
	struct debug_points *points;
	struct debug_frame frame; /* the request, then the reply */
	uint64_t bytes[DEBUG_MAX_BYTES / 8];
};

/* --- frames --- */

static bool receive_request(struct session *s)
{
	return stream_receive(s->fd, &s->frame, sizeof(s->frame)) && s->frame.size <= DEBUG_MAX_BYTES &&
	       stream_receive(s->fd, s->bytes, s->frame.size);
}

static bool send_frame(struct session *s, const struct debug_frame *f)
{
	return stream_send(s->fd, f, sizeof(*f)) && stream_send(s->fd, s->bytes, f->size);
}

/* --- requests --- */

static struct kvm_vcpu *vcpu_of(struct session *s)
{
	return s->frame.vcpu < KVM_MAX_VCPU_IDS ? kvm_get_vcpu_by_id(s->kvm, s->frame.vcpu) : NULL;
}

static int list_vcpus(struct session *s)
{
	struct debug_vcpu *out = (void *)s->bytes;
	uint32_t i, n = 0;
	struct kvm_vcpu *vcpu;

	kvm_for_each_vcpu(i, vcpu, s->kvm) {
		if ((n + 1) * sizeof(*out) > sizeof(s->bytes))
			break;
		out[n] = (struct debug_vcpu){ vcpu->vcpu_id, kvm_debugger_is_halted(vcpu), kvm_debugger_is_parked(vcpu) };
		if (s->stopped && kvm_debugger_begin(vcpu) == 0) {
			out[n].long_mode = kvm_debugger_has_long_mode(vcpu);
			kvm_debugger_end(vcpu);
		}
		n++;
	}
	s->frame.size = n * (uint32_t)sizeof(*out);
	return 0;
}

static int stop(struct session *s)
{
	int r = s->stopped ? 0 : kvm_debugger_hold(s->kvm);

	s->stopped = !r;
	return r;
}

/* The vCPU of the frame is between begin and end. */
static int access_memory(struct session *s, struct kvm_vcpu *vcpu, bool write)
{
	size_t n = write ? s->frame.size : s->frame.length, done = 0;
	char *bytes = (char *)s->bytes;
	int r = 0;

	if (n > sizeof(s->bytes))
		return -EINVAL;
	while (done < n && !r) {
		gva_t at = s->frame.addr + done;
		size_t part = min_u64(n - done, PAGE_SIZE - (at & ~PAGE_MASK));
		gpa_t gpa;

		r = !kvm_debugger_translate(vcpu, at, &gpa) ? -EFAULT :
		    write ? kvm_debugger_write(vcpu, gpa, bytes + done, part) :
			    kvm_debugger_read(vcpu, gpa, bytes + done, part);
		if (!r && !write)
			debug_points_hide(s->points, gpa, bytes + done, part);
		done += r ? 0 : part;
	}
	s->frame.size = write ? 0 : (uint32_t)done;
	return done && !write ? 0 : r;
}

static int use_vcpu(struct session *s, struct kvm_vcpu *vcpu)
{
	struct debug_frame *f = &s->frame;
	uint32_t size = f->size;

	if (f->op != DEBUG_READ)
		f->size = 0;
	switch (f->op) {
	case DEBUG_GET_REGS:
		f->size = sizeof(struct kvm_debugger_regs);
		kvm_debugger_get_regs(vcpu, (struct kvm_debugger_regs *)s->bytes);
		return 0;
	case DEBUG_SET_REGS:
		if (size != sizeof(struct kvm_debugger_regs))
			return -EINVAL;
		return kvm_debugger_set_regs(vcpu, (const struct kvm_debugger_regs *)s->bytes);
	case DEBUG_READ: return access_memory(s, vcpu, false);
	case DEBUG_WRITE: f->size = size; return access_memory(s, vcpu, true);
	case DEBUG_INSERT: return debug_points_insert(s->points, vcpu, f);
	case DEBUG_REMOVE: return debug_points_remove(s->points, vcpu, f);
	default: return -EINVAL;
	}
}

static int on_vcpu(struct session *s)
{
	struct kvm_vcpu *vcpu = vcpu_of(s);
	int r;

	if (!s->stopped || !vcpu) {
		s->frame.size = 0;
		return vcpu ? -EBUSY : -ENOENT;
	}
	r = kvm_debugger_begin(vcpu);
	if (r) {
		s->frame.size = 0;
		return r;
	}
	r = use_vcpu(s, vcpu);
	kvm_debugger_end(vcpu);
	return r;
}

static int run_one(struct session *s, struct kvm_vcpu *vcpu, bool step)
{
	struct kvm_debugger_plan plan = { .step = step };
	int r = kvm_debugger_begin(vcpu);

	if (r)
		return r;
	debug_points_plan(s->points, &plan);
	r = kvm_debugger_run(vcpu, &plan);
	kvm_debugger_end(vcpu);
	return r;
}

/*
 * Stops beside the one that was told of. One at an instruction is made again when the vCPU comes there again, if the
 * breakpoint is there still; a watched access has been made, and is told of now.
 */
static bool tells_late(struct session *s)
{
	struct kvm_debugger_hit hit;

	while (kvm_debugger_fetch(s->kvm, &hit)) {
		struct kvm_vcpu *vcpu = kvm_get_vcpu_by_id(s->kvm, hit.vcpu_id);
		bool ours;

		s->late = (struct debug_frame){ .op = DEBUG_EVENT, .vcpu = hit.vcpu_id };
		if (!vcpu || kvm_debugger_begin(vcpu))
			continue;
		ours = debug_points_name(s->points, vcpu, &hit, &s->late);
		kvm_debugger_end(vcpu);
		if (ours && s->late.kind >= DEBUG_WATCH_WRITE && s->late.kind <= DEBUG_WATCH_ACCESS)
			return true;
	}
	return false;
}

static int run(struct session *s)
{
	const struct debug_run *list = (const void *)s->bytes;
	uint32_t n = s->frame.size / sizeof(*list);
	int r = s->stopped ? 0 : -EBUSY;

	s->frame.size = 0;
	s->has_late = !r && tells_late(s);
	if (s->has_late)
		return 0;
	for (uint32_t i = 0; i < n && !r; i++) {
		struct kvm_vcpu *vcpu = list[i].id < KVM_MAX_VCPU_IDS ? kvm_get_vcpu_by_id(s->kvm, list[i].id) : NULL;

		if (vcpu && list[i].action != DEBUG_STAY)
			r = run_one(s, vcpu, list[i].action == DEBUG_ONE_STEP);
	}
	s->stopped = s->stopped && r;
	return r;
}

static void answer(struct session *s)
{
	switch (s->frame.op) {
	case DEBUG_STOP: s->frame.status = stop(s); s->frame.size = 0; break;
	case DEBUG_VCPUS: s->frame.status = list_vcpus(s); break;
	case DEBUG_RUN: s->frame.status = run(s); break;
	default: s->frame.status = on_vcpu(s);
	}
}

/* --- what vCPUs run into --- */

/* The hit was the guest's own: it gets its exception, and the vCPU runs on. An INT3 that is none any more was ours. */
static void give_back(struct session *s, struct kvm_vcpu *vcpu, const struct kvm_debugger_hit *hit)
{
	struct kvm_debugger_plan plan = { 0 };

	if (kvm_debugger_begin(vcpu))
		return;
	if (!debug_points_was_ours(vcpu, hit))
		kvm_debugger_give_back(vcpu, hit);
	debug_points_plan(s->points, &plan);
	(void)!kvm_debugger_run(vcpu, &plan);
	kvm_debugger_end(vcpu);
}

/* False: the peer is gone. */
static bool handle_hit(struct session *s, const struct kvm_debugger_hit *hit)
{
	struct debug_frame event = { .op = DEBUG_EVENT, .vcpu = hit->vcpu_id };
	struct kvm_vcpu *vcpu = kvm_get_vcpu_by_id(s->kvm, hit->vcpu_id);
	bool ours;

	if (!vcpu || kvm_debugger_begin(vcpu))
		return true;
	ours = debug_points_name(s->points, vcpu, hit, &event);
	kvm_debugger_end(vcpu);
	if (!ours) {
		give_back(s, vcpu, hit);
		return true;
	}
	event.status = stop(s);
	return send_frame(s, &event);
}

/* --- the thread --- */

static bool vm_is_gone(struct session *s)
{
	struct kvm *kvm = abi_vm_get(s->kvm->serial);

	if (kvm)
		kvm_put_kvm(kvm);
	return !kvm || READ_ONCE(s->kvm->dead);
}

/* 1 a request is there, 0 not yet, -1 the end. */
static int wait_for_request(struct session *s)
{
	struct pollfd p[] = { { .fd = s->fd, .events = POLLIN }, { .fd = host_threads_end_fd(), .events = POLLIN } };
	uint32_t *word = kvm_debugger_event_word(s->kvm), seen = __atomic_load_n(word, __ATOMIC_SEQ_CST);
	struct kvm_debugger_hit hit;

	if (!s->stopped) {
		if (kvm_debugger_fetch(s->kvm, &hit))
			return handle_hit(s, &hit) ? 0 : -1;
		futex_wait(word, seen, RUNNING_LOOK_NS);
	}
	if (poll(p, ARRAY_SIZE(p), s->stopped ? STOPPED_LOOK_MS : 0) < 0 || p[1].revents || vm_is_gone(s))
		return -1;
	return p[0].revents != 0;
}

static void serve(struct session *s)
{
	for (;;) {
		int r = wait_for_request(s);

		if (r < 0 || (r > 0 && !receive_request(s)))
			return;
		if (!r)
			continue;
		answer(s);
		if (!send_frame(s, &s->frame) || (s->has_late && !send_frame(s, &s->late)))
			return;
		s->has_late = false;
	}
}

static void end(struct session *s)
{
	if (s->points && !vm_is_gone(s) && kvm_debugger_hold(s->kvm) == 0)
		debug_points_remove_all(s->points);
	kvm_debugger_detach(s->kvm);
	debug_points_free(s->points);
	kvm_put_kvm(s->kvm);
	if (s->fd >= 0)
		own_fd_close(s->fd);
	own_free(s);
}

/* Of the server's thread alone, but for `over`. */
struct session_thread {
	struct host_thread thread;
	struct session *session;
	bool over; /* (a) it returns, or has returned */
	struct session_thread *next;
};
static struct session_thread *threads;

static void *session_thread(void *arg)
{
	struct session_thread *t = arg;

	(void)host_fault_open();
	serve(t->session);
	end(t->session);
	log_line(LOG_INFO, "the debugger is gone, the guest runs on");
	__atomic_store_n(&t->over, true, __ATOMIC_RELEASE);
	return NULL;
}

/* Stacks of those that are over. */
static void join_threads(void)
{
	struct session_thread **at = &threads, *t;

	while ((t = *at) != NULL) {
		if (!__atomic_load_n(&t->over, __ATOMIC_ACQUIRE)) {
			at = &t->next;
			continue;
		}
		*at = t->next;
		host_thread_join(&t->thread);
		own_free(t);
	}
}

static void forget_threads(void)
{
	threads = NULL;
}
LIB_IN_FORKED_CHILD(forget_threads)

static void start_thread(struct session *s)
{
	struct session_thread *t = own_calloc(1, sizeof(*t));

	if (t)
		t->session = s;
	if (!t || host_thread_start(&t->thread, "userkvm-gdb", session_thread, t)) {
		own_free(t);
		end(s);
		return;
	}
	t->next = threads;
	threads = t;
}

static void let_others_run(void)
{
	struct kvm *vms[64];
	unsigned n = abi_vms_get(vms, ARRAY_SIZE(vms));

	for (unsigned i = 0; i < n; i++) {
		kvm_debugger_wait_no_more(vms[i]);
		kvm_put_kvm(vms[i]);
	}
}

void control_debug(struct reply *r, struct kvm *kvm, const uint64_t *args)
{
	struct session *s;

	if (args[0] != DEBUG_VERSION) {
		reply_error(r, "its userkvm is of another version: no debugger's session in common");
		return;
	}
	s = own_calloc(1, sizeof(*s));
	if (s)
		s->points = debug_points_new(kvm);
	if (!s || !s->points) {
		own_free(s);
		reply_error(r, "no memory for a debugger's session");
		return;
	}
	if (kvm_debugger_attach(kvm)) {
		debug_points_free(s->points);
		own_free(s);
		reply_error(r, "the VM has a debugger, or its client is one (KVM_SET_GUEST_DEBUG)");
		return;
	}
	kvm_get_kvm(kvm);
	s->kvm = kvm;
	s->fd = -1;
	r->session = s;
}

void control_debug_serve(void *session, int fd)
{
	struct timeval limit = { .tv_sec = PEER_LIMIT_S };
	struct session *s = session;

	s->fd = own_fd_keep(fd);
	setsockopt(s->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(s->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	let_others_run();
	join_threads();
	start_thread(s);
}
