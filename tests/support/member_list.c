#include "tests/support/member_list.h"

#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/zero.h"
#include "imagefmt/foreign/container.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/stream.h"

#define TAR_BYTES  (4 * MIB)
#define EXTENTS    200
#define READ_BYTES (8 * KIB)

struct memory_sink {
    struct sink sink;
    struct writer out;
};

static int write_memory(struct sink *sink, const void *data, size_t size, struct ferry_error *err)
{
    struct memory_sink *m = (struct memory_sink *)sink;

    writer_copy(&m->out, data, size);
    sink->position += size;
    return m->out.error ? ferry_fail(err, m->out.error, sink->about, "is full") : 0;
}

static int add_members(struct container *c, struct reader *r)
{
    int error = 0;

    while (!error && reader_left(r) > 3) {
        char name[256] = "";
        size_t length = reader_u8(r);
        length = length < reader_left(r) ? length : reader_left(r);
        reader_copy(r, name, length);
        size_t bytes = reader_left(r) >= 2 ? reader_u16(r) : 0;
        bytes = bytes < reader_left(r) ? bytes : reader_left(r);
        error = container_add(c, name, reader_take(r, bytes), bytes, NULL, NULL);
    }
    return error;
}

int member_list_tar(const uint8_t *data, size_t size, uint8_t **tar, size_t *bytes)
{
    struct memory_sink memory = {.sink = {.write = write_memory, .about = "memory"},
                                 .out = writer_init(TAR_BYTES)};
    struct reader r = reader_init(data, size);
    struct container *c = NULL;
    int error = 0;

    if (reader_u8(&r) % 2) {
        error = container_create_tar(&memory.sink, &c, NULL);
        if (!error)
            error = add_members(c, &r);
        if (!error)
            error = container_finish(c, NULL, NULL);
        container_destroy(c);
    } else {
        writer_copy(&memory.out, data + 1, size ? size - 1 : 0);
    }
    if (error) {
        writer_free(&memory.out);
        return error;
    }
    *tar = memory.out.data;
    *bytes = memory.out.size;
    return 0;
}

static void check_extent(struct disk *disk, uint64_t offset, const struct disk_extent *extent)
{
    static uint8_t bytes[READ_BYTES];
    uint64_t part = extent->size_bytes < READ_BYTES ? extent->size_bytes : READ_BYTES;

    if (!extent->size_bytes || extent->size_bytes > disk->size_bytes - offset)
        abort();
    memset(bytes, 0xa5, part);
    if (disk->format->read(disk, offset, bytes, part, NULL) == 0 && extent->kind == DISK_ZERO &&
        !is_zero(bytes, part))
        abort();
}

static void walk(struct disk *disk)
{
    struct disk_extent extent;
    uint64_t offset = 0;

    for (int i = 0; i < EXTENTS && offset < disk->size_bytes; i++) {
        if (disk->format->extent(disk, offset, &extent, NULL))
            return;
        check_extent(disk, offset, &extent);
        offset += extent.size_bytes;
    }
}

void member_list_try(const struct bundle_format *format, const uint8_t *tar, size_t bytes,
                     bool in_order)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP(stream_cleanup) struct stream *stream = NULL;
    struct bundle_input input = {.folder_fd = -1, .about = "fuzz"};
    struct bundle *bundle;
    struct disk *disk;
    uint32_t index;

    if (source_of_memory(tar, bytes, "fuzz", &source, NULL) ||
        (in_order && stream_of_source(source, &stream, NULL)))
        return;
    input.stream = stream;
    input.source = in_order ? NULL : source;
    if (format->open(&input, &bundle, NULL))
        return;
    while (format->next_disk(bundle, &index, &disk, NULL) == 1) {
        if (index >= bundle->guest.disk_count)
            abort();
        walk(disk);
    }
    format->finish(bundle, NULL);
    format->close(bundle);
}
