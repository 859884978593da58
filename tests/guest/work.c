/*
 * What a vCPU does: fill its share of memory, dirty its part of the working set at the asked rate,
 * sum a slice of both each tick.
 *
 * Filled pages repeat runs of incompressible and of repeated words so that zstd at level 1 finds
 * the asked ratio; the content is a function of the page number.  Writing to a page of the working
 * set makes the new word from the old one: a page that was lost or came late changes all that
 * follows.  Sums are chained over the ticks for the same reason.  The fill never changes: its slice
 * sums are kept, and a difference is reported at once.
 */
#include "tests/guest/guest.h"

#define RUN_WORDS         8  /* one cache line */
#define SLICE_OF_PAGES    16 /* dirtied between two looks at the clock */
#define WORDS_A_PAGE      8  /* written in a page that is dirtied */
#define PAGES_AN_AVX_STEP 16
#define RUN_UNIT          1000
#define MATCH_COST        17 /* what the encoder pays for the rest, of RUN_UNIT */

uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 16;
}

static void fill_page(uint64_t *page, uint64_t number)
{
    uint64_t ratio = shared.options.ratio_percent;
    /* of RUN_UNIT runs so many are incompressible, spread evenly; pages differ in where */
    uint64_t share = ratio <= 100 ? RUN_UNIT : RUN_UNIT * UINT64_C(100) / ratio;
    share -= ratio <= 100 || share < MATCH_COST ? 0 : MATCH_COST;
    uint64_t state = mix(number + 1), repeated = mix(number % 61 + 7), due = state % RUN_UNIT;

    for (unsigned run = 0; run < PAGE_WORDS / RUN_WORDS; run++, page += RUN_WORDS) {
        due += share;
        bool random = due >= RUN_UNIT;
        if (random)
            due -= RUN_UNIT;
        for (unsigned i = 0; i < RUN_WORDS; i++)
            page[i] = random ? mix(state += 0x9e3779b97f4a7c15) : repeated;
    }
}

static uint64_t sum_page(const uint64_t *page)
{
    const uint64_t k = 0x9e3779b97f4a7c15;
    uint64_t a = 1, b = 2, c = 3, d = 4;
    for (unsigned i = 0; i < PAGE_WORDS; i += 4) {
        a = (a ^ page[i]) * k;
        b = (b ^ page[i + 1]) * k;
        c = (c ^ page[i + 2]) * k;
        d = (d ^ page[i + 3]) * k;
    }
    return mix(a) ^ mix(b + 1) ^ mix(c + 2) ^ mix(d + 3);
}

static uint64_t sum_pages(uint64_t first, uint64_t end)
{
    uint64_t sum = 0;
    for (uint64_t page = first; page < end; page++) {
        sum = mix(sum + sum_page(memory_page(page)));
        if (page % 4 == 0)
            clock_watch();
    }
    return sum;
}

static uint64_t sum_slice(const struct share *share, unsigned slice)
{
    return sum_pages(share->first + share->pages * slice / SLICES,
                     share->first + share->pages * (slice + 1) / SLICES);
}

static struct share share_of(uint64_t first, uint64_t pages, unsigned index)
{
    uint64_t start = pages * index / shared.options.cpus;
    uint64_t end = pages * (index + 1) / shared.options.cpus;
    return (struct share){first + start, end - start};
}

void work_prepare(unsigned index)
{
    struct cpu *cpu = &shared.cpus[index];
    const struct options *o = &shared.options;
    struct share *parts[] = {&cpu->fill, &cpu->ws};

    cpu->fill = share_of(0, o->fill_pages, index);
    cpu->ws = share_of(o->fill_pages, o->ws_pages, index);
    cpu->rng = mix(index + 1);
    for (unsigned part = 0; part < 2; part++) {
        for (uint64_t i = 0; i < parts[part]->pages; i++) {
            fill_page(memory_page(parts[part]->first + i), parts[part]->first + i);
            clock_watch();
        }
    }
    for (unsigned slice = 0; slice < SLICES; slice++)
        cpu->fill_sums[slice] = sum_slice(&cpu->fill, slice);
}

static void dirty_page(struct cpu *cpu)
{
    uint64_t *page = memory_page(cpu->ws.first + next_random(&cpu->rng) % cpu->ws.pages);
    for (unsigned i = 0; i < WORDS_A_PAGE; i++) {
        uint64_t word = (uint64_t)i * (PAGE_WORDS / WORDS_A_PAGE) + cpu->rng % RUN_WORDS;
        page[word] = mix(page[word] ^ cpu->rng);
    }
    cpu->pages_dirtied++;
    if (shared.avx && cpu->pages_dirtied % PAGES_AN_AVX_STEP == 0)
        avx_step(cpu);
}

/* Pages that vCPU index dirties in all ticks up to `tick`. */
static uint64_t pages_until(unsigned index, uint64_t tick)
{
    const struct options *o = &shared.options;
    uint64_t rate = o->ws_pages >= o->cpus ? o->rate_mib : 0;
    uint64_t all = rate * (1048576 / PAGE_BYTES) * o->period_ms * tick / 1000;
    return all * (index + 1) / o->cpus - all * index / o->cpus;
}

static void dirty_for_tick(struct cpu *cpu, unsigned index, uint64_t tick)
{
    uint64_t period = shared.options.period_ms * shared.tsc_khz;
    uint64_t begin = pages_until(index, tick - 1), end = pages_until(index, tick);
    uint64_t passed = 0;

    while (passed < period || cpu->pages_dirtied < end) {
        passed = clock_watch() - shared.tick_start;
        uint64_t due = passed < period ? begin + (end - begin) * passed / period : end;
        unsigned done = 0;
        for (; cpu->pages_dirtied < due && done < SLICE_OF_PAGES; done++)
            dirty_page(cpu);
        if (done < SLICE_OF_PAGES && passed < period)
            machine_idle();
    }
}

void work_tick(unsigned index, uint64_t tick)
{
    struct cpu *cpu = &shared.cpus[index];
    unsigned slice = tick % SLICES;

    dirty_for_tick(cpu, index, tick);
    if (shared.avx)
        avx_step(cpu);
    uint64_t fill_sum = sum_slice(&cpu->fill, slice);
    if (fill_sum != cpu->fill_sums[slice])
        cpu->damaged_slices++;
    cpu->sum = mix(cpu->sum ^ fill_sum) ^ mix(sum_slice(&cpu->ws, slice));
    if (shared.full_sum)
        cpu->full_sum = sum_pages(cpu->fill.first, cpu->fill.first + cpu->fill.pages) ^
                        mix(sum_pages(cpu->ws.first, cpu->ws.first + cpu->ws.pages));
    clock_watch();
    cpu->reported_gap_tsc = cpu->gap_tsc;
    cpu->gap_tsc = 0;
    __atomic_store_n(&cpu->done_tick, tick, __ATOMIC_RELEASE);
}
