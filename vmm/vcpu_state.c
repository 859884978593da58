/* The table of a vCPU's state and the relations within it; see vcpu_state.h. */
#include "vmm/vcpu_state.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define S struct segment_state
static const struct state_field segment_fields[] = {
    STATE_SCALAR(STATE_U64, S, base, 1, 1),        STATE_SCALAR(STATE_U32, S, limit, 2, 1),
    STATE_SCALAR(STATE_U16, S, selector, 3, 1),    STATE_RANGE(STATE_U8, S, type, 4, 1, 0, 15),
    STATE_RANGE(STATE_U8, S, present, 5, 1, 0, 1), STATE_RANGE(STATE_U8, S, dpl, 6, 1, 0, 3),
    STATE_RANGE(STATE_U8, S, db, 7, 1, 0, 1),      STATE_RANGE(STATE_U8, S, s, 8, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, l, 9, 1, 0, 1),       STATE_RANGE(STATE_U8, S, g, 10, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, avl, 11, 1, 0, 1),    STATE_RANGE(STATE_U8, S, unusable, 12, 1, 0, 1),
};
#undef S

static const struct state_table segment_table = {
    .name = "segment",
    .version = 1,
    .size = sizeof(struct segment_state),
    .fields = segment_fields,
    .field_count = COUNT(segment_fields),
};

#define S struct xcr_state
static const struct state_field xcr_fields[] = {
    STATE_SCALAR(STATE_U32, S, index, 1, 1),
    STATE_SCALAR(STATE_U64, S, value, 2, 1),
};
#undef S

static const struct state_table xcr_table = {
    .name = "xcr",
    .version = 1,
    .size = sizeof(struct xcr_state),
    .fields = xcr_fields,
    .field_count = COUNT(xcr_fields),
};

#define S struct msr_value
static const struct state_field msr_fields[] = {
    STATE_SCALAR(STATE_U32, S, index, 1, 1),
    STATE_SCALAR(STATE_U64, S, value, 2, 1),
};
#undef S

static const struct state_table msr_table = {
    .name = "msr",
    .version = 1,
    .size = sizeof(struct msr_value),
    .fields = msr_fields,
    .field_count = COUNT(msr_fields),
};

#define S struct events_state
static const struct state_field events_fields[] = {
    STATE_SCALAR(STATE_U32, S, flags, 1, 1),
    STATE_RANGE(STATE_U8, S, exception_injected, 2, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, exception_pending, 3, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, exception_nr, 4, 1, 0, 31),
    STATE_RANGE(STATE_U8, S, exception_has_error_code, 5, 1, 0, 1),
    STATE_SCALAR(STATE_U32, S, exception_error_code, 6, 1),
    STATE_RANGE(STATE_U8, S, exception_has_payload, 7, 1, 0, 1),
    STATE_SCALAR(STATE_U64, S, exception_payload, 8, 1),
    STATE_RANGE(STATE_U8, S, interrupt_injected, 9, 1, 0, 1),
    STATE_SCALAR(STATE_U8, S, interrupt_nr, 10, 1),
    STATE_RANGE(STATE_U8, S, interrupt_soft, 11, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, interrupt_shadow, 12, 1, 0, 3),
    STATE_RANGE(STATE_U8, S, nmi_injected, 13, 1, 0, 1),
    STATE_SCALAR(STATE_U8, S, nmi_pending, 14, 1),
    STATE_RANGE(STATE_U8, S, nmi_masked, 15, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, smi_smm, 16, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, smi_pending, 17, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, smi_smm_inside_nmi, 18, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, smi_latched_init, 19, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, triple_fault_pending, 20, 1, 0, 1),
};
#undef S

static const struct state_table events_table = {
    .name = "events",
    .version = 1,
    .size = sizeof(struct events_state),
    .fields = events_fields,
    .field_count = COUNT(events_fields),
};

#define S struct vcpu_state
static const struct state_field vcpu_fields[] = {
    STATE_SCALAR(STATE_U64, S, rax, 1, 1),
    STATE_SCALAR(STATE_U64, S, rbx, 2, 1),
    STATE_SCALAR(STATE_U64, S, rcx, 3, 1),
    STATE_SCALAR(STATE_U64, S, rdx, 4, 1),
    STATE_SCALAR(STATE_U64, S, rsi, 5, 1),
    STATE_SCALAR(STATE_U64, S, rdi, 6, 1),
    STATE_SCALAR(STATE_U64, S, rsp, 7, 1),
    STATE_SCALAR(STATE_U64, S, rbp, 8, 1),
    STATE_SCALAR(STATE_U64, S, r8, 9, 1),
    STATE_SCALAR(STATE_U64, S, r9, 10, 1),
    STATE_SCALAR(STATE_U64, S, r10, 11, 1),
    STATE_SCALAR(STATE_U64, S, r11, 12, 1),
    STATE_SCALAR(STATE_U64, S, r12, 13, 1),
    STATE_SCALAR(STATE_U64, S, r13, 14, 1),
    STATE_SCALAR(STATE_U64, S, r14, 15, 1),
    STATE_SCALAR(STATE_U64, S, r15, 16, 1),
    STATE_SCALAR(STATE_U64, S, rip, 17, 1),
    STATE_SCALAR(STATE_U64, S, rflags, 18, 1),
    STATE_STRUCTS(S, segments, &segment_table, 20, 1),
    STATE_SCALAR(STATE_U64, S, gdt_base, 21, 1),
    STATE_SCALAR(STATE_U16, S, gdt_limit, 22, 1),
    STATE_SCALAR(STATE_U64, S, idt_base, 23, 1),
    STATE_SCALAR(STATE_U16, S, idt_limit, 24, 1),
    STATE_SCALAR(STATE_U64, S, cr0, 25, 1),
    STATE_SCALAR(STATE_U64, S, cr2, 26, 1),
    STATE_SCALAR(STATE_U64, S, cr3, 27, 1),
    STATE_SCALAR(STATE_U64, S, cr4, 28, 1),
    STATE_RANGE(STATE_U64, S, cr8, 29, 1, 0, 15),
    STATE_SCALAR(STATE_U64, S, efer, 30, 1),
    STATE_SCALAR(STATE_U64, S, apic_base, 31, 1),
    STATE_RANGE(STATE_U64, S, sregs_flags, 32, 1, 0, KVM_SREGS2_FLAGS_PDPTRS_VALID),
    STATE_ARRAY(STATE_U64, S, pdptrs, 33, 1),
    STATE_STRUCTS_COUNTED(S, xcrs, xcr_count, &xcr_table, 40, 1),
    STATE_COUNTED(STATE_U8, S, xsave, xsave_bytes, 41, 1),
    STATE_STRUCTS_COUNTED(S, msrs, msr_count, &msr_table, 42, 1),
    STATE_SCALAR(STATE_U64, S, tsc_deadline, 43, 1),
    STATE_ARRAY(STATE_U8, S, lapic, 44, 1),
    STATE_STRUCTS(S, events, &events_table, 45, 1),
    STATE_ARRAY(STATE_U64, S, debug_addresses, 46, 1),
    STATE_SCALAR(STATE_U64, S, dr6, 47, 1),
    STATE_SCALAR(STATE_U64, S, dr7, 48, 1),
    STATE_RANGE(STATE_U32, S, mp_state, 49, 1, 0, KVM_MP_STATE_SIPI_RECEIVED),
};
#undef S

static int check_vcpu(const void *loaded, const struct state_context *context,
                      struct ferry_error *err)
{
    const struct vcpu_state *state = loaded;
    (void)context;
    if (state->xsave_bytes < VCPU_XSAVE_LEAST || state->xsave_bytes % 4)
        return ferry_refuse(err, -EBADMSG, "vcpu", "xsave: %u bytes are no XSAVE area",
                            state->xsave_bytes);
    for (uint32_t i = 1; i < state->msr_count; i++)
        if (state->msrs[i].index <= state->msrs[i - 1].index)
            return ferry_refuse(err, -EBADMSG, "vcpu", "msrs: 0x%x is out of order",
                                state->msrs[i].index);
    return 0;
}

const struct state_table vcpu_table = {
    .name = "vcpu",
    .version = 1,
    .size = sizeof(struct vcpu_state),
    .fields = vcpu_fields,
    .field_count = COUNT(vcpu_fields),
    .check = check_vcpu,
};

void vcpu_part(struct vcpu_source *source, struct part *part)
{
    *part = (struct part){.table = &vcpu_table,
                          .opaque = source,
                          .capture = vcpu_state_capture,
                          .accept = vcpu_state_accept,
                          .commit = vcpu_state_commit};
    snprintf(part->name, sizeof(part->name), "vcpu%u", source->index);
}
