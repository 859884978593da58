/*
 * The first vCPU at the entry of a kernel.  All segments are flat; what differs is whether the CPU
 * is already in long mode (bzImage, 64-bit entry) or in protected mode without paging.
 */
#include <string.h>

#include "vmm/boot.h"
#include "vmm/layout.h"

#define GDT_BYTES   32
#define SELECTOR_CS 0x10
#define SELECTOR_DS 0x18

enum {
    SEGMENT_DATA = 3,  /* read, write, accessed */
    SEGMENT_CODE = 11, /* execute, read, accessed */
    SEGMENT_TSS = 11,  /* busy TSS, as a system segment */
    TSS_LIMIT = 0x67,

    CR0_PE = 1 << 0,
    CR0_ET = 1 << 4,
    CR4_PAE = 1 << 5,
    EFER_LME = 1 << 8,
    EFER_LMA = 1 << 10,
    RFLAGS_FIXED = 1 << 1,
};
#define CR0_PG (UINT64_C(1) << 31)

static struct kvm_segment flat(uint16_t selector, uint8_t type, bool long_code)
{
    return (struct kvm_segment){
        .limit = UINT32_MAX,
        .selector = selector,
        .type = type,
        .present = 1,
        .db = !long_code,
        .s = 1,
        .l = long_code,
        .g = 1,
    };
}

void boot_apply_sregs(const struct boot_entry *entry, struct kvm_sregs *sregs,
                      struct kvm_regs *regs)
{
    struct kvm_segment data = flat(SELECTOR_DS, SEGMENT_DATA, false);

    sregs->cs = flat(SELECTOR_CS, SEGMENT_CODE, entry->long_mode);
    sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
    sregs->tr = (struct kvm_segment){.limit = TSS_LIMIT, .type = SEGMENT_TSS, .present = 1};
    sregs->ldt = (struct kvm_segment){.unusable = 1};
    sregs->gdt = (struct kvm_dtable){.base = LAYOUT_GDT, .limit = GDT_BYTES - 1};
    sregs->idt = (struct kvm_dtable){0};
    sregs->cr0 = CR0_PE | CR0_ET;
    sregs->cr2 = sregs->cr3 = sregs->cr4 = sregs->efer = 0;
    if (entry->long_mode) {
        sregs->cr0 |= CR0_PG;
        sregs->cr3 = entry->cr3;
        sregs->cr4 = CR4_PAE;
        sregs->efer = EFER_LME | EFER_LMA;
    }
    memset(regs, 0, sizeof(*regs));
    regs->rip = entry->rip;
    regs->rbx = entry->rbx;
    regs->rsi = entry->rsi;
    regs->rflags = RFLAGS_FIXED;
}
