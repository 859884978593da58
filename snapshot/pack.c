/* Packing: the manifest, then kernel and initrd, then the disks. */
#include "snapshot/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "snapshot/block_source.h"
#include "snapshot/manifest.h"

#define REPORT_BYTES (8 * MIB) /* of content between two reports of progress */

struct pack {
    const struct pack_request *request;
    struct progress *progress;
    struct image_writer *writer;
    const struct snapshot_options *options;
    /* of the section at hand */
    const char *phase;
    uint64_t total, reported;
};

static void report(const struct pack *p, uint64_t done)
{
    const struct progress_report what = {
        .phase = p->phase,
        .done_bytes = done,
        .total_bytes = p->total,
        .sent_bytes = image_writer_bytes(p->writer),
    };

    if (p->progress && p->progress->report)
        p->progress->report(p->progress->opaque, &what);
}

static int step(void *opaque, uint64_t done, struct ferry_error *err)
{
    struct pack *p = opaque;

    if (p->progress && atomic_load(&p->progress->cancelled))
        return ferry_fail(err, -ECANCELED, NULL, "packing was cancelled");
    if (done - p->reported >= REPORT_BYTES) {
        p->reported = done;
        report(p, done);
    }
    return 0;
}

static int pack_section(struct pack *p, enum image_section_kind kind, const char *name,
                        struct pack_source *source, struct ferry_error *err)
{
    p->phase = name;
    p->total = source->size_bytes;
    p->reported = 0;
    report(p, 0);
    source->report = step;
    source->report_opaque = p;
    uint32_t chunk_bytes =
        p->options->disk_chunk_bytes
            ? p->options->disk_chunk_bytes
            : image_chunk_bytes(p->options->base, kind, name, IMAGE_DISK_CHUNK_BYTES);
    return image_pack(p->writer, kind, name, chunk_bytes, source, err);
}

static int pack_file(struct pack *p, const char *name, const char *path, uint64_t limit,
                     struct ferry_error *err)
{
    struct stat st;

    if (!path)
        return 0;
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st))
        return ferry_fail_sys(err, -errno, path, "cannot read the %s", name);
    if (!S_ISREG(st.st_mode) || !st.st_size || (uint64_t)st.st_size > limit)
        return ferry_usage(err, path, "is no %s: a file of 1 to %llu bytes is wanted", name,
                           (unsigned long long)limit);
    struct pack_source source = pack_source_file(&fd, (uint64_t)st.st_size, path);
    return pack_section(p, IMAGE_FILE, name, &source, err);
}

static int pack_disk(struct pack *p, uint32_t index, struct ferry_error *err)
{
    const struct disk_config *disk = &p->request->config->disks[index];
    struct pack_source source = pack_source_block(p->request->disks[index], disk->device);

    return pack_section(p, IMAGE_DISK, disk->device, &source, err);
}

/* All that is the same wherever and whenever it is packed. */
static char *make_manifest(const struct machine_config *config)
{
    CLEANUP_FREE struct manifest *manifest = calloc(1, sizeof(*manifest));

    if (!manifest)
        return NULL;
    manifest->stopped = true;
    manifest->machine = *config;
    memset(manifest->machine.vm_id, 0, sizeof(manifest->machine.vm_id));
    memset(manifest->machine.generation, 0, sizeof(manifest->machine.generation));
    manifest->machine.epoch = 1;
    manifest->machine.cpuid_count = 0;
    manifest->machine.tsc_khz = 0;
    for (uint32_t i = 0; i < config->disk_count; i++)
        manifest->disk_in_image[i] = true;
    return manifest_encode(manifest);
}

static int pack_all(struct pack *p, uint8_t root[SHA256_BYTES], struct ferry_error *err)
{
    const struct pack_request *request = p->request;

    int error = pack_file(p, "kernel", request->kernel, LIMIT_KERNEL_BYTES, err);
    if (!error)
        error = pack_file(p, "initrd", request->initrd, LIMIT_INITRD_BYTES, err);
    for (uint32_t i = 0; !error && i < request->config->disk_count; i++)
        error = pack_disk(p, i, err);
    return error ? error : image_writer_finish(p->writer, root, err);
}

int snapshot_pack(int fd, const struct pack_request *request,
                  const struct snapshot_options *options, struct progress *progress,
                  struct snapshot_result *result, struct ferry_error *err)
{
    const struct image_writer_options how = {.level = options->level,
                                             .workers = options->workers,
                                             .secret = options->secret,
                                             .base = options->base};
    CLEANUP_FREE char *manifest = make_manifest(request->config);
    struct pack p = {.request = request, .options = options, .progress = progress};
    uint64_t start = monotonic_ns();

    *result = (struct snapshot_result){0};
    if (!manifest)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    int error = image_writer_create(fd, &how, manifest, strlen(manifest), &p.writer, err);
    if (error)
        return error;
    error = pack_all(&p, result->root, err);
    result->bytes = image_writer_bytes(p.writer);
    result->content_bytes = image_writer_content_bytes(p.writer);
    result->total_ns = monotonic_ns() - start;
    image_writer_destroy(p.writer);
    return error;
}
