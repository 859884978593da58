/*
 * Arriving.  The job runs migrate_in; when HELLO has been read it makes the machine (all reasons
 * against it are collected first), and the control socket is served from then on, with the state
 * "incoming".
 */
#include "cli/vm_receive.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/output.h"
#include "cli/vm_job.h"
#include "cli/vm_moves.h"
#include "common/cleanup.h"

struct receive_job {
    struct vm_job job; /* first: the two are one pointer */
    const struct receive_choice *choice;
    struct stream *stream;
    struct machine *machine;
    struct receive_result result;
    receive_done tell;
    void *opaque;
};

/* ---- Reasons against it ---- */

struct reasons {
    char text[sizeof(((struct ferry_error *)0)->message)];
    size_t length;
    unsigned count;
};

static void add_reason(struct reasons *reasons, const struct ferry_error *err)
{
    char text[512];
    int put =
        snprintf(reasons->text + reasons->length, sizeof(reasons->text) - reasons->length, "%s%s",
                 reasons->count ? "; " : "", ferry_error_text(err, text, sizeof(text)));

    reasons->length += put > 0 ? (size_t)put : 0;
    if (reasons->length >= sizeof(reasons->text))
        reasons->length = sizeof(reasons->text) - 1;
    reasons->count++;
}

static int open_disk(const struct receive_choice *choice, const struct disk_config *disk,
                     struct block **block, struct ferry_error *err)
{
    const char *given = disk_places_find(&choice->disks, disk->device);
    char path[LIMIT_PATH_BYTES];
    int length;

    if (!given && !choice->disk_dir)
        return ferry_refuse(err, -ENOENT, disk->device,
                            "its file is not known here; receive with --disk %s=FILE or "
                            "--disk-dir DIR",
                            disk->device);
    if (!given && !disk_file_name_valid(disk->file_name))
        return ferry_refuse(err, -EINVAL, disk->device,
                            "its file has no usable name; receive "
                            "with --disk %s=FILE",
                            disk->device);
    length = given ? snprintf(path, sizeof(path), "%s", given)
                   : snprintf(path, sizeof(path), "%s/%s", choice->disk_dir, disk->file_name);
    if (length < 0 || (size_t)length >= sizeof(path))
        return ferry_refuse(err, -ENAMETOOLONG, disk->device, "the name of its file is too long");
    return raw_file_open(path, disk->readonly, disk->size_bytes, false, block, err);
}

static int open_disks(const struct receive_choice *choice, const struct machine_config *config,
                      struct block *blocks[LIMIT_DISKS], struct ferry_error *err)
{
    struct reasons reasons = {.count = 0};
    struct ferry_error one;

    if (disk_places_check(&choice->disks, config, &one))
        add_reason(&reasons, &one);
    if (!machine_name_valid(config->name) || machine_is_alive(config->name)) {
        ferry_refuse(&one, -EEXIST, config->name,
                     "a machine of this name is running here already; receive with --name");
        add_reason(&reasons, &one);
    }
    for (uint32_t i = 0; i < config->disk_count; i++)
        if (open_disk(choice, &config->disks[i], &blocks[i], &one))
            add_reason(&reasons, &one);
    return reasons.count ? ferry_refuse(err, -EINVAL, NULL, "%s", reasons.text) : 0;
}

/* ---- The job ---- */

static void serve_incoming(void *opaque)
{
    struct vm *vm = opaque;
    struct ferry_error err;

    if (!vm->control && !vm->ending && vm->dir.path && vm_serve(vm, &err))
        output_note("%s: %s", err.about, err.message); /* it lives without */
}

static int create(void *opaque, struct machine_config *config, struct machine **out,
                  struct ferry_error *err)
{
    struct receive_job *r = opaque;
    struct vm *vm = r->job.vm;
    CLEANUP(disks_close_cleanup) struct block *blocks[LIMIT_DISKS] = {NULL};

    if (r->choice->name)
        snprintf(config->name, sizeof(config->name), "%s", r->choice->name);
    int error = open_disks(r->choice, config, blocks, err);
    if (!error)
        error = vm_make_machine(vm, config, blocks, r->choice->serial, false, out, err);
    if (!error)
        (void)loop_post(vm->loop, serve_incoming, vm);
    return error;
}

static int work(struct vm_job *job, struct ferry_error *err)
{
    struct receive_job *r = (struct receive_job *)job;
    const struct receive_host host = {
        .opaque = r, .create = create, .tickets = vm_tickets(job->vm), .log = output_log()};

    return migrate_in(r->stream, &host, &job->progress, &r->machine, &r->result, err);
}

/* Back to what it was before somebody knocked. */
static void forget(struct vm *vm)
{
    if (vm->control)
        control_close(vm->control);
    machine_dir_release(&vm->dir);
    vm_serial_destroy(take_ptr(&vm->serial));
    control_destroy(take_ptr(&vm->control));
    atomic_store(&vm->guest_events, 0);
}

static void done(struct vm_job *job)
{
    struct receive_job *r = (struct receive_job *)job;
    struct vm *vm = job->vm;

    if (!job->error && r->machine) {
        vm_adopt(vm, r->machine);
        vm_set_boot(vm, r->choice->kernel, r->choice->initrd);
        serve_incoming(vm); /* unless the post was quicker */
    } else {
        forget(vm);
    }
    r->tell(r->opaque, job->error, &job->err, &r->result);
}

static void destroy(struct vm_job *job)
{
    struct receive_job *r = (struct receive_job *)job;

    stream_close(r->stream);
    free(r);
}

int vm_receive_start(struct vm *vm, const struct receive_choice *choice, struct stream *stream,
                     receive_done tell, void *opaque, struct ferry_error *err)
{
    struct receive_job *r = calloc(1, sizeof(*r));

    if (!r) {
        stream_close(stream);
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    }
    r->job = (struct vm_job){.name = "move to here",
                             .guest_may_stop = true,
                             .work = work,
                             .done = done,
                             .destroy = destroy};
    r->choice = choice;
    r->stream = stream;
    r->tell = tell;
    r->opaque = opaque;
    int error = vm_job_start(vm, &r->job, err);
    if (error)
        destroy(&r->job);
    return error;
}
