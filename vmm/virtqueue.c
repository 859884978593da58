/*
 * Split virtqueues.  The layout of the three rings (virtio 1.2, 2.7.6 and 2.7.8):
 *
 *   available  u16 flags, u16 index, u16 ring[size], u16 used_event
 *   used       u16 flags, u16 index, {u32 id, u32 written} ring[size], u16 available_event
 *
 * Both sides run at the same time: after the index of the other side has been read come the entries
 * it covers (acquire), before our index is stored are the entries it covers (release), and whoever
 * writes something and then asks whether the other side is awake has a full barrier in between.
 */
#include "vmm/virtqueue.h"

#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <string.h>

#define AVAIL_INDEX 2
#define AVAIL_RING  4
#define USED_INDEX  2
#define USED_RING   4
#define USED_ENTRY  8
#define DESC_BYTES  16
#define DESC_ALIGN  16
#define AVAIL_ALIGN 2
#define USED_ALIGN  4
#define INDEX_BYTES 6 /* flags, index and event of either ring */

static bool size_is_valid(uint16_t size)
{
    return size != 0 && size <= LIMIT_VIRTQUEUE_SIZE && (size & (size - 1)) == 0;
}

static bool is_aligned(const struct virtqueue_state *queue)
{
    return queue->desc % DESC_ALIGN == 0 && queue->avail % AVAIL_ALIGN == 0 &&
           queue->used % USED_ALIGN == 0;
}

static uint64_t desc_bytes(const struct virtqueue_state *queue)
{
    return (uint64_t)queue->size * DESC_BYTES;
}

static uint64_t avail_bytes(const struct virtqueue_state *queue)
{
    return INDEX_BYTES + (uint64_t)queue->size * 2;
}

static uint64_t used_bytes(const struct virtqueue_state *queue)
{
    return INDEX_BYTES + (uint64_t)queue->size * USED_ENTRY;
}

/* ---- state ---- */

static int check_in_ram(const struct virtqueue_state *queue, const struct state_context *context,
                        struct ferry_error *err)
{
    if (!context || !context->ram_contains)
        return 0;
    if (!context->ram_contains(context->opaque, queue->desc, desc_bytes(queue)) ||
        !context->ram_contains(context->opaque, queue->avail, avail_bytes(queue)) ||
        !context->ram_contains(context->opaque, queue->used, used_bytes(queue)))
        return ferry_refuse(err, -ERANGE, "virtqueue", "a ring lies outside of the guest's memory");
    return 0;
}

static int check_state(const void *state, const struct state_context *context,
                       struct ferry_error *err)
{
    const struct virtqueue_state *queue = state;
    if (!size_is_valid(queue->size))
        return ferry_refuse(err, -EINVAL, "virtqueue", "size %u is not a power of two up to %d",
                            queue->size, LIMIT_VIRTQUEUE_SIZE);
    /* A quiesced device holds no chain: all that was taken has been given back. */
    if (queue->last_avail != queue->used_index)
        return ferry_refuse(err, -EINVAL, "virtqueue",
                            "%u chains taken but %u given back in a quiet queue", queue->last_avail,
                            queue->used_index);
    if (!queue->enabled && queue->last_avail != 0)
        return ferry_refuse(err, -EINVAL, "virtqueue", "a queue never enabled has been used");
    if (!queue->enabled)
        return 0;
    if (!is_aligned(queue))
        return ferry_refuse(err, -EINVAL, "virtqueue", "a ring is not aligned");
    return check_in_ram(queue, context, err);
}

static const struct state_field fields[] = {
    STATE_RANGE(STATE_U16, struct virtqueue_state, size, 1, 1, 1, LIMIT_VIRTQUEUE_SIZE),
    STATE_SCALAR(STATE_BOOL, struct virtqueue_state, enabled, 2, 1),
    STATE_SCALAR(STATE_U64, struct virtqueue_state, desc, 3, 1),
    STATE_SCALAR(STATE_U64, struct virtqueue_state, avail, 4, 1),
    STATE_SCALAR(STATE_U64, struct virtqueue_state, used, 5, 1),
    STATE_SCALAR(STATE_U16, struct virtqueue_state, vector, 6, 1),
    STATE_SCALAR(STATE_U16, struct virtqueue_state, last_avail, 7, 1),
    STATE_SCALAR(STATE_U16, struct virtqueue_state, used_index, 8, 1),
};

const struct state_table virtqueue_table = {
    .name = "virtqueue",
    .version = 1,
    .size = sizeof(struct virtqueue_state),
    .fields = fields,
    .field_count = sizeof(fields) / sizeof(fields[0]),
    .check = check_state,
};

/* ---- registers ---- */

void virtqueue_init(struct virtqueue *queue, struct memory *memory, uint16_t max_size)
{
    *queue = (struct virtqueue){.memory = memory};
    virtqueue_reset(queue, max_size);
}

void virtqueue_reset(struct virtqueue *queue, uint16_t max_size)
{
    struct memory *memory = queue->memory;
    *queue = (struct virtqueue){
        .memory = memory,
        .registers = {.size = max_size, .vector = VIRTQUEUE_NO_VECTOR},
    };
}

bool virtqueue_is_sound(const struct virtqueue *queue)
{
    const struct virtqueue_state *r = &queue->registers;
    return size_is_valid(r->size) && is_aligned(r) &&
           memory_contains(queue->memory, (struct gpa){r->desc}, desc_bytes(r)) &&
           memory_contains(queue->memory, (struct gpa){r->avail}, avail_bytes(r)) &&
           memory_contains(queue->memory, (struct gpa){r->used}, used_bytes(r));
}

static struct gpa avail_at(const struct virtqueue *queue, uint64_t offset)
{
    return (struct gpa){queue->registers.avail + offset};
}

static struct gpa used_at(const struct virtqueue *queue, uint64_t offset)
{
    return (struct gpa){queue->registers.used + offset};
}

/* ---- chains ---- */

static int break_queue(struct virtqueue *queue, int code)
{
    queue->broken = true;
    return code;
}

/* The table that descriptors are being read from: the queue's own, or an indirect one. */
struct descriptor_table {
    uint64_t address;
    uint32_t count;
    uint32_t visited;
    bool indirect;
};

static int read_descriptor(const struct virtqueue *queue, struct descriptor_table *table,
                           uint32_t index, struct vring_desc *desc)
{
    /* More steps than entries is a loop. */
    if (index >= table->count || table->visited++ >= table->count)
        return -EBADMSG;
    struct gpa at = {table->address + (uint64_t)index * DESC_BYTES};
    return memory_read(queue->memory, at, desc, sizeof(*desc));
}

/* 2.7.5.3: the last descriptor of the queue's table may stand for a table of its own. */
static int enter_indirect(const struct virtqueue *queue, const struct vring_desc *desc,
                          struct descriptor_table *table)
{
    if (!queue->indirect || table->indirect || (desc->flags & VRING_DESC_F_NEXT) ||
        desc->len == 0 || desc->len % DESC_BYTES ||
        desc->len / DESC_BYTES > LIMIT_CHAIN_DESCRIPTORS)
        return -EBADMSG;
    *table = (struct descriptor_table){
        .address = desc->addr, .count = desc->len / DESC_BYTES, .indirect = true};
    return memory_contains(queue->memory, (struct gpa){desc->addr}, desc->len) ? 0 : -EBADMSG;
}

static int add_segment(const struct virtqueue *queue, struct virtqueue_chain *chain,
                       const struct vring_desc *desc)
{
    unsigned count = chain->readable + chain->writable;
    bool writable = desc->flags & VRING_DESC_F_WRITE;
    if (count >= LIMIT_CHAIN_DESCRIPTORS || desc->len == 0 || (!writable && chain->writable != 0))
        return -EBADMSG;
    struct gpa gpa = {desc->addr};
    if (!memory_contains(queue->memory, gpa, desc->len))
        return -EBADMSG;
    chain->segments[count] = (struct virtqueue_segment){.gpa = gpa, .size = desc->len};
    chain->readable += !writable;
    chain->writable += writable;
    uint64_t *bytes = writable ? &chain->writable_bytes : &chain->readable_bytes;
    *bytes += desc->len;
    /* 2.7.4: at most 2^32 bytes; the used entry could not tell of more. */
    return chain->readable_bytes + chain->writable_bytes > UINT32_MAX ? -EBADMSG : 0;
}

static int read_chain(const struct virtqueue *queue, struct virtqueue_chain *chain)
{
    struct descriptor_table table = {.address = queue->registers.desc,
                                     .count = queue->registers.size};
    uint32_t index = chain->head;
    for (;;) {
        struct vring_desc desc;
        int rc = read_descriptor(queue, &table, index, &desc);
        if (rc)
            return rc;
        if (desc.flags & VRING_DESC_F_INDIRECT) {
            rc = enter_indirect(queue, &desc, &table);
            index = 0;
        } else {
            rc = add_segment(queue, chain, &desc);
            index = desc.next;
            if (!rc && !(desc.flags & VRING_DESC_F_NEXT))
                return 0;
        }
        if (rc)
            return rc;
    }
}

int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *chain)
{
    struct virtqueue_state *r = &queue->registers;
    uint16_t index;
    if (queue->broken)
        return -EBADMSG;
    int rc = memory_load_u16(queue->memory, avail_at(queue, AVAIL_INDEX), &index);
    if (rc)
        return break_queue(queue, rc);
    if (index == r->last_avail)
        return 0;
    if ((uint16_t)(index - r->last_avail) > r->size)
        return break_queue(queue, -EBADMSG);
    atomic_thread_fence(memory_order_acquire);

    uint64_t entry = r->last_avail & (r->size - 1u);
    chain->readable = chain->writable = 0;
    chain->readable_bytes = chain->writable_bytes = 0;
    rc = memory_load_u16(queue->memory, avail_at(queue, AVAIL_RING + 2 * entry), &chain->head);
    if (!rc)
        rc = read_chain(queue, chain);
    if (rc)
        return break_queue(queue, rc);
    r->last_avail++;
    return 1;
}

void virtqueue_unpop(struct virtqueue *queue)
{
    queue->registers.last_avail--;
}

int virtqueue_push(struct virtqueue *queue, const struct virtqueue_chain *chain, uint32_t written)
{
    struct virtqueue_state *r = &queue->registers;
    const struct vring_used_elem used = {.id = chain->head, .len = written};
    uint64_t entry = r->used_index & (r->size - 1u);
    uint16_t next = r->used_index + 1;
    int rc = memory_write(queue->memory, used_at(queue, USED_RING + USED_ENTRY * entry), &used,
                          sizeof(used));
    atomic_thread_fence(memory_order_release);
    if (!rc)
        rc = memory_store_u16(queue->memory, used_at(queue, USED_INDEX), next);
    if (rc)
        return break_queue(queue, rc);
    r->used_index = next;
    return 0;
}

/* ---- who wants to be told ---- */

int virtqueue_must_interrupt(struct virtqueue *queue)
{
    const struct virtqueue_state *r = &queue->registers;
    uint16_t value;
    uint64_t event = AVAIL_RING + 2 * (uint64_t)r->size;
    atomic_thread_fence(memory_order_seq_cst);
    int rc =
        memory_load_u16(queue->memory, avail_at(queue, queue->event_index ? event : 0), &value);
    if (rc)
        return break_queue(queue, rc);
    if (!queue->event_index)
        return !(value & VRING_AVAIL_F_NO_INTERRUPT);
    bool wanted = !queue->told_valid || vring_need_event(value, r->used_index, queue->told_index);
    queue->told_valid = true;
    queue->told_index = r->used_index;
    return wanted;
}

int virtqueue_kicks_off(struct virtqueue *queue)
{
    if (queue->event_index)
        return 0; /* the event index stays behind, and a driver past it does not kick */
    int rc = memory_store_u16(queue->memory, used_at(queue, 0), VRING_USED_F_NO_NOTIFY);
    return rc ? break_queue(queue, rc) : 0;
}

int virtqueue_kicks_on(struct virtqueue *queue)
{
    const struct virtqueue_state *r = &queue->registers;
    uint64_t event = USED_RING + USED_ENTRY * (uint64_t)r->size;
    uint16_t index;
    int rc = queue->event_index
                 ? memory_store_u16(queue->memory, used_at(queue, event), r->last_avail)
                 : memory_store_u16(queue->memory, used_at(queue, 0), 0);
    atomic_thread_fence(memory_order_seq_cst);
    if (!rc)
        rc = memory_load_u16(queue->memory, avail_at(queue, AVAIL_INDEX), &index);
    return rc ? break_queue(queue, rc) : index != r->last_avail;
}

/* ---- the bytes of a chain ---- */

/* A walk over a range of the readable or of the writable bytes, piece by piece. */
struct chain_walk {
    const struct virtqueue_segment *segment, *end;
    uint64_t offset, left;
};

static int walk_start(const struct virtqueue_chain *chain, bool writable, uint64_t offset,
                      uint64_t size, struct chain_walk *walk)
{
    uint64_t bytes = writable ? chain->writable_bytes : chain->readable_bytes;
    if (offset > bytes || size > bytes - offset)
        return -EFAULT;
    const struct virtqueue_segment *first = chain->segments + (writable ? chain->readable : 0);
    unsigned count = writable ? chain->writable : chain->readable;
    *walk = (struct chain_walk){first, first + count, offset, size};
    return 0;
}

static bool walk_next(struct chain_walk *walk, struct virtqueue_segment *piece)
{
    while (walk->segment < walk->end && walk->offset >= walk->segment->size)
        walk->offset -= walk->segment++->size;
    if (walk->left == 0 || walk->segment == walk->end)
        return false;
    uint64_t here = walk->segment->size - walk->offset;
    piece->gpa.value = walk->segment->gpa.value + walk->offset;
    piece->size = (uint32_t)(here < walk->left ? here : walk->left);
    walk->offset += piece->size;
    walk->left -= piece->size;
    return true;
}

int virtqueue_chain_read(const struct virtqueue *queue, const struct virtqueue_chain *chain,
                         uint64_t offset, void *data, size_t size)
{
    struct chain_walk walk;
    struct virtqueue_segment piece;
    uint8_t *to = data;
    int rc = walk_start(chain, false, offset, size, &walk);
    while (!rc && walk_next(&walk, &piece)) {
        rc = memory_read(queue->memory, piece.gpa, to, piece.size);
        to += piece.size;
    }
    return rc;
}

int virtqueue_chain_write(const struct virtqueue *queue, const struct virtqueue_chain *chain,
                          uint64_t offset, const void *data, size_t size)
{
    struct chain_walk walk;
    struct virtqueue_segment piece;
    const uint8_t *from = data;
    int rc = walk_start(chain, true, offset, size, &walk);
    while (!rc && walk_next(&walk, &piece)) {
        rc = memory_write(queue->memory, piece.gpa, from, piece.size);
        from += piece.size;
    }
    return rc;
}

int virtqueue_chain_iov(const struct virtqueue *queue, const struct virtqueue_chain *chain,
                        bool writable, uint64_t offset, uint64_t size, struct iovec *iov)
{
    struct chain_walk walk;
    struct virtqueue_segment piece;
    int count = 0;
    int rc = walk_start(chain, writable, offset, size, &walk);
    if (rc)
        return rc;
    while (walk_next(&walk, &piece)) {
        void *base = memory_dma(queue->memory, piece.gpa, piece.size);
        if (!base)
            return -EFAULT;
        iov[count++] = (struct iovec){base, piece.size};
    }
    return count;
}

void virtqueue_chain_dirty(const struct virtqueue *queue, const struct virtqueue_chain *chain,
                           uint64_t offset, uint64_t size)
{
    struct chain_walk walk;
    struct virtqueue_segment piece;
    if (walk_start(chain, true, offset, size, &walk))
        return;
    while (walk_next(&walk, &piece))
        memory_mark_dirty(queue->memory, piece.gpa, piece.size);
}
