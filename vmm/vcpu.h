/*
 * The vCPUs of a machine: one thread each, all of them running guest code or all of them parked.
 *
 * A parked vCPU has no access in flight: what its last exit still owed the guest has been
 * completed, so its state in KVM is whole and may be read or replaced.
 */
#ifndef FERRY_VMM_VCPU_H
#define FERRY_VMM_VCPU_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "vmm/bus.h"

struct vcpus;

/* Why the vCPUs stopped by themselves. */
enum vcpu_stop {
    VCPU_STOP_NONE,
    VCPU_STOP_POWEROFF,
    VCPU_STOP_RESET,
    VCPU_STOP_FAILED, /* vcpus_failure() says why */
};

struct vcpus_host {
    struct bus *pio;
    struct bus *mmio;
    /*
     * The vCPUs have stopped for a reason of their own and are parked.  Once a reason, on the
     * thread that parked last, no lock held; must not call vcpus_destroy or vcpus_stop.
     */
    void (*stopped)(void *opaque, enum vcpu_stop reason);
    void *opaque;
};

/*
 * KVM_CREATE_VCPU and a parked thread for each of 0..count-1 (1..LIMIT_VCPUS).  host is copied.
 * Installs a handler that does nothing for SIGRTMIN, the signal that takes a vCPU out of KVM_RUN.
 */
int vcpus_create(int kvm_fd, int vm_fd, unsigned count, const struct vcpus_host *host,
                 struct vcpus **out, struct ferry_error *err);
void vcpus_destroy(struct vcpus *vcpus); /* stops them first; NULL is fine */
unsigned vcpus_count(const struct vcpus *vcpus);
/* The KVM vCPU, for state ioctls while parked. */
int vcpus_fd(const struct vcpus *vcpus, unsigned index);

/* Let them run.  -ESHUTDOWN while a reason of their own stands (vcpus_forgive takes it away). */
int vcpus_start(struct vcpus *vcpus, struct ferry_error *err);
/* Park them and wait until they are. */
void vcpus_stop(struct vcpus *vcpus);
/* Park them soon, for a reason; the first reason counts.  Any thread, from device handlers too. */
void vcpus_request_stop(struct vcpus *vcpus, enum vcpu_stop reason);
/* The reason that stands. */
enum vcpu_stop vcpus_reason(struct vcpus *vcpus);
void vcpus_forgive(struct vcpus *vcpus);
bool vcpus_running(struct vcpus *vcpus); /* false from the moment they are asked to park */
/* CLOCK_MONOTONIC ns: when the last one parked; when the first entered after the last start or 0.
 */
uint64_t vcpus_stopped_at_ns(struct vcpus *vcpus);
uint64_t vcpus_started_at_ns(struct vcpus *vcpus);
/* What went wrong, after VCPU_STOP_FAILED. */
const struct ferry_error *vcpus_failure(const struct vcpus *vcpus);

#endif
