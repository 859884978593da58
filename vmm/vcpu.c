/*
 * vCPU threads and their parking.
 *
 * All threads share one lock and one condition.  `run` says what they shall do, `parked` counts
 * those that do nothing; the last one to park takes the time and, if the guest or a failure stopped
 * the machine, passes the reason on.  A signal without a handler of substance plus immediate_exit
 * takes a thread out of KVM_RUN without a race: the signal ends a run under way, and the flag ends
 * the next one at once if the signal came in between.  Threads block every other signal.
 */
#include "vmm/vcpu.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/limits.h"
#include "vmm/vcpu_internal.h"

#define VCPU_SIGNAL SIGRTMIN
/* Device handlers run on it.  Only touched pages cost memory. */
#define VCPU_STACK_BYTES (256 * KIB)

static void on_signal(int number)
{
    (void)number; /* its delivery alone ends KVM_RUN */
}

/* With the lock held. */
static void kick_all(struct vcpus *vcpus)
{
    vcpus->run = false;
    atomic_store(&vcpus->stopping, true);
    for (unsigned i = 0; i < vcpus->count; i++) {
        struct vcpu *vcpu = &vcpus->vcpus[i];
        __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        if (vcpu->has_thread)
            pthread_kill(vcpu->thread, VCPU_SIGNAL);
    }
}

/* With the lock held: the reason to report now, once all are parked. */
static enum vcpu_stop take_report(struct vcpus *vcpus)
{
    if (vcpus->reported || vcpus->reason == VCPU_STOP_NONE || vcpus->parked != vcpus->count)
        return VCPU_STOP_NONE;
    vcpus->reported = true;
    return vcpus->reason;
}

static void park(struct vcpus *vcpus)
{
    enum vcpu_stop report;
    {
        LOCK_SCOPE(&vcpus->lock);
        vcpus->parked++;
        if (vcpus->parked == vcpus->count) {
            vcpus->stopped_at_ns = monotonic_ns();
            pthread_cond_broadcast(&vcpus->changed);
        }
        report = take_report(vcpus);
    }
    if (report != VCPU_STOP_NONE)
        vcpus->host.stopped(vcpus->host.opaque, report);
}

/*
 * Wait for the next start; false: to end.  It is the count of starts that matters and not `run`: a
 * thread that wakes up late, after the next stop, must still run (for nothing) and park.
 */
static bool wait_for_start(struct vcpu *vcpu)
{
    struct vcpus *vcpus = vcpu->vcpus;
    LOCK_SCOPE(&vcpus->lock);
    while (vcpu->starts_seen == vcpus->starts && !vcpus->quit)
        pthread_cond_wait(&vcpus->changed, &vcpus->lock);
    vcpu->starts_seen = vcpus->starts;
    return !vcpus->quit;
}

static void *vcpu_main(void *argument)
{
    struct vcpu *vcpu = argument;
    sigset_t all;

    sigfillset(&all);
    sigdelset(&all, VCPU_SIGNAL);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    while (wait_for_start(vcpu)) {
        vcpu_run(vcpu);
        park(vcpu->vcpus);
    }
    return NULL;
}

static int start_thread(struct vcpu *vcpu, struct ferry_error *err)
{
    pthread_attr_t attr;
    char name[16];

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, VCPU_STACK_BYTES);
    int rc = -pthread_create(&vcpu->thread, &attr, vcpu_main, vcpu);
    pthread_attr_destroy(&attr);
    if (rc)
        return ferry_fail_sys(err, rc, "vCPU", "cannot start a thread");
    vcpu->has_thread = true;
    snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
    pthread_setname_np(vcpu->thread, name);
    return 0;
}

static int create_one(struct vcpus *vcpus, int vm_fd, unsigned index, struct ferry_error *err)
{
    struct vcpu *vcpu = &vcpus->vcpus[index];

    vcpu->fd = ioctl(vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
    if (vcpu->fd < 0)
        return ferry_fail_sys(err, -errno, "vCPU", "cannot create vCPU %u", index);
    void *run = mmap(NULL, vcpus->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (run == MAP_FAILED)
        return ferry_fail_sys(err, -errno, "vCPU", "cannot map vCPU %u", index);
    vcpu->run = run;
    return start_thread(vcpu, err);
}

static int install_handler(struct ferry_error *err)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    if (sigaction(VCPU_SIGNAL, &action, NULL))
        return ferry_fail_sys(err, -errno, "vCPU", "cannot install a signal handler");
    return 0;
}

static void vcpus_cleanup(struct vcpus **vcpus)
{
    vcpus_destroy(*vcpus);
}

int vcpus_create(int kvm_fd, int vm_fd, unsigned count, const struct vcpus_host *host,
                 struct vcpus **out, struct ferry_error *err)
{
    if (!count || count > LIMIT_VCPUS)
        return ferry_usage(err, "vCPU", "%u vCPUs: from 1 to %u", count, LIMIT_VCPUS);
    int run_bytes = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0ul);
    if (run_bytes < 0)
        return ferry_fail_sys(err, -errno, "vCPU", "KVM_GET_VCPU_MMAP_SIZE failed");
    int rc = install_handler(err);
    if (rc)
        return rc;
    struct vcpus *vcpus CLEANUP(vcpus_cleanup) =
        calloc(1, sizeof(*vcpus) + count * sizeof(vcpus->vcpus[0]));
    if (!vcpus)
        return ferry_fail_sys(err, -ENOMEM, "vCPU", "cannot create the vCPUs");
    vcpus->host = *host;
    vcpus->count = count;
    vcpus->parked = count;
    vcpus->run_bytes = (size_t)run_bytes;
    vcpus->stopped_at_ns = monotonic_ns();
    atomic_store(&vcpus->stopping, true);
    pthread_mutex_init(&vcpus->lock, NULL);
    pthread_cond_init(&vcpus->changed, NULL);
    for (unsigned i = 0; i < count; i++) {
        vcpus->vcpus[i].vcpus = vcpus;
        vcpus->vcpus[i].index = i;
        vcpus->vcpus[i].fd = -1;
    }
    for (unsigned i = 0; !rc && i < count; i++)
        rc = create_one(vcpus, vm_fd, i, err);
    if (rc)
        return rc;
    *out = take_ptr(&vcpus);
    return 0;
}

void vcpus_destroy(struct vcpus *vcpus)
{
    if (!vcpus)
        return;
    vcpus_stop(vcpus);
    {
        LOCK_SCOPE(&vcpus->lock);
        vcpus->quit = true;
        pthread_cond_broadcast(&vcpus->changed);
    }
    for (unsigned i = 0; i < vcpus->count; i++) {
        struct vcpu *vcpu = &vcpus->vcpus[i];
        if (vcpu->has_thread)
            pthread_join(vcpu->thread, NULL);
        if (vcpu->run)
            munmap(vcpu->run, vcpus->run_bytes);
        if (vcpu->fd >= 0)
            close(vcpu->fd);
    }
    pthread_cond_destroy(&vcpus->changed);
    pthread_mutex_destroy(&vcpus->lock);
    free(vcpus);
}

unsigned vcpus_count(const struct vcpus *vcpus)
{
    return vcpus->count;
}

int vcpus_fd(const struct vcpus *vcpus, unsigned index)
{
    return vcpus->vcpus[index].fd;
}

/* With the lock held. */
static void wait_parked(struct vcpus *vcpus)
{
    while (vcpus->parked != vcpus->count)
        pthread_cond_wait(&vcpus->changed, &vcpus->lock);
}

int vcpus_start(struct vcpus *vcpus, struct ferry_error *err)
{
    LOCK_SCOPE(&vcpus->lock);
    if (vcpus->run)
        return 0;
    wait_parked(vcpus);
    if (vcpus->reason != VCPU_STOP_NONE)
        return ferry_fail(err, -ESHUTDOWN, "machine", "it has stopped by itself: %s",
                          vcpus->reason == VCPU_STOP_POWEROFF ? "switched off by the guest"
                          : vcpus->reason == VCPU_STOP_RESET  ? "the guest asked for a reset"
                                                              : vcpus->failure.message);
    for (unsigned i = 0; i < vcpus->count; i++)
        __atomic_store_n(&vcpus->vcpus[i].run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    atomic_store(&vcpus->started_at_ns, 0);
    atomic_store(&vcpus->stopping, false);
    vcpus->run = true;
    vcpus->starts++;
    vcpus->parked = 0;
    pthread_cond_broadcast(&vcpus->changed);
    return 0;
}

void vcpus_stop(struct vcpus *vcpus)
{
    LOCK_SCOPE(&vcpus->lock);
    if (vcpus->run)
        kick_all(vcpus);
    wait_parked(vcpus);
}

static void request(struct vcpus *vcpus, enum vcpu_stop reason, const struct ferry_error *failure)
{
    enum vcpu_stop report;
    {
        LOCK_SCOPE(&vcpus->lock);
        if (vcpus->reason == VCPU_STOP_NONE) {
            vcpus->reason = reason;
            vcpus->reported = false;
            if (failure)
                vcpus->failure = *failure;
        }
        if (vcpus->run)
            kick_all(vcpus);
        report = take_report(vcpus);
    }
    if (report != VCPU_STOP_NONE)
        vcpus->host.stopped(vcpus->host.opaque, report);
}

void vcpus_request_stop(struct vcpus *vcpus, enum vcpu_stop reason)
{
    request(vcpus, reason, NULL);
}

void vcpu_failed(struct vcpu *vcpu, const struct ferry_error *failure)
{
    request(vcpu->vcpus, VCPU_STOP_FAILED, failure);
}

enum vcpu_stop vcpus_reason(struct vcpus *vcpus)
{
    LOCK_SCOPE(&vcpus->lock);
    return vcpus->reason;
}

void vcpus_forgive(struct vcpus *vcpus)
{
    LOCK_SCOPE(&vcpus->lock);
    vcpus->reason = VCPU_STOP_NONE;
    vcpus->reported = false;
    memset(&vcpus->failure, 0, sizeof(vcpus->failure));
}

bool vcpus_running(struct vcpus *vcpus)
{
    LOCK_SCOPE(&vcpus->lock);
    return vcpus->run;
}

uint64_t vcpus_stopped_at_ns(struct vcpus *vcpus)
{
    LOCK_SCOPE(&vcpus->lock);
    return vcpus->stopped_at_ns;
}

uint64_t vcpus_started_at_ns(struct vcpus *vcpus)
{
    return atomic_load(&vcpus->started_at_ns);
}

const struct ferry_error *vcpus_failure(const struct vcpus *vcpus)
{
    return &vcpus->failure;
}
