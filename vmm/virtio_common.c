/*
 * The common configuration structure (virtio 1.2, 4.1.4.3): what the driver reads and writes to
 * find the features, to set up the queues and to drive the status state machine (3.1.1).
 *
 * Reads build the whole structure and cut out what was asked for; writes count only with the width
 * of a field (4.1.3.1), two fields of 32 bits at once included.  A write that the specification
 * forbids at that moment (features after FEATURES_OK, a queue's registers while it is enabled,
 * clearing status bits) does nothing.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "vmm/virtio_pci.h"

#define DRIVER_STATUS                                                                   \
    (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK | \
     VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED)

static uint32_t feature_word(uint64_t features, uint32_t select)
{
    return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

static struct virtqueue *selected(struct virtio_device *virtio)
{
    return virtio->queue_select < virtio->traits->queues ? &virtio->queues[virtio->queue_select]
                                                         : NULL;
}

uint32_t virtio_register_read(struct virtio_device *virtio, uint64_t offset, unsigned size)
{
    struct virtio_pci_common_cfg common = {
        .device_feature_select = virtio->device_feature_select,
        .device_feature = feature_word(virtio->offered, virtio->device_feature_select),
        .guest_feature_select = virtio->driver_feature_select,
        .guest_feature = feature_word(virtio->driver_features, virtio->driver_feature_select),
        .msix_config = virtio->config_vector,
        .num_queues = (uint16_t)virtio->traits->queues,
        .device_status = virtio->status,
        .queue_select = virtio->queue_select,
        .queue_msix_vector = VIRTIO_MSI_NO_VECTOR,
    };
    const struct virtqueue *queue = selected(virtio);
    if (queue) {
        const struct virtqueue_state *r = &queue->registers;
        common.queue_size = r->size;
        common.queue_msix_vector = r->vector;
        common.queue_enable = r->enabled;
        common.queue_notify_off = virtio->queue_select;
        common.queue_desc_lo = (uint32_t)r->desc;
        common.queue_desc_hi = (uint32_t)(r->desc >> 32);
        common.queue_avail_lo = (uint32_t)r->avail;
        common.queue_avail_hi = (uint32_t)(r->avail >> 32);
        common.queue_used_lo = (uint32_t)r->used;
        common.queue_used_hi = (uint32_t)(r->used >> 32);
    }
    uint32_t value = 0;
    if (size <= sizeof(value) && offset <= sizeof(common) - size)
        memcpy(&value, (const uint8_t *)&common + offset, size);
    return value;
}

/* ---- status ---- */

void virtio_reset_registers(struct virtio_device *virtio)
{
    virtio_worker_park(&virtio->worker);
    virtio->driver_features = 0;
    virtio->device_feature_select = virtio->driver_feature_select = 0;
    virtio->queue_select = 0;
    virtio->config_vector = VIRTIO_MSI_NO_VECTOR;
    virtio->isr = 0;
    for (unsigned n = 0; n < virtio->traits->queues; n++)
        virtqueue_reset(&virtio->queues[n], virtio->traits->queue_size);
    if (virtio->traits->reset)
        virtio->traits->reset(virtio);
    virtio_sync_doorbells(virtio);
    virtio->status = 0;
    virtio_worker_unpark(&virtio->worker);
}

/* 6.1: what was accepted must have been offered, and nothing older than virtio 1 is spoken. */
static bool features_are_fine(const struct virtio_device *virtio)
{
    return !(virtio->driver_features & ~virtio->offered) &&
           virtio_negotiated(virtio, VIRTIO_F_VERSION_1);
}

void virtio_accept_features(struct virtio_device *virtio)
{
    for (unsigned n = 0; n < virtio->traits->queues; n++) {
        struct virtqueue *queue = &virtio->queues[n];
        queue->event_index = virtio_negotiated(virtio, VIRTIO_RING_F_EVENT_IDX);
        queue->indirect = virtio_negotiated(virtio, VIRTIO_RING_F_INDIRECT_DESC);
    }
}

static void write_status(struct virtio_device *virtio, uint8_t value)
{
    if (value == 0) {
        virtio_reset_registers(virtio);
        return;
    }
    uint8_t status = virtio->status;
    uint8_t new_bits = value & DRIVER_STATUS & ~status;
    if ((new_bits & VIRTIO_CONFIG_S_FEATURES_OK) && !features_are_fine(virtio))
        new_bits &= ~VIRTIO_CONFIG_S_FEATURES_OK;
    if (new_bits & VIRTIO_CONFIG_S_FEATURES_OK)
        virtio_accept_features(virtio);
    if (!((status | new_bits) & VIRTIO_CONFIG_S_FEATURES_OK))
        new_bits &= ~VIRTIO_CONFIG_S_DRIVER_OK;
    atomic_fetch_or(&virtio->status, new_bits);
    if (new_bits & VIRTIO_CONFIG_S_DRIVER_OK)
        virtio_worker_ring(&virtio->worker); /* kicks may have come too early */
}

/* ---- queues ---- */

/* 4.1.4.3.2: a vector that does not exist reads back as "no vector". */
static uint16_t checked_vector(const struct virtio_device *virtio, uint32_t value)
{
    return value < virtio->msix.count ? (uint16_t)value : VIRTIO_MSI_NO_VECTOR;
}

static void enable_queue(struct virtio_device *virtio, struct virtqueue *queue)
{
    uint8_t status = virtio->status;
    if (!(status & VIRTIO_CONFIG_S_FEATURES_OK) || (status & VIRTIO_CONFIG_S_DRIVER_OK))
        return;
    if (!virtqueue_is_sound(queue)) {
        virtio_mark_broken(virtio, "a queue lies outside of memory or is not aligned");
        return;
    }
    queue->registers.enabled = true;
    virtio_sync_doorbells(virtio);
}

static void set_low(uint64_t *address, uint32_t value)
{
    *address = (*address & ~(uint64_t)UINT32_MAX) | value;
}

static void set_high(uint64_t *address, uint32_t value)
{
    *address = (*address & UINT32_MAX) | (uint64_t)value << 32;
}

static void write_queue_size(struct virtio_device *virtio, struct virtqueue_state *r,
                             uint32_t value)
{
    bool power_of_two = value != 0 && (value & (value - 1)) == 0;
    if (power_of_two && value <= virtio->traits->queue_size)
        r->size = (uint16_t)value;
}

/* Registers that are frozen while the queue is enabled. */
static void write_queue(struct virtio_device *virtio, struct virtqueue *queue, uint64_t field,
                        uint32_t value)
{
    struct virtqueue_state *r = &queue->registers;
    if (r->enabled)
        return;
    switch (field) {
    case VIRTIO_PCI_COMMON_Q_SIZE:
        write_queue_size(virtio, r, value);
        break;
    case VIRTIO_PCI_COMMON_Q_ENABLE:
        if (value == 1)
            enable_queue(virtio, queue);
        break;
    case VIRTIO_PCI_COMMON_Q_DESCLO:
        set_low(&r->desc, value);
        break;
    case VIRTIO_PCI_COMMON_Q_DESCHI:
        set_high(&r->desc, value);
        break;
    case VIRTIO_PCI_COMMON_Q_AVAILLO:
        set_low(&r->avail, value);
        break;
    case VIRTIO_PCI_COMMON_Q_AVAILHI:
        set_high(&r->avail, value);
        break;
    case VIRTIO_PCI_COMMON_Q_USEDLO:
        set_low(&r->used, value);
        break;
    case VIRTIO_PCI_COMMON_Q_USEDHI:
        set_high(&r->used, value);
        break;
    default:
        break;
    }
}

/* ---- writes, by the width of the field ---- */

static void write_u16(struct virtio_device *virtio, uint64_t field, uint16_t value)
{
    struct virtqueue *queue = selected(virtio);
    if (field == VIRTIO_PCI_COMMON_MSIX)
        virtio->config_vector = checked_vector(virtio, value);
    else if (field == VIRTIO_PCI_COMMON_Q_SELECT)
        virtio->queue_select = value;
    else if (field == VIRTIO_PCI_COMMON_Q_MSIX && queue)
        /* The worker may be looking at it. */
        __atomic_store_n(&queue->registers.vector, checked_vector(virtio, value), __ATOMIC_RELAXED);
    else if ((field == VIRTIO_PCI_COMMON_Q_SIZE || field == VIRTIO_PCI_COMMON_Q_ENABLE) && queue)
        write_queue(virtio, queue, field, value);
}

static void write_features(struct virtio_device *virtio, uint32_t value)
{
    if (virtio->status & VIRTIO_CONFIG_S_FEATURES_OK)
        return;
    if (virtio->driver_feature_select == 0)
        set_low(&virtio->driver_features, value);
    else if (virtio->driver_feature_select == 1)
        set_high(&virtio->driver_features, value);
}

static void write_u32(struct virtio_device *virtio, uint64_t field, uint32_t value)
{
    struct virtqueue *queue = selected(virtio);
    if (field == VIRTIO_PCI_COMMON_DFSELECT)
        virtio->device_feature_select = value;
    else if (field == VIRTIO_PCI_COMMON_GFSELECT)
        virtio->driver_feature_select = value;
    else if (field == VIRTIO_PCI_COMMON_GF)
        write_features(virtio, value);
    else if (field >= VIRTIO_PCI_COMMON_Q_DESCLO && queue)
        write_queue(virtio, queue, field, value);
}

void virtio_register_write(struct virtio_device *virtio, uint64_t offset, uint32_t value,
                           unsigned size)
{
    if (size == 1 && offset == VIRTIO_PCI_COMMON_STATUS)
        write_status(virtio, (uint8_t)value);
    else if (size == 2)
        write_u16(virtio, offset, (uint16_t)value);
    else if (size == 4)
        write_u32(virtio, offset, value);
}
