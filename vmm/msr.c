/* The MSRs of a vCPU; see msr.h. */
#include "vmm/msr.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/cleanup.h"

/* Of KVM's list, not saved: held elsewhere, or of a facility that no ferry guest has. */
static const struct {
    uint32_t first, last;
} left_out[] = {
    {0x10, 0x10},             /* TSC: clock_state.c */
    {0x49, 0x49},             /* PRED_CMD: a command, not a state */
    {0xc1, 0xc8},             /* performance counters */
    {0x10b, 0x10b},           /* FLUSH_CMD: a command */
    {0x186, 0x18d},           /* performance event selectors */
    {0x309, 0x30c},           /* fixed counters */
    {0x329, 0x329},           /* PERF_METRICS */
    {0x345, 0x345},           /* PERF_CAPABILITIES */
    {0x38d, 0x390},           /* counter control */
    {0x3f1, 0x3f2},           /* PEBS */
    {0x480, 0x493},           /* VMX capabilities */
    {0x4c1, 0x4c8},           /* full-width counters */
    {0x560, 0x587},           /* processor trace */
    {0x600, 0x600},           /* DS area */
    {0x6a0, 0x6a8},           /* shadow stacks */
    {0x6e0, 0x6e0},           /* TSC deadline: after the LAPIC, vcpu_load.c */
    {0x40000000, 0x400001ff}, /* Hyper-V */
    {0xc0000080, 0xc0000080}, /* EFER: with the special registers */
    {0xc0000300, 0xc0000303}, /* performance counters, AMD v2 */
    {0xc0010000, 0xc0010007}, /* performance counters, K7 */
    {0xc0010200, 0xc001020b}, /* performance counters, family 15h */
};

/* Not in KVM's list, or not in that of every kernel, but state of a guest all the same. */
static const struct {
    uint32_t first, last;
} added[] = {
    {0x17a, 0x17b},                     /* MCG_STATUS, MCG_CTL */
    {0x1a0, 0x1a0},                     /* MISC_ENABLE */
    {0x1d9, 0x1d9},                     /* DEBUGCTL */
    {0x200, 0x20f},                     /* variable MTRRs */
    {0x250, 0x250},                     /* fixed MTRRs, 64 KiB */
    {0x258, 0x259},                     /* 16 KiB */
    {0x268, 0x26f},                     /* 4 KiB */
    {0x277, 0x277},                     /* PAT */
    {0x2ff, 0x2ff},                     /* MTRR default type */
    {0x400, 0x400 + 4 * MCE_BANKS - 1}, /* machine check banks */
    {0xda0, 0xda0},                     /* XSS */
    {0xc0000103, 0xc0000103},           /* TSC_AUX */
    {0xc0010015, 0xc0010015},           /* HWCR */
    {0xc0011029, 0xc0011029},           /* DE_CFG */
};

static const struct {
    uint32_t index;
    const char *name;
} names[] = {
    {0x10, "IA32_TSC"},
    {0x11, "KVM_WALL_CLOCK"},
    {0x12, "KVM_SYSTEM_TIME"},
    {0x34, "SMI_COUNT"},
    {0x3a, "IA32_FEATURE_CONTROL"},
    {0x3b, "IA32_TSC_ADJUST"},
    {0x48, "IA32_SPEC_CTRL"},
    {0x8b, "IA32_BIOS_SIGN_ID"},
    {0xce, "PLATFORM_INFO"},
    {0x10a, "IA32_ARCH_CAPABILITIES"},
    {0x122, "IA32_TSX_CTRL"},
    {0x140, "MISC_FEATURES_ENABLES"},
    {0x174, "IA32_SYSENTER_CS"},
    {0x175, "IA32_SYSENTER_ESP"},
    {0x176, "IA32_SYSENTER_EIP"},
    {0x17a, "IA32_MCG_STATUS"},
    {0x17b, "IA32_MCG_CTL"},
    {0x1a0, "IA32_MISC_ENABLE"},
    {0x1c4, "IA32_XFD"},
    {0x1c5, "IA32_XFD_ERR"},
    {0x1d9, "IA32_DEBUGCTL"},
    {0x1fc, "POWER_CTL"},
    {0x277, "IA32_PAT"},
    {0x2ff, "IA32_MTRR_DEF_TYPE"},
    {0x6e0, "IA32_TSC_DEADLINE"},
    {0xd90, "IA32_BNDCFGS"},
    {0xda0, "IA32_XSS"},
    {0x4b564d00, "KVM_WALL_CLOCK_NEW"},
    {0x4b564d01, "KVM_SYSTEM_TIME_NEW"},
    {0x4b564d02, "KVM_ASYNC_PF_EN"},
    {0x4b564d03, "KVM_STEAL_TIME"},
    {0x4b564d04, "KVM_PV_EOI_EN"},
    {0x4b564d05, "KVM_POLL_CONTROL"},
    {0x4b564d06, "KVM_ASYNC_PF_INT"},
    {0x4b564d07, "KVM_ASYNC_PF_ACK"},
    {0xc0000081, "STAR"},
    {0xc0000082, "LSTAR"},
    {0xc0000083, "CSTAR"},
    {0xc0000084, "SYSCALL_MASK"},
    {0xc0000102, "KERNEL_GS_BASE"},
    {0xc0000103, "TSC_AUX"},
    {0xc0000104, "AMD64_TSC_RATIO"},
    {0xc0010015, "HWCR"},
    {0xc0010117, "VM_HSAVE_PA"},
    {0xc0011029, "DE_CFG"},
    {0xc001011f, "VIRT_SPEC_CTRL"},
};

struct msr_request {
    struct kvm_msrs head;
    struct kvm_msr_entry entries[LIMIT_MSRS];
};

struct msr_indices {
    struct kvm_msr_list head;
    uint32_t indices[4 * LIMIT_MSRS];
};

const char *msr_name(uint32_t index)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (names[i].index == index)
            return names[i].name;
    return NULL;
}

static bool is_left_out(uint32_t index)
{
    for (size_t i = 0; i < sizeof(left_out) / sizeof(left_out[0]); i++)
        if (index >= left_out[i].first && index <= left_out[i].last)
            return true;
    return false;
}

bool msr_list_has(const struct msr_list *list, uint32_t index)
{
    uint32_t low = 0, high = list->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (list->indices[middle] == index)
            return true;
        if (list->indices[middle] < index)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

/* Insert in order, once. */
static void insert(struct msr_list *list, uint32_t index)
{
    uint32_t at = list->count;
    while (at && list->indices[at - 1] > index)
        at--;
    if ((at && list->indices[at - 1] == index) || list->count == LIMIT_MSRS)
        return;
    memmove(&list->indices[at + 1], &list->indices[at],
            (list->count - at) * sizeof(list->indices[0]));
    list->indices[at] = index;
    list->count++;
}

/* Drop those that the vCPU does not have: KVM_GET_MSRS stops at the first it cannot read. */
static int probe(int vcpu_fd, struct msr_list *list, struct ferry_error *err)
{
    struct msr_request *request CLEANUP_FREE = calloc(1, sizeof(*request));
    uint32_t kept = 0;

    if (!request)
        return ferry_fail_sys(err, -ENOMEM, "vCPU", "cannot list its MSRs");
    for (uint32_t from = 0; from < list->count;) {
        request->head.nmsrs = list->count - from;
        for (uint32_t i = from; i < list->count; i++)
            request->entries[i - from].index = list->indices[i];
        int read = ioctl(vcpu_fd, KVM_GET_MSRS, request);
        if (read < 0)
            return ferry_fail_sys(err, -errno, "vCPU", "KVM_GET_MSRS failed");
        memmove(&list->indices[kept], &list->indices[from],
                (size_t)read * sizeof(list->indices[0]));
        kept += (uint32_t)read;
        from += (uint32_t)read + 1;
    }
    list->count = kept;
    return 0;
}

int msr_list_fill(int kvm_fd, int vcpu_fd, struct msr_list *list, struct ferry_error *err)
{
    struct msr_indices *all CLEANUP_FREE = calloc(1, sizeof(*all));
    if (!all)
        return ferry_fail_sys(err, -ENOMEM, "vCPU", "cannot list its MSRs");
    all->head.nmsrs = sizeof(all->indices) / sizeof(all->indices[0]);
    if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, all))
        return ferry_fail_sys(err, -errno, "KVM", "KVM_GET_MSR_INDEX_LIST failed");
    list->count = 0;
    for (uint32_t i = 0; i < all->head.nmsrs; i++)
        if (!is_left_out(all->indices[i]))
            insert(list, all->indices[i]);
    for (size_t i = 0; i < sizeof(added) / sizeof(added[0]); i++)
        for (uint32_t index = added[i].first; index <= added[i].last; index++)
            insert(list, index);
    if (list->count == LIMIT_MSRS)
        return ferry_fail(err, -E2BIG, "KVM", "this kernel has more MSRs than ferry can hold (%d)",
                          LIMIT_MSRS);
    return probe(vcpu_fd, list, err);
}

static const char *describe(uint32_t index, char *text, size_t size)
{
    const char *name = msr_name(index);
    snprintf(text, size, "MSR 0x%x%s%s%s", index, name ? " (" : "", name ? name : "",
             name ? ")" : "");
    return text;
}

int msr_get(int vcpu_fd, const uint32_t *indices, uint32_t count, struct msr_value *values,
            struct ferry_error *err)
{
    struct msr_request *request CLEANUP_FREE = calloc(1, sizeof(*request));
    char text[64];

    if (!request || count > LIMIT_MSRS)
        return ferry_fail_sys(err, request ? -E2BIG : -ENOMEM, "vCPU", "cannot read its MSRs");
    request->head.nmsrs = count;
    for (uint32_t i = 0; i < count; i++)
        request->entries[i].index = indices[i];
    int read = ioctl(vcpu_fd, KVM_GET_MSRS, request);
    if (read < 0)
        return ferry_fail_sys(err, -errno, "vCPU", "KVM_GET_MSRS failed");
    if ((uint32_t)read < count)
        return ferry_fail(err, -EIO, "vCPU", "KVM does not give out %s",
                          describe(indices[read], text, sizeof(text)));
    for (uint32_t i = 0; i < count; i++)
        values[i] = (struct msr_value){request->entries[i].index, request->entries[i].data};
    return 0;
}

/* The values the vCPU has now; one that it does not give out never equals. */
static void drop_equal(int vcpu_fd, struct msr_request *request)
{
    struct msr_request *now CLEANUP_FREE = calloc(1, sizeof(*now));
    uint32_t kept = 0;

    if (!now)
        return;
    memcpy(now, request, sizeof(*now));
    int read = ioctl(vcpu_fd, KVM_GET_MSRS, now);
    for (uint32_t i = 0; i < request->head.nmsrs; i++)
        if ((int)i >= read || now->entries[i].data != request->entries[i].data)
            request->entries[kept++] = request->entries[i];
    request->head.nmsrs = kept;
}

int msr_set(int vcpu_fd, const struct msr_value *values, uint32_t count, struct ferry_error *err)
{
    struct msr_request *request CLEANUP_FREE = calloc(1, sizeof(*request));
    char text[64];

    if (!request || count > LIMIT_MSRS)
        return ferry_fail_sys(err, request ? -E2BIG : -ENOMEM, "vCPU", "cannot set its MSRs");
    request->head.nmsrs = count;
    for (uint32_t i = 0; i < count; i++)
        request->entries[i] =
            (struct kvm_msr_entry){.index = values[i].index, .data = values[i].value};
    drop_equal(vcpu_fd, request);
    int set = ioctl(vcpu_fd, KVM_SET_MSRS, request);
    if (set < 0)
        return ferry_fail_sys(err, -errno, "vCPU", "KVM_SET_MSRS failed");
    if ((uint32_t)set == request->head.nmsrs)
        return 0;
    const struct kvm_msr_entry *bad = &request->entries[set];
    return ferry_refuse(err, -ENOTSUP, "vCPU", "this host's KVM does not take %s = 0x%llx",
                        describe(bad->index, text, sizeof(text)), (unsigned long long)bad->data);
}
