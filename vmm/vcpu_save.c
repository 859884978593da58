/*
 * From KVM to struct vcpu_state.
 *
 * Order: KVM_GET_MP_STATE first, because it makes KVM act on a pending INIT or SIPI, which changes
 * registers; KVM_GET_VCPU_EVENTS next, because it may deliver the payload of an exception into CR2
 * and DR6; then the rest in any order.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/cleanup.h"
#include "vmm/kvm.h"
#include "vmm/vcpu_state.h"

uint32_t vcpu_xsave_bytes(int vm_fd)
{
    int bytes = kvm_capability(vm_fd, KVM_CAP_XSAVE2);
    return bytes < VCPU_XSAVE_LEAST ? VCPU_XSAVE_LEAST : (uint32_t)bytes;
}

#define GET(fd, request, out)                                                     \
    do {                                                                          \
        if (ioctl(fd, request, out) < 0)                                          \
            return ferry_fail_sys(err, -errno, "vCPU", "cannot read: " #request); \
    } while (0)

static int capture_events(int fd, struct events_state *state, struct ferry_error *err)
{
    struct kvm_vcpu_events e = {0};
    GET(fd, KVM_GET_VCPU_EVENTS, &e);
    *state = (struct events_state){
        .flags = e.flags,
        .exception_injected = e.exception.injected,
        .exception_pending = e.exception.pending,
        .exception_nr = e.exception.nr,
        .exception_has_error_code = e.exception.has_error_code,
        .exception_error_code = e.exception.error_code,
        .exception_has_payload = e.exception_has_payload,
        .exception_payload = e.exception_payload,
        .interrupt_injected = e.interrupt.injected,
        .interrupt_nr = e.interrupt.nr,
        .interrupt_soft = e.interrupt.soft,
        .interrupt_shadow = e.interrupt.shadow,
        .nmi_injected = e.nmi.injected,
        .nmi_pending = e.nmi.pending,
        .nmi_masked = e.nmi.masked,
        .smi_smm = e.smi.smm,
        .smi_pending = e.smi.pending,
        .smi_smm_inside_nmi = e.smi.smm_inside_nmi,
        .smi_latched_init = e.smi.latched_init,
        .triple_fault_pending = e.triple_fault.pending,
    };
    return 0;
}

static int capture_regs(int fd, struct vcpu_state *s, struct ferry_error *err)
{
    struct kvm_regs r;
    GET(fd, KVM_GET_REGS, &r);
    s->rax = r.rax, s->rbx = r.rbx, s->rcx = r.rcx, s->rdx = r.rdx;
    s->rsi = r.rsi, s->rdi = r.rdi, s->rsp = r.rsp, s->rbp = r.rbp;
    s->r8 = r.r8, s->r9 = r.r9, s->r10 = r.r10, s->r11 = r.r11;
    s->r12 = r.r12, s->r13 = r.r13, s->r14 = r.r14, s->r15 = r.r15;
    s->rip = r.rip, s->rflags = r.rflags;
    return 0;
}

static struct segment_state segment(const struct kvm_segment *from)
{
    return (struct segment_state){.base = from->base,
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

static int capture_sregs(int fd, struct vcpu_state *s, struct ferry_error *err)
{
    struct kvm_sregs2 r = {0};
    GET(fd, KVM_GET_SREGS2, &r);
    const struct kvm_segment *const segments[SEG_COUNT] = {&r.cs, &r.ds, &r.es, &r.fs,
                                                           &r.gs, &r.ss, &r.tr, &r.ldt};
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->segments[i] = segment(segments[i]);
    s->gdt_base = r.gdt.base, s->gdt_limit = r.gdt.limit;
    s->idt_base = r.idt.base, s->idt_limit = r.idt.limit;
    s->cr0 = r.cr0, s->cr2 = r.cr2, s->cr3 = r.cr3, s->cr4 = r.cr4, s->cr8 = r.cr8;
    s->efer = r.efer, s->apic_base = r.apic_base;
    s->sregs_flags = r.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;
    if (s->sregs_flags)
        for (unsigned i = 0; i < 4; i++)
            s->pdptrs[i] = r.pdptrs[i];
    return 0;
}

static int capture_fpu(const struct vcpu_source *source, struct vcpu_state *s,
                       struct ferry_error *err)
{
    struct kvm_xcrs xcrs = {0};
    uint32_t bytes = vcpu_xsave_bytes(source->vm_fd);

    if (bytes > VCPU_XSAVE_BYTES)
        return ferry_fail(err, -E2BIG, "vCPU", "an XSAVE area of %u bytes is more than ferry holds",
                          bytes);
    GET(source->fd, KVM_GET_XSAVE2, s->xsave);
    s->xsave_bytes = bytes;
    GET(source->fd, KVM_GET_XCRS, &xcrs);
    for (uint32_t i = 0; i < xcrs.nr_xcrs && i < VCPU_XCRS; i++)
        s->xcrs[s->xcr_count++] = (struct xcr_state){xcrs.xcrs[i].xcr, xcrs.xcrs[i].value};
    return 0;
}

static int capture_msrs(const struct vcpu_source *source, struct vcpu_state *s,
                        struct ferry_error *err)
{
    const uint32_t deadline = MSR_TSC_DEADLINE;
    struct msr_value value = {0};

    int rc = msr_get(source->fd, source->msrs->indices, source->msrs->count, s->msrs, err);
    if (rc)
        return rc;
    s->msr_count = source->msrs->count;
    /* Not there if the guest's CPUID has no TSC deadline timer: then none is armed. */
    if (msr_get(source->fd, &deadline, 1, &value, NULL) == 0)
        s->tsc_deadline = value.value;
    return 0;
}

static int capture_rest(int fd, struct vcpu_state *s, struct ferry_error *err)
{
    struct kvm_lapic_state lapic;
    struct kvm_debugregs debug = {0};

    _Static_assert(sizeof(lapic.regs) == VCPU_LAPIC_BYTES, "size of a LAPIC");
    GET(fd, KVM_GET_LAPIC, &lapic);
    memcpy(s->lapic, lapic.regs, sizeof(s->lapic));
    GET(fd, KVM_GET_DEBUGREGS, &debug);
    for (unsigned i = 0; i < 4; i++)
        s->debug_addresses[i] = debug.db[i];
    s->dr6 = debug.dr6;
    s->dr7 = debug.dr7;
    return 0;
}

int vcpu_state_capture(void *opaque, void *out, struct ferry_error *err)
{
    const struct vcpu_source *source = opaque;
    struct vcpu_state *state = out;
    struct kvm_mp_state mp = {0};

    GET(source->fd, KVM_GET_MP_STATE, &mp);
    state->mp_state = mp.mp_state;
    int rc = capture_events(source->fd, &state->events[0], err);
    if (!rc)
        rc = capture_regs(source->fd, state, err);
    if (!rc)
        rc = capture_sregs(source->fd, state, err);
    if (!rc)
        rc = capture_fpu(source, state, err);
    if (!rc)
        rc = capture_msrs(source, state, err);
    return rc ? rc : capture_rest(source->fd, state, err);
}
