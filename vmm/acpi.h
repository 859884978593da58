/*
 * The ACPI tables of a ferry machine (ACPI 6.4), written into guest RAM at LAYOUT_ACPI: RSDP, XSDT,
 * FADT, FACS, MADT, MCFG and a DSDT.  The same parameters give the same bytes.
 */
#ifndef FERRY_VMM_ACPI_H
#define FERRY_VMM_ACPI_H

#include <stdint.h>

#include "common/error.h"
#include "vmm/memory.h"

struct acpi_params {
    uint32_t cpus;          /* 1..LIMIT_VCPUS; the APIC id of a vCPU is its index */
    uint8_t generation[16]; /* first VM generation id, put at LAYOUT_VMGENID */
};

/*
 * Write the tables; *rsdp is the address of the RSDP, for the boot loader.  Errors: -EINVAL for
 * parameters out of range, -ENOMEM, -EFAULT if RAM does not reach that far (a bug).
 */
int acpi_install(const struct acpi_params *params, struct memory *memory, struct gpa *rsdp,
                 struct ferry_error *err);

#endif
