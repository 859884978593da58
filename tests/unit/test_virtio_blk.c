/* virtio-blk under a driver: data, statuses, durability, requests that make no sense. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "common/limits.h"
#include "tests/support/blk_bench.h"

#define SECTOR UINT64_C(512)

/* ---- what must work ---- */

static void test_configuration_describes_the_disk(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench, false, 0);
    struct rig *rig = &bench.rig;
    uint64_t config = bench.driver.config;
    assert_int_equal(rig_mmio_read(rig, config, 8), DISK_SECTORS);
    assert_int_equal(rig_mmio_read(rig, config + offsetof(struct virtio_blk_config, seg_max), 4),
                     LIMIT_CHAIN_DESCRIPTORS - 2);
    assert_int_equal(rig_mmio_read(rig, config + offsetof(struct virtio_blk_config, blk_size), 4),
                     512);
    /* A request as large as the driver may make one is not refused for its size. */
    uint64_t segment = rig_mmio_read(rig, config + offsetof(struct virtio_blk_config, size_max), 4);
    assert_in_range(segment, 4096, LIMIT_BLK_REQUEST_BYTES / (LIMIT_CHAIN_DESCRIPTORS - 2));
    uint64_t features = driver_offered(&bench.driver);
    assert_true(features & FEATURE(VIRTIO_F_VERSION_1));
    assert_true(features & FEATURE(VIRTIO_BLK_F_FLUSH));
    assert_true(features & FEATURE(VIRTIO_BLK_F_DISCARD));
    assert_false(features & FEATURE(VIRTIO_BLK_F_RO));
    bench_close(&bench);
}

static void test_reads_and_writes(void **state)
{
    struct bench bench;
    uint32_t length;
    (void)state;
    for (unsigned variant = 0; variant < 4; variant++) {
        bool indirect = variant & 1;
        uint64_t without = variant & 2 ? FEATURE(VIRTIO_RING_F_EVENT_IDX) : 0;
        bench_open(&bench, false, without);
        assert_int_equal(
            driver_block(&bench.driver, VIRTIO_BLK_T_IN, 8, 4096, false, indirect, &length), 0);
        assert_int_equal(length, 4097);
        assert_memory_equal(data_of(&bench), bench.disk.data + SECTOR * 8, 4096);
        memset(data_of(&bench), 0x5a, SECTOR * 3);
        assert_int_equal(driver_block(&bench.driver, VIRTIO_BLK_T_OUT, DISK_SECTORS - 3, 512 * 3,
                                      true, indirect, &length),
                         0);
        assert_int_equal(length, 1);
        assert_memory_equal(data_of(&bench), bench.disk.data + DISK_BYTES - SECTOR * 3, SECTOR * 3);
        assert_true(interrupts(bench.device, 0) >= 1);
        bench_close(&bench);
    }
}

static void test_random_requests_match_a_model(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench, false, 0);
    uint8_t *model = malloc(DISK_BYTES);
    assert_non_null(model);
    memcpy(model, bench.disk.data, DISK_BYTES);
    srand(7);
    for (unsigned round = 0; round < 3000; round++) {
        uint32_t sectors = 1 + (uint32_t)rand() % 64;
        uint64_t sector = (uint64_t)rand() % (DISK_SECTORS - sectors + 1);
        uint32_t bytes = sectors * 512;
        bool indirect = rand() & 1;
        if (rand() % 2) {
            for (unsigned n = 0; n < bytes; n++)
                data_of(&bench)[n] = (uint8_t)rand();
            memcpy(model + sector * 512, data_of(&bench), bytes);
            assert_int_equal(
                driver_block(&bench.driver, VIRTIO_BLK_T_OUT, sector, bytes, true, indirect, NULL),
                0);
        } else {
            assert_int_equal(
                driver_block(&bench.driver, VIRTIO_BLK_T_IN, sector, bytes, false, indirect, NULL),
                0);
            assert_memory_equal(data_of(&bench), model + sector * 512, bytes);
        }
    }
    assert_memory_equal(bench.disk.data, model, DISK_BYTES);
    free(model);
    bench_close(&bench);
}

static void test_many_in_flight(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench, false, 0);
    struct rig *rig = &bench.rig;
    enum { REQUESTS = 20, ROUNDS = 200 };
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned n = 0; n < REQUESTS; n++) {
            uint64_t at = DRIVER_DATA_GPA + UINT64_C(0x1000) * n;
            struct virtio_blk_outhdr *header = rig_ram(rig, at + 0x800);
            *header = (struct virtio_blk_outhdr){.type = VIRTIO_BLK_T_IN, .sector = round + n};
            const struct driver_buffer buffers[] = {
                {at + 0x800, 16, false}, {at, 512, true}, {at + 0x900, 1, true}};
            driver_chain(&bench.driver, (uint16_t)(3 * n), buffers, 3);
            driver_publish(&bench.driver, (uint16_t)(3 * n));
            if (n % 7 == 0)
                driver_kick(&bench.driver);
        }
        driver_kick(&bench.driver);
        for (unsigned n = 0; n < REQUESTS; n++) {
            uint32_t head = driver_wait(&bench.driver, NULL);
            uint64_t at = DRIVER_DATA_GPA + UINT64_C(0x1000) * (head / 3);
            assert_memory_equal(rig_ram(rig, at), bench.disk.data + SECTOR * (round + head / 3),
                                512);
        }
    }
    bench_close(&bench);
}

static void test_flush_id_discard_zeroes(void **state)
{
    struct bench bench;
    uint32_t length;
    (void)state;
    bench_open(&bench, false, 0);
    struct driver *driver = &bench.driver;
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_FLUSH, 0, 0, true, false, NULL), 0);
    assert_int_equal(bench.disk.flushes, 1);

    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_GET_ID, 0, 20, false, false, &length), 0);
    assert_int_equal(length, 21);
    assert_memory_equal(data_of(&bench), "ferry-serial\0\0\0\0\0\0\0\0", 20);

    struct virtio_blk_discard_write_zeroes *range = (void *)data_of(&bench);
    range[0] = (struct virtio_blk_discard_write_zeroes){.sector = 8, .num_sectors = 8};
    range[1] = (struct virtio_blk_discard_write_zeroes){.sector = 64, .num_sectors = 8};
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_DISCARD, 0, 32, true, false, NULL), 0);
    assert_int_equal(bench.disk.discards, 2);

    range[0].flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, true, false, NULL), 0);
    assert_int_equal(bench.disk.zeroes, 1);
    for (unsigned n = 0; n < 8 * 512; n++)
        assert_int_equal(bench.disk.data[8 * 512 + n], 0);
    bench_close(&bench);
}

static void test_without_flush_every_write_is_durable(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench, false, FEATURE(VIRTIO_BLK_F_FLUSH));
    assert_int_equal(driver_block(&bench.driver, VIRTIO_BLK_T_OUT, 0, 512, true, false, NULL), 0);
    assert_int_equal(bench.disk.flushes, 1);
    bench_close(&bench);
}

static void test_several_disks(void **state)
{
    struct rig rig;
    struct ram_disk disks[3];
    struct device *devices[3];
    (void)state;
    rig_create(&rig, -1);
    for (unsigned n = 0; n < 3; n++) {
        devices[n] = add_disk(&rig, &disks[n], (const char *[]){"vda", "vdb", "vdc"}[n], n == 2);
        memset(disks[n].data, (int)n + 1, 512);
    }
    for (unsigned n = 0; n < 3; n++) {
        struct driver driver;
        driver_start(&driver, &rig, rig_find(&rig, BLK_ID, n), 0);
        assert_int_equal(driver_block(&driver, VIRTIO_BLK_T_IN, 0, 512, false, false, NULL), 0);
        assert_int_equal(*(uint8_t *)rig_ram(&rig, DRIVER_DATA_GPA), n + 1);
        assert_false(driver_negotiate(&driver, 0)); /* let go of the rings: the next uses them */
    }
    for (unsigned n = 0; n < 3; n++) {
        devices[n]->ops->destroy(devices[n]);
        free(disks[n].data);
    }
    rig_destroy(&rig);
}

/* ---- what must be refused ---- */

static void test_readonly_refuses_changes(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench, true, 0);
    struct driver *driver = &bench.driver;
    assert_true(driver->features & FEATURE(VIRTIO_BLK_F_RO));
    assert_false(driver->features & FEATURE(VIRTIO_BLK_F_DISCARD));
    uint8_t before = bench.disk.data[0];
    data_of(&bench)[0] = (uint8_t)~before;
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_OUT, 0, 512, true, false, NULL),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_DISCARD, 0, 16, true, false, NULL),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, true, false, NULL),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(bench.disk.data[0], before);
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_IN, 0, 512, false, false, NULL), 0);
    bench_close(&bench);
}

static void test_bad_requests_get_a_status(void **state)
{
    struct bench bench;
    uint32_t length;
    (void)state;
    bench_open(&bench, false, 0);
    struct driver *driver = &bench.driver;
    const uint64_t sectors[] = {DISK_SECTORS, DISK_SECTORS - 1, UINT64_MAX, UINT64_MAX / 512};
    for (unsigned n = 0; n < 4; n++) {
        assert_int_equal(
            driver_block(driver, VIRTIO_BLK_T_IN, sectors[n], 1024, false, false, &length),
            VIRTIO_BLK_S_IOERR);
        assert_int_equal(length, 0);
        assert_int_equal(
            driver_block(driver, VIRTIO_BLK_T_OUT, sectors[n], 1024, true, false, NULL),
            VIRTIO_BLK_S_IOERR);
    }
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_IN, 0, 513, false, false, NULL),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(driver_block(driver, 99, 0, 512, false, false, NULL), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_SECURE_ERASE, 0, 16, true, false, NULL),
                     VIRTIO_BLK_S_UNSUPP);
    bench_close(&bench);
}

static void test_bad_ranges_get_a_status(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench, false, 0);
    struct driver *driver = &bench.driver;
    struct virtio_blk_discard_write_zeroes *range = (void *)data_of(&bench);
    *range = (struct virtio_blk_discard_write_zeroes){.num_sectors = 8, .flags = 1};
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_DISCARD, 0, 16, true, false, NULL),
                     VIRTIO_BLK_S_UNSUPP);
    range->flags = 2;
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, true, false, NULL),
                     VIRTIO_BLK_S_UNSUPP);
    *range = (struct virtio_blk_discard_write_zeroes){.sector = UINT64_MAX, .num_sectors = 8};
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_DISCARD, 0, 16, true, false, NULL),
                     VIRTIO_BLK_S_IOERR);
    *range = (struct virtio_blk_discard_write_zeroes){.num_sectors = UINT32_MAX};
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, true, false, NULL),
                     VIRTIO_BLK_S_IOERR);
    range->num_sectors = 8;
    /* Not whole ranges; none; more than write zeroes takes; more than discard takes. */
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_DISCARD, 0, 17, true, false, NULL),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_DISCARD, 0, 0, true, false, NULL),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_WRITE_ZEROES, 0, 32, true, false, NULL),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_DISCARD, 0, 16 * (LIMIT_BLK_SEGMENTS + 1),
                                  true, false, NULL),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(bench.disk.discards + bench.disk.zeroes, 0);
    bench_close(&bench);
}

static void test_host_errors_get_a_status(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench, false, 0);
    struct driver *driver = &bench.driver;
    bench.disk.fail = -5;
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_IN, 0, 512, false, false, NULL), 1);
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_OUT, 0, 512, true, false, NULL), 1);
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_FLUSH, 0, 0, true, false, NULL), 1);
    struct virtio_blk_discard_write_zeroes *range = (void *)data_of(&bench);
    *range = (struct virtio_blk_discard_write_zeroes){.num_sectors = 8};
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_DISCARD, 0, 16, true, false, NULL), 1);
    bench.disk.fail = -EOPNOTSUPP; /* a backend that cannot */
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_DISCARD, 0, 16, true, false, NULL),
                     VIRTIO_BLK_S_UNSUPP);
    bench.disk.fail = 0;
    assert_int_equal(driver_block(driver, VIRTIO_BLK_T_IN, 0, 512, false, false, NULL), 0);
    bench_close(&bench);
}

static void test_requests_without_header_or_status_break_the_device(void **state)
{
    static const struct driver_buffer shapes[][2] = {
        {{DRIVER_DATA_GPA, 15, false}, {DRIVER_DATA_GPA, 1, true}},    /* header too short */
        {{DRIVER_DATA_GPA, 16, false}, {DRIVER_DATA_GPA, 512, false}}, /* nowhere for a status */
        {{DRIVER_DATA_GPA, 16, true}, {DRIVER_DATA_GPA, 512, true}},   /* no header at all */
    };
    (void)state;
    for (unsigned n = 0; n < 3; n++) {
        struct bench bench;
        bench_open(&bench, false, 0);
        memset(data_of(&bench), 0, 512);
        driver_chain(&bench.driver, 0, shapes[n], 2);
        driver_publish(&bench.driver, 0);
        driver_kick(&bench.driver);
        driver_wait_status(&bench.driver, VIRTIO_CONFIG_S_NEEDS_RESET);
        assert_false(driver_has_used(&bench.driver));
        /* The state of a broken device can be saved and loaded, and a reset mends it. */
        bench.device->ops->quiesce(bench.device, NULL);
        assert_int_equal(interrupts(bench.device, 1), 1); /* configuration change */
        struct writer saved = rig_save(bench.device);
        assert_int_equal(rig_load(&bench.rig, bench.device, saved.data, saved.size, NULL), 0);
        writer_free(&saved);
        bench.device->ops->resume(bench.device, NULL);
        assert_true(driver_status(&bench.driver) & VIRTIO_CONFIG_S_NEEDS_RESET);
        driver_start(&bench.driver, &bench.rig, bench.driver.slot, 0);
        assert_int_equal(driver_block(&bench.driver, VIRTIO_BLK_T_IN, 0, 512, false, false, NULL),
                         0);
        bench_close(&bench);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_configuration_describes_the_disk),
        cmocka_unit_test(test_reads_and_writes),
        cmocka_unit_test(test_random_requests_match_a_model),
        cmocka_unit_test(test_many_in_flight),
        cmocka_unit_test(test_flush_id_discard_zeroes),
        cmocka_unit_test(test_without_flush_every_write_is_durable),
        cmocka_unit_test(test_several_disks),
        cmocka_unit_test(test_readonly_refuses_changes),
        cmocka_unit_test(test_bad_requests_get_a_status),
        cmocka_unit_test(test_bad_ranges_get_a_status),
        cmocka_unit_test(test_host_errors_get_a_status),
        cmocka_unit_test(test_requests_without_header_or_status_break_the_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
