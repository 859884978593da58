/*
 * The payload's course: read the options, start the vCPUs, fill memory, tick.
 *
 * Options (defaults): cpus=1 fill=MiB (16) ratio=R, e.g. 3 or 2.5 (3) ws=MiB (16) rate=MiB/s (4)
 * period=ms (100) ticks=N (0: for ever) sum=N: full sum every N ticks (0: with the last one)
 * avx=1 spin=1: watch the clock without a pause  hz=N: timer (1000) off=1: end by ACPI power off
 * disk=SLOTS: write to the first SLOTS * 4 KiB of the first disk (0: do not)  writes=N: a tick (8)
 *
 * Lines:  tick N work=PAGES sum=HEX avx=HEX [full=HEX] [disk=WRITES] | seq=N ms=N gap_us=N back=N
 * jiffies=N[,N] Input on COM1: 's' a full sum with the next tick, 'q' stop, 'p' power off.
 */
#include "tests/guest/guest.h"

struct shared shared;

/* The value of `name=` in hundredths ("2.5": 250). */
static uint64_t option_percent(const char *name, uint64_t fallback)
{
    const char *line = machine_command_line();
    for (const char *start = line; *start; start++) {
        const char *p = start, *n = name;
        for (; *n && *p == *n; n++)
            p++;
        if (*n || *p++ != '=' || (start != line && start[-1] != ' '))
            continue;
        uint64_t value = 0, unit = 100;
        for (; *p >= '0' && *p <= '9'; p++)
            value = value * 10 + (uint64_t)(*p - '0');
        value *= unit;
        if (*p == '.')
            for (p++; *p >= '0' && *p <= '9' && unit > 1; p++)
                value += (unit /= 10) * (uint64_t)(*p - '0');
        return value;
    }
    return fallback * 100;
}

static uint64_t option(const char *name, uint64_t fallback)
{
    return option_percent(name, fallback) / 100;
}

static void read_options(void)
{
    struct options *o = &shared.options;
    const uint64_t pages_a_mib = 1048576 / PAGE_BYTES;
    *o = (struct options){.cpus = option("cpus", 1),
                          .hz = option("hz", 1000),
                          .fill_pages = option("fill", 16) * pages_a_mib,
                          .ratio_percent = option_percent("ratio", 3),
                          .ws_pages = option("ws", 16) * pages_a_mib,
                          .rate_mib = option("rate", 4),
                          .period_ms = option("period", 100),
                          .ticks = option("ticks", 0),
                          .full_sum_every = option("sum", 0),
                          .disk_slots = option("disk", 0),
                          .disk_writes = option("writes", 8),
                          .avx = option("avx", 0) != 0,
                          .spin = option("spin", 0) != 0,
                          .power_off = option("off", 0) != 0};
    if (o->cpus < 1 || o->cpus > MAX_CPUS)
        o->cpus = 1;
    if (o->hz < 20 || o->hz > 5000)
        o->hz = 1000;
    if (o->period_ms < 1)
        o->period_ms = 100;
}

static void refuse_too_much(void)
{
    uint64_t wanted = shared.options.fill_pages + shared.options.ws_pages;
    if (wanted <= machine_ram_pages())
        return;
    put_number("payload: fill and ws need pages: ", wanted);
    put_number(", there are ", machine_ram_pages());
    put("\n");
    machine_stop();
}

static void say_hello(const char *tsc_source)
{
    put("\npayload: '");
    put(machine_command_line());
    put_number("' cpus=", shared.options.cpus);
    put_number(" ram_mib=", machine_ram_pages() / (1048576 / PAGE_BYTES));
    put_number(" tsc_khz=", shared.tsc_khz);
    put(" (");
    put(tsc_source);
    put(shared.avx ? ") avx=on\n" : shared.options.avx ? ") avx=missing\n" : ") avx=off\n");
}

static bool all_cpus_at(uint64_t tick)
{
    for (unsigned i = 0; i < shared.options.cpus; i++)
        if (__atomic_load_n(&shared.cpus[i].done_tick, __ATOMIC_ACQUIRE) < tick)
            return false;
    return true;
}

static bool all_cpus_ready(void)
{
    for (unsigned i = 0; i < shared.options.cpus; i++)
        if (!__atomic_load_n(&shared.cpus[i].ready, __ATOMIC_ACQUIRE))
            return false;
    return true;
}

static void report_trouble(void)
{
    for (unsigned i = 0; i < shared.options.cpus; i++) {
        const struct cpu *cpu = &shared.cpus[i];
        if (cpu->damaged_slices) {
            put_number("MEMORY DAMAGED cpu=", i);
            put_number(" slices=", cpu->damaged_slices);
            put("\n");
        }
        if (cpu->backwards) {
            put_number("CLOCK BACKWARDS cpu=", i);
            put_number(" times=", cpu->backwards);
            put_number(" most_ns=", tsc_to_us(cpu->backwards_tsc * 1000));
            put("\n");
        }
        if (cpu->avx_errors) {
            put_number("AVX STATE LOST cpu=", i);
            put_number(" looks=", cpu->avx_errors);
            put("\n");
        }
    }
}

/* The part of the line that depends on options and tick only. */
static void put_state(uint64_t tick)
{
    uint64_t work = 0, sum = 0, avx = 0, full = 0;
    for (unsigned i = 0; i < shared.options.cpus; i++) {
        const struct cpu *cpu = &shared.cpus[i];
        work += cpu->pages_dirtied;
        sum = mix(sum ^ cpu->sum);
        full = mix(full ^ cpu->full_sum);
        avx = mix(avx ^ avx_value(cpu));
    }
    put_number("tick ", tick);
    put_number(" work=", work);
    put_hex(" sum=", sum);
    put_hex(" avx=", shared.avx ? avx : 0);
    if (shared.full_sum)
        put_hex(" full=", full);
    if (shared.options.disk_slots)
        put_number(" disk=", disk_written());
}

/* The part that tells what time did. */
static void put_times(uint64_t start_tsc)
{
    static uint64_t sequence;
    uint64_t gap = 0, backwards = 0;
    for (unsigned i = 0; i < shared.options.cpus; i++) {
        const struct cpu *cpu = &shared.cpus[i];
        gap = cpu->reported_gap_tsc > gap ? cpu->reported_gap_tsc : gap;
        backwards += cpu->backwards;
    }
    put_number(" | seq=", ++sequence);
    put_number(" ms=", tsc_to_us(clock_watch() - start_tsc) / 1000);
    put_number(" gap_us=", tsc_to_us(gap));
    put_number(" back=", backwards);
    for (unsigned i = 0; i < shared.options.cpus; i++)
        put_number(i ? "," : " jiffies=", timer_interrupts(i));
    put("\n");
}

static bool is_last(uint64_t tick)
{
    return shared.options.ticks && tick >= shared.options.ticks;
}

/* Let tick begin on every vCPU: on time, or now if the machine stood still for long. */
static void begin_tick(uint64_t tick, bool want_sum)
{
    uint64_t period = shared.options.period_ms * shared.tsc_khz, now = clock_watch();
    uint64_t every = shared.options.full_sum_every;
    shared.tick_start += period;
    if (tick == 1 || now > shared.tick_start + period)
        shared.tick_start = now;
    shared.full_sum = want_sum || is_last(tick) || (every && tick % every == 0);
    __atomic_store_n(&shared.tick, tick, __ATOMIC_RELEASE);
}

static void run_ticks(void)
{
    uint64_t start = clock_watch();
    bool want_sum = false;
    for (uint64_t tick = 1;; tick++) {
        begin_tick(tick, want_sum);
        work_tick(0, tick);
        if (shared.options.disk_slots)
            disk_write(shared.options.disk_writes);
        while (!all_cpus_at(tick)) {
            clock_watch();
            machine_idle();
        }
        put_state(tick);
        put_times(start);
        report_trouble();
        int input = console_input();
        want_sum = input == 's';
        if (input == 'p')
            machine_power_off();
        if (input == 'q' || is_last(tick))
            return;
    }
}

static void boss(void)
{
    machine_init();
    console_init();
    const char *tsc_source = clock_calibrate();
    read_options();
    refuse_too_much();
    timer_start(shared.options.hz);
    bool avx = shared.options.avx && avx_start();
    shared.avx = avx;
    machine_start_cpus();
    if (shared.options.disk_slots && !disk_start()) {
        put("payload: no disk\n");
        machine_stop();
    }
    say_hello(tsc_source);
    uint64_t start = clock_watch();
    work_prepare(0);
    shared.cpus[0].ready = true;
    while (!all_cpus_ready())
        clock_watch();
    put_number("payload: filled MiB: ",
               (shared.options.fill_pages + shared.options.ws_pages) / (1048576 / PAGE_BYTES));
    put_number(" in ms: ", tsc_to_us(clock_watch() - start) / 1000);
    put("\n");
    run_ticks();
    put("payload: done\n");
    if (shared.options.power_off)
        machine_power_off();
    machine_stop();
}

static void helper(unsigned index)
{
    struct cpu *cpu = &shared.cpus[index];
    if (shared.avx)
        avx_start();
    timer_start(shared.options.hz);
    __atomic_store_n(&cpu->online, true, __ATOMIC_RELEASE);
    work_prepare(index);
    __atomic_store_n(&cpu->ready, true, __ATOMIC_RELEASE);
    for (uint64_t tick = 1;; tick++) {
        while (__atomic_load_n(&shared.tick, __ATOMIC_ACQUIRE) < tick) {
            clock_watch();
            machine_idle();
        }
        work_tick(index, tick);
    }
}

void guest_main(unsigned index);
void guest_main(unsigned index)
{
    if (index == 0)
        boss();
    else
        helper(index);
    machine_stop();
}
