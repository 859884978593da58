/* See the header. */
#include "tests/support/virtio_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "vmm/layout.h"

#define STATUS_GPA   (DRIVER_DATA_GPA - 0x1000)
#define HEADER_GPA   (DRIVER_DATA_GPA - 0x2000)
#define INDIRECT_GPA (DRIVER_DATA_GPA - 0x4000)
#define PATIENCE_MS  30000 /* a hang, not a slow machine */

static void on_request(void *opaque, enum platform_request request)
{
    struct rig *rig = opaque;
    rig->resets += request == PLATFORM_RESET;
}

void rig_create(struct rig *rig, int vm_fd)
{
    struct memory *memory;
    struct bus *pio, *mmio;
    struct irq *irq;
    *rig = (struct rig){0};
    assert_int_equal(memory_create(RIG_RAM_BYTES, &memory, NULL), 0);
    assert_int_equal(bus_create(&pio), 0);
    assert_int_equal(bus_create(&mmio), 0);
    assert_int_equal(irq_create(vm_fd, &irq, NULL), 0);
    rig->platform = (struct platform){.memory = memory,
                                      .pio = pio,
                                      .mmio = mmio,
                                      .irq = irq,
                                      .vm_fd = vm_fd,
                                      .request = on_request,
                                      .opaque = rig};
    assert_int_equal(pci_create(&rig->platform, &rig->pci, NULL), 0);
}

void rig_destroy(struct rig *rig)
{
    struct device *pci = pci_device(rig->pci);
    pci->ops->destroy(pci);
    irq_destroy(rig->platform.irq);
    bus_destroy(rig->platform.mmio);
    bus_destroy(rig->platform.pio);
    memory_destroy(rig->platform.memory);
}

/* ---- accesses ---- */

static void select_register(struct rig *rig, unsigned slot, unsigned reg)
{
    uint32_t address = 0x80000000u | slot << 11 | (reg & 0xfc);
    bus_write(rig->platform.pio, PORT_PCI_ADDRESS, &address, 4);
}

uint32_t rig_config_read(struct rig *rig, unsigned slot, unsigned reg, unsigned size)
{
    uint32_t value = 0;
    select_register(rig, slot, reg);
    bus_read(rig->platform.pio, PORT_PCI_DATA + (reg & 3), &value, size);
    return value;
}

void rig_config_write(struct rig *rig, unsigned slot, unsigned reg, unsigned size, uint32_t value)
{
    select_register(rig, slot, reg);
    bus_write(rig->platform.pio, PORT_PCI_DATA + (reg & 3), &value, size);
}

uint64_t rig_mmio_read(struct rig *rig, uint64_t address, unsigned size)
{
    uint64_t value = 0;
    bus_read(rig->platform.mmio, address, &value, size);
    return value;
}

void rig_mmio_write(struct rig *rig, uint64_t address, unsigned size, uint64_t value)
{
    bus_write(rig->platform.mmio, address, &value, size);
}

unsigned rig_find(struct rig *rig, uint16_t device_id, unsigned n)
{
    for (unsigned slot = 0; slot < 32; slot++) {
        if (rig_config_read(rig, slot, PCI_VENDOR_ID, 4) == ((uint32_t)device_id << 16 | 0x1af4) &&
            n-- == 0)
            return slot;
    }
    fail_msg("no PCI function %#x", device_id);
    return 0;
}

void *rig_ram(struct rig *rig, uint64_t gpa)
{
    assert_true(gpa < RIG_RAM_BYTES);
    return (uint8_t *)memory_base(rig->platform.memory) + gpa;
}

/* ---- state ---- */

static bool ram_contains(const void *opaque, uint64_t gpa, uint64_t size)
{
    const struct rig *rig = opaque;
    return memory_contains(rig->platform.memory, (struct gpa){gpa}, size);
}

struct state_context rig_context(struct rig *rig)
{
    return (struct state_context){.ram_contains = ram_contains, .opaque = rig};
}

struct writer rig_save(struct device *device)
{
    struct writer out = writer_init(LIMIT_SECTION_BYTES);
    void *state = calloc(1, device->table->size);
    assert_non_null(state);
    device->ops->capture(device, state);
    struct ferry_error err = {0};
    if (state_save(device->table, state, &out, &err))
        fail_msg("%s", err.message);
    free(state);
    return out;
}

int rig_load(struct rig *rig, struct device *device, const void *data, size_t size,
             struct ferry_error *err)
{
    struct state_context context = rig_context(rig);
    void *scratch = malloc(device->table->size);
    assert_non_null(scratch);
    int rc = state_load(device->table, device->table->version, data, size, &context, scratch, err);
    if (!rc)
        rc = device->ops->accept(device, scratch, err);
    if (!rc)
        rc = device->ops->commit(device, scratch, err);
    free(scratch);
    return rc;
}

/* ---- the driver ---- */

static uint64_t bar_address(struct rig *rig, unsigned slot, unsigned bar)
{
    uint32_t low = rig_config_read(rig, slot, PCI_BASE_ADDRESS_0 + 4 * bar, 4);
    uint64_t address = low & ~0xfu;
    if (low & PCI_BASE_ADDRESS_MEM_TYPE_64)
        address |= (uint64_t)rig_config_read(rig, slot, PCI_BASE_ADDRESS_0 + 4 * bar + 4, 4) << 32;
    return address;
}

static void take_capability(struct driver *driver, unsigned at)
{
    struct rig *rig = driver->rig;
    unsigned slot = driver->slot;
    unsigned bar = rig_config_read(rig, slot, at + VIRTIO_PCI_CAP_BAR, 1);
    uint64_t address =
        bar_address(rig, slot, bar) + rig_config_read(rig, slot, at + VIRTIO_PCI_CAP_OFFSET, 4);
    switch (rig_config_read(rig, slot, at + VIRTIO_PCI_CAP_CFG_TYPE, 1)) {
    case VIRTIO_PCI_CAP_COMMON_CFG:
        driver->common = address;
        break;
    case VIRTIO_PCI_CAP_NOTIFY_CFG:
        driver->notify = address;
        driver->notify_step = rig_config_read(rig, slot, at + VIRTIO_PCI_NOTIFY_CAP_MULT, 4);
        break;
    case VIRTIO_PCI_CAP_ISR_CFG:
        driver->isr = address;
        break;
    case VIRTIO_PCI_CAP_DEVICE_CFG:
        driver->config = address;
        break;
    default:
        break;
    }
}

void driver_probe(struct driver *driver, struct rig *rig, unsigned slot)
{
    *driver = (struct driver){.rig = rig, .slot = slot};
    rig_config_write(rig, slot, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    unsigned at = rig_config_read(rig, slot, PCI_CAPABILITY_LIST, 1);
    for (unsigned hops = 0; at && hops < 32; hops++) {
        if (rig_config_read(rig, slot, at, 1) == PCI_CAP_ID_VNDR)
            take_capability(driver, at);
        at = rig_config_read(rig, slot, at + PCI_CAP_LIST_NEXT, 1);
    }
    assert_int_equal(at, 0);
    assert_true(driver->common && driver->notify && driver->isr);
}

static void common_write(struct driver *driver, unsigned reg, unsigned size, uint64_t value)
{
    rig_mmio_write(driver->rig, driver->common + reg, size, value);
}

static uint64_t common_read(struct driver *driver, unsigned reg, unsigned size)
{
    return rig_mmio_read(driver->rig, driver->common + reg, size);
}

uint64_t driver_offered(struct driver *driver)
{
    uint64_t features = 0;
    for (unsigned word = 0; word < 2; word++) {
        common_write(driver, VIRTIO_PCI_COMMON_DFSELECT, 4, word);
        features |= common_read(driver, VIRTIO_PCI_COMMON_DF, 4) << (32 * word);
    }
    return features;
}

uint8_t driver_status(struct driver *driver)
{
    return (uint8_t)common_read(driver, VIRTIO_PCI_COMMON_STATUS, 1);
}

bool driver_negotiate(struct driver *driver, uint64_t features)
{
    uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    common_write(driver, VIRTIO_PCI_COMMON_STATUS, 1, 0);
    assert_int_equal(driver_status(driver), 0);
    common_write(driver, VIRTIO_PCI_COMMON_STATUS, 1, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    common_write(driver, VIRTIO_PCI_COMMON_STATUS, 1, status);
    for (unsigned word = 0; word < 2; word++) {
        common_write(driver, VIRTIO_PCI_COMMON_GFSELECT, 4, word);
        common_write(driver, VIRTIO_PCI_COMMON_GF, 4, features >> (32 * word) & UINT32_MAX);
    }
    common_write(driver, VIRTIO_PCI_COMMON_STATUS, 1, status | VIRTIO_CONFIG_S_FEATURES_OK);
    driver->features = features;
    return driver_status(driver) & VIRTIO_CONFIG_S_FEATURES_OK;
}

void driver_setup_queue(struct driver *driver, uint16_t size)
{
    struct driver_queue *queue = &driver->queue;
    *queue = (struct driver_queue){.size = size, .desc = DRIVER_QUEUE_GPA};
    queue->avail = queue->desc + UINT64_C(16) * size;
    queue->used = (queue->avail + 6 + UINT64_C(2) * size + 3) & ~UINT64_C(3);
    memset(rig_ram(driver->rig, queue->desc), 0,
           queue->used + 6 + UINT64_C(8) * size - queue->desc);
    common_write(driver, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    common_write(driver, VIRTIO_PCI_COMMON_Q_SIZE, 2, size);
    common_write(driver, VIRTIO_PCI_COMMON_Q_MSIX, 2, 0);
    common_write(driver, VIRTIO_PCI_COMMON_Q_DESCLO, 4, queue->desc);
    common_write(driver, VIRTIO_PCI_COMMON_Q_DESCHI, 4, 0);
    common_write(driver, VIRTIO_PCI_COMMON_Q_AVAILLO, 4, queue->avail);
    common_write(driver, VIRTIO_PCI_COMMON_Q_AVAILHI, 4, 0);
    common_write(driver, VIRTIO_PCI_COMMON_Q_USEDLO, 4, queue->used);
    common_write(driver, VIRTIO_PCI_COMMON_Q_USEDHI, 4, 0);
    common_write(driver, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

void driver_ready(struct driver *driver)
{
    common_write(driver, VIRTIO_PCI_COMMON_STATUS, 1,
                 driver_status(driver) | VIRTIO_CONFIG_S_DRIVER_OK);
}

void driver_enable_msix(struct driver *driver)
{
    struct rig *rig = driver->rig;
    unsigned at = rig_config_read(rig, driver->slot, PCI_CAPABILITY_LIST, 1);
    while (rig_config_read(rig, driver->slot, at, 1) != PCI_CAP_ID_MSIX)
        at = rig_config_read(rig, driver->slot, at + PCI_CAP_LIST_NEXT, 1);
    unsigned flags = rig_config_read(rig, driver->slot, at + PCI_MSIX_FLAGS, 2);
    uint32_t table = rig_config_read(rig, driver->slot, at + PCI_MSIX_TABLE, 4);
    uint64_t entry = bar_address(rig, driver->slot, table & PCI_MSIX_TABLE_BIR) +
                     (table & PCI_MSIX_TABLE_OFFSET);
    for (unsigned n = 0; n <= (flags & PCI_MSIX_FLAGS_QSIZE); n++, entry += PCI_MSIX_ENTRY_SIZE) {
        rig_mmio_write(rig, entry + PCI_MSIX_ENTRY_LOWER_ADDR, 4, LAYOUT_LAPIC);
        rig_mmio_write(rig, entry + PCI_MSIX_ENTRY_UPPER_ADDR, 4, 0);
        rig_mmio_write(rig, entry + PCI_MSIX_ENTRY_DATA, 4, 0x40 + n);
        rig_mmio_write(rig, entry + PCI_MSIX_ENTRY_VECTOR_CTRL, 4, 0);
    }
    rig_config_write(rig, driver->slot, at + PCI_MSIX_FLAGS, 2, flags | PCI_MSIX_FLAGS_ENABLE);
    common_write(driver, VIRTIO_PCI_COMMON_MSIX, 2, flags & PCI_MSIX_FLAGS_QSIZE);
}

void driver_start(struct driver *driver, struct rig *rig, unsigned slot, uint64_t without)
{
    driver_probe(driver, rig, slot);
    assert_true(driver_negotiate(driver, driver_offered(driver) & ~without));
    driver_enable_msix(driver);
    driver_setup_queue(driver, 64);
    driver_ready(driver);
}

/* ---- rings ---- */

void driver_set_descriptor(struct driver *driver, uint64_t table, uint16_t index, uint64_t gpa,
                           uint32_t size, uint16_t flags, uint16_t next)
{
    struct vring_desc *desc = rig_ram(driver->rig, table + UINT64_C(16) * index);
    *desc = (struct vring_desc){.addr = gpa, .len = size, .flags = flags, .next = next};
}

static void put_chain(struct driver *driver, uint64_t table, uint16_t first,
                      const struct driver_buffer *buffers, unsigned count)
{
    for (unsigned n = 0; n < count; n++) {
        uint16_t index = (uint16_t)(first + n);
        uint16_t flags = buffers[n].writable ? VRING_DESC_F_WRITE : 0;
        if (n + 1 < count)
            flags |= VRING_DESC_F_NEXT;
        driver_set_descriptor(driver, table, index, buffers[n].gpa, buffers[n].size, flags,
                              (uint16_t)(index + 1));
    }
}

void driver_chain(struct driver *driver, uint16_t first, const struct driver_buffer *buffers,
                  unsigned count)
{
    put_chain(driver, driver->queue.desc, first, buffers, count);
}

void driver_chain_indirect(struct driver *driver, uint16_t first, uint64_t table,
                           const struct driver_buffer *buffers, unsigned count)
{
    put_chain(driver, table, 0, buffers, count);
    driver_set_descriptor(driver, driver->queue.desc, first, table, 16 * count,
                          VRING_DESC_F_INDIRECT, 0);
}

static uint16_t ring_read(struct driver *driver, uint64_t gpa)
{
    return __atomic_load_n((uint16_t *)rig_ram(driver->rig, gpa), __ATOMIC_ACQUIRE);
}

static void ring_write(struct driver *driver, uint64_t gpa, uint16_t value)
{
    __atomic_store_n((uint16_t *)rig_ram(driver->rig, gpa), value, __ATOMIC_RELEASE);
}

void driver_publish(struct driver *driver, uint16_t head)
{
    struct driver_queue *queue = &driver->queue;
    ring_write(driver, queue->avail + 4 + UINT64_C(2) * (queue->avail_index % queue->size), head);
    ring_write(driver, queue->avail + 2, ++queue->avail_index);
    /* An event index just behind the next used entry: interrupt me for it. */
    ring_write(driver, queue->avail + 4 + UINT64_C(2) * queue->size, queue->used_index);
}

void driver_kick(struct driver *driver)
{
    rig_mmio_write(driver->rig, driver->notify, 2, 0);
}

bool driver_has_used(struct driver *driver)
{
    return ring_read(driver, driver->queue.used + 2) != driver->queue.used_index;
}

static void nap(unsigned *waited_ms)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    if (++*waited_ms > PATIENCE_MS)
        fail_msg("the device hangs");
}

uint32_t driver_wait(struct driver *driver, uint32_t *length)
{
    struct driver_queue *queue = &driver->queue;
    unsigned waited = 0;
    for (unsigned spins = 0; !driver_has_used(driver); spins++) {
        if (spins > 2000)
            nap(&waited);
    }
    const struct vring_used_elem *used =
        rig_ram(driver->rig, queue->used + 4 + UINT64_C(8) * (queue->used_index % queue->size));
    queue->used_index++;
    if (length)
        *length = used->len;
    return used->id;
}

void driver_wait_status(struct driver *driver, uint8_t bits)
{
    unsigned waited = 0;
    while ((driver_status(driver) & bits) != bits)
        nap(&waited);
}

uint8_t driver_block(struct driver *driver, uint32_t type, uint64_t sector, uint32_t size,
                     bool to_device, bool indirect, uint32_t *length)
{
    struct virtio_blk_outhdr *header = rig_ram(driver->rig, HEADER_GPA);
    uint8_t *status = rig_ram(driver->rig, STATUS_GPA);
    struct driver_buffer buffers[4];
    unsigned count = 0;
    *header = (struct virtio_blk_outhdr){.type = type, .sector = sector};
    *status = 0xee;
    buffers[count++] = (struct driver_buffer){HEADER_GPA, sizeof(*header), false};
    if (size > 1) { /* in two pieces */
        buffers[count++] = (struct driver_buffer){DRIVER_DATA_GPA, size / 3, !to_device};
        buffers[count++] =
            (struct driver_buffer){DRIVER_DATA_GPA + size / 3, size - size / 3, !to_device};
    }
    buffers[count++] = (struct driver_buffer){STATUS_GPA, 1, true};
    if (indirect)
        driver_chain_indirect(driver, 0, INDIRECT_GPA, buffers, count);
    else
        driver_chain(driver, 0, buffers, count);
    driver_publish(driver, 0);
    driver_kick(driver);
    assert_int_equal(driver_wait(driver, length), 0);
    return *status;
}
