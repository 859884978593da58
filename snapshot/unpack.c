/* From a packed image to what a new machine is made of. */
#include "snapshot/unpack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"

int unpack_manifest(struct image *image, const char *about, struct manifest *manifest,
                    struct ferry_error *err)
{
    size_t size;
    const char *text = image_manifest(image, &size);
    json_t *json;

    int error = manifest_parse(text, size, about, &json, err);
    if (error)
        return error;
    error = manifest_decode(json, about, manifest, err);
    json_decref(json);
    return error;
}

static int check_disks(struct image *image, const char *about, const struct manifest *manifest,
                       struct ferry_error *err)
{
    for (uint32_t i = 0; i < manifest->machine.disk_count; i++) {
        const struct disk_config *disk = &manifest->machine.disks[i];
        int64_t found = image_find(image, IMAGE_DISK, disk->device);
        if (found < 0 || image_section(image, (uint32_t)found)->size != disk->size_bytes)
            return ferry_refuse(err, -EBADMSG, about,
                                "disk %s is not there as the manifest promises it", disk->device);
    }
    return 0;
}

int unpack_machine(struct image *image, const char *about, struct machine_config *config,
                   struct ferry_error *err)
{
    CLEANUP_FREE struct manifest *manifest = calloc(1, sizeof(*manifest));

    if (!manifest)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    int error = unpack_manifest(image, about, manifest, err);
    if (error)
        return error;
    if (!manifest->stopped)
        return ferry_usage(err, about,
                           "holds a machine in the middle of its work: use 'ferry restore'");
    *config = manifest->machine;
    return check_disks(image, about, manifest, err);
}

static int put_chunk(void *opaque, const struct image_section *section, uint64_t offset,
                     const uint8_t *data, size_t size, struct ferry_error *err)
{
    int error = pwrite_all(*(const int *)opaque, data, size, offset);

    return error ? ferry_fail_sys(err, error, section->name, "cannot be put into memory") : 0;
}

int unpack_file(struct image *image, const char *name, int *fd, struct ferry_error *err)
{
    int64_t found = image_find(image, IMAGE_FILE, name);

    *fd = -1;
    if (found < 0)
        return 0;
    CLEANUP_FD int memory = memfd_create(name, MFD_CLOEXEC);
    if (memory < 0 || ftruncate(memory, (off_t)image_section(image, (uint32_t)found)->size))
        return ferry_fail_sys(err, -errno, name, "cannot be put into memory");
    int error = image_check_pages(image, (uint32_t)found, err);
    if (!error)
        error = image_walk(image, (uint32_t)found, 0, put_chunk, &memory, err);
    if (!error)
        *fd = take_fd(&memory);
    return error;
}
