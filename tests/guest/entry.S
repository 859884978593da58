/*
 * PVH entry, start of further vCPUs, and the few CPL0 stubs of the payload guest.
 *
 * Where KVM has no hardware virtualisation under it, CPL0 is interpreted, a million instructions a
 * second, and knows integer instructions only.  So CPL0 is kept to what only CPL0 can do; all work
 * is C at CPL3.  What C can prepare (IDT, TSS contents, trampoline copy) it does from CPL3: the
 * page tables are static and let CPL3 write everything.
 *
 * The first instructions write one byte to COM1: whoever measures boot sees when the guest began.
 */
#include "tests/guest/layout.h"

/* The ELF note that makes this a PVH kernel: XEN_ELFNOTE_PHYS32_ENTRY. */
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_entry

    .section .boot, "ax"
    .code32
    .globl pvh_entry
pvh_entry:                              /* flat 32-bit, no paging, %ebx = hvm_start_info */
    mov  $FIRST_BYTE, %al
    mov  $COM1, %dx
    out  %al, %dx
    cld
    mov  %ebx, start_info_address
    mov  $0xff, %al                     /* both PICs masked: firmware may have used them */
    out  %al, $0x21
    out  %al, $0xa1
    xor  %esi, %esi                     /* vCPU 0 */
enter_long_mode:                        /* %esi = index of this vCPU */
    mov  $pml4, %eax
    mov  %eax, %cr3
    mov  $(CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT), %eax
    mov  %eax, %cr4
    mov  $MSR_EFER, %ecx
    rdmsr
    or   $EFER_LME, %eax
    wrmsr
    lgdt gdt_pointer
    mov  $(CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_MP | CR0_PE), %eax
    mov  %eax, %cr0
    ljmp $KERNEL_CODE, $long_mode

ap_entry:                               /* further vCPUs come here from the trampoline */
    mov  $FLAT_DATA, %eax
    mov  %eax, %ds
    mov  %eax, %es
    mov  %eax, %ss
    mov  ap_index, %esi
    jmp  enter_long_mode

    .code64
long_mode:
    lidt idt_pointer
    /* Describe and load this vCPU's TSS: 16 bytes at gdt + FIRST_TSS + 16 * index. */
    mov  %esi, %eax
    shl  $TSS_SHIFT, %rax
    add  $task_state, %rax
    shl  $16, %rax
    mov  $(0x89 << 40 | (TSS_BYTES - 1)), %rdx
    or   %rdx, %rax
    mov  %esi, %ecx
    shl  $4, %ecx
    mov  %rax, gdt + FIRST_TSS(%rcx)
    add  $FIRST_TSS, %ecx
    ltr  %cx
    /* Down to CPL3 on this vCPU's own stack, interrupts on: guest_main(index). */
    lea  1(%rsi), %rax
    shl  $USER_STACK_SHIFT, %rax
    add  $(user_stacks - 8), %rax
    mov  %esi, %edi
    mov  $boot_stack_end, %rsp
    pushq $USER_DATA
    push %rax
    pushq $RFLAGS_IF
    pushq $USER_CODE
    pushq $guest_main
    iretq

/*
 * LAPIC timer.  The first word of the vCPU's CPL0 stack counts its interrupts; stacks are aligned
 * to their size, so that the word is found from %rsp whatever was interrupted.
 */
    .globl timer_interrupt
timer_interrupt:
    push %rax
    mov  %rsp, %rax
    and  $-KERNEL_STACK_BYTES, %rax
    incq (%rax)
    mov  $(LAPIC + LAPIC_EOI), %eax
    movl $0, (%rax)
    pop  %rax
    iretq

/* The system call of this guest is int3, the one gate that works everywhere: %rax is the call. */
    .globl system_call
system_call:
    cmp  $CALL_IDLE, %eax
    je   call_idle
    cmp  $CALL_CPUID, %eax
    je   call_cpuid
    cmp  $CALL_ENABLE_AVX, %eax
    je   call_enable_avx
    .globl stop_machine
stop_machine:                           /* i8042 reset, or a triple fault where there is none */
    mov  $0xfe, %al
    out  %al, $0x64
    lidt null_pointer
    ud2
call_idle:
    sti
    hlt
    cli
    iretq
call_cpuid:                             /* leaf in %edi, eax ebx ecx edx to (%rsi) */
    push %rbx
    push %rcx
    push %rdx
    mov  %edi, %eax
    xor  %ecx, %ecx
    cpuid
    mov  %eax, (%rsi)
    mov  %ebx, 4(%rsi)
    mov  %ecx, 8(%rsi)
    mov  %edx, 12(%rsi)
    pop  %rdx
    pop  %rcx
    pop  %rbx
    iretq
call_enable_avx:                        /* only after CPUID has shown XSAVE and AVX */
    push %rcx
    push %rdx
    mov  %cr4, %rax
    or   $CR4_OSXSAVE, %rax
    mov  %rax, %cr4
    xor  %ecx, %ecx
    xor  %edx, %edx
    mov  $7, %eax                       /* XCR0: x87, SSE, AVX */
    xsetbv
    pop  %rdx
    pop  %rcx
    iretq

/*
 * Every exception that must not happen: "FAULT vv" and the frame's top words (error code where
 * there is one, then rip) on COM1, then stop.  Vectors come here through 8-byte stubs.
 */
    .balign 8
    .globl fault_stubs
fault_stubs:
    .set vector, 0
    .rept 32
    .balign 8
    push $vector
    jmp  fault
    .set vector, vector + 1
    .endr
fault:
    mov  $fault_text, %esi
    mov  $COM1, %edx
1:  lodsb (%rsi), %al
    test %al, %al
    jz   2f
    out  %al, %dx
    jmp  1b
2:  mov  $3, %ebp                       /* vector, error code or rip, rip or cs */
3:  pop  %rbx
    mov  $16, %ecx
4:  rol  $4, %rbx
    mov  %ebx, %eax
    and  $15, %eax
    movb hex_digits(%rax), %al
    out  %al, %dx
    dec  %ecx
    jnz  4b
    mov  $' ', %al
    out  %al, %dx
    dec  %ebp
    jnz  3b
    mov  $'\n', %al
    out  %al, %dx
    jmp  stop_machine
fault_text:
    .asciz "\nFAULT "
hex_digits:
    .ascii "0123456789abcdef"

/* Copied to TRAMPOLINE, where a vCPU begins after SIPI: real mode, %cs:0 = TRAMPOLINE. */
    .globl trampoline, trampoline_end
    .code16
trampoline:
    cli
    cld
    xor  %ax, %ax
    mov  %ax, %ds
    lgdtl TRAMPOLINE + (2f - trampoline)
    mov  %cr0, %eax
    or   $CR0_PE, %al
    mov  %eax, %cr0
    ljmpl $FLAT_CODE, $ap_entry
2:  .word GDT_BYTES - 1
    .long gdt
trampoline_end:

    .code64
    .section .data
    .balign 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            /* KERNEL_CODE, 64 bit */
    .quad 0x00cff3000000ffff            /* USER_DATA */
    .quad 0x00affb000000ffff            /* USER_CODE, 64 bit */
    .quad 0x00cf9b000000ffff            /* FLAT_CODE, 32 bit, on the way up only */
    .quad 0x00cf93000000ffff            /* FLAT_DATA */
    .fill MAX_CPUS * 2, 8, 0            /* a TSS a vCPU */
gdt_pointer:
    .word GDT_BYTES - 1
    .quad gdt
idt_pointer:
    .word IDT_BYTES - 1
    .quad idt
null_pointer:
    .fill 10

/* Identity map of the first 4 GiB by 2 MiB pages, open to CPL3; from 3 GiB up uncached.  C adds
 * what lies above 4 GiB. */
    .balign 4096
pml4:
    .quad pdpt + 7
    .fill 511, 8, 0
    .globl pdpt
pdpt:
    .quad low_pages + 7, low_pages + 0x1007, low_pages + 0x2007, low_pages + 0x3007
    .fill 508, 8, 0
low_pages:
    .set i, 0
    .rept 2048
    .quad (i << 21) | 0x87 | ((i >= 1536) * -1 & 0x18)
    .set i, i + 1
    .endr

    .section .bss
    .balign 4096
    .globl kernel_stacks, user_stacks, task_state, idt, start_info_address, ap_index
kernel_stacks:
    .skip MAX_CPUS * KERNEL_STACK_BYTES
task_state:
    .skip MAX_CPUS * TSS_BYTES
user_stacks:
    .skip MAX_CPUS << USER_STACK_SHIFT
idt:
    .skip IDT_BYTES
    .skip 64
boot_stack_end:
start_info_address:
    .skip 8
ap_index:
    .skip 4
    .section .note.GNU-stack, "", @progbits
