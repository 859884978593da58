/*
 * The transport: one BAR with four structures, found by the driver through vendor capabilities
 * (virtio 1.2, 4.1.4), doorbells, interrupts, and the life of a virtio device.  The common
 * configuration structure is in virtio_common.c, what is written down in virtio_state.c.
 */
#include "vmm/virtio_pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/cleanup.h"

#define BAR_REGISTERS 0 /* 64 bits wide: takes BAR 1 too */
#define BAR_MSIX      2

/* Within BAR 0, a page each */
#define COMMON_OFFSET 0x0000
#define ISR_OFFSET    0x1000
#define DEVICE_OFFSET 0x2000
#define NOTIFY_OFFSET 0x3000
#define BAR_BYTES     0x4000
#define PART_BYTES    0x1000
#define NOTIFY_STEP   4 /* notify_off_multiplier */

#define PCI_VENDOR_REDHAT   0x1af4
#define PCI_DEVICE_VIRTIO   0x1040 /* plus the virtio device id */
#define PCI_REVISION_MODERN 1
#define WINDOW_BAR          offsetof(struct virtio_pci_cap, bar)
#define WINDOW_OFFSET       offsetof(struct virtio_pci_cap, offset)
#define WINDOW_LENGTH       offsetof(struct virtio_pci_cap, length)
#define WINDOW_DATA         offsetof(struct virtio_pci_cfg_cap, pci_cfg_data)
#define TRANSPORT_FEATURES                                                        \
    (UINT64_C(1) << VIRTIO_F_VERSION_1 | UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX | \
     UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC)

/* ---- interrupts ---- */

static void interrupt(struct virtio_device *virtio, uint16_t vector, uint8_t isr)
{
    atomic_fetch_or(&virtio->isr, isr);
    if (vector != VIRTIO_MSI_NO_VECTOR)
        pci_msix_raise(&virtio->msix, vector);
}

static void interrupt_queue(struct virtio_device *virtio, unsigned queue)
{
    uint16_t vector = __atomic_load_n(&virtio->queues[queue].registers.vector, __ATOMIC_RELAXED);
    interrupt(virtio, vector, 1);
}

void virtio_config_changed(struct virtio_device *virtio)
{
    interrupt(virtio, virtio->config_vector, VIRTIO_PCI_ISR_CONFIG);
}

void virtio_queue_notify(struct virtio_device *virtio, unsigned queue)
{
    int wanted = virtqueue_must_interrupt(&virtio->queues[queue]);
    if (wanted < 0)
        virtio_mark_broken(virtio, "the available ring is not in memory");
    else if (wanted)
        interrupt_queue(virtio, queue);
}

void virtio_mark_broken(struct virtio_device *virtio, const char *why)
{
    uint8_t before = atomic_fetch_or(&virtio->status, VIRTIO_CONFIG_S_NEEDS_RESET);
    if (before & VIRTIO_CONFIG_S_NEEDS_RESET)
        return;
    log_warn(virtio->platform->log, "%s: the guest's driver broke the rules: %s", virtio->name,
             why);
    if (before & VIRTIO_CONFIG_S_DRIVER_OK)
        virtio_config_changed(virtio);
}

bool virtio_negotiated(const struct virtio_device *virtio, unsigned feature)
{
    return virtio->driver_features >> feature & 1;
}

bool virtio_queue_is_live(const struct virtio_device *virtio, unsigned queue)
{
    uint8_t status = virtio->status;
    return (status & VIRTIO_CONFIG_S_DRIVER_OK) && !(status & VIRTIO_CONFIG_S_NEEDS_RESET) &&
           virtio->queues[queue].registers.enabled;
}

/* ---- doorbells ---- */

static void disarm(struct virtio_device *virtio, unsigned queue)
{
    if (virtio->armed[queue])
        irq_doorbell_remove(virtio->platform->irq, virtio->armed[queue], 0, false,
                            virtio->doorbells[queue]);
    virtio->armed[queue] = 0;
}

/* Bring the ioeventfds in line with the queues enabled and the place of BAR 0. */
void virtio_sync_doorbells(struct virtio_device *virtio)
{
    for (unsigned n = 0; n < virtio->traits->queues; n++) {
        bool wanted = virtio->bar_mapped && virtio->queues[n].registers.enabled;
        uint64_t address = virtio->bar_address + NOTIFY_OFFSET + (uint64_t)n * NOTIFY_STEP;
        if (virtio->armed[n] == (wanted ? address : 0))
            continue;
        disarm(virtio, n);
        if (!wanted)
            continue;
        struct ferry_error err = {0};
        int rc =
            irq_doorbell_add(virtio->platform->irq, address, 0, false, virtio->doorbells[n], &err);
        if (rc) /* kicks then come through the bus: slower, not wrong */
            log_debug(virtio->platform->log, "%s: %s", virtio->name, err.message);
        else
            virtio->armed[n] = address;
    }
}

static void ring_doorbell(const struct virtio_device *virtio, uint64_t queue)
{
    uint64_t one = 1;
    if (queue >= virtio->traits->queues)
        return;
    ssize_t written = write(virtio->doorbells[queue], &one, sizeof(one)); /* full: rung already */
    (void)written;
}

/* ---- BAR 0 ---- */

static uint64_t read_bytes(const uint8_t *data, size_t data_size, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    if (offset < data_size && size <= data_size - offset)
        memcpy(&value, data + offset, size);
    return value;
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
    struct virtio_device *virtio = opaque;
    uint64_t within = offset % PART_BYTES;
    switch (offset - within) {
    case COMMON_OFFSET:
        if (size == 8)
            return virtio_register_read(virtio, within, 4) |
                   (uint64_t)virtio_register_read(virtio, within + 4, 4) << 32;
        return virtio_register_read(virtio, within, size);
    case ISR_OFFSET: /* reading clears it (4.1.4.5) */
        return within == 0 ? atomic_exchange(&virtio->isr, 0) : 0;
    case DEVICE_OFFSET:
        return read_bytes(virtio->config, virtio->config_size, within, size);
    default:
        return 0;
    }
}

static void bar_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct virtio_device *virtio = opaque;
    uint64_t within = offset % PART_BYTES;
    switch (offset - within) {
    case COMMON_OFFSET:
        virtio_register_write(virtio, within, (uint32_t)value, size == 8 ? 4 : size);
        if (size == 8)
            virtio_register_write(virtio, within + 4, (uint32_t)(value >> 32), 4);
        break;
    case DEVICE_OFFSET:
        if (virtio->traits->config_write)
            virtio->traits->config_write(virtio, within, value, size);
        break;
    case NOTIFY_OFFSET:
        ring_doorbell(virtio, within / NOTIFY_STEP);
        break;
    default:
        break;
    }
}

static struct virtio_device *from_function(struct pci_function *function)
{
    return (struct virtio_device *)((char *)function - offsetof(struct virtio_device, pci));
}

static void bar_moved(struct pci_function *function, unsigned bar, bool mapped, uint64_t address)
{
    struct virtio_device *virtio = from_function(function);
    if (bar != BAR_REGISTERS)
        return;
    LOCK_SCOPE(&virtio->lock);
    virtio->bar_mapped = mapped;
    virtio->bar_address = address;
    virtio_sync_doorbells(virtio);
}

/* ---- the window into the BARs through configuration space (4.1.4.9) ---- */

/* The access that the window's fields describe, NULL if they make no sense. */
static const struct bus_region *window_target(const struct virtio_device *virtio, uint32_t *offset,
                                              uint32_t *length)
{
    const uint8_t *window = virtio->pci.config + virtio->window;
    unsigned bar = window[WINDOW_BAR];
    memcpy(offset, window + WINDOW_OFFSET, sizeof(*offset));
    memcpy(length, window + WINDOW_LENGTH, sizeof(*length));
    if (bar >= PCI_BARS || (*length != 1 && *length != 2 && *length != 4) || *offset % *length)
        return NULL;
    const struct bus_region *region = &virtio->pci.bars[bar].region;
    return *offset < region->size ? region : NULL; /* aligned: then all of it is inside */
}

static bool in_window(const struct virtio_device *virtio, unsigned offset)
{
    unsigned data = virtio->window + WINDOW_DATA;
    return offset >= data && offset < data + 4;
}

static bool config_read(struct pci_function *function, unsigned offset, unsigned size,
                        uint32_t *value)
{
    struct virtio_device *virtio = from_function(function);
    uint32_t at, length;
    (void)size;
    if (!in_window(virtio, offset))
        return false;
    const struct bus_region *region = window_target(virtio, &at, &length);
    *value = 0;
    if (!region || offset != virtio->window + WINDOW_DATA)
        return true;
    LOCK_SCOPE(region->lock);
    *value = (uint32_t)region->read(region->opaque, at, length);
    return true;
}

static bool config_write(struct pci_function *function, unsigned offset, unsigned size,
                         uint32_t value)
{
    struct virtio_device *virtio = from_function(function);
    uint32_t at, length;
    (void)size;
    if (!in_window(virtio, offset))
        return false;
    const struct bus_region *region = window_target(virtio, &at, &length);
    if (!region || offset != virtio->window + WINDOW_DATA)
        return true;
    if (length < 4)
        value &= (1u << (8 * length)) - 1;
    LOCK_SCOPE(region->lock);
    region->write(region->opaque, at, value, length);
    return true;
}

static const struct pci_function_ops function_ops = {
    .bar_moved = bar_moved,
    .config_read = config_read,
    .config_write = config_write,
};

/* ---- life ---- */

/* A vendor capability; extra: bytes behind the common part.  Returns its offset. */
static unsigned add_capability(struct virtio_device *virtio, uint8_t type, uint32_t offset,
                               uint32_t length, const void *extra, uint8_t extra_size)
{
    struct {
        struct virtio_pci_cap cap;
        uint8_t extra[4];
    } body = {.cap = {.cap_len = (uint8_t)(sizeof(struct virtio_pci_cap) + extra_size),
                      .cfg_type = type,
                      .bar = BAR_REGISTERS,
                      .offset = offset,
                      .length = length}};
    if (extra_size)
        memcpy(body.extra, extra, extra_size);
    return pci_function_add_capability(&virtio->pci, PCI_CAP_ID_VNDR, &body.cap.cap_len,
                                       body.cap.cap_len - 2u);
}

static void build_function(struct virtio_device *virtio)
{
    const struct virtio_traits *traits = virtio->traits;
    const struct pci_identity identity = {
        .vendor = PCI_VENDOR_REDHAT,
        .device = (uint16_t)(PCI_DEVICE_VIRTIO + traits->type),
        .subsystem_vendor = PCI_VENDOR_REDHAT,
        .subsystem = (uint16_t)(PCI_DEVICE_VIRTIO + traits->type),
        .class_code = traits->class_code,
        .revision = PCI_REVISION_MODERN,
    };
    const struct bus_region region = {
        .size = BAR_BYTES,
        .name = virtio->name,
        .lock = &virtio->lock,
        .opaque = virtio,
        .read = bar_read,
        .write = bar_write,
    };
    const uint32_t step = NOTIFY_STEP, nothing = 0;
    pci_function_init(&virtio->pci, &identity, &function_ops);
    pci_function_add_bar(&virtio->pci, BAR_REGISTERS, &region, true);
    add_capability(virtio, VIRTIO_PCI_CAP_COMMON_CFG, COMMON_OFFSET,
                   sizeof(struct virtio_pci_common_cfg), NULL, 0);
    add_capability(virtio, VIRTIO_PCI_CAP_ISR_CFG, ISR_OFFSET, 1, NULL, 0);
    if (virtio->config_size)
        add_capability(virtio, VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE_OFFSET, virtio->config_size, NULL,
                       0);
    add_capability(virtio, VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY_OFFSET, traits->queues * NOTIFY_STEP,
                   &step, sizeof(step));
    virtio->window =
        add_capability(virtio, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, &nothing, sizeof(nothing));
    uint8_t *writable = virtio->pci.writable + virtio->window;
    writable[WINDOW_BAR] = 0xff;
    memset(writable + WINDOW_OFFSET, 0xff, 4);
    memset(writable + WINDOW_LENGTH, 0xff, 4);
    pci_function_add_msix(&virtio->pci, BAR_MSIX, &virtio->msix);
}

static int open_doorbells(struct virtio_device *virtio, struct ferry_error *err)
{
    for (unsigned n = 0; n < virtio->traits->queues; n++) {
        virtio->doorbells[n] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (virtio->doorbells[n] < 0)
            return ferry_fail_sys(err, -errno, virtio->name, "cannot create an eventfd");
    }
    return 0;
}

static void work(void *opaque)
{
    struct virtio_device *virtio = opaque;
    virtio->traits->work(virtio);
}

static int build(struct virtio_device *virtio, struct pci *pci, struct ferry_error *err)
{
    const struct virtio_traits *traits = virtio->traits;
    int rc = open_doorbells(virtio, err);
    if (!rc) /* a vector for each queue and one for configuration changes */
        rc = pci_msix_init(&virtio->msix, virtio->platform->irq, virtio->platform->log,
                           traits->queues + 1, err);
    if (!rc)
        rc = virtio_worker_start(&virtio->worker, virtio->name, virtio->doorbells, traits->queues,
                                 work, virtio, err);
    if (rc)
        return rc;
    build_function(virtio);
    return pci_attach(pci, &virtio->pci, err);
}

int virtio_init(struct virtio_device *virtio, const struct platform *platform, struct pci *pci,
                const char *name, const struct virtio_traits *traits, uint64_t offered,
                const void *config, unsigned config_size, struct ferry_error *err)
{
    snprintf(virtio->name, sizeof(virtio->name), "%s", name);
    virtio->device.name = virtio->name;
    virtio->platform = platform;
    virtio->traits = traits;
    virtio->offered = offered | TRANSPORT_FEATURES;
    if (config_size)
        memcpy(virtio->config, config, config_size);
    virtio->config_size = config_size;
    virtio->config_vector = VIRTIO_MSI_NO_VECTOR;
    virtio->paused = true;
    pthread_mutex_init(&virtio->lock, NULL);
    for (unsigned n = 0; n < traits->queues; n++) {
        virtqueue_init(&virtio->queues[n], platform->memory, traits->queue_size);
        virtio->doorbells[n] = -1;
    }
    int rc = build(virtio, pci, err);
    if (rc)
        virtio_destroy(virtio);
    return rc;
}

void virtio_destroy(struct virtio_device *virtio)
{
    virtio_worker_end(&virtio->worker);
    pci_detach(&virtio->pci); /* the doorbells go with the BAR */
    pci_msix_destroy(&virtio->msix);
    for (unsigned n = 0; n < virtio->traits->queues; n++)
        cleanup_fd_fn(&virtio->doorbells[n]);
    pthread_mutex_destroy(&virtio->lock);
}

void virtio_reset(struct virtio_device *virtio)
{
    pci_function_reset(&virtio->pci);
    LOCK_SCOPE(&virtio->lock);
    virtio_reset_registers(virtio);
}

void virtio_quiesce(struct virtio_device *virtio)
{
    if (virtio->paused)
        return;
    virtio_worker_park(&virtio->worker);
    virtio->paused = true;
}

/*
 * An interrupt sent just before the state was taken may have been on its way to the local APIC when
 * that was written down (irqfd may deliver from a work queue).  Drivers bear an interrupt too many,
 * not one too few: after a load every queue sends one.
 */
static void repeat_interrupts(struct virtio_device *virtio)
{
    for (unsigned n = 0; n < virtio->traits->queues; n++) {
        if (virtio_queue_is_live(virtio, n))
            interrupt_queue(virtio, n);
    }
    if (virtio->status & VIRTIO_CONFIG_S_NEEDS_RESET)
        virtio_config_changed(virtio);
}

void virtio_resume(struct virtio_device *virtio)
{
    if (!virtio->paused)
        return;
    if (virtio->loaded)
        repeat_interrupts(virtio);
    virtio->loaded = false;
    virtio->paused = false;
    virtio_worker_unpark(&virtio->worker);
}
