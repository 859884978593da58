/*
 * Which MSRs of a vCPU are written down, and setting them.
 * Sources: KVM_GET_MSR_INDEX_LIST, KVM_GET_MSRS, KVM_SET_MSRS (api.rst 4.3, 4.18, 4.19).
 */
#ifndef FERRY_VMM_MSR_H
#define FERRY_VMM_MSR_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/limits.h"

#define MSR_TSC           0x10u
#define MSR_TSC_DEADLINE  0x6e0u
#define MSR_MTRR_DEF_TYPE 0x2ffu
/* Machine check banks that every ferry machine has (KVM_X86_SETUP_MCE). */
#define MCE_BANKS 10u

struct msr_value {
    uint32_t index;
    uint64_t value;
};

struct msr_list {
    uint32_t count;
    uint32_t indices[LIMIT_MSRS]; /* ascending */
};

/*
 * KVM's index list, less what a ferry guest cannot have or what is saved elsewhere (TSC, TSC
 * deadline, EFER, APIC base), plus what the list leaves out (MTRRs, machine check banks ...), less
 * what vcpu_fd does not know.
 */
int msr_list_fill(int kvm_fd, int vcpu_fd, struct msr_list *list, struct ferry_error *err);
bool msr_list_has(const struct msr_list *list, uint32_t index);
/* KVM_GET_MSRS of count indices into values. */
int msr_get(int vcpu_fd, const uint32_t *indices, uint32_t count, struct msr_value *values,
            struct ferry_error *err);
/*
 * Set those of the values that are not what the vCPU has already (so that a register that may only
 * be read is no obstacle while it agrees).  FERRY_REFUSED names the MSR that KVM does not take.
 */
int msr_set(int vcpu_fd, const struct msr_value *values, uint32_t count, struct ferry_error *err);
/* "IA32_PAT", or NULL if ferry has no name for it. */
const char *msr_name(uint32_t index);

#endif
