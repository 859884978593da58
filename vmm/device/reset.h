/*
 * What is left of the keyboard controller: ports PORT_I8042 and PORT_I8042 + 4, command 0xfe resets
 * the machine.  The other way to reset, port PORT_RESET (0xcf9, the FADT's RESET_REG), lies among
 * the PCI ports and belongs to pci.c.
 */
#ifndef FERRY_VMM_DEVICE_RESET_H
#define FERRY_VMM_DEVICE_RESET_H

#include "vmm/device.h"
#include "vmm/platform.h"

extern const struct state_table reset_table;

/* Device "reset".  Errors: of bus_add, -ENOMEM. */
int reset_create(const struct platform *platform, struct device **out, struct ferry_error *err);

#endif
