/*
 * The VM generation id (Microsoft, "Virtual Machine Generation ID", 2012): 16 bytes of reserved
 * guest RAM at LAYOUT_VMGENID that change whenever the guest may have been rolled back or doubled,
 * and a general purpose event that tells it so.  The bytes are RAM and travel with it.
 */
#ifndef FERRY_VMM_DEVICE_VMGENID_H
#define FERRY_VMM_DEVICE_VMGENID_H

#include <stdint.h>

#include "vmm/device.h"
#include "vmm/platform.h"

extern const struct state_table vmgenid_table;

/* Device "vmgenid".  acpi_pm: the device that raises the event; must outlive this one. */
int vmgenid_create(const struct platform *platform, struct device *acpi_pm, struct device **out,
                   struct ferry_error *err);
/*
 * Write a new id into guest RAM (as stored: the caller's 16 bytes in order) and, if it differs from
 * the last one, raise GPE_VMGENID.  While no vCPU runs.  -EFAULT: no RAM there (a bug).
 */
int vmgenid_set(struct device *device, const uint8_t guid[16], struct ferry_error *err);

#endif
