/*
 * Fuzz target: a hostile guest.  The input is a program of accesses to configuration space, BARs
 * and RAM of a machine with a disk and an entropy device, with saves and loads in between.
 *
 *   0  configuration write   u8 slot, u8 register, u8 size, u32 value
 *   1  BAR write             u8 slot and BAR, u16 offset, u8 size, u64 value
 *   2  BAR read              u8 slot and BAR, u16 offset, u8 size
 *   3  RAM write             u16 address, u8 length, bytes
 *   4  kick                  u8 slot
 *   5  quiesce, save, load into itself, resume
 *   6  machine reset
 */
#include <stdlib.h>

#include "common/bytes.h"
#include "tests/support/virtio_rig.h"
#include "vmm/device/virtio_blk.h"
#include "vmm/device/virtio_rng.h"

#define DISK_BYTES 65536u
#define NOTIFY     0x3000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool fine)
{
    if (!fine)
        abort();
}

static int block_transfer(struct block *block, const struct iovec *iov, int count, uint64_t offset)
{
    for (int n = 0; n < count; n++) {
        must(offset <= block->size_bytes && iov[n].iov_len <= block->size_bytes - offset);
        volatile uint8_t *bytes = iov[n].iov_base;
        bytes[0] = bytes[iov[n].iov_len - 1]; /* it must be there */
        offset += iov[n].iov_len;
    }
    return 0;
}

static int block_flush(struct block *block)
{
    (void)block;
    return 0;
}

static int block_discard(struct block *block, uint64_t offset, uint64_t size)
{
    must(offset <= block->size_bytes && size <= block->size_bytes - offset);
    return 0;
}

static int block_zero(struct block *block, uint64_t offset, uint64_t size, bool may_unmap)
{
    (void)may_unmap;
    return block_discard(block, offset, size);
}

static const struct block_ops block_ops = {
    .read = block_transfer,
    .write = block_transfer,
    .flush = block_flush,
    .discard = block_discard,
    .write_zeroes = block_zero,
};

struct guest {
    struct rig rig;
    struct block block;
    struct device *devices[2];
};

static uint64_t bar_address(struct guest *guest, unsigned slot, unsigned bar)
{
    uint64_t address = rig_config_read(&guest->rig, slot, 0x10 + 4 * bar, 4) & ~0xfu;
    return bar ? address : address | (uint64_t)rig_config_read(&guest->rig, slot, 0x14, 4) << 32;
}

static void access_bar(struct guest *guest, struct reader *in, bool write)
{
    uint8_t where = reader_u8(in);
    uint64_t address = bar_address(guest, 1 + (where & 1), where & 2) + reader_u16(in) % 0x4000;
    unsigned size = 1u << reader_u8(in) % 4;
    if (write)
        rig_mmio_write(&guest->rig, address, size, reader_u64(in));
    else
        rig_mmio_read(&guest->rig, address, size);
}

static void write_config(struct guest *guest, struct reader *in)
{
    unsigned slot = reader_u8(in) % 3, reg = reader_u8(in), size = 1u << reader_u8(in) % 3;
    rig_config_write(&guest->rig, slot, reg & ~(size - 1), size, reader_u32(in));
}

static void write_ram(struct guest *guest, struct reader *in)
{
    uint16_t address = reader_u16(in);
    uint8_t length = reader_u8(in);
    reader_copy(in, rig_ram(&guest->rig, address), length);
}

/* A captured state is always one that loads. */
static void save_and_load(struct guest *guest)
{
    for (unsigned n = 0; n < 2; n++) {
        struct device *device = guest->devices[n];
        must(device->ops->quiesce(device, NULL) == 0);
        struct writer saved = rig_save(device);
        must(rig_load(&guest->rig, device, saved.data, saved.size, NULL) == 0);
        writer_free(&saved);
        must(device->ops->resume(device, NULL) == 0);
    }
}

static void step(struct guest *guest, struct reader *in)
{
    switch (reader_u8(in) % 7) {
    case 0:
        write_config(guest, in);
        break;
    case 1:
        access_bar(guest, in, true);
        break;
    case 2:
        access_bar(guest, in, false);
        break;
    case 3:
        write_ram(guest, in);
        break;
    case 4:
        rig_mmio_write(&guest->rig, bar_address(guest, 1 + (reader_u8(in) & 1), 0) + NOTIFY, 2, 0);
        break;
    case 5:
        save_and_load(guest);
        break;
    default:
        for (unsigned n = 0; n < 2; n++)
            guest->devices[n]->ops->reset(guest->devices[n]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct disk_config config = {.device = "vda", .size_bytes = DISK_BYTES};
    struct guest guest = {.block = {.ops = &block_ops, .size_bytes = DISK_BYTES, .active = true}};
    struct reader in = reader_init(data, size);
    rig_create(&guest.rig, -1);
    const struct platform *platform = &guest.rig.platform;
    must(virtio_blk_create(platform, guest.rig.pci, &config, &guest.block, &guest.devices[0],
                           NULL) == 0);
    must(virtio_rng_create(platform, guest.rig.pci, &guest.devices[1], NULL) == 0);
    for (unsigned n = 0; n < 2; n++)
        must(guest.devices[n]->ops->resume(guest.devices[n], NULL) == 0);
    while (reader_left(&in))
        step(&guest, &in);
    for (unsigned n = 0; n < 2; n++)
        guest.devices[n]->ops->destroy(guest.devices[n]);
    rig_destroy(&guest.rig);
    return 0;
}
