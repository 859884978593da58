/*
 * From struct vcpu_state to KVM.
 *
 * Order (CPUID is there since the vCPU was made):
 *   SREGS2    first: EFER and the APIC base (xAPIC or x2APIC) decide how later ones are read;
 *   REGS      before events: setting registers drops a pending exception;
 *   XCRS, XSAVE, MSRs;
 *   LAPIC     after the APIC base; its timer starts to run again from its current count;
 *   TSC deadline after LAPIC (LVTT must say so) and after the TSC (section "clock" comes first);
 *   debug registers, events, MP state.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/cleanup.h"
#include "vmm/vcpu_state.h"

#define SET(fd, request, in)                                         \
    do {                                                             \
        if (ioctl(fd, request, in) < 0)                              \
            return ferry_refuse(err, -errno, "vCPU",                 \
                                "this host's KVM refuses the saved " \
                                "state: " #request);                 \
    } while (0)

/* ---- is it for this host? ---- */

static int accept_xsave(const struct vcpu_source *source, const struct vcpu_state *state,
                        struct ferry_error *err)
{
    uint32_t here = vcpu_xsave_bytes(source->vm_fd);
    for (uint32_t i = here; i < state->xsave_bytes; i++)
        if (state->xsave[i])
            return ferry_refuse(err, -ENOTSUP, "vCPU",
                                "the machine uses XSAVE state of %u bytes, this host has %u",
                                state->xsave_bytes, here);
    return 0;
}

/* An MSR that this host would not save itself is let pass only if it says nothing. */
static int accept_msrs(const struct vcpu_source *source, const struct vcpu_state *state,
                       struct ferry_error *err)
{
    for (uint32_t i = 0; i < state->msr_count; i++) {
        const struct msr_value *msr = &state->msrs[i];
        if (!msr->value || msr_list_has(source->msrs, msr->index))
            continue;
        const char *name = msr_name(msr->index);
        return ferry_refuse(err, -ENOTSUP, "vCPU",
                            "the machine uses MSR 0x%x%s%s%s, which this host does not offer",
                            msr->index, name ? " (" : "", name ? name : "", name ? ")" : "");
    }
    return 0;
}

int vcpu_state_accept(void *opaque, const void *loaded, struct ferry_error *err)
{
    int rc = accept_xsave(opaque, loaded, err);
    return rc ? rc : accept_msrs(opaque, loaded, err);
}

/* ---- set it ---- */

static int commit_regs(int fd, const struct vcpu_state *s, struct ferry_error *err)
{
    struct kvm_regs r = {.rax = s->rax,
                         .rbx = s->rbx,
                         .rcx = s->rcx,
                         .rdx = s->rdx,
                         .rsi = s->rsi,
                         .rdi = s->rdi,
                         .rsp = s->rsp,
                         .rbp = s->rbp,
                         .r8 = s->r8,
                         .r9 = s->r9,
                         .r10 = s->r10,
                         .r11 = s->r11,
                         .r12 = s->r12,
                         .r13 = s->r13,
                         .r14 = s->r14,
                         .r15 = s->r15,
                         .rip = s->rip,
                         .rflags = s->rflags};
    SET(fd, KVM_SET_REGS, &r);
    return 0;
}

static struct kvm_segment segment(const struct segment_state *from)
{
    return (struct kvm_segment){.base = from->base,
                                .limit = from->limit,
                                .selector = from->selector,
                                .type = from->type,
                                .present = from->present,
                                .dpl = from->dpl,
                                .db = from->db,
                                .s = from->s,
                                .l = from->l,
                                .g = from->g,
                                .avl = from->avl,
                                .unusable = from->unusable};
}

static int commit_sregs(int fd, const struct vcpu_state *s, struct ferry_error *err)
{
    struct kvm_sregs2 r = {.cr0 = s->cr0,
                           .cr2 = s->cr2,
                           .cr3 = s->cr3,
                           .cr4 = s->cr4,
                           .cr8 = s->cr8,
                           .efer = s->efer,
                           .apic_base = s->apic_base,
                           .flags = s->sregs_flags};
    struct kvm_segment *const segments[SEG_COUNT] = {&r.cs, &r.ds, &r.es, &r.fs,
                                                     &r.gs, &r.ss, &r.tr, &r.ldt};
    for (unsigned i = 0; i < SEG_COUNT; i++)
        *segments[i] = segment(&s->segments[i]);
    r.gdt.base = s->gdt_base, r.gdt.limit = s->gdt_limit;
    r.idt.base = s->idt_base, r.idt.limit = s->idt_limit;
    for (unsigned i = 0; i < 4; i++)
        r.pdptrs[i] = s->pdptrs[i];
    SET(fd, KVM_SET_SREGS2, &r);
    return 0;
}

static int commit_fpu(const struct vcpu_source *source, const struct vcpu_state *s,
                      struct ferry_error *err)
{
    struct kvm_xcrs xcrs = {.nr_xcrs = s->xcr_count};
    for (uint32_t i = 0; i < s->xcr_count; i++)
        xcrs.xcrs[i] = (struct kvm_xcr){.xcr = s->xcrs[i].index, .value = s->xcrs[i].value};
    SET(source->fd, KVM_SET_XCRS, &xcrs);

    /* KVM reads as many bytes as this host's area has. */
    uint8_t *area CLEANUP_FREE = calloc(1, VCPU_XSAVE_BYTES);
    if (!area || vcpu_xsave_bytes(source->vm_fd) > VCPU_XSAVE_BYTES)
        return ferry_fail_sys(err, -ENOMEM, "vCPU", "cannot set its XSAVE state");
    memcpy(area, s->xsave, s->xsave_bytes);
    SET(source->fd, KVM_SET_XSAVE, area);
    return 0;
}

static int commit_msrs(const struct vcpu_source *source, const struct vcpu_state *s,
                       struct ferry_error *err)
{
    struct msr_value *known CLEANUP_FREE = calloc(LIMIT_MSRS, sizeof(*known));
    uint32_t count = 0;

    if (!known)
        return ferry_fail_sys(err, -ENOMEM, "vCPU", "cannot set its MSRs");
    for (uint32_t i = 0; i < s->msr_count; i++)
        if (msr_list_has(source->msrs, s->msrs[i].index))
            known[count++] = s->msrs[i];
    return msr_set(source->fd, known, count, err);
}

static int commit_lapic(int fd, const struct vcpu_state *s, struct ferry_error *err)
{
    const struct msr_value deadline = {MSR_TSC_DEADLINE, s->tsc_deadline};
    struct msr_value now;
    struct kvm_lapic_state lapic;

    memcpy(lapic.regs, s->lapic, sizeof(lapic.regs));
    SET(fd, KVM_SET_LAPIC, &lapic);
    /* A guest without such a timer has none to disarm. */
    if (!s->tsc_deadline && msr_get(fd, &deadline.index, 1, &now, NULL))
        return 0;
    return msr_set(fd, &deadline, 1, err);
}

static int commit_debug(int fd, const struct vcpu_state *s, struct ferry_error *err)
{
    struct kvm_debugregs debug = {.dr6 = s->dr6, .dr7 = s->dr7};
    for (unsigned i = 0; i < 4; i++)
        debug.db[i] = s->debug_addresses[i];
    SET(fd, KVM_SET_DEBUGREGS, &debug);
    return 0;
}

/* Flags that need a capability are set only if this KVM reports them itself; what the machine then
 * cannot say here must be nothing. */
static int commit_events(int fd, const struct events_state *s, struct ferry_error *err)
{
    struct kvm_vcpu_events here = {0};
    SET(fd, KVM_GET_VCPU_EVENTS, &here);
    uint32_t lost = s->flags & ~here.flags;
    if ((lost & KVM_VCPUEVENT_VALID_SMM && (s->smi_smm | s->smi_pending | s->smi_latched_init)) ||
        (lost & KVM_VCPUEVENT_VALID_TRIPLE_FAULT && s->triple_fault_pending) ||
        (lost & KVM_VCPUEVENT_VALID_PAYLOAD && s->exception_pending))
        return ferry_refuse(err, -ENOTSUP, "vCPU",
                            "an event is in flight that this host's KVM cannot express");
    struct kvm_vcpu_events e = {
        .flags = (s->flags & here.flags) | KVM_VCPUEVENT_VALID_NMI_PENDING,
        .exception = {.injected = s->exception_injected,
                      .nr = s->exception_nr,
                      .has_error_code = s->exception_has_error_code,
                      .pending = s->exception_pending,
                      .error_code = s->exception_error_code},
        .interrupt = {.injected = s->interrupt_injected,
                      .nr = s->interrupt_nr,
                      .soft = s->interrupt_soft,
                      .shadow = s->interrupt_shadow},
        .nmi = {.injected = s->nmi_injected, .pending = s->nmi_pending, .masked = s->nmi_masked},
        .smi = {.smm = s->smi_smm,
                .pending = s->smi_pending,
                .smm_inside_nmi = s->smi_smm_inside_nmi,
                .latched_init = s->smi_latched_init},
        .triple_fault = {.pending = s->triple_fault_pending},
        .exception_has_payload = s->exception_has_payload,
        .exception_payload = s->exception_payload,
    };
    SET(fd, KVM_SET_VCPU_EVENTS, &e);
    return 0;
}

int vcpu_state_commit(void *opaque, const void *loaded, struct ferry_error *err)
{
    const struct vcpu_source *source = opaque;
    const struct vcpu_state *state = loaded;
    struct kvm_mp_state mp = {.mp_state = state->mp_state};

    int rc = commit_sregs(source->fd, state, err);
    if (!rc)
        rc = commit_regs(source->fd, state, err);
    if (!rc)
        rc = commit_fpu(source, state, err);
    if (!rc)
        rc = commit_msrs(source, state, err);
    if (!rc)
        rc = commit_lapic(source->fd, state, err);
    if (!rc)
        rc = commit_debug(source->fd, state, err);
    if (!rc)
        rc = commit_events(source->fd, &state->events[0], err);
    if (rc)
        return rc;
    SET(source->fd, KVM_SET_MP_STATE, &mp);
    return 0;
}
