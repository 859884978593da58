/*
 * COM1: a 16550A (National Semiconductor PC16550D data sheet) on ports PORT_SERIAL0, GSI_SERIAL0.
 * Output leaves at once through platform->serial_output; input waits in the 16-byte receive FIFO.
 */
#ifndef FERRY_VMM_DEVICE_SERIAL_H
#define FERRY_VMM_DEVICE_SERIAL_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/device.h"
#include "vmm/platform.h"

extern const struct state_table serial_table;

/* Device "serial0".  Errors: of bus_add, -ENOMEM. */
int serial_create(const struct platform *platform, struct device **out, struct ferry_error *err);
/*
 * Bytes from the outside.  Any thread.  Returns how many the FIFO took (0..size); the rest is the
 * caller's to offer again.  A guest that has the UART in loopback mode takes none.
 */
size_t serial_input(struct device *device, const uint8_t *data, size_t size);
/*
 * Call room(opaque) whenever the guest has made room again after serial_input took less than it
 * was given: from a vCPU thread inside the device's lock, so it may only pass the word on
 * (loop_post, eventfd) and, like serial_output, not call serial_input.  NULL: nobody.  Set before
 * the vCPUs run.
 */
void serial_on_room(struct device *device, void (*room)(void *opaque), void *opaque);

#endif
