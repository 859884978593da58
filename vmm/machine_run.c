/*
 * Boot, run, pause, reset.
 *
 * Clocks: a pause does not stop the guest's clocks.  QEMU sets kvmclock back at `cont`; ferry lets
 * it run on, because the TSC cannot be stopped anyway and a restore or a move steps kvmclock and
 * TSC by the real time that has passed (clock_state.c): so the guest always sees a gap of the
 * length that it really had, on every clock, whether it was paused, restored or moved.  A guest
 * with kvmclock is told of the gap (KVM_KVMCLOCK_CTRL), so that its watchdogs do not bark.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/acpi.h"
#include "vmm/boot.h"
#include "vmm/device/acpi_pm.h"
#include "vmm/machine_internal.h"

#define MTRR_ENABLED    0x800u
#define MTRR_WRITE_BACK 6u

/* As firmware leaves them: on, all memory write-back.  Linux takes PAT for unusable otherwise. */
static int set_mtrrs(struct machine *machine, struct ferry_error *err)
{
    const struct msr_value mtrr = {MSR_MTRR_DEF_TYPE, MTRR_ENABLED | MTRR_WRITE_BACK};
    int rc = 0;
    for (unsigned i = 0; !rc && i < machine->config.cpus; i++)
        rc = msr_set(vcpus_fd(machine->vcpus, i), &mtrr, 1, err);
    return rc;
}

static int enter_kernel(struct machine *machine, const struct boot_entry *entry,
                        struct ferry_error *err)
{
    int fd = vcpus_fd(machine->vcpus, 0);
    struct kvm_sregs sregs;
    struct kvm_regs regs;

    if (ioctl(fd, KVM_GET_SREGS, &sregs) || ioctl(fd, KVM_GET_REGS, &regs))
        return ferry_fail_sys(err, -errno, "vCPU 0", "cannot read its registers");
    boot_apply_sregs(entry, &sregs, &regs);
    if (ioctl(fd, KVM_SET_SREGS, &sregs) || ioctl(fd, KVM_SET_REGS, &regs))
        return ferry_fail_sys(err, -errno, "vCPU 0", "KVM refuses the entry state of the kernel");
    return 0;
}

int machine_boot(struct machine *machine, const struct boot_source *source, struct ferry_error *err)
{
    struct acpi_params acpi = {.cpus = machine->config.cpus};
    struct boot_entry entry;
    struct gpa rsdp;

    int rc = machine_remember_power_on(machine, err);
    if (rc)
        return rc;
    memcpy(acpi.generation, machine->config.generation, sizeof(acpi.generation));
    rc = acpi_install(&acpi, machine->memory, &rsdp, err);
    if (!rc)
        rc = boot_load(machine->memory, source, rsdp, &entry, err);
    if (!rc)
        rc = set_mtrrs(machine, err);
    return rc ? rc : enter_kernel(machine, &entry, err);
}

static int check_disks(const struct machine *machine, struct ferry_error *err)
{
    for (uint32_t i = 0; i < machine->config.disk_count; i++)
        if (!machine->host.disks[i]->active)
            return ferry_fail(err, -EINVAL, machine->config.disks[i].device,
                              "the machine cannot run: it does not own this disk");
    return 0;
}

int machine_resume(struct machine *machine, struct ferry_error *err)
{
    if (vcpus_running(machine->vcpus))
        return 0;
    int rc = check_disks(machine, err);
    if (!rc)
        rc = machine_resume_devices(machine, err);
    if (rc)
        return rc;
    for (unsigned i = 0; i < machine->config.cpus; i++)
        (void)ioctl(vcpus_fd(machine->vcpus, i), KVM_KVMCLOCK_CTRL, 0ul); /* EINVAL: no kvmclock */
    rc = vcpus_start(machine->vcpus, err);
    if (rc)
        (void)machine_quiesce_devices(machine, NULL);
    return rc;
}

int machine_pause(struct machine *machine, struct ferry_error *err)
{
    vcpus_stop(machine->vcpus);
    return machine_quiesce_devices(machine, err);
}

bool machine_is_running(const struct machine *machine)
{
    return vcpus_running(machine->vcpus);
}

uint64_t machine_paused_at_ns(const struct machine *machine)
{
    return vcpus_stopped_at_ns(machine->vcpus);
}

uint64_t machine_resumed_at_ns(const struct machine *machine)
{
    return vcpus_started_at_ns(machine->vcpus);
}

const struct ferry_error *machine_failure(const struct machine *machine)
{
    return vcpus_failure(machine->vcpus);
}

void machine_power_button(struct machine *machine)
{
    acpi_pm_power_button(machine->acpi_pm);
}

int machine_reset(struct machine *machine, struct ferry_error *err)
{
    int rc = machine_pause(machine, err);
    if (rc)
        return rc;
    rc = machine_restore_power_on(machine, err);
    if (rc)
        return rc;
    machine_reset_devices(machine);
    vcpus_forgive(machine->vcpus);
    return 0;
}
