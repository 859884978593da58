/*
 * Loading a kernel: a PVH ELF (an uncompressed vmlinux) or a bzImage, with initrd and command line,
 * into guest RAM, and the state in which the first vCPU enters it.
 *
 * Kernel and initrd are hostile files: all header fields are checked before use, and nothing is
 * loaded outside RAM or over what ferry itself puts below 1 MiB.
 */
#ifndef FERRY_VMM_BOOT_H
#define FERRY_VMM_BOOT_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "vmm/machine.h"
#include "vmm/memory.h"

struct boot_entry {
    bool long_mode; /* 64-bit with paging (cr3, GDT at LAYOUT_GDT); else 32-bit flat, no paging */
    uint64_t rip;
    uint64_t rbx; /* PVH: address of hvm_start_info */
    uint64_t rsi; /* bzImage: address of boot_params */
    uint64_t cr3; /* long_mode only */
};

/*
 * Load source into memory, whose ACPI tables already exist (acpi_install gave rsdp).  Errors name
 * the file and say what is wrong with it: -ENOENT and other errno of open, -ENOEXEC (no kernel that
 * ferry can boot), -EBADMSG (damaged), -EFBIG / -ENOSPC (does not fit), -E2BIG (command line).
 */
int boot_load(struct memory *memory, const struct boot_source *source, struct gpa rsdp,
              struct boot_entry *out, struct ferry_error *err);
/*
 * Change sregs and regs, as read from a fresh vCPU 0 by KVM_GET_SREGS, to those of the entry.
 * apic_base and the interrupt bitmap stay.  All general registers are set.
 */
void boot_apply_sregs(const struct boot_entry *entry, struct kvm_sregs *sregs,
                      struct kvm_regs *regs);

#endif
