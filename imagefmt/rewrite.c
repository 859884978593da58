/* Section by section from the random-access reader to the writer. */
#include "imagefmt/rewrite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

struct rewrite {
    struct image *from;
    const struct rewrite_options *options;
    struct image_writer *writer;
    uint64_t before, total; /* bytes of the sections done, and of all */
};

static int put_chunk(void *opaque, const struct image_section *section, uint64_t offset,
                     const uint8_t *data, size_t size, struct ferry_error *err)
{
    struct rewrite *r = opaque;
    uint64_t left = section->size - offset;
    size_t whole = left < section->chunk_bytes ? (size_t)left : section->chunk_bytes;
    CLEANUP_FREE uint8_t *padded = size < whole ? calloc(1, whole) : NULL;

    /* The last chunk of a shorter disk below: zeroes follow. */
    if (size < whole && !padded)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    if (padded)
        memcpy(padded, data, size);
    int error =
        image_writer_chunk(r->writer, offset / section->chunk_bytes, padded ? padded : data, err);
    if (!error && r->options->report)
        error = r->options->report(r->options->opaque, r->before + offset, r->total, err);
    return error;
}

static int rewrite_data(struct rewrite *r, uint32_t number, const struct image_section *section,
                        struct ferry_error *err)
{
    int error = image_check_pages(r->from, number, err);

    if (!error)
        error = image_writer_begin(r->writer, section->kind, section->name, section->size,
                                   section->chunk_bytes, err);
    if (!error)
        error = image_walk(r->from, number, r->options->writer.workers, put_chunk, r, err);
    r->before += section->size;
    return error ? error : image_writer_end(r->writer, err);
}

static int rewrite_section(struct rewrite *r, uint32_t number, struct ferry_error *err)
{
    const struct image_section *section = image_section(r->from, number);
    CLEANUP_FREE uint8_t *state = NULL;

    if (section->kind != IMAGE_STATE)
        return rewrite_data(r, number, section, err);
    int error = image_state(r->from, number, &state, err);
    return error ? error
                 : image_writer_state(r->writer, section->name, section->version, state,
                                      section->size, err);
}

static int rewrite_all(struct rewrite *r, uint8_t root[SHA256_BYTES], struct ferry_error *err)
{
    int error = 0;

    for (uint32_t i = 0; i < image_sections(r->from); i++)
        if (image_section(r->from, i)->kind != IMAGE_STATE)
            r->total += image_section(r->from, i)->size;
    for (uint32_t i = 0; !error && i < image_sections(r->from); i++)
        error = rewrite_section(r, i, err);
    if (!error)
        error = image_writer_finish(r->writer, root, err);
    if (!error && memcmp(root, image_summary(r->from)->root, SHA256_BYTES))
        return ferry_refuse(err, -EBADMSG, NULL, "the image changed while it was read");
    return error;
}

int image_rewrite(struct image *from, int fd, const struct rewrite_options *options,
                  uint8_t root[SHA256_BYTES], uint64_t *bytes, struct ferry_error *err)
{
    struct rewrite r = {.from = from, .options = options};
    size_t size;
    const char *manifest = image_manifest(from, &size);

    int error = image_writer_create(fd, &options->writer, manifest, size, &r.writer, err);
    if (error)
        return error;
    error = rewrite_all(&r, root, err);
    *bytes = image_writer_bytes(r.writer);
    image_writer_destroy(r.writer);
    return error;
}
