/*
 * KVM keeps one table that says where a GSI leads, and replaces it as a whole.  Ours is the one
 * that KVM_CREATE_IRQCHIP starts with (GSI n: pin n of the IOAPIC, and of the PICs below 16), and
 * behind it a slot for each allocated MSI that has a message.  An irqfd is bound to its GSI when
 * the first message is set: until then a vector that the guest never uses costs nothing.
 */
#include "vmm/irq.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include "common/cleanup.h"
#include "vmm/layout.h"

#define PIC_PINS     8
#define ISA_LINES    16
#define IOAPIC_PINS  24
#define FIXED_ROUTES (ISA_LINES + IOAPIC_PINS)

struct msi {
    bool taken;
    int fd;
    bool bound; /* the irqfd exists */
    bool routed;
    uint64_t address;
    uint32_t data;
};

struct irq {
    int vm_fd;
    pthread_mutex_t lock;
    unsigned used; /* slots below this one may be taken */
    struct msi msis[GSI_MSI_COUNT];
};

int irq_create(int vm_fd, struct irq **out, struct ferry_error *err)
{
    struct irq *irq = calloc(1, sizeof(*irq));
    if (!irq)
        return ferry_fail_sys(err, -ENOMEM, "interrupts", "cannot create the routing table");
    irq->vm_fd = vm_fd;
    pthread_mutex_init(&irq->lock, NULL);
    *out = irq;
    return 0;
}

void irq_destroy(struct irq *irq)
{
    if (!irq)
        return;
    for (unsigned i = 0; i < irq->used; i++)
        if (irq->msis[i].taken)
            close(irq->msis[i].fd);
    pthread_mutex_destroy(&irq->lock);
    free(irq);
}

void irq_set_line(struct irq *irq, unsigned gsi, bool high)
{
    struct kvm_irq_level level = {.irq = gsi, .level = high};
    /* Fails only for a line that does not exist: a bug that the first test finds. */
    (void)ioctl(irq->vm_fd, KVM_IRQ_LINE, &level);
}

static struct kvm_irq_routing_entry pin_route(unsigned gsi, unsigned chip, unsigned pin)
{
    return (struct kvm_irq_routing_entry){
        .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {.irqchip = chip, .pin = pin}};
}

static unsigned fixed_routes(struct kvm_irq_routing_entry *entries)
{
    unsigned n = 0;
    for (unsigned gsi = 0; gsi < IOAPIC_PINS; gsi++) {
        if (gsi < ISA_LINES)
            entries[n++] =
                pin_route(gsi, gsi < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
                          gsi % PIC_PINS);
        entries[n++] = pin_route(gsi, KVM_IRQCHIP_IOAPIC, gsi);
    }
    return n;
}

static int set_routes(struct irq *irq, struct ferry_error *err)
{
    unsigned count = FIXED_ROUTES + irq->used;
    struct kvm_irq_routing *table CLEANUP_FREE =
        calloc(1, sizeof(*table) + count * sizeof(table->entries[0]));
    if (!table)
        return ferry_fail_sys(err, -ENOMEM, "interrupts", "cannot build the routing table");
    unsigned n = fixed_routes(table->entries);
    for (unsigned i = 0; i < irq->used; i++) {
        const struct msi *msi = &irq->msis[i];
        if (!msi->routed)
            continue;
        struct kvm_irq_routing_entry *e = &table->entries[n++];
        e->gsi = GSI_MSI_FIRST + i;
        e->type = KVM_IRQ_ROUTING_MSI;
        e->u.msi.address_lo = (uint32_t)msi->address;
        e->u.msi.address_hi = (uint32_t)(msi->address >> 32);
        e->u.msi.data = msi->data;
    }
    table->nr = n;
    if (ioctl(irq->vm_fd, KVM_SET_GSI_ROUTING, table))
        return ferry_fail_sys(err, -errno, "interrupts", "KVM refuses the interrupt routing");
    return 0;
}

static int bind_fd(struct irq *irq, unsigned slot, bool bind)
{
    struct kvm_irqfd request = {.fd = (uint32_t)irq->msis[slot].fd,
                                .gsi = GSI_MSI_FIRST + slot,
                                .flags = bind ? 0 : KVM_IRQFD_FLAG_DEASSIGN};
    return ioctl(irq->vm_fd, KVM_IRQFD, &request) ? -errno : 0;
}

int irq_msi_alloc(struct irq *irq, unsigned *gsi, int *fd, struct ferry_error *err)
{
    LOCK_SCOPE(&irq->lock);
    unsigned slot = 0;
    while (slot < irq->used && irq->msis[slot].taken)
        slot++;
    if (slot == GSI_MSI_COUNT)
        return ferry_fail(err, -ENOSPC, "interrupts", "all %u MSI routes are taken", GSI_MSI_COUNT);
    int event CLEANUP_FD = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event < 0)
        return ferry_fail_sys(err, -errno, "interrupts", "cannot create an eventfd");
    irq->msis[slot] = (struct msi){.taken = true, .fd = take_fd(&event)};
    if (slot == irq->used)
        irq->used++;
    *gsi = GSI_MSI_FIRST + slot;
    *fd = irq->msis[slot].fd;
    return 0;
}

static struct msi *msi_of(struct irq *irq, unsigned gsi)
{
    unsigned slot = gsi - GSI_MSI_FIRST;
    return gsi >= GSI_MSI_FIRST && slot < irq->used && irq->msis[slot].taken ? &irq->msis[slot]
                                                                             : NULL;
}

void irq_msi_free(struct irq *irq, unsigned gsi)
{
    LOCK_SCOPE(&irq->lock);
    struct msi *msi = msi_of(irq, gsi);
    if (!msi)
        return;
    if (msi->bound)
        bind_fd(irq, gsi - GSI_MSI_FIRST, false);
    close(msi->fd);
    /* Its route stays in KVM's table until the next change: without an irqfd nothing uses it. */
    *msi = (struct msi){0};
}

int irq_msi_set(struct irq *irq, unsigned gsi, uint64_t address, uint32_t data,
                struct ferry_error *err)
{
    LOCK_SCOPE(&irq->lock);
    struct msi *msi = msi_of(irq, gsi);
    if (!msi)
        return ferry_fail(err, -EINVAL, "interrupts", "GSI %u is not an MSI route", gsi);
    if (msi->routed && msi->address == address && msi->data == data)
        return 0;
    struct msi before = *msi;
    msi->routed = true;
    msi->address = address;
    msi->data = data;
    int rc = set_routes(irq, err);
    if (!rc && !msi->bound) {
        rc = bind_fd(irq, gsi - GSI_MSI_FIRST, true);
        msi->bound = rc == 0;
        if (rc)
            ferry_fail_sys(err, rc, "interrupts", "cannot bind an eventfd to GSI %u", gsi);
    }
    if (rc)
        *msi = before;
    return rc;
}

static int doorbell(struct irq *irq, uint64_t address, unsigned length, bool pio, int fd,
                    uint32_t flags)
{
    struct kvm_ioeventfd request = {.addr = address,
                                    .len = length,
                                    .fd = fd,
                                    .flags = flags | (pio ? KVM_IOEVENTFD_FLAG_PIO : 0)};
    return ioctl(irq->vm_fd, KVM_IOEVENTFD, &request) ? -errno : 0;
}

int irq_doorbell_add(struct irq *irq, uint64_t address, unsigned length, bool pio, int fd,
                     struct ferry_error *err)
{
    int rc = doorbell(irq, address, length, pio, fd, 0);
    if (rc)
        return ferry_fail_sys(err, rc, "interrupts", "cannot put a doorbell at 0x%llx",
                              (unsigned long long)address);
    return 0;
}

void irq_doorbell_remove(struct irq *irq, uint64_t address, unsigned length, bool pio, int fd)
{
    (void)doorbell(irq, address, length, pio, fd, KVM_IOEVENTFD_FLAG_DEASSIGN);
}
