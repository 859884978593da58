/* Numbers that entry.S and the C of the payload share: addresses, selectors, registers' bits. */
#ifndef GUEST_LAYOUT_H
#define GUEST_LAYOUT_H

#define MAX_CPUS 64

#define FIRST_BYTE '*' /* what the guest's first instructions write to COM1 */
#define COM1       0x3f8

/* Selectors in gdt */
#define KERNEL_CODE 0x08
#define USER_DATA   (0x10 | 3)
#define USER_CODE   (0x18 | 3)
#define FLAT_CODE   0x20
#define FLAT_DATA   0x28
#define FIRST_TSS   0x30
#define GDT_BYTES   (FIRST_TSS + 16 * MAX_CPUS)

#define TIMER_VECTOR 0x20
#define IDT_BYTES    ((TIMER_VECTOR + 1) * 16)

#define TSS_SHIFT          9
#define TSS_BYTES          (1 << TSS_SHIFT)
#define KERNEL_STACK_BYTES 1024 /* aligned to its size; the first word counts timer interrupts */
#define USER_STACK_SHIFT   13

#define TRAMPOLINE 0x9000 /* below 1 MiB, 4 KiB aligned: SIPI vector 9 */

#define LAPIC          0xfee00000
#define LAPIC_ID       0x020
#define LAPIC_EOI      0x0b0
#define LAPIC_SPURIOUS 0x0f0
#define LAPIC_ICR_LOW  0x300
#define LAPIC_ICR_HIGH 0x310
#define LAPIC_TIMER    0x320
#define LAPIC_INITIAL  0x380
#define LAPIC_CURRENT  0x390
#define LAPIC_DIVIDE   0x3e0

#define CR0_PE         0x1
#define CR0_MP         0x2
#define CR0_ET         0x10
#define CR0_NE         0x20
#define CR0_WP         0x10000
#define CR0_PG         0x80000000
#define CR4_PAE        0x20
#define CR4_OSFXSR     0x200
#define CR4_OSXMMEXCPT 0x400
#define CR4_OSXSAVE    0x40000
#define MSR_EFER       0xc0000080
#define EFER_LME       0x100
#define RFLAGS_IF      0x202 /* and bit 1, which is always set */

/* Calls through int3 */
#define CALL_IDLE       0 /* wait for an interrupt */
#define CALL_STOP       1 /* the machine */
#define CALL_CPUID      2 /* as CPL0 sees it: CPL3 may see the host's */
#define CALL_ENABLE_AVX 3

#endif
