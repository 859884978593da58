/*
 * The payload guest: what its C files share.
 *
 * Every vCPU runs the same loop (work.c) on its own part of memory.  A tick is a fixed amount of
 * work spread over a period; vCPU 0 waits until all have done tick n, prints its line and lets
 * tick n + 1 begin.  What stands before the '|' of a line is a function of the options and n alone.
 */
#ifndef GUEST_GUEST_H
#define GUEST_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/guest/layout.h"

#define PAGE_BYTES 4096u
#define PAGE_WORDS 512u
#define SLICES     64u /* a tick sums one slice of memory: all of it every 64 ticks */

struct options {
    uint64_t cpus, hz;
    uint64_t fill_pages, ratio_percent;
    uint64_t ws_pages, rate_mib, period_ms;
    uint64_t ticks, full_sum_every;
    uint64_t disk_slots, disk_writes;
    bool avx, spin, power_off;
};

/* Memory of one vCPU, as page numbers of memory_page(). */
struct share {
    uint64_t first, pages;
};

struct cpu {
    /* clock.c: what the clock-watching has seen since it was last taken */
    uint64_t last_tsc, gap_tsc, backwards, backwards_tsc;
    /* avx.c */
    uint64_t avx_steps, avx_errors;
    /* work.c */
    struct share fill, ws;
    uint64_t rng, pages_dirtied, sum, full_sum, damaged_slices;
    uint64_t fill_sums[SLICES];
    uint64_t reported_gap_tsc;
    uint64_t done_tick; /* written last, read by vCPU 0 */
    bool online, ready;
} __attribute__((aligned(64)));

struct shared {
    struct options options;
    uint64_t tsc_khz;
    bool avx;            /* asked for and there */
    uint64_t tick;       /* the tick that runs; 0: not yet begun */
    uint64_t tick_start; /* TSC */
    uint64_t latest_tsc; /* the latest time that any vCPU has seen */
    bool full_sum;       /* of the tick that runs */
    struct cpu cpus[MAX_CPUS];
};
extern struct shared shared;

/* machine.c: tables, RAM, vCPUs, ports */
void machine_init(void);
const char *machine_command_line(void);
uint64_t machine_ram_pages(void); /* usable, behind the image */
uint64_t *memory_page(uint64_t page);
void machine_start_cpus(void);
void timer_start(uint64_t hz);
uint64_t timer_interrupts(unsigned cpu); /* so far */
uint32_t lapic_read(unsigned reg);
void lapic_write(unsigned reg, uint32_t value);
void outb(uint16_t port, uint8_t value);
uint8_t inb(uint16_t port);
void machine_idle(void);
void machine_power_off(void); /* ACPI S5 */
void machine_stop(void) __attribute__((noreturn));
struct cpuid {
    uint32_t eax, ebx, ecx, edx;
};
struct cpuid machine_cpuid(uint32_t leaf); /* subleaf 0, as CPL0 sees it */
bool machine_enable_avx(void);

/* console.c: COM1.  For vCPU 0 only. */
void console_init(void);
int console_input(void); /* a byte or -1 */
void put(const char *text);
void put_number(const char *label, uint64_t value);
void put_hex(const char *label, uint64_t value);

/* clock.c */
const char *clock_calibrate(void); /* sets shared.tsc_khz, returns the source's name */
uint64_t clock_watch(void);        /* look at the clock: its TSC; notes gaps and steps back */
uint64_t tsc_to_us(uint64_t tsc);
struct cpu *this_cpu(void);

/* avx.c */
bool avx_start(void);           /* this vCPU's ymm registers get their first values */
void avx_step(struct cpu *cpu); /* next values */
void avx_check(struct cpu *cpu);
uint64_t avx_value(const struct cpu *cpu); /* what they stand for now */

/* disk.c: the first virtio disk.  For vCPU 0 only. */
bool disk_start(void);           /* false: there is none */
void disk_write(uint64_t count); /* so many, one after the other */
uint64_t disk_written(void);     /* so far */

/* work.c */
uint64_t mix(uint64_t x);
void work_prepare(unsigned index); /* share of memory, filled */
void work_tick(unsigned index, uint64_t tick);

#endif
