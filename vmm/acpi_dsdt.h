/* The body of the DSDT, for acpi.c. */
#ifndef FERRY_VMM_ACPI_DSDT_H
#define FERRY_VMM_ACPI_DSDT_H

#include "common/bytes.h"
#include "vmm/acpi.h"

/* Append the AML of the machine's devices (no table header).  Errors stick in w. */
void acpi_dsdt_body(struct writer *w, const struct acpi_params *params);

#endif
