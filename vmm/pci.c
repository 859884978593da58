/*
 * The PCI root: mechanism #1 and ECAM lead to pci_function_read and _write of the addressed
 * function; the host bridge is a function without BARs.
 *
 * Remapping looks at all BARs at once, in two passes: first every BAR that must not stay where it
 * is leaves the bus, then every one that should be somewhere is put there.  The outcome depends on
 * the registers alone, not on the order in which they were written: so BARs can be swapped, and a
 * loaded machine has them as the saved one had.  A BAR whose place is taken answers nowhere until
 * it is free.
 */
#include "vmm/pci.h"

#include <errno.h>
#include <linux/pci.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "vmm/layout.h"

#define CONFIG_ENABLE    0x80000000u
#define CONFIG_ADDRESS   0x80fffffcu /* bits of 0xcf8 that exist: enable, bus, device, register */
#define PORTS            8
#define DATA_OFFSET      (PORT_PCI_DATA - PORT_PCI_ADDRESS)
#define RESET_OFFSET     (PORT_RESET - PORT_PCI_ADDRESS)
#define RESET_CPU        0x04     /* going up, it resets */
#define RESET_KEPT       0x0a     /* hard, full: remembered */
#define ECAM_CONFIG      0x1000u  /* configuration space of one function */
#define ADDRESS_BITS_MAX 52       /* of physical addresses on x86 */
#define BRIDGE_CLASS     0x060000 /* host bridge */
#define BRIDGE_VENDOR    0x1b36   /* Red Hat */
#define BRIDGE_DEVICE    0x0008   /* the generic PCIe host bridge of virtual machines */

struct pci {
    struct device device;
    const struct platform *platform;
    pthread_mutex_t lock;
    struct bus_region ports, ecam;
    struct pci_function *slots[PCI_SLOTS];
    uint64_t next_bar; /* first address not yet given away */
    uint32_t config_address;
    uint8_t reset_control;
    struct pci_function bridge;
};

/* ---- configuration accesses ---- */

static struct pci_function *function_at(struct pci *pci, unsigned bus, unsigned devfn)
{
    if (bus != 0 || PCI_FUNC(devfn) != 0)
        return NULL;
    return pci->slots[PCI_SLOT(devfn)];
}

/* The largest access at offset that stays within an aligned unit of its size. */
static unsigned piece(unsigned offset, unsigned left)
{
    if (offset % 4 == 0 && left >= 4)
        return 4;
    return offset % 2 == 0 && left >= 2 ? 2 : 1;
}

static uint64_t all_ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (UINT64_C(1) << (8 * size)) - 1;
}

static uint64_t config_read(struct pci_function *function, unsigned offset, unsigned size)
{
    uint64_t value = 0;
    if (!function)
        return all_ones(size);
    for (unsigned done = 0, step; done < size; done += step) {
        step = piece(offset + done, size - done);
        if (offset + done < PCI_CONFIG_BYTES) /* beyond lies the empty extended space */
            value |= (uint64_t)pci_function_read(function, offset + done, step) << (8 * done);
    }
    return value;
}

static void config_write(struct pci_function *function, unsigned offset, uint64_t value,
                         unsigned size)
{
    if (!function)
        return;
    for (unsigned done = 0, step; done < size; done += step) {
        step = piece(offset + done, size - done);
        if (offset + done < PCI_CONFIG_BYTES)
            pci_function_write(function, offset + done, step,
                               (uint32_t)(value >> (8 * done) & all_ones(step)));
    }
}

static struct pci_function *addressed(struct pci *pci)
{
    uint32_t address = pci->config_address;
    if (!(address & CONFIG_ENABLE))
        return NULL;
    return function_at(pci, address >> 16 & 0xff, address >> 8 & 0xff);
}

static uint64_t ports_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pci *pci = opaque;
    if (offset == 0 && size == 4)
        return pci->config_address;
    if (offset == RESET_OFFSET && size == 1)
        return pci->reset_control;
    if (offset < DATA_OFFSET)
        return all_ones(size);
    unsigned reg = (pci->config_address & 0xfc) + (unsigned)(offset - DATA_OFFSET);
    return config_read(addressed(pci), reg, size);
}

static void write_reset_control(struct pci *pci, uint8_t value)
{
    pci->reset_control = value & RESET_KEPT;
    if (value & RESET_CPU)
        pci->platform->request(pci->platform->opaque, PLATFORM_RESET);
}

static void ports_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pci *pci = opaque;
    if (offset >= DATA_OFFSET) {
        unsigned reg = (pci->config_address & 0xfc) + (unsigned)(offset - DATA_OFFSET);
        config_write(addressed(pci), reg, value, size);
    } else if (offset == 0 && size == 4) {
        pci->config_address = (uint32_t)value & CONFIG_ADDRESS;
    } else if (offset == RESET_OFFSET && size == 1) {
        write_reset_control(pci, (uint8_t)value);
    }
}

static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pci_function *function = function_at(opaque, 0, (unsigned)(offset / ECAM_CONFIG));
    return config_read(function, offset % ECAM_CONFIG, size);
}

static void ecam_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pci_function *function = function_at(opaque, 0, (unsigned)(offset / ECAM_CONFIG));
    config_write(function, offset % ECAM_CONFIG, value, size);
}

/* ---- where BARs lie ---- */

static uint64_t bar_address(const struct pci_function *function, unsigned index)
{
    const uint8_t *config = function->config + PCI_BASE_ADDRESS_0 + (size_t)4 * index;
    uint64_t address = 0;
    for (unsigned n = 0; n < (function->bars[index].wide ? 8u : 4u); n++)
        address |= (uint64_t)config[n] << (8 * n);
    return address & ~UINT64_C(0xf);
}

/* Where the registers put the BAR, 0: nowhere.  All ones (sizing) is no place either. */
static uint64_t bar_place(const struct pci_function *function, unsigned index)
{
    const struct pci_bar *bar = &function->bars[index];
    uint64_t address = bar_address(function, index);
    uint64_t end = bar->wide ? UINT64_C(1) << ADDRESS_BITS_MAX : UINT64_C(1) << 32;
    if (bar->region.size == 0 || !(function->config[PCI_COMMAND] & PCI_COMMAND_MEMORY))
        return 0;
    return address < end - bar->region.size ? address : 0;
}

static void set_mapped(struct pci_function *function, unsigned index, bool mapped)
{
    struct pci_bar *bar = &function->bars[index];
    bar->mapped = mapped;
    if (function->ops->bar_moved)
        function->ops->bar_moved(function, index, mapped, bar->region.start);
}

static void unmap_if_moved(struct pci *pci, struct pci_function *function, unsigned index)
{
    struct pci_bar *bar = &function->bars[index];
    if (!bar->mapped || bar_place(function, index) == bar->region.start)
        return;
    bus_remove(pci->platform->mmio, &bar->region);
    set_mapped(function, index, false);
}

static void map_if_placed(struct pci *pci, struct pci_function *function, unsigned index)
{
    struct pci_bar *bar = &function->bars[index];
    uint64_t place = bar_place(function, index);
    if (bar->mapped || place == 0)
        return;
    bar->region.start = place;
    if (bus_add(pci->platform->mmio, &bar->region, NULL) == 0)
        set_mapped(function, index, true);
}

static void each_bar(struct pci *pci,
                     void (*act)(struct pci *pci, struct pci_function *function, unsigned index))
{
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        for (unsigned index = 0; pci->slots[slot] && index < PCI_BARS; index++)
            act(pci, pci->slots[slot], index);
    }
}

void pci_remap(struct pci *pci)
{
    each_bar(pci, unmap_if_moved);
    each_bar(pci, map_if_placed);
}

pthread_mutex_t *pci_lock(struct pci *pci)
{
    return &pci->lock;
}

/* ---- attaching ---- */

static int assign_bar(struct pci *pci, struct pci_function *function, unsigned index)
{
    struct pci_bar *bar = &function->bars[index];
    uint64_t size = bar->region.size;
    uint64_t address = (pci->next_bar + size - 1) & ~(size - 1);
    if (address + size > (uint64_t)LAYOUT_PCI_MMIO + LAYOUT_PCI_MMIO_SIZE)
        return -ENOSPC;
    pci->next_bar = address + size;
    bar->assigned = address;
    uint8_t *config = function->config + PCI_BASE_ADDRESS_0 + (size_t)4 * index;
    for (unsigned n = 0; n < 4; n++)
        config[n] |= (uint8_t)(address >> (8 * n)); /* the window lies below 4 GiB */
    return 0;
}

int pci_attach(struct pci *pci, struct pci_function *function, struct ferry_error *err)
{
    LOCK_SCOPE(&pci->lock);
    unsigned slot = 0;
    while (slot < PCI_SLOTS && pci->slots[slot])
        slot++;
    if (slot == PCI_SLOTS)
        return ferry_fail(err, -ENOSPC, "pci", "all %d slots of the bus are taken", PCI_SLOTS);
    for (unsigned index = 0; index < PCI_BARS; index++) {
        if (function->bars[index].region.size && assign_bar(pci, function, index))
            return ferry_fail(err, -ENOSPC, "pci", "no room left for BARs");
    }
    memcpy(function->initial, function->config, sizeof(function->initial));
    function->slot = slot;
    function->pci = pci;
    pci->slots[slot] = function;
    return 0;
}

void pci_detach(struct pci_function *function)
{
    struct pci *pci = function->pci;
    if (!pci)
        return;
    LOCK_SCOPE(&pci->lock);
    function->config[PCI_COMMAND] = 0; /* decodes nothing: all its BARs leave the bus */
    pci_remap(pci);
    pci->slots[function->slot] = NULL;
    function->pci = NULL;
}

/* ---- the root as a device ---- */

static int check_state(const void *state, const struct state_context *context,
                       struct ferry_error *err)
{
    const struct pci_state *pci = state;
    (void)context;
    if (pci->config_address & ~CONFIG_ADDRESS)
        return ferry_refuse(err, -EINVAL, "pci", "configuration address %#x cannot be",
                            pci->config_address);
    if (pci->reset_control & ~RESET_KEPT)
        return ferry_refuse(err, -EINVAL, "pci", "reset control %#x cannot be", pci->reset_control);
    return 0;
}

static const struct state_field fields[] = {
    STATE_SCALAR(STATE_U32, struct pci_state, config_address, 1, 1),
    STATE_SCALAR(STATE_U8, struct pci_state, reset_control, 2, 1),
    STATE_STRUCTS(struct pci_state, bridge, &pci_function_table, 3, 1),
};

const struct state_table pci_table = {
    .name = "pci",
    .version = 1,
    .size = sizeof(struct pci_state),
    .fields = fields,
    .field_count = sizeof(fields) / sizeof(fields[0]),
    .check = check_state,
};

static struct pci *from_device(struct device *device)
{
    return (struct pci *)device; /* its first member */
}

static void reset(struct device *device)
{
    struct pci *pci = from_device(device);
    pci_function_reset(&pci->bridge);
    LOCK_SCOPE(&pci->lock);
    pci->config_address = 0;
    pci->reset_control = 0;
}

static void capture(struct device *device, void *out)
{
    struct pci *pci = from_device(device);
    struct pci_state *state = out;
    pci_function_capture(&pci->bridge, &state->bridge[0]);
    LOCK_SCOPE(&pci->lock);
    state->config_address = pci->config_address;
    state->reset_control = pci->reset_control;
}

static int accept_state(struct device *device, const void *state, struct ferry_error *err)
{
    const struct pci_state *pci_state = state;
    return pci_function_accept(&from_device(device)->bridge, &pci_state->bridge[0], err);
}

static int commit(struct device *device, const void *in, struct ferry_error *err)
{
    struct pci *pci = from_device(device);
    const struct pci_state *state = in;
    (void)err;
    pci_function_commit(&pci->bridge, &state->bridge[0]);
    LOCK_SCOPE(&pci->lock);
    pci->config_address = state->config_address;
    pci->reset_control = state->reset_control;
    return 0;
}

static void destroy(struct device *device)
{
    struct pci *pci = from_device(device);
    bus_remove(pci->platform->pio, &pci->ports);
    bus_remove(pci->platform->mmio, &pci->ecam);
    pthread_mutex_destroy(&pci->lock);
    free(pci);
}

static const struct device_ops device_ops = {
    .reset = reset,
    .capture = capture,
    .accept = accept_state,
    .commit = commit,
    .destroy = destroy,
};

static const struct pci_function_ops bridge_ops = {0};

static int add_regions(struct pci *pci, struct ferry_error *err)
{
    pci->ports = (struct bus_region){.start = PORT_PCI_ADDRESS,
                                     .size = PORTS,
                                     .name = "pci-config",
                                     .lock = &pci->lock,
                                     .opaque = pci,
                                     .read = ports_read,
                                     .write = ports_write};
    pci->ecam = (struct bus_region){.start = LAYOUT_ECAM,
                                    .size = LAYOUT_ECAM_SIZE,
                                    .name = "pci-ecam",
                                    .lock = &pci->lock,
                                    .opaque = pci,
                                    .read = ecam_read,
                                    .write = ecam_write};
    int rc = bus_add(pci->platform->pio, &pci->ports, err);
    if (rc)
        return rc;
    rc = bus_add(pci->platform->mmio, &pci->ecam, err);
    if (rc)
        bus_remove(pci->platform->pio, &pci->ports);
    return rc;
}

int pci_create(const struct platform *platform, struct pci **out, struct ferry_error *err)
{
    static const struct pci_identity identity = {
        .vendor = BRIDGE_VENDOR,
        .device = BRIDGE_DEVICE,
        .class_code = BRIDGE_CLASS,
    };
    CLEANUP_FREE struct pci *pci = calloc(1, sizeof(*pci));
    if (!pci)
        return ferry_fail_sys(err, -ENOMEM, "pci", "cannot create the PCI root");
    pci->device = (struct device){.name = "pci", .table = &pci_table, .ops = &device_ops};
    pci->platform = platform;
    pci->next_bar = LAYOUT_PCI_MMIO;
    pthread_mutex_init(&pci->lock, NULL);
    pci_function_init(&pci->bridge, &identity, &bridge_ops);
    int rc = pci_attach(pci, &pci->bridge, err);
    if (!rc)
        rc = add_regions(pci, err);
    if (rc) {
        pthread_mutex_destroy(&pci->lock);
        return rc;
    }
    *out = take_ptr(&pci);
    return 0;
}

struct device *pci_device(struct pci *pci)
{
    return &pci->device;
}
