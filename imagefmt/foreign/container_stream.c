/*
 * Containers, reading in order.  Sums are taken of all content as it passes.  Names that came are
 * remembered as 128-bit hashes with a seed of this process: nobody can choose names that fall on
 * one place of the table, and two that had the same hash would be refused, no worse.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <xxhash.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/tar_read.h"

#define SET_FIRST_ROOM 256

struct name_set {
    XXH128_hash_t *slots; /* zero: free */
    uint64_t room, count; /* room: a power of two */
    uint64_t seed;
};

struct container_stream {
    struct tar_reader reader;
    struct stream content;
    struct container_member member;
    struct name_set names;
    unsigned wanted; /* of the members to come */
    struct digest *digests[DIGEST_KINDS];
    uint8_t sums[DIGEST_KINDS][DIGEST_MAX_BYTES];
    unsigned summed; /* which of them are done */
    bool inside;     /* a member is at hand */
    bool at_end;     /* of its content */
};

/* ---- Names ---- */

static bool same_hash(XXH128_hash_t a, XXH128_hash_t b)
{
    return a.low64 == b.low64 && a.high64 == b.high64;
}

/* The slot that has the hash, or the free one where it belongs. */
static XXH128_hash_t *find_slot(const struct name_set *set, XXH128_hash_t hash)
{
    uint64_t i = hash.low64 & (set->room - 1);

    while ((set->slots[i].low64 || set->slots[i].high64) && !same_hash(set->slots[i], hash))
        i = (i + 1) & (set->room - 1);
    return &set->slots[i];
}

static int grow_set(struct name_set *set)
{
    struct name_set larger = {.room = set->room ? set->room * 2 : SET_FIRST_ROOM};

    if (!(larger.slots = calloc(larger.room, sizeof(*larger.slots))))
        return -ENOMEM;
    for (uint64_t i = 0; i < set->room; i++)
        if (set->slots[i].low64 || set->slots[i].high64)
            *find_slot(&larger, set->slots[i]) = set->slots[i];
    free(set->slots);
    set->slots = larger.slots;
    set->room = larger.room;
    return 0;
}

/* 1: it is new, 0: it was there. */
static int add_name(struct name_set *set, const char *name)
{
    XXH128_hash_t hash = XXH3_128bits_withSeed(name, strlen(name), set->seed);

    if (2 * set->count >= set->room && grow_set(set))
        return -ENOMEM;
    XXH128_hash_t *slot = find_slot(set, hash);
    if (same_hash(*slot, hash))
        return 0;
    *slot = hash;
    set->count++;
    return 1;
}

/* ---- Sums ---- */

void container_stream_want(struct container_stream *s, unsigned digests)
{
    s->wanted = digests;
}

static int begin_sums(struct container_stream *s, struct ferry_error *err)
{
    s->summed = 0;
    for (unsigned kind = 0; kind < DIGEST_KINDS; kind++) {
        digest_free(take_ptr(&s->digests[kind]));
        if (s->wanted & 1u << kind && !(s->digests[kind] = digest_new(kind)))
            return ferry_fail(err, -ENOMEM, s->reader.about, "out of memory");
    }
    return 0;
}

static void end_sums(struct container_stream *s)
{
    for (unsigned kind = 0; kind < DIGEST_KINDS; kind++)
        if (s->digests[kind]) {
            digest_final(take_ptr(&s->digests[kind]), s->sums[kind]);
            s->summed |= 1u << kind;
        }
}

/* ---- Content ---- */

static int read_content(struct stream *stream, void *data, size_t size, size_t *got,
                        struct ferry_error *err)
{
    struct container_stream *s =
        (struct container_stream *)((char *)stream - offsetof(struct container_stream, content));

    *got = 0;
    if (!s->inside || s->at_end || !size)
        return 0;
    int error = tar_reader_read(&s->reader, data, size, got, err);
    if (error)
        return error;
    for (unsigned kind = 0; kind < DIGEST_KINDS; kind++)
        if (s->digests[kind])
            digest_update(s->digests[kind], data, *got);
    if (*got < size) {
        s->at_end = true;
        end_sums(s);
    }
    return 0;
}

static int skip_content(struct container_stream *s, struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *data = malloc(TAR_READ_BYTES);
    size_t got;
    int error = data ? 0 : ferry_fail(err, -ENOMEM, s->reader.about, "out of memory");

    while (!error && s->inside && !s->at_end)
        error = read_content(&s->content, data, TAR_READ_BYTES, &got, err);
    return error;
}

struct stream *container_stream_content(struct container_stream *s)
{
    return &s->content;
}

int container_stream_sum(struct container_stream *s, enum digest_kind kind,
                         uint8_t sum[DIGEST_MAX_BYTES], struct ferry_error *err)
{
    int error = s->at_end ? 0 : skip_content(s, err);

    if (error)
        return error;
    if (!(s->summed & 1u << kind))
        return ferry_fail(err, -EINVAL, s->reader.about, "no %s was taken of '%.200s'",
                          digest_name(kind), s->reader.name);
    memcpy(sum, s->sums[kind], digest_bytes(kind));
    return 0;
}

/* ---- Members ---- */

static int drain(struct container_stream *s, struct ferry_error *err)
{
    struct stream *below = s->reader.stream;
    CLEANUP_FREE uint8_t *data = malloc(TAR_READ_BYTES);
    size_t got = 1;
    int error = data ? 0 : ferry_fail(err, -ENOMEM, s->reader.about, "out of memory");

    while (!error && got)
        error = below->read(below, data, TAR_READ_BYTES, &got, err);
    return error;
}

int container_stream_next(struct container_stream *s, struct container_member *member,
                          struct ferry_error *err)
{
    int error = s->inside && !s->at_end ? skip_content(s, err) : 0;

    s->inside = false;
    if (error)
        return error;
    int more = tar_reader_next(&s->reader, member, err);
    if (more <= 0)
        return more ? more : drain(s, err);
    int fresh = add_name(&s->names, member->name);
    if (fresh < 0)
        return ferry_fail(err, fresh, s->reader.about, "out of memory");
    if (!fresh)
        return ferry_refuse(err, -EEXIST, s->reader.about, "has two members named '%.200s'",
                            member->name);
    s->inside = true;
    s->at_end = false;
    error = begin_sums(s, err);
    return error ? error : 1;
}

void container_stream_close(struct container_stream *s)
{
    if (!s)
        return;
    for (unsigned kind = 0; kind < DIGEST_KINDS; kind++)
        digest_free(s->digests[kind]);
    tar_reader_close(&s->reader);
    free(s->names.slots);
    free(s);
}

int container_stream_open(struct stream *stream, uint64_t most, struct container_stream **out,
                          struct ferry_error *err)
{
    struct container_stream *s = calloc(1, sizeof(*s));

    if (!s)
        return ferry_fail(err, -ENOMEM, stream->about, "out of memory");
    s->wanted = 1u << DIGEST_SHA1 | 1u << DIGEST_SHA256;
    s->content = (struct stream){.read = read_content, .about = stream->about};
    int error = tar_reader_open(&s->reader, NULL, stream, most, err);
    if (!error &&
        getrandom(&s->names.seed, sizeof(s->names.seed), 0) != (ssize_t)sizeof(s->names.seed))
        error = ferry_fail_sys(err, -errno, stream->about, "cannot get a random number");
    if (error) {
        container_stream_close(s);
        return error;
    }
    *out = s;
    return 0;
}
