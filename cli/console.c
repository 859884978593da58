/* ferry console: this terminal as COM1 of a machine. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "common/cleanup.h"
#include "common/file.h"

#define ANSWER_MS  10000
#define DETACH_KEY 0x1d /* Ctrl-], as virsh has it */

struct console_options {
    const char *name;
    bool log;
};

/* From the guest to stdout.  0: it is over. */
static int from_guest(int fd)
{
    char data[4096];
    ssize_t got = read(fd, data, sizeof(data));

    if (got < 0)
        return errno == EINTR || errno == EAGAIN;
    return got > 0 && !write_all(STDOUT_FILENO, data, (size_t)got);
}

/* From stdin to the guest.  0: detach; *open is cleared at the end of stdin. */
static int to_guest(int fd, bool *open)
{
    char data[1024];
    ssize_t got = read(STDIN_FILENO, data, sizeof(data));

    if (got < 0 && (errno == EINTR || errno == EAGAIN))
        return 1;
    if (got <= 0) {
        *open = false;
        return 1;
    }
    const char *key = memchr(data, DETACH_KEY, (size_t)got);
    size_t size = key ? (size_t)(key - data) : (size_t)got;
    if (send(fd, data, size, MSG_NOSIGNAL) < 0)
        return 0;
    return !key;
}

static void pump(int fd, bool with_input)
{
    struct pollfd both[] = {{.fd = fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};

    for (;;) {
        both[1].fd = with_input ? STDIN_FILENO : -1;
        if (poll(both, 2, -1) < 0 && errno != EINTR)
            return;
        if (both[0].revents && !from_guest(fd))
            return;
        if (both[1].revents && !to_guest(fd, &with_input))
            return;
    }
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct console_options *o = parsed;
    CLEANUP(client_close) struct client client = CLIENT_NONE;
    int ends[2];

    int error = client_connect(o->name, &client, err);
    if (error)
        return error;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        return ferry_fail_sys(err, -errno, "console", "cannot make a socket");
    CLEANUP_FD int ours = ends[0];
    error = client_call(&client, "console", json_pack("{s:b}", "log", o->log), ends[1], NULL,
                        ANSWER_MS, NULL, err);
    close(ends[1]);
    if (error)
        return error;
    if (!o->log && isatty(STDIN_FILENO)) {
        output_note("attached to %s; Ctrl-] leaves it", o->name);
        terminal_raw();
    }
    pump(ours, !o->log);
    terminal_restore();
    return 0;
}

static const struct option_spec options[] = {
    OPTION("log", NULL, OPTION_FLAG, struct console_options, log,
           "print what the guest printed lately (64 KiB at most), and\nleave"),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("NAME", struct console_options, name, "the machine"),
    {.name = NULL},
};

const struct command command_console = {
    .name = "console",
    .summary = "Attach to the serial port of a machine",
    .details = "Begins with what the guest printed lately.  Ctrl-] leaves the machine to itself.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct console_options),
    .run = run,
};
