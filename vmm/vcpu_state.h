/*
 * State of one vCPU: sections "vcpu0", "vcpu1" ...  All of it but CPUID and TSC frequency (in the
 * machine's description) and the TSC itself (section "clock").
 * Sources: api.rst, KVM_GET_REGS, _SREGS2, _XSAVE2, _XCRS, _MSRS, _LAPIC, _VCPU_EVENTS, _DEBUGREGS,
 * _MP_STATE.
 */
#ifndef FERRY_VMM_VCPU_STATE_H
#define FERRY_VMM_VCPU_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/limits.h"
#include "vmm/msr.h"
#include "vmm/part.h"

#define VCPU_LAPIC_BYTES 1024       /* KVM_APIC_REG_SIZE */
#define VCPU_XSAVE_BYTES (16 * KIB) /* largest XSAVE area that ferry can hold (AMX: 11 KiB) */
#define VCPU_XSAVE_LEAST 4096       /* sizeof(struct kvm_xsave) */
#define VCPU_XCRS        16         /* KVM_MAX_XCRS */

enum vcpu_segment { SEG_CS, SEG_DS, SEG_ES, SEG_FS, SEG_GS, SEG_SS, SEG_TR, SEG_LDT, SEG_COUNT };

struct segment_state {
    uint64_t base;
    uint32_t limit;
    uint16_t selector;
    uint8_t type, present, dpl, db, s, l, g, avl, unusable;
};

struct xcr_state {
    uint32_t index;
    uint64_t value;
};

/* struct kvm_vcpu_events without its padding. */
struct events_state {
    uint32_t flags; /* KVM_VCPUEVENT_VALID_*: what the source KVM had */
    uint8_t exception_injected, exception_pending, exception_nr, exception_has_error_code;
    uint32_t exception_error_code;
    uint8_t exception_has_payload;
    uint64_t exception_payload;
    uint8_t interrupt_injected, interrupt_nr, interrupt_soft, interrupt_shadow;
    uint8_t nmi_injected, nmi_pending, nmi_masked;
    uint8_t smi_smm, smi_pending, smi_smm_inside_nmi, smi_latched_init;
    uint8_t triple_fault_pending;
};

struct vcpu_state {
    uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
    uint64_t rip, rflags;
    struct segment_state segments[SEG_COUNT]; /* by enum vcpu_segment */
    uint64_t gdt_base, idt_base;
    uint16_t gdt_limit, idt_limit;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base;
    uint64_t sregs_flags; /* KVM_SREGS2_FLAGS_PDPTRS_VALID */
    uint64_t pdptrs[4];
    uint32_t xcr_count;
    struct xcr_state xcrs[VCPU_XCRS];
    uint32_t xsave_bytes;
    uint8_t xsave[VCPU_XSAVE_BYTES];
    uint32_t msr_count;
    struct msr_value msrs[LIMIT_MSRS];
    uint64_t tsc_deadline; /* 0: timer not armed, or no such timer */
    uint8_t lapic[VCPU_LAPIC_BYTES];
    struct events_state events[1];
    uint64_t debug_addresses[4], dr6, dr7;
    uint32_t mp_state; /* KVM_MP_STATE_* */
};
extern const struct state_table vcpu_table;

/* One vCPU as a part of its machine. */
struct vcpu_source {
    int vm_fd;
    int fd;
    unsigned index;
    const struct msr_list *msrs; /* filled before the first capture or load */
};

/* The part "vcpuN".  source must outlive it.  After the clock in a load. */
void vcpu_part(struct vcpu_source *source, struct part *part);

/* vcpu_save.c and vcpu_load.c: the calls of the part; opaque is its struct vcpu_source. */
int vcpu_state_capture(void *opaque, void *out, struct ferry_error *err);
int vcpu_state_accept(void *opaque, const void *loaded, struct ferry_error *err);
int vcpu_state_commit(void *opaque, const void *loaded, struct ferry_error *err);
/* Bytes of this VM's XSAVE area (KVM_CAP_XSAVE2). */
uint32_t vcpu_xsave_bytes(int vm_fd);

#endif
