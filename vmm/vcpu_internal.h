/* What vcpu.c (threads, parking) and vcpu_run.c (KVM_RUN and its exits) share. */
#ifndef FERRY_VMM_VCPU_INTERNAL_H
#define FERRY_VMM_VCPU_INTERNAL_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include "vmm/vcpu.h"

struct vcpu {
    struct vcpus *vcpus;
    unsigned index;
    int fd;
    struct kvm_run *run;
    pthread_t thread;
    bool has_thread;
    uint64_t starts_seen;
};

struct vcpus {
    struct vcpus_host host;
    unsigned count;
    size_t run_bytes;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool run; /* what the threads shall do */
    bool quit;
    uint64_t starts; /* grows with each start */
    unsigned parked;
    enum vcpu_stop reason;
    bool reported;        /* the reason has been passed on */
    atomic_bool stopping; /* mirrors !run, for the run loops */
    uint64_t stopped_at_ns;
    _Atomic uint64_t started_at_ns;
    struct ferry_error failure;
    struct vcpu vcpus[];
};

/* Run guest code until the vCPUs are to stop and nothing is in flight on this one. */
void vcpu_run(struct vcpu *vcpu);
/* Note the failure (the first counts) and ask all to stop. */
void vcpu_failed(struct vcpu *vcpu, const struct ferry_error *failure);

#endif
