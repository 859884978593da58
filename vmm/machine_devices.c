/*
 * What is in a ferry machine.  The order of creation is the order of sections in images and
 * streams and of PCI slots: it never changes, new devices come last.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/device/acpi_pm.h"
#include "vmm/device/reset.h"
#include "vmm/device/rtc.h"
#include "vmm/device/serial.h"
#include "vmm/device/virtio_blk.h"
#include "vmm/device/virtio_rng.h"
#include "vmm/device/vmgenid.h"
#include "vmm/irqchip_state.h"
#include "vmm/machine_internal.h"

static struct device *append(struct machine *machine, struct device *device)
{
    device->next = NULL;
    *machine->devices_end = device;
    machine->devices_end = &device->next;
    return device;
}

static int create_platform_devices(struct machine *machine, struct ferry_error *err)
{
    const struct platform *platform = &machine->platform;
    struct device *device;

    int rc = serial_create(platform, &device, err);
    if (rc)
        return rc;
    machine->serial = append(machine, device);
    rc = rtc_create(platform, &device, err);
    if (rc)
        return rc;
    append(machine, device);
    rc = reset_create(platform, &device, err);
    if (rc)
        return rc;
    append(machine, device);
    rc = acpi_pm_create(platform, &device, err);
    if (rc)
        return rc;
    machine->acpi_pm = append(machine, device);
    rc = vmgenid_create(platform, machine->acpi_pm, &device, err);
    if (rc)
        return rc;
    machine->vmgenid = append(machine, device);
    return 0;
}

static int create_pci_devices(struct machine *machine, struct ferry_error *err)
{
    const struct platform *platform = &machine->platform;
    struct device *device;

    int rc = pci_create(platform, &machine->pci, err);
    if (rc)
        return rc;
    append(machine, pci_device(machine->pci));
    rc = virtio_rng_create(platform, machine->pci, &device, err);
    if (rc)
        return rc;
    append(machine, device);
    for (uint32_t i = 0; i < machine->config.disk_count; i++) {
        rc = virtio_blk_create(platform, machine->pci, &machine->config.disks[i],
                               machine->host.disks[i], &device, err);
        if (rc)
            return rc;
        append(machine, device);
    }
    return 0;
}

int machine_create_devices(struct machine *machine, struct ferry_error *err)
{
    for (uint32_t i = 0; i < machine->config.disk_count; i++)
        if (!machine->host.disks[i])
            return ferry_usage(err, machine->config.disks[i].device,
                               "the machine has this disk, but no file was given for it");
    int rc = create_platform_devices(machine, err);
    return rc ? rc : create_pci_devices(machine, err);
}

/* Latest first: the PCI root outlives its functions, acpi_pm the vmgenid. */
static void destroy_from(struct device *device)
{
    if (!device)
        return;
    destroy_from(device->next);
    device->ops->destroy(device);
}

void machine_destroy_devices(struct machine *machine)
{
    destroy_from(machine->devices);
    machine->devices = NULL;
    machine->devices_end = &machine->devices;
}

void machine_filter_disk(struct machine *machine, uint32_t index, struct block *filter)
{
    for (struct device *d = machine->devices; d; d = d->next)
        if (!strcmp(d->name, machine->config.disks[index].device))
            virtio_blk_set_block(d, filter ? filter : machine->host.disks[index]);
}

int machine_resume_devices(struct machine *machine, struct ferry_error *err)
{
    machine->devices_live = true;
    for (struct device *d = machine->devices; d; d = d->next) {
        int rc = d->ops->resume ? d->ops->resume(d, err) : 0;
        if (!rc)
            continue;
        (void)machine_quiesce_devices(machine, NULL);
        return rc;
    }
    return 0;
}

int machine_quiesce_devices(struct machine *machine, struct ferry_error *err)
{
    int first = 0;
    if (!machine->devices_live)
        return 0;
    for (struct device *d = machine->devices; d; d = d->next) {
        int rc = d->ops->quiesce ? d->ops->quiesce(d, first ? NULL : err) : 0;
        first = first ? first : rc;
    }
    machine->devices_live = first != 0;
    return first;
}

void machine_reset_devices(struct machine *machine)
{
    for (struct device *d = machine->devices; d; d = d->next)
        if (d->ops->reset)
            d->ops->reset(d);
}

/* ---- the kinds of sections ---- */

static const struct state_table *const tables[] = {
    &clock_table,  &vcpu_table,       &pic_table,        &ioapic_table,  &pit_table,
    &serial_table, &rtc_table,        &reset_table,      &acpi_pm_table, &vmgenid_table,
    &pci_table,    &virtio_rng_table, &virtio_blk_table,
};

const struct state_table *machine_table_at(size_t index)
{
    return index < sizeof(tables) / sizeof(tables[0]) ? tables[index] : NULL;
}

/* Names of devices as they are in a machine; a digit behind it is an instance. */
static const struct {
    const char *name;
    bool numbered;
    const struct state_table *table;
} sections[] = {
    {"clock", false, &clock_table},     {"vcpu", true, &vcpu_table},
    {"pic", false, &pic_table},         {"ioapic", false, &ioapic_table},
    {"pit", false, &pit_table},         {"serial", true, &serial_table},
    {"rtc", false, &rtc_table},         {"reset", false, &reset_table},
    {"acpi_pm", false, &acpi_pm_table}, {"vmgenid", false, &vmgenid_table},
    {"pci", false, &pci_table},         {"rng", true, &virtio_rng_table},
};

static bool is_number(const char *text)
{
    return *text && strlen(text) <= 4 && strspn(text, "0123456789") == strlen(text);
}

const struct state_table *machine_table_of(const char *section)
{
    for (size_t i = 0; i < sizeof(sections) / sizeof(sections[0]); i++) {
        size_t length = strlen(sections[i].name);
        if (strncmp(section, sections[i].name, length) != 0)
            continue;
        if (sections[i].numbered ? is_number(section + length) : !section[length])
            return sections[i].table;
    }
    if (strlen(section) == 3 && strncmp(section, "vd", 2) == 0 && section[2] >= 'a' &&
        section[2] < 'a' + LIMIT_DISKS)
        return &virtio_blk_table;
    return NULL;
}
