/*
 * The guest's clock: the TSC, measured once against the LAPIC timer, and watched all the time.
 * clock_watch() is called from every loop.  It notes the largest distance between two looks (a
 * pause of the machine shows up there) and every step back: on one vCPU, and across all of them,
 * by a shared latest time that is read before the TSC is.
 */
#include "tests/guest/guest.h"

#define LAPIC_BUS_KHZ   1000000u /* KVM and QEMU: 1 GHz */
#define CALIBRATE_TICKS (30 * LAPIC_BUS_KHZ)
#define SAMPLES         7

static uint64_t read_tsc(void)
{
    uint32_t low, high;
    __asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high)::"memory");
    return (uint64_t)high << 32 | low;
}

/* LAPIC count and the TSC at that moment: the sample that was interrupted least. */
static void sample(uint64_t *tsc, uint32_t *count)
{
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < SAMPLES; i++) {
        uint64_t before = read_tsc();
        uint32_t now = lapic_read(LAPIC_CURRENT);
        uint64_t after = read_tsc();
        if (after - before < best) {
            best = after - before;
            *tsc = before + best / 2;
            *count = now;
        }
    }
}

const char *clock_calibrate(void)
{
    if (machine_cpuid(0x40000000).eax >= 0x40000010) {
        shared.tsc_khz = machine_cpuid(0x40000010).eax;
        if (shared.tsc_khz)
            return "cpuid";
    }
    uint64_t tsc_start, tsc_end;
    uint32_t start, end;
    lapic_write(LAPIC_SPURIOUS, 0x1ff);
    lapic_write(LAPIC_DIVIDE, 0xb);
    lapic_write(LAPIC_TIMER, 0x10000); /* one-shot, masked */
    lapic_write(LAPIC_INITIAL, UINT32_MAX);
    sample(&tsc_start, &start);
    do
        sample(&tsc_end, &end);
    while (start - end < CALIBRATE_TICKS);
    shared.tsc_khz = (tsc_end - tsc_start) * LAPIC_BUS_KHZ / (start - end);
    return "lapic";
}

uint64_t clock_watch(void)
{
    struct cpu *cpu = this_cpu();
    uint64_t latest = __atomic_load_n(&shared.latest_tsc, __ATOMIC_ACQUIRE);
    uint64_t now = read_tsc();
    uint64_t before = latest > cpu->last_tsc ? latest : cpu->last_tsc;

    if (now < before) {
        cpu->backwards++;
        if (before - now > cpu->backwards_tsc)
            cpu->backwards_tsc = before - now;
    }
    if (cpu->last_tsc && now > cpu->last_tsc && now - cpu->last_tsc > cpu->gap_tsc)
        cpu->gap_tsc = now - cpu->last_tsc;
    cpu->last_tsc = now;
    while (latest < now && !__atomic_compare_exchange_n(&shared.latest_tsc, &latest, now, false,
                                                        __ATOMIC_RELEASE, __ATOMIC_ACQUIRE))
        ;
    if (shared.avx)
        avx_check(cpu);
    return now;
}

uint64_t tsc_to_us(uint64_t tsc)
{
    return tsc / shared.tsc_khz * 1000 + tsc % shared.tsc_khz * 1000 / shared.tsc_khz;
}
