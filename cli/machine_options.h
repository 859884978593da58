/* What run and pack both ask of a new machine. */
#ifndef FERRY_CLI_MACHINE_OPTIONS_H
#define FERRY_CLI_MACHINE_OPTIONS_H

#include "cli/options.h"
#include "vmm/config.h"

/* A member of a command's parsed struct, and its lines of the table.  What was not given is NULL or
 * 0, so that a command can tell. */
struct machine_options {
    const char *name;
    const char *kernel;
    const char *initrd;
    const char *append;
    uint64_t memory_bytes;
    uint64_t cpus;
    const char *cpu;
    struct option_strings disks;
};

#define MACHINE_OPTIONS(S, M)                                                                     \
    OPTION("kernel", "FILE", OPTION_STRING, S, M.kernel,                                          \
           "kernel: an uncompressed vmlinux (PVH) or a bzImage"),                                 \
        OPTION("initrd", "FILE", OPTION_STRING, S, M.initrd, "initial RAM disk"),                 \
        OPTION("append", "STRING", OPTION_STRING, S, M.append, "kernel command line"),            \
        OPTION("memory", "SIZE", OPTION_SIZE, S, M.memory_bytes, "guest memory (default: 512M)"), \
        OPTION_RANGE("cpus", "N", S, M.cpus, 1, LIMIT_VCPUS, "virtual CPUs (default: 1)"),        \
        OPTION("cpu", "MODEL", OPTION_STRING, S, M.cpu,                                           \
               "CPU model: host, x86-64-v2, x86-64-v3 or x86-64-v4\n(default: host)"),            \
        OPTION("disk", "FILE[,readonly][,serial=S]", OPTION_STRINGS, S, M.disks,                  \
               "raw disk or image.ferry, once for each of vda, vdb, ...; a\ncomma in "            \
               "the name is written ',,'")

/* What can be seen to be wrong before anything is made; files are readable. */
int machine_options_check(const struct machine_options *o, struct ferry_error *err);
/* What was given goes into config (not the disks); what was not stays as it is there. */
int machine_options_apply(const struct machine_options *o, struct machine_config *config,
                          struct ferry_error *err);
/* A config as if nothing had been given. */
void machine_config_defaults(struct machine_config *config);

#endif
