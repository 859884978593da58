/* The commands of a machine's control socket that are done at once. */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/vm.h"
#include "cli/vm_job.h"
#include "cli/vm_moves.h"
#include "common/cleanup.h"

static void status(struct control_call *call, void *opaque)
{
    control_reply(call, vm_status(opaque));
}

static void reply(struct control_call *call, int error, const struct ferry_error *err)
{
    if (error)
        control_reply_error(call, err);
    else
        control_reply(call, NULL);
}

static void pause_machine(struct control_call *call, void *opaque)
{
    struct vm *vm = opaque;
    struct ferry_error err;

    int error = vm_guest_is_free(vm, &err);
    if (!error)
        error = machine_pause(vm->machine, &err);
    if (!error)
        control_event(vm->control, "PAUSE", NULL);
    reply(call, error, &err);
}

static void resume_machine(struct control_call *call, void *opaque)
{
    struct vm *vm = opaque;
    struct ferry_error err;

    int error = vm_guest_is_free(vm, &err);
    if (!error && !machine_is_running(vm->machine))
        error = machine_resume(vm->machine, &err);
    if (!error)
        control_event(vm->control, "RESUME", NULL);
    reply(call, error, &err);
}

static void power_button(struct control_call *call, void *opaque)
{
    struct vm *vm = opaque;
    struct ferry_error err;

    int error = vm_guest_is_free(vm, &err);
    if (!error && !machine_is_running(vm->machine))
        error = ferry_fail(&err, -EBUSY, vm->dir.name,
                           "is paused and cannot shut down; resume or kill it");
    if (!error)
        machine_power_button(vm->machine);
    reply(call, error, &err);
}

static void quit(struct control_call *call, void *opaque)
{
    control_reply(call, NULL);
    vm_end(opaque, NULL);
}

/* The client's end of a socketpair becomes a console. */
static void console(struct control_call *call, void *opaque)
{
    struct vm *vm = opaque;
    struct ferry_error err;
    bool log_only = json_is_true(json_object_get(control_arguments(call), "log"));
    CLEANUP_FD int fd = control_take_fd(call);
    int type = 0;
    socklen_t size = sizeof(type);
    int error = 0;

    if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) || type != SOCK_STREAM)
        error = ferry_usage(&err, "console", "wants a stream socket sent along");
    else if (!vm->serial)
        error = ferry_fail(&err, -EBUSY, vm->dir.name, "has not arrived yet");
    else
        error = vm_serial_add_console(vm->serial, take_fd(&fd), log_only, &err);
    reply(call, error, &err);
}

const struct control_command vm_commands[] = {
    {"status", status},
    {"pause", pause_machine},
    {"resume", resume_machine},
    {"power-button", power_button},
    {"quit", quit},
    {"console", console},
    {"snapshot", vm_snapshot_command},
    {"migrate", vm_migrate_command},
    {"resolve", vm_resolve_command},
};
const size_t vm_command_count = sizeof(vm_commands) / sizeof(vm_commands[0]);
