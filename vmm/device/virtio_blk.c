/*
 * virtio-blk.  The worker takes one request after the other from the queue and serves it with the
 * backend, data going straight between guest memory and the backend (preadv, pwritev).  A request
 * is
 *
 *   readable  header of 16 bytes {type, reserved, sector}, then data to write or ranges
 *   writable  data read, then one byte of status
 *
 * in any cutting into descriptors.  What a request gets wrong about the disk ends as a status; a
 * request without room for header or status breaks the queue.  Because a request is served whole
 * before the worker yields, a quiesced disk has none in flight.
 */
#include "vmm/device/virtio_blk.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/limits.h"

#define SECTOR_BYTES      512u
#define STATUS_BYTES      1u
#define QUEUE_SIZE        LIMIT_VIRTQUEUE_SIZE
#define SEGMENTS_MAX      (LIMIT_CHAIN_DESCRIPTORS - 2) /* header and status take one each */
#define SEGMENT_BYTES     (LIMIT_BLK_REQUEST_BYTES / LIMIT_CHAIN_DESCRIPTORS) /* all fit */
#define DISCARD_SECTORS   ((1 * GIB) / SECTOR_BYTES)                          /* of one range */
#define ZEROES_SECTORS    ((64 * MIB) / SECTOR_BYTES) /* of one range: they may cost writes */
#define ZEROES_RANGES     1
#define DISCARD_ALIGN     (4096 / SECTOR_BYTES)
#define CLASS_STORAGE     0x018000 /* mass storage, other */
#define PHYSICAL_EXPONENT 3        /* blocks of 4 KiB below logical ones of 512 bytes */
#define FEATURE(bit)      (UINT64_C(1) << (bit))

struct virtio_blk {
    struct virtio_device virtio;
    struct block *block;
    char serial[VIRTIO_BLK_ID_BYTES];
    bool error_told; /* the log heard of a failed transfer */
    /* of the request being served */
    struct virtqueue_chain chain;
    struct iovec iov[LIMIT_CHAIN_DESCRIPTORS];
};

/* A request, copied in. */
struct request {
    struct virtio_blk_outhdr header;
    uint64_t out_bytes; /* readable behind the header */
    uint64_t in_bytes;  /* writable before the status */
    uint32_t written;   /* of in_bytes, from the first one on */
};

static struct virtqueue *queue_of(struct virtio_blk *blk)
{
    return &blk->virtio.queues[0];
}

static void report(struct virtio_blk *blk, const char *what, int code)
{
    if (blk->error_told)
        return;
    blk->error_told = true;
    log_warn(blk->virtio.platform->log, "%s: %s failed: %s (further errors are not shown)",
             blk->virtio.name, what, strerror(-code));
}

/* ---- requests; each returns the status byte ---- */

static bool data_fits(const struct virtio_blk *blk, uint64_t sector, uint64_t bytes)
{
    uint64_t sectors = blk->block->size_bytes / SECTOR_BYTES;
    return bytes % SECTOR_BYTES == 0 && bytes <= LIMIT_BLK_REQUEST_BYTES && sector <= sectors &&
           bytes / SECTOR_BYTES <= sectors - sector;
}

static uint8_t serve_read(struct virtio_blk *blk, struct request *request)
{
    if (!data_fits(blk, request->header.sector, request->in_bytes))
        return VIRTIO_BLK_S_IOERR;
    int count =
        virtqueue_chain_iov(queue_of(blk), &blk->chain, true, 0, request->in_bytes, blk->iov);
    if (count < 0)
        return VIRTIO_BLK_S_IOERR;
    uint64_t offset = request->header.sector * SECTOR_BYTES;
    int rc = count ? blk->block->ops->read(blk->block, blk->iov, count, offset) : 0;
    /* A failed read may have written some of it. */
    virtqueue_chain_dirty(queue_of(blk), &blk->chain, 0, request->in_bytes);
    if (rc) {
        report(blk, "a read", rc);
        return VIRTIO_BLK_S_IOERR;
    }
    request->written = (uint32_t)request->in_bytes;
    return VIRTIO_BLK_S_OK;
}

static uint8_t serve_flush(struct virtio_blk *blk)
{
    int rc = blk->block->ops->flush(blk->block);
    if (!rc)
        return VIRTIO_BLK_S_OK;
    report(blk, "a flush", rc);
    return VIRTIO_BLK_S_IOERR;
}

/* 5.2.6.2: a driver that did not take FLUSH expects every write to be durable. */
static uint8_t after_change(struct virtio_blk *blk, const char *what, int rc)
{
    if (rc == -EOPNOTSUPP)
        return VIRTIO_BLK_S_UNSUPP;
    if (rc) {
        report(blk, what, rc);
        return VIRTIO_BLK_S_IOERR;
    }
    return virtio_negotiated(&blk->virtio, VIRTIO_BLK_F_FLUSH) ? VIRTIO_BLK_S_OK : serve_flush(blk);
}

static uint8_t serve_write(struct virtio_blk *blk, const struct request *request)
{
    if (blk->block->readonly || !data_fits(blk, request->header.sector, request->out_bytes))
        return VIRTIO_BLK_S_IOERR;
    int count = virtqueue_chain_iov(queue_of(blk), &blk->chain, false, sizeof(request->header),
                                    request->out_bytes, blk->iov);
    if (count < 0)
        return VIRTIO_BLK_S_IOERR;
    uint64_t offset = request->header.sector * SECTOR_BYTES;
    int rc = count ? blk->block->ops->write(blk->block, blk->iov, count, offset) : 0;
    return after_change(blk, "a write", rc);
}

static uint8_t serve_id(struct virtio_blk *blk, struct request *request)
{
    uint64_t size = sizeof(blk->serial);
    if (request->in_bytes < size)
        size = request->in_bytes;
    if (virtqueue_chain_write(queue_of(blk), &blk->chain, 0, blk->serial, size))
        return VIRTIO_BLK_S_IOERR;
    request->written = (uint32_t)size;
    return VIRTIO_BLK_S_OK;
}

/* One range of a discard (zeroes false) or write-zeroes request. */
static uint8_t serve_range(struct virtio_blk *blk, bool zeroes,
                           const struct virtio_blk_discard_write_zeroes *range)
{
    uint32_t known = zeroes ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
    uint64_t most = zeroes ? ZEROES_SECTORS : DISCARD_SECTORS;
    uint64_t sectors = blk->block->size_bytes / SECTOR_BYTES;
    if (range->flags & ~known)
        return VIRTIO_BLK_S_UNSUPP;
    if (range->num_sectors > most || range->sector > sectors ||
        range->num_sectors > sectors - range->sector)
        return VIRTIO_BLK_S_IOERR;
    const struct block_ops *ops = blk->block->ops;
    uint64_t offset = range->sector * SECTOR_BYTES;
    uint64_t size = (uint64_t)range->num_sectors * SECTOR_BYTES;
    if (!zeroes)
        return after_change(blk, "a discard", ops->discard(blk->block, offset, size));
    bool unmap = range->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    return after_change(blk, "zeroing", ops->write_zeroes(blk->block, offset, size, unmap));
}

static uint8_t serve_ranges(struct virtio_blk *blk, const struct request *request, bool zeroes)
{
    struct virtio_blk_discard_write_zeroes range;
    uint64_t count = request->out_bytes / sizeof(range);
    if (blk->block->readonly || request->out_bytes % sizeof(range) || count == 0 ||
        count > (zeroes ? ZEROES_RANGES : LIMIT_BLK_SEGMENTS))
        return VIRTIO_BLK_S_IOERR;
    for (uint64_t n = 0; n < count; n++) {
        uint64_t at = sizeof(request->header) + n * sizeof(range);
        if (virtqueue_chain_read(queue_of(blk), &blk->chain, at, &range, sizeof(range)))
            return VIRTIO_BLK_S_IOERR;
        uint8_t status = serve_range(blk, zeroes, &range);
        if (status != VIRTIO_BLK_S_OK)
            return status;
    }
    return VIRTIO_BLK_S_OK;
}

static uint8_t serve(struct virtio_blk *blk, struct request *request)
{
    switch (request->header.type) {
    case VIRTIO_BLK_T_IN:
        return serve_read(blk, request);
    case VIRTIO_BLK_T_OUT:
        return serve_write(blk, request);
    case VIRTIO_BLK_T_FLUSH:
        return serve_flush(blk);
    case VIRTIO_BLK_T_GET_ID:
        return serve_id(blk, request);
    case VIRTIO_BLK_T_DISCARD:
        return serve_ranges(blk, request, false);
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return serve_ranges(blk, request, true);
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

/* The chain in blk->chain: 0 or a negative errno if it is no request. */
static int serve_chain(struct virtio_blk *blk)
{
    const struct virtqueue_chain *chain = &blk->chain;
    struct request request = {0};
    if (chain->readable_bytes < sizeof(request.header) || chain->writable_bytes < STATUS_BYTES)
        return -EBADMSG;
    int rc = virtqueue_chain_read(queue_of(blk), chain, 0, &request.header, sizeof(request.header));
    if (rc)
        return rc;
    request.out_bytes = chain->readable_bytes - sizeof(request.header);
    request.in_bytes = chain->writable_bytes - STATUS_BYTES;

    uint8_t status = serve(blk, &request);
    rc = virtqueue_chain_write(queue_of(blk), chain, request.in_bytes, &status, STATUS_BYTES);
    if (rc)
        return rc;
    /* The length covers bytes from the start only: the status counts when all before it do. */
    bool whole = request.written == request.in_bytes;
    return virtqueue_push(queue_of(blk), chain, request.written + (whole ? STATUS_BYTES : 0));
}

/* ---- the worker ---- */

/* Requests until the ring is empty (0), the worker must yield (1), or it is broken. */
static int serve_queue(struct virtio_blk *blk)
{
    struct virtqueue *queue = queue_of(blk);
    while (!virtio_worker_must_yield(&blk->virtio.worker)) {
        int rc = virtqueue_pop(queue, &blk->chain);
        if (rc <= 0)
            return rc;
        rc = serve_chain(blk);
        if (rc) {
            virtqueue_unpop(queue);
            return rc;
        }
        virtio_queue_notify(&blk->virtio, 0);
    }
    return 1;
}

static void work(struct virtio_device *virtio)
{
    struct virtio_blk *blk = (struct virtio_blk *)virtio; /* its first member */
    int more = 1;
    while (more > 0 && virtio_queue_is_live(virtio, 0) &&
           !virtio_worker_must_yield(&virtio->worker)) {
        more = virtqueue_kicks_off(queue_of(blk));
        if (!more)
            more = serve_queue(blk);
        if (!more)
            more = virtqueue_kicks_on(queue_of(blk));
    }
    if (more < 0)
        virtio_mark_broken(virtio, "a request or ring makes no sense");
}

static const struct virtio_traits traits = {
    .type = VIRTIO_ID_BLOCK,
    .class_code = CLASS_STORAGE,
    .queues = 1,
    .queue_size = QUEUE_SIZE,
    .work = work,
};

/* ---- the device ---- */

static const struct state_field fields[] = {
    STATE_STRUCTS(struct virtio_blk_state, virtio, &virtio_table, 1, 1),
    STATE_SCALAR(STATE_U64, struct virtio_blk_state, capacity, 2, 1),
    STATE_SCALAR(STATE_BOOL, struct virtio_blk_state, readonly, 3, 1),
};

const struct state_table virtio_blk_table = {
    .name = "virtio-blk",
    .version = 1,
    .size = sizeof(struct virtio_blk_state),
    .fields = fields,
    .field_count = sizeof(fields) / sizeof(fields[0]),
};

static struct virtio_blk *from_device(struct device *device)
{
    return (struct virtio_blk *)device; /* the first member of its first member */
}

static void reset(struct device *device)
{
    virtio_reset(&from_device(device)->virtio);
}

static int quiesce(struct device *device, struct ferry_error *err)
{
    (void)err;
    virtio_quiesce(&from_device(device)->virtio);
    return 0;
}

static int resume(struct device *device, struct ferry_error *err)
{
    struct virtio_blk *blk = from_device(device);
    if (!blk->block->active)
        return ferry_fail(err, -EBADF, device->name, "the disk does not belong to this machine");
    virtio_resume(&blk->virtio);
    return 0;
}

static void capture(struct device *device, void *out)
{
    struct virtio_blk *blk = from_device(device);
    struct virtio_blk_state *state = out;
    virtio_capture(&blk->virtio, &state->virtio[0]);
    state->capacity = blk->block->size_bytes / SECTOR_BYTES;
    state->readonly = blk->block->readonly;
}

static int accept_state(struct device *device, const void *in, struct ferry_error *err)
{
    struct virtio_blk *blk = from_device(device);
    const struct virtio_blk_state *state = in;
    if (state->capacity != blk->block->size_bytes / SECTOR_BYTES)
        return ferry_refuse(err, -EINVAL, device->name, "the disk has %llu sectors instead of %llu",
                            (unsigned long long)blk->block->size_bytes / SECTOR_BYTES,
                            (unsigned long long)state->capacity);
    if (state->readonly != blk->block->readonly)
        return ferry_refuse(err, -EINVAL, device->name, "the disk is %s here but not there",
                            state->readonly ? "writable" : "read-only");
    return virtio_accept(&blk->virtio, &state->virtio[0], err);
}

static int commit(struct device *device, const void *in, struct ferry_error *err)
{
    const struct virtio_blk_state *state = in;
    (void)err;
    virtio_commit(&from_device(device)->virtio, &state->virtio[0]);
    return 0;
}

void virtio_blk_set_block(struct device *device, struct block *block)
{
    struct virtio_blk *blk = from_device(device);
    virtio_worker_park(&blk->virtio.worker);
    blk->block = block;
    virtio_worker_unpark(&blk->virtio.worker);
}

static void destroy(struct device *device)
{
    struct virtio_blk *blk = from_device(device);
    virtio_destroy(&blk->virtio);
    free(blk);
}

static const struct device_ops device_ops = {
    .reset = reset,
    .quiesce = quiesce,
    .resume = resume,
    .capture = capture,
    .accept = accept_state,
    .commit = commit,
    .destroy = destroy,
};

static uint64_t offered_features(const struct block *block)
{
    uint64_t features = FEATURE(VIRTIO_BLK_F_SIZE_MAX) | FEATURE(VIRTIO_BLK_F_SEG_MAX) |
                        FEATURE(VIRTIO_BLK_F_BLK_SIZE) | FEATURE(VIRTIO_BLK_F_TOPOLOGY) |
                        FEATURE(VIRTIO_BLK_F_FLUSH);
    if (block->readonly)
        return features | FEATURE(VIRTIO_BLK_F_RO);
    return features | FEATURE(VIRTIO_BLK_F_DISCARD) | FEATURE(VIRTIO_BLK_F_WRITE_ZEROES);
}

static struct virtio_blk_config describe(const struct block *block)
{
    return (struct virtio_blk_config){
        .capacity = block->size_bytes / SECTOR_BYTES,
        .size_max = SEGMENT_BYTES,
        .seg_max = SEGMENTS_MAX,
        .blk_size = SECTOR_BYTES,
        .physical_block_exp = PHYSICAL_EXPONENT,
        .max_discard_sectors = DISCARD_SECTORS,
        .max_discard_seg = LIMIT_BLK_SEGMENTS,
        .discard_sector_alignment = DISCARD_ALIGN,
        .max_write_zeroes_sectors = ZEROES_SECTORS,
        .max_write_zeroes_seg = ZEROES_RANGES,
        .write_zeroes_may_unmap = 1,
    };
}

int virtio_blk_create(const struct platform *platform, struct pci *pci,
                      const struct disk_config *config, struct block *block, struct device **out,
                      struct ferry_error *err)
{
    if (config->size_bytes != block->size_bytes || config->readonly != block->readonly)
        return ferry_fail(err, -EINVAL, config->device,
                          "the disk is not the one that the machine's description names");
    CLEANUP_FREE struct virtio_blk *blk = calloc(1, sizeof(*blk));
    if (!blk)
        return ferry_fail_sys(err, -ENOMEM, config->device, "cannot create the disk");
    struct virtio_blk_config layout = describe(block);
    blk->block = block;
    memcpy(blk->serial, config->serial, strnlen(config->serial, sizeof(blk->serial)));
    blk->virtio.device.table = &virtio_blk_table;
    blk->virtio.device.ops = &device_ops;
    /* The last feature whose fields are filled in is WRITE_ZEROES. */
    int rc =
        virtio_init(&blk->virtio, platform, pci, config->device, &traits, offered_features(block),
                    &layout, offsetof(struct virtio_blk_config, max_secure_erase_sectors), err);
    if (rc)
        return rc;
    *out = &take_ptr(&blk)->virtio.device;
    return 0;
}
