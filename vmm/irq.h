/*
 * Interrupts and doorbells: lines of the in-kernel PIC and IOAPIC, MSI routes behind eventfds
 * (irqfd), and eventfds that ring when the guest writes somewhere (ioeventfd).
 */
#ifndef FERRY_VMM_IRQ_H
#define FERRY_VMM_IRQ_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct irq;

/* On the KVM VM vm_fd, whose irqchip exists (KVM_CREATE_IRQCHIP).  vm_fd stays the caller's. */
int irq_create(int vm_fd, struct irq **out, struct ferry_error *err);
void irq_destroy(struct irq *irq);

/* Drive line gsi (KVM_IRQ_LINE).  Any thread. */
void irq_set_line(struct irq *irq, unsigned gsi, bool high);

/*
 * An MSI route and its eventfd: writing 1 to *fd sends the message last set.  The GSI is chosen
 * here.  The route starts without a message; the eventfd belongs to irq.
 */
int irq_msi_alloc(struct irq *irq, unsigned *gsi, int *fd, struct ferry_error *err);
void irq_msi_free(struct irq *irq, unsigned gsi);
/* KVM_SET_GSI_ROUTING.  Setting the message that is already there costs nothing. */
int irq_msi_set(struct irq *irq, unsigned gsi, uint64_t address, uint32_t data,
                struct ferry_error *err);

/* Ring fd on guest writes of `length` bytes (0: any) at address (KVM_IOEVENTFD); pio: a port. */
int irq_doorbell_add(struct irq *irq, uint64_t address, unsigned length, bool pio, int fd,
                     struct ferry_error *err);
void irq_doorbell_remove(struct irq *irq, uint64_t address, unsigned length, bool pio, int fd);

#endif
