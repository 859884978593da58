/* virtio entropy device (virtio 1.2, 5.4): the host's getrandom. */
#ifndef FERRY_VMM_DEVICE_VIRTIO_RNG_H
#define FERRY_VMM_DEVICE_VIRTIO_RNG_H

#include "common/error.h"
#include "vmm/device.h"
#include "vmm/pci.h"
#include "vmm/platform.h"
#include "vmm/virtio_pci.h"

struct virtio_rng_state {
    struct virtio_state virtio[1];
};
extern const struct state_table virtio_rng_table;

/* The device "rng0". */
int virtio_rng_create(const struct platform *platform, struct pci *pci, struct device **out,
                      struct ferry_error *err);

#endif
