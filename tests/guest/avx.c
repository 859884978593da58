/*
 * Live AVX state: all 16 ymm registers hold a running value, and nothing else in this guest uses
 * vector registers (it is compiled with general registers only).  Lane k holds
 * seed(k) + steps * increment(k); the check compares all lanes with that, so that registers which
 * were lost, mixed up or taken from an older instant are seen at the next look.
 */
#include "tests/guest/guest.h"

#define LANES 64 /* 16 registers of 4 */

struct lanes {
    uint64_t v[LANES];
} __attribute__((aligned(32)));

static struct lanes seeds, increments;
static struct lanes seen[MAX_CPUS];

/* Apply op to (register, byte offset) for all 16 registers. */
#define EACH_YMM(op)                                                                              \
    op(0, 0) op(1, 32) op(2, 64) op(3, 96) op(4, 128) op(5, 160) op(6, 192) op(7, 224) op(8, 256) \
        op(9, 288) op(10, 320) op(11, 352) op(12, 384) op(13, 416) op(14, 448) op(15, 480)
#define LOAD(r, o)  "vmovdqa " #o "(%0), %%ymm" #r "\n"
#define STORE(r, o) "vmovdqa %%ymm" #r ", " #o "(%0)\n"
#define ADD(r, o)   "vpaddq " #o "(%0), %%ymm" #r ", %%ymm" #r "\n"

bool avx_start(void)
{
    uint32_t low = 0, high = 0;
    if (!machine_enable_avx())
        return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 6) != 6)
        return false;
    for (unsigned k = 0; k < LANES; k++) {
        seeds.v[k] = mix(k + 1);
        increments.v[k] = mix(k + 1000) | 1;
    }
    __asm__ volatile(EACH_YMM(LOAD)::"r"(&seeds) : "memory");
    return true;
}

void avx_step(struct cpu *cpu)
{
    __asm__ volatile(EACH_YMM(ADD)::"r"(&increments) : "memory");
    cpu->avx_steps++;
}

void avx_check(struct cpu *cpu)
{
    struct lanes *now = &seen[cpu - shared.cpus];
    uint64_t wrong = 0;
    __asm__ volatile(EACH_YMM(STORE)::"r"(now) : "memory");
    for (unsigned k = 0; k < LANES; k++)
        wrong |= now->v[k] ^ (seeds.v[k] + cpu->avx_steps * increments.v[k]);
    cpu->avx_errors += wrong != 0;
}

uint64_t avx_value(const struct cpu *cpu)
{
    const struct lanes *now = &seen[cpu - shared.cpus];
    uint64_t value = 0;
    for (unsigned k = 0; k < LANES; k++)
        value = mix(value ^ now->v[k]);
    return value;
}
