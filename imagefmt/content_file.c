/*
 * The digest of a file: pieces of 1 MiB that hold data are read and hashed by the pool, in a ring,
 * and their nodes join the tree in order.  What SEEK_DATA passes over is never looked at.
 */
#include "imagefmt/content.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/pool.h"

#define PIECE_BYTES      (1 * MIB)
#define SLOTS_PER_WORKER 4

struct piece {
    struct pool_task task;
    int fd;
    uint64_t index;
    size_t size;
    uint8_t *buffer; /* PIECE_BYTES */
    uint8_t node[SHA256_BYTES];
    int error;
};

struct scan {
    int fd;
    const char *about;
    uint64_t size, at; /* at: the next piece to look at */
    struct pool *pool;
    struct piece *pieces;
    unsigned count, oldest, busy;
    struct content_tree tree;
};

static void hash_piece(struct pool_task *task)
{
    struct piece *piece = (struct piece *)task;

    piece->error = pread_all(piece->fd, piece->buffer, piece->size, piece->index * PIECE_BYTES);
    if (!piece->error)
        content_node(piece->buffer, piece->size, content_level(PIECE_BYTES), piece->node);
}

static int open_scan(struct scan *s, unsigned workers, struct ferry_error *err)
{
    int error = pool_create(workers, &s->pool, err);

    if (error)
        return error;
    s->count = pool_workers(s->pool) * SLOTS_PER_WORKER;
    s->pieces = calloc(s->count, sizeof(*s->pieces));
    if (!s->pieces)
        return ferry_fail(err, -ENOMEM, s->about, "out of memory");
    for (unsigned i = 0; i < s->count; i++) {
        s->pieces[i].task.run = hash_piece;
        s->pieces[i].fd = s->fd;
        if (!(s->pieces[i].buffer = malloc(PIECE_BYTES)))
            return ferry_fail(err, -ENOMEM, s->about, "out of memory");
    }
    return 0;
}

static void close_scan(struct scan *s)
{
    pool_destroy(s->pool);
    for (unsigned i = 0; s->pieces && i < s->count; i++)
        free(s->pieces[i].buffer);
    free(s->pieces);
}

static int take_oldest(struct scan *s, struct ferry_error *err)
{
    const struct piece *piece = &s->pieces[s->oldest];

    pool_wait(s->pool, &s->pieces[s->oldest].task);
    s->oldest = (s->oldest + 1) % s->count;
    s->busy--;
    if (piece->error)
        return ferry_fail_sys(err, piece->error, s->about, "cannot read at byte %llu",
                              (unsigned long long)(piece->index * PIECE_BYTES));
    content_add(&s->tree, piece->index, content_level(PIECE_BYTES), piece->node);
    return 0;
}

/* The first byte of data at or behind s->at; s->size: there is none.  Pipes cannot tell. */
static uint64_t next_data(const struct scan *s)
{
    off_t data = lseek(s->fd, (off_t)s->at, SEEK_DATA);

    if (data < 0)
        return errno == ENXIO ? s->size : s->at;
    return (uint64_t)data < s->size ? (uint64_t)data : s->size;
}

static int submit(struct scan *s, struct ferry_error *err)
{
    int error = s->busy == s->count ? take_oldest(s, err) : 0;

    if (error)
        return error;
    struct piece *piece = &s->pieces[(s->oldest + s->busy) % s->count];
    uint64_t left = s->size - s->at;
    piece->index = s->at / PIECE_BYTES;
    piece->size = left < PIECE_BYTES ? left : PIECE_BYTES;
    s->busy++;
    pool_submit(s->pool, &piece->task);
    s->at += piece->size;
    return 0;
}

int content_digest_file(int fd, const char *about, uint64_t size, unsigned workers,
                        int (*report)(void *opaque, uint64_t done_bytes, struct ferry_error *err),
                        void *opaque, uint8_t digest[SHA256_BYTES], struct ferry_error *err)
{
    CLEANUP(close_scan) struct scan s = {.fd = fd, .about = about, .size = size};

    if (size > LIMIT_DISK_BYTES)
        return ferry_refuse(err, -EFBIG, about, "is larger than a disk may be");
    int error = open_scan(&s, workers, err);
    while (!error && s.at < size) {
        uint64_t data = next_data(&s);
        if (data >= size)
            break;
        s.at = data / PIECE_BYTES * PIECE_BYTES;
        error = submit(&s, err);
        if (!error && report)
            error = report(opaque, s.at, err);
    }
    while (!error && s.busy)
        error = take_oldest(&s, err);
    if (!error)
        content_digest(&s.tree, size, digest);
    return error;
}
