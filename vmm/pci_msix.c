/*
 * MSI-X: see the header.  Each vector has its route and eventfd from the start; the route gets the
 * message when the vector becomes live, and again whenever a live entry is rewritten.  Because the
 * eventfd is only ever written while the vector is live, masking needs no word to KVM.
 */
#include "vmm/pci_msix.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"

#define ENTRY_DWORDS (PCI_MSIX_ENTRY_SIZE / 4)

static int check_vector(const void *state, const struct state_context *context,
                        struct ferry_error *err)
{
    const struct pci_msix_vector *vector = state;
    (void)context;
    if (vector->address & 3)
        return ferry_refuse(err, -EINVAL, "msix", "message address %#llx is not aligned",
                            (unsigned long long)vector->address);
    return 0;
}

static const struct state_field vector_fields[] = {
    STATE_SCALAR(STATE_U64, struct pci_msix_vector, address, 1, 1),
    STATE_SCALAR(STATE_U32, struct pci_msix_vector, data, 2, 1),
    STATE_RANGE(STATE_U32, struct pci_msix_vector, control, 3, 1, 0, PCI_MSIX_ENTRY_CTRL_MASKBIT),
    STATE_SCALAR(STATE_BOOL, struct pci_msix_vector, pending, 4, 1),
};

const struct state_table pci_msix_vector_table = {
    .name = "pci-msix-vector",
    .version = 1,
    .size = sizeof(struct pci_msix_vector),
    .fields = vector_fields,
    .field_count = sizeof(vector_fields) / sizeof(vector_fields[0]),
    .check = check_vector,
};

int pci_msix_init(struct pci_msix *msix, struct irq *irq, const struct log *log, unsigned count,
                  struct ferry_error *err)
{
    *msix = (struct pci_msix){.irq = irq, .log = log};
    if (count == 0 || count > PCI_MSIX_VECTORS)
        return ferry_fail(err, -EINVAL, "msix", "%u vectors are not 1..%d", count,
                          PCI_MSIX_VECTORS);
    pthread_mutex_init(&msix->lock, NULL);
    while (msix->count < count) {
        unsigned n = msix->count;
        int rc = irq_msi_alloc(irq, &msix->gsi[n], &msix->fd[n], err);
        if (rc) {
            pci_msix_destroy(msix);
            return rc;
        }
        msix->count++;
    }
    pci_msix_reset(msix);
    return 0;
}

void pci_msix_destroy(struct pci_msix *msix)
{
    if (!msix->irq)
        return;
    for (unsigned n = 0; n < msix->count; n++)
        irq_msi_free(msix->irq, msix->gsi[n]);
    pthread_mutex_destroy(&msix->lock);
    msix->irq = NULL;
}

void pci_msix_reset(struct pci_msix *msix)
{
    LOCK_SCOPE(&msix->lock);
    msix->enabled = false;
    msix->masked = false;
    for (unsigned n = 0; n < msix->count; n++)
        msix->vectors[n] = (struct pci_msix_vector){.control = PCI_MSIX_ENTRY_CTRL_MASKBIT};
}

static bool is_live(const struct pci_msix *msix, unsigned n)
{
    return msix->enabled && !msix->masked &&
           !(msix->vectors[n].control & PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

static void send(const struct pci_msix *msix, unsigned n)
{
    uint64_t one = 1;
    /* Only a counter at its end could refuse it, and then the interrupt is on its way anyway. */
    ssize_t written = write(msix->fd[n], &one, sizeof(one));
    (void)written;
}

/* The entry or a mask above it has changed. */
static void update(struct pci_msix *msix, unsigned n)
{
    struct pci_msix_vector *vector = &msix->vectors[n];
    if (!is_live(msix, n))
        return;
    struct ferry_error err = {0};
    if (irq_msi_set(msix->irq, msix->gsi[n], vector->address, vector->data, &err))
        log_debug(msix->log, "msix: vector %u: %s", n, err.message); /* the guest chose it */
    if (vector->pending) {
        vector->pending = false;
        send(msix, n);
    }
}

static void update_all(struct pci_msix *msix)
{
    for (unsigned n = 0; n < msix->count; n++)
        update(msix, n);
}

void pci_msix_raise(struct pci_msix *msix, unsigned vector)
{
    LOCK_SCOPE(&msix->lock);
    if (vector >= msix->count || !msix->enabled)
        return;
    if (is_live(msix, vector))
        send(msix, vector);
    else
        msix->vectors[vector].pending = true;
}

static void set_control(struct pci_msix *msix, uint16_t control)
{
    msix->enabled = control & PCI_MSIX_FLAGS_ENABLE;
    msix->masked = control & PCI_MSIX_FLAGS_MASKALL;
    update_all(msix);
}

void pci_msix_set_control(struct pci_msix *msix, uint16_t control)
{
    LOCK_SCOPE(&msix->lock);
    set_control(msix, control);
}

static uint32_t read_dword(const struct pci_msix *msix, uint64_t offset)
{
    if (offset >= MSIX_PENDING_OFFSET) {
        uint64_t first = (offset - MSIX_PENDING_OFFSET) * 8;
        uint32_t bits = 0;
        for (uint64_t n = first; n < first + 32 && n < msix->count; n++)
            bits |= (uint32_t)msix->vectors[n].pending << (n - first);
        return bits;
    }
    uint64_t n = offset / PCI_MSIX_ENTRY_SIZE;
    if (n >= msix->count)
        return 0;
    const struct pci_msix_vector *vector = &msix->vectors[n];
    const uint32_t dwords[ENTRY_DWORDS] = {(uint32_t)vector->address,
                                           (uint32_t)(vector->address >> 32), vector->data,
                                           vector->control};
    return dwords[offset % PCI_MSIX_ENTRY_SIZE / 4];
}

uint64_t pci_msix_read(void *opaque, uint64_t offset, unsigned size)
{
    const struct pci_msix *msix = opaque;
    uint64_t low = read_dword(msix, offset & ~UINT64_C(3)) >> (8 * (offset & 3));
    if (size <= 4)
        return low;
    return low | (uint64_t)read_dword(msix, (offset & ~UINT64_C(3)) + 4) << 32;
}

static void write_dword(struct pci_msix_vector *vector, unsigned dword, uint32_t value)
{
    const uint64_t low = UINT32_MAX;
    if (dword == 0)
        vector->address = (vector->address & ~low) | (value & ~3u);
    else if (dword == 1)
        vector->address = (vector->address & low) | (uint64_t)value << 32;
    else if (dword == 2)
        vector->data = value;
    else
        vector->control = value & PCI_MSIX_ENTRY_CTRL_MASKBIT;
}

void pci_msix_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pci_msix *msix = opaque;
    uint64_t n = offset / PCI_MSIX_ENTRY_SIZE;
    /* 6.8.2: aligned double and quad words only; the pending bits are read-only. */
    if (n >= msix->count || size < 4 || offset % size)
        return;
    unsigned dword = offset % PCI_MSIX_ENTRY_SIZE / 4;
    write_dword(&msix->vectors[n], dword, (uint32_t)value);
    if (size == 8)
        write_dword(&msix->vectors[n], dword + 1, (uint32_t)(value >> 32));
    update(msix, (unsigned)n);
}

void pci_msix_capture(struct pci_msix *msix, struct pci_msix_vector *vectors)
{
    LOCK_SCOPE(&msix->lock);
    memcpy(vectors, msix->vectors, msix->count * sizeof(*vectors));
}

void pci_msix_commit(struct pci_msix *msix, const struct pci_msix_vector *vectors, uint16_t control)
{
    LOCK_SCOPE(&msix->lock);
    memcpy(msix->vectors, vectors, msix->count * sizeof(*vectors));
    set_control(msix, control);
}
