/*
 * The devices that a guest cannot find by itself:
 *
 *     \_S5                  how to switch off
 *     \_SB.C000 ...         processors
 *     \_SB.PCI0             the PCI root: bus 0, its port and memory windows
 *     \_SB.MRES             ECAM and ACPI ports: taken, not for others
 *     \_SB.COM1, \_SB.RTC   16550, CMOS clock
 *     \_SB.VGEN             VM generation id; \_GPE._E00 says that it has changed
 */
#include "vmm/acpi_dsdt.h"

#include <stdio.h>

#include "vmm/aml.h"
#include "vmm/device/acpi_pm.h"
#include "vmm/layout.h"

#define NOTIFY_VMGENID 0x80
#define PM_PORTS       (PORT_GPE0 + 4 - PORT_PM_EVENT)

static void sleep_states(struct writer *w)
{
    struct aml_body package;

    aml_name(w, "\\_S5");
    package = aml_package(w, 4);
    aml_integer(w, ACPI_PM_SLP_TYP_S5); /* PM1a SLP_TYP */
    aml_integer(w, ACPI_PM_SLP_TYP_S5); /* PM1b: there is none */
    aml_integer(w, 0);
    aml_integer(w, 0);
    aml_end(w, package);
}

/* Processor devices; _UID ties them to the MADT's entries. */
static void processors(struct writer *w, uint32_t cpus)
{
    for (uint32_t i = 0; i < cpus; i++) {
        struct aml_body device;
        char name[8];

        snprintf(name, sizeof(name), "C%03X", i & 0xfff);
        device = aml_device(w, name);
        aml_name_string(w, "_HID", "ACPI0007");
        aml_name_integer(w, "_UID", i);
        aml_end(w, device);
    }
}

static void pci_root(struct writer *w)
{
    struct aml_body device = aml_device(w, "PCI0");
    struct aml_resources crs;

    aml_name_eisa(w, "_HID", "PNP0A08"); /* PCI Express ... */
    aml_name_eisa(w, "_CID", "PNP0A03"); /* ... and PCI */
    aml_name_integer(w, "_SEG", 0);
    aml_name_integer(w, "_BBN", 0);
    aml_name_integer(w, "_UID", 0);
    crs = aml_resources(w, "_CRS");
    aml_window_bus(w, 0, 0);
    aml_io(w, PORT_PCI_ADDRESS, 8);
    aml_window_io(w, 0, PORT_PCI_ADDRESS - 1);
    aml_window_io(w, PORT_PCI_ADDRESS + 8, UINT16_MAX);
    aml_window_memory32(w, LAYOUT_PCI_MMIO, LAYOUT_PCI_MMIO + (LAYOUT_PCI_MMIO_SIZE - 1));
    aml_resources_end(w, crs);
    aml_end(w, device);
}

static void reserved_resources(struct writer *w)
{
    struct aml_body device = aml_device(w, "MRES");
    struct aml_resources crs;

    aml_name_eisa(w, "_HID", "PNP0C02");
    aml_name_integer(w, "_UID", 0);
    crs = aml_resources(w, "_CRS");
    aml_memory32(w, LAYOUT_ECAM, LAYOUT_ECAM_SIZE);
    aml_io(w, PORT_PM_EVENT, PM_PORTS);
    aml_resources_end(w, crs);
    aml_end(w, device);
}

static void isa_device(struct writer *w, const char *name, const char *id, uint16_t port,
                       uint8_t ports, unsigned line)
{
    struct aml_body device = aml_device(w, name);
    struct aml_resources crs;

    aml_name_eisa(w, "_HID", id);
    aml_name_integer(w, "_UID", 1);
    crs = aml_resources(w, "_CRS");
    aml_io(w, port, ports);
    aml_irq(w, line);
    aml_resources_end(w, crs);
    aml_end(w, device);
}

static void generation_id(struct writer *w)
{
    struct aml_body device = aml_device(w, "VGEN"), package;

    aml_name_string(w, "_HID", "FRRY0001");
    /* What drivers match: the name of Microsoft's paper, and its short form in newer systems. */
    aml_name(w, "_CID");
    package = aml_package(w, 2);
    aml_string(w, "VM_Gen_Counter");
    aml_string(w, "VMGENCTR");
    aml_end(w, package);
    aml_name_string(w, "_DDN", "VM_Gen_Counter");
    aml_name(w, "ADDR");
    package = aml_package(w, 2);
    aml_integer(w, LAYOUT_VMGENID & UINT32_MAX);
    aml_integer(w, (uint64_t)LAYOUT_VMGENID >> 32);
    aml_end(w, package);
    aml_end(w, device);
}

static void gpe_handlers(struct writer *w)
{
    struct aml_body scope = aml_scope(w, "\\_GPE");
    struct aml_body method;
    char name[8];

    snprintf(name, sizeof(name), "_E%02X", GPE_VMGENID);
    method = aml_method(w, name, 0);
    aml_notify(w, "\\_SB.VGEN", NOTIFY_VMGENID);
    aml_end(w, method);
    aml_end(w, scope);
}

void acpi_dsdt_body(struct writer *w, const struct acpi_params *params)
{
    struct aml_body scope;

    sleep_states(w);
    scope = aml_scope(w, "\\_SB");
    processors(w, params->cpus);
    pci_root(w);
    reserved_resources(w);
    isa_device(w, "COM1", "PNP0501", PORT_SERIAL0, 8, GSI_SERIAL0);
    isa_device(w, "RTC", "PNP0B00", PORT_RTC, 2, GSI_RTC);
    generation_id(w);
    aml_end(w, scope);
    gpe_handlers(w);
}
