/*
 * The fixed ACPI hardware (ACPI 6.4, chapter 4): PM1a event and control blocks with the power
 * button, the PM timer, GPE block 0, and the SCI they share (GSI_SCI, level).  Writing SLP_TYP S5
 * with SLP_EN asks the machine to power off.
 */
#ifndef FERRY_VMM_DEVICE_ACPI_PM_H
#define FERRY_VMM_DEVICE_ACPI_PM_H

#include "vmm/device.h"
#include "vmm/platform.h"

extern const struct state_table acpi_pm_table;

#define ACPI_PM_SLP_TYP_S5 5 /* value of SLP_TYP that the DSDT's \_S5 names */
#define ACPI_PM_TIMER_HZ   3579545

/* Device "acpi_pm".  Errors: of bus_add, -ENOMEM. */
int acpi_pm_create(const struct platform *platform, struct device **out, struct ferry_error *err);
/* Press the fixed power button (PWRBTN_STS).  Any thread. */
void acpi_pm_power_button(struct device *device);
/* Set the status of general purpose event `bit` (GPE_*, below 16).  Any thread. */
void acpi_pm_raise_gpe(struct device *device, unsigned bit);

#endif
