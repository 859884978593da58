/*
 * The machine's process writes the image into a pipe; a thread here waits for its answer, and then
 * closes this process's copy of the pipe's end, so that the reader sees the end of the image, or of
 * what there was of it.
 */
#include "cli/running_disks.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "cli/runtime_dir.h"
#include "common/cleanup.h"
#include "vmm/config.h"

#define LEVEL (-20) /* of zstd: it is inflated again at once */

static void *wait_for_answer(void *opaque)
{
    struct running_disks *d = opaque;
    json_t *arguments = json_pack("{s:b, s:i}", "disks_only", 1, "level", LEVEL);

    d->error = client_call(&d->client, "snapshot", arguments, d->write_fd, NULL, -1, NULL, &d->err);
    close(take_fd(&d->write_fd));
    return NULL;
}

int running_disks_find(const char *name, bool *running, struct ferry_error *err)
{
    *running = machine_name_valid(name) && machine_is_alive(name);
    return *running && !access(name, F_OK)
               ? ferry_usage(err, name,
                             "is a running machine, and a file here: say ./%s for the file", name)
               : 0;
}

int running_disks_open(const char *name, struct running_disks *out, struct ferry_error *err)
{
    int ends[2];

    *out = RUNNING_DISKS_NONE;
    int error = client_connect(name, &out->client, err);
    if (error)
        return error;
    if (pipe2(ends, O_CLOEXEC))
        error = ferry_fail_sys(err, -errno, name, "cannot make a pipe");
    if (!error) {
        out->read_fd = ends[0];
        out->write_fd = ends[1];
        error = -pthread_create(&out->thread, NULL, wait_for_answer, out);
        if (error)
            ferry_fail_sys(err, error, name, "cannot start a thread");
    }
    out->started = !error;
    if (error)
        running_disks_close(out);
    return error;
}

int running_disks_finish(struct running_disks *disks, struct ferry_error *err)
{
    if (disks->started)
        pthread_join(disks->thread, NULL);
    disks->started = false;
    if (disks->error && err)
        *err = disks->err;
    return disks->error;
}

int running_disks_explain(struct running_disks *disks, int error, struct ferry_error *err)
{
    struct ferry_error answer;

    close(take_fd(&disks->read_fd)); /* it may wait for us to read */
    int answered = running_disks_finish(disks, &answer);
    if (!answered || answered == -EPIPE)
        return error;
    *err = answer;
    return answered;
}

void running_disks_close(struct running_disks *disks)
{
    cleanup_fd_fn(&disks->read_fd); /* the machine's next write fails, and with it the job */
    (void)running_disks_finish(disks, NULL);
    cleanup_fd_fn(&disks->write_fd);
    client_close(&disks->client);
    *disks = RUNNING_DISKS_NONE;
}
