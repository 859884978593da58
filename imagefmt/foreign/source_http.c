/*
 * Blocks of 128 KiB are kept, LIMIT_HTTP_CACHE_BYTES of them in all, so that tables are not asked
 * for again and again.  What is missing is asked for in runs, one request each: as much as the
 * reader wants, or a single block if it jumps about; but where the block before is there or on its
 * way, somebody reads in order, and the run goes on behind what is wanted.  A thread that finds a
 * block on its way waits for it.  When every block is on its way, what is wanted goes straight to
 * the reader.
 */
#include "imagefmt/foreign/source_http.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

#define BLOCK_BYTES (128 * KIB)
#define BLOCKS      (LIMIT_HTTP_CACHE_BYTES / BLOCK_BYTES)
#define RUN_BLOCKS  16 /* of one request, at most */
#define NO_BLOCK    UINT64_MAX

struct block {
    uint64_t number; /* NO_BLOCK: free */
    uint64_t used;   /* when last: the highest is the latest */
    bool coming;
    uint8_t *bytes; /* NULL: never used so far */
};

struct http_source {
    struct source source;
    struct http *http;
    pthread_mutex_t lock;
    pthread_cond_t arrived;
    uint64_t clock;
    struct block blocks[BLOCKS];
};

struct run {
    uint64_t first;
    unsigned count;
    struct block *blocks[RUN_BLOCKS];
    struct iovec iov[RUN_BLOCKS];
};

/* ---- Blocks; the lock is held ---- */

static struct block *find_block(struct http_source *s, uint64_t number)
{
    for (size_t i = 0; i < BLOCKS; i++)
        if (s->blocks[i].number == number)
            return &s->blocks[i];
    return NULL;
}

/* The one that was not used for the longest time; NULL: all are coming, or no memory. */
static struct block *free_block(struct http_source *s)
{
    struct block *oldest = NULL;

    for (size_t i = 0; i < BLOCKS; i++)
        if (!s->blocks[i].coming && (!oldest || s->blocks[i].used < oldest->used))
            oldest = &s->blocks[i];
    if (oldest && !oldest->bytes && !(oldest->bytes = malloc(BLOCK_BYTES)))
        return NULL;
    return oldest;
}

static size_t size_of_block(const struct http_source *s, uint64_t number)
{
    uint64_t left = s->source.size_bytes - number * BLOCK_BYTES;

    return left < BLOCK_BYTES ? (size_t)left : BLOCK_BYTES;
}

/* Claim blocks from run->first on, as far as they are missing and there is room. */
static void claim_run(struct http_source *s, struct run *run, uint64_t wanted_end)
{
    uint64_t last = (s->source.size_bytes - 1) / BLOCK_BYTES;
    bool in_order = run->first && find_block(s, run->first - 1);
    uint64_t end = in_order ? run->first + RUN_BLOCKS : wanted_end;

    end = end > last + 1 ? last + 1 : end;
    for (uint64_t n = run->first; n < end && run->count < RUN_BLOCKS; n++) {
        struct block *b = find_block(s, n) ? NULL : free_block(s);
        if (!b)
            break;
        b->number = n;
        b->coming = true;
        run->blocks[run->count] = b;
        run->iov[run->count++] = (struct iovec){b->bytes, size_of_block(s, n)};
    }
}

static void settle_run(struct http_source *s, const struct run *run, bool arrived)
{
    for (unsigned i = 0; i < run->count; i++) {
        run->blocks[i]->coming = false;
        run->blocks[i]->used = arrived ? ++s->clock : 0;
        if (!arrived)
            run->blocks[i]->number = NO_BLOCK;
    }
    pthread_cond_broadcast(&s->arrived);
}

/*
 * Ask for the missing block `first` and what goes with it.  The lock is let go meanwhile.  Returns
 * 0 with nothing asked for (run.count 0) if there was no room.
 */
static int fetch_run(struct http_source *s, uint64_t first, uint64_t wanted_end, unsigned *count,
                     struct ferry_error *err)
{
    struct run run = {.first = first};

    claim_run(s, &run, wanted_end);
    *count = run.count;
    if (!run.count)
        return 0;
    pthread_mutex_unlock(&s->lock);
    int error = http_read(s->http, first * BLOCK_BYTES, run.iov, (int)run.count, err);
    pthread_mutex_lock(&s->lock);
    settle_run(s, &run, !error);
    return error;
}

/* Without the cache. */
static int read_past(struct http_source *s, uint64_t offset, void *data, size_t size,
                     struct ferry_error *err)
{
    const struct iovec iov = {data, size};

    pthread_mutex_unlock(&s->lock);
    int error = http_read(s->http, offset, &iov, 1, err);
    pthread_mutex_lock(&s->lock);
    return error;
}

/* ---- Reading; the lock is held but while bytes come ---- */

/* Everything missing of blocks first to end - 1 is asked for, before any is waited for. */
static int fetch_missing(struct http_source *s, uint64_t first, uint64_t end,
                         struct ferry_error *err)
{
    unsigned count;

    for (uint64_t n = first; n < end; n++) {
        if (find_block(s, n))
            continue;
        int error = fetch_run(s, n, end, &count, err);
        if (error)
            return error;
        n += count ? count - 1 : 0;
    }
    return 0;
}

/* A part of one block. */
static int read_part(struct http_source *s, uint64_t offset, void *data, size_t size,
                     struct ferry_error *err)
{
    uint64_t number = offset / BLOCK_BYTES;
    unsigned count = 1;
    struct block *b;

    while (!(b = find_block(s, number)) || b->coming) {
        if (b) {
            pthread_cond_wait(&s->arrived, &s->lock);
            continue;
        }
        int error = fetch_run(s, number, number + 1, &count, err);
        if (error)
            return error;
        if (!count)
            return read_past(s, offset, data, size, err);
    }
    b->used = ++s->clock;
    memcpy(data, b->bytes + offset % BLOCK_BYTES, size);
    return 0;
}

static int pread_http(struct source *source, uint64_t offset, void *data, size_t size,
                      struct ferry_error *err)
{
    struct http_source *s = (struct http_source *)source;
    const size_t most = RUN_BLOCKS * BLOCK_BYTES;
    uint8_t *out = data;
    int error = 0;

    if (offset > source->size_bytes || size > source->size_bytes - offset)
        return ferry_refuse(err, -EBADMSG, source->about,
                            "is cut short: bytes %llu to %llu are needed, it has %llu",
                            (unsigned long long)offset, (unsigned long long)(offset + size),
                            (unsigned long long)source->size_bytes);
    LOCK_SCOPE(&s->lock);
    for (uint64_t fetched = offset; !error && size;) {
        if (offset >= fetched) {
            size_t ahead = size < most ? size : most;
            fetched = offset + ahead;
            error = fetch_missing(s, offset / BLOCK_BYTES, (fetched - 1) / BLOCK_BYTES + 1, err);
            if (error)
                break;
        }
        size_t room = BLOCK_BYTES - offset % BLOCK_BYTES;
        size_t part = size < room ? size : room;
        error = read_part(s, offset, out, part, err);
        out += part;
        offset += part;
        size -= part;
    }
    return error;
}

/* ---- Opening ---- */

static void close_http(struct source *source)
{
    struct http_source *s = (struct http_source *)source;

    for (size_t i = 0; i < BLOCKS; i++)
        free(s->blocks[i].bytes);
    pthread_cond_destroy(&s->arrived);
    pthread_mutex_destroy(&s->lock);
    http_close(s->http);
    free(s);
}

int source_of_http(const char *url, const struct http_options *options, struct source **out,
                   struct ferry_error *err)
{
    struct http_source *s = calloc(1, sizeof(*s));

    if (!s)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    int error = http_open(url, options, &s->http, err);
    if (error) {
        free(s);
        return error;
    }
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->arrived, NULL);
    for (size_t i = 0; i < BLOCKS; i++)
        s->blocks[i].number = NO_BLOCK;
    s->source = (struct source){.pread = pread_http,
                                .close = close_http,
                                .size_bytes = http_size(s->http),
                                .about = http_about(s->http)};
    *out = &s->source;
    return 0;
}

const char *source_http_validator(const struct source *source)
{
    return http_validator(((const struct http_source *)source)->http);
}
