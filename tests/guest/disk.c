/*
 * The first virtio disk, driven from CPL3: configuration by ECAM, one request at a time, no
 * interrupts.
 *
 * Write n goes to one of the slots of 4 KiB, by a function of n, and its content is a function of
 * n; the next one begins when it is done.  So the disk of any instant holds for some n, in each
 * slot, the last of the writes 1 to n that went there: whoever has a copy can tell.
 */
#include "tests/guest/guest.h"

#define ECAM          UINT64_C(0xe8000000)
#define SLOT_SHIFT    15
#define VIRTIO_BLK    0x10421af4
#define CAP_VENDOR    9
#define CAP_COMMON    1
#define CAP_NOTIFY    2
#define FEATURE_FLUSH (1u << 9) /* without it each write would have to be durable */
#define FEATURE_1     1u        /* VIRTIO_F_VERSION_1, of the upper word */
#define QUEUE_SIZE    4u
#define WRITE         1u
#define SECTORS       (PAGE_BYTES / 512)

/* virtio 1.2, 4.1.4.3 */
struct common {
    uint32_t device_feature_select, device_feature, driver_feature_select, driver_feature;
    uint16_t config_vector, queues;
    uint8_t status, generation;
    uint16_t queue_select, queue_size, queue_vector, queue_enable, queue_notify_off;
    uint32_t desc[2], avail[2], used[2];
};

struct descriptor {
    uint64_t address;
    uint32_t size;
    uint16_t flags, next;
};

static struct descriptor desc[QUEUE_SIZE] __attribute__((aligned(16)));
static struct {
    uint16_t flags, index, ring[QUEUE_SIZE];
} avail __attribute__((aligned(16)));
static struct {
    uint16_t flags, index;
    struct {
        uint32_t id, size;
    } ring[QUEUE_SIZE];
} used __attribute__((aligned(16)));
static struct {
    uint32_t type, reserved;
    uint64_t sector;
} header;
static uint8_t status;
static uint64_t data[PAGE_WORDS] __attribute__((aligned(4096)));
static volatile uint16_t *doorbell;
static uint64_t written;

static uint32_t config_read(uint64_t function, unsigned reg)
{
    return *(volatile uint32_t *)(function + (reg & ~3u)) >> 8 * (reg & 3);
}

static uint64_t bar_address(uint64_t function, unsigned bar)
{
    uint32_t low = config_read(function, 0x10 + 4 * bar);
    uint64_t high = low & 4 ? config_read(function, 0x14 + 4 * bar) : 0;
    return (low & ~15u) | high << 32;
}

/* The structure of this kind; *at: where its capability is. */
static uint64_t find_structure(uint64_t function, uint8_t kind, unsigned *at)
{
    *at = config_read(function, 0x34) & 0xff;
    for (unsigned hops = 0; *at && hops < 32; hops++) {
        if ((config_read(function, *at) & 0xff) == CAP_VENDOR &&
            (config_read(function, *at + 3) & 0xff) == kind)
            return bar_address(function, config_read(function, *at + 4) & 0xff) +
                   config_read(function, *at + 8);
        *at = config_read(function, *at + 1) & 0xff;
    }
    return 0;
}

static void set_address(volatile uint32_t half[2], const volatile void *what)
{
    half[0] = (uint32_t)(uintptr_t)what;
    half[1] = 0;
}

static void start_queue(volatile struct common *common)
{
    common->status = 0;
    common->status = 1 | 2; /* ACKNOWLEDGE, DRIVER */
    common->driver_feature_select = 0;
    common->driver_feature = FEATURE_FLUSH;
    common->driver_feature_select = 1;
    common->driver_feature = FEATURE_1;
    common->status = 1 | 2 | 8; /* FEATURES_OK */
    common->queue_select = 0;
    common->queue_size = QUEUE_SIZE;
    set_address(common->desc, desc);
    set_address(common->avail, &avail);
    set_address(common->used, &used);
    common->queue_enable = 1;
    common->status = 1 | 2 | 8 | 4; /* DRIVER_OK */
}

static void describe_request(void)
{
    avail.flags = 1; /* no interrupts */
    header.type = WRITE;
    desc[0] = (struct descriptor){(uintptr_t)&header, sizeof(header), 1, 1};
    desc[1] = (struct descriptor){(uintptr_t)data, sizeof(data), 1, 2};
    desc[2] = (struct descriptor){(uintptr_t)&status, sizeof(status), 2, 0};
}

bool disk_start(void)
{
    unsigned at;
    for (unsigned slot = 0; slot < 32; slot++) {
        uint64_t function = ECAM + ((uint64_t)slot << SLOT_SHIFT);
        if (config_read(function, 0) != VIRTIO_BLK)
            continue;
        *(volatile uint16_t *)(function + 4) = 6; /* memory, bus master */
        uint64_t common = find_structure(function, CAP_COMMON, &at);
        uint64_t notify = find_structure(function, CAP_NOTIFY, &at);
        if (!common || !notify)
            return false;
        describe_request();
        volatile struct common *registers = (volatile struct common *)common;
        start_queue(registers);
        doorbell = (volatile uint16_t *)(notify + (uint64_t)registers->queue_notify_off *
                                                      config_read(function, at + 16));
        return true;
    }
    return false;
}

static void write_slot(uint64_t slot)
{
    header.sector = slot * SECTORS;
    status = 0xff;
    avail.ring[avail.index % QUEUE_SIZE] = 0;
    __atomic_store_n(&avail.index, (uint16_t)(avail.index + 1), __ATOMIC_SEQ_CST);
    *doorbell = 0;
    while (__atomic_load_n(&used.index, __ATOMIC_ACQUIRE) != avail.index)
        clock_watch();
    if (status) {
        put_number("DISK WRITE LOST status=", status);
        put("\n");
    }
}

void disk_write(uint64_t count)
{
    while (count--) {
        uint64_t n = ++written;
        data[0] = n;
        for (unsigned i = 1; i < PAGE_WORDS; i++)
            data[i] = mix(n * PAGE_WORDS + i);
        write_slot(mix(n) % shared.options.disk_slots);
    }
}

uint64_t disk_written(void)
{
    return written;
}
