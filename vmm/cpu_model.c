/*
 * Making a guest's CPUID and checking a foreign one; see cpu_model.h.
 *
 * A guest's CPUID is made of an allow-list of leaves, and within the leaves of feature bits of the
 * bits that the table of cpu_features.c allows.  A description from elsewhere is held to the same
 * list: whatever it asks for must be supported by this host's KVM and be something that ferry can
 * take along again.
 */
#include "vmm/cpu_model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/cleanup.h"
#include "vmm/cpu_features.h"
#include "vmm/cpu_topology.h"
#include "vmm/kvm.h"
#include "vmm/msr.h"

#define CPUID_XSAVE_BIT        (1u << 26) /* leaf 1 ECX */
#define CPUID_TSC_DEADLINE_BIT (1u << 24) /* leaf 1 ECX */
#define CPUID_HYPERVISOR_BIT   (1u << 31) /* leaf 1 ECX */
#define CPUID_ARAT_BIT         (1u << 2)  /* leaf 6 EAX */
#define XSAVE_LEGACY_BYTES     576        /* legacy region and header */
#define MCG_CTL_P              (1u << 8)  /* IA32_MCG_CAP: MCG_CTL exists */
#define NAMED_PHYSICAL_BITS    40

/* Family 15, model 107, stepping 1: what QEMU gives to its named levels. */
#define NAMED_SIGNATURE 0x00060fb1u

static const char *const level_names[] = {"x86-64-v2", "x86-64-v3", "x86-64-v4"};

/* Leaves that a guest may have.  host_only: descriptions of the very CPU, not part of a level. */
static const struct {
    uint32_t first, last;
    bool host_only;
} leaves[] = {
    {0x0, 0x1, false},
    {0x2, 0x2, true},
    {0x4, 0x4, true},
    {0x6, 0x6, false},
    {0x7, 0x7, false},
    {0xb, 0xb, false},
    {0xd, 0xd, false},
    {0x40000000, 0x40000001, false},
    {0x80000000, 0x80000004, false},
    {0x80000005, 0x80000006, true},
    {0x80000007, 0x80000008, false},
    {0x80000019, 0x8000001a, true},
    {0x8000001d, 0x8000001e, true},
    {0x80000021, 0x80000021, true},
};

struct supported {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[LIMIT_CPUID_ENTRIES];
};

/* KVM_GET_SUPPORTED_CPUID, with what it leaves out although it is there.  The caller frees it;
 * NULL: failed, *rc and err say how. */
static struct supported *get_supported(int kvm_fd, int *rc, struct ferry_error *err)
{
    struct supported *supported CLEANUP_FREE = calloc(1, sizeof(*supported));
    if (!supported) {
        *rc = ferry_fail_sys(err, -ENOMEM, "CPU", "cannot ask for its features");
        return NULL;
    }
    supported->head.nent = LIMIT_CPUID_ENTRIES;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, supported)) {
        *rc = ferry_fail_sys(err, -errno, "CPU", "KVM_GET_SUPPORTED_CPUID failed");
        return NULL;
    }
    struct kvm_cpuid_entry2 *leaf1 = cpuid_find(supported->entries, supported->head.nent, 1, 0);
    /* Never reported; without it no guest looks for leaf 0x40000000, kvmclock and the rest. */
    if (leaf1)
        leaf1->ecx |= CPUID_HYPERVISOR_BIT;
    /* api.rst 4.46: reported by the capability alone on older kernels. */
    if (leaf1 && kvm_capability(kvm_fd, KVM_CAP_TSC_DEADLINE_TIMER))
        leaf1->ecx |= CPUID_TSC_DEADLINE_BIT;
    return take_ptr(&supported);
}

static bool leaf_allowed(uint32_t function, bool host)
{
    for (size_t i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++)
        if (function >= leaves[i].first && function <= leaves[i].last)
            return host || !leaves[i].host_only;
    return false;
}

/* Append the names of bits to text, "a, b, 0x7.0.ebx[31]". */
static void name_bits(char *text, size_t size, const struct cpu_feature_word *word, uint32_t bits)
{
    static const char *const registers[] = {"eax", "ebx", "ecx", "edx"};
    for (unsigned bit = 0; bit < 32; bit++) {
        size_t used = strlen(text);
        if (!(bits & 1u << bit))
            continue;
        const char *comma = used ? ", " : "";
        if (word->names[bit])
            snprintf(text + used, size - used, "%s%s", comma, word->names[bit]);
        else
            snprintf(text + used, size - used, "%s0x%x.%u.%s[%u]", comma, word->function,
                     word->index, registers[word->reg], bit);
    }
}

static uint32_t register_of(const struct kvm_cpuid_entry2 *entries, uint32_t count,
                            const struct cpu_feature_word *word)
{
    uint32_t at = cpuid_position(entries, count, word->function, word->index);
    struct kvm_cpuid_entry2 entry = {0};
    if (at < count)
        entry = entries[at];
    return *cpuid_register(&entry, word->reg);
}

/* ---- making one ---- */

/* Index into level_names, -1: "host", -2: no such model. */
static int level_of(const char *model)
{
    if (strcmp(model, "host") == 0)
        return -1;
    for (int i = 0; i < 3; i++)
        if (strcmp(model, level_names[i]) == 0)
            return i;
    return -2;
}

static void copy_leaves(struct supported *from, int level, struct machine_config *config)
{
    config->cpuid_count = 0;
    for (uint32_t i = 0; i < from->head.nent && i < LIMIT_CPUID_ENTRIES; i++) {
        const struct kvm_cpuid_entry2 *e = &from->entries[i];
        if (!leaf_allowed(e->function, level < 0) || e->function == 0xb)
            continue;
        struct kvm_cpuid_entry2 *to = &config->cpuid[config->cpuid_count++];
        *to = *e;
        memset(to->padding, 0, sizeof(to->padding));
    }
}

static int mask_features(struct supported *from, int level, struct machine_config *config,
                         struct ferry_error *err)
{
    char missing[200] = "";
    for (size_t i = 0; i < cpu_feature_word_count; i++) {
        const struct cpu_feature_word *word = &cpu_feature_words[i];
        uint32_t have = register_of(from->entries, from->head.nent, word);
        struct kvm_cpuid_entry2 *e =
            cpuid_find(config->cpuid, config->cpuid_count, word->function, word->index);
        uint32_t want = level < 0 ? word->movable : word->levels[level];
        if (level >= 0)
            name_bits(missing, sizeof(missing), word, want & ~have);
        if (e)
            *cpuid_register(e, word->reg) = have & want & ~word->dynamic;
    }
    if (missing[0])
        return ferry_refuse(err, -ENOTSUP, "CPU", "this host cannot offer %s; it lacks %s",
                            config->cpu_model, missing);
    return 0;
}

/*
 * Leaf 0xd: only the components that XCR0 may still have, and the size they need.  "host" keeps it
 * whatever leaf 1 says: KVM without virtualisation hardware does not report XSAVE, but its guests
 * use AVX all the same, and KVM_GET_XSAVE2 gives out only what this leaf names.
 */
static void shape_xsave(int level, struct machine_config *config)
{
    const struct kvm_cpuid_entry2 *leaf1 = cpuid_find(config->cpuid, config->cpuid_count, 1, 0);
    struct kvm_cpuid_entry2 *root = cpuid_find(config->cpuid, config->cpuid_count, 0xd, 0);
    bool xsave = level < 0 || (leaf1 && leaf1->ecx & CPUID_XSAVE_BIT);
    uint32_t components = xsave && root ? root->eax : 0;
    uint32_t bytes = XSAVE_LEGACY_BYTES, kept = 0;

    for (uint32_t i = 0; i < config->cpuid_count; i++) {
        struct kvm_cpuid_entry2 *e = &config->cpuid[i];
        if (e->function == 0xd) {
            if (!xsave || (e->index > 1 && (e->index > 31 || !(components & 1u << e->index))))
                continue;
            if (e->index > 1 && e->eax + e->ebx > bytes)
                bytes = e->eax + e->ebx; /* size and offset of the component */
            if (e->index == 1)
                e->ecx = e->edx = 0; /* IA32_XSS: no supervisor state */
        }
        config->cpuid[kept++] = *e;
    }
    config->cpuid_count = kept;
    root = cpuid_find(config->cpuid, config->cpuid_count, 0xd, 0);
    if (root) {
        root->ebx = root->ecx = bytes;
        root->edx = 0;
    }
}

static void clear_registers(struct machine_config *config, uint32_t function, uint32_t keep_eax)
{
    struct kvm_cpuid_entry2 *e = cpuid_find(config->cpuid, config->cpuid_count, function, 0);
    if (!e)
        return;
    e->eax &= keep_eax;
    e->ebx = e->ecx = e->edx = 0;
}

/* The first leaf of each range says how far the range goes. */
static void set_range_ends(struct machine_config *config)
{
    static const uint32_t bases[] = {0, 0x40000000, 0x80000000};
    for (size_t i = 0; i < 3; i++) {
        struct kvm_cpuid_entry2 *base = cpuid_find(config->cpuid, config->cpuid_count, bases[i], 0);
        uint32_t last = bases[i];
        for (uint32_t n = 0; n < config->cpuid_count; n++) {
            uint32_t function = config->cpuid[n].function;
            if (function >> 28 == bases[i] >> 28 && function > last)
                last = function;
        }
        if (base)
            base->eax = last;
    }
    uint32_t subleaf = 0;
    struct kvm_cpuid_entry2 *features = cpuid_find(config->cpuid, config->cpuid_count, 7, 0);
    for (uint32_t n = 0; features && n < config->cpuid_count; n++)
        if (config->cpuid[n].function == 7 && config->cpuid[n].index > subleaf)
            subleaf = config->cpuid[n].index;
    if (features)
        features->eax = subleaf;
}

/* A level looks the same on every host: signature, brand, address widths. */
static void shape_level(int level, struct machine_config *config)
{
    struct kvm_cpuid_entry2 *e = cpuid_find(config->cpuid, config->cpuid_count, 1, 0);
    if (e)
        e->eax = NAMED_SIGNATURE;
    e = cpuid_find(config->cpuid, config->cpuid_count, 0x80000001, 0);
    if (e)
        e->eax = NAMED_SIGNATURE, e->ebx = 0;
    char brand[48] = "";
    snprintf(brand, sizeof(brand), "ferry %s", level_names[level]);
    for (uint32_t i = 0; i < 3; i++) {
        e = cpuid_find(config->cpuid, config->cpuid_count, 0x80000002 + i, 0);
        for (unsigned reg = 0; e && reg < 4; reg++)
            memcpy(cpuid_register(e, reg), brand + (size_t)16 * i + (size_t)4 * reg, 4);
    }
    e = cpuid_find(config->cpuid, config->cpuid_count, 0x80000008, 0);
    if (e) {
        uint32_t bits = e->eax & 0xff;
        e->eax = 48u << 8 | (bits < NAMED_PHYSICAL_BITS ? bits : NAMED_PHYSICAL_BITS);
    }
}

int cpu_model_fill(int kvm_fd, struct machine_config *config, struct ferry_error *err)
{
    int rc = 0, level = level_of(config->cpu_model);

    if (level < -1)
        return ferry_usage(err, config->cpu_model,
                           "no such CPU model: there are host, x86-64-v2, x86-64-v3, x86-64-v4");
    struct supported *supported CLEANUP_FREE = get_supported(kvm_fd, &rc, err);
    if (!supported)
        return rc;
    copy_leaves(supported, level, config);
    rc = mask_features(supported, level, config, err);
    if (rc)
        return rc;
    shape_xsave(level, config);
    clear_registers(config, 0x6, CPUID_ARAT_BIT);
    clear_registers(config, 0x80000007, 0); /* the invariant TSC: a promise that moves break */
    if (level >= 0)
        shape_level(level, config);
    rc = cpu_topology_add(config, err);
    if (rc)
        return rc;
    set_range_ends(config);
    cpu_topology_patch(config->cpuid, config->cpuid_count, 0, config->cpus);
    return 0;
}

/* ---- checking one ---- */

static int check_leaves(const struct machine_config *config, struct ferry_error *err)
{
    for (uint32_t i = 0; i < config->cpuid_count; i++) {
        const struct kvm_cpuid_entry2 *e = &config->cpuid[i];
        if (!leaf_allowed(e->function, true) && (e->eax | e->ebx | e->ecx | e->edx))
            return ferry_refuse(err, -ENOTSUP, "CPU",
                                "the machine's CPUID has leaf 0x%x, which this ferry does not know",
                                e->function);
    }
    return 0;
}

/* Bits of a physical address, 0: not said. */
static uint32_t address_bits(const struct kvm_cpuid_entry2 *entries, uint32_t count)
{
    uint32_t at = cpuid_position(entries, count, 0x80000008, 0);
    return at < count ? entries[at].eax & 0xff : 0;
}

int cpu_model_check(int kvm_fd, const struct machine_config *config, struct ferry_error *err)
{
    char missing[200] = "";
    int rc = 0;

    struct supported *host CLEANUP_FREE = get_supported(kvm_fd, &rc, err);
    if (!host)
        return rc;
    for (size_t i = 0; i < cpu_feature_word_count; i++) {
        const struct cpu_feature_word *word = &cpu_feature_words[i];
        uint32_t wanted = register_of(config->cpuid, config->cpuid_count, word);
        uint32_t given = register_of(host->entries, host->head.nent, word);
        name_bits(missing, sizeof(missing), word,
                  wanted & ~word->dynamic & ~(given & word->movable));
    }
    if (missing[0])
        return ferry_refuse(err, -ENOTSUP, "CPU",
                            "this host cannot give the machine the CPU features it has: %s",
                            missing);
    uint32_t guest_bits = address_bits(config->cpuid, config->cpuid_count);
    uint32_t host_bits = address_bits(host->entries, host->head.nent);
    if (host_bits && guest_bits > host_bits)
        return ferry_refuse(err, -ENOTSUP, "CPU",
                            "the machine has %u bits of physical address, this host %u", guest_bits,
                            host_bits);
    return check_leaves(config, err);
}

int cpu_model_apply(int vcpu_fd, unsigned index, const struct machine_config *config,
                    struct ferry_error *err)
{
    struct supported *cpuid CLEANUP_FREE = calloc(1, sizeof(*cpuid));
    if (!cpuid)
        return ferry_fail_sys(err, -ENOMEM, "CPU", "cannot set its features");
    cpuid->head.nent = config->cpuid_count;
    memcpy(cpuid->entries, config->cpuid, config->cpuid_count * sizeof(config->cpuid[0]));
    cpu_topology_patch(cpuid->entries, cpuid->head.nent, index, config->cpus);
    if (ioctl(vcpu_fd, KVM_SET_CPUID2, cpuid))
        return ferry_fail_sys(err, -errno, "CPU", "KVM refuses the CPUID of vCPU %u", index);
    /* The same on every host, whose KVM may have more banks. */
    uint64_t mcg_cap = MCE_BANKS | MCG_CTL_P;
    if (ioctl(vcpu_fd, KVM_X86_SETUP_MCE, &mcg_cap))
        return ferry_fail_sys(err, -errno, "CPU", "KVM refuses machine check banks");
    return 0;
}
