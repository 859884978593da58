/* virtio block device (virtio 1.2, 5.2): one queue, one I/O thread, zero-copy to the backend. */
#ifndef FERRY_VMM_DEVICE_VIRTIO_BLK_H
#define FERRY_VMM_DEVICE_VIRTIO_BLK_H

#include "common/error.h"
#include "vmm/block.h"
#include "vmm/config.h"
#include "vmm/device.h"
#include "vmm/pci.h"
#include "vmm/platform.h"
#include "vmm/virtio_pci.h"

struct virtio_blk_state {
    struct virtio_state virtio[1];
    uint64_t capacity; /* sectors of 512 bytes */
    bool readonly;
};
extern const struct state_table virtio_blk_table;

/*
 * A disk named config->device, of config->size_bytes, on block, which stays the caller's, must
 * outlive the device and be active whenever the device is resumed.  While the device is quiesced
 * nobody in it touches block.
 */
int virtio_blk_create(const struct platform *platform, struct pci *pci,
                      const struct disk_config *config, struct block *block, struct device **out,
                      struct ferry_error *err);
/*
 * Stand on another block, of the same size and as writable.  Returns when no request is under way
 * on the one before; those to come wait meanwhile.  Any thread that may use the device.
 */
void virtio_blk_set_block(struct device *device, struct block *block);

#endif
