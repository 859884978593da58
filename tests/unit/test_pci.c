/* The PCI root: configuration mechanisms, BARs, MSI-X, reset control, state. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>

#include "tests/support/virtio_rig.h"
#include "vmm/device/virtio_rng.h"
#include "vmm/layout.h"

#define RNG_ID 0x1044

struct bench {
    struct rig rig;
    struct device *devices[2];
    unsigned slots[2];
};

static void bench_open(struct bench *bench)
{
    rig_create(&bench->rig, -1);
    for (unsigned n = 0; n < 2; n++) {
        assert_int_equal(
            virtio_rng_create(&bench->rig.platform, bench->rig.pci, &bench->devices[n], NULL), 0);
        bench->slots[n] = rig_find(&bench->rig, RNG_ID, n);
    }
}

static void bench_close(struct bench *bench)
{
    for (unsigned n = 0; n < 2; n++)
        bench->devices[n]->ops->destroy(bench->devices[n]);
    rig_destroy(&bench->rig);
}

static uint64_t ecam(unsigned slot, unsigned reg)
{
    return LAYOUT_ECAM + (slot << 15) + reg;
}

static uint32_t pio_read(struct rig *rig, uint16_t port, unsigned size)
{
    uint32_t value = 0;
    bus_read(rig->platform.pio, port, &value, size);
    return value;
}

static void pio_write(struct rig *rig, uint16_t port, unsigned size, uint32_t value)
{
    bus_write(rig->platform.pio, port, &value, size);
}

/* ---- configuration mechanisms ---- */

/* What Linux does before it believes in mechanism #1 (pci_check_type1). */
static void test_linux_finds_mechanism_1(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    struct rig *rig = &bench.rig;
    pio_write(rig, 0xcfb, 1, 1);
    pio_write(rig, 0xcf8, 4, 0x80000000);
    assert_int_equal(pio_read(rig, 0xcf8, 4), 0x80000000);
    assert_int_equal(rig_config_read(rig, 0, PCI_CLASS_DEVICE, 2), 0x0600);
    assert_int_equal(rig_config_read(rig, 0, PCI_HEADER_TYPE, 1), 0);
    assert_int_equal(rig_config_read(rig, 0, PCI_INTERRUPT_PIN, 1), 0);
    bench_close(&bench);
}

static void test_all_sizes_and_both_mechanisms_agree(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    struct rig *rig = &bench.rig;
    for (unsigned reg = 0; reg < 256; reg += 4) {
        uint32_t dword = rig_config_read(rig, bench.slots[0], reg, 4);
        assert_int_equal(rig_mmio_read(rig, ecam(bench.slots[0], reg), 4), dword);
        for (unsigned byte = 0; byte < 4; byte++) {
            uint32_t expect = dword >> (8 * byte) & 0xff;
            assert_int_equal(rig_config_read(rig, bench.slots[0], reg + byte, 1), expect);
            assert_int_equal(rig_mmio_read(rig, ecam(bench.slots[0], reg + byte), 1), expect);
        }
        for (unsigned word = 0; word < 4; word += 2)
            assert_int_equal(rig_config_read(rig, bench.slots[0], reg + word, 2),
                             dword >> (8 * word) & 0xffff);
    }
    assert_int_equal(rig_mmio_read(rig, ecam(bench.slots[0], 0), 8) >> 32,
                     rig_config_read(rig, bench.slots[0], 4, 4));
    bench_close(&bench);
}

static void test_what_is_not_there(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    struct rig *rig = &bench.rig;
    assert_int_equal(rig_config_read(rig, 31, 0, 4), UINT32_MAX);
    assert_int_equal(rig_config_read(rig, 31, 0, 2), 0xffff);
    pio_write(rig, 0xcf8, 4, 0x80010000); /* bus 1 */
    assert_int_equal(pio_read(rig, 0xcfc, 4), UINT32_MAX);
    pio_write(rig, 0xcf8, 4, 0x80000100); /* function 1 */
    assert_int_equal(pio_read(rig, 0xcfc, 4), UINT32_MAX);
    pio_write(rig, 0xcf8, 4, 0); /* not enabled */
    assert_int_equal(pio_read(rig, 0xcfc, 4), UINT32_MAX);
    pio_write(rig, 0xcfc, 4, 0);
    rig_config_write(rig, 31, 4, 4, UINT32_MAX);
    /* The extended space of a function that is there is empty. */
    assert_int_equal(rig_mmio_read(rig, ecam(bench.slots[0], 0x100), 4), 0);
    rig_mmio_write(rig, ecam(bench.slots[0], 0xffc), 4, UINT32_MAX);
    bench_close(&bench);
}

static void test_fixed_fields_are_read_only(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    struct rig *rig = &bench.rig;
    for (unsigned slot = 0; slot < 2; slot++) {
        const unsigned fixed[] = {PCI_VENDOR_ID, PCI_CLASS_REVISION, PCI_SUBSYSTEM_VENDOR_ID,
                                  PCI_CAPABILITY_LIST, PCI_ROM_ADDRESS};
        for (unsigned n = 0; n < sizeof(fixed) / sizeof(fixed[0]); n++) {
            uint32_t before = rig_config_read(rig, slot, fixed[n], 4);
            rig_config_write(rig, slot, fixed[n], 4, ~before);
            assert_int_equal(rig_config_read(rig, slot, fixed[n], 4), before);
        }
        rig_config_write(rig, slot, PCI_COMMAND, 2, 0xffff);
        assert_int_equal(rig_config_read(rig, slot, PCI_COMMAND, 2), 0x546);
        rig_config_write(rig, slot, PCI_COMMAND, 2, 0);
        rig_config_write(rig, slot, PCI_INTERRUPT_LINE, 1, 0xff);
        assert_int_equal(rig_config_read(rig, slot, PCI_INTERRUPT_LINE, 1), 0xff);
    }
    bench_close(&bench);
}

static void test_reset_control(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    struct rig *rig = &bench.rig;
    pio_write(rig, 0xcf8, 4, 0x80000008);
    pio_write(rig, 0xcf9, 1, 0x02);
    assert_int_equal(rig->resets, 0);
    assert_int_equal(pio_read(rig, 0xcf9, 1), 0x02);
    pio_write(rig, 0xcf9, 1, 0x06);
    assert_int_equal(rig->resets, 1);
    assert_int_equal(pio_read(rig, 0xcf8, 4), 0x80000008);
    pio_write(rig, 0xcf8, 4, 0x80000600); /* the same bits in a dword mean an address */
    assert_int_equal(rig->resets, 1);
    bench_close(&bench);
}

/* ---- BARs ---- */

static uint64_t bar(struct rig *rig, unsigned slot, unsigned index)
{
    return rig_config_read(rig, slot, PCI_BASE_ADDRESS_0 + 4 * index, 4) & ~0xfu;
}

static void set_bar(struct rig *rig, unsigned slot, unsigned index, uint64_t address)
{
    rig_config_write(rig, slot, PCI_BASE_ADDRESS_0 + 4 * index, 4, (uint32_t)address);
    if (index == 0)
        rig_config_write(rig, slot, PCI_BASE_ADDRESS_1, 4, (uint32_t)(address >> 32));
}

/* num_queues of the common configuration: 1 where BAR 0 answers, all ones where nobody does. */
static bool answers(struct rig *rig, uint64_t address)
{
    return rig_mmio_read(rig, address + VIRTIO_PCI_COMMON_NUMQ, 2) == 1;
}

static void test_bars_are_assigned_and_sized(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    struct rig *rig = &bench.rig;
    uint64_t places[4];
    for (unsigned n = 0; n < 4; n++) {
        unsigned slot = bench.slots[n / 2], index = n % 2 ? 2 : 0;
        places[n] = bar(rig, slot, index);
        assert_in_range(places[n], LAYOUT_PCI_MMIO, LAYOUT_PCI_MMIO + LAYOUT_PCI_MMIO_SIZE - 1);
        for (unsigned other = 0; other < n; other++)
            assert_int_not_equal(places[n], places[other]);
        set_bar(rig, slot, index, UINT64_MAX);
        uint64_t size = n % 2 ? PCI_MSIX_BAR_BYTES : 0x4000;
        assert_int_equal(bar(rig, slot, index), (uint32_t) ~(size - 1));
        set_bar(rig, slot, index, places[n]);
    }
    assert_int_equal(rig_config_read(rig, bench.slots[0], PCI_BASE_ADDRESS_0, 4) & 0xf,
                     PCI_BASE_ADDRESS_MEM_TYPE_64);
    assert_int_equal(rig_config_read(rig, bench.slots[0], PCI_BASE_ADDRESS_2, 4) & 0xf, 0);
    bench_close(&bench);
}

static void test_decoding_and_moving(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    struct rig *rig = &bench.rig;
    unsigned slot = bench.slots[0];
    uint64_t place = bar(rig, slot, 0);
    assert_false(answers(rig, place)); /* decoding is off at first */
    rig_config_write(rig, slot, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_true(answers(rig, place));
    set_bar(rig, slot, 0, UINT64_MAX); /* sizing without switching off */
    assert_false(answers(rig, place));
    set_bar(rig, slot, 0, 0xd0000000);
    assert_true(answers(rig, 0xd0000000));
    assert_false(answers(rig, place));
    set_bar(rig, slot, 0, UINT64_C(0x123400000000)); /* above 4 GiB */
    assert_true(answers(rig, UINT64_C(0x123400000000)));
    assert_false(answers(rig, 0xd0000000));
    set_bar(rig, slot, 0, UINT64_C(0xfff0000000000000)); /* beyond any physical address */
    set_bar(rig, slot, 0, 0);
    set_bar(rig, slot, 0, place);
    assert_true(answers(rig, place));
    rig_config_write(rig, slot, PCI_COMMAND, 2, 0);
    assert_false(answers(rig, place));
    bench_close(&bench);
}

static void test_bars_swap_and_collide(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    struct rig *rig = &bench.rig;
    uint64_t first = bar(rig, bench.slots[0], 0), second = bar(rig, bench.slots[1], 0);
    for (unsigned n = 0; n < 2; n++)
        rig_config_write(rig, bench.slots[n], PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    set_bar(rig, bench.slots[0], 0, second); /* taken: answers nowhere for now */
    assert_false(answers(rig, first));
    assert_true(answers(rig, second));
    set_bar(rig, bench.slots[1], 0, first); /* the other leaves: both are in place */
    assert_true(answers(rig, first));
    assert_true(answers(rig, second));
    set_bar(rig, bench.slots[1], 0, LAYOUT_ECAM); /* over something that is no BAR */
    assert_int_equal(rig_mmio_read(rig, ecam(0, 0), 4), rig_config_read(rig, 0, 0, 4));
    bench_close(&bench);
}

/* BARs that changed places: while the first is loaded, its new place is still the other's. */
static void test_swapped_bars_are_loaded(void **state)
{
    struct bench source, destination;
    uint64_t places[2];
    (void)state;
    bench_open(&source);
    bench_open(&destination);
    for (unsigned n = 0; n < 2; n++) {
        rig_config_write(&source.rig, source.slots[n], PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
        rig_config_write(&destination.rig, source.slots[n], PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
        places[n] = bar(&source.rig, source.slots[n], 0);
    }
    for (unsigned n = 0; n < 2; n++)
        set_bar(&source.rig, source.slots[n], 0, places[!n]);
    rig_mmio_write(&source.rig, places[1] + VIRTIO_PCI_COMMON_STATUS, 1, 1);
    rig_mmio_write(&source.rig, places[0] + VIRTIO_PCI_COMMON_STATUS, 1, 2);
    for (unsigned n = 0; n < 2; n++) {
        struct writer saved = rig_save(source.devices[n]);
        assert_int_equal(
            rig_load(&destination.rig, destination.devices[n], saved.data, saved.size, NULL), 0);
        writer_free(&saved);
    }
    for (unsigned n = 0; n < 2; n++) {
        assert_int_equal(bar(&destination.rig, source.slots[n], 0), places[!n]);
        assert_int_equal(rig_mmio_read(&destination.rig, places[!n] + VIRTIO_PCI_COMMON_STATUS, 1),
                         1 + n);
    }
    bench_close(&source);
    bench_close(&destination);
}

static void test_reset_brings_bars_back(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    struct rig *rig = &bench.rig;
    uint64_t place = bar(rig, bench.slots[0], 0);
    rig_config_write(rig, bench.slots[0], PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    set_bar(rig, bench.slots[0], 0, 0xd0000000);
    bench.devices[0]->ops->reset(bench.devices[0]);
    assert_int_equal(bar(rig, bench.slots[0], 0), place);
    assert_int_equal(rig_config_read(rig, bench.slots[0], PCI_COMMAND, 2), 0);
    assert_false(answers(rig, 0xd0000000));
    bench_close(&bench);
}

static void test_the_bus_fills_up(void **state)
{
    struct rig rig;
    struct device *devices[PCI_SLOTS];
    struct ferry_error err = {0};
    unsigned count = 0;
    (void)state;
    rig_create(&rig, -1);
    while (count < PCI_SLOTS &&
           virtio_rng_create(&rig.platform, rig.pci, &devices[count], &err) == 0)
        count++;
    assert_int_equal(count, PCI_SLOTS - 1); /* slot 0 is the bridge */
    assert_int_equal(err.code, -ENOSPC);
    for (unsigned n = 0; n < count; n++)
        devices[n]->ops->destroy(devices[n]);
    assert_int_equal(rig_config_read(&rig, 5, 0, 4), UINT32_MAX);
    rig_destroy(&rig);
}

/* ---- the window through configuration space ---- */

static unsigned capability(struct rig *rig, unsigned slot, uint8_t id, uint8_t type)
{
    unsigned at = rig_config_read(rig, slot, PCI_CAPABILITY_LIST, 1);
    while (at && (rig_config_read(rig, slot, at, 1) != id ||
                  (type && rig_config_read(rig, slot, at + VIRTIO_PCI_CAP_CFG_TYPE, 1) != type)))
        at = rig_config_read(rig, slot, at + PCI_CAP_LIST_NEXT, 1);
    assert_int_not_equal(at, 0);
    return at;
}

static uint32_t window_read(struct rig *rig, unsigned slot, unsigned at, uint8_t bar_index,
                            uint32_t offset, uint32_t length)
{
    rig_config_write(rig, slot, at + VIRTIO_PCI_CAP_BAR, 1, bar_index);
    rig_config_write(rig, slot, at + VIRTIO_PCI_CAP_OFFSET, 4, offset);
    rig_config_write(rig, slot, at + VIRTIO_PCI_CAP_LENGTH, 4, length);
    return rig_config_read(rig, slot, at + 16, length == 1 || length == 2 ? length : 4);
}

static void test_window(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    struct rig *rig = &bench.rig;
    unsigned slot = bench.slots[0];
    unsigned at = capability(rig, slot, PCI_CAP_ID_VNDR, VIRTIO_PCI_CAP_PCI_CFG);
    assert_int_equal(window_read(rig, slot, at, 0, VIRTIO_PCI_COMMON_NUMQ, 2), 1);
    assert_int_equal(window_read(rig, slot, at, 0, VIRTIO_PCI_COMMON_STATUS, 1), 0);
    rig_config_write(rig, slot, at + 16, 1, 3);
    assert_int_equal(window_read(rig, slot, at, 0, VIRTIO_PCI_COMMON_STATUS, 1), 3);
    window_read(rig, slot, at, 2, PCI_MSIX_ENTRY_DATA, 4);
    rig_config_write(rig, slot, at + 16, 4, 0x1234);
    assert_int_equal(window_read(rig, slot, at, 2, PCI_MSIX_ENTRY_DATA, 4), 0x1234);
    /* Nonsense: no such BAR, past its end, bad length, misaligned. */
    assert_int_equal(window_read(rig, slot, at, 1, 0, 4), 0);
    assert_int_equal(window_read(rig, slot, at, 255, 0, 4), 0);
    assert_int_equal(window_read(rig, slot, at, 0, 0x4000, 4), 0);
    assert_int_equal(window_read(rig, slot, at, 0, UINT32_MAX - 3, 4), 0);
    assert_int_equal(window_read(rig, slot, at, 0, 0, 3), 0);
    assert_int_equal(window_read(rig, slot, at, 0, VIRTIO_PCI_COMMON_NUMQ - 1, 2), 0);
    assert_int_equal(window_read(rig, slot, at, 0, 0, 0), 0);
    rig_config_write(rig, slot, at + 16, 4, UINT32_MAX);
    bench_close(&bench);
}

/* ---- MSI-X ---- */

struct msix_view {
    struct rig *rig;
    struct pci_msix *msix;
    unsigned slot, flags;
    uint64_t table;
};

static struct msix_view view(struct bench *bench)
{
    struct rig *rig = &bench->rig;
    unsigned slot = bench->slots[0];
    rig_config_write(rig, slot, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    struct virtio_device *virtio = (struct virtio_device *)bench->devices[0];
    return (struct msix_view){.rig = rig,
                              .msix = &virtio->msix,
                              .slot = slot,
                              .flags = capability(rig, slot, PCI_CAP_ID_MSIX, 0) + PCI_MSIX_FLAGS,
                              .table = bar(rig, slot, 2)};
}

static void control(struct msix_view *v, uint16_t value)
{
    rig_config_write(v->rig, v->slot, v->flags, 2, value);
}

static void mask(struct msix_view *v, unsigned vector, bool masked)
{
    rig_mmio_write(v->rig, v->table + UINT64_C(16) * vector + PCI_MSIX_ENTRY_VECTOR_CTRL, 4,
                   masked);
}

static uint64_t sent(struct msix_view *v, unsigned vector)
{
    uint64_t count;
    return read(v->msix->fd[vector], &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static uint64_t pending(struct msix_view *v)
{
    return rig_mmio_read(v->rig, v->table + MSIX_PENDING_OFFSET, 8);
}

static void test_msix_masks_and_pending_bits(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    struct msix_view v = view(&bench);
    assert_int_equal(rig_config_read(v.rig, v.slot, v.flags, 2), 1); /* two vectors, disabled */
    pci_msix_raise(v.msix, 0); /* disabled: lost, as an INTx function without a pin loses it */
    assert_int_equal(pending(&v), 0);

    control(&v, PCI_MSIX_FLAGS_ENABLE);
    assert_int_equal(rig_config_read(v.rig, v.slot, v.flags, 2), PCI_MSIX_FLAGS_ENABLE | 1);
    pci_msix_raise(v.msix, 1); /* vectors are masked after reset */
    assert_int_equal(sent(&v, 1), 0);
    assert_int_equal(pending(&v), 2);
    mask(&v, 1, false);
    assert_int_equal(sent(&v, 1), 1);
    assert_int_equal(pending(&v), 0);
    pci_msix_raise(v.msix, 1);
    assert_int_equal(sent(&v, 1), 1);

    control(&v, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    pci_msix_raise(v.msix, 0);
    pci_msix_raise(v.msix, 1);
    pci_msix_raise(v.msix, 1);
    assert_int_equal(pending(&v), 3);
    control(&v, PCI_MSIX_FLAGS_ENABLE);
    assert_int_equal(sent(&v, 1), 1); /* once, however often it was raised */
    assert_int_equal(sent(&v, 0), 0); /* has its own mask */
    assert_int_equal(pending(&v), 1);
    bench_close(&bench);
}

static void test_msix_table_accesses(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    struct msix_view v = view(&bench);
    rig_mmio_write(v.rig, v.table + 16, 8, UINT64_C(0x11223344fee01003));
    assert_int_equal(rig_mmio_read(v.rig, v.table + 16, 8), UINT64_C(0x11223344fee01000));
    rig_mmio_write(v.rig, v.table + 24, 8, UINT64_C(0xfffffffe00000055));
    assert_int_equal(rig_mmio_read(v.rig, v.table + 24, 8), 0x55); /* control: one bit */
    assert_int_equal(rig_mmio_read(v.rig, v.table + 17, 1), 0x10);
    rig_mmio_write(v.rig, v.table + 24, 2, 0x77); /* too narrow */
    rig_mmio_write(v.rig, v.table + 26, 4, 0x77); /* misaligned */
    assert_int_equal(rig_mmio_read(v.rig, v.table + 24, 4), 0x55);
    rig_mmio_write(v.rig, v.table + MSIX_PENDING_OFFSET, 8, UINT64_MAX); /* read-only */
    assert_int_equal(pending(&v), 0);
    rig_mmio_write(v.rig, v.table + 32, 8, UINT64_MAX); /* past the table */
    assert_int_equal(rig_mmio_read(v.rig, v.table + 32, 8), 0);
    assert_int_equal(rig_mmio_read(v.rig, v.table + PCI_MSIX_BAR_BYTES - 8, 8), 0);
    pci_msix_raise(v.msix, 2);
    pci_msix_raise(v.msix, UINT32_MAX);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linux_finds_mechanism_1),
        cmocka_unit_test(test_all_sizes_and_both_mechanisms_agree),
        cmocka_unit_test(test_what_is_not_there),
        cmocka_unit_test(test_fixed_fields_are_read_only),
        cmocka_unit_test(test_reset_control),
        cmocka_unit_test(test_bars_are_assigned_and_sized),
        cmocka_unit_test(test_decoding_and_moving),
        cmocka_unit_test(test_bars_swap_and_collide),
        cmocka_unit_test(test_swapped_bars_are_loaded),
        cmocka_unit_test(test_reset_brings_bars_back),
        cmocka_unit_test(test_the_bus_fills_up),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_msix_masks_and_pending_bits),
        cmocka_unit_test(test_msix_table_accesses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
