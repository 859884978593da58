/* What a device is built on: passed to every device constructor by the machine. */
#ifndef FERRY_VMM_PLATFORM_H
#define FERRY_VMM_PLATFORM_H

#include "common/log.h"
#include "vmm/bus.h"
#include "vmm/irq.h"
#include "vmm/memory.h"

enum platform_request { PLATFORM_POWEROFF, PLATFORM_RESET };

struct platform {
    const struct log *log;
    struct memory *memory;
    struct bus *pio;
    struct bus *mmio;
    struct irq *irq;
    int vm_fd; /* of KVM, for the few devices that need a memory slot */
    /* The guest asks, from a vCPU thread: the machine notes it and stops the vCPUs soon after. */
    void (*request)(void *opaque, enum platform_request request);
    /* COM1 output, from a vCPU thread. */
    void (*serial_output)(void *opaque, const uint8_t *data, size_t size);
    void *opaque;
};

#endif
