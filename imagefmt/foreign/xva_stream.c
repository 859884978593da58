/*
 * XVA, reading in order: one block at a time is held, which is handed out when its sum, the member
 * behind it, was found right.  A disk ends where the blocks of another begin.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/stream.h"
#include "imagefmt/foreign/xva.h"

struct xva_stream {
    struct container_stream *tar;
    struct container_member member;
    char text[LIMIT_MEMBER_NAME_BYTES + 1]; /* its name */
    struct xva_name name;                   /* the same, if it is of a block */
    bool is_block_or_sum;
    bool pending, ended; /* the member waits; there are no more */

    /* The disk at hand */
    struct disk disk;
    struct xva_reader *reader;
    uint32_t index;
    bool disk_ended;
    struct xva_place place;
    uint8_t *block;
    uint64_t block_offset;
    size_t block_bytes;
};

/* ---- Members ---- */

/* The one that waits, or the next: 1, 0 at the end. */
static int next_member(struct xva_stream *s, struct ferry_error *err)
{
    if (s->pending) {
        s->pending = false;
        return 1;
    }
    if (s->ended)
        return 0;
    int more = container_stream_next(s->tar, &s->member, err);
    s->ended = more == 0;
    if (more == 1) {
        memcpy(s->text, s->member.name, strlen(s->member.name) + 1);
        s->is_block_or_sum = xva_parse_name(s->text, &s->name);
    }
    return more;
}

static int read_member(struct xva_stream *s, void *data, struct ferry_error *err)
{
    return stream_read(container_stream_content(s->tar), data, (size_t)s->member.size_bytes, err);
}

/* The sum of the block that was just read, if it follows. */
static int check_block(struct xva_stream *s, const struct xva_name *block, struct ferry_error *err)
{
    uint8_t text[XVA_SUM_BYTES];

    int more = next_member(s, err);
    if (more < 0)
        return more;
    if (!more || !s->is_block_or_sum || !xva_is_sum_of(&s->name, block)) {
        s->pending = more == 1;
        xva_note_sum(s->reader);
        return 0;
    }
    if (s->member.size_bytes > sizeof(text))
        return ferry_refuse(err, -EFBIG, s->reader->input.about, "'%.100s' is no sum", s->text);
    int error = read_member(s, text, err);
    return error ? error
                 : xva_check_sum(s->name.sum, text, (size_t)s->member.size_bytes, s->block,
                                 s->block_bytes, s->text, s->reader->input.about, err);
}

/* The next block of the disk at hand, or disk_ended. */
static int load_block(struct xva_stream *s, struct ferry_error *err)
{
    const char *ref = s->reader->refs.disks[s->index], *about = s->reader->input.about;

    int more = next_member(s, err);
    if (more < 0)
        return more;
    if (!more || !s->is_block_or_sum || strcmp(s->name.ref, ref) != 0) {
        s->pending = more == 1;
        s->disk_ended = true;
        return xva_place_end(&s->place, ref, about, err);
    }
    const struct xva_name name = s->name;
    if (name.is_sum)
        return ferry_refuse(err, -EBADMSG, about, "has '%.100s' not behind its block", s->text);
    int error =
        xva_place_next(&s->place, &name, s->member.size_bytes, &s->block_offset, about, err);
    if (error)
        return error;
    s->block_bytes = (size_t)s->member.size_bytes;
    error = read_member(s, s->block, err);
    return error ? error : check_block(s, &name, err);
}

/* ---- The disk ---- */

static int disk_extent(struct disk *disk, uint64_t offset, struct disk_extent *extent,
                       struct ferry_error *err)
{
    struct xva_stream *s = disk->opaque;

    while (!s->disk_ended && offset >= s->block_offset + s->block_bytes) {
        int error = load_block(s, err);
        if (error)
            return error;
    }
    uint64_t end = s->block_offset + s->block_bytes;
    bool inside = offset >= s->block_offset && offset < end;
    if (!inside)
        end = offset < s->block_offset ? s->block_offset : disk->size_bytes;
    extent->kind = inside ? DISK_DATA : DISK_ZERO;
    extent->size_bytes = (end < disk->size_bytes ? end : disk->size_bytes) - offset;
    return 0;
}

static int disk_read(struct disk *disk, uint64_t offset, void *data, size_t size,
                     struct ferry_error *err)
{
    struct xva_stream *s = disk->opaque;
    struct disk_extent extent;
    uint8_t *at = data;

    while (size) {
        int error = disk_extent(disk, offset, &extent, err);
        if (error)
            return error;
        size_t part = extent.size_bytes < size ? (size_t)extent.size_bytes : size;
        if (extent.kind == DISK_ZERO)
            memset(at, 0, part);
        else
            memcpy(at, s->block + (offset - s->block_offset), part);
        at += part;
        offset += part;
        size -= part;
    }
    return 0;
}

static int disk_drain(struct disk *disk, struct ferry_error *err)
{
    struct xva_stream *s = disk->opaque;
    int error = 0;

    while (!error && !s->disk_ended)
        error = load_block(s, err);
    return error;
}

static void disk_close(struct disk *disk)
{
    (void)disk; /* a part of the stream */
}

static const struct disk_format stream_format = {
    .name = "xva",
    .drain = disk_drain,
    .extent = disk_extent,
    .read = disk_read,
    .close = disk_close,
};

static void open_disk(struct xva_reader *r, uint32_t index)
{
    struct xva_stream *s = r->stream;

    s->disk = (struct disk){
        .format = &stream_format,
        .size_bytes = r->bundle.guest.disks[index].size_bytes,
        .in_order = true,
        .block_bytes = XVA_BLOCK_BYTES,
        .opaque = s,
    };
    s->index = index;
    s->disk_ended = false;
    s->place = (struct xva_place){.size_bytes = s->disk.size_bytes};
    s->block_offset = s->block_bytes = 0;
    s->pending = true; /* its first block */
    r->given[index] = true;
    r->disk = &s->disk;
}

/* ---- The bundle ---- */

int xva_stream_next_disk(struct xva_reader *r, uint32_t *index, struct ferry_error *err)
{
    struct xva_stream *s = r->stream;
    int more = r->disk ? disk_drain(&s->disk, err) : 0;

    r->disk = NULL;
    if (more)
        return more;
    while ((more = next_member(s, err)) == 1) {
        if (!s->is_block_or_sum) {
            notes_add(&r->notes, "'%s' is not kept", s->text);
            continue;
        }
        *index = xva_disk_of(r, s->name.ref);
        if (*index == LIMIT_DISKS) {
            xva_note_ref(r, s->name.ref);
            continue;
        }
        if (r->given[*index])
            return ferry_refuse(err, -EBADMSG, r->input.about, "has blocks of '%s' in two places",
                                s->name.ref);
        open_disk(r, *index);
        return 1;
    }
    return more;
}

int xva_stream_finish(struct xva_reader *r, struct ferry_error *err)
{
    uint32_t index;
    int more;

    do
        more = xva_stream_next_disk(r, &index, err);
    while (more == 1);
    for (uint32_t i = 0; !more && i < r->bundle.guest.disk_count; i++)
        if (!r->given[i])
            more =
                ferry_refuse(err, -ENOENT, r->input.about, "lacks its disk '%s'", r->refs.disks[i]);
    return more;
}

static int load_description(struct xva_reader *r, struct ferry_error *err)
{
    struct xva_stream *s = r->stream;

    int more = next_member(s, err);
    if (more < 0)
        return more;
    if (!more || strcmp(s->text, XVA_DESCRIPTION) != 0)
        return ferry_refuse(err, -ENOENT, r->input.about, "does not begin with " XVA_DESCRIPTION);
    if (s->member.size_bytes > LIMIT_DESCRIPTION_BYTES)
        return ferry_refuse(err, -EFBIG, r->input.about, "has an " XVA_DESCRIPTION " of %llu bytes",
                            (unsigned long long)s->member.size_bytes);
    size_t size = (size_t)s->member.size_bytes;
    CLEANUP_FREE char *text = malloc(size + 1);
    if (!text)
        return ferry_fail(err, -ENOMEM, r->input.about, "out of memory");
    int error = read_member(s, text, err);
    text[size] = 0;
    return error
               ? error
               : xva_parse(text, size, r->input.about, &r->bundle.guest, &r->refs, &r->notes, err);
}

int xva_stream_open(struct xva_reader *r, struct ferry_error *err)
{
    struct xva_stream *s = r->stream = calloc(1, sizeof(*s));

    if (!s || !(s->block = malloc(LIMIT_XVA_BLOCK_BYTES)))
        return ferry_fail(err, -ENOMEM, r->input.about, "out of memory");
    s->reader = r;
    int error = container_stream_open(r->input.stream, LIMIT_XVA_MEMBERS, &s->tar, err);
    if (error)
        return error;
    container_stream_want(s->tar, 0);
    return load_description(r, err);
}

void xva_stream_close(struct xva_stream *stream)
{
    if (!stream)
        return;
    container_stream_close(stream->tar);
    free(stream->block);
    free(stream);
}
