/*
 * The topology that a guest's CPUID shows: one package, a core a vCPU, one thread a core, APIC id =
 * vCPU index (as acpi.h has it).
 */
#ifndef FERRY_VMM_CPU_TOPOLOGY_H
#define FERRY_VMM_CPU_TOPOLOGY_H

#include <stdint.h>

#include <linux/kvm.h>

#include "common/error.h"
#include "vmm/config.h"

/* Append leaf 0xb (extended topology) to config->cpuid. */
int cpu_topology_add(struct machine_config *config, struct ferry_error *err);
/* Write APIC id and counts of vCPU `index` of `cpus` into the leaves that have them. */
void cpu_topology_patch(struct kvm_cpuid_entry2 *entries, uint32_t count, unsigned index,
                        unsigned cpus);

#endif
