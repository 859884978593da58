/*
 * ferry restore: an image becomes a running machine.  Disks that the image holds are written to new
 * files that get their names only when all of the image has turned out whole; a file that had the
 * name (--overwrite) is held locked until then, so that no other machine loses its disk.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/disks.h"
#include "cli/image_file.h"
#include "cli/launch.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "cli/vm.h"
#include "cli/vm_moves.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/units.h"
#include "migrate/ticket.h"
#include "snapshot/snapshot.h"

#define FIRST_INSTRUCTION_WAIT_NS UINT64_C(2000000000)

struct restore_options {
    const char *file;
    const char *name;
    struct option_strings disks;
    const char *serial;
    const char *kernel;
    const char *initrd;
    bool overwrite;
    bool clone;
    bool detach;
    bool paused;
    bool json;
    struct image_file_options image;
    struct progress_options progress;
};

struct restored_disk {
    struct atomic_file file; /* fd -1: the disk is used as it is */
    struct block *old;       /* the file it replaces, locked; NULL: none */
    char *created;           /* path of a file that was not there before; NULL: none */
    bool named;              /* created has its name */
};

struct restore {
    const struct restore_options *options;
    struct vm *vm;
    struct disk_places places;
    struct restored_disk disks[LIMIT_DISKS];
    uint64_t started_ns;
    struct progress progress;
    struct progress_view view;
    struct restore_result result;
    struct image_file_environment environment;
};

/* ---- Disks ---- */

static int disk_path(const struct restore *r, const char *device, bool in_image, char *path,
                     size_t size, struct ferry_error *err)
{
    const char *given = disk_places_find(&r->places, device);
    int length;

    if (!given && !in_image)
        return ferry_usage(err, "restore",
                           "the image does not hold disk %s; name its file: --disk %s=FILE", device,
                           device);
    if (!given && !strcmp(r->options->file, "-"))
        return ferry_usage(err, "restore", "where shall disk %s go?  Say --disk %s=FILE", device,
                           device);
    length = given ? snprintf(path, size, "%s", given)
                   : snprintf(path, size, "%s.%s.raw", r->options->file, device);
    if (length < 0 || (size_t)length >= size)
        return ferry_usage(err, "--disk", "the file name is too long");
    return 0;
}

/* The file that is there already: may it be replaced, and is it nobody's disk now? */
static int hold_old_file(const struct restore *r, const char *path, struct restored_disk *disk,
                         struct ferry_error *err)
{
    if (!r->options->overwrite)
        return ferry_fail(err, -EEXIST, path,
                          "exists already; --overwrite rolls it back, --disk names another file");
    int error = raw_file_open(path, false, 0, false, &disk->old, err);
    if (error)
        return error;
    return disk->old->ops->activate(disk->old, err);
}

static int open_disk(struct restore *r, const struct disk_config *config, bool in_image,
                     struct restored_disk *disk, struct block **block, struct ferry_error *err)
{
    char path[LIMIT_PATH_BYTES];
    struct stat st;

    int error = disk_path(r, config->device, in_image, path, sizeof(path), err);
    if (error)
        return error;
    bool exists = !lstat(path, &st);
    if (in_image && exists)
        error = hold_old_file(r, path, disk, err);
    else if (in_image && !(disk->created = strdup(path)))
        error = ferry_fail(err, -ENOMEM, NULL, "out of memory");
    if (!error && in_image)
        error = atomic_file_open(&disk->file, path, err);
    disk->file.fresh = !exists; /* who has taken the name meanwhile keeps it */
    if (!error)
        error = raw_file_open(path, config->readonly, config->size_bytes, in_image, block, err);
    return error;
}

/* The image is whole: the disks get their names. */
static int commit_disks(struct restore *r, struct ferry_error *err)
{
    for (size_t i = 0; i < LIMIT_DISKS; i++) {
        struct restored_disk *disk = &r->disks[i];
        int error = disk->file.fd >= 0 ? atomic_file_commit(&disk->file, err) : 0;
        if (error)
            return error;
        disk->named = true;
        if (disk->old)
            disk->old->ops->close(take_ptr(&disk->old));
    }
    return 0;
}

/* keep: the machine lives, and so do its disks. */
static void release_disks(struct restore *r, bool keep)
{
    for (size_t i = 0; i < LIMIT_DISKS; i++) {
        struct restored_disk *disk = &r->disks[i];
        atomic_file_abandon(&disk->file);
        if (disk->old)
            disk->old->ops->close(take_ptr(&disk->old));
        if (disk->created && disk->named && !keep)
            unlink(disk->created);
        free(take_ptr(&disk->created));
    }
}

/* ---- The machine ---- */

/* A move of this machine that nobody has settled: it may run on the other side. */
static int check_tickets(struct vm *vm, const struct machine_config *config,
                         struct ferry_error *err)
{
    struct ticket_record record;

    if (ticket_find(vm_tickets(vm), config->vm_id, TICKET_SOURCE, &record, NULL) ||
        record.state != TICKET_HANDOVER)
        return 0;
    return ferry_refuse(err, -EBUSY, config->name,
                        "a move of this machine to %s is in doubt; settle it by 'ferry resolve "
                        "%s', or give --clone",
                        record.peer_uri, record.name);
}

static int decide_identity(const struct restore_options *o, struct machine_config *config,
                           struct ferry_error *err)
{
    if (o->name)
        snprintf(config->name, sizeof(config->name), "%s", o->name);
    if (!o->clone)
        return 0;
    config->epoch = 1;
    if (getrandom(config->vm_id, sizeof(config->vm_id), 0) != sizeof(config->vm_id))
        return ferry_fail_sys(err, -errno, "--clone", "cannot make an identity");
    return 0;
}

static int create(void *opaque, struct machine_config *config, const bool *disk_in_image,
                  struct machine **out, struct ferry_error *err)
{
    struct restore *r = opaque;
    CLEANUP(disks_close_cleanup) struct block *blocks[LIMIT_DISKS] = {NULL};

    int error = decide_identity(r->options, config, err);
    if (!error)
        error = check_tickets(r->vm, config, err);
    if (!error)
        error = disk_places_check(&r->places, config, err);
    for (uint32_t i = 0; i < config->disk_count && !error; i++)
        error = open_disk(r, &config->disks[i], disk_in_image[i], &r->disks[i], &blocks[i], err);
    if (error)
        return error;
    return vm_make_machine(r->vm, config, blocks, r->options->serial, true, out, err);
}

static int disk_fd(void *opaque, uint32_t index, int *fd, struct ferry_error *err)
{
    const struct restore *r = opaque;

    (void)err;
    *fd = r->disks[index].file.fd;
    return 0;
}

static void show(void *opaque, const struct progress_report *report)
{
    progress_view_show(opaque, report);
}

static int load(struct restore *r, int fd, struct machine **out, struct ferry_error *err)
{
    const struct snapshot_host host = {.opaque = r, .create = create, .disk = disk_fd};

    r->progress.report = show;
    r->progress.opaque = &r->view;
    signals_cancel(&r->progress);
    int error = snapshot_load(fd, image_file_about(r->options->file), &r->environment.env, &host,
                              &r->progress, out, &r->result, err);
    signals_cancel(NULL);
    image_file_environment_close(&r->environment);
    progress_view_end(&r->view);
    return error;
}

static int bring_to_life(struct restore *r, struct machine *machine, struct ferry_error *err)
{
    struct vm *vm = r->vm;

    vm_adopt(vm, machine);
    vm_set_boot(vm, r->options->kernel, r->options->initrd);
    int error = commit_disks(r, err);
    if (!error)
        error = machine_activate_disks(machine, err);
    if (!error)
        error = vm_serve(vm, err);
    if (!error && !r->options->paused)
        error = machine_resume(machine, err);
    uint64_t deadline = monotonic_ns() + FIRST_INSTRUCTION_WAIT_NS;
    while (!error && !r->options->paused && !machine_resumed_at_ns(machine) &&
           monotonic_ns() < deadline)
        usleep(50);
    return error;
}

/* ---- The command ---- */

static json_t *to_json(const struct restore *r)
{
    const struct restore_result *result = &r->result;
    uint64_t first = machine_resumed_at_ns(r->vm->machine);
    char root[2 * SHA256_BYTES + 1];

    hex_encode(result->root, SHA256_BYTES, root);
    return json_pack("{s:s, s:i, s:s, s:I, s:o, s:o, s:o, s:I, s:I, s:s}", "name", r->vm->dir.name,
                     "pid", (int)getpid(), "state", vm_state(r->vm), "epoch",
                     (json_int_t)machine_config(r->vm->machine)->epoch, "first_instruction_ms",
                     first ? output_ms(first - r->started_ns) : json_null(), "load_ms",
                     output_ms(result->load_ns), "total_ms",
                     output_ms(monotonic_ns() - r->started_ns), "bytes", (json_int_t)result->bytes,
                     "content_bytes", (json_int_t)result->content_bytes, "root", root);
}

static void to_text(const struct restore *r, char *text, size_t size)
{
    uint64_t first = machine_resumed_at_ns(r->vm->machine);
    char time[32];

    if (first)
        snprintf(text, size, "%s: running again after %s", r->vm->dir.name,
                 format_duration(first - r->started_ns, time, sizeof(time)));
    else
        snprintf(text, size, "%s: restored, paused", r->vm->dir.name);
}

static int serve(struct restore *r, int fd, struct launch *launch, struct ferry_error *err)
{
    struct machine *machine = NULL;
    char text[160];

    int error = load(r, fd, &machine, err);
    if (!error)
        error = bring_to_life(r, machine, err);
    release_disks(r, !error);
    if (error)
        return error;
    launch->quiet_stdout = !strcmp(r->options->serial, "stdio");
    to_text(r, text, sizeof(text));
    error = launch_ready(launch, r->options->json ? to_json(r) : NULL, text, err);
    return error ? error : vm_run(r->vm, err);
}

static int run(void *parsed, struct ferry_error *err)
{
    struct restore_options *o = parsed;
    CLEANUP_FREE struct restore *r = calloc(1, sizeof(*r));
    CLEANUP(vm_cleanup) struct vm *vm = NULL;
    struct launch launch;

    if (!r)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    if (!o->serial)
        o->serial = o->detach ? "none" : "stdio";
    r->options = o;
    r->started_ns = monotonic_ns();
    for (size_t i = 0; i < LIMIT_DISKS; i++)
        r->disks[i].file = ATOMIC_FILE_NONE;
    int error = vm_serial_check(o->serial, err);
    if (!error)
        error = disk_places_parse(&o->disks, &r->places, err);
    if (!error)
        error = progress_view_init(&r->view, &o->progress, err);
    if (!error)
        error = image_file_environment_open(&o->image, &r->environment, err);
    if (!error)
        error = launch_begin(&launch, o->detach, o->progress.fd ? r->view.fd : -1, err);
    if (error)
        return error < 0 ? error : 0;
    CLEANUP_FD int fd = image_file_open("restore", o->file, err);
    if (fd < 0)
        return fd;
    error = vm_create(&vm, err);
    if (error)
        return error;
    vm->foreground = !o->detach;
    r->vm = vm;
    return serve(r, fd, &launch, err);
}

static const struct option_spec options[] = {
    OPTION("name", "NAME", OPTION_STRING, struct restore_options, name,
           "another name than the one in the image"),
    OPTION("disk", "DEV=FILE", OPTION_STRINGS, struct restore_options, disks,
           "where the content of disk DEV goes (default: the image's\n"
           "name with .DEV.raw), or the file of a disk that is not in\nthe image"),
    OPTION("overwrite", NULL, OPTION_FLAG, struct restore_options, overwrite,
           "replace disk files that exist: roll them back"),
    OPTION("clone", NULL, OPTION_FLAG, struct restore_options, clone,
           "a second machine with an identity of its own"),
    OPTION("serial", "WHERE", OPTION_STRING, struct restore_options, serial,
           "COM1: stdio, file:PATH or none (default: stdio; none with\n--detach)"),
    OPTION("kernel", "FILE", OPTION_STRING, struct restore_options, kernel,
           "what to boot when the guest asks for a reset (default: the\nmachine ends then)"),
    OPTION("initrd", "FILE", OPTION_STRING, struct restore_options, initrd,
           "initial RAM disk for --kernel"),
    OPTION("detach", NULL, OPTION_FLAG, struct restore_options, detach,
           "go to the background once the guest runs"),
    OPTION("paused", NULL, OPTION_FLAG, struct restore_options, paused,
           "do not run the guest yet (ferry resume)"),
    OPTION("json", NULL, OPTION_FLAG, struct restore_options, json, "print JSON"),
    IMAGE_FILE_OPTIONS(struct restore_options, image),
    PROGRESS_OPTIONS(struct restore_options, progress),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("FILE", struct restore_options, file, "the image; '-' for stdin"),
    {.name = NULL},
};

const struct command command_restore = {
    .name = "restore",
    .summary = "Run a machine from an image",
    .details = "Every sum of the image is checked before the guest runs.  A machine that is still\n"
               "alive on this host is not run a second time without --clone.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct restore_options),
    .run = run,
};
