/* The kinds of wraps, by what tells them. */
#include "imagefmt/foreign/wrap.h"

#include <string.h>

static const struct {
    const char *name, *extension, *magic;
    size_t magic_bytes;
} wraps[] = {
    [WRAP_GZIP] = {"gzip", ".gz", "\x1f\x8b\x08", 3},
    [WRAP_XZ] = {"xz", ".xz", "\xfd\x37zXZ\0", WRAP_MAGIC_BYTES},
    [WRAP_ZSTD] = {"zstd", ".zst", "\x28\xb5\x2f\xfd", 4},
    [WRAP_BZIP2] = {"bzip2", ".bz2", "BZh", 3},
};

#define WRAPS (sizeof(wraps) / sizeof(*wraps))

enum wrap_kind wrap_by_magic(const uint8_t *head, size_t size)
{
    for (size_t i = WRAP_NONE + 1; i < WRAPS; i++)
        if (size >= wraps[i].magic_bytes && !memcmp(head, wraps[i].magic, wraps[i].magic_bytes))
            return (enum wrap_kind)i;
    return WRAP_NONE;
}

enum wrap_kind wrap_by_name(const char *name)
{
    for (size_t i = WRAP_NONE + 1; i < WRAPS; i++)
        if (!strcmp(name, wraps[i].name))
            return (enum wrap_kind)i;
    return WRAP_NONE;
}

enum wrap_kind wrap_by_extension(const char *path, size_t *length)
{
    size_t all = strlen(path);

    for (size_t i = WRAP_NONE + 1; i < WRAPS; i++) {
        size_t extension = strlen(wraps[i].extension);
        if (all <= extension || strcmp(path + all - extension, wraps[i].extension) != 0)
            continue;
        *length = all - extension;
        return (enum wrap_kind)i;
    }
    return WRAP_NONE;
}

const char *wrap_name(enum wrap_kind kind)
{
    return wraps[kind].name;
}
