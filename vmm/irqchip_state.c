/*
 * Between KVM's structs and our state structs, which have no unions, no padding, and no times of
 * the host: the PIT's load times are on the host's monotonic clock, and are kept as ages instead.
 */
#include "vmm/irqchip_state.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/clock.h"
#include "vmm/layout.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- tables ---- */

#define S struct pic_chip_state
static const struct state_field pic_chip_fields[] = {
    STATE_SCALAR(STATE_U8, S, last_irr, 1, 1),
    STATE_SCALAR(STATE_U8, S, irr, 2, 1),
    STATE_SCALAR(STATE_U8, S, imr, 3, 1),
    STATE_SCALAR(STATE_U8, S, isr, 4, 1),
    STATE_RANGE(STATE_U8, S, priority_add, 5, 1, 0, 7),
    STATE_SCALAR(STATE_U8, S, irq_base, 6, 1),
    STATE_RANGE(STATE_U8, S, read_reg_select, 7, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, poll, 8, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, special_mask, 9, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, init_state, 10, 1, 0, 3),
    STATE_RANGE(STATE_U8, S, auto_eoi, 11, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, rotate_on_auto_eoi, 12, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, special_fully_nested_mode, 13, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, init4, 14, 1, 0, 1),
    STATE_SCALAR(STATE_U8, S, elcr, 15, 1),
    STATE_SCALAR(STATE_U8, S, elcr_mask, 16, 1),
};
#undef S

static const struct state_table pic_chip_table = {
    .name = "pic chip",
    .version = 1,
    .size = sizeof(struct pic_chip_state),
    .fields = pic_chip_fields,
    .field_count = COUNT(pic_chip_fields),
};

static const struct state_field pic_fields[] = {
    STATE_STRUCTS(struct pic_state, chips, &pic_chip_table, 1, 1),
};

const struct state_table pic_table = {
    .name = "pic",
    .version = 1,
    .size = sizeof(struct pic_state),
    .fields = pic_fields,
    .field_count = COUNT(pic_fields),
};

#define S struct ioapic_state
static const struct state_field ioapic_fields[] = {
    STATE_RANGE(STATE_U64, S, base_address, 1, 1, LAYOUT_IOAPIC, LAYOUT_IOAPIC),
    STATE_RANGE(STATE_U32, S, ioregsel, 2, 1, 0, 0xff),
    STATE_RANGE(STATE_U32, S, apic_id, 3, 1, 0, 0xff),
    STATE_RANGE(STATE_U32, S, irr, 4, 1, 0, (1u << IOAPIC_PINS) - 1),
    STATE_ARRAY(STATE_U64, S, redirection, 5, 1),
};
#undef S

const struct state_table ioapic_table = {
    .name = "ioapic",
    .version = 1,
    .size = sizeof(struct ioapic_state),
    .fields = ioapic_fields,
    .field_count = COUNT(ioapic_fields),
};

#define S struct pit_channel_state
static const struct state_field pit_channel_fields[] = {
    STATE_RANGE(STATE_U32, S, count, 1, 1, 0, 0x10000),
    STATE_SCALAR(STATE_U16, S, latched_count, 2, 1),
    STATE_RANGE(STATE_U8, S, count_latched, 3, 1, 0, 4),
    STATE_RANGE(STATE_U8, S, status_latched, 4, 1, 0, 1),
    STATE_SCALAR(STATE_U8, S, status, 5, 1),
    STATE_RANGE(STATE_U8, S, read_state, 6, 1, 0, 4),
    STATE_RANGE(STATE_U8, S, write_state, 7, 1, 0, 4),
    STATE_SCALAR(STATE_U8, S, write_latch, 8, 1),
    STATE_RANGE(STATE_U8, S, rw_mode, 9, 1, 0, 3),
    STATE_SCALAR(STATE_U8, S, mode, 10, 1), /* 0xff after reset, else 0..5 */
    STATE_RANGE(STATE_U8, S, bcd, 11, 1, 0, 1),
    STATE_RANGE(STATE_U8, S, gate, 12, 1, 0, 1),
    STATE_RANGE(STATE_U64, S, age_ns, 13, 1, 0, INT64_MAX),
};
#undef S

static int check_channel(const void *loaded, const struct state_context *context,
                         struct ferry_error *err)
{
    const struct pit_channel_state *channel = loaded;
    (void)context;
    if (channel->mode <= 5 || channel->mode == 0xff)
        return 0;
    return ferry_refuse(err, -EBADMSG, "pit", "mode: %u is no mode of the timer", channel->mode);
}

static const struct state_table pit_channel_table = {
    .name = "pit channel",
    .version = 1,
    .size = sizeof(struct pit_channel_state),
    .fields = pit_channel_fields,
    .field_count = COUNT(pit_channel_fields),
    .check = check_channel,
};

static const struct state_field pit_fields[] = {
    STATE_STRUCTS(struct pit_state, channels, &pit_channel_table, 1, 1),
    STATE_RANGE(STATE_U32, struct pit_state, flags, 2, 1, 0,
                KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON),
};

const struct state_table pit_table = {
    .name = "pit",
    .version = 1,
    .size = sizeof(struct pit_state),
    .fields = pit_fields,
    .field_count = COUNT(pit_fields),
};

/* ---- to and from KVM ---- */

static int get_chip(int vm_fd, uint32_t id, struct kvm_irqchip *chip, struct ferry_error *err)
{
    memset(chip, 0, sizeof(*chip));
    chip->chip_id = id;
    if (ioctl(vm_fd, KVM_GET_IRQCHIP, chip))
        return ferry_fail_sys(err, -errno, "KVM", "cannot read interrupt controller %u", id);
    return 0;
}

static int set_chip(int vm_fd, const struct kvm_irqchip *chip, struct ferry_error *err)
{
    if (ioctl(vm_fd, KVM_SET_IRQCHIP, chip))
        return ferry_fail_sys(err, -errno, "KVM", "cannot set interrupt controller %u",
                              chip->chip_id);
    return 0;
}

/* One list of the members that both structs have under the same name. */
#define PIC_MEMBERS(X)            \
    X(last_irr);                  \
    X(irr);                       \
    X(imr);                       \
    X(isr);                       \
    X(priority_add);              \
    X(irq_base);                  \
    X(read_reg_select);           \
    X(poll);                      \
    X(special_mask);              \
    X(init_state);                \
    X(auto_eoi);                  \
    X(rotate_on_auto_eoi);        \
    X(special_fully_nested_mode); \
    X(init4);                     \
    X(elcr);                      \
    X(elcr_mask)

static int capture_pic(void *opaque, void *out, struct ferry_error *err)
{
    struct pic_state *state = out;
    for (uint32_t i = 0; i < 2; i++) {
        struct kvm_irqchip chip;
        int rc = get_chip(*(int *)opaque, KVM_IRQCHIP_PIC_MASTER + i, &chip, err);
        if (rc)
            return rc;
#define TAKE(member) state->chips[i].member = chip.chip.pic.member
        PIC_MEMBERS(TAKE);
#undef TAKE
    }
    return 0;
}

static int commit_pic(void *opaque, const void *loaded, struct ferry_error *err)
{
    const struct pic_state *state = loaded;
    for (uint32_t i = 0; i < 2; i++) {
        struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_MASTER + i};
#define GIVE(member) chip.chip.pic.member = state->chips[i].member
        PIC_MEMBERS(GIVE);
#undef GIVE
        int rc = set_chip(*(int *)opaque, &chip, err);
        if (rc)
            return rc;
    }
    return 0;
}

static int capture_ioapic(void *opaque, void *out, struct ferry_error *err)
{
    struct ioapic_state *state = out;
    struct kvm_irqchip chip;
    int rc = get_chip(*(int *)opaque, KVM_IRQCHIP_IOAPIC, &chip, err);
    if (rc)
        return rc;
    state->base_address = chip.chip.ioapic.base_address;
    state->ioregsel = chip.chip.ioapic.ioregsel;
    state->apic_id = chip.chip.ioapic.id;
    state->irr = chip.chip.ioapic.irr;
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        state->redirection[i] = chip.chip.ioapic.redirtbl[i].bits;
    return 0;
}

static int commit_ioapic(void *opaque, const void *loaded, struct ferry_error *err)
{
    const struct ioapic_state *state = loaded;
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
    chip.chip.ioapic.base_address = state->base_address;
    chip.chip.ioapic.ioregsel = state->ioregsel;
    chip.chip.ioapic.id = state->apic_id;
    chip.chip.ioapic.irr = state->irr;
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        chip.chip.ioapic.redirtbl[i].bits = state->redirection[i];
    return set_chip(*(int *)opaque, &chip, err);
}

#define PIT_MEMBERS(X) \
    X(count);          \
    X(latched_count);  \
    X(count_latched);  \
    X(status_latched); \
    X(status);         \
    X(read_state);     \
    X(write_state);    \
    X(write_latch);    \
    X(rw_mode);        \
    X(mode);           \
    X(bcd);            \
    X(gate)

static int capture_pit(void *opaque, void *out, struct ferry_error *err)
{
    struct pit_state *state = out;
    struct kvm_pit_state2 pit = {0};

    if (ioctl(*(int *)opaque, KVM_GET_PIT2, &pit))
        return ferry_fail_sys(err, -errno, "KVM", "KVM_GET_PIT2 failed");
    int64_t now = (int64_t)monotonic_ns();
    state->flags = pit.flags;
    for (unsigned i = 0; i < 3; i++) {
        int64_t loaded_at = pit.channels[i].count_load_time;
#define TAKE(member) state->channels[i].member = pit.channels[i].member
        PIT_MEMBERS(TAKE);
#undef TAKE
        state->channels[i].age_ns = now > loaded_at ? (uint64_t)(now - loaded_at) : 0;
    }
    return 0;
}

static int commit_pit(void *opaque, const void *loaded, struct ferry_error *err)
{
    const struct pit_state *state = loaded;
    struct kvm_pit_state2 pit = {.flags = state->flags};
    int64_t now = (int64_t)monotonic_ns();

    for (unsigned i = 0; i < 3; i++) {
#define GIVE(member) pit.channels[i].member = state->channels[i].member
        PIT_MEMBERS(GIVE);
#undef GIVE
        pit.channels[i].count_load_time = now - (int64_t)state->channels[i].age_ns;
    }
    if (ioctl(*(int *)opaque, KVM_SET_PIT2, &pit))
        return ferry_fail_sys(err, -errno, "KVM", "KVM_SET_PIT2 failed");
    return 0;
}

void pic_part(int *vm_fd, struct part *part)
{
    *part = (struct part){.name = "pic",
                          .table = &pic_table,
                          .opaque = vm_fd,
                          .capture = capture_pic,
                          .commit = commit_pic};
}

void ioapic_part(int *vm_fd, struct part *part)
{
    *part = (struct part){.name = "ioapic",
                          .table = &ioapic_table,
                          .opaque = vm_fd,
                          .capture = capture_ioapic,
                          .commit = commit_ioapic};
}

void pit_part(int *vm_fd, struct part *part)
{
    *part = (struct part){.name = "pit",
                          .table = &pit_table,
                          .opaque = vm_fd,
                          .capture = capture_pit,
                          .commit = commit_pit};
}
