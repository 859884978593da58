/* Opening /dev/kvm and making the bare VM; see kvm.h. */
#include "vmm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include "common/cleanup.h"
#include "vmm/layout.h"

#define KVM_DEVICE "/dev/kvm"

/* What ferry cannot do without.  All of it is in Linux 5.17 and later. */
static const struct {
    unsigned capability;
    const char *name;
} required[] = {
    {KVM_CAP_USER_MEMORY, "user memory slots"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_SET_TSS_ADDR"},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_SET_IDENTITY_MAP_ADDR"},
    {KVM_CAP_IRQCHIP, "interrupt controllers in the kernel"},
    {KVM_CAP_PIT2, "the timer in the kernel (PIT2)"},
    {KVM_CAP_PIT_STATE2, "the timer's state"},
    {KVM_CAP_IRQ_ROUTING, "interrupt routing"},
    {KVM_CAP_IRQFD, "irqfd"},
    {KVM_CAP_IOEVENTFD, "ioeventfd"},
    {KVM_CAP_EXT_CPUID, "KVM_GET_SUPPORTED_CPUID"},
    {KVM_CAP_MP_STATE, "MP state"},
    {KVM_CAP_VCPU_EVENTS, "vCPU events"},
    {KVM_CAP_DEBUGREGS, "debug registers"},
    {KVM_CAP_XCRS, "XCRs"},
    {KVM_CAP_XSAVE2, "KVM_GET_XSAVE2"},
    {KVM_CAP_SREGS2, "KVM_GET_SREGS2"},
    {KVM_CAP_ADJUST_CLOCK, "KVM_SET_CLOCK"},
    {KVM_CAP_GET_TSC_KHZ, "KVM_GET_TSC_KHZ"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
    {KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, "manual clearing of the dirty log"},
};

int kvm_capability(int fd, unsigned capability)
{
    int value = ioctl(fd, KVM_CHECK_EXTENSION, (unsigned long)capability);
    return value < 0 ? 0 : value;
}

static int open_failed(int code, struct ferry_error *err)
{
    switch (code) {
    case -ENOENT:
    case -ENXIO:
    case -ENODEV:
        return ferry_fail_sys(err, code, KVM_DEVICE,
                              "this host offers no KVM: enable virtualisation in the firmware and "
                              "load kvm_intel or kvm_amd");
    case -EACCES:
    case -EPERM:
        return ferry_fail_sys(err, code, KVM_DEVICE,
                              "no permission: join the group that owns it (usually kvm)");
    default:
        return ferry_fail_sys(err, code, KVM_DEVICE, "cannot be opened");
    }
}

static int check_required(int fd, struct ferry_error *err)
{
    for (unsigned i = 0; i < sizeof(required) / sizeof(required[0]); i++)
        if (!kvm_capability(fd, required[i].capability))
            return ferry_fail(err, -ENOTSUP, KVM_DEVICE,
                              "this host's KVM lacks %s; Linux 5.17 or newer is needed",
                              required[i].name);
    return 0;
}

int kvm_open(int *fd, struct ferry_error *err)
{
    int kvm CLEANUP_FD = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        return open_failed(-errno, err);
    int version = ioctl(kvm, KVM_GET_API_VERSION, 0ul);
    if (version != KVM_API_VERSION)
        return ferry_fail(err, -ENOTSUP, KVM_DEVICE, "API version %d, ferry needs %d", version,
                          KVM_API_VERSION);
    int rc = check_required(kvm, err);
    if (rc)
        return rc;
    *fd = take_fd(&kvm);
    return 0;
}

static int enable(int vm, unsigned capability, uint64_t argument)
{
    struct kvm_enable_cap request = {.cap = capability, .args = {argument}};
    return ioctl(vm, KVM_ENABLE_CAP, &request) ? -errno : 0;
}

int kvm_create_chips(int vm_fd, struct ferry_error *err)
{
    uint64_t identity_map = LAYOUT_IDENTITY_MAP;
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};

    if (ioctl(vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map))
        return ferry_fail_sys(err, -errno, "KVM", "KVM_SET_IDENTITY_MAP_ADDR failed");
    if (ioctl(vm_fd, KVM_SET_TSS_ADDR, (unsigned long)LAYOUT_TSS))
        return ferry_fail_sys(err, -errno, "KVM", "KVM_SET_TSS_ADDR failed");
    if (ioctl(vm_fd, KVM_CREATE_IRQCHIP, 0ul))
        return ferry_fail_sys(err, -errno, "KVM", "cannot create the interrupt controllers");
    if (ioctl(vm_fd, KVM_CREATE_PIT2, &pit))
        return ferry_fail_sys(err, -errno, "KVM", "cannot create the timer");
    return 0;
}

int kvm_create_vm(int kvm_fd, int *vm_fd, struct ferry_error *err)
{
    int vm CLEANUP_FD = -1;
    do
        vm = ioctl(kvm_fd, KVM_CREATE_VM, 0ul);
    while (vm < 0 && errno == EINTR);
    if (vm < 0)
        return ferry_fail_sys(err, -errno, "KVM", "cannot create a virtual machine");
    int rc = enable(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
    if (rc)
        return ferry_fail_sys(err, rc, "KVM", "cannot switch the dirty log to manual clearing");
    /* Both make KVM_GET_VCPU_EVENTS say more about exceptions in flight; fine without. */
    if (kvm_capability(vm, KVM_CAP_EXCEPTION_PAYLOAD))
        (void)enable(vm, KVM_CAP_EXCEPTION_PAYLOAD, 1);
    if (kvm_capability(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT))
        (void)enable(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
    *vm_fd = take_fd(&vm);
    return 0;
}
