/*
 * The life of a machine: what is made in which order, and unmade in the opposite one.
 *
 * KVM's VM first, then interrupt controllers, RAM and buses, then the vCPUs (their threads park at
 * once), then the devices.  Every step leaves behind a machine that machine_destroy can take apart,
 * so that a failure half-way has no clean-up of its own.
 */
#include "vmm/machine.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "vmm/cpu_model.h"
#include "vmm/device/serial.h"
#include "vmm/device/vmgenid.h"
#include "vmm/kvm.h"
#include "vmm/machine_internal.h"

static void on_request(void *opaque, enum platform_request request)
{
    struct machine *machine = opaque;
    vcpus_request_stop(machine->vcpus,
                       request == PLATFORM_POWEROFF ? VCPU_STOP_POWEROFF : VCPU_STOP_RESET);
}

static void on_serial_output(void *opaque, const uint8_t *data, size_t size)
{
    struct machine *machine = opaque;
    if (machine->host.serial_output)
        machine->host.serial_output(machine->host.opaque, data, size);
}

static void on_serial_room(void *opaque)
{
    const struct machine *machine = opaque;
    machine->host.serial_room(machine->host.opaque);
}

static void on_stopped(void *opaque, enum vcpu_stop reason)
{
    struct machine *machine = opaque;
    enum machine_event event = reason == VCPU_STOP_POWEROFF ? MACHINE_EVENT_POWEROFF
                               : reason == VCPU_STOP_RESET  ? MACHINE_EVENT_RESET
                                                            : MACHINE_EVENT_FAILED;
    if (machine->host.event)
        machine->host.event(machine->host.opaque, event);
}

/* Slot n is region n of RAM, all machine long (dirty.c relies on it). */
static int add_ram(struct machine *machine, struct ferry_error *err)
{
    int rc = memory_create(machine->config.memory_bytes, &machine->memory, err);
    if (rc)
        return rc;
    for (uint32_t slot = 0; slot < 2; slot++) {
        const struct memory_region *region = &memory_regions(machine->memory)[slot];
        uint8_t *base = memory_base(machine->memory);
        struct kvm_userspace_memory_region request = {
            .slot = slot,
            .guest_phys_addr = region->gpa,
            .memory_size = region->size,
            .userspace_addr = (uintptr_t)(base + region->ram_offset),
        };
        if (region->size && ioctl(machine->vm_fd, KVM_SET_USER_MEMORY_REGION, &request))
            return ferry_fail_sys(err, -errno, "memory", "KVM refuses guest memory");
    }
    return 0;
}

static int add_platform(struct machine *machine, struct ferry_error *err)
{
    if (bus_create(&machine->pio) || bus_create(&machine->mmio))
        return ferry_fail_sys(err, -ENOMEM, "machine", "cannot create the buses");
    int rc = irq_create(machine->vm_fd, &machine->irq, err);
    if (rc)
        return rc;
    machine->platform = (struct platform){
        .log = machine->host.log,
        .memory = machine->memory,
        .pio = machine->pio,
        .mmio = machine->mmio,
        .irq = machine->irq,
        .vm_fd = machine->vm_fd,
        .request = on_request,
        .serial_output = on_serial_output,
        .opaque = machine,
    };
    return 0;
}

static int add_vcpus(struct machine *machine, struct ferry_error *err)
{
    const struct vcpus_host host = {
        .pio = machine->pio, .mmio = machine->mmio, .stopped = on_stopped, .opaque = machine};
    int rc = vcpus_create(machine->kvm_fd, machine->vm_fd, machine->config.cpus, &host,
                          &machine->vcpus, err);
    for (unsigned i = 0; !rc && i < machine->config.cpus; i++) {
        int fd = vcpus_fd(machine->vcpus, i);
        rc = cpu_model_apply(fd, i, &machine->config, err);
        if (!rc)
            rc = clock_set_frequency(machine->vm_fd, fd, machine->config.tsc_khz, err);
    }
    if (!rc && !machine->config.tsc_khz)
        rc = clock_frequency(vcpus_fd(machine->vcpus, 0), &machine->config.tsc_khz, err);
    machine->clock = (struct clock_source){machine->vm_fd, machine->vcpus, machine->config.tsc_khz};
    return rc;
}

static int build(struct machine *machine, struct ferry_error *err)
{
    int rc = kvm_open(&machine->kvm_fd, err);
    if (!rc)
        rc = cpu_model_check(machine->kvm_fd, &machine->config, err);
    if (!rc)
        rc = kvm_create_vm(machine->kvm_fd, &machine->vm_fd, err);
    if (!rc)
        rc = kvm_create_chips(machine->vm_fd, err);
    if (!rc)
        rc = add_ram(machine, err);
    if (!rc)
        rc = add_platform(machine, err);
    if (!rc)
        rc = add_vcpus(machine, err);
    if (!rc)
        rc = machine_create_devices(machine, err);
    if (!rc && machine->host.serial_room)
        serial_on_room(machine->serial, on_serial_room, machine);
    return rc;
}

static void close_disks(const struct machine_host *host)
{
    for (unsigned i = 0; i < LIMIT_DISKS; i++)
        if (host->disks[i])
            host->disks[i]->ops->close(host->disks[i]);
}

static void machine_cleanup(struct machine **machine)
{
    machine_destroy(*machine);
}

int machine_create(const struct machine_config *config, const struct machine_host *host,
                   struct machine **out, struct ferry_error *err)
{
    struct machine *machine CLEANUP(machine_cleanup) = calloc(1, sizeof(*machine));
    if (!machine) {
        close_disks(host);
        return ferry_fail_sys(err, -ENOMEM, "machine", "cannot create it");
    }
    machine->config = *config;
    machine->host = *host;
    machine->kvm_fd = machine->vm_fd = -1;
    machine->devices_end = &machine->devices;
    int rc = machine_config_check(config, err);
    if (!rc)
        rc = build(machine, err);
    if (rc)
        return rc;
    *out = take_ptr(&machine);
    return 0;
}

void machine_destroy(struct machine *machine)
{
    if (!machine)
        return;
    if (machine->vcpus)
        vcpus_stop(machine->vcpus);
    (void)machine_quiesce_devices(machine, NULL);
    machine_free_parts(machine);
    vcpus_destroy(machine->vcpus);
    machine_destroy_devices(machine);
    close_disks(&machine->host);
    irq_destroy(machine->irq);
    bus_destroy(machine->mmio);
    bus_destroy(machine->pio);
    if (machine->vm_fd >= 0)
        close(machine->vm_fd);
    if (machine->kvm_fd >= 0)
        close(machine->kvm_fd);
    memory_destroy(machine->memory);
    free(machine->power_on);
    free(machine);
}

const struct machine_config *machine_config(const struct machine *machine)
{
    return &machine->config;
}

struct memory *machine_memory(struct machine *machine)
{
    return machine->memory;
}

void machine_set_epoch(struct machine *machine, uint64_t epoch)
{
    machine->config.epoch = epoch;
}

int machine_set_generation(struct machine *machine, const uint8_t generation[16])
{
    int rc = vmgenid_set(machine->vmgenid, generation, NULL);
    if (!rc)
        memcpy(machine->config.generation, generation, sizeof(machine->config.generation));
    return rc;
}

size_t machine_serial_input(struct machine *machine, const uint8_t *data, size_t size)
{
    return serial_input(machine->serial, data, size);
}

uint32_t machine_disk_count(const struct machine *machine)
{
    return machine->config.disk_count;
}

struct block *machine_disk(struct machine *machine, uint32_t index)
{
    return index < machine->config.disk_count ? machine->host.disks[index] : NULL;
}

int machine_activate_disks(struct machine *machine, struct ferry_error *err)
{
    for (uint32_t i = 0; i < machine->config.disk_count; i++) {
        struct block *disk = machine->host.disks[i];
        int rc = disk->active ? 0 : disk->ops->activate(disk, err);
        if (!rc)
            continue;
        while (i--)
            (void)machine->host.disks[i]->ops->release(machine->host.disks[i], NULL);
        return rc;
    }
    return 0;
}

int machine_release_disks(struct machine *machine, struct ferry_error *err)
{
    for (uint32_t i = 0; i < machine->config.disk_count; i++) {
        struct block *disk = machine->host.disks[i];
        int rc = disk->active ? disk->ops->release(disk, err) : 0;
        if (!rc)
            continue;
        /* All or none: take back those that went.  A disk that cannot be had again stays
         * inactive, and machine_resume says so. */
        while (i--)
            (void)machine->host.disks[i]->ops->activate(machine->host.disks[i], NULL);
        return rc;
    }
    return 0;
}
