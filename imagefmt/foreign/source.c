/*
 * Sources.  Each is one allocation with its name behind it; whatever is asked of one is checked
 * against its size here, so that no format depends on having done so.
 */
#include "imagefmt/foreign/source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"

struct any_source {
    struct source source;
    int fd;
    const uint8_t *memory;
    struct source *whole;
    uint64_t offset; /* in whole */
    char name[];
};

static int check_range(const struct source *source, uint64_t offset, uint64_t size,
                       struct ferry_error *err)
{
    if (offset <= source->size_bytes && size <= source->size_bytes - offset)
        return 0;
    return ferry_refuse(err, -EBADMSG, source->about,
                        "is cut short: bytes %llu to %llu are needed, it has %llu",
                        (unsigned long long)offset, (unsigned long long)(offset + size),
                        (unsigned long long)source->size_bytes);
}

static void free_source(struct source *source)
{
    free(source);
}

static int new_source(const char *about, uint64_t size, struct any_source **out,
                      struct ferry_error *err)
{
    size_t name_bytes = strlen(about) + 1;
    struct any_source *s = calloc(1, sizeof(*s) + name_bytes);

    if (!s)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    memcpy(s->name, about, name_bytes);
    s->source = (struct source){.close = free_source, .size_bytes = size, .about = s->name};
    *out = s;
    return 0;
}

void source_close(struct source *source)
{
    if (source)
        source->close(source);
}

void source_cleanup(struct source **source)
{
    source_close(*source);
}

/* ---- Files and block devices ---- */

static int pread_fd(struct source *source, uint64_t offset, void *data, size_t size,
                    struct ferry_error *err)
{
    const struct any_source *s = (const struct any_source *)source;
    int error = check_range(source, offset, size, err);

    if (error)
        return error;
    error = pread_all(s->fd, data, size, offset);
    return error ? ferry_fail_sys(err, error, source->about, "cannot read at byte %llu",
                                  (unsigned long long)offset)
                 : 0;
}

static int next_data_fd(struct source *source, uint64_t *start, uint64_t *end)
{
    const struct any_source *s = (const struct any_source *)source;

    if (*start >= source->size_bytes)
        return 0;
    *end = source->size_bytes;
    off_t data = lseek(s->fd, (off_t)*start, SEEK_DATA);
    if (data < 0)
        return errno != ENXIO; /* no holes here, or nothing but a hole */
    if ((uint64_t)data >= source->size_bytes)
        return 0;
    *start = (uint64_t)data;
    off_t hole = lseek(s->fd, data, SEEK_HOLE);
    if (hole > data && (uint64_t)hole < *end)
        *end = (uint64_t)hole;
    return 1;
}

int source_of_fd(int fd, const char *about, struct source **out, struct ferry_error *err)
{
    struct any_source *s;
    struct stat st;

    if (fstat(fd, &st))
        return ferry_fail_sys(err, -errno, about, "cannot read");
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return ferry_usage(err, about, "is neither a file nor a block device");
    off_t size = lseek(fd, 0, SEEK_END); /* also of block devices */
    if (size < 0)
        return ferry_fail_sys(err, -errno, about, "cannot tell its size");
    int error = new_source(about, (uint64_t)size, &s, err);
    if (error)
        return error;
    s->fd = fd;
    s->source.pread = pread_fd;
    s->source.next_data = next_data_fd;
    *out = &s->source;
    return 0;
}

/* ---- Parts ---- */

static int pread_part(struct source *source, uint64_t offset, void *data, size_t size,
                      struct ferry_error *err)
{
    const struct any_source *s = (const struct any_source *)source;
    int error = check_range(source, offset, size, err);

    return error ? error : s->whole->pread(s->whole, s->offset + offset, data, size, err);
}

static int next_data_part(struct source *source, uint64_t *start, uint64_t *end)
{
    const struct any_source *s = (const struct any_source *)source;
    uint64_t from = s->offset + *start, to;

    if (*start >= source->size_bytes || !s->whole->next_data(s->whole, &from, &to))
        return 0;
    from -= s->offset;
    to -= s->offset;
    if (from >= source->size_bytes)
        return 0;
    *start = from;
    *end = to < source->size_bytes ? to : source->size_bytes;
    return 1;
}

int source_of_part(struct source *whole, uint64_t offset, uint64_t size, struct source **out,
                   struct ferry_error *err)
{
    struct any_source *s;
    int error = check_range(whole, offset, size, err);

    if (!error)
        error = new_source(whole->about, size, &s, err);
    if (error)
        return error;
    s->whole = whole;
    s->offset = offset;
    s->source.pread = pread_part;
    s->source.next_data = whole->next_data ? next_data_part : NULL;
    *out = &s->source;
    return 0;
}

/* ---- Memory ---- */

static int pread_memory(struct source *source, uint64_t offset, void *data, size_t size,
                        struct ferry_error *err)
{
    const struct any_source *s = (const struct any_source *)source;
    int error = check_range(source, offset, size, err);

    if (!error && size)
        memcpy(data, s->memory + offset, size);
    return error;
}

int source_of_memory(const void *data, size_t size, const char *about, struct source **out,
                     struct ferry_error *err)
{
    struct any_source *s;
    int error = new_source(about, size, &s, err);

    if (error)
        return error;
    s->memory = data;
    s->source.pread = pread_memory;
    *out = &s->source;
    return 0;
}
