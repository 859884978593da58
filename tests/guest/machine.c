/*
 * The machine under the payload: descriptor tables, RAM, LAPIC, further vCPUs, the calls to CPL0.
 * All of it runs at CPL3; entry.S has the few lines that cannot.
 */
#include "tests/guest/guest.h"

#define HIGH_START  UINT64_C(0x100000000)
#define LARGE_PAGE  UINT64_C(0x200000)
#define LOW_LIMIT   UINT64_C(0xc0000000)
#define HIGH_TABLES 28 /* GiB above 4 GiB that get page tables */
#define CMDLINE_MAX 1024
#define RAM         1
#define PM_CONTROL  0x604
#define PM_SLEEP_S5 (5 << 10 | 1 << 13)
#define GATE_KERNEL 0x8e
#define GATE_USER   0xee

struct hvm_start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, command_line, rsdp, memory_map;
    uint32_t memory_map_entries, reserved;
};

struct memory_map_entry {
    uint64_t address, size;
    uint32_t type, reserved;
};

struct gate {
    uint16_t offset_low, selector;
    uint8_t stack, type;
    uint16_t offset_middle;
    uint32_t offset_high, reserved;
};

struct task_state {
    uint32_t reserved;
    uint32_t rsp0_low, rsp0_high; /* in halves: it is not aligned */
    uint32_t unused[22];
    uint16_t reserved2, io_bitmap;
    uint8_t io_allowed_not[TSS_BYTES - 104];
};

extern char image_end[], fault_stubs[], timer_interrupt[], system_call[];
extern char trampoline[], trampoline_end[];
extern struct gate idt[TIMER_VECTOR + 1];
extern struct task_state task_state[MAX_CPUS];
extern uint8_t kernel_stacks[MAX_CPUS][KERNEL_STACK_BYTES];
extern uint64_t pdpt[512];
extern volatile uint32_t ap_index;
extern uint32_t start_info_address;

static uint64_t high_tables[HIGH_TABLES][512] __attribute__((aligned(4096)));
static char command_line[CMDLINE_MAX];
static uint64_t low_base, low_page_count, high_page_count;

void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" ::"a"(value), "d"(port));
}

uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "d"(port));
    return value;
}

uint32_t lapic_read(unsigned reg)
{
    return *(volatile uint32_t *)(uintptr_t)(LAPIC + reg);
}

void lapic_write(unsigned reg, uint32_t value)
{
    *(volatile uint32_t *)(uintptr_t)(LAPIC + reg) = value;
}

static void set_gate(unsigned vector, const char *handler, uint8_t type)
{
    uint64_t address = (uintptr_t)handler;
    idt[vector] = (struct gate){.offset_low = (uint16_t)address,
                                .selector = KERNEL_CODE,
                                .type = type,
                                .offset_middle = (uint16_t)(address >> 16),
                                .offset_high = (uint32_t)(address >> 32)};
}

static void allow_port(struct task_state *task, unsigned port)
{
    task->io_allowed_not[port / 8] &= (uint8_t) ~(1u << port % 8);
}

static void make_task_state(unsigned cpu)
{
    struct task_state *task = &task_state[cpu];
    task->rsp0_low = (uint32_t)(uintptr_t)kernel_stacks[cpu + 1];
    task->io_bitmap = __builtin_offsetof(struct task_state, io_allowed_not);
    for (unsigned i = 0; i < sizeof(task->io_allowed_not); i++)
        task->io_allowed_not[i] = 0xff;
    for (unsigned port = COM1; port < COM1 + 8; port++)
        allow_port(task, port);
    allow_port(task, PM_CONTROL);
    allow_port(task, PM_CONTROL + 1);
}

static void find_ram(const struct hvm_start_info *info)
{
    const struct memory_map_entry *map = (const void *)(uintptr_t)info->memory_map;
    low_base = ((uintptr_t)image_end + LARGE_PAGE - 1) & -LARGE_PAGE;
    for (uint32_t i = 0; i < info->memory_map_entries; i++) {
        uint64_t start = map[i].address, end = start + map[i].size;
        if (map[i].type != RAM)
            continue;
        if (start <= low_base && end > low_base)
            low_page_count = ((end < LOW_LIMIT ? end : LOW_LIMIT) - low_base) / PAGE_BYTES;
        if (start == HIGH_START)
            high_page_count = (end - start) / PAGE_BYTES;
    }
    if (high_page_count > HIGH_TABLES * 512ul * 512)
        high_page_count = HIGH_TABLES * 512ul * 512;
    for (uint64_t i = 0; i * 512 * 512 < high_page_count; i++) {
        for (uint64_t j = 0; j < 512; j++)
            high_tables[i][j] = (HIGH_START + (i * 512 + j) * LARGE_PAGE) | 0x87;
        pdpt[4 + i] = (uintptr_t)high_tables[i] | 7;
    }
}

void machine_init(void)
{
    const struct hvm_start_info *info = (const void *)(uintptr_t)start_info_address;
    for (unsigned vector = 0; vector < TIMER_VECTOR; vector++)
        set_gate(vector, fault_stubs + UINT64_C(8) * vector, GATE_KERNEL);
    set_gate(3, system_call, GATE_USER);
    set_gate(TIMER_VECTOR, timer_interrupt, GATE_KERNEL);
    for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++)
        make_task_state(cpu);

    const char *text = (const char *)(uintptr_t)info->command_line;
    for (unsigned i = 0; text && text[i] && i < CMDLINE_MAX - 1; i++)
        command_line[i] = text[i];
    find_ram(info);
}

const char *machine_command_line(void)
{
    return command_line;
}

uint64_t machine_ram_pages(void)
{
    return low_page_count + high_page_count;
}

uint64_t *memory_page(uint64_t page)
{
    uint64_t address = page < low_page_count ? low_base + page * PAGE_BYTES
                                             : HIGH_START + (page - low_page_count) * PAGE_BYTES;
    return (uint64_t *)address;
}

void timer_start(uint64_t hz)
{
    lapic_write(LAPIC_SPURIOUS, 0x1ff);
    lapic_write(LAPIC_DIVIDE, 0xb); /* by 1 */
    lapic_write(LAPIC_TIMER, 0x20000 | TIMER_VECTOR);
    lapic_write(LAPIC_INITIAL, (uint32_t)(1000000000 / hz));
}

uint64_t timer_interrupts(unsigned cpu)
{
    return *(volatile uint64_t *)kernel_stacks[cpu];
}

/* The CPU whose stack this is. */
struct cpu *this_cpu(void)
{
    extern char user_stacks[];
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    return &shared.cpus[(here - (uintptr_t)user_stacks) >> USER_STACK_SHIFT];
}

static void wait_ms(uint64_t ms)
{
    uint64_t end = clock_watch() + ms * shared.tsc_khz;
    while (clock_watch() < end)
        __asm__ volatile("pause");
}

static bool start_cpu(unsigned index)
{
    ap_index = index;
    for (int attempt = 0; attempt < 3; attempt++) {
        lapic_write(LAPIC_ICR_HIGH, index << 24);
        lapic_write(LAPIC_ICR_LOW, 0x4500); /* INIT */
        wait_ms(1);
        lapic_write(LAPIC_ICR_HIGH, index << 24);
        lapic_write(LAPIC_ICR_LOW, 0x4600 | TRAMPOLINE >> 12); /* SIPI */
        for (int i = 0; i < 200; i++) {
            if (__atomic_load_n(&shared.cpus[index].online, __ATOMIC_ACQUIRE))
                return true;
            wait_ms(1);
        }
    }
    return false;
}

void machine_start_cpus(void)
{
    uint8_t *target = (uint8_t *)TRAMPOLINE;
    __asm__("" : "+r"(target)); /* not an object the compiler knows */
    for (uintptr_t i = 0; i < (uintptr_t)trampoline_end - (uintptr_t)trampoline; i++)
        target[i] = (uint8_t)trampoline[i];
    for (unsigned index = 1; index < shared.options.cpus; index++) {
        if (!start_cpu(index)) {
            put_number("payload: no answer from vCPU ", index);
            put("\n");
            machine_stop();
        }
    }
}

static void call(uint32_t number, uint64_t first, void *second)
{
    __asm__ volatile("int3" : "+a"(number) : "D"(first), "S"(second) : "memory");
}

void machine_idle(void)
{
    if (shared.options.spin)
        __asm__ volatile("pause");
    else
        call(CALL_IDLE, 0, 0);
}

struct cpuid machine_cpuid(uint32_t leaf)
{
    struct cpuid result;
    call(CALL_CPUID, leaf, &result);
    return result;
}

bool machine_enable_avx(void)
{
    uint32_t features = machine_cpuid(1).ecx;
    bool avx2 = machine_cpuid(0).eax >= 7 && (machine_cpuid(7).ebx & 1u << 5);
    if (!(features & 1u << 26) || !(features & 1u << 28) || !avx2)
        return false;
    call(CALL_ENABLE_AVX, 0, 0);
    return true;
}

void machine_power_off(void)
{
    __asm__ volatile("outw %w0, %w1" ::"a"(PM_SLEEP_S5), "d"(PM_CONTROL));
}

void machine_stop(void)
{
    for (;;)
        call(CALL_STOP, 0, 0);
}
