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
#include "cli/output.h"
#include "cli/vm.h"
#include "common/cleanup.h"

struct run_options {
    const char *name;
    const char *kernel;
    const char *initrd;
    const char *append;
    uint64_t memory_bytes;
    uint64_t cpus;
    const char *cpu;
    struct option_strings disks;
    const char *serial;
    bool detach;
    bool paused;
    bool no_reboot;
    bool json;
};

static const struct run_options defaults = {
    .append = "",
    .memory_bytes = 512 * MIB,
    .cpus = 1,
    .cpu = "host",
};

static int check_readable(const char *what, const char *path, struct ferry_error *err)
{
    if (path && access(path, R_OK))
        return ferry_fail_sys(err, -errno, path, "cannot read the %s", what);
    return 0;
}

/* What can be seen to be wrong before anything is made. */
static int check(const struct run_options *o, struct ferry_error *err)
{
    if (!o->kernel)
        return ferry_usage(err, "run", "--kernel is missing; see 'ferry run --help'");
    if (strlen(o->append) > LIMIT_CMDLINE_BYTES)
        return ferry_usage(err, "--append", "is longer than %d bytes", LIMIT_CMDLINE_BYTES);
    if (o->memory_bytes < LIMIT_MEMORY_MIN_BYTES || o->memory_bytes > LIMIT_MEMORY_BYTES ||
        o->memory_bytes % 4096)
        return ferry_usage(err, "--memory", "must be from 8M to 1T and a multiple of 4K");
    if (o->name && !machine_name_valid(o->name))
        return ferry_usage(err, "--name",
                           "'%.80s' is not a name: up to %d letters, digits, '.', '_' and '-', "
                           "not starting with '.' or '-'",
                           o->name, LIMIT_NAME_BYTES);
    int error = vm_serial_check(o->serial, err);
    if (!error)
        error = check_readable("kernel", o->kernel, err);
    if (!error)
        error = check_readable("initrd", o->initrd, err);
    return error;
}

static int fill_config(const struct run_options *o, struct machine_config *config,
                       struct ferry_error *err)
{
    uint16_t number;

    if (o->name)
        snprintf(config->name, sizeof(config->name), "%s", o->name);
    else if (getrandom(&number, sizeof(number), 0) == sizeof(number))
        snprintf(config->name, sizeof(config->name), "vm-%04x", number);
    else
        return ferry_fail_sys(err, -errno, "--name", "cannot choose a name");
    config->cpus = (uint32_t)o->cpus;
    config->memory_bytes = o->memory_bytes;
    snprintf(config->append, sizeof(config->append), "%s", o->append);
    if (strlen(o->cpu) >= sizeof(config->cpu_model))
        return ferry_usage(err, "--cpu", "'%.60s' is not a CPU model", o->cpu);
    snprintf(config->cpu_model, sizeof(config->cpu_model), "%s", o->cpu);
    return 0;
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
        error = disks_from_options(&o->disks, config, disks, err);
    if (!error)
        error = machine_config_complete(config, err);
    if (!error)
        error = vm_make_machine(vm, config, disks, o->serial, false, &machine, err);
    if (error)
        return error;
    vm_adopt(vm, machine);
    vm->boot = (struct boot_source){o->kernel, o->initrd, o->append};
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
    OPTION("name", "NAME", OPTION_STRING, struct run_options, name,
           "name of the machine (default: vm- and four digits)"),
    OPTION("kernel", "FILE", OPTION_STRING, struct run_options, kernel,
           "kernel: an uncompressed vmlinux (PVH) or a bzImage"),
    OPTION("initrd", "FILE", OPTION_STRING, struct run_options, initrd, "initial RAM disk"),
    OPTION("append", "STRING", OPTION_STRING, struct run_options, append, "kernel command line"),
    OPTION("memory", "SIZE", OPTION_SIZE, struct run_options, memory_bytes,
           "guest memory (default: 512M)"),
    OPTION_RANGE("cpus", "N", struct run_options, cpus, 1, LIMIT_VCPUS,
                 "virtual CPUs (default: 1)"),
    OPTION("cpu", "MODEL", OPTION_STRING, struct run_options, cpu,
           "CPU model: host, x86-64-v2, x86-64-v3 or x86-64-v4\n(default: host)"),
    OPTION("disk", "FILE[,readonly][,serial=S]", OPTION_STRINGS, struct run_options, disks,
           "raw disk, given once for each of vda, vdb, ...; a comma in\n"
           "the name is written ',,'"),
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
    .defaults = &defaults,
    .run = run,
};
