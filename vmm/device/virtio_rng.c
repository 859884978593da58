/*
 * virtio-rng: every buffer that the driver offers is filled from getrandom, up to REQUEST_BYTES of
 * it; the driver learns the length and asks again if it wants more.
 */
#include "vmm/device/virtio_rng.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/cleanup.h"

#define QUEUE_SIZE    8
#define REQUEST_BYTES 256      /* getrandom gives that many at once, uninterrupted */
#define CLASS_OTHER   0x00ff00 /* no class of PCI's fits */

struct virtio_rng {
    struct virtio_device virtio;
    struct virtqueue_chain chain;
};

static int serve_chain(struct virtio_rng *rng)
{
    struct virtqueue *queue = &rng->virtio.queues[0];
    uint8_t bytes[REQUEST_BYTES];
    size_t size = sizeof(bytes);
    if (rng->chain.writable_bytes == 0)
        return -EBADMSG;
    if (rng->chain.writable_bytes < size)
        size = (size_t)rng->chain.writable_bytes;
    if (getrandom(bytes, size, 0) != (ssize_t)size)
        return -EIO;
    int rc = virtqueue_chain_write(queue, &rng->chain, 0, bytes, size);
    explicit_bzero(bytes, sizeof(bytes));
    return rc ? rc : virtqueue_push(queue, &rng->chain, (uint32_t)size);
}

/* Buffers until the ring is empty (0), the worker must yield (1), or it is broken. */
static int serve_queue(struct virtio_rng *rng)
{
    struct virtqueue *queue = &rng->virtio.queues[0];
    while (!virtio_worker_must_yield(&rng->virtio.worker)) {
        int rc = virtqueue_pop(queue, &rng->chain);
        if (rc <= 0)
            return rc;
        rc = serve_chain(rng);
        if (rc) {
            virtqueue_unpop(queue);
            return rc;
        }
        virtio_queue_notify(&rng->virtio, 0);
    }
    return 1;
}

static void work(struct virtio_device *virtio)
{
    struct virtio_rng *rng = (struct virtio_rng *)virtio; /* its first member */
    int more = 1;
    while (more > 0 && virtio_queue_is_live(virtio, 0) &&
           !virtio_worker_must_yield(&virtio->worker)) {
        more = serve_queue(rng);
        if (!more)
            more = virtqueue_kicks_on(&virtio->queues[0]);
    }
    if (more < 0)
        virtio_mark_broken(virtio, "a request or ring makes no sense");
}

static const struct virtio_traits traits = {
    .type = VIRTIO_ID_RNG,
    .class_code = CLASS_OTHER,
    .queues = 1,
    .queue_size = QUEUE_SIZE,
    .work = work,
};

/* ---- the device ---- */

static const struct state_field fields[] = {
    STATE_STRUCTS(struct virtio_rng_state, virtio, &virtio_table, 1, 1),
};

const struct state_table virtio_rng_table = {
    .name = "virtio-rng",
    .version = 1,
    .size = sizeof(struct virtio_rng_state),
    .fields = fields,
    .field_count = sizeof(fields) / sizeof(fields[0]),
};

static struct virtio_rng *from_device(struct device *device)
{
    return (struct virtio_rng *)device; /* the first member of its first member */
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
    (void)err;
    virtio_resume(&from_device(device)->virtio);
    return 0;
}

static void capture(struct device *device, void *out)
{
    struct virtio_rng_state *state = out;
    virtio_capture(&from_device(device)->virtio, &state->virtio[0]);
}

static int accept_state(struct device *device, const void *in, struct ferry_error *err)
{
    const struct virtio_rng_state *state = in;
    return virtio_accept(&from_device(device)->virtio, &state->virtio[0], err);
}

static int commit(struct device *device, const void *in, struct ferry_error *err)
{
    const struct virtio_rng_state *state = in;
    (void)err;
    virtio_commit(&from_device(device)->virtio, &state->virtio[0]);
    return 0;
}

static void destroy(struct device *device)
{
    struct virtio_rng *rng = from_device(device);
    virtio_destroy(&rng->virtio);
    free(rng);
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

int virtio_rng_create(const struct platform *platform, struct pci *pci, struct device **out,
                      struct ferry_error *err)
{
    CLEANUP_FREE struct virtio_rng *rng = calloc(1, sizeof(*rng));
    if (!rng)
        return ferry_fail_sys(err, -ENOMEM, "rng0", "cannot create the entropy device");
    rng->virtio.device.table = &virtio_rng_table;
    rng->virtio.device.ops = &device_ops;
    int rc = virtio_init(&rng->virtio, platform, pci, "rng0", &traits, 0, NULL, 0, err);
    if (rc)
        return rc;
    *out = &take_ptr(&rng)->virtio.device;
    return 0;
}
