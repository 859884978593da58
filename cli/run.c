/* ferry run: a new machine. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/disks.h"
#include "cli/launch.h"
#include "cli/machine_options.h"
#include "cli/output.h"
#include "cli/vm.h"
#include "common/cleanup.h"

struct run_options {
    struct machine_options machine;
    const char *serial;
    bool detach;
    bool paused;
    bool no_reboot;
    bool json;
};

static int check(const struct run_options *o, struct ferry_error *err)
{
    if (!o->machine.kernel)
        return ferry_usage(err, "run", "--kernel is missing; see 'ferry run --help'");
    int error = machine_options_check(&o->machine, err);
    return error ? error : vm_serial_check(o->serial, err);
}

/* A machine without a name gets one that is hardly taken. */
static int choose_name(struct machine_config *config, struct ferry_error *err)
{
    uint16_t number;

    if (getrandom(&number, sizeof(number), 0) != sizeof(number))
        return ferry_fail_sys(err, -errno, "--name", "cannot choose a name");
    snprintf(config->name, sizeof(config->name), "vm-%04x", number);
    return 0;
}

static int fill_config(const struct run_options *o, struct machine_config *config,
                       struct ferry_error *err)
{
    machine_config_defaults(config);
    int error = o->machine.name ? 0 : choose_name(config, err);
    return error ? error : machine_options_apply(&o->machine, config, err);
}

static int make(const struct run_options *o, struct vm *vm, struct ferry_error *err)
{
    CLEANUP_FREE struct machine_config *config = calloc(1, sizeof(*config));
    CLEANUP(disks_close_cleanup) struct block *disks[LIMIT_DISKS] = {NULL};
    struct machine *machine = NULL;

    if (!config)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    int error = fill_config(o, config, err);
    if (!error)
        error = disks_from_options(&o->machine.disks, config, disks, err);
    if (!error)
        error = machine_config_complete(config, err);
    if (!error)
        error = vm_make_machine(vm, config, disks, o->serial, false, &machine, err);
    if (error)
        return error;
    vm_adopt(vm, machine);
    vm->boot = (struct boot_source){o->machine.kernel, o->machine.initrd,
                                    o->machine.append ? o->machine.append : ""};
    vm->no_reboot = o->no_reboot;
    error = machine_activate_disks(machine, err);
    if (!error)
        error = machine_boot(machine, &vm->boot, err);
    if (!error)
        error = vm_serve(vm, err);
    if (!error && !o->paused)
        error = machine_resume(machine, err);
    return error;
}

static int run(void *parsed, struct ferry_error *err)
{
    struct run_options *o = parsed;
    CLEANUP(vm_cleanup) struct vm *vm = NULL;
    struct launch launch;

    if (!o->serial)
        o->serial = o->detach ? "none" : "stdio";
    int error = check(o, err);
    if (!error)
        error = launch_begin(&launch, o->detach, -1, err);
    if (error)
        return error < 0 ? error : 0;
    error = vm_create(&vm, err);
    if (error)
        return error;
    vm->foreground = !o->detach;
    error = make(o, vm, err);
    if (error)
        return error;
    launch.quiet_stdout = true;
    error =
        launch_ready(&launch, o->json ? vm_status(vm) : NULL, o->detach ? vm->dir.name : "", err);
    return error ? error : vm_run(vm, err);
}

static const struct option_spec options[] = {
    OPTION("name", "NAME", OPTION_STRING, struct run_options, machine.name,
           "name of the machine (default: vm- and four digits)"),
    MACHINE_OPTIONS(struct run_options, machine),
    OPTION("serial", "WHERE", OPTION_STRING, struct run_options, serial,
           "COM1: stdio, file:PATH or none (default: stdio; none with\n--detach)"),
    OPTION("detach", NULL, OPTION_FLAG, struct run_options, detach,
           "go to the background once the guest runs; print the name"),
    OPTION("paused", NULL, OPTION_FLAG, struct run_options, paused,
           "do not run the guest yet (ferry resume)"),
    OPTION("no-reboot", NULL, OPTION_FLAG, struct run_options, no_reboot,
           "end when the guest asks for a reset"),
    OPTION("json", NULL, OPTION_FLAG, struct run_options, json,
           "print the machine's status as JSON once it runs"),
    {.name = NULL},
};

const struct command command_run = {
    .name = "run",
    .summary = "Boot a new machine",
    .details = "In the foreground, the terminal is the guest's serial port; Ctrl-A x ends the "
               "machine,\nCtrl-A h shows the keys.",
    .options = options,
    .parsed_size = sizeof(struct run_options),
    .run = run,
};
