/* Split rings: what a driver may do, what a hostile one tries, notifications, and the state. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "tests/support/virtio_rig.h"
#include "vmm/device/virtio_rng.h"

#define SIZE  UINT64_C(16)
#define DESC  UINT64_C(0x1000)
#define AVAIL UINT64_C(0x2000)
#define USED  UINT64_C(0x3000)
#define TABLE UINT64_C(0x4000)
#define DATA  UINT64_C(0x8000)
#define RAM   (8u << 20)

#define W VRING_DESC_F_WRITE
#define N VRING_DESC_F_NEXT
#define I VRING_DESC_F_INDIRECT

struct bench {
    struct memory *memory;
    struct virtqueue queue;
    struct virtqueue_chain chain;
};

static void bench_open(struct bench *bench)
{
    assert_int_equal(memory_create(RAM, &bench->memory, NULL), 0);
    virtqueue_init(&bench->queue, bench->memory, LIMIT_VIRTQUEUE_SIZE);
    bench->queue.registers = (struct virtqueue_state){
        .size = SIZE, .enabled = true, .desc = DESC, .avail = AVAIL, .used = USED};
    bench->queue.indirect = true;
    assert_true(virtqueue_is_sound(&bench->queue));
}

static void bench_close(struct bench *bench)
{
    memory_destroy(bench->memory);
}

static void descriptor(struct bench *bench, uint64_t table, unsigned index, uint64_t address,
                       uint32_t size, unsigned flags, unsigned next)
{
    const struct vring_desc desc = {
        .addr = address, .len = size, .flags = (uint16_t)flags, .next = (uint16_t)next};
    assert_int_equal(memory_write(bench->memory, (struct gpa){table + UINT64_C(16) * index}, &desc,
                                  sizeof(desc)),
                     0);
}

static void publish(struct bench *bench, uint16_t index, uint16_t head)
{
    struct gpa entry = {AVAIL + 4 + UINT64_C(2) * (index % SIZE)};
    assert_int_equal(memory_store_u16(bench->memory, entry, head), 0);
    assert_int_equal(memory_store_u16(bench->memory, (struct gpa){AVAIL + 2}, index + 1), 0);
}

/* Publish head 0 as the first chain and expect it to break the queue for good. */
static void expect_broken(struct bench *bench)
{
    publish(bench, 0, 0);
    assert_true(virtqueue_pop(&bench->queue, &bench->chain) < 0);
    assert_true(bench->queue.broken);
    assert_int_equal(bench->queue.registers.last_avail, 0);
    descriptor(bench, DESC, 0, DATA, 16, 0, 0); /* mended, but too late */
    assert_true(virtqueue_pop(&bench->queue, &bench->chain) < 0);
    bench_close(bench);
}

/* ---- what a driver may do ---- */

static void test_direct_chain(void **state)
{
    struct bench bench;
    uint8_t bytes[30];
    (void)state;
    bench_open(&bench);
    struct virtqueue *queue = &bench.queue;
    assert_int_equal(virtqueue_pop(queue, &bench.chain), 0);
    descriptor(&bench, DESC, 3, DATA, 10, N, 7);
    descriptor(&bench, DESC, 7, DATA + 100, 20, N, 1);
    descriptor(&bench, DESC, 1, DATA + 200, 5, W | N, 2);
    descriptor(&bench, DESC, 2, DATA + 300, 6, W, 0);
    memory_write(bench.memory, (struct gpa){DATA}, "abcdefghij", 10);
    memory_write(bench.memory, (struct gpa){DATA + 100}, "klmnopqrstuvwxyzABCD", 20);
    publish(&bench, 0, 3);
    assert_int_equal(virtqueue_pop(queue, &bench.chain), 1);
    assert_int_equal(bench.chain.head, 3);
    assert_int_equal(bench.chain.readable, 2);
    assert_int_equal(bench.chain.writable, 2);
    assert_int_equal(bench.chain.readable_bytes, 30);
    assert_int_equal(bench.chain.writable_bytes, 11);

    assert_int_equal(virtqueue_chain_read(queue, &bench.chain, 5, bytes, 20), 0);
    assert_memory_equal(bytes, "fghijklmnopqrstuvwxy", 20);
    assert_int_equal(virtqueue_chain_read(queue, &bench.chain, 11, bytes, 20), -EFAULT);
    assert_int_equal(virtqueue_chain_read(queue, &bench.chain, UINT64_MAX, bytes, 2), -EFAULT);
    assert_int_equal(virtqueue_chain_write(queue, &bench.chain, 3, "12345", 5), 0);
    memory_read(bench.memory, (struct gpa){DATA + 203}, bytes, 2);
    assert_memory_equal(bytes, "12", 2);
    memory_read(bench.memory, (struct gpa){DATA + 300}, bytes, 3);
    assert_memory_equal(bytes, "345", 3);
    assert_int_equal(virtqueue_chain_write(queue, &bench.chain, 10, "12", 2), -EFAULT);

    struct iovec iov[LIMIT_CHAIN_DESCRIPTORS];
    assert_int_equal(virtqueue_chain_iov(queue, &bench.chain, true, 4, 7, iov), 2);
    assert_int_equal(iov[0].iov_len, 1);
    assert_int_equal(iov[1].iov_len, 6);
    assert_int_equal(virtqueue_chain_iov(queue, &bench.chain, true, 4, 0, iov), 0);
    assert_int_equal(virtqueue_chain_iov(queue, &bench.chain, true, 4, 8, iov), -EFAULT);

    assert_int_equal(virtqueue_push(queue, &bench.chain, 11), 0);
    uint32_t used[2];
    memory_read(bench.memory, (struct gpa){USED + 4}, used, 8);
    assert_int_equal(used[0], 3);
    assert_int_equal(used[1], 11);
    assert_int_equal(virtqueue_pop(queue, &bench.chain), 0);
    bench_close(&bench);
}

static void test_indirect_chains(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    descriptor(&bench, DESC, 0, TABLE, 3 * 16, I, 0);
    descriptor(&bench, TABLE, 0, DATA, 8, N, 2);
    descriptor(&bench, TABLE, 2, DATA + 8, 8, N | W, 1);
    descriptor(&bench, TABLE, 1, DATA + 16, 8, W, 0);
    publish(&bench, 0, 0);
    assert_int_equal(virtqueue_pop(&bench.queue, &bench.chain), 1);
    assert_int_equal(bench.chain.readable, 1);
    assert_int_equal(bench.chain.writable, 2);
    assert_int_equal(bench.chain.segments[2].gpa.value, DATA + 16);
    virtqueue_push(&bench.queue, &bench.chain, 0);

    /* Plain descriptors first, then the table (2.7.5.3.1). */
    descriptor(&bench, DESC, 4, DATA, 4, N, 5);
    descriptor(&bench, DESC, 5, TABLE, 3 * 16, I, 0);
    publish(&bench, 1, 4);
    assert_int_equal(virtqueue_pop(&bench.queue, &bench.chain), 1);
    assert_int_equal(bench.chain.readable, 2);
    bench_close(&bench);
}

/* Linux cuts a request into as many pieces as seg_max allows, more than the ring has entries. */
static void test_longest_chain(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    for (unsigned n = 0; n < LIMIT_CHAIN_DESCRIPTORS; n++)
        descriptor(&bench, TABLE, n, DATA + n, 1, n + 1 < LIMIT_CHAIN_DESCRIPTORS ? N : 0, n + 1);
    descriptor(&bench, DESC, 0, TABLE, 16 * LIMIT_CHAIN_DESCRIPTORS, I, 0);
    publish(&bench, 0, 0);
    assert_int_equal(virtqueue_pop(&bench.queue, &bench.chain), 1);
    assert_int_equal(bench.chain.readable, LIMIT_CHAIN_DESCRIPTORS);
    bench_close(&bench);
}

static void test_indices_wrap(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    for (unsigned n = 0; n < SIZE; n++)
        descriptor(&bench, DESC, n, DATA + n, 1, 0, 0);
    for (uint32_t n = 0; n < 70000; n++) {
        publish(&bench, (uint16_t)n, n % SIZE);
        assert_int_equal(virtqueue_pop(&bench.queue, &bench.chain), 1);
        assert_int_equal(bench.chain.head, n % SIZE);
        assert_int_equal(virtqueue_pop(&bench.queue, &bench.chain), 0);
        virtqueue_push(&bench.queue, &bench.chain, 0);
    }
    uint16_t index;
    memory_load_u16(bench.memory, (struct gpa){USED + 2}, &index);
    assert_int_equal(index, 70000 % 65536);
    bench_close(&bench);
}

static void test_unpop_gives_the_same_chain_again(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    descriptor(&bench, DESC, 0, DATA, 16, 0, 0);
    publish(&bench, 0, 0);
    assert_int_equal(virtqueue_pop(&bench.queue, &bench.chain), 1);
    virtqueue_unpop(&bench.queue);
    assert_int_equal(virtqueue_pop(&bench.queue, &bench.chain), 1);
    assert_int_equal(virtqueue_pop(&bench.queue, &bench.chain), 0);
    bench_close(&bench);
}

/* ---- who is told ---- */

static void push_one(struct bench *bench, uint16_t index)
{
    descriptor(bench, DESC, 0, DATA, 16, 0, 0);
    publish(bench, index, 0);
    assert_int_equal(virtqueue_pop(&bench->queue, &bench->chain), 1);
    assert_int_equal(virtqueue_push(&bench->queue, &bench->chain, 0), 0);
}

static void test_interrupts_by_flag(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    push_one(&bench, 0);
    assert_int_equal(virtqueue_must_interrupt(&bench.queue), 1);
    memory_store_u16(bench.memory, (struct gpa){AVAIL}, VRING_AVAIL_F_NO_INTERRUPT);
    assert_int_equal(virtqueue_must_interrupt(&bench.queue), 0);
    bench_close(&bench);
}

static void test_interrupts_by_event_index(void **state)
{
    struct bench bench;
    const struct gpa event = {AVAIL + 4 + 2 * SIZE};
    (void)state;
    bench_open(&bench);
    bench.queue.event_index = true;
    memory_store_u16(bench.memory, event, 1000);
    push_one(&bench, 0);
    assert_int_equal(virtqueue_must_interrupt(&bench.queue), 1); /* the first time always */
    push_one(&bench, 1);
    assert_int_equal(virtqueue_must_interrupt(&bench.queue), 0);
    memory_store_u16(bench.memory, event, 3);
    push_one(&bench, 2);
    assert_int_equal(virtqueue_must_interrupt(&bench.queue), 0); /* entry 2 only */
    push_one(&bench, 3);
    assert_int_equal(virtqueue_must_interrupt(&bench.queue), 1);
    assert_int_equal(virtqueue_must_interrupt(&bench.queue), 0); /* told already */
    bench_close(&bench);
}

static void test_kicks(void **state)
{
    struct bench bench;
    uint16_t value;
    (void)state;
    bench_open(&bench);
    assert_int_equal(virtqueue_kicks_off(&bench.queue), 0);
    memory_load_u16(bench.memory, (struct gpa){USED}, &value);
    assert_int_equal(value, VRING_USED_F_NO_NOTIFY);
    assert_int_equal(virtqueue_kicks_on(&bench.queue), 0);
    memory_load_u16(bench.memory, (struct gpa){USED}, &value);
    assert_int_equal(value, 0);
    publish(&bench, 0, 0); /* came in between: the device must look again */
    assert_int_equal(virtqueue_kicks_on(&bench.queue), 1);
    bench.queue.event_index = true;
    bench.queue.registers.last_avail = 1;
    assert_int_equal(virtqueue_kicks_on(&bench.queue), 0);
    memory_load_u16(bench.memory, (struct gpa){USED + 4 + 8 * SIZE}, &value);
    assert_int_equal(value, 1);
    bench_close(&bench);
}

/* ---- what a hostile driver tries ---- */

static void test_loops_are_refused(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    descriptor(&bench, DESC, 0, DATA, 16, N, 0); /* itself */
    expect_broken(&bench);
    bench_open(&bench);
    for (unsigned n = 0; n < SIZE; n++) /* all of the ring */
        descriptor(&bench, DESC, n, DATA, 16, N, (n + 1) % SIZE);
    expect_broken(&bench);
    bench_open(&bench);
    descriptor(&bench, DESC, 0, TABLE, 32, I, 0); /* within a table */
    descriptor(&bench, TABLE, 0, DATA, 16, N, 1);
    descriptor(&bench, TABLE, 1, DATA, 16, N, 0);
    expect_broken(&bench);
}

static void test_indices_out_of_the_table_are_refused(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    descriptor(&bench, DESC, 0, DATA, 16, N, SIZE);
    descriptor(&bench, DESC, SIZE, DATA, 16, 0, 0);
    expect_broken(&bench);
    bench_open(&bench);
    descriptor(&bench, DESC, 0, TABLE, 32, I, 0);
    descriptor(&bench, TABLE, 0, DATA, 16, N, 2);
    descriptor(&bench, TABLE, 2, DATA, 16, 0, 0);
    expect_broken(&bench);
    bench_open(&bench);
    publish(&bench, 0, SIZE); /* the head itself */
    assert_true(virtqueue_pop(&bench.queue, &bench.chain) < 0);
    bench_close(&bench);
}

static void test_buffers_outside_of_ram_are_refused(void **state)
{
    static const struct {
        uint64_t address;
        uint32_t size;
    } bad[] = {{RAM, 1},
               {RAM - 1, 2},
               {UINT64_MAX, 1},
               {UINT64_MAX - 15, 16},
               {UINT64_MAX - 15, 32},
               {0, UINT32_MAX},
               {0xfee00000, 4},
               {UINT64_C(0x100000000), 16},
               {DATA, 0}};
    struct bench bench;
    (void)state;
    for (unsigned n = 0; n < sizeof(bad) / sizeof(bad[0]); n++) {
        bench_open(&bench);
        descriptor(&bench, DESC, 0, bad[n].address, bad[n].size, 0, 0);
        expect_broken(&bench);
        bench_open(&bench);
        descriptor(&bench, DESC, 0, TABLE, 16, I, 0);
        descriptor(&bench, TABLE, 0, bad[n].address, bad[n].size, W, 0);
        expect_broken(&bench);
    }
}

static void test_readable_after_writable_is_refused(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    descriptor(&bench, DESC, 0, DATA, 16, N | W, 1);
    descriptor(&bench, DESC, 1, DATA, 16, 0, 0);
    expect_broken(&bench);
}

static void test_bad_indirect_tables_are_refused(void **state)
{
    static const struct {
        uint64_t address;
        uint32_t size;
        unsigned flags;
    } bad[] = {
        {TABLE, 0, I},                                  /* empty */
        {TABLE, 24, I},                                 /* not whole descriptors */
        {TABLE, 16 * (LIMIT_CHAIN_DESCRIPTORS + 1), I}, /* too long */
        {TABLE, UINT32_MAX & ~15u, I},                  /* much too long */
        {TABLE, 16, I | N},                             /* and something behind it */
        {RAM - 16, 32, I},                              /* half of it outside */
        {UINT64_MAX - 15, 16, I},                       /* all of it */
    };
    struct bench bench;
    (void)state;
    for (unsigned n = 0; n < sizeof(bad) / sizeof(bad[0]); n++) {
        bench_open(&bench);
        descriptor(&bench, TABLE, 0, DATA, 16, 0, 0);
        descriptor(&bench, DESC, 0, bad[n].address, bad[n].size, bad[n].flags, 1);
        descriptor(&bench, DESC, 1, DATA, 16, 0, 0);
        expect_broken(&bench);
    }
    bench_open(&bench); /* a table in a table */
    descriptor(&bench, DESC, 0, TABLE, 16, I, 0);
    descriptor(&bench, TABLE, 0, TABLE + 16, 16, I, 0);
    descriptor(&bench, TABLE, 1, DATA, 16, 0, 0);
    expect_broken(&bench);
    bench_open(&bench); /* not negotiated */
    bench.queue.indirect = false;
    descriptor(&bench, DESC, 0, TABLE, 16, I, 0);
    descriptor(&bench, TABLE, 0, DATA, 16, 0, 0);
    expect_broken(&bench);
}

static void test_too_much_is_refused(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench); /* plain ones before a full table: one too many */
    descriptor(&bench, DESC, 0, DATA, 1, N, 1);
    descriptor(&bench, DESC, 1, TABLE, 16 * LIMIT_CHAIN_DESCRIPTORS, I, 0);
    for (unsigned n = 0; n < LIMIT_CHAIN_DESCRIPTORS; n++)
        descriptor(&bench, TABLE, n, DATA, 1, n + 1 < LIMIT_CHAIN_DESCRIPTORS ? N : 0, n + 1);
    expect_broken(&bench);
    bench_open(&bench); /* the available index runs ahead by more than the ring holds */
    descriptor(&bench, DESC, 0, DATA, 16, 0, 0);
    memory_store_u16(bench.memory, (struct gpa){AVAIL + 2}, SIZE + 1);
    assert_true(virtqueue_pop(&bench.queue, &bench.chain) < 0);
    bench_close(&bench);
    bench_open(&bench); /* or backwards */
    descriptor(&bench, DESC, 0, DATA, 16, 0, 0);
    bench.queue.registers.last_avail = bench.queue.registers.used_index = 5;
    memory_store_u16(bench.memory, (struct gpa){AVAIL + 2}, 4);
    assert_true(virtqueue_pop(&bench.queue, &bench.chain) < 0);
    bench_close(&bench);
}

static void test_random_rings_do_no_harm(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    srand(11);
    uint8_t *ram = memory_base(bench.memory);
    for (unsigned round = 0; round < 20000; round++) {
        for (unsigned n = 0; n < 16 * SIZE; n++)
            ram[DESC + n] = ram[TABLE + n] = (uint8_t)(rand() % 8 ? 0 : rand());
        for (unsigned n = 0; n < 2 * SIZE + 4; n++)
            ram[AVAIL + n] = (uint8_t)(rand() % SIZE);
        bench.queue.broken = false;
        bench.queue.registers.last_avail = (uint16_t)rand();
        bench.queue.registers.used_index = (uint16_t)rand();
        if (virtqueue_pop(&bench.queue, &bench.chain) == 1)
            virtqueue_push(&bench.queue, &bench.chain, 0);
        virtqueue_must_interrupt(&bench.queue);
        virtqueue_kicks_on(&bench.queue);
    }
    bench_close(&bench);
}

/* ---- registers, through a device ---- */

static void common_write(struct driver *driver, unsigned reg, unsigned size, uint64_t value)
{
    rig_mmio_write(driver->rig, driver->common + reg, size, value);
}

static uint64_t common_read(struct driver *driver, unsigned reg, unsigned size)
{
    return rig_mmio_read(driver->rig, driver->common + reg, size);
}

static struct device *rng_open(struct rig *rig, struct driver *driver)
{
    struct device *device;
    rig_create(rig, -1);
    assert_int_equal(virtio_rng_create(&rig->platform, rig->pci, &device, NULL), 0);
    assert_int_equal(device->ops->resume(device, NULL), 0);
    driver_probe(driver, rig, rig_find(rig, 0x1044, 0));
    return device;
}

static void rng_close(struct rig *rig, struct device *device)
{
    device->ops->destroy(device);
    rig_destroy(rig);
}

static void test_rng_gives_bytes(void **state)
{
    struct rig rig;
    struct driver driver;
    uint32_t length;
    (void)state;
    struct device *device = rng_open(&rig, &driver);
    assert_true(driver_negotiate(&driver, driver_offered(&driver)));
    driver_setup_queue(&driver, 8);
    driver_ready(&driver);
    const uint32_t sizes[] = {1, 64, 256, 8192};
    for (unsigned n = 0; n < 4; n++) {
        uint8_t *bytes = rig_ram(&rig, DRIVER_DATA_GPA);
        memset(bytes, 0, 8192);
        driver_chain(&driver, 0, &(struct driver_buffer){DRIVER_DATA_GPA, sizes[n], true}, 1);
        driver_publish(&driver, 0);
        driver_kick(&driver);
        driver_wait(&driver, &length);
        assert_in_range(length, 1, sizes[n]);
        unsigned set = 0;
        for (unsigned at = 0; at < length; at++)
            set += bytes[at] != 0;
        assert_true(length < 16 || set > length / 2);
        for (unsigned at = length; at < 8192; at++)
            assert_int_equal(bytes[at], 0);
    }
    rng_close(&rig, device);
}

static void test_registers_freeze(void **state)
{
    struct rig rig;
    struct driver driver;
    (void)state;
    struct device *device = rng_open(&rig, &driver);
    assert_true(driver_negotiate(&driver, UINT64_C(1) << VIRTIO_F_VERSION_1));
    common_write(&driver, VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
    common_write(&driver, VIRTIO_PCI_COMMON_GF, 4, 1); /* after FEATURES_OK */
    assert_int_equal(common_read(&driver, VIRTIO_PCI_COMMON_GF, 4), 0);
    driver_setup_queue(&driver, 8);
    assert_int_equal(common_read(&driver, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
    common_write(&driver, VIRTIO_PCI_COMMON_Q_SIZE, 2, 4);
    assert_int_equal(common_read(&driver, VIRTIO_PCI_COMMON_Q_SIZE, 2), 8);
    common_write(&driver, VIRTIO_PCI_COMMON_Q_DESCLO, 4, 0x5000);
    common_write(&driver, VIRTIO_PCI_COMMON_Q_USEDHI, 4, 5);
    common_write(&driver, VIRTIO_PCI_COMMON_Q_AVAILLO, 8, UINT64_MAX);
    assert_int_equal(common_read(&driver, VIRTIO_PCI_COMMON_Q_DESCLO, 8), driver.queue.desc);
    assert_int_equal(common_read(&driver, VIRTIO_PCI_COMMON_Q_AVAILLO, 8), driver.queue.avail);
    assert_int_equal(common_read(&driver, VIRTIO_PCI_COMMON_Q_USEDLO, 8), driver.queue.used);
    common_write(&driver, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
    assert_int_equal(common_read(&driver, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
    common_write(&driver, VIRTIO_PCI_COMMON_STATUS, 1, 1); /* clearing bits is not for drivers */
    assert_int_equal(driver_status(&driver), 0xb);
    common_write(&driver, VIRTIO_PCI_COMMON_STATUS, 1, 0);
    assert_int_equal(common_read(&driver, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
    assert_int_equal(common_read(&driver, VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0);
    rng_close(&rig, device);
}

static void test_features_must_make_sense(void **state)
{
    struct rig rig;
    struct driver driver;
    (void)state;
    struct device *device = rng_open(&rig, &driver);
    uint64_t offered = driver_offered(&driver);
    assert_false(driver_negotiate(&driver, 0));
    assert_false(driver_negotiate(&driver, offered & ~(UINT64_C(1) << VIRTIO_F_VERSION_1)));
    assert_false(driver_negotiate(&driver, offered | 1));
    assert_false(driver_negotiate(&driver, offered | UINT64_C(1) << 63));
    driver_ready(&driver); /* not without FEATURES_OK */
    assert_int_equal(driver_status(&driver), 3);
    driver_setup_queue(&driver, 8);
    assert_int_equal(common_read(&driver, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
    assert_true(driver_negotiate(&driver, offered));
    common_write(&driver, VIRTIO_PCI_COMMON_STATUS, 1, 0xff); /* NEEDS_RESET is not the driver's */
    assert_int_equal(driver_status(&driver), 0x8f);
    rng_close(&rig, device);
}

static void test_bad_queues_are_not_enabled(void **state)
{
    static const struct {
        unsigned reg;
        uint32_t value;
    } bad[] = {{VIRTIO_PCI_COMMON_Q_DESCLO, DRIVER_QUEUE_GPA + 8},
               {VIRTIO_PCI_COMMON_Q_AVAILLO, DRIVER_QUEUE_GPA + 1},
               {VIRTIO_PCI_COMMON_Q_USEDLO, DRIVER_QUEUE_GPA + 2},
               {VIRTIO_PCI_COMMON_Q_DESCHI, 1},
               {VIRTIO_PCI_COMMON_Q_AVAILHI, UINT32_MAX},
               {VIRTIO_PCI_COMMON_Q_USEDLO, RIG_RAM_BYTES - 4},
               {VIRTIO_PCI_COMMON_Q_USEDLO, 0xfffffffc}};
    struct rig rig;
    struct driver driver;
    (void)state;
    struct device *device = rng_open(&rig, &driver);
    for (unsigned n = 0; n < sizeof(bad) / sizeof(bad[0]); n++) {
        assert_true(driver_negotiate(&driver, driver_offered(&driver)));
        common_write(&driver, VIRTIO_PCI_COMMON_Q_DESCLO, 4, DRIVER_QUEUE_GPA);
        common_write(&driver, VIRTIO_PCI_COMMON_Q_AVAILLO, 4, DRIVER_QUEUE_GPA + 0x100);
        common_write(&driver, VIRTIO_PCI_COMMON_Q_USEDLO, 4, DRIVER_QUEUE_GPA + 0x200);
        common_write(&driver, bad[n].reg, 4, bad[n].value);
        common_write(&driver, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
        assert_int_equal(common_read(&driver, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
        assert_true(driver_status(&driver) & VIRTIO_CONFIG_S_NEEDS_RESET);
    }
    assert_true(driver_negotiate(&driver, driver_offered(&driver)));
    const uint16_t sizes[] = {0, 3, 7, 16, 0x8000};
    for (unsigned n = 0; n < 5; n++) {
        common_write(&driver, VIRTIO_PCI_COMMON_Q_SIZE, 2, sizes[n]);
        assert_int_equal(common_read(&driver, VIRTIO_PCI_COMMON_Q_SIZE, 2), 8);
    }
    common_write(&driver, VIRTIO_PCI_COMMON_Q_MSIX, 2, 2); /* there are vectors 0 and 1 */
    assert_int_equal(common_read(&driver, VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
    common_write(&driver, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1); /* no such queue */
    common_write(&driver, VIRTIO_PCI_COMMON_Q_SIZE, 2, 4);
    assert_int_equal(common_read(&driver, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
    rig_mmio_write(&rig, driver.notify + 4, 2, 1);
    rng_close(&rig, device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_direct_chain),
        cmocka_unit_test(test_indirect_chains),
        cmocka_unit_test(test_longest_chain),
        cmocka_unit_test(test_indices_wrap),
        cmocka_unit_test(test_unpop_gives_the_same_chain_again),
        cmocka_unit_test(test_interrupts_by_flag),
        cmocka_unit_test(test_interrupts_by_event_index),
        cmocka_unit_test(test_kicks),
        cmocka_unit_test(test_loops_are_refused),
        cmocka_unit_test(test_indices_out_of_the_table_are_refused),
        cmocka_unit_test(test_buffers_outside_of_ram_are_refused),
        cmocka_unit_test(test_readable_after_writable_is_refused),
        cmocka_unit_test(test_bad_indirect_tables_are_refused),
        cmocka_unit_test(test_too_much_is_refused),
        cmocka_unit_test(test_random_rings_do_no_harm),
        cmocka_unit_test(test_rng_gives_bytes),
        cmocka_unit_test(test_registers_freeze),
        cmocka_unit_test(test_features_must_make_sense),
        cmocka_unit_test(test_bad_queues_are_not_enabled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
