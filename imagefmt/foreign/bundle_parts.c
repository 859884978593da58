/* What the formats of bundles have in common: the files beside the disks. */
#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/bundle.h"
#include "imagefmt/foreign/container.h"

#define READ_BYTES (1 * MIB)

size_t bundle_file_most(enum guest_file_kind kind)
{
    static const size_t most[GUEST_FILE_KINDS] = {
        [GUEST_KERNEL] = LIMIT_KERNEL_BYTES,
        [GUEST_INITRD] = LIMIT_INITRD_BYTES,
        [GUEST_NVRAM] = LIMIT_NVRAM_BYTES,
    };

    return most[kind];
}

int bundle_add_source(struct container *container, const char *name, struct source *source,
                      uint8_t sha256[SHA256_BYTES], struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *buffer = malloc(READ_BYTES);
    struct sink *sink;

    if (!buffer)
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    int error = container_begin(container, name, source->size_bytes, &sink, err);
    for (uint64_t at = 0, part; !error && at < source->size_bytes; at += part) {
        part = source->size_bytes - at < READ_BYTES ? source->size_bytes - at : READ_BYTES;
        error = source->pread(source, at, buffer, part, err);
        if (!error)
            error = sink->write(sink, buffer, part, err);
    }
    return error ? error : container_end(container, sha256, NULL, err);
}
