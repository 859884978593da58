/* virtio-blk through quiesce, save, load and resume: nothing lost, nothing foreign accepted. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <linux/virtio_blk.h>

#include "common/limits.h"
#include "tests/support/blk_bench.h"

#define SECTOR UINT64_C(512)

/* ---- quiescing ---- */

static void test_kicks_while_quiesced_are_not_lost(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench, false, 0);
    struct driver *driver = &bench.driver;
    struct device *device = bench.device;
    const struct driver_buffer buffers[] = {{DRIVER_DATA_GPA + 0x800, 16, false},
                                            {DRIVER_DATA_GPA, 512, true},
                                            {DRIVER_DATA_GPA + 0x900, 1, true}};
    for (unsigned round = 0; round < 300; round++) {
        struct virtio_blk_outhdr *header = rig_ram(&bench.rig, buffers[0].gpa);
        *header = (struct virtio_blk_outhdr){.type = VIRTIO_BLK_T_IN, .sector = round};
        driver_chain(driver, 0, buffers, 3);
        if (round % 3 == 0) { /* kick before, while it may be running */
            driver_publish(driver, 0);
            driver_kick(driver);
            assert_int_equal(device->ops->quiesce(device, NULL), 0);
        } else { /* kick meanwhile */
            assert_int_equal(device->ops->quiesce(device, NULL), 0);
            driver_publish(driver, 0);
            driver_kick(driver);
            assert_false(driver_has_used(driver));
        }
        if (round % 2) { /* written down and loaded into itself: the kick's eventfd is lost then */
            struct writer saved = rig_save(device);
            assert_int_equal(rig_load(&bench.rig, device, saved.data, saved.size, NULL), 0);
            writer_free(&saved);
        }
        assert_int_equal(device->ops->resume(device, NULL), 0);
        driver_wait(driver, NULL);
        assert_memory_equal(data_of(&bench), bench.disk.data + SECTOR * round, 512);
    }
    bench_close(&bench);
}

static void offer_read(struct bench *bench, uint64_t sector)
{
    static const struct driver_buffer buffers[] = {{DRIVER_DATA_GPA + 0x800, 16, false},
                                                   {DRIVER_DATA_GPA, 512, true},
                                                   {DRIVER_DATA_GPA + 0x900, 1, true}};
    struct virtio_blk_outhdr *header = rig_ram(&bench->rig, buffers[0].gpa);
    *header = (struct virtio_blk_outhdr){.type = VIRTIO_BLK_T_IN, .sector = sector};
    driver_chain(&bench->driver, 0, buffers, 3);
    driver_publish(&bench->driver, 0);
    driver_kick(&bench->driver);
}

static void test_quiesce_waits_for_the_request_in_flight(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench, false, 0);
    bench.disk.slow = true;
    for (unsigned round = 0; round < 5; round++) {
        offer_read(&bench, round);
        while (!bench.disk.busy)
            sched_yield();
        assert_int_equal(bench.device->ops->quiesce(bench.device, NULL), 0);
        assert_false(bench.disk.busy);
        assert_true(driver_has_used(&bench.driver));
        driver_wait(&bench.driver, NULL);
        assert_int_equal(bench.device->ops->resume(bench.device, NULL), 0);
    }
    bench_close(&bench);
}

/* The driver resets a disk that is at work: when the status reads 0, nothing writes RAM any more.
 */
static void test_reset_waits_for_the_request_in_flight(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench, false, 0);
    bench.disk.slow = true;
    for (unsigned round = 0; round < 5; round++) {
        offer_read(&bench, round);
        while (!bench.disk.busy)
            sched_yield();
        assert_false(driver_negotiate(&bench.driver, 0));
        assert_false(bench.disk.busy);
        driver_start(&bench.driver, &bench.rig, bench.driver.slot, 0);
    }
    bench_close(&bench);
}

/* While it is at work, and while it stands still. */
static void test_stands_on_another_block(void **state)
{
    struct bench bench;
    struct ram_disk other;
    (void)state;
    bench_open(&bench, false, 0);
    other = bench.disk;
    other.data = malloc(DISK_BYTES);
    assert_non_null(other.data);
    memset(other.data, 0x5a, DISK_BYTES);
    bench.disk.slow = true;
    for (unsigned round = 0; round < 5; round++) {
        offer_read(&bench, round);
        while (!bench.disk.busy)
            sched_yield();
        virtio_blk_set_block(bench.device, &other.block);
        assert_false(bench.disk.busy);
        driver_wait(&bench.driver, NULL);
        assert_memory_equal(data_of(&bench), bench.disk.data + SECTOR * round, 512);
        offer_read(&bench, round);
        driver_wait(&bench.driver, NULL);
        assert_memory_equal(data_of(&bench), other.data, 512);
        assert_int_equal(bench.device->ops->quiesce(bench.device, NULL), 0);
        virtio_blk_set_block(bench.device, &bench.disk.block);
        offer_read(&bench, round);
        sched_yield();
        assert_false(driver_has_used(&bench.driver));
        assert_int_equal(bench.device->ops->resume(bench.device, NULL), 0);
        driver_wait(&bench.driver, NULL);
        assert_memory_equal(data_of(&bench), bench.disk.data + SECTOR * round, 512);
    }
    free(other.data);
    bench_close(&bench);
}

static void test_a_load_repeats_the_interrupt(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench, false, 0);
    bench.device->ops->quiesce(bench.device, NULL);
    interrupts(bench.device, 0);
    struct writer saved = rig_save(bench.device);
    assert_int_equal(rig_load(&bench.rig, bench.device, saved.data, saved.size, NULL), 0);
    writer_free(&saved);
    assert_int_equal(interrupts(bench.device, 0), 0);
    bench.device->ops->resume(bench.device, NULL);
    assert_int_equal(interrupts(bench.device, 0), 1);
    bench_close(&bench);
}

static void test_continues_in_another_machine(void **state)
{
    struct bench source, destination;
    (void)state;
    bench_open(&source, false, 0);
    for (unsigned n = 0; n < 100; n++)
        driver_block(&source.driver, VIRTIO_BLK_T_IN, n, 512, false, n & 1, NULL);
    source.device->ops->quiesce(source.device, NULL);
    offer_read(&source, 77); /* its kick stays behind on the source */
    struct writer saved = rig_save(source.device);

    rig_create(&destination.rig, -1);
    destination.device = add_disk(&destination.rig, &destination.disk, "vda", false);
    destination.device->ops->quiesce(destination.device, NULL);
    memcpy(rig_ram(&destination.rig, 0), rig_ram(&source.rig, 0), RIG_RAM_BYTES);
    struct ferry_error err = {0};
    if (rig_load(&destination.rig, destination.device, saved.data, saved.size, &err))
        fail_msg("%s: %s", err.about, err.message);
    struct writer again = rig_save(destination.device);
    assert_int_equal(again.size, saved.size);
    assert_memory_equal(again.data, saved.data, saved.size);
    destination.device->ops->resume(destination.device, NULL);

    destination.driver = source.driver;
    destination.driver.rig = &destination.rig;
    driver_wait(&destination.driver, NULL);
    assert_memory_equal(data_of(&destination), destination.disk.data + SECTOR * 77, SECTOR);
    for (unsigned n = 0; n < 100; n++)
        assert_int_equal(
            driver_block(&destination.driver, VIRTIO_BLK_T_IN, n, 512, false, n & 1, NULL), 0);
    writer_free(&saved);
    writer_free(&again);
    bench_close(&source);
    bench_close(&destination);
}

static void test_foreign_disks_are_refused(void **state)
{
    struct bench bench;
    struct virtio_blk_state blk = {0};
    (void)state;
    bench_open(&bench, false, 0);
    struct device *device = bench.device;
    device->ops->quiesce(device, NULL);
    device->ops->capture(device, &blk);
    assert_int_equal(device->ops->accept(device, &blk, NULL), 0);
    blk.capacity++;
    assert_int_not_equal(device->ops->accept(device, &blk, NULL), 0);
    blk.capacity--;
    blk.readonly = true;
    assert_int_not_equal(device->ops->accept(device, &blk, NULL), 0);
    bench_close(&bench);
}

static void test_an_inactive_disk_does_not_resume(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench, false, 0);
    bench.device->ops->quiesce(bench.device, NULL);
    bench.disk.block.active = false;
    assert_int_not_equal(bench.device->ops->resume(bench.device, NULL), 0);
    bench.disk.block.active = true;
    assert_int_equal(bench.device->ops->resume(bench.device, NULL), 0);
    bench_close(&bench);
}

static void test_dma_marks_pages_dirty(void **state)
{
    struct bench bench;
    uint64_t bitmap[RIG_RAM_BYTES / 4096 / 64] = {0};
    (void)state;
    bench_open(&bench, false, 0);
    assert_int_equal(memory_track_start(bench.rig.platform.memory), 0);
    driver_block(&bench.driver, VIRTIO_BLK_T_IN, 0, 3 * 4096, false, false, NULL);
    bench.device->ops->quiesce(bench.device, NULL);
    memory_track_collect(bench.rig.platform.memory, 0, RIG_RAM_BYTES / 4096, bitmap);
    for (uint64_t page = DRIVER_DATA_GPA / 4096; page < DRIVER_DATA_GPA / 4096 + 3; page++)
        assert_true(bitmap[page / 64] >> (page % 64) & 1);
    uint64_t used = bench.driver.queue.used / 4096, status = DRIVER_DATA_GPA / 4096 - 1;
    assert_true(bitmap[used / 64] >> (used % 64) & 1);
    assert_true(bitmap[status / 64] >> (status % 64) & 1);
    memory_track_stop(bench.rig.platform.memory);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kicks_while_quiesced_are_not_lost),
        cmocka_unit_test(test_quiesce_waits_for_the_request_in_flight),
        cmocka_unit_test(test_reset_waits_for_the_request_in_flight),
        cmocka_unit_test(test_stands_on_another_block),
        cmocka_unit_test(test_a_load_repeats_the_interrupt),
        cmocka_unit_test(test_continues_in_another_machine),
        cmocka_unit_test(test_foreign_disks_are_refused),
        cmocka_unit_test(test_an_inactive_disk_does_not_resume),
        cmocka_unit_test(test_dma_marks_pages_dirty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
