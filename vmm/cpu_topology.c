/*
 * APIC ids and counts of cores in CPUID (Intel SDM 2A: leaves 1, 4, 0xb; AMD APM 3: 0x80000008,
 * 0x8000001d, 0x8000001e).  KVM_GET_SUPPORTED_CPUID has those of the host CPU that answered.
 */
#include "vmm/cpu_topology.h"

#include <errno.h>

#define LEVEL_THREAD   1u
#define LEVEL_CORE     2u
#define HTT_BIT        (1u << 28) /* leaf 1 EDX */
#define CMP_LEGACY_BIT (1u << 1)  /* leaf 0x80000001 ECX */

int cpu_topology_add(struct machine_config *config, struct ferry_error *err)
{
    for (uint32_t index = 0; index < 2; index++) {
        if (config->cpuid_count == LIMIT_CPUID_ENTRIES)
            return ferry_fail(err, -E2BIG, "CPU", "the host's CPUID has too many leaves");
        config->cpuid[config->cpuid_count++] = (struct kvm_cpuid_entry2){
            .function = 0xb, .index = index, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX};
    }
    return 0;
}

/* Bits of an APIC id that number `cpus` of them. */
static uint32_t id_bits(unsigned cpus)
{
    uint32_t bits = 0;
    while (1u << bits < cpus)
        bits++;
    return bits;
}

/* Leaf 4 and 0x8000001d EAX: bits 25:14 ids that share the cache, less one. */
static uint32_t cache_sharing(uint32_t eax, unsigned cpus)
{
    uint32_t level = eax >> 5 & 7;
    uint32_t sharing = level >= 3 ? (1u << id_bits(cpus)) - 1 : 0;
    return (eax & ~(0xfffu << 14)) | sharing << 14;
}

static void patch(struct kvm_cpuid_entry2 *e, unsigned index, unsigned cpus)
{
    uint32_t ids = 1u << id_bits(cpus);

    switch (e->function) {
    case 0x1:
        e->ebx = (e->ebx & 0x0000ffff) | ids << 16 | index << 24;
        e->edx = cpus > 1 ? e->edx | HTT_BIT : e->edx & ~HTT_BIT;
        break;
    case 0x4:
        if (e->eax & 0x1f)
            e->eax = (cache_sharing(e->eax, cpus) & 0x03ffffff) | (ids - 1) << 26;
        break;
    case 0xb:
        e->eax = e->index == 0 ? 0 : id_bits(cpus);
        e->ebx = e->index == 0 ? 1 : cpus;
        e->ecx = e->index | (e->index == 0 ? LEVEL_THREAD : LEVEL_CORE) << 8;
        e->edx = index;
        break;
    case 0x80000001:
        e->ecx &= ~CMP_LEGACY_BIT; /* leaf 0xb tells more */
        break;
    case 0x80000008:
        e->ecx = (cpus - 1) | id_bits(cpus) << 12;
        break;
    case 0x8000001d:
        if (e->eax & 0x1f)
            e->eax = cache_sharing(e->eax, cpus);
        break;
    case 0x8000001e:
        e->eax = index;
        e->ebx = index & 0xff; /* core id, one thread a core */
        e->ecx = 0;            /* one node */
        break;
    default:
        break;
    }
}

void cpu_topology_patch(struct kvm_cpuid_entry2 *entries, uint32_t count, unsigned index,
                        unsigned cpus)
{
    for (uint32_t i = 0; i < count; i++)
        patch(&entries[i], index, cpus);
}
