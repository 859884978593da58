/*
 * A job: work on a thread of its own beside the guest, done afterwards on the loop's thread.  One
 * at a time; the machine is the job's while it is under way.
 */
#ifndef FERRY_CLI_VM_JOB_H
#define FERRY_CLI_VM_JOB_H

#include <pthread.h>

#include "cli/vm.h"
#include "common/progress.h"

struct vm_job {
    struct vm *vm;
    const char *name;    /* "snapshot", "migrate", ...: for status and messages */
    bool guest_may_stop; /* go on if the guest switches itself off meanwhile; else: cancelled */
    atomic_bool guest_is_free; /* only disks are still the job's: see vm_job_free_guest */
    /* On the job's thread. */
    int (*work)(struct vm_job *job, struct ferry_error *err);
    /* On the loop's thread, the job is over: answer the call. */
    void (*done)(struct vm_job *job);
    void (*destroy)(struct vm_job *job); /* frees it */
    struct control_call *call;           /* gets progress; its hang-up cancels; NULL: nobody */
    struct progress progress;
    int error; /* of work */
    struct ferry_error err;
    /* Of vm_job.c: */
    pthread_t thread;
    pthread_mutex_t mutex; /* of what was reported last */
    uint64_t reported_ns;
    unsigned reported_round;
    char reported_phase[64];
};

/*
 * Start it; it is destroyed when it is done.  On an error (no thread) it is the caller's still.
 * The caller has made sure that no job is under way.
 */
int vm_job_start(struct vm *vm, struct vm_job *job, struct ferry_error *err);
/* From work: all but reading the disks is done; from now on the guest may be paused, resumed and
 * reset beside the job. */
void vm_job_free_guest(struct vm_job *job);
/* Answer its call with its error.  The usual half of `done`. */
void vm_job_reply_error(struct vm_job *job);

#endif
