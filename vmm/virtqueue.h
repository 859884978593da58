/*
 * A split virtqueue (virtio 1.2, 2.7), the device's side: chains of descriptors out of guest RAM,
 * used buffers back into it, and who wants to hear about which.
 *
 * Everything in the rings is the guest's word: it is copied once, checked, and only the copy is
 * used.  A ring that breaks the rules gives -EBADMSG (or -EFAULT) and the queue stays broken until
 * the device is reset; the caller then marks the device DEVICE_NEEDS_RESET.
 *
 * One thread at a time works on a queue.  Registers change only while no thread works on it.
 */
#ifndef FERRY_VMM_VIRTQUEUE_H
#define FERRY_VMM_VIRTQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/error.h"
#include "common/limits.h"
#include "vmm/memory.h"
#include "vmm/state.h"

#define VIRTQUEUE_NO_VECTOR 0xffff /* VIRTIO_MSI_NO_VECTOR */

/* What is written down of a queue; also its live registers. */
struct virtqueue_state {
    uint16_t size; /* a power of two up to LIMIT_VIRTQUEUE_SIZE */
    bool enabled;
    uint64_t desc, avail, used; /* guest-physical */
    uint16_t vector;            /* MSI-X, or VIRTQUEUE_NO_VECTOR */
    uint16_t last_avail;        /* chains taken, mod 2^16 */
    uint16_t used_index;        /* chains given back, mod 2^16 */
};
extern const struct state_table virtqueue_table;

struct virtqueue {
    struct memory *memory;
    struct virtqueue_state registers;
    bool event_index; /* VIRTIO_F_EVENT_IDX negotiated */
    bool indirect;    /* VIRTIO_F_INDIRECT_DESC negotiated */
    bool broken;
    bool told_valid; /* told_index says up to where the driver was told of used buffers */
    uint16_t told_index;
};

struct virtqueue_segment {
    struct gpa gpa;
    uint32_t size; /* never 0, all of it RAM */
};

/* A chain: segments the device may read, then segments it may write. */
struct virtqueue_chain {
    uint16_t head;
    unsigned readable, writable; /* segments of each kind */
    uint64_t readable_bytes, writable_bytes;
    struct virtqueue_segment segments[LIMIT_CHAIN_DESCRIPTORS];
};

void virtqueue_init(struct virtqueue *queue, struct memory *memory, uint16_t max_size);
/* Registers as after a device reset, size max_size. */
void virtqueue_reset(struct virtqueue *queue, uint16_t max_size);
/* True if size and addresses make a queue that lies in RAM and is aligned (2.7). */
bool virtqueue_is_sound(const struct virtqueue *queue);

/* The next chain: 1, 0 if there is none, or a negative errno (broken). */
int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *chain);
/* Give a chain back, written bytes from the first writable one on.  0 or a negative errno. */
int virtqueue_push(struct virtqueue *queue, const struct virtqueue_chain *chain, uint32_t written);
/* Put the chain just popped back as if it had never been taken. */
void virtqueue_unpop(struct virtqueue *queue);
/* After one or more pushes: 1 if the driver wants an interrupt, 0 if not, or a negative errno. */
int virtqueue_must_interrupt(struct virtqueue *queue);
/* The driver need not kick from now on (a hint).  0 or a negative errno. */
int virtqueue_kicks_off(struct virtqueue *queue);
/* Kicks wanted again: 1 if chains have come meanwhile (pop them first), 0, or a negative errno. */
int virtqueue_kicks_on(struct virtqueue *queue);

/* Copy out of the readable, into the writable bytes from offset on; -EFAULT past their end. */
int virtqueue_chain_read(const struct virtqueue *queue, const struct virtqueue_chain *chain,
                         uint64_t offset, void *data, size_t size);
int virtqueue_chain_write(const struct virtqueue *queue, const struct virtqueue_chain *chain,
                          uint64_t offset, const void *data, size_t size);
/*
 * The readable (or writable) bytes [offset, offset + size) for the kernel's DMA: fills at most
 * LIMIT_CHAIN_DESCRIPTORS entries of iov and returns their number, -EFAULT past the end.
 */
int virtqueue_chain_iov(const struct virtqueue *queue, const struct virtqueue_chain *chain,
                        bool writable, uint64_t offset, uint64_t size, struct iovec *iov);
/* After DMA into the writable bytes [offset, offset + size). */
void virtqueue_chain_dirty(const struct virtqueue *queue, const struct virtqueue_chain *chain,
                           uint64_t offset, uint64_t size);

#endif
