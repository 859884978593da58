/*
 * Where things lie: guest-physical addresses, I/O ports and interrupt lines of every ferry machine.
 * A machine's layout is part of its identity: it never changes for a running guest.
 */
#ifndef FERRY_VMM_LAYOUT_H
#define FERRY_VMM_LAYOUT_H

/* Low memory, as a PC has it */
#define LAYOUT_GDT        0x00000500 /* of the boot protocols */
#define LAYOUT_START_INFO 0x00006000 /* hvm_start_info and what it points to */
#define LAYOUT_ZERO_PAGE  0x00007000 /* boot_params of bzImage */
#define LAYOUT_PAGE_TABLE 0x00009000 /* six pages: identity map of 4 GiB for a 64-bit entry */
#define LAYOUT_CMDLINE    0x00020000
#define LAYOUT_EBDA       0x0009fc00 /* end of conventional RAM as told to the guest */
#define LAYOUT_ACPI       0x000e0000 /* RSDP first, then all tables; reserved for the guest */
#define LAYOUT_VMGENID    0x000ff000 /* last page of the ACPI area: 16 bytes (device/vmgenid.c) */
#define LAYOUT_ACPI_END   0x00100000
#define LAYOUT_KERNEL     0x00100000

/* The 32-bit hole, 0xc0000000..0xffffffff */
#define LAYOUT_PCI_MMIO      0xc0000000 /* BARs: memory window of the root bridge */
#define LAYOUT_PCI_MMIO_SIZE 0x20000000
#define LAYOUT_ECAM          0xe8000000 /* MMCONFIG of bus 0 (MCFG) */
#define LAYOUT_ECAM_SIZE     0x00100000
#define LAYOUT_IOAPIC        0xfec00000
#define LAYOUT_LAPIC         0xfee00000
#define LAYOUT_IDENTITY_MAP  0xfffbc000 /* KVM_SET_IDENTITY_MAP_ADDR, one page */
#define LAYOUT_TSS           0xfffbd000 /* KVM_SET_TSS_ADDR, three pages */

/* I/O ports */
#define PORT_SERIAL0     0x3f8 /* 8 ports */
#define PORT_RTC         0x70  /* 2 ports */
#define PORT_I8042       0x60  /* 0x60 and 0x64: reset only */
#define PORT_RESET       0xcf9 /* FADT RESET_REG: 0x06 resets; pci.c has it, among its ports */
#define PORT_PCI_ADDRESS 0xcf8
#define PORT_PCI_DATA    0xcfc
#define PORT_PM_EVENT    0x600 /* PM1a event block, 4 ports */
#define PORT_PM_CONTROL  0x604 /* PM1a control block, 2 ports */
#define PORT_PM_TIMER    0x608 /* 4 ports, 3.579545 MHz */
#define PORT_GPE0        0x620 /* GPE0 block, 4 ports: 2 status, 2 enable */

/* Interrupt lines (GSI) */
#define GSI_SERIAL0   4
#define GSI_RTC       8
#define GSI_SCI       9  /* level, active high */
#define GSI_MSI_FIRST 24 /* behind the IOAPIC's pins: MSI routes */
#define GSI_MSI_COUNT 1024

/* GPE0 bits */
#define GPE_VMGENID 0

#endif
