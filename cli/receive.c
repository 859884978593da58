/*
 * ferry receive: wait for machines that move here.  Without --once this process only listens, and
 * every connection gets a child: a question is answered and the child is done, a machine arrives
 * and the child becomes its process.  With --once this process becomes the one machine that
 * arrives, and goes on answering until its source has let go.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/launch.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "cli/vm_receive.h"
#include "common/cleanup.h"
#include "common/units.h"

struct receive_options {
    const char *uri;
    const char *name;
    struct option_strings disks;
    const char *disk_dir;
    const char *serial;
    const char *kernel;
    const char *initrd;
    bool once;
    bool insecure;
    bool detach;
    bool json;
};

struct receive {
    const struct receive_options *options;
    struct receive_choice choice;
    struct listener *listener;
    struct vm *vm;
};

/* ---- What is told ---- */

static void tell_arrival(const struct receive *r, const struct receive_result *result)
{
    const char *name = r->vm->dir.name;
    char time[32], bytes[32];

    if (r->options->json) {
        (void)output_json(json_pack("{s:s, s:s, s:i, s:I, s:o, s:I}", "event", "arrived", "name",
                                    name, "pid", (int)getpid(), "epoch", (json_int_t)result->epoch,
                                    "total_ms", output_ms(result->total_ns), "bytes_received",
                                    (json_int_t)result->bytes_received),
                          NULL);
        return;
    }
    output_note("%s: arrived in %s, %s received", name,
                format_duration(result->total_ns, time, sizeof(time)),
                format_size(result->bytes_received, bytes, sizeof(bytes)));
}

/* ---- One machine in this process ---- */

static void wait_for_one(struct receive *r);

/* --once: refused is refused, but a source that was cut off comes again or asks. */
static void one_is_done(void *opaque, int error, const struct ferry_error *err,
                        const struct receive_result *result)
{
    struct receive *r = opaque;

    if (!error && !result->answered_only) {
        tell_arrival(r, result);
        if (result->source_released)
            listener_close(take_ptr(&r->listener));
        else
            (void)vm_answer_start(r->vm, take_ptr(&r->listener), NULL);
        return;
    }
    if (error && err->kind == FERRY_REFUSED) {
        vm_end(r->vm, err);
        return;
    }
    if (error)
        output_error(err);
    wait_for_one(r);
}

static void somebody_comes(void *opaque, uint32_t events)
{
    struct receive *r = opaque;
    struct ferry_error err;
    struct stream *stream;

    (void)events;
    if (listener_accept(r->listener, &stream, &err)) {
        output_error(&err);
        return;
    }
    loop_remove(r->vm->loop, listener_fd(r->listener));
    if (vm_receive_start(r->vm, &r->choice, stream, one_is_done, r, &err))
        vm_end(r->vm, &err);
}

static void wait_for_one(struct receive *r)
{
    int error = loop_add(r->vm->loop, listener_fd(r->listener), EPOLLIN, somebody_comes, r);
    struct ferry_error err;

    if (!error)
        return;
    ferry_fail_sys(&err, error, listener_uri(r->listener), "cannot wait for connections");
    vm_end(r->vm, &err);
}

/* ---- Many machines, each in a child ---- */

static void child_is_done(void *opaque, int error, const struct ferry_error *err,
                          const struct receive_result *result)
{
    struct receive *r = opaque;

    if (error || result->answered_only) {
        vm_end(r->vm, error ? err : NULL);
        return;
    }
    tell_arrival(r, result);
    (void)launch_let_go(NULL); /* the machine outlives its receiver */
}

static int run_child(struct receive *r, struct stream *stream, struct ferry_error *err)
{
    CLEANUP(vm_cleanup) struct vm *vm = NULL;

    signal(SIGCHLD, SIG_DFL);
    setsid();
    listener_drop(take_ptr(&r->listener));
    int error = vm_create(&vm, err);
    if (error) {
        stream_close(stream);
        return error;
    }
    r->vm = vm;
    error = vm_receive_start(vm, &r->choice, stream, child_is_done, r, err);
    return error ? error : vm_run(vm, err);
}

static int serve_many(struct receive *r, struct ferry_error *err)
{
    struct pollfd wait[] = {{.fd = signals_fd(), .events = POLLIN},
                            {.fd = listener_fd(r->listener), .events = POLLIN}};

    signal(SIGCHLD, SIG_IGN); /* children are nobody's to wait for */
    while (!signals_came()) {
        struct stream *stream;
        if (poll(wait, 2, -1) < 0 || !(wait[1].revents & POLLIN))
            continue;
        if (listener_accept(r->listener, &stream, err)) {
            output_error(err);
            usleep(100000); /* no descriptors, perhaps: do not spin */
            continue;
        }
        pid_t child = fork();
        if (!child)
            return run_child(r, stream, err);
        if (child < 0)
            output_note("cannot start a process for a connection (%s)", strerror(errno));
        stream_close(stream);
    }
    return 0;
}

/* ---- The command ---- */

static int open_listener(struct receive *r, struct ferry_error *err)
{
    CLEANUP_FREE char *base = NULL;
    CLEANUP_FREE char *own = NULL;

    if (r->options->uri)
        return listener_open(r->options->uri, r->options->insecure, &r->listener, err);
    int error = runtime_base(&base, err);
    if (error)
        return error;
    if (asprintf(&own, "unix:%s/.receive.sock", base) < 0) {
        own = NULL;
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    }
    return listener_open(own, false, &r->listener, err);
}

static int listening(struct receive *r, struct launch *launch, struct ferry_error *err)
{
    const char *uri = listener_uri(r->listener);

    return launch_ready(
        launch, r->options->json ? json_pack("{s:s, s:s}", "event", "listening", "uri", uri) : NULL,
        uri, err);
}

static int serve_one(struct receive *r, struct launch *launch, struct ferry_error *err)
{
    CLEANUP(vm_cleanup) struct vm *vm = NULL;

    int error = vm_create(&vm, err);
    if (error)
        return error;
    r->vm = vm;
    vm->foreground = !r->options->detach;
    wait_for_one(r);
    error = listening(r, launch, err);
    return error ? error : vm_run(vm, err);
}

static int check(struct receive *r, struct ferry_error *err)
{
    const struct receive_options *o = r->options;

    if (o->name && !machine_name_valid(o->name))
        return ferry_usage(err, "--name", "'%.80s' is not a name of a machine", o->name);
    if (o->name && !o->once)
        return ferry_usage(err, "--name", "names one machine: it needs --once");
    if (!o->once && !strcmp(r->choice.serial, "stdio"))
        return ferry_usage(err, "--serial", "stdio is for one machine: it needs --once");
    if (o->once && o->detach && !strcmp(r->choice.serial, "stdio"))
        return ferry_usage(err, "--serial", "a detached machine has no stdio");
    if (o->disk_dir && access(o->disk_dir, X_OK))
        return ferry_fail_sys(err, -errno, o->disk_dir, "cannot use the folder of disks");
    return vm_serial_check(r->choice.serial, err);
}

static void close_listener(struct receive *r)
{
    listener_close(take_ptr(&r->listener));
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct receive_options *o = parsed;
    CLEANUP(close_listener) struct receive r = {.options = o};
    struct launch launch;

    r.choice = (struct receive_choice){.name = o->name,
                                       .serial = o->serial               ? o->serial
                                                 : o->once && !o->detach ? "stdio"
                                                                         : "none",
                                       .kernel = o->kernel,
                                       .initrd = o->initrd,
                                       .disk_dir = o->disk_dir};
    int error = check(&r, err);
    if (!error)
        error = disk_places_parse(&o->disks, &r.choice.disks, err);
    if (!error)
        error = launch_begin(&launch, o->detach, -1, err);
    if (error)
        return error < 0 ? error : 0;
    error = open_listener(&r, err);
    if (error)
        return error;
    if (o->once)
        return serve_one(&r, &launch, err);
    error = signals_setup(err);
    if (!error)
        error = listening(&r, &launch, err);
    return error ? error : serve_many(&r, err);
}

static const struct option_spec options[] = {
    OPTION("once", NULL, OPTION_FLAG, struct receive_options, once,
           "become the one machine that arrives"),
    OPTION("name", "NAME", OPTION_STRING, struct receive_options, name,
           "another name than the machine's own (with --once)"),
    OPTION("disk", "DEV=FILE", OPTION_STRINGS, struct receive_options, disks,
           "the file of disk DEV on this host"),
    OPTION("disk-dir", "DIR", OPTION_STRING, struct receive_options, disk_dir,
           "look for disks here, by the name their file has at the\nsource"),
    OPTION("serial", "WHERE", OPTION_STRING, struct receive_options, serial,
           "COM1: stdio, file:PATH (%n: the machine's name) or none\n"
           "(default: none; stdio with --once, not detached)"),
    OPTION("kernel", "FILE", OPTION_STRING, struct receive_options, kernel,
           "what to boot when a guest asks for a reset (default: the\nmachine ends then)"),
    OPTION("initrd", "FILE", OPTION_STRING, struct receive_options, initrd,
           "initial RAM disk for --kernel"),
    OPTION("insecure", NULL, OPTION_FLAG, struct receive_options, insecure,
           "allow tcp:// beyond this host: nothing is encrypted, and\nanybody may send a machine"),
    OPTION("detach", NULL, OPTION_FLAG, struct receive_options, detach,
           "go to the background once it listens"),
    OPTION("json", NULL, OPTION_FLAG, struct receive_options, json,
           "print JSON lines: listening, arrived"),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPTIONAL_OPERAND("URI", struct receive_options, uri,
                     "where to listen: unix:PATH or tcp://HOST:PORT, port 0 for any\n"
                     "(default: a unix socket of this user's on this host)"),
    {.name = NULL},
};

const struct command command_receive = {
    .name = "receive",
    .summary = "Wait for machines that move here",
    .details =
        "Prints where it listens.  Serves many moves, each machine in a process of its own,\n"
        "until it is ended by a signal; the machines go on.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct receive_options),
    .run = run,
};
