/*
 * CPU models: what the guest's CPUID says, so that a machine can be moved to any host that offers
 * the same.  Sources: KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2; Intel SDM 2A (CPUID), AMD APM 3
 * appendix E, x86-64 psABI 1.0 section 3.1.1 (levels v2 to v4), Linux
 * Documentation/virt/kvm/x86/cpuid.rst.
 */
#ifndef FERRY_VMM_CPU_MODEL_H
#define FERRY_VMM_CPU_MODEL_H

#include "common/error.h"
#include "vmm/config.h"

/*
 * Fill config->cpuid for config->cpu_model ("host", "x86-64-v2", "-v3", "-v4") on this host and for
 * config->cpus: what KVM supports, less what a machine cannot take along (nested virtualisation,
 * performance counters, tracing, enclaves, monitor/mwait, shadow stacks, the invariant TSC), less,
 * for a named level, what is beyond it.  FERRY_USAGE: no such model; FERRY_REFUSED: the host lacks
 * features of the level, all named.
 */
int cpu_model_fill(int kvm_fd, struct machine_config *config, struct ferry_error *err);
/* FERRY_REFUSED, naming every missing feature, if this host cannot give config->cpuid to a guest.
 */
int cpu_model_check(int kvm_fd, const struct machine_config *config, struct ferry_error *err);
/*
 * KVM_SET_CPUID2 on vCPU `index`: config->cpuid with this vCPU's APIC id and the topology of one
 * package of config->cpus cores; and the machine check banks (KVM_X86_SETUP_MCE).
 */
int cpu_model_apply(int vcpu_fd, unsigned index, const struct machine_config *config,
                    struct ferry_error *err);

#endif
