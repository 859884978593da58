/*
 * The PCI root: one bus of up to 32 single-function devices, reached by configuration mechanism #1
 * (ports 0xcf8, 0xcfc) and by ECAM, behind a host bridge at 00:00.0 that is a device of its own
 * ("pci").  Port 0xcf9 in the middle of it is the reset control register.
 *
 * There is no firmware: a function's memory BARs are assigned when it is attached, decoding off,
 * and the guest may move them.  There are no INTx lines: interrupts are MSI-X.
 *
 * Locks: all configuration accesses hold the root's lock.  Handlers of BARs hold the lock their
 * region names.  Order: root, then function, then MSI-X.  bus_add, bus_remove and bus_move are
 * called with the root's lock held, from within a bus handler.
 */
#ifndef FERRY_VMM_PCI_H
#define FERRY_VMM_PCI_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "vmm/bus.h"
#include "vmm/device.h"
#include "vmm/pci_msix.h"
#include "vmm/platform.h"
#include "vmm/state.h"

#define PCI_SLOTS        32
#define PCI_BARS         6
#define PCI_CONFIG_BYTES 256

struct pci;
struct pci_function;

/* ---- what a function is made of ---- */

struct pci_identity {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; /* 24 bits: class, subclass, programming interface */
    uint8_t revision;
};

struct pci_function_ops {
    /* The BAR answers at address now, or (mapped false) nowhere.  The root's lock is held. */
    void (*bar_moved)(struct pci_function *function, unsigned bar, bool mapped, uint64_t address);
    /* Configuration accesses of 1, 2 or 4 bytes that the function wants for itself: true if it has
     * answered.  May be NULL.  The root's lock is held. */
    bool (*config_read)(struct pci_function *function, unsigned offset, unsigned size,
                        uint32_t *value);
    bool (*config_write)(struct pci_function *function, unsigned offset, unsigned size,
                         uint32_t value);
};

struct pci_bar {
    struct bus_region region; /* size 0: no such BAR; start: where it is mapped */
    uint64_t assigned;        /* address given at attach */
    bool wide;                /* 64 bits: this register and the next */
    bool mapped;
};

/* Embedded in a device. */
struct pci_function {
    struct pci *pci; /* NULL: not attached */
    unsigned slot;   /* device number */
    const struct pci_function_ops *ops;
    uint8_t config[PCI_CONFIG_BYTES];   /* what the guest reads */
    uint8_t writable[PCI_CONFIG_BYTES]; /* bits it may change */
    uint8_t initial[PCI_CONFIG_BYTES];  /* config after reset */
    unsigned capability_end;            /* first free byte behind the capabilities */
    unsigned capability_last;           /* offset of the last one, 0: none */
    struct pci_bar bars[PCI_BARS];
    struct pci_msix *msix; /* NULL: none */
    unsigned msix_offset;  /* of the capability */
};

/* A function as it is written down: one element in its device's state struct. */
struct pci_function_state {
    uint8_t slot;
    uint16_t device_id;
    uint16_t command;
    uint8_t cache_line_size;
    uint8_t latency_timer;
    uint8_t interrupt_line;
    uint32_t bars[PCI_BARS]; /* the registers */
    uint16_t msix_control;
    uint32_t msix_count;
    struct pci_msix_vector msix[PCI_MSIX_VECTORS];
};
extern const struct state_table pci_function_table;

void pci_function_init(struct pci_function *function, const struct pci_identity *identity,
                       const struct pci_function_ops *ops);
/*
 * BAR `index` of region->size bytes, a power of two from 4096 up.  region gives name, lock, opaque
 * and handlers and is copied.  wide: 64 bits, takes index + 1 too.
 */
void pci_function_add_bar(struct pci_function *function, unsigned index,
                          const struct bus_region *region, bool wide);
/* A capability of `size` bytes behind its two-byte header; returns its offset. */
unsigned pci_function_add_capability(struct pci_function *function, uint8_t id, const void *body,
                                     unsigned size);
/* MSI-X with its structures in BAR `bar` (made here).  msix stays the caller's. */
void pci_function_add_msix(struct pci_function *function, unsigned bar, struct pci_msix *msix);
/* Put a finished function at the next free slot and assign its BARs.  -ENOSPC: bus or window full
 */
int pci_attach(struct pci *pci, struct pci_function *function, struct ferry_error *err);
void pci_detach(struct pci_function *function); /* not attached: nothing */

/* The calls of a device's life, for its own part. */
void pci_function_reset(struct pci_function *function);
void pci_function_capture(struct pci_function *function, struct pci_function_state *state);
int pci_function_accept(const struct pci_function *function, const struct pci_function_state *state,
                        struct ferry_error *err);
void pci_function_commit(struct pci_function *function, const struct pci_function_state *state);

/* A configuration access as the root makes it; size 1, 2 or 4 within a double word. */
uint32_t pci_function_read(struct pci_function *function, unsigned offset, unsigned size);
void pci_function_write(struct pci_function *function, unsigned offset, unsigned size,
                        uint32_t value);

/* ---- the root ---- */

/* State of the section "pci". */
struct pci_state {
    uint32_t config_address; /* 0xcf8 */
    uint8_t reset_control;   /* 0xcf9 */
    struct pci_function_state bridge[1];
};
extern const struct state_table pci_table;

/* On platform's buses.  Create it before and destroy it after every device that attaches. */
int pci_create(const struct platform *platform, struct pci **out, struct ferry_error *err);
/* The root as a device of the machine's list; its destroy frees the root. */
struct device *pci_device(struct pci *pci);

/* For pci_function.c: the root's lock, and (with it held) putting every BAR where it belongs now.
 */
pthread_mutex_t *pci_lock(struct pci *pci);
void pci_remap(struct pci *pci);

#endif
