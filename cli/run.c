/* ferry run: a new machine. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/disks.h"
#include "cli/image_file.h"
#include "cli/launch.h"
#include "cli/machine_options.h"
#include "cli/output.h"
#include "cli/run_image.h"
#include "cli/vm.h"
#include "common/cleanup.h"

struct run_options {
    const char *image;
    struct machine_options machine;
    struct image_file_options file;
    const char *overlay_dir;
    bool temporary;
    const char *serial;
    bool detach;
    bool paused;
    bool no_reboot;
    bool json;
};

static int check(const struct run_options *o, struct ferry_error *err)
{
    if (!o->machine.kernel && !o->image)
        return ferry_usage(err, "run", "--kernel is missing; see 'ferry run --help'");
    if (o->image && !strcmp(o->image, "-"))
        return ferry_usage(err, "run", "an image from a pipe cannot be run; write it to a file");
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

static int fill_config(const struct run_options *o, const struct image_environment *env,
                       struct run_image *image, struct machine_config *config,
                       struct block *disks[LIMIT_DISKS], struct ferry_error *err)
{
    const struct disk_opening opening = {
        .env = env, .overlay_dir = o->overlay_dir, .temporary = o->temporary};

    machine_config_defaults(config);
    int error = o->machine.name || o->image ? 0 : choose_name(config, err);
    if (!error && o->image)
        error = run_image_open(o->image, &o->machine, &opening, image, config, disks, err);
    if (!error)
        error = machine_options_apply(&o->machine, config, err);
    if (!error)
        error = disks_from_options(&o->machine.disks, &opening, config, disks, err);
    return error ? error : machine_config_complete(config, err);
}

static int make(const struct run_options *o, struct run_image *image, struct vm *vm,
                struct ferry_error *err)
{
    CLEANUP(image_file_environment_close) struct image_file_environment environment = {0};
    CLEANUP_FREE struct machine_config *config = calloc(1, sizeof(*config));
    CLEANUP(disks_close_cleanup) struct block *disks[LIMIT_DISKS] = {NULL};
    struct machine *machine = NULL;

    if (!config)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    int error = image_file_environment_open(&o->file, &environment, err);
    if (!error)
        error = fill_config(o, &environment.env, image, config, disks, err);
    if (!error)
        error = vm_make_machine(vm, config, disks, o->serial, false, &machine, err);
    if (error)
        return error;
    vm_adopt(vm, machine);
    vm->boot = (struct boot_source){
        .kernel = o->machine.kernel ? o->machine.kernel : image->kernel,
        .initrd = o->machine.initrd       ? o->machine.initrd
                  : image->initrd_fd >= 0 ? image->initrd
                                          : NULL,
        .append = vm->config.append,
    };
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
    CLEANUP(run_image_close) struct run_image image = RUN_IMAGE_NONE;
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
    error = make(o, &image, vm, err);
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
    OPTION("overlay-dir", "DIR", OPTION_STRING, struct run_options, overlay_dir,
           "keep what changes on disks of images in DIR (default: beside\nthe image, as "
           "IMAGE.vda.overlay)"),
    OPTION("temporary", NULL, OPTION_FLAG, struct run_options, temporary,
           "forget what changes on disks of images when the machine ends"),
    IMAGE_FILE_OPTIONS(struct run_options, file),
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

static const struct operand_spec operands[] = {
    OPTIONAL_OPERAND("IMAGE", struct run_options, image,
                     "a machine that was packed; options count instead of its own"),
    {.name = NULL},
};

const struct command command_run = {
    .name = "run",
    .summary = "Boot a new machine",
    .details = "In the foreground, the terminal is the guest's serial port; Ctrl-A x ends the "
               "machine,\nCtrl-A h shows the keys.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct run_options),
    .run = run,
};
