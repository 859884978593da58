/*
 * The child says over a pipe that it is ready and what the parent is to print; its errors it prints
 * itself, as long as it has the parent's stderr, and its exit status is passed on.
 */
#include "cli/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/output.h"
#include "common/cleanup.h"
#include "common/file.h"

#define READY 'R' /* first byte on the pipe; what follows is for stdout */

static int child_failed(pid_t child, struct ferry_error *err)
{
    int status;

    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return ferry_fail_sys(err, -errno, NULL, "cannot wait for the machine's process");
    if (WIFSIGNALED(status))
        return ferry_fail(err, -ECHILD, NULL, "the machine's process was killed by signal %d",
                          WTERMSIG(status));
    ferry_fail(err, -ECHILD, NULL, "%s",
               WEXITSTATUS(status) ? "" : "the machine ended before it was ready");
    if (WEXITSTATUS(status) == FERRY_USAGE || WEXITSTATUS(status) == FERRY_REFUSED)
        err->kind = (enum ferry_error_kind)WEXITSTATUS(status);
    return err->code;
}

static int wait_for_child(pid_t child, int fd, struct ferry_error *err)
{
    char text[4096];
    bool ready = false;

    for (;;) {
        ssize_t got = read(fd, text, sizeof(text));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        size_t skip = ready ? 0 : 1;
        ready = ready || text[0] == READY;
        fwrite(text + skip, 1, (size_t)got - skip, stdout);
    }
    if (!ready)
        return child_failed(child, err);
    int error = output_flush(err);
    return error ? error : 1;
}

/* Nothing that the parent's caller holds open may live on in a daemon. */
static void close_others(int a, int b)
{
    int low = a < b ? a : b, high = a < b ? b : a;

    if (low > 3)
        close_range(3, (unsigned)low - 1, 0);
    if (high > 3 && high > low + 1)
        close_range((unsigned)(low < 3 ? 3 : low + 1), (unsigned)high - 1, 0);
    close_range((unsigned)(high < 3 ? 3 : high + 1), ~0u, 0);
}

int launch_begin(struct launch *launch, bool detach, int keep_fd, struct ferry_error *err)
{
    int ends[2];

    *launch = (struct launch){.detach = detach, .ready_fd = -1, .keep_fd = keep_fd};
    if (!detach)
        return 0;
    if (pipe2(ends, O_CLOEXEC))
        return ferry_fail_sys(err, -errno, NULL, "cannot make a pipe");
    fflush(stdout);
    pid_t child = fork();
    if (child < 0) {
        int error = -errno;
        close(ends[0]);
        close(ends[1]);
        return ferry_fail_sys(err, error, NULL, "cannot start the machine's process");
    }
    if (child) {
        close(ends[1]);
        int result = wait_for_child(child, ends[0], err);
        close(ends[0]);
        return result;
    }
    setsid();
    close(ends[0]);
    close_others(ends[1], keep_fd);
    launch->ready_fd = ends[1];
    return 0;
}

int launch_let_go(struct ferry_error *err)
{
    CLEANUP_FD int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null < 0)
        return ferry_fail_sys(err, -errno, "/dev/null", "cannot open");
    for (int fd = 0; fd <= 2; fd++)
        if (dup2(null, fd) < 0)
            return ferry_fail_sys(err, -errno, "/dev/null", "cannot use");
    return 0;
}

int launch_ready(struct launch *launch, json_t *json, const char *text, struct ferry_error *err)
{
    CLEANUP_FREE char *line = NULL;
    CLEANUP_FREE char *dumped = json ? json_dumps(json, OUTPUT_JSON_FLAGS) : NULL;
    bool is_json = json;

    json_decref(json);
    if (asprintf(&line, "%c%s\n", READY, dumped ? dumped : text) < 0) {
        line = NULL;
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    }
    if (!launch->detach && launch->quiet_stdout && !is_json) {
        if (*text)
            output_note("%s", text);
        return 0;
    }
    if (!launch->detach) {
        if (is_json || *text)
            fputs(line + 1, stdout);
        return output_flush(err);
    }
    int error = launch_let_go(err);
    if (error)
        return error;
    if (launch->keep_fd > 2)
        close(launch->keep_fd);
    /* A parent that went away does not end the machine. */
    (void)write_all(launch->ready_fd, line, strlen(line));
    close(take_fd(&launch->ready_fd));
    return 0;
}
