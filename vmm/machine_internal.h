/* What the files of the machine share: machine.c (life), machine_devices.c (what is in it),
 * machine_run.c (boot, run, pause, reset), machine_state.c (save and load). */
#ifndef FERRY_VMM_MACHINE_INTERNAL_H
#define FERRY_VMM_MACHINE_INTERNAL_H

#include "vmm/clock_state.h"
#include "vmm/device.h"
#include "vmm/irq.h"
#include "vmm/machine.h"
#include "vmm/msr.h"
#include "vmm/part.h"
#include "vmm/pci.h"
#include "vmm/platform.h"
#include "vmm/vcpu.h"
#include "vmm/vcpu_state.h"

struct machine {
    struct machine_config config;
    struct machine_host host;
    int kvm_fd;
    int vm_fd;
    struct memory *memory;
    struct bus *pio;
    struct bus *mmio;
    struct irq *irq;
    struct vcpus *vcpus;
    struct platform platform;

    struct device *devices; /* in the order of sections */
    struct device **devices_end;
    struct pci *pci;
    struct device *serial;
    struct device *acpi_pm;
    struct device *vmgenid;
    bool devices_live; /* resumed since the last quiesce */

    struct part *parts; /* all that has a section, in order; made when first needed */
    size_t part_count;
    struct vcpu_source *vcpu_sources; /* one a vCPU, for the parts */
    struct msr_list msrs;             /* what is saved of a vCPU on this host */
    struct clock_source clock;
    uint8_t *power_on; /* sections of vCPUs and controllers before the first run */
    size_t power_on_bytes;
};

/* machine_devices.c: all devices, in an order that never changes.  On failure machine_destroy
 * cleans up. */
int machine_create_devices(struct machine *machine, struct ferry_error *err);
void machine_destroy_devices(struct machine *machine);
int machine_resume_devices(struct machine *machine, struct ferry_error *err);
int machine_quiesce_devices(struct machine *machine, struct ferry_error *err);
void machine_reset_devices(struct machine *machine);
/* The table of the section of that name in any machine; NULL: there is none such. */
const struct state_table *machine_table_of(const char *section);
/* The kinds of sections, index 0.. until NULL, for STATE.md and the tests. */
const struct state_table *machine_table_at(size_t index);

/* machine_state.c */
void machine_free_parts(struct machine *machine);
/* Keep what a reset goes back to; only the first call does something. */
int machine_remember_power_on(struct machine *machine, struct ferry_error *err);
int machine_restore_power_on(struct machine *machine, struct ferry_error *err);

#endif
