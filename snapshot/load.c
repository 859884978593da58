/*
 * Load: a visitor of the image puts content where it belongs while the reader goes on checking.
 * Nothing of the device state touches the machine until the image has turned out whole; what RAM
 * and new disk files hold until then is thrown away with them.
 */
#include "snapshot/snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/file.h"
#include "imagefmt/image.h"
#include "snapshot/manifest.h"

#define REPORT_BYTES (8 * MIB) /* of the image between two reports of progress */

struct load {
    const char *about;
    const struct snapshot_host *host;
    struct progress *progress;
    struct machine *machine;
    struct manifest manifest;
    bool ram_seen;
    bool disk_seen[LIMIT_DISKS];
    int fd;               /* of the disk being filled, -1: skipped */
    uint64_t image_bytes; /* 0: not known, a pipe */
    uint64_t reported;
};

static int check_cancelled(struct load *l, struct ferry_error *err)
{
    if (l->progress && atomic_load(&l->progress->cancelled))
        return ferry_fail(err, -ECANCELED, l->about, "the restore was cancelled");
    return 0;
}

static int load_manifest(void *opaque, const char *text, size_t size, struct ferry_error *err)
{
    struct load *l = opaque;
    json_t *json;

    int error = manifest_parse(text, size, l->about, &json, err);
    if (error)
        return error;
    error = manifest_decode(json, l->about, &l->manifest, err);
    json_decref(json);
    if (error)
        return error;
    if (l->manifest.stopped)
        return ferry_usage(err, l->about, "holds a machine that is switched off: use 'ferry run'");
    return l->host->create(l->host->opaque, &l->manifest.machine, l->manifest.disk_in_image,
                           &l->machine, err);
}

static int load_state(void *opaque, const struct image_section *section, const uint8_t *data,
                      struct ferry_error *err)
{
    struct load *l = opaque;
    const struct machine_section saved = {
        .name = section->name,
        .version = section->version,
        .data = data,
        .size = section->size,
    };

    return machine_load_section(l->machine, &saved, err);
}

static int begin_ram(struct load *l, const struct image_section *section, struct ferry_error *err)
{
    if (section->size != l->manifest.machine.memory_bytes)
        return ferry_refuse(err, -EBADMSG, l->about,
                            "section %s has %llu bytes, but the machine's memory %llu",
                            section->name, (unsigned long long)section->size,
                            (unsigned long long)l->manifest.machine.memory_bytes);
    l->ram_seen = true;
    return 0;
}

static int begin_disk(struct load *l, const struct image_section *section, struct ferry_error *err)
{
    const struct machine_config *config = &l->manifest.machine;
    uint32_t index = 0;

    while (index < config->disk_count && strcmp(config->disks[index].device, section->name))
        index++;
    if (index == config->disk_count || !l->manifest.disk_in_image[index])
        return ferry_refuse(err, -EBADMSG, l->about, "the manifest knows nothing of disk %s",
                            section->name);
    if (section->size != config->disks[index].size_bytes)
        return ferry_refuse(err, -EBADMSG, l->about,
                            "disk %s has %llu bytes, but %llu by the manifest", section->name,
                            (unsigned long long)section->size,
                            (unsigned long long)config->disks[index].size_bytes);
    l->disk_seen[index] = true;
    l->fd = -1;
    int error = l->host->disk(l->host->opaque, index, &l->fd, err);
    if (error || l->fd < 0)
        return error;
    if (ftruncate(l->fd, (off_t)section->size))
        return ferry_fail_sys(err, -errno, section->name, "cannot give the disk its size");
    return 0;
}

static int load_begin(void *opaque, const struct image_section *section, struct ferry_error *err)
{
    struct load *l = opaque;

    l->fd = -1; /* a file is for ferry run: not looked at */
    if (section->kind == IMAGE_FILE)
        return 0;
    return section->kind == IMAGE_RAM ? begin_ram(l, section, err) : begin_disk(l, section, err);
}

static int load_chunk(void *opaque, const struct image_section *section, uint64_t offset,
                      const uint8_t *data, size_t size, struct ferry_error *err)
{
    struct load *l = opaque;

    int error = check_cancelled(l, err);
    if (error)
        return error;
    if (section->kind == IMAGE_RAM) {
        error = memory_load(machine_memory(l->machine), offset, data, size);
        return error ? ferry_fail_sys(err, error, "RAM", "cannot be filled") : 0;
    }
    error = l->fd < 0 ? 0 : pwrite_all(l->fd, data, size, offset);
    return error ? ferry_fail_sys(err, error, section->name, "cannot write the disk's content") : 0;
}

static void load_progress(void *opaque, uint64_t bytes)
{
    struct load *l = opaque;
    const struct progress_report what = {
        .phase = "image", .done_bytes = bytes, .total_bytes = l->image_bytes};

    if (!l->progress || !l->progress->report || bytes - l->reported < REPORT_BYTES)
        return;
    l->reported = bytes;
    l->progress->report(l->progress->opaque, &what);
}

/* Everything that the manifest promised must have been there. */
static int check_complete(const struct load *l, struct ferry_error *err)
{
    if (!l->ram_seen)
        return ferry_refuse(err, -EBADMSG, l->about, "holds no RAM: it cannot be restored");
    for (uint32_t i = 0; i < l->manifest.machine.disk_count; i++)
        if (l->manifest.disk_in_image[i] && !l->disk_seen[i])
            return ferry_refuse(err, -EBADMSG, l->about,
                                "disk %s is missing, which the manifest promises",
                                l->manifest.machine.disks[i].device);
    return 0;
}

/* The image is whole: state becomes the machine's, and it learns that it is a restored one. */
static int commit(struct load *l, struct ferry_error *err)
{
    uint8_t generation[16];

    int error = check_complete(l, err);
    if (!error)
        error = machine_load_commit(l->machine, err);
    if (error)
        return error;
    if (getrandom(generation, sizeof(generation), 0) != sizeof(generation))
        return ferry_fail_sys(err, -errno, NULL, "cannot make a generation id");
    error = machine_set_generation(l->machine, generation);
    return error ? ferry_fail_sys(err, error, NULL, "cannot set the generation id") : 0;
}

static int load_image(struct load *l, int fd, const struct image_environment *env,
                      struct image_summary *summary, struct ferry_error *err)
{
    static const struct image_visitor visitor = {
        .manifest = load_manifest,
        .state = load_state,
        .begin = load_begin,
        .chunk = load_chunk,
        .progress = load_progress,
    };

    int error = image_read(fd, l->about, env, 0, &visitor, l, summary, err);
    return error ? error : commit(l, err);
}

int snapshot_load(int fd, const char *about, const struct image_environment *env,
                  const struct snapshot_host *host, struct progress *progress, struct machine **out,
                  struct restore_result *result, struct ferry_error *err)
{
    CLEANUP_FREE struct load *l = calloc(1, sizeof(*l));
    struct image_summary summary = {0};
    uint64_t start = monotonic_ns();
    struct stat st;

    if (!l)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    *l = (struct load){.about = about, .host = host, .progress = progress, .fd = -1};
    if (!fstat(fd, &st) && S_ISREG(st.st_mode))
        l->image_bytes = (uint64_t)st.st_size;
    int error = load_image(l, fd, env, &summary, err);
    if (error) {
        machine_destroy(l->machine);
        return error;
    }
    *result = (struct restore_result){
        .bytes = summary.bytes,
        .content_bytes = summary.content_bytes,
        .load_ns = monotonic_ns() - start,
        .saved_realtime_ns = l->manifest.realtime_ns,
    };
    memcpy(result->root, summary.root, SHA256_BYTES);
    *out = l->machine;
    return 0;
}
