/*
 * A machine without vCPUs for tests of PCI and virtio: RAM, buses, the PCI root, and a small driver
 * that works as Linux does: through configuration space, BARs and rings in guest RAM.
 *
 * Without a KVM VM (vm_fd -1) interrupts end in eventfds that the test reads, and kicks reach the
 * device through the bus.
 */
#ifndef FERRY_TESTS_SUPPORT_VIRTIO_RIG_H
#define FERRY_TESTS_SUPPORT_VIRTIO_RIG_H

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "vmm/device.h"
#include "vmm/pci.h"
#include "vmm/platform.h"
#include "vmm/virtio_pci.h"

#define RIG_RAM_BYTES (16u << 20)

struct rig {
    struct platform platform;
    struct pci *pci;
    unsigned resets; /* PLATFORM_RESET requests seen */
};

void rig_create(struct rig *rig, int vm_fd);
void rig_destroy(struct rig *rig); /* after its devices */

uint32_t rig_config_read(struct rig *rig, unsigned slot, unsigned reg, unsigned size);
void rig_config_write(struct rig *rig, unsigned slot, unsigned reg, unsigned size, uint32_t value);
uint64_t rig_mmio_read(struct rig *rig, uint64_t address, unsigned size);
void rig_mmio_write(struct rig *rig, uint64_t address, unsigned size, uint64_t value);
/* The n-th (from 0) function with this vendor 1af4 device id; fails the test if there is none. */
unsigned rig_find(struct rig *rig, uint16_t device_id, unsigned n);
/* RAM by guest address. */
void *rig_ram(struct rig *rig, uint64_t gpa);

/* A state context whose ram_contains knows the rig's RAM. */
struct state_context rig_context(struct rig *rig);
/* Capture and save; the caller frees it with writer_free. */
struct writer rig_save(struct device *device);
/* Load, accept, commit; the first error.  The device must be quiesced. */
int rig_load(struct rig *rig, struct device *device, const void *data, size_t size,
             struct ferry_error *err);

/* ---- the driver ---- */

#define DRIVER_QUEUE_GPA UINT64_C(0x10000)  /* rings of queue 0 */
#define DRIVER_DATA_GPA  UINT64_C(0x100000) /* buffers from here on */

struct driver_queue {
    uint16_t size;
    uint64_t desc, avail, used;
    uint16_t avail_index; /* next to publish */
    uint16_t used_index;  /* next to look at */
};

struct driver {
    struct rig *rig;
    unsigned slot;
    uint64_t common, isr, config, notify; /* addresses */
    uint32_t notify_step;
    uint64_t features;
    struct driver_queue queue;
};

struct driver_buffer {
    uint64_t gpa;
    uint32_t size;
    bool writable;
};

/* Enable decoding and find the structures through the capabilities. */
void driver_probe(struct driver *driver, struct rig *rig, unsigned slot);
uint64_t driver_offered(struct driver *driver);
/* Reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK: whether the device kept it. */
bool driver_negotiate(struct driver *driver, uint64_t features);
/* Queue 0 with `size` entries at DRIVER_QUEUE_GPA, its vector 0, and enable it. */
void driver_setup_queue(struct driver *driver, uint16_t size);
void driver_ready(struct driver *driver); /* DRIVER_OK */
uint8_t driver_status(struct driver *driver);
/* MSI-X on, every vector unmasked with a message of its own. */
void driver_enable_msix(struct driver *driver);
/* probe, negotiate all that is offered but `without`, MSI-X, queue, ready. */
void driver_start(struct driver *driver, struct rig *rig, unsigned slot, uint64_t without);

/* Descriptors first.. of queue 0 become a chain of the buffers; not yet available. */
void driver_chain(struct driver *driver, uint16_t first, const struct driver_buffer *buffers,
                  unsigned count);
/* The same in an indirect table at `table`, one descriptor in the ring. */
void driver_chain_indirect(struct driver *driver, uint16_t first, uint64_t table,
                           const struct driver_buffer *buffers, unsigned count);
void driver_set_descriptor(struct driver *driver, uint64_t table, uint16_t index, uint64_t gpa,
                           uint32_t size, uint16_t flags, uint16_t next);
void driver_publish(struct driver *driver, uint16_t head); /* into the available ring */
void driver_kick(struct driver *driver);
/* Wait until one more chain is used (fails the test after a long while); its id and length. */
uint32_t driver_wait(struct driver *driver, uint32_t *length);
bool driver_has_used(struct driver *driver);
/* Wait until the status has all of these bits. */
void driver_wait_status(struct driver *driver, uint8_t bits);

/* One block request, data at DRIVER_DATA_GPA: the status byte; length: of the used entry. */
uint8_t driver_block(struct driver *driver, uint32_t type, uint64_t sector, uint32_t size,
                     bool to_device, bool indirect, uint32_t *length);

#endif
