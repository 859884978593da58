/*
 * State of the interrupt controllers and the timer in the kernel: sections "pic" (both 8259A),
 * "ioapic" and "pit".  Sources: KVM_GET_IRQCHIP, KVM_GET_PIT2 (api.rst 4.26, 4.71).
 */
#ifndef FERRY_VMM_IRQCHIP_STATE_H
#define FERRY_VMM_IRQCHIP_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/part.h"

#define IOAPIC_PINS 24

struct pic_chip_state {
    uint8_t last_irr, irr, imr, isr;
    uint8_t priority_add, irq_base;
    uint8_t read_reg_select, poll, special_mask, init_state;
    uint8_t auto_eoi, rotate_on_auto_eoi, special_fully_nested_mode, init4;
    uint8_t elcr, elcr_mask;
};

struct pic_state {
    struct pic_chip_state chips[2];
};

struct ioapic_state {
    uint64_t base_address;
    uint32_t ioregsel;
    uint32_t apic_id;
    uint32_t irr;
    uint64_t redirection[IOAPIC_PINS];
};

struct pit_channel_state {
    uint32_t count;
    uint16_t latched_count;
    uint8_t count_latched, status_latched, status;
    uint8_t read_state, write_state, write_latch;
    uint8_t rw_mode, mode, bcd, gate;
    uint64_t age_ns; /* since the count was loaded */
};

struct pit_state {
    struct pit_channel_state channels[3];
    uint32_t flags; /* KVM_PIT_FLAGS_* */
};

extern const struct state_table pic_table;
extern const struct state_table ioapic_table;
extern const struct state_table pit_table;

/* vm_fd: points to the VM's descriptor, must outlive the part.  After the vCPUs in a load: an
 * interrupt that the IOAPIC then delivers again must find the LAPICs in place. */
void pic_part(int *vm_fd, struct part *part);
void ioapic_part(int *vm_fd, struct part *part);
void pit_part(int *vm_fd, struct part *part);

#endif
