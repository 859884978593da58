/*
 * The state tables of PCI and virtio: random valid states survive save -> load -> commit -> capture
 * -> save byte for byte, and what no device could have written is refused and changes nothing.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "tests/support/virtio_rig.h"
#include "vmm/device/virtio_blk.h"
#include "vmm/device/virtio_rng.h"

#define ROUNDS 300

static struct block disk = {.size_bytes = 1 << 20, .active = true};

struct bench {
    struct rig rig;
    struct device *pci, *blk, *rng;
};

static void bench_open(struct bench *bench)
{
    const struct disk_config config = {.device = "vda", .size_bytes = 1 << 20};
    rig_create(&bench->rig, -1);
    const struct platform *platform = &bench->rig.platform;
    bench->pci = pci_device(bench->rig.pci);
    assert_int_equal(virtio_blk_create(platform, bench->rig.pci, &config, &disk, &bench->blk, NULL),
                     0);
    assert_int_equal(virtio_rng_create(platform, bench->rig.pci, &bench->rng, NULL), 0);
}

static void bench_close(struct bench *bench)
{
    bench->blk->ops->destroy(bench->blk);
    bench->rng->ops->destroy(bench->rng);
    rig_destroy(&bench->rig);
}

/* ---- random valid states, built on what the device captures ---- */

static uint64_t any(void)
{
    return (uint64_t)rand() << 48 ^ (uint64_t)rand() << 24 ^ (uint64_t)rand();
}

static bool coin(void)
{
    return rand() & 1;
}

static void randomize_function(struct pci_function_state *state)
{
    state->command = any() & 0x546;
    state->cache_line_size = (uint8_t)any();
    state->latency_timer = (uint8_t)any();
    state->interrupt_line = (uint8_t)any();
    if (state->msix_count == 0)
        return; /* the bridge: no BARs either */
    state->bars[0] = ((uint32_t)any() & ~0x3fffu) | PCI_BASE_ADDRESS_MEM_TYPE_64;
    state->bars[1] = coin() ? 0 : (uint32_t)any();
    state->bars[2] = (uint32_t)any() & ~(PCI_MSIX_BAR_BYTES - 1);
    state->msix_control = any() & (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    bool live = state->msix_control == PCI_MSIX_FLAGS_ENABLE;
    for (uint32_t n = 0; n < state->msix_count; n++) {
        struct pci_msix_vector *vector = &state->msix[n];
        vector->address = any() & ~UINT64_C(3);
        vector->data = (uint32_t)any();
        vector->control = coin();
        vector->pending = coin() && (vector->control || !live);
    }
}

static void randomize_queue(struct virtqueue_state *queue, uint16_t max, bool may_run)
{
    do
        queue->size = (uint16_t)(1u << rand() % 9);
    while (queue->size > max);
    queue->vector = (uint16_t[]){0, 1, VIRTQUEUE_NO_VECTOR}[rand() % 3];
    queue->enabled = may_run && coin();
    queue->last_avail = queue->used_index = 0;
    queue->desc = any();
    queue->avail = any();
    queue->used = any();
    if (!queue->enabled)
        return;
    queue->desc = any() % (RIG_RAM_BYTES - 8192) & ~UINT64_C(15);
    queue->avail = any() % (RIG_RAM_BYTES - 8192) & ~UINT64_C(1);
    queue->used = any() % (RIG_RAM_BYTES - 8192) & ~UINT64_C(3);
    queue->last_avail = queue->used_index = (uint16_t)any();
}

static void randomize_virtio(struct virtio_state *state, uint64_t offered, uint16_t max)
{
    randomize_function(&state->pci[0]);
    state->driver_features = any();
    state->status = any() & (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                             VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED);
    bool agreed = coin();
    if (agreed) {
        state->driver_features &= offered;
        state->driver_features |= UINT64_C(1) << VIRTIO_F_VERSION_1;
        state->status |= VIRTIO_CONFIG_S_FEATURES_OK | (coin() ? VIRTIO_CONFIG_S_DRIVER_OK : 0);
    }
    state->isr = any() & 3;
    state->device_feature_select = (uint32_t)any();
    state->driver_feature_select = (uint32_t)any();
    state->queue_select = (uint16_t)any();
    state->config_vector = (uint16_t[]){0, 1, VIRTQUEUE_NO_VECTOR}[rand() % 3];
    state->window_bar = (uint8_t)any();
    state->window_offset = (uint32_t)any();
    state->window_length = (uint32_t)any();
    for (uint32_t n = 0; n < state->queue_count; n++)
        randomize_queue(&state->queues[n], max, agreed);
}

/* state -> bytes -> device -> bytes */
static void round_trip(struct bench *bench, struct device *device, const void *state)
{
    struct writer saved = writer_init(LIMIT_SECTION_BYTES);
    struct ferry_error err = {0};
    assert_int_equal(state_save(device->table, state, &saved, NULL), 0);
    if (rig_load(&bench->rig, device, saved.data, saved.size, &err))
        fail_msg("%s: %s", err.about, err.message);
    struct writer again = rig_save(device);
    assert_int_equal(again.size, saved.size);
    assert_memory_equal(again.data, saved.data, saved.size);
    writer_free(&saved);
    writer_free(&again);
}

static void test_tables_are_sound(void **state)
{
    const struct state_table *tables[] = {
        &pci_table,       &pci_function_table, &virtio_table,    &pci_msix_vector_table,
        &virtqueue_table, &virtio_blk_table,   &virtio_rng_table};
    (void)state;
    for (unsigned n = 0; n < sizeof(tables) / sizeof(tables[0]); n++) {
        struct ferry_error err = {0};
        if (state_table_check(tables[n], &err))
            fail_msg("%s: %s", tables[n]->name, err.message);
    }
}

static void test_round_trips(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    srand(3);
    struct pci_state pci = {0};
    struct virtio_blk_state blk = {0};
    struct virtio_rng_state rng = {0};
    uint64_t blk_offered = ((struct virtio_device *)bench.blk)->offered;
    uint64_t rng_offered = ((struct virtio_device *)bench.rng)->offered;
    for (unsigned round = 0; round < ROUNDS; round++) {
        bench.pci->ops->capture(bench.pci, &pci);
        pci.config_address = any() & 0x80fffffc;
        pci.reset_control = any() & 0x0a;
        randomize_function(&pci.bridge[0]);
        round_trip(&bench, bench.pci, &pci);

        bench.blk->ops->capture(bench.blk, &blk);
        randomize_virtio(&blk.virtio[0], blk_offered, LIMIT_VIRTQUEUE_SIZE);
        round_trip(&bench, bench.blk, &blk);

        bench.rng->ops->capture(bench.rng, &rng);
        randomize_virtio(&rng.virtio[0], rng_offered, 8);
        round_trip(&bench, bench.rng, &rng);
    }
    bench_close(&bench);
}

/* ---- refusals ---- */

/* A working device: agreed, running, one queue in use. */
static void make_running(struct virtio_blk_state *blk)
{
    struct virtio_state *virtio = &blk->virtio[0];
    virtio->driver_features = UINT64_C(1) << VIRTIO_F_VERSION_1;
    virtio->status = VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
    virtio->pci[0].msix_control = PCI_MSIX_FLAGS_ENABLE;
    struct virtqueue_state *queue = &virtio->queues[0];
    *queue = (struct virtqueue_state){.size = 128,
                                      .enabled = true,
                                      .desc = 0x1000,
                                      .avail = 0x2000,
                                      .used = 0x3000,
                                      .vector = 0,
                                      .last_avail = 7,
                                      .used_index = 7};
}

typedef void (*damage)(struct virtio_blk_state *blk);

#define DAMAGE(NAME, STATEMENT)                             \
    static void NAME(struct virtio_blk_state *blk)          \
    {                                                       \
        struct virtio_state *virtio = &blk->virtio[0];      \
        struct pci_function_state *pci = &virtio->pci[0];   \
        struct virtqueue_state *queue = &virtio->queues[0]; \
        (void)pci;                                          \
        (void)queue;                                        \
        STATEMENT;                                          \
    }

DAMAGE(size_not_a_power, queue->size = 96)
DAMAGE(size_zero, queue->size = 0)
DAMAGE(size_over_max, queue->size = 512)
DAMAGE(desc_outside, queue->desc = RIG_RAM_BYTES - 16)
DAMAGE(avail_outside, queue->avail = UINT64_MAX - 1)
DAMAGE(used_outside, queue->used = UINT64_C(1) << 40)
DAMAGE(desc_misaligned, queue->desc += 8)
DAMAGE(avail_misaligned, queue->avail += 1)
DAMAGE(used_misaligned, queue->used += 2)
DAMAGE(chains_in_flight, queue->last_avail++)
DAMAGE(disabled_but_used, queue->enabled = false)
DAMAGE(vector_missing, queue->vector = 2)
DAMAGE(config_vector_missing, virtio->config_vector = 2)
DAMAGE(features_unknown, virtio->driver_features |= UINT64_C(1) << 60)
DAMAGE(features_old, virtio->driver_features = 0)
DAMAGE(status_unknown, virtio->status |= 0x10)
DAMAGE(driver_without_features, virtio->status = VIRTIO_CONFIG_S_DRIVER_OK)
DAMAGE(queue_without_features, virtio->status = 3)
DAMAGE(isr_unknown, virtio->isr = 4)
DAMAGE(queues_too_many, virtio->queue_count = 2; virtio->queues[1].size = 128)
DAMAGE(queues_too_few, virtio->queue_count = 0)
DAMAGE(command_unknown, pci->command = 1)
DAMAGE(bar_not_of_its_size, pci->bars[0] |= 0x1000)
DAMAGE(bar_of_another_kind, pci->bars[0] &= ~4u)
DAMAGE(bar_that_is_not_there, pci->bars[4] = 0xd0000000)
DAMAGE(other_slot, pci->slot++)
DAMAGE(other_device, pci->device_id++)
DAMAGE(msix_control_unknown, pci->msix_control |= 1)
DAMAGE(msix_too_many, pci->msix_count = 3)
DAMAGE(msix_too_few, pci->msix_count = 1)
DAMAGE(msix_pending_but_live, pci->msix[1].control = 0; pci->msix[1].pending = true)
DAMAGE(msix_mask_unknown, pci->msix[1].control = 3)
DAMAGE(msix_misaligned, pci->msix[1].address = 2)
DAMAGE(other_capacity, blk->capacity++; (void)virtio)
DAMAGE(other_access, blk->readonly = true; (void)virtio)

static const struct {
    const char *name;
    damage apply;
} damages[] = {
#define ENTRY(NAME) \
    {               \
#NAME, NAME \
    }
    ENTRY(size_not_a_power),
    ENTRY(size_zero),
    ENTRY(size_over_max),
    ENTRY(desc_outside),
    ENTRY(avail_outside),
    ENTRY(used_outside),
    ENTRY(desc_misaligned),
    ENTRY(avail_misaligned),
    ENTRY(used_misaligned),
    ENTRY(chains_in_flight),
    ENTRY(disabled_but_used),
    ENTRY(vector_missing),
    ENTRY(config_vector_missing),
    ENTRY(features_unknown),
    ENTRY(features_old),
    ENTRY(status_unknown),
    ENTRY(driver_without_features),
    ENTRY(queue_without_features),
    ENTRY(isr_unknown),
    ENTRY(queues_too_many),
    ENTRY(queues_too_few),
    ENTRY(command_unknown),
    ENTRY(bar_not_of_its_size),
    ENTRY(bar_of_another_kind),
    ENTRY(bar_that_is_not_there),
    ENTRY(other_slot),
    ENTRY(other_device),
    ENTRY(msix_control_unknown),
    ENTRY(msix_too_many),
    ENTRY(msix_too_few),
    ENTRY(msix_pending_but_live),
    ENTRY(msix_mask_unknown),
    ENTRY(msix_misaligned),
    ENTRY(other_capacity),
    ENTRY(other_access),
};

static void test_impossible_states_are_refused(void **state)
{
    struct bench bench;
    struct virtio_blk_state good = {0};
    (void)state;
    bench_open(&bench);
    bench.blk->ops->capture(bench.blk, &good);
    make_running(&good);
    round_trip(&bench, bench.blk, &good);
    struct writer before = rig_save(bench.blk);
    for (unsigned n = 0; n < sizeof(damages) / sizeof(damages[0]); n++) {
        struct virtio_blk_state bad = good;
        struct writer saved = writer_init(LIMIT_SECTION_BYTES);
        struct ferry_error err = {0};
        damages[n].apply(&bad);
        assert_int_equal(state_save(bench.blk->table, &bad, &saved, NULL), 0);
        if (rig_load(&bench.rig, bench.blk, saved.data, saved.size, &err) == 0)
            fail_msg("%s was accepted", damages[n].name);
        assert_int_equal(err.kind, FERRY_REFUSED);
        assert_true(err.message[0]);
        struct writer after = rig_save(bench.blk);
        assert_int_equal(after.size, before.size);
        assert_memory_equal(after.data, before.data, before.size);
        writer_free(&saved);
        writer_free(&after);
    }
    writer_free(&before);
    bench_close(&bench);
}

static void test_counts_over_the_maximum_are_refused(void **state)
{
    struct bench bench;
    struct virtio_blk_state blk = {0};
    struct writer saved = writer_init(LIMIT_SECTION_BYTES);
    (void)state;
    bench_open(&bench);
    bench.blk->ops->capture(bench.blk, &blk);
    blk.virtio[0].pci[0].msix_count = PCI_MSIX_VECTORS + 1;
    assert_int_equal(state_save(bench.blk->table, &blk, &saved, NULL), -EINVAL);
    writer_free(&saved);
    bench_close(&bench);
}

static void test_impossible_roots_are_refused(void **state)
{
    struct bench bench;
    struct pci_state good = {0};
    (void)state;
    bench_open(&bench);
    bench.pci->ops->capture(bench.pci, &good);
    for (unsigned n = 0; n < 5; n++) {
        struct pci_state bad = good;
        struct writer saved = writer_init(LIMIT_SECTION_BYTES);
        if (n == 0)
            bad.config_address = 1;
        else if (n == 1)
            bad.reset_control = 4;
        else if (n == 2)
            bad.bridge[0].bars[0] = 0xd0000000;
        else if (n == 3)
            bad.bridge[0].msix_control = PCI_MSIX_FLAGS_ENABLE;
        else
            bad.bridge[0].device_id++;
        assert_int_equal(state_save(bench.pci->table, &bad, &saved, NULL), 0);
        assert_int_not_equal(rig_load(&bench.rig, bench.pci, saved.data, saved.size, NULL), 0);
        writer_free(&saved);
    }
    bench_close(&bench);
}

/* Any flipped byte of a section is either refused or gives a state that saves again. */
static void test_damaged_bytes_do_no_harm(void **state)
{
    struct bench bench;
    struct virtio_blk_state blk = {0};
    struct writer saved = writer_init(LIMIT_SECTION_BYTES);
    (void)state;
    bench_open(&bench);
    bench.blk->ops->capture(bench.blk, &blk);
    make_running(&blk);
    assert_int_equal(state_save(bench.blk->table, &blk, &saved, NULL), 0);
    for (size_t n = 0; n < saved.size * 8; n++) {
        saved.data[n / 8] ^= (uint8_t)(1u << n % 8);
        if (rig_load(&bench.rig, bench.blk, saved.data, saved.size, NULL) == 0) {
            struct writer again = rig_save(bench.blk);
            writer_free(&again);
        }
        saved.data[n / 8] ^= (uint8_t)(1u << n % 8);
    }
    for (size_t size = 0; size < saved.size; size++)
        assert_int_not_equal(rig_load(&bench.rig, bench.blk, saved.data, size, NULL), 0);
    writer_free(&saved);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables_are_sound),
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_impossible_states_are_refused),
        cmocka_unit_test(test_counts_over_the_maximum_are_refused),
        cmocka_unit_test(test_impossible_roots_are_refused),
        cmocka_unit_test(test_damaged_bytes_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
