/*
 * The guest's clocks: kvmclock of the machine and the TSC of each vCPU, read at one instant
 * together with the real time, and set again later so that all of them have advanced by the real
 * time that has passed, and never gone backwards.  Section "clock".
 * Sources: KVM_GET_CLOCK, KVM_SET_CLOCK (api.rst 4.29, 4.30), KVM_VCPU_TSC_OFFSET
 * (virt/kvm/devices/vcpu.rst 4.1), KVM_SET_TSC_KHZ (api.rst 4.55).
 */
#ifndef FERRY_VMM_CLOCK_STATE_H
#define FERRY_VMM_CLOCK_STATE_H

#include <stdint.h>

#include "common/error.h"
#include "common/limits.h"
#include "vmm/part.h"
#include "vmm/vcpu.h"

struct clock_state {
    uint64_t kvmclock_ns;
    uint64_t realtime_ns; /* CLOCK_REALTIME of the host at the same instant */
    uint32_t tsc_count;   /* vCPUs */
    uint64_t tsc[LIMIT_VCPUS];
};
extern const struct state_table clock_table;

struct clock_source {
    int vm_fd;
    struct vcpus *vcpus;
    uint32_t tsc_khz;
};

/* The part "clock".  source must outlive it. */
void clock_part(struct clock_source *source, struct part *part);

/* The guest's TSC frequency in kHz as KVM has it (KVM_GET_TSC_KHZ). */
int clock_frequency(int vcpu_fd, uint32_t *tsc_khz, struct ferry_error *err);
/*
 * Give a vCPU the frequency tsc_khz (0: the host's).  Where the host cannot scale, a difference of
 * up to 250 ppm, KVM's own tolerance, is let pass, a greater one FERRY_REFUSED.
 */
int clock_set_frequency(int vm_fd, int vcpu_fd, uint32_t tsc_khz, struct ferry_error *err);

#endif
