/* Options of a new machine. */
#include "cli/machine_options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int check_readable(const char *what, const char *path, struct ferry_error *err)
{
    if (path && access(path, R_OK))
        return ferry_fail_sys(err, -errno, path, "cannot read the %s", what);
    return 0;
}

int machine_options_check(const struct machine_options *o, struct ferry_error *err)
{
    if (o->append && strlen(o->append) > LIMIT_CMDLINE_BYTES)
        return ferry_usage(err, "--append", "is longer than %d bytes", LIMIT_CMDLINE_BYTES);
    if (o->memory_bytes && (o->memory_bytes < LIMIT_MEMORY_MIN_BYTES ||
                            o->memory_bytes > LIMIT_MEMORY_BYTES || o->memory_bytes % 4096))
        return ferry_usage(err, "--memory", "must be from 8M to 1T and a multiple of 4K");
    if (o->name && !machine_name_valid(o->name))
        return ferry_usage(err, "--name",
                           "'%.80s' is not a name: up to %d letters, digits, '.', '_' and '-', "
                           "not starting with '.' or '-'",
                           o->name, LIMIT_NAME_BYTES);
    if (o->cpu && strlen(o->cpu) >= sizeof(((struct machine_config *)0)->cpu_model))
        return ferry_usage(err, "--cpu", "'%.60s' is not a CPU model", o->cpu);
    int error = check_readable("kernel", o->kernel, err);
    return error ? error : check_readable("initrd", o->initrd, err);
}

int machine_options_apply(const struct machine_options *o, struct machine_config *config,
                          struct ferry_error *err)
{
    int error = machine_options_check(o, err);
    if (error)
        return error;
    if (o->name)
        snprintf(config->name, sizeof(config->name), "%s", o->name);
    if (o->cpus)
        config->cpus = (uint32_t)o->cpus;
    if (o->memory_bytes)
        config->memory_bytes = o->memory_bytes;
    if (o->append)
        snprintf(config->append, sizeof(config->append), "%s", o->append);
    if (o->cpu)
        snprintf(config->cpu_model, sizeof(config->cpu_model), "%s", o->cpu);
    return 0;
}

void machine_config_defaults(struct machine_config *config)
{
    config->epoch = 1;
    config->cpus = 1;
    config->memory_bytes = 512 * MIB;
    snprintf(config->cpu_model, sizeof(config->cpu_model), "host");
}
