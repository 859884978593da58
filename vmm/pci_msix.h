/*
 * MSI-X of one PCI function (PCI Local Bus 3.0, 6.8.2): the table and the pending bits that lie in
 * a BAR, and the way from "vector n" to the guest's local APIC (irqfd).
 *
 * A vector is live when MSI-X is enabled and neither the function nor the vector is masked; only
 * then does raising it reach the guest, otherwise its pending bit is set and the message goes out
 * when the mask is lifted.
 */
#ifndef FERRY_VMM_PCI_MSIX_H
#define FERRY_VMM_PCI_MSIX_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/log.h"
#include "vmm/irq.h"
#include "vmm/state.h"

#define PCI_MSIX_VECTORS    64     /* most vectors of a function */
#define PCI_MSIX_BAR_BYTES  4096u  /* of the BAR that holds both structures */
#define MSIX_PENDING_OFFSET 0x800u /* the table lies at 0 */

/* One vector as it is written down. */
struct pci_msix_vector {
    uint64_t address;
    uint32_t data;
    uint32_t control; /* bit 0: masked */
    bool pending;
};
extern const struct state_table pci_msix_vector_table;

struct pci_msix {
    pthread_mutex_t lock; /* a leaf: nothing but irq's own lock is taken under it */
    struct irq *irq;
    const struct log *log;
    unsigned count;
    bool enabled;
    bool masked; /* the whole function */
    struct pci_msix_vector vectors[PCI_MSIX_VECTORS];
    unsigned gsi[PCI_MSIX_VECTORS];
    int fd[PCI_MSIX_VECTORS];
};

/* count vectors, 1..PCI_MSIX_VECTORS, each with its route and eventfd.  irq and log must outlive.
 */
int pci_msix_init(struct pci_msix *msix, struct irq *irq, const struct log *log, unsigned count,
                  struct ferry_error *err);
void pci_msix_destroy(struct pci_msix *msix);
/* All vectors masked and without a message, MSI-X disabled. */
void pci_msix_reset(struct pci_msix *msix);
/* Send vector's message, or note it as pending.  Any thread.  A vector past the table is nothing.
 */
void pci_msix_raise(struct pci_msix *msix, unsigned vector);
/* Message Control was written: bits 15 (enable) and 14 (function mask) count. */
void pci_msix_set_control(struct pci_msix *msix, uint16_t control);
/* Handlers of the BAR, opaque: the struct pci_msix.  The caller (the bus) holds its lock. */
uint64_t pci_msix_read(void *opaque, uint64_t offset, unsigned size);
void pci_msix_write(void *opaque, uint64_t offset, uint64_t value, unsigned size);
void pci_msix_capture(struct pci_msix *msix, struct pci_msix_vector *vectors);
/* count entries of checked state; control as in pci_msix_set_control. */
void pci_msix_commit(struct pci_msix *msix, const struct pci_msix_vector *vectors,
                     uint16_t control);

#endif
