/*
 * The VM generation id.  The guest finds the address in the DSDT (package ADDR of the device
 * VM_Gen_Counter), reads the bytes there itself, and reads them again when GPE_VMGENID's handler
 * notifies it.  So this device is a writer of 16 bytes; what it remembers serves to tell whether
 * the id has changed.
 */
#include "vmm/device/vmgenid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/device/acpi_pm.h"
#include "vmm/layout.h"

struct vmgenid_state {
    uint8_t guid[16];
};

static const struct state_field vmgenid_fields[] = {
    STATE_ARRAY(STATE_U8, struct vmgenid_state, guid, 1, 1),
};

const struct state_table vmgenid_table = {
    .name = "vmgenid",
    .version = 1,
    .size = sizeof(struct vmgenid_state),
    .fields = vmgenid_fields,
    .field_count = sizeof(vmgenid_fields) / sizeof(vmgenid_fields[0]),
};

struct vmgenid {
    struct device device;
    struct memory *memory;
    struct device *acpi_pm;
    struct vmgenid_state last;
};

static struct vmgenid *vmgenid_of(struct device *device)
{
    return (struct vmgenid *)device;
}

int vmgenid_set(struct device *device, const uint8_t guid[16], struct ferry_error *err)
{
    struct vmgenid *vmgenid = vmgenid_of(device);
    const size_t size = sizeof(vmgenid->last.guid);
    bool changed = memcmp(vmgenid->last.guid, guid, size) != 0;
    int ret = memory_write(vmgenid->memory, (struct gpa){LAYOUT_VMGENID}, guid, size);

    if (ret < 0)
        return ferry_fail_sys(err, ret, "vmgenid", "cannot write the generation id");
    memcpy(vmgenid->last.guid, guid, size);
    if (changed)
        acpi_pm_raise_gpe(vmgenid->acpi_pm, GPE_VMGENID);
    return 0;
}

static void vmgenid_capture(struct device *device, void *state)
{
    *(struct vmgenid_state *)state = vmgenid_of(device)->last;
}

static int vmgenid_commit(struct device *device, const void *state, struct ferry_error *err)
{
    (void)err;
    vmgenid_of(device)->last = *(const struct vmgenid_state *)state;
    return 0;
}

static void vmgenid_destroy(struct device *device)
{
    free(vmgenid_of(device));
}

static const struct device_ops vmgenid_ops = {
    .capture = vmgenid_capture,
    .commit = vmgenid_commit,
    .destroy = vmgenid_destroy,
};

int vmgenid_create(const struct platform *platform, struct device *acpi_pm, struct device **out,
                   struct ferry_error *err)
{
    struct vmgenid *vmgenid = calloc(1, sizeof(*vmgenid));

    if (!vmgenid)
        return ferry_fail(err, -ENOMEM, "vmgenid", "out of memory");
    vmgenid->device =
        (struct device){.name = "vmgenid", .table = &vmgenid_table, .ops = &vmgenid_ops};
    vmgenid->memory = platform->memory;
    vmgenid->acpi_pm = acpi_pm;
    *out = &vmgenid->device;
    return 0;
}
