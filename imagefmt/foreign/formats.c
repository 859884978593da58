/* The table of formats, and which one a file is in. */
#include "imagefmt/foreign/formats.h"

#include <errno.h>
#include <string.h>

const struct disk_format *const disk_formats[] = {
    &disk_format_raw,
    NULL,
};

const struct disk_format *disk_format_by_name(const char *name)
{
    for (const struct disk_format *const *f = disk_formats; *f; f++)
        if (!strcmp((*f)->name, name))
            return *f;
    return NULL;
}

const struct disk_format *disk_format_by_extension(const char *path)
{
    const char *base = strrchr(path, '/');
    const char *extension = strrchr(base ? base : path, '.');

    for (const struct disk_format *const *f = disk_formats; extension && *f; f++)
        if (!strcmp((*f)->extension, extension))
            return *f;
    return NULL;
}

int disk_format_probe(struct source *source, const struct disk_format **out,
                      struct ferry_error *err)
{
    uint8_t head[DISK_PROBE_HEAD_BYTES], tail[DISK_PROBE_TAIL_BYTES];
    size_t head_bytes = source->size_bytes < sizeof(head) ? source->size_bytes : sizeof(head);
    size_t tail_bytes = source->size_bytes < sizeof(tail) ? source->size_bytes : sizeof(tail);

    int error = source->pread(source, 0, head, head_bytes, err);
    if (!error)
        error = source->pread(source, source->size_bytes - tail_bytes, tail, tail_bytes, err);
    if (error)
        return error;
    *out = NULL;
    for (const struct disk_format *const *f = disk_formats; *f && !*out; f++)
        if ((*f)->probe && (*f)->probe(head, head_bytes, tail, tail_bytes))
            *out = *f;
    return 0;
}
