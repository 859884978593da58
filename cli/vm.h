/*
 * The process of one machine: its loop, its control socket, its serial port, and the jobs (save,
 * move) that run beside the guest.
 *
 * Everything here is on the loop's thread, save what a job's work does to the machine while the job
 * is under way: then the machine is the job's, and only status, kill and the console are served.
 * A job may give all but the disks back before its end (vm_job_free_guest).
 */
#ifndef FERRY_CLI_VM_H
#define FERRY_CLI_VM_H

#include <stdatomic.h>

#include <jansson.h>

#include "cli/runtime_dir.h"
#include "cli/vm_serial.h"
#include "vmm/control.h"
#include "vmm/loop.h"
#include "vmm/machine.h"

struct vm_answer;
struct vm_moves;
struct vm_job;

struct vm {
    struct loop *loop;
    struct control *control; /* NULL: not served yet */
    struct vm_serial *serial;
    struct machine_dir dir;
    struct machine_config config; /* as made; the machine's own is newer */
    struct machine *machine;      /* NULL: not made, or still a job's alone (incoming) */
    struct boot_source boot;      /* kernel NULL: a reset ends the machine */
    bool no_reboot;
    bool foreground;
    bool in_doubt; /* a move whose outcome nobody knows yet */
    bool stopped;  /* gave up or switched itself off: will not run again by itself */
    uint64_t started_ns;
    atomic_uint guest_events; /* 1 << enum machine_event, not yet handled */
    struct vm_job *job;       /* under way, or NULL */
    bool ending;
    int end_code;               /* 0 or a negative errno, for vm_run */
    struct ferry_error end_err; /* why it ended with an error */
    struct vm_answer *answer;   /* listener that answers a source (vm_answer.c); or NULL */
    struct vm_moves *moves;     /* the vm's part in moves (vm_moves.h) */
};

/* Loop, signals, tickets; no machine yet. */
int vm_create(struct vm **out, struct ferry_error *err);
/*
 * The folder, the serial port and the machine, which is handed to the caller: it belongs to the vm
 * from vm_adopt on.  disks: closed on an error.  unique: see machine_dir_claim.  Any one thread.
 */
int vm_make_machine(struct vm *vm, const struct machine_config *config,
                    struct block *disks[LIMIT_DISKS], const char *serial, bool unique,
                    struct machine **out, struct ferry_error *err);
/* Take the machine over: from now on it is reset, controlled and destroyed here. */
void vm_adopt(struct vm *vm, struct machine *machine);
/* What a guest that was not booted here boots after a reset, with the command line it came with;
 * kernel NULL: it ends then.  The strings stay the caller's. */
void vm_set_boot(struct vm *vm, const char *kernel, const char *initrd);
/* Open the control socket. */
int vm_serve(struct vm *vm, struct ferry_error *err);
/* Serve until the machine ends; 0, or why it ended. */
int vm_run(struct vm *vm, struct ferry_error *err);
/* Everything goes, the folder too.  NULL is fine. */
void vm_destroy(struct vm *vm);
void vm_cleanup(struct vm **vm); /* CLEANUP(vm_cleanup) */

/* End the process, as soon as a job under way has let itself be cancelled.  err NULL: all is well.
 */
void vm_end(struct vm *vm, const struct ferry_error *err);
/* "running", "paused", "stopped", "incoming", "in-doubt". */
const char *vm_state(const struct vm *vm);
json_t *vm_status(struct vm *vm);

/* The machine may be touched now?  Else -EBUSY and why not (a job, in doubt, stopped, no machine).
 */
int vm_is_free(const struct vm *vm, struct ferry_error *err);
/* The same, but a job may be under way that only reads its disks: to pause, resume or reset it. */
int vm_guest_is_free(const struct vm *vm, struct ferry_error *err);
/* Handle what the guest did while a job had the machine. */
void vm_look_at_guest(struct vm *vm);

/* Commands of the control socket (vm_commands.c, vm_snapshot.c, vm_moves.h). */
extern const struct control_command vm_commands[];
extern const size_t vm_command_count;
void vm_snapshot_command(struct control_call *call, void *opaque);

#endif
