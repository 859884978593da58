/*
 * What is written down of the transport: the PCI function, the registers of the common
 * configuration structure, and each queue's registers and positions.  Requests in flight are not: a
 * quiesced device has none.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stddef.h>
#include <string.h>

#include "common/cleanup.h"
#include "vmm/virtio_pci.h"

#define STATUS_BITS                                                                     \
    (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK | \
     VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)
#define ISR_BITS 3

static bool any_queue_enabled(const struct virtio_state *state)
{
    for (uint32_t n = 0; n < state->queue_count; n++) {
        if (state->queues[n].enabled)
            return true;
    }
    return false;
}

static int check_state(const void *in, const struct state_context *context, struct ferry_error *err)
{
    const struct virtio_state *state = in;
    bool features_ok = state->status & VIRTIO_CONFIG_S_FEATURES_OK;
    (void)context;
    if (state->status & ~STATUS_BITS)
        return ferry_refuse(err, -EINVAL, "virtio", "status %#x has bits that do not exist",
                            state->status);
    if (features_ok && !(state->driver_features >> VIRTIO_F_VERSION_1 & 1))
        return ferry_refuse(err, -EINVAL, "virtio", "features were agreed on without VERSION_1");
    if (!features_ok && (any_queue_enabled(state) || (state->status & VIRTIO_CONFIG_S_DRIVER_OK)))
        return ferry_refuse(err, -EINVAL, "virtio", "a driver is at work without agreed features");
    return 0;
}

static const struct state_field fields[] = {
    STATE_STRUCTS(struct virtio_state, pci, &pci_function_table, 1, 1),
    STATE_SCALAR(STATE_U64, struct virtio_state, driver_features, 2, 1),
    STATE_SCALAR(STATE_U8, struct virtio_state, status, 3, 1),
    STATE_RANGE(STATE_U8, struct virtio_state, isr, 4, 1, 0, ISR_BITS),
    STATE_SCALAR(STATE_U32, struct virtio_state, device_feature_select, 5, 1),
    STATE_SCALAR(STATE_U32, struct virtio_state, driver_feature_select, 6, 1),
    STATE_SCALAR(STATE_U16, struct virtio_state, queue_select, 7, 1),
    STATE_SCALAR(STATE_U16, struct virtio_state, config_vector, 8, 1),
    STATE_SCALAR(STATE_U8, struct virtio_state, window_bar, 9, 1),
    STATE_SCALAR(STATE_U32, struct virtio_state, window_offset, 10, 1),
    STATE_SCALAR(STATE_U32, struct virtio_state, window_length, 11, 1),
    STATE_STRUCTS_COUNTED(struct virtio_state, queues, queue_count, &virtqueue_table, 12, 1),
};

const struct state_table virtio_table = {
    .name = "virtio",
    .version = 1,
    .size = sizeof(struct virtio_state),
    .fields = fields,
    .field_count = sizeof(fields) / sizeof(fields[0]),
    .check = check_state,
};

/* The window's fields lie in configuration space. */
static uint8_t *window(struct virtio_device *virtio, size_t field)
{
    return virtio->pci.config + virtio->window + field;
}

void virtio_capture(struct virtio_device *virtio, struct virtio_state *state)
{
    pci_function_capture(&virtio->pci, &state->pci[0]);
    LOCK_SCOPE(&virtio->lock);
    state->driver_features = virtio->driver_features;
    state->status = virtio->status;
    state->isr = virtio->isr;
    state->device_feature_select = virtio->device_feature_select;
    state->driver_feature_select = virtio->driver_feature_select;
    state->queue_select = virtio->queue_select;
    state->config_vector = virtio->config_vector;
    state->window_bar = *window(virtio, offsetof(struct virtio_pci_cap, bar));
    memcpy(&state->window_offset, window(virtio, offsetof(struct virtio_pci_cap, offset)), 4);
    memcpy(&state->window_length, window(virtio, offsetof(struct virtio_pci_cap, length)), 4);
    state->queue_count = virtio->traits->queues;
    for (unsigned n = 0; n < virtio->traits->queues; n++)
        state->queues[n] = virtio->queues[n].registers;
}

static bool vector_exists(const struct virtio_device *virtio, uint16_t vector)
{
    return vector < virtio->msix.count || vector == VIRTIO_MSI_NO_VECTOR;
}

int virtio_accept(const struct virtio_device *virtio, const struct virtio_state *state,
                  struct ferry_error *err)
{
    uint64_t unknown = state->driver_features & ~virtio->offered;
    int rc = pci_function_accept(&virtio->pci, &state->pci[0], err);
    if (rc)
        return rc;
    /* Before FEATURES_OK the driver may have written anything. */
    if ((state->status & VIRTIO_CONFIG_S_FEATURES_OK) && unknown)
        return ferry_refuse(err, -EINVAL, virtio->name, "features %#llx are not offered here",
                            (unsigned long long)unknown);
    if (state->queue_count != virtio->traits->queues)
        return ferry_refuse(err, -EINVAL, virtio->name, "%u queues instead of %u",
                            state->queue_count, virtio->traits->queues);
    if (!vector_exists(virtio, state->config_vector))
        return ferry_refuse(err, -EINVAL, virtio->name, "there is no MSI-X vector %u",
                            state->config_vector);
    for (uint32_t n = 0; n < state->queue_count; n++) {
        const struct virtqueue_state *queue = &state->queues[n];
        if (queue->size > virtio->traits->queue_size)
            return ferry_refuse(err, -EINVAL, virtio->name, "queue %u has %u entries, %u at most",
                                n, queue->size, virtio->traits->queue_size);
        if (!vector_exists(virtio, queue->vector))
            return ferry_refuse(err, -EINVAL, virtio->name, "there is no MSI-X vector %u",
                                queue->vector);
    }
    return 0;
}

static void commit_queue(struct virtio_device *virtio, struct virtqueue *queue,
                         const struct virtqueue_state *state)
{
    virtqueue_reset(queue, virtio->traits->queue_size);
    queue->registers = *state;
}

static void commit_registers(struct virtio_device *virtio, const struct virtio_state *state)
{
    virtio->driver_features = state->driver_features;
    virtio->isr = state->isr;
    virtio->device_feature_select = state->device_feature_select;
    virtio->driver_feature_select = state->driver_feature_select;
    virtio->queue_select = state->queue_select;
    virtio->config_vector = state->config_vector;
    *window(virtio, offsetof(struct virtio_pci_cap, bar)) = state->window_bar;
    memcpy(window(virtio, offsetof(struct virtio_pci_cap, offset)), &state->window_offset, 4);
    memcpy(window(virtio, offsetof(struct virtio_pci_cap, length)), &state->window_length, 4);
    for (uint32_t n = 0; n < state->queue_count; n++)
        commit_queue(virtio, &virtio->queues[n], &state->queues[n]);
    if (state->status & VIRTIO_CONFIG_S_FEATURES_OK)
        virtio_accept_features(virtio);
    virtio->status = state->status;
}

void virtio_commit(struct virtio_device *virtio, const struct virtio_state *state)
{
    virtio_worker_park(&virtio->worker);
    pci_function_commit(&virtio->pci, &state->pci[0]);
    pthread_mutex_lock(&virtio->lock);
    commit_registers(virtio, state);
    virtio_sync_doorbells(virtio);
    virtio->loaded = true;
    pthread_mutex_unlock(&virtio->lock);
    virtio_worker_unpark(&virtio->worker);
}
