/*
 * Filters before the disks of a machine (vmm/copy_before_write.h), put there while it stands still
 * and taken out one by one while it runs.
 *
 * What the disks hold at that instant is what a guest that loses power then would find: requests
 * that were under way are finished, those in its queues have not begun.
 */
#include "snapshot/live_disks.h"

#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "snapshot/pack.h"
#include "snapshot/target.h"

struct live_disks {
    struct machine *machine;
    struct cbw *cbw;
};

static void set_filters(struct live_disks *live, bool there)
{
    for (uint32_t i = 0; i < machine_disk_count(live->machine); i++) {
        struct block *filter = cbw_filter(live->cbw, i);
        if (filter)
            machine_filter_disk(live->machine, i, there ? filter : NULL);
    }
}

/* With everything allocated before, the guest stands still for as long as its requests take. */
static int arm(struct live_disks *live, uint64_t *pause_ns, struct ferry_error *err)
{
    struct machine *machine = live->machine;
    bool running = machine_is_running(machine);

    *pause_ns = 0;
    int error = machine_pause(machine, err);
    if (!error)
        set_filters(live, true);
    if (!running)
        return error;
    int resume_error = machine_resume(machine, error ? NULL : err);
    *pause_ns = monotonic_ns() - machine_paused_at_ns(machine);
    return error ? error : resume_error;
}

int live_disks_begin(struct machine *machine, const struct cbw_options *options,
                     struct live_disks **out, uint64_t *pause_ns, struct ferry_error *err)
{
    CLEANUP(live_disks_cleanup) struct live_disks *live = calloc(1, sizeof(*live));
    struct block *disks[LIMIT_DISKS];

    if (!live)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    live->machine = machine;
    for (uint32_t i = 0; i < machine_disk_count(machine); i++)
        disks[i] = machine_disk(machine, i);
    int error = cbw_create(disks, machine_disk_count(machine), options, &live->cbw, err);
    if (!error)
        error = arm(live, pause_ns, err);
    if (!error)
        *out = take_ptr(&live);
    return error;
}

struct block *live_disks_view(struct live_disks *live, uint32_t index)
{
    return cbw_view(live->cbw, index);
}

int live_disks_failure(struct live_disks *live, struct ferry_error *err)
{
    return cbw_failure(live->cbw, err);
}

struct cbw_numbers live_disks_numbers(struct live_disks *live)
{
    return cbw_numbers(live->cbw);
}

void live_disks_end(struct live_disks *live)
{
    if (!live)
        return;
    if (live->cbw) {
        cbw_stop(live->cbw); /* first: a request that waits for a reader must come out */
        set_filters(live, false);
    }
    cbw_destroy(live->cbw);
    free(live);
}

void live_disks_cleanup(struct live_disks **live)
{
    live_disks_end(*live);
}

/* ---- Into an image ---- */

int snapshot_save_disks_fd(struct machine *machine, int fd, const struct snapshot_options *options,
                           struct progress *progress, struct snapshot_result *result,
                           struct ferry_error *err)
{
    CLEANUP(live_disks_cleanup) struct live_disks *live = NULL;
    const struct cbw_options cbw = {.store_bytes = options->store_bytes};
    struct block *views[LIMIT_DISKS];
    uint64_t start = monotonic_ns(), pause_ns;

    *result = (struct snapshot_result){0};
    int error = options->disk_chunk_bytes ? target_check_chunk(options->disk_chunk_bytes, err) : 0;
    if (!error)
        error = live_disks_begin(machine, &cbw, &live, &pause_ns, err);
    if (error)
        return error;
    if (options->goes_on)
        options->goes_on(options->opaque);
    for (uint32_t i = 0; i < machine_disk_count(machine); i++)
        views[i] = live_disks_view(live, i);
    const struct pack_request request = {.config = machine_config(machine),
                                         .disks = views,
                                         .kernel = options->kernel,
                                         .initrd = options->initrd};
    error = snapshot_pack(fd, &request, options, progress, result, err);
    if (error && live_disks_failure(live, NULL))
        error = live_disks_failure(live, err); /* what was behind it */
    result->pause_ns = pause_ns;
    result->copied_bytes = live_disks_numbers(live).copied_bytes;
    result->total_ns = monotonic_ns() - start;
    return error;
}

int snapshot_save_disks(struct machine *machine, const char *path,
                        const struct snapshot_options *options, struct progress *progress,
                        struct snapshot_result *result, struct ferry_error *err)
{
    CLEANUP(atomic_file_abandon) struct atomic_file file = ATOMIC_FILE_NONE;
    uint64_t start = monotonic_ns();

    int error = target_open(&file, path, err);
    if (!error)
        error = snapshot_save_disks_fd(machine, file.fd, options, progress, result, err);
    if (!error)
        error = atomic_file_commit(&file, err);
    result->total_ns = monotonic_ns() - start;
    return error;
}
