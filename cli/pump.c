/* Copying a pipe to stdout, without looking at the bytes where the kernel can do that. */
#include "cli/pump.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"

#define PIPE_BYTES (1 << 20)

/* By read and write, for what splice(2) does not take.  1: some, 0: the end. */
static int copy_some(int from)
{
    char data[65536];
    ssize_t got = read(from, data, sizeof(data));

    if (got < 0)
        return errno == EINTR ? 1 : -errno;
    int error = write_all(STDOUT_FILENO, data, (size_t)got);
    return error ? error : got > 0;
}

static int splice_some(int from)
{
    ssize_t moved = splice(from, NULL, STDOUT_FILENO, NULL, PIPE_BYTES, 0);

    if (moved < 0 && errno == EINVAL)
        return copy_some(from);
    if (moved < 0)
        return errno == EINTR ? 1 : -errno;
    return moved > 0;
}

static void *run(void *opaque)
{
    struct pump *pump = opaque;
    int more;

    do
        more = splice_some(pump->read_fd);
    while (more > 0);
    pump->error = more;
    close(take_fd(&pump->read_fd)); /* after an error the writer gets EPIPE */
    return NULL;
}

int pump_start(struct pump *pump, struct ferry_error *err)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC))
        return ferry_fail_sys(err, -errno, NULL, "cannot make a pipe");
    (void)fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES); /* only for speed */
    *pump = (struct pump){.read_fd = ends[0], .write_fd = ends[1]};
    int error = -pthread_create(&pump->thread, NULL, run, pump);
    if (error) {
        close(ends[0]);
        close(ends[1]);
        *pump = PUMP_NONE;
        return ferry_fail_sys(err, error, NULL, "cannot start a thread");
    }
    return 0;
}

int pump_finish(struct pump *pump, struct ferry_error *err)
{
    if (pump->write_fd < 0)
        return 0;
    close(take_fd(&pump->write_fd));
    pthread_join(pump->thread, NULL);
    return pump->error ? ferry_fail_sys(err, pump->error, "standard output", "cannot write") : 0;
}

void pump_cleanup(struct pump *pump)
{
    (void)pump_finish(pump, NULL);
}
