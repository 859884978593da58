/*
 * Modern virtio over PCI (virtio 1.2, 4.1): the part all virtio devices share.
 *
 * BAR 0 holds common configuration, ISR, device configuration and one notify address a queue; BAR 2
 * the MSI-X structures.  Kicks are ioeventfds on the notify addresses, armed while a queue is
 * enabled and BAR 0 is mapped (a write that reaches the bus handler instead rings the same
 * eventfd).  Interrupts are MSI-X vectors.  Each device has one worker thread.
 *
 * A device embeds struct virtio_device as its first member and fills a struct virtio_traits.  It is
 * born paused: its worker does nothing before the first virtio_resume.
 *
 * Locks: virtio_device.lock guards the registers that vCPUs reach; the worker never takes it.  What
 * both sides see is atomic (status, ISR, config vector), or changes only while the worker is
 * parked.
 */
#ifndef FERRY_VMM_VIRTIO_PCI_H
#define FERRY_VMM_VIRTIO_PCI_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "vmm/device.h"
#include "vmm/pci.h"
#include "vmm/platform.h"
#include "vmm/state.h"
#include "vmm/virtio_worker.h"
#include "vmm/virtqueue.h"

#define VIRTIO_QUEUES       8 /* most queues of a device */
#define VIRTIO_NAME_BYTES   16
#define VIRTIO_CONFIG_BYTES 256 /* most bytes of device configuration */

struct virtio_device;

/* What kind of device it is.  Stays the caller's for ever (static). */
struct virtio_traits {
    uint16_t type;       /* virtio device id: 2 block, 4 entropy ... */
    uint32_t class_code; /* PCI */
    unsigned queues;
    uint16_t queue_size; /* most entries of each */
    /* On the worker: take chains off the queues until they are empty or it must yield. */
    void (*work)(struct virtio_device *virtio);
    /* The driver has reset the device (own registers back); the worker is parked.  May be NULL. */
    void (*reset)(struct virtio_device *virtio);
    /* The driver wrote device configuration.  NULL: it is read-only. */
    void (*config_write)(struct virtio_device *virtio, uint64_t offset, uint64_t value,
                         unsigned size);
};

struct virtio_device {
    struct device device; /* first: the machine's list sees this */
    char name[VIRTIO_NAME_BYTES];
    const struct platform *platform;
    const struct virtio_traits *traits;
    uint64_t offered; /* feature bits */
    uint8_t config[VIRTIO_CONFIG_BYTES];
    unsigned config_size;

    struct pci_function pci;
    struct pci_msix msix;
    pthread_mutex_t lock;
    uint64_t driver_features;
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select;
    atomic_uchar status, isr;
    _Atomic uint16_t config_vector;
    unsigned window; /* offset of the PCI configuration access capability */
    struct virtqueue queues[VIRTIO_QUEUES];
    int doorbells[VIRTIO_QUEUES];
    uint64_t armed[VIRTIO_QUEUES]; /* address of the ioeventfd, 0: none */
    bool bar_mapped;
    uint64_t bar_address;
    struct virtio_worker worker;
    bool paused;
    bool loaded; /* since the last resume */
};

/* The transport as it is written down: one element in the device's state struct. */
struct virtio_state {
    struct pci_function_state pci[1];
    uint64_t driver_features;
    uint8_t status;
    uint8_t isr;
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select;
    uint16_t config_vector;
    uint8_t window_bar;
    uint32_t window_offset, window_length;
    uint32_t queue_count;
    struct virtqueue_state queues[VIRTIO_QUEUES];
};
extern const struct state_table virtio_table;

/*
 * Set up virtio in zeroed memory and attach it.  offered: device feature bits; those of the
 * transport are added.  config: device configuration, copied.  The caller has set device.table and
 * device.ops.  On failure everything is undone.
 */
int virtio_init(struct virtio_device *virtio, const struct platform *platform, struct pci *pci,
                const char *name, const struct virtio_traits *traits, uint64_t offered,
                const void *config, unsigned config_size, struct ferry_error *err);
void virtio_destroy(struct virtio_device *virtio); /* all but the memory itself */

/* The calls of a device's life, for the transport's part. */
void virtio_reset(struct virtio_device *virtio); /* by the machine */
void virtio_quiesce(struct virtio_device *virtio);
void virtio_resume(struct virtio_device *virtio);
void virtio_capture(struct virtio_device *virtio, struct virtio_state *state);
int virtio_accept(const struct virtio_device *virtio, const struct virtio_state *state,
                  struct ferry_error *err);
void virtio_commit(struct virtio_device *virtio, const struct virtio_state *state);

/* Between the files of the transport; the lock is held. */
uint32_t virtio_register_read(struct virtio_device *virtio, uint64_t offset, unsigned size);
void virtio_register_write(struct virtio_device *virtio, uint64_t offset, uint32_t value,
                           unsigned size);
void virtio_sync_doorbells(struct virtio_device *virtio);
void virtio_accept_features(struct virtio_device *virtio); /* FEATURES_OK: tell the queues */
void virtio_reset_registers(struct virtio_device *virtio);

/* For work(). */
bool virtio_negotiated(const struct virtio_device *virtio, unsigned feature);
/* True if the driver is ready, the device not broken, and the queue enabled. */
bool virtio_queue_is_live(const struct virtio_device *virtio, unsigned queue);
/* After pushes: interrupt the driver if it wants that. */
void virtio_queue_notify(struct virtio_device *virtio, unsigned queue);
/* The driver broke the rules: DEVICE_NEEDS_RESET and a configuration interrupt. */
void virtio_mark_broken(struct virtio_device *virtio, const char *why);
/* Device configuration has changed: a configuration interrupt. */
void virtio_config_changed(struct virtio_device *virtio);

#endif
