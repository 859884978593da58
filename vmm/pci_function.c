/*
 * One PCI function: its configuration header, capabilities, BAR registers and state.
 *
 * `config` is what the guest reads, `writable` the bits it may change, `initial` the content after
 * a reset.  A BAR register has writable bits from its size upwards, so that sizing (write ones,
 * read back) works by itself; after every write that touches the command register or a BAR the root
 * puts all BARs where the registers now say.
 */
#include "vmm/pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>

#include "common/cleanup.h"

#define COMMAND_WRITABLE                                                               \
    (PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR | \
     PCI_COMMAND_INTX_DISABLE)
#define MSIX_WRITABLE    (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL)
#define CAPABILITY_FIRST 0x40

/* ---- state ---- */

static int check_state(const void *state, const struct state_context *context,
                       struct ferry_error *err)
{
    const struct pci_function_state *function = state;
    (void)context;
    if (function->command & ~COMMAND_WRITABLE)
        return ferry_refuse(err, -EINVAL, "pci", "command %#x has bits that do not exist",
                            function->command);
    if (function->msix_control & ~MSIX_WRITABLE)
        return ferry_refuse(err, -EINVAL, "pci", "MSI-X control %#x has bits that do not exist",
                            function->msix_control);
    bool live = function->msix_control == PCI_MSIX_FLAGS_ENABLE;
    for (uint32_t n = 0; live && n < function->msix_count; n++) {
        const struct pci_msix_vector *vector = &function->msix[n];
        if (vector->pending && !(vector->control & PCI_MSIX_ENTRY_CTRL_MASKBIT))
            return ferry_refuse(err, -EINVAL, "pci", "vector %u is pending but not masked", n);
    }
    return 0;
}

static const struct state_field fields[] = {
    STATE_RANGE(STATE_U8, struct pci_function_state, slot, 1, 1, 0, PCI_SLOTS - 1),
    STATE_SCALAR(STATE_U16, struct pci_function_state, device_id, 2, 1),
    STATE_SCALAR(STATE_U16, struct pci_function_state, command, 3, 1),
    STATE_SCALAR(STATE_U8, struct pci_function_state, cache_line_size, 4, 1),
    STATE_SCALAR(STATE_U8, struct pci_function_state, latency_timer, 5, 1),
    STATE_SCALAR(STATE_U8, struct pci_function_state, interrupt_line, 6, 1),
    STATE_ARRAY(STATE_U32, struct pci_function_state, bars, 7, 1),
    STATE_SCALAR(STATE_U16, struct pci_function_state, msix_control, 8, 1),
    STATE_STRUCTS_COUNTED(struct pci_function_state, msix, msix_count, &pci_msix_vector_table, 9,
                          1),
};

const struct state_table pci_function_table = {
    .name = "pci-function",
    .version = 1,
    .size = sizeof(struct pci_function_state),
    .fields = fields,
    .field_count = sizeof(fields) / sizeof(fields[0]),
    .check = check_state,
};

/* ---- bytes of the configuration space ---- */

static void put(uint8_t *bytes, unsigned offset, uint32_t value, unsigned size)
{
    for (unsigned n = 0; n < size; n++)
        bytes[offset + n] = (uint8_t)(value >> (8 * n));
}

static uint32_t get(const uint8_t *bytes, unsigned offset, unsigned size)
{
    uint32_t value = 0;
    for (unsigned n = 0; n < size; n++)
        value |= (uint32_t)bytes[offset + n] << (8 * n);
    return value;
}

static unsigned bar_register(unsigned index)
{
    return PCI_BASE_ADDRESS_0 + 4 * index;
}

/* ---- putting a function together ---- */

void pci_function_init(struct pci_function *function, const struct pci_identity *identity,
                       const struct pci_function_ops *ops)
{
    *function = (struct pci_function){.ops = ops, .capability_end = CAPABILITY_FIRST};
    uint8_t *config = function->config;
    put(config, PCI_VENDOR_ID, identity->vendor, 2);
    put(config, PCI_DEVICE_ID, identity->device, 2);
    put(config, PCI_REVISION_ID, identity->revision, 1);
    put(config, PCI_CLASS_PROG, identity->class_code, 3);
    put(config, PCI_SUBSYSTEM_VENDOR_ID, identity->subsystem_vendor, 2);
    put(config, PCI_SUBSYSTEM_ID, identity->subsystem, 2);

    uint8_t *writable = function->writable;
    put(writable, PCI_COMMAND, COMMAND_WRITABLE, 2);
    put(writable, PCI_CACHE_LINE_SIZE, 0xff, 1);
    put(writable, PCI_LATENCY_TIMER, 0xff, 1);
    put(writable, PCI_INTERRUPT_LINE, 0xff, 1);
}

void pci_function_add_bar(struct pci_function *function, unsigned index,
                          const struct bus_region *region, bool wide)
{
    struct pci_bar *bar = &function->bars[index];
    uint64_t mask = ~(region->size - 1);
    *bar = (struct pci_bar){.region = *region, .wide = wide};
    put(function->writable, bar_register(index), (uint32_t)mask, 4);
    if (!wide)
        return;
    put(function->config, bar_register(index), PCI_BASE_ADDRESS_MEM_TYPE_64, 4);
    put(function->writable, bar_register(index + 1), (uint32_t)(mask >> 32), 4);
}

unsigned pci_function_add_capability(struct pci_function *function, uint8_t id, const void *body,
                                     unsigned size)
{
    unsigned at = function->capability_end;
    function->config[at] = id;
    memcpy(function->config + at + 2, body, size);
    unsigned link = function->capability_last ? function->capability_last + PCI_CAP_LIST_NEXT
                                              : PCI_CAPABILITY_LIST;
    put(function->config, link, at, 1);
    put(function->config, PCI_STATUS, PCI_STATUS_CAP_LIST, 2);
    function->capability_last = at;
    function->capability_end = (at + 2 + size + 3) & ~3u;
    return at;
}

void pci_function_add_msix(struct pci_function *function, unsigned bar, struct pci_msix *msix)
{
    const struct bus_region region = {
        .size = PCI_MSIX_BAR_BYTES,
        .name = "msix",
        .lock = &msix->lock,
        .opaque = msix,
        .read = pci_msix_read,
        .write = pci_msix_write,
    };
    uint8_t body[10];
    put(body, 0, msix->count - 1, 2);
    put(body, 2, bar, 4); /* the table, at offset 0 */
    put(body, 6, MSIX_PENDING_OFFSET | bar, 4);
    pci_function_add_bar(function, bar, &region, false);
    function->msix = msix;
    function->msix_offset =
        pci_function_add_capability(function, PCI_CAP_ID_MSIX, body, sizeof(body));
    put(function->writable, function->msix_offset + PCI_MSIX_FLAGS, MSIX_WRITABLE, 2);
}

/* ---- configuration accesses ---- */

static bool touches(unsigned offset, unsigned size, unsigned start, unsigned length)
{
    return offset < start + length && start < offset + size;
}

uint32_t pci_function_read(struct pci_function *function, unsigned offset, unsigned size)
{
    uint32_t value;
    if (function->ops->config_read && function->ops->config_read(function, offset, size, &value))
        return value;
    return get(function->config, offset, size);
}

void pci_function_write(struct pci_function *function, unsigned offset, unsigned size,
                        uint32_t value)
{
    if (function->ops->config_write && function->ops->config_write(function, offset, size, value))
        return;
    uint32_t mask = get(function->writable, offset, size);
    uint32_t before = get(function->config, offset, size);
    put(function->config, offset, (before & ~mask) | (value & mask), size);

    unsigned flags = function->msix_offset + PCI_MSIX_FLAGS;
    if (function->msix && touches(offset, size, flags, 2))
        pci_msix_set_control(function->msix, (uint16_t)get(function->config, flags, 2));
    if (function->pci && (touches(offset, size, PCI_COMMAND, 2) ||
                          touches(offset, size, PCI_BASE_ADDRESS_0, 4 * PCI_BARS)))
        pci_remap(function->pci);
}

/* ---- life ---- */

void pci_function_reset(struct pci_function *function)
{
    LOCK_SCOPE(pci_lock(function->pci));
    memcpy(function->config, function->initial, sizeof(function->config));
    if (function->msix)
        pci_msix_reset(function->msix);
    pci_remap(function->pci);
}

void pci_function_capture(struct pci_function *function, struct pci_function_state *state)
{
    LOCK_SCOPE(pci_lock(function->pci));
    const uint8_t *config = function->config;
    *state = (struct pci_function_state){
        .slot = (uint8_t)function->slot,
        .device_id = (uint16_t)get(config, PCI_DEVICE_ID, 2),
        .command = (uint16_t)get(config, PCI_COMMAND, 2),
        .cache_line_size = config[PCI_CACHE_LINE_SIZE],
        .latency_timer = config[PCI_LATENCY_TIMER],
        .interrupt_line = config[PCI_INTERRUPT_LINE],
    };
    for (unsigned n = 0; n < PCI_BARS; n++)
        state->bars[n] = get(config, bar_register(n), 4);
    if (!function->msix)
        return;
    state->msix_control = get(config, function->msix_offset + PCI_MSIX_FLAGS, 2) & MSIX_WRITABLE;
    state->msix_count = function->msix->count;
    pci_msix_capture(function->msix, state->msix);
}

int pci_function_accept(const struct pci_function *function, const struct pci_function_state *state,
                        struct ferry_error *err)
{
    uint32_t device_id = get(function->config, PCI_DEVICE_ID, 2);
    if (state->slot != function->slot || state->device_id != device_id)
        return ferry_refuse(err, -EINVAL, "pci",
                            "device %#x at slot %u is not the %#x at slot %u of this machine",
                            state->device_id, state->slot, device_id, function->slot);
    for (unsigned n = 0; n < PCI_BARS; n++) {
        uint32_t fixed = ~get(function->writable, bar_register(n), 4);
        if ((state->bars[n] ^ get(function->config, bar_register(n), 4)) & fixed)
            return ferry_refuse(err, -EINVAL, "pci", "BAR %u is %#x, which this BAR cannot hold", n,
                                state->bars[n]);
    }
    uint32_t vectors = function->msix ? function->msix->count : 0;
    if (state->msix_count != vectors || (vectors == 0 && state->msix_control != 0))
        return ferry_refuse(err, -EINVAL, "pci", "%u MSI-X vectors instead of %u",
                            state->msix_count, vectors);
    return 0;
}

void pci_function_commit(struct pci_function *function, const struct pci_function_state *state)
{
    LOCK_SCOPE(pci_lock(function->pci));
    uint8_t *config = function->config;
    put(config, PCI_COMMAND, state->command, 2);
    config[PCI_CACHE_LINE_SIZE] = state->cache_line_size;
    config[PCI_LATENCY_TIMER] = state->latency_timer;
    config[PCI_INTERRUPT_LINE] = state->interrupt_line;
    for (unsigned n = 0; n < PCI_BARS; n++)
        put(config, bar_register(n), state->bars[n], 4);
    if (function->msix) {
        unsigned flags = function->msix_offset + PCI_MSIX_FLAGS;
        uint32_t size = get(config, flags, 2) & ~(uint32_t)MSIX_WRITABLE;
        put(config, flags, size | state->msix_control, 2);
        pci_msix_commit(function->msix, state->msix, state->msix_control);
    }
    pci_remap(function->pci);
}
