/*
 * The control socket: looking at the VMs of a process from another one.
 *
 * With its first VM a process begins to listen on the abstract address
 * CONTROL_ADDRESS (its pid in decimal), on a thread of ours that blocks every
 * signal. USERKVM_CONTROL=0 switches it off. Abstract, because nothing is left
 * behind when the process dies; the address is no secret, so the server answers
 * only peers of its own user or root (SO_PEERCRED), and a client should look
 * who listens in the same way. Where somebody else has taken that address, a
 * slash and eight hexadecimal digits follow; /proc/net/unix shows which.
 *
 * One connection, one request line, one reply:
 *
 *	ok\n LINES…            error TEXT\n
 *
 *	vms                    vm SERIAL NR_VCPUS NR_SLOTS DEAD; vcpu SERIAL ID
 *	slots SERIAL           slot AS ID GPA SIZE HVA FLAGS
 *	ept SERIAL             root AS LEVEL AD HPA; then its runs of like leaves:
 *	                       leaf START END LEVEL ENTRY, mmio START END GEN;
 *	                       `truncated` when there are more
 *	age SERIAL             young PAGES (4 KiB, accessed since the last `age`);
 *	                       nothing is accessed any more: the one request
 *	                       that changes what others see
 *	walk SERIAL AS GPA     root …; step LEVEL INDEX TABLE ENTRY, top down
 *	guest SERIAL VCPU GVA  mode LEVEL CR0 CR3 CR4 EFER MAXPHYADDR AS; for each
 *	                       guest table: at GPA and the steps to it, then
 *	                       gpte LEVEL GPA ENTRY (pdpte INDEX ENTRY for PAE);
 *	                       result GPA (with its steps), none or unreadable GPA
 *	trace                  (with a ring file's descriptor beside it, SCM_RIGHTS)
 *	                       nothing: events are recorded into it from now on
 *	untrace                nothing: no more
 *	stats                  vm SERIAL NAME VALUE…; vcpu SERIAL ID NAME VALUE…
 *	debug SERIAL VERSION   nothing; the connection is a debugger's session then (debug.h)
 *	exits SERIAL SECONDS   vCPUs measure their VM exits for that long (0: no longer);
 *	                       exit ID L2 REASON, then of host and client each COUNT
 *	                       TOTAL MIN MAX in nanoseconds, since the first of the
 *	                       questions that followed each other in time
 *
 *	vmcs SERIAL VCPU MASK  (bit 0 VMCS01, 1 vmcs12, 2 VMCS02: all of one moment)
 *	                       state VMXON L2 PENDING VMXON_PTR VMPTR12; for each of
 *	                       them vmcs WHICH THERE LAUNCHED, field ENCODING VALUE
 *	entry SERIAL VCPU 12   (1: vmcs12, 0: VMCS01) the same of that one, then what VM
 *	                       entry would say of it: width BITS, cap N VALUE (MSR 480h + N),
 *	                       failed CHECK ENCODING, in the order of the checks
 *
 *	walk2 SERIAL VCPU GPA  L2's address, of the L2 that runs or was the last: l2 RUNS EPTP12
 *	                       ROOT02 EXECONLY MAXPHYADDR AS; EPT12's entries, e12 LEVEL
 *	                       GPA1 ENTRY KIND (of enum ept_entry_kind), or nowhere LEVEL
 *	                       GPA1; gpa1 GPA1 TRACKED (it is a table of EPT12's) with EPT01's
 *	                       steps; EPT02's, e02 LEVEL INDEX TABLE ENTRY UNSYNC DIRECT
 *	guest2 SERIAL VCPU GVA as guest, of L2; instead of steps by GPA1, L1's address
 *	ept2 SERIAL VCPU       l2 …; leaf12 START END LEVEL ENTRY (its rights are those of all
 *	                       levels, none: misconfigured), leaf02 the same of EPT02
 *
 * SERIAL, ID, AS, LEVEL, INDEX are decimal, all other numbers hexadecimal
 * without prefix; counters and times are decimal. Requests give numbers in C notation.
 *
 * A reply is built in memory (CONTROL_REPLY_MAX at most), with a reference on
 * the VM; nothing of the VM is held while it is sent.
 */
#ifndef USERKVM_CONTROL_CONTROL_H
#define USERKVM_CONTROL_CONTROL_H

#define CONTROL_ADDRESS "userkvm/" /* after the zero byte; then the pid */
#define CONTROL_REQUEST_MAX 256
#define CONTROL_REPLY_MAX (32u << 20)

#endif
