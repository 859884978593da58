/* The control socket's snapshot: a job that writes an image to a path or to the client's
 * descriptor. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/output.h"
#include "cli/secret_json.h"
#include "cli/vm_job.h"
#include "common/cleanup.h"
#include "common/hash.h"
#include "imagefmt/chain.h"
#include "snapshot/live_disks.h"

struct snapshot_job {
    struct vm_job job; /* first: the two are one pointer */
    char *path;        /* NULL: to fd */
    int fd;
    bool was_running;
    bool hold;       /* the guest does not go on after the image */
    bool stop;       /* and the machine ends: the image is where it should be */
    bool disks_only; /* as of one instant, while the guest goes on */
    struct snapshot_options options;
    struct image *base;
    struct image_secret secret; /* wiped when the job ends */
    struct snapshot_result result;
};

static void goes_on(void *opaque)
{
    vm_job_free_guest(opaque);
}

static int work_disks_only(struct vm_job *job, struct ferry_error *err)
{
    struct snapshot_job *s = (struct snapshot_job *)job;
    const struct boot_source *boot = &job->vm->boot;
    struct machine *machine = job->vm->machine;

    /* Files of this host, which may be gone by now. */
    s->options.kernel = boot->kernel && !access(boot->kernel, R_OK) ? boot->kernel : NULL;
    s->options.initrd =
        s->options.kernel && boot->initrd && !access(boot->initrd, R_OK) ? boot->initrd : NULL;
    s->options.goes_on = goes_on;
    s->options.opaque = job;
    if (s->path)
        return snapshot_save_disks(machine, s->path, &s->options, &job->progress, &s->result, err);
    return snapshot_save_disks_fd(machine, s->fd, &s->options, &job->progress, &s->result, err);
}

static int work(struct vm_job *job, struct ferry_error *err)
{
    struct snapshot_job *s = (struct snapshot_job *)job;
    struct machine *machine = job->vm->machine;

    if (s->hold) { /* what the guest did after the image would be lost */
        int error = machine_pause(machine, err);
        if (error)
            return error;
    }
    if (s->disks_only)
        return work_disks_only(job, err);
    if (s->path)
        return snapshot_save(machine, s->path, &s->options, &job->progress, &s->result, err);
    return snapshot_save_fd(machine, s->fd, &s->options, &job->progress, &s->result, err);
}

static json_t *result_to_json(const struct snapshot_job *s)
{
    const struct snapshot_result *result = &s->result;
    char root[2 * SHA256_BYTES + 1];

    hex_encode(result->root, SHA256_BYTES, root);
    json_t *json =
        json_pack("{s:I, s:I, s:o, s:o, s:s}", "bytes", (json_int_t)result->bytes, "content_bytes",
                  (json_int_t)result->content_bytes, "pause_ms", output_ms(result->pause_ns),
                  "total_ms", output_ms(result->total_ns), "root", root);
    if (s->disks_only)
        json_object_set_new(json, "copied_bytes", json_integer((json_int_t)result->copied_bytes));
    return json;
}

static void done(struct vm_job *job)
{
    struct snapshot_job *s = (struct snapshot_job *)job;
    struct vm *vm = job->vm;

    if (job->error) {
        vm_job_reply_error(job);
        if (s->hold && s->was_running && !vm->ending)
            (void)machine_resume(vm->machine, NULL);
        return;
    }
    control_reply(job->call, result_to_json(s));
    if (s->stop)
        vm_end(vm, NULL);
}

static void destroy(struct vm_job *job)
{
    struct snapshot_job *s = (struct snapshot_job *)job;

    if (s->fd >= 0)
        close(s->fd);
    free(s->path);
    image_close(s->base);
    image_secret_wipe(&s->secret);
    free(s);
}

/* A chunk size as it was given: one that no uint32_t can hold must not become another that can. */
static uint32_t chunk_bytes(const json_t *arguments, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(arguments, key));

    return value < 0 || value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static uint64_t store_bytes(const json_t *arguments)
{
    json_int_t value = json_integer_value(json_object_get(arguments, "store_bytes"));

    return value < 0 ? UINT64_MAX : (uint64_t)value;
}

/* What it builds on lies beside it; a sealed one has the secret of the new image. */
static int open_base(struct snapshot_job *s, const char *path, struct ferry_error *err)
{
    const struct image_environment env = {.secret = s->options.secret};

    if (!path)
        return 0;
    int error = image_open_path(path, &env, &s->base, err);
    s->options.base = s->base;
    return error;
}

static int read_arguments(struct snapshot_job *s, struct control_call *call,
                          struct ferry_error *err)
{
    const json_t *arguments = control_arguments(call);
    const char *path = json_string_value(json_object_get(arguments, "file"));

    s->fd = control_take_fd(call);
    s->stop = json_is_true(json_object_get(arguments, "stop"));
    s->hold = s->stop || json_is_true(json_object_get(arguments, "hold"));
    s->disks_only = json_is_true(json_object_get(arguments, "disks_only"));
    s->options.store_bytes = store_bytes(arguments);
    s->options.no_disks = json_is_true(json_object_get(arguments, "no_disks"));
    s->options.level = (int)json_integer_value(json_object_get(arguments, "level"));
    s->options.ram_chunk_bytes = chunk_bytes(arguments, "ram_chunk_bytes");
    s->options.disk_chunk_bytes = chunk_bytes(arguments, "disk_chunk_bytes");
    int error = secret_from_json(json_object_get(arguments, "secret"), &s->secret, err);
    if (error)
        return error;
    s->options.secret = s->secret.kind ? &s->secret : NULL;
    error = open_base(s, json_string_value(json_object_get(arguments, "base")), err);
    if (error)
        return error;
    if (s->disks_only && (s->hold || s->options.no_disks || s->options.ram_chunk_bytes))
        return ferry_usage(err, "snapshot",
                           "of disks alone the guest goes on, and there is no memory in it");
    if (!path == (s->fd < 0) || (path && *path != '/'))
        return ferry_usage(err, "snapshot", "wants an absolute file or a descriptor sent along");
    if (path && !(s->path = strdup(path)))
        return ferry_fail(err, -ENOMEM, "snapshot", "out of memory");
    return 0;
}

void vm_snapshot_command(struct control_call *call, void *opaque)
{
    struct vm *vm = opaque;
    struct ferry_error err;

    if (vm_is_free(vm, &err)) {
        control_reply_error(call, &err);
        return;
    }
    struct snapshot_job *s = calloc(1, sizeof(*s));
    if (!s) {
        ferry_fail(&err, -ENOMEM, "snapshot", "out of memory");
        control_reply_error(call, &err);
        return;
    }
    s->job = (struct vm_job){.name = "snapshot",
                             .guest_may_stop = true,
                             .work = work,
                             .done = done,
                             .destroy = destroy,
                             .call = call};
    int error = read_arguments(s, call, &err);
    s->was_running = machine_is_running(vm->machine);
    if (!error)
        error = vm_job_start(vm, &s->job, &err);
    if (error) {
        destroy(&s->job);
        control_reply_error(call, &err);
    }
}
