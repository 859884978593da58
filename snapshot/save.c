/*
 * Stop and save: the guest stands still while state, RAM and disks go through the image writer,
 * whose workers compress meanwhile.  What was never touched is not read: RAM's and disks' holes are
 * asked for first.
 */
#include "snapshot/snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/file.h"
#include "imagefmt/image.h"
#include "snapshot/block_source.h"
#include "snapshot/manifest.h"
#include "snapshot/target.h"

#define REPORT_BYTES (8 * MIB) /* of content between two reports of progress */

struct save {
    struct machine *machine;
    const struct snapshot_options *options;
    struct progress *progress;
    struct image_writer *writer;
    uint64_t ram_chunk, disk_chunk; /* bytes */
    uint8_t *buffer;                /* of the larger of both */
    uint64_t reported;
};

static void report(const struct save *s, const char *phase, uint64_t done, uint64_t total)
{
    const struct progress_report what = {
        .phase = phase,
        .done_bytes = done,
        .total_bytes = total,
        .sent_bytes = image_writer_bytes(s->writer),
    };

    if (s->progress && s->progress->report)
        s->progress->report(s->progress->opaque, &what);
}

static void begin_phase(struct save *s, const char *phase, uint64_t total)
{
    s->reported = 0;
    report(s, phase, 0, total);
}

/* Between two chunks: has anybody cancelled, does anybody want to know? */
static int step(struct save *s, const char *phase, uint64_t done, uint64_t total,
                struct ferry_error *err)
{
    if (s->progress && atomic_load(&s->progress->cancelled))
        return ferry_fail(err, -ECANCELED, NULL, "the snapshot was cancelled");
    if (done - s->reported >= REPORT_BYTES) {
        s->reported = done;
        report(s, phase, done, total);
    }
    return 0;
}

static int save_section(void *opaque, const struct machine_section *section,
                        struct ferry_error *err)
{
    struct save *s = opaque;

    return image_writer_state(s->writer, section->name, section->version, section->data,
                              section->size, err);
}

/*
 * One chunk of RAM.  Within a run of touched pages it is read through the mapping; where holes may
 * be in it, by pread, since to read a hole of a memfd through a mapping allocates its page.
 */
static int save_ram_chunk(struct save *s, uint64_t index, uint64_t run_start, uint64_t run_end,
                          struct ferry_error *err)
{
    const struct memory *memory = machine_memory(s->machine);
    uint64_t start = index * s->ram_chunk;
    uint64_t left = memory_size(memory) - start;
    uint64_t size = left < s->ram_chunk ? left : s->ram_chunk;
    const uint8_t *data = (const uint8_t *)memory_base(memory) + start;

    if (start < run_start || start + size > run_end) {
        int error = pread_all(memory_fd(memory), s->buffer, size, start);
        if (error)
            return ferry_fail_sys(err, error, "RAM", "cannot read at 0x%llx",
                                  (unsigned long long)start);
        data = s->buffer;
    }
    return image_writer_chunk(s->writer, index, data, err);
}

static int save_ram(struct save *s, struct ferry_error *err)
{
    const struct memory *memory = machine_memory(s->machine);
    uint64_t total = memory_size(memory);
    uint64_t start = 0, end, next = 0; /* next: chunk not yet looked at */

    begin_phase(s, "ram", total);
    int error = image_writer_begin(s->writer, IMAGE_RAM, "ram", total, (uint32_t)s->ram_chunk, err);
    while (!error && memory_next_data(memory, &start, &end) > 0) {
        uint64_t chunk = start / s->ram_chunk;
        for (chunk = chunk < next ? next : chunk; chunk * s->ram_chunk < end; chunk++) {
            error = step(s, "ram", chunk * s->ram_chunk, total, err);
            if (!error)
                error = save_ram_chunk(s, chunk, start, end, err);
            if (error)
                return error;
            next = chunk + 1;
        }
        start = end;
    }
    return error ? error : image_writer_end(s->writer, err);
}

struct disk_phase {
    struct save *save;
    const char *name;
    uint64_t total;
};

static int disk_step(void *opaque, uint64_t done, struct ferry_error *err)
{
    const struct disk_phase *phase = opaque;

    return step(phase->save, phase->name, done, phase->total, err);
}

static int save_disk(struct save *s, uint32_t index, struct ferry_error *err)
{
    const char *device = machine_config(s->machine)->disks[index].device;
    struct block *block = machine_disk(s->machine, index);
    char name[32];
    struct disk_phase phase = {.save = s, .name = name, .total = block->size_bytes};

    if (!block->active)
        return ferry_fail(err, -EBADF, device, "the machine does not own its disk");
    if (block->size_bytes != machine_config(s->machine)->disks[index].size_bytes)
        return ferry_fail(err, -EINVAL, device, "the disk's size is not the machine's");
    snprintf(name, sizeof(name), "disk %s", device);
    begin_phase(s, name, block->size_bytes);
    struct pack_source source = pack_source_block(block, device);
    source.report = disk_step;
    source.report_opaque = &phase;
    uint32_t chunk_bytes =
        s->options->disk_chunk_bytes
            ? s->options->disk_chunk_bytes
            : image_chunk_bytes(s->options->base, IMAGE_DISK, device, IMAGE_DISK_CHUNK_BYTES);
    return image_pack(s->writer, IMAGE_DISK, device, chunk_bytes, &source, err);
}

static char *make_manifest(const struct save *s)
{
    CLEANUP_FREE struct manifest *manifest = calloc(1, sizeof(*manifest));

    if (!manifest)
        return NULL;
    manifest->machine = *machine_config(s->machine);
    manifest->realtime_ns = realtime_ns();
    for (uint32_t i = 0; i < manifest->machine.disk_count; i++)
        manifest->disk_in_image[i] = !s->options->no_disks;
    return manifest_encode(manifest);
}

/* The whole image of a machine that stands still. */
static int save_paused(struct save *s, int fd, struct snapshot_result *result,
                       struct ferry_error *err)
{
    const struct image_writer_options options = {.level = s->options->level,
                                                 .workers = s->options->workers,
                                                 .secret = s->options->secret,
                                                 .base = s->options->base};
    CLEANUP_FREE char *manifest = make_manifest(s);

    if (!manifest)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    int error = image_writer_create(fd, &options, manifest, strlen(manifest), &s->writer, err);
    if (error)
        return error;
    begin_phase(s, "state", 0);
    error = machine_save(s->machine, save_section, s, err);
    if (!error)
        error = save_ram(s, err);
    for (uint32_t i = 0; !error && !s->options->no_disks && i < machine_disk_count(s->machine); i++)
        error = save_disk(s, i, err);
    if (!error)
        error = image_writer_finish(s->writer, result->root, err);
    if (error)
        return error;
    result->bytes = image_writer_bytes(s->writer);
    result->content_bytes = image_writer_content_bytes(s->writer);
    return 0;
}

static int choose_chunks(struct save *s, struct ferry_error *err)
{
    const struct snapshot_options *o = s->options;

    s->ram_chunk = o->ram_chunk_bytes
                       ? o->ram_chunk_bytes
                       : image_chunk_bytes(o->base, IMAGE_RAM, "ram", IMAGE_RAM_CHUNK_BYTES);
    s->disk_chunk = o->disk_chunk_bytes ? o->disk_chunk_bytes : IMAGE_DISK_CHUNK_BYTES;
    int error = target_check_chunk(s->ram_chunk, err);
    return error ? error : target_check_chunk(s->disk_chunk, err);
}

static int save_to(struct machine *machine, int fd, const struct snapshot_options *options,
                   struct progress *progress, struct snapshot_result *result,
                   struct ferry_error *err)
{
    static const struct snapshot_options defaults;
    struct save s = {
        .machine = machine,
        .options = options ? options : &defaults,
        .progress = progress,
    };

    int error = choose_chunks(&s, err);
    if (error)
        return error;
    uint64_t most = s.ram_chunk > s.disk_chunk ? s.ram_chunk : s.disk_chunk;
    CLEANUP_FREE uint8_t *buffer = aligned_alloc(MEMORY_PAGE_BYTES, most);
    if (!buffer)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    s.buffer = buffer;
    error = save_paused(&s, fd, result, err);
    image_writer_destroy(s.writer);
    return error;
}

/*
 * Pause, save, go on.  *resume_error tells a machine that did not go on from an image that failed:
 * the image is whole then, and worth keeping all the more.
 */
static int save_and_resume(struct machine *machine, int fd, const struct snapshot_options *options,
                           struct progress *progress, struct snapshot_result *result,
                           int *resume_error, struct ferry_error *err)
{
    struct ferry_error ignored;
    bool running = machine_is_running(machine);

    *result = (struct snapshot_result){0};
    *resume_error = 0;
    int error = running ? machine_pause(machine, err) : 0;
    if (!error)
        error = save_to(machine, fd, options, progress, result, err);
    if (!running)
        return error;
    *resume_error = machine_resume(machine, error ? &ignored : err);
    result->pause_ns = monotonic_ns() - machine_paused_at_ns(machine);
    return error;
}

int snapshot_save_fd(struct machine *machine, int fd, const struct snapshot_options *options,
                     struct progress *progress, struct snapshot_result *result,
                     struct ferry_error *err)
{
    uint64_t start = monotonic_ns();
    int resume_error;

    int error = save_and_resume(machine, fd, options, progress, result, &resume_error, err);
    result->total_ns = monotonic_ns() - start;
    return error ? error : resume_error;
}

int snapshot_save(struct machine *machine, const char *path, const struct snapshot_options *options,
                  struct progress *progress, struct snapshot_result *result,
                  struct ferry_error *err)
{
    CLEANUP(atomic_file_abandon) struct atomic_file file = ATOMIC_FILE_NONE;
    uint64_t start = monotonic_ns();
    int resume_error;

    int error = target_open(&file, path, err);
    if (error)
        return error;
    error = save_and_resume(machine, file.fd, options, progress, result, &resume_error, err);
    if (!error)
        error = atomic_file_commit(&file, resume_error ? NULL : err);
    result->total_ns = monotonic_ns() - start;
    return error ? error : resume_error;
}
