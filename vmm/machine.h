/*
 * A machine: guest RAM, vCPUs, interrupt controllers, buses and devices, and what can be done with
 * the whole: boot, run, pause, write down, load, give away.
 *
 * Life: machine_create (everything exists, nothing runs, disks not yet owned) -> machine_boot or
 * machine_load_* -> machine_resume / machine_pause ... -> machine_destroy.
 * All calls come from one thread at a time unless said otherwise; vCPUs and block I/O have threads
 * of their own.  The machine tells its owner of changes by `event`, from any thread; the
 * handler passes the word on and calls nothing of this header.
 */
#ifndef FERRY_VMM_MACHINE_H
#define FERRY_VMM_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/log.h"
#include "vmm/block.h"
#include "vmm/config.h"
#include "vmm/memory.h"

struct machine;

enum machine_event {
    MACHINE_EVENT_POWEROFF, /* the guest switched itself off; it is stopped */
    MACHINE_EVENT_RESET,    /* the guest asked for a reset; the owner decides (machine_reset) */
    MACHINE_EVENT_FAILED,   /* KVM or a device gave up; machine_failure() says why */
};

/* What belongs to this host: never taken from a file or a stream (DESIGN 4). */
struct machine_host {
    const struct log *log;
    /* Bytes the guest wrote to COM1, from a vCPU thread; NULL: dropped. */
    void (*serial_output)(void *opaque, const uint8_t *data, size_t size);
    /* COM1 has room again after machine_serial_input took less than it was given, from a vCPU
     * thread: pass the word on.  May be NULL. */
    void (*serial_room)(void *opaque);
    struct block *disks[LIMIT_DISKS]; /* by disk_config order; owned by the machine from create */
    void (*event)(void *opaque, enum machine_event event);
    void *opaque;
};

struct boot_source {
    const char *kernel; /* path: PVH ELF or bzImage */
    const char *initrd; /* path or NULL */
    const char *append; /* command line, may be "" */
};

/*
 * Fills in what the host decides for a new machine: vm_id, generation, epoch, CPUID of cpu_model
 * (empty: "host").  The caller has set name, cpus, memory_bytes, cpu_model, disks.  tsc_khz stays
 * 0: machine_create fills it in, see machine_config.
 */
int machine_config_complete(struct machine_config *config, struct ferry_error *err);

/*
 * KVM VM, RAM, vCPUs (threads parked), devices.  Refuses a CPU or a TSC frequency that this host
 * cannot give.  On failure host's disks are closed too.
 */
int machine_create(const struct machine_config *config, const struct machine_host *host,
                   struct machine **out, struct ferry_error *err);
void machine_destroy(struct machine *machine); /* stops the vCPUs; NULL is fine */
/* As created, with tsc_khz known. */
const struct machine_config *machine_config(const struct machine *machine);
struct memory *machine_memory(struct machine *machine);
/* New epoch of ownership (after a move), new generation id (before a restored guest runs). */
void machine_set_epoch(struct machine *machine, uint64_t epoch);
int machine_set_generation(struct machine *machine, const uint8_t generation[16]);

/* Own the disks: open and lock, or flush, close and unlock.  All or none. */
int machine_activate_disks(struct machine *machine, struct ferry_error *err);
int machine_release_disks(struct machine *machine, struct ferry_error *err);
uint32_t machine_disk_count(const struct machine *machine);
struct block *machine_disk(struct machine *machine, uint32_t index); /* use only while paused */
/*
 * What the guest's requests to a disk go through from now on; NULL: nothing, straight to the disk.
 * It is the caller's, of the disk's size and as writable, and stays until it is taken out again.
 * Returns when no request is on its way through what was there before.  The machine may run.
 */
void machine_filter_disk(struct machine *machine, uint32_t index, struct block *filter);

/* Load kernel, initrd and command line, and set vCPU 0 to its entry. */
int machine_boot(struct machine *machine, const struct boot_source *source,
                 struct ferry_error *err);
/*
 * vCPUs run (from boot, load, or pause).  Needs the disks.  The guest's clocks have run on over a
 * pause (see machine_run.c).  -ESHUTDOWN: the guest has switched itself off, asked for a reset
 * (machine_reset first) or failed.
 */
int machine_resume(struct machine *machine, struct ferry_error *err);
/* Returns when no vCPU runs guest code and no device is at work.  Idempotent.  After an event the
 * vCPUs stand still, but only machine_pause makes the devices do so. */
int machine_pause(struct machine *machine, struct ferry_error *err);
bool machine_is_running(const struct machine *machine);
/* CLOCK_MONOTONIC ns when the last vCPU stopped (of a new machine: its creation), and when the
 * first entered after a resume. */
uint64_t machine_paused_at_ns(const struct machine *machine);
uint64_t machine_resumed_at_ns(const struct machine *machine); /* 0 until it has happened */
const struct ferry_error *machine_failure(const struct machine *machine);

/* Bytes typed on COM1.  Any thread.  Returns how many fit into its FIFO; offer the rest later. */
size_t machine_serial_input(struct machine *machine, const uint8_t *data, size_t size);
/* Press the ACPI power button; the guest may or may not act on it. */
void machine_power_button(struct machine *machine);
/* From the guest's reset event: back to the state before boot (devices, vCPUs); disks stay owned.
 * The machine is paused afterwards; machine_boot starts it anew. */
int machine_reset(struct machine *machine, struct ferry_error *err);

/*
 * State: one section a device, vCPU and controller.  All of these need a paused machine.
 * machine_save: calls sink for each section in a fixed order; the bytes are valid for the call.
 * Collect the last dirty pages after it: KVM may write to a paravirtual page of the guest when
 * state is read.  -ESHUTDOWN: the guest has stopped by itself, there is nothing to go on from.
 */
struct machine_section {
    const char *name; /* device name: "serial0", "vcpu3", "vda" */
    uint16_t version; /* of its table */
    const uint8_t *data;
    size_t size;
};
typedef int (*machine_sink)(void *opaque, const struct machine_section *section,
                            struct ferry_error *err);
int machine_save(struct machine *machine, machine_sink sink, void *opaque, struct ferry_error *err);
/*
 * Load: hand over sections in any order (each once), then commit.  machine_load_section parses and
 * checks into scratch; machine_load_commit refuses if one is missing and only then touches the
 * machine.  After a refusal the machine is as it was before the first section.
 */
int machine_load_section(struct machine *machine, const struct machine_section *section,
                         struct ferry_error *err);
int machine_load_commit(struct machine *machine, struct ferry_error *err);
void machine_load_abandon(struct machine *machine);
/* A saved section as JSON, without a machine (ferry inspect).  -ENOENT: no such kind of device. */
int machine_section_to_json(const struct machine_section *section, json_t **out,
                            struct ferry_error *err);

#endif
