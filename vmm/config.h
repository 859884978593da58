/*
 * The description of a machine: all that makes it the same machine on another host, and nothing
 * that belongs to a host.  As JSON it is the manifest of an image and the HELLO of a move.
 */
#ifndef FERRY_VMM_CONFIG_H
#define FERRY_VMM_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>
#include <linux/kvm.h>

#include "common/error.h"
#include "common/limits.h"

struct disk_config {
    char device[8]; /* "vda", "vdb", ... by position */
    char serial[LIMIT_DISK_SERIAL_BYTES + 1];
    uint64_t size_bytes;
    bool readonly;
    char file_name[256]; /* last component of the file at the source: what --disk-dir looks for */
};

struct machine_config {
    char name[LIMIT_NAME_BYTES + 1];
    uint8_t vm_id[16];      /* identity of the machine; the ticket of a move names it */
    uint64_t epoch;         /* grows with each change of owner; starts at 1 */
    uint8_t generation[16]; /* VM generation id, new for every restore */
    uint32_t cpus;
    uint64_t memory_bytes;
    char cpu_model[32];   /* "host", "x86-64-v2", ... as asked for */
    uint32_t cpuid_count; /* what the guest sees, as given to KVM_SET_CPUID2 */
    struct kvm_cpuid_entry2 cpuid[LIMIT_CPUID_ENTRIES];
    uint32_t tsc_khz; /* 0: not known */
    uint32_t disk_count;
    struct disk_config disks[LIMIT_DISKS];
    char append[LIMIT_CMDLINE_BYTES + 1]; /* kernel command line, for people */
};

/* A new JSON object; NULL: out of memory. */
json_t *machine_config_to_json(const struct machine_config *config);
/*
 * Hostile JSON to a config: every field checked against its limit, unknown keys ignored.  An empty
 * CPUID is that of a machine that never ran: machine_config_check will not have it.  Errors are
 * FERRY_REFUSED and name the key.
 */
int machine_config_from_json(const json_t *json, struct machine_config *config,
                             struct ferry_error *err);
/*
 * What holds for any machine, whoever describes it: counts and sizes within the limits, names of
 * the right form, disks named by position.  Errors are FERRY_USAGE and name the member.
 */
int machine_config_check(const struct machine_config *config, struct ferry_error *err);
/* A machine name: 1..LIMIT_NAME_BYTES of [A-Za-z0-9._-], not starting with '.' or '-'. */
bool machine_name_valid(const char *name);

#endif
