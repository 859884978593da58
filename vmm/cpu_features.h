/* CPUID feature bits: where they are and what they are called (names as in Linux's cpufeatures). */
#ifndef FERRY_VMM_CPU_FEATURES_H
#define FERRY_VMM_CPU_FEATURES_H

#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

enum cpuid_register { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/* One register full of feature bits. */
struct cpu_feature_word {
    uint32_t function;
    uint32_t index;
    enum cpuid_register reg;
    uint32_t movable;      /* bits that a guest of the model "host" may have */
    uint32_t levels[3];    /* bits that x86-64-v2, -v3, -v4 have and need */
    uint32_t dynamic;      /* bits that follow CR4 or the topology: not a matter of support */
    const char *names[32]; /* NULL: no name */
};

extern const struct cpu_feature_word cpu_feature_words[];
extern const size_t cpu_feature_word_count;

/* The register of an entry. */
uint32_t *cpuid_register(struct kvm_cpuid_entry2 *entry, enum cpuid_register reg);
/* Where the entry of a leaf is; count if there is none.  index counts only for leaves that have
 * one.
 */
uint32_t cpuid_position(const struct kvm_cpuid_entry2 *entries, uint32_t count, uint32_t function,
                        uint32_t index);
/* The entry itself, or NULL. */
struct kvm_cpuid_entry2 *cpuid_find(struct kvm_cpuid_entry2 *entries, uint32_t count,
                                    uint32_t function, uint32_t index);

#endif
