/*
 * Extraction: chunks go out in order.  To a file they are written at their place with zero leaves
 * left out; to a pipe the gaps between them are written as zeroes.
 */
#include "imagefmt/extract.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/zero.h"
#include "imagefmt/access.h"
#include "imagefmt/content.h"

struct extract {
    const struct extract_options *options;
    struct extract_result *result;
    int out;
    uint64_t at;    /* bytes in the stream so far */
    uint64_t begun; /* of them the kernel has been told to write back */
    bool found, open;
};

static bool wanted(const struct extract *e, const struct image_section *section)
{
    const struct extract_options *o = e->options;

    return !strcmp(section->name, o->name) &&
           (o->kind ? section->kind == o->kind : section->kind != IMAGE_STATE);
}

static int cannot_write(int error, struct ferry_error *err)
{
    return ferry_fail_sys(err, error, NULL, "cannot write what was extracted");
}

static int put_zeroes(struct extract *e, uint64_t until, struct ferry_error *err)
{
    static const uint8_t zeroes[65536];

    while (e->at < until) {
        size_t part = until - e->at < sizeof(zeroes) ? until - e->at : sizeof(zeroes);
        int error = write_all(e->out, zeroes, part);
        if (error)
            return cannot_write(error, err);
        e->at += part;
    }
    return 0;
}

/* Runs of leaves that are not zero, at their place. */
static int put_sparse(void *opaque, uint64_t offset, const uint8_t *data, size_t size)
{
    const struct extract *e = opaque;
    size_t start = 0, at = 0;

    while (at < size) {
        size_t part = size - at < CONTENT_LEAF_BYTES ? size - at : CONTENT_LEAF_BYTES;
        bool zero = is_zero(data + at, part);
        if (zero && at > start) {
            int error = pwrite_all(e->out, data + start, at - start, offset + start);
            if (error)
                return error;
        }
        at += part;
        start = zero ? at : start;
    }
    return at > start ? pwrite_all(e->out, data + start, at - start, offset + start) : 0;
}

static int begin(struct extract *e, const struct image_section *section, struct ferry_error *err)
{
    e->found = e->open = true;
    e->result->section = *section;
    if (e->options->sparse && ftruncate(e->out, (off_t)section->size))
        return cannot_write(-errno, err);
    return 0;
}

static int on_begin(void *opaque, const struct image_section *section, struct ferry_error *err)
{
    struct extract *e = opaque;

    return wanted(e, section) ? begin(e, section, err) : 0;
}

/* So far all is written. */
static void reached(struct extract *e, uint64_t at)
{
    e->at = e->result->whole_bytes = at;
    file_begin_writeback(e->out, &e->begun, at);
}

static int on_placed(void *opaque, const struct image_section *section, uint64_t offset,
                     const uint8_t *data, size_t size, struct ferry_error *err)
{
    (void)section;
    (void)data;
    (void)err;
    reached(opaque, offset + size);
    return 0;
}

static int on_chunk(void *opaque, const struct image_section *section, uint64_t offset,
                    const uint8_t *data, size_t size, struct ferry_error *err)
{
    struct extract *e = opaque;

    (void)section;
    if (!e->open)
        return 0;
    int error = e->options->sparse ? put_sparse(e, offset, data, size) : 0;
    if (error)
        return cannot_write(error, err);
    if (!e->options->sparse) {
        error = put_zeroes(e, offset, err);
        if (!error && (error = write_all(e->out, data, size)))
            error = cannot_write(error, err);
        if (error)
            return error;
    }
    reached(e, offset + size);
    return 0;
}

static int finish(struct extract *e, const struct image_section *section, struct ferry_error *err)
{
    e->open = false;
    e->result->section = *section;
    e->result->whole_bytes = section->size;
    return e->options->sparse ? 0 : put_zeroes(e, section->size, err);
}

static int on_end(void *opaque, const struct image_section *section, struct ferry_error *err)
{
    struct extract *e = opaque;

    return e->open ? finish(e, section, err) : 0;
}

static int on_state(void *opaque, const struct image_section *section, const uint8_t *data,
                    struct ferry_error *err)
{
    struct extract *e = opaque;

    if (e->options->kind != IMAGE_STATE || !wanted(e, section))
        return 0;
    e->found = true;
    e->result->section = *section;
    e->result->whole_bytes = section->size;
    int error = write_all(e->out, data, section->size);
    return error ? cannot_write(error, err) : 0;
}

static int no_section(const struct extract *e, const char *about, struct ferry_error *err)
{
    ferry_usage(err, about, "holds no section '%.63s'; see ferry inspect", e->options->name);
    return -ENOENT;
}

static int extract_in_order(struct extract *e, int fd, const char *about,
                            const struct image_environment *env, struct ferry_error *err)
{
    static const struct image_visitor visitor = {
        .state = on_state, .begin = on_begin, .chunk = on_chunk, .end = on_end};
    struct ferry_error *damage = &e->result->damage;

    int error = image_read(fd, about, env, e->options->workers, &visitor, e, NULL, damage);
    if (error && e->options->salvage && e->found && damage->kind == FERRY_REFUSED)
        return 0;
    if (error && err)
        *err = *damage;
    return error ? error : e->found ? 0 : no_section(e, about, err);
}

static int64_t find_section(const struct extract *e, const struct image *image)
{
    for (uint32_t i = 0; i < image_sections(image); i++)
        if (wanted(e, image_section(image, i)))
            return i;
    return -1;
}

static int extract_at_random(struct extract *e, int fd, const char *about,
                             const struct image_environment *env, struct ferry_error *err)
{
    CLEANUP(image_cleanup) struct image *image = NULL;
    CLEANUP_FREE uint8_t *state = NULL;

    int error = image_open(fd, about, env, &image, err);
    if (error)
        return error;
    int64_t found = find_section(e, image);
    if (found < 0)
        return no_section(e, about, err);
    uint32_t number = (uint32_t)found;
    const struct image_section *section = image_section(image, number);
    if (section->kind == IMAGE_STATE) {
        error = image_state(image, number, &state, err);
        return error ? error : on_state(e, section, state, err);
    }
    error = image_check_pages(image, number, err);
    if (!error)
        error = begin(e, section, err);
    if (!error && e->options->sparse)
        error =
            image_walk_placed(image, number, e->options->workers, put_sparse, on_placed, e, err);
    else if (!error)
        error = image_walk(image, number, e->options->workers, on_chunk, e, err);
    return error ? error : finish(e, section, err);
}

int image_extract(int fd, const char *about, const struct image_environment *env, int out,
                  const struct extract_options *options, struct extract_result *result,
                  struct ferry_error *err)
{
    struct extract e = {.options = options, .result = result, .out = out};

    *result = (struct extract_result){0};
    return options->salvage || lseek(fd, 0, SEEK_CUR) ? extract_in_order(&e, fd, about, env, err)
                                                      : extract_at_random(&e, fd, about, env, err);
}
