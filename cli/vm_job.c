/* Jobs beside the guest. */
#include "cli/vm_job.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/progress.h"
#include "cli/signals.h"
#include "common/cleanup.h"
#include "common/clock.h"

#define REPORT_EVERY_NS 100000000u

/* From any thread of the work. */
static void report(void *opaque, const struct progress_report *report)
{
    struct vm_job *job = opaque;
    uint64_t now = monotonic_ns();
    LOCK_SCOPE(&job->mutex);
    bool same = report->round == job->reported_round && !strcmp(report->phase, job->reported_phase);

    if (!job->call || (same && now - job->reported_ns < REPORT_EVERY_NS))
        return;
    job->reported_ns = now;
    job->reported_round = report->round;
    snprintf(job->reported_phase, sizeof(job->reported_phase), "%s", report->phase);
    control_progress(job->call, "PROGRESS", progress_to_json(report));
}

static void client_left(void *opaque)
{
    struct vm_job *job = opaque;

    atomic_store(&job->progress.cancelled, true);
}

static void finish(void *opaque)
{
    struct vm_job *job = opaque;
    struct vm *vm = job->vm;

    pthread_join(job->thread, NULL);
    vm->job = NULL;
    job->done(job);
    pthread_mutex_destroy(&job->mutex);
    job->destroy(job);
    if (vm->ending)
        vm_end(vm, NULL);
    else
        vm_look_at_guest(vm);
}

static void *run(void *opaque)
{
    struct vm_job *job = opaque;

    job->error = job->work(job, &job->err);
    while (loop_post(job->vm->loop, finish, job)) /* out of memory: the end cannot be dropped */
        usleep(10000);
    return NULL;
}

int vm_job_start(struct vm *vm, struct vm_job *job, struct ferry_error *err)
{
    job->vm = vm;
    job->progress.report = report;
    job->progress.opaque = job;
    pthread_mutex_init(&job->mutex, NULL);
    if (job->call)
        control_on_hangup(job->call, client_left, job);
    vm->job = job;
    signals_block();
    int error = -pthread_create(&job->thread, NULL, run, job);
    signals_unblock();
    if (error) {
        vm->job = NULL;
        pthread_mutex_destroy(&job->mutex);
        if (job->call)
            control_on_hangup(job->call, NULL, NULL);
        return ferry_fail_sys(err, error, job->name, "cannot start a thread");
    }
    return 0;
}

static void look_at_guest(void *opaque)
{
    vm_look_at_guest(opaque);
}

void vm_job_free_guest(struct vm_job *job)
{
    atomic_store(&job->guest_is_free, true);
    (void)loop_post(job->vm->loop, look_at_guest, job->vm); /* else at the job's end */
}

void vm_job_reply_error(struct vm_job *job)
{
    if (job->call)
        control_reply_error(job->call, &job->err);
    job->call = NULL;
}
