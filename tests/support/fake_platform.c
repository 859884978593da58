/* Real parts where there are any, and a record of what a device asked for. */
#include "tests/support/fake_platform.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/limits.h"

static void on_request(void *opaque, enum platform_request request)
{
    struct fake_platform *fake = opaque;

    if (request == PLATFORM_POWEROFF)
        fake->poweroffs++;
    else
        fake->resets++;
}

static void on_output(void *opaque, const uint8_t *data, size_t size)
{
    struct fake_platform *fake = opaque;

    assert_true(size <= sizeof(fake->output) - fake->output_size);
    memcpy(fake->output + fake->output_size, data, size);
    fake->output_size += size;
}

/* A VM with interrupt controllers, or -1. */
static int open_vm(void)
{
    CLEANUP_FD int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm;

    if (kvm < 0)
        return -1;
    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm >= 0 && ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0) {
        close(vm);
        return -1;
    }
    return vm;
}

struct fake_platform *fake_platform_create(uint64_t memory_bytes)
{
    struct fake_platform *fake = calloc(1, sizeof(*fake));

    assert_non_null(fake);
    fake->platform = (struct platform){
        .vm_fd = open_vm(), .request = on_request, .serial_output = on_output, .opaque = fake};
    fake->has_kvm = fake->platform.vm_fd >= 0;
    assert_int_equal(bus_create(&fake->platform.pio), 0);
    assert_int_equal(bus_create(&fake->platform.mmio), 0);
    assert_int_equal(irq_create(fake->platform.vm_fd, &fake->platform.irq, NULL), 0);
    if (memory_bytes)
        assert_int_equal(memory_create(memory_bytes, &fake->platform.memory, NULL), 0);
    return fake;
}

void fake_platform_destroy(struct fake_platform *fake)
{
    irq_destroy(fake->platform.irq);
    bus_destroy(fake->platform.pio);
    bus_destroy(fake->platform.mmio);
    if (fake->platform.memory)
        memory_destroy(fake->platform.memory);
    if (fake->has_kvm)
        close(fake->platform.vm_fd);
    free(fake);
}

bool fake_platform_line(struct fake_platform *fake, unsigned gsi)
{
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};

    assert_true(fake->has_kvm);
    assert_int_equal(ioctl(fake->platform.vm_fd, KVM_GET_IRQCHIP, &chip), 0);
    return chip.chip.ioapic.irr >> gsi & 1;
}

void fake_platform_need_kvm(const struct fake_platform *fake)
{
    if (fake->has_kvm)
        return;
    print_message("skipped: /dev/kvm cannot be used, so interrupt lines cannot be seen\n");
    skip();
}

static uint64_t get(struct bus *bus, uint64_t address, unsigned size)
{
    uint64_t value = 0;

    bus_read(bus, address, &value, size);
    return value;
}

uint64_t fake_in(struct fake_platform *fake, uint16_t port, unsigned size)
{
    return get(fake->platform.pio, port, size);
}

void fake_out(struct fake_platform *fake, uint16_t port, uint64_t value, unsigned size)
{
    bus_write(fake->platform.pio, port, &value, size);
}

uint64_t fake_load(struct fake_platform *fake, uint64_t address, unsigned size)
{
    return get(fake->platform.mmio, address, size);
}

void fake_store(struct fake_platform *fake, uint64_t address, uint64_t value, unsigned size)
{
    bus_write(fake->platform.mmio, address, &value, size);
}

uint64_t fake_random(uint64_t *seed)
{
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    return *seed * UINT64_C(2685821657736338717);
}

static void random_element(const struct state_field *f, void *element, uint64_t *seed)
{
    uint64_t value = fake_random(seed);

    if (f->most)
        value = f->least + value % (f->most - f->least + 1);
    switch (f->type) {
    case STATE_BOOL:
        *(bool *)element = value & 1;
        break;
    case STATE_U8:
        *(uint8_t *)element = (uint8_t)value;
        break;
    case STATE_U16:
        *(uint16_t *)element = (uint16_t)value;
        break;
    case STATE_U32:
        *(uint32_t *)element = (uint32_t)value;
        break;
    case STATE_U64:
        *(uint64_t *)element = value;
        break;
    case STATE_STRUCT:
        fake_random_state(f->table, element, seed);
        break;
    }
}

void fake_random_state(const struct state_table *table, void *state, uint64_t *seed)
{
    memset(state, 0, table->size);
    for (uint32_t i = 0; i < table->field_count; i++) {
        const struct state_field *f = &table->fields[i];
        uint32_t count = f->max;

        if (f->count_offset != STATE_NO_COUNT) {
            count = (uint32_t)(fake_random(seed) % (f->max + 1));
            *(uint32_t *)((char *)state + f->count_offset) = count;
        }
        for (uint32_t k = 0; k < count; k++)
            random_element(f, (char *)state + f->offset + k * f->stride, seed);
    }
}

static const struct state_field *field_of(const struct device *device, const char *name)
{
    const struct state_table *table = device->table;

    for (uint32_t i = 0; i < table->field_count; i++)
        if (strcmp(table->fields[i].name, name) == 0)
            return &table->fields[i];
    fail_msg("%s has no field %s", table->name, name);
    return NULL;
}

static size_t element_bytes(const struct state_field *f)
{
    assert_int_not_equal(f->type, STATE_STRUCT);
    return STATE_WIDTH(f->type);
}

uint64_t fake_state_get(const struct device *device, const void *state, const char *name,
                        uint32_t index)
{
    const struct state_field *f = field_of(device, name);
    uint64_t value = 0;

    assert_true(index < f->max);
    memcpy(&value, (const char *)state + f->offset + index * f->stride, element_bytes(f));
    return value;
}

void fake_state_set(const struct device *device, void *state, const char *name, uint32_t index,
                    uint64_t value)
{
    const struct state_field *f = field_of(device, name);

    assert_true(index < f->max);
    memcpy((char *)state + f->offset + index * f->stride, &value, element_bytes(f));
}

void fake_state_set_count(const struct device *device, void *state, const char *name,
                          uint32_t count)
{
    const struct state_field *f = field_of(device, name);

    assert_true(f->count_offset != STATE_NO_COUNT && count <= f->max);
    *(uint32_t *)((char *)state + f->count_offset) = count;
}

void *fake_state_capture(struct device *device)
{
    void *state = calloc(1, device->table->size);

    assert_non_null(state);
    device->ops->capture(device, state);
    return state;
}

static void save(const struct state_table *table, const void *state, struct writer *w)
{
    struct ferry_error err = {0};

    writer_reset(w);
    if (state_save(table, state, w, &err) < 0 || w->error)
        fail_msg("save of %s: %s", table->name, err.message);
}

static void save_device(struct device *device, struct writer *w)
{
    CLEANUP_FREE void *state = fake_state_capture(device);

    save(device->table, state, w);
}

static void quiesce(struct device *device)
{
    if (device->ops->quiesce)
        assert_int_equal(device->ops->quiesce(device, NULL), 0);
}

void fake_check_round_trip(struct device *device,
                           void (*fix)(const struct device *device, void *state, uint64_t *seed),
                           const struct state_context *context, unsigned rounds)
{
    CLEANUP(writer_free) struct writer before = writer_init(LIMIT_SECTION_BYTES);
    CLEANUP(writer_free) struct writer after = writer_init(LIMIT_SECTION_BYTES);
    const struct state_table *table = device->table;
    CLEANUP_FREE void *state = calloc(1, table->size);
    uint64_t seed = 0x9e3779b97f4a7c15;
    struct ferry_error err = {0};

    assert_non_null(state);
    assert_int_equal(state_table_check(table, &err), 0);
    quiesce(device);
    for (unsigned i = 0; i < rounds; i++) {
        fake_random_state(table, state, &seed);
        if (fix)
            fix(device, state, &seed);
        save(table, state, &before);
        if (state_load(table, table->version, before.data, before.size, context, state, &err) < 0)
            fail_msg("load of a valid %s (round %u): %s", table->name, i, err.message);
        if (device->ops->accept)
            assert_int_equal(device->ops->accept(device, state, &err), 0);
        assert_int_equal(device->ops->commit(device, state, &err), 0);
        save_device(device, &after);
        assert_int_equal(after.size, before.size);
        assert_memory_equal(after.data, before.data, before.size);
    }
}

void fake_check_refused(struct device *device, const void *state,
                        const struct state_context *context)
{
    CLEANUP(writer_free) struct writer bytes = writer_init(LIMIT_SECTION_BYTES);
    CLEANUP(writer_free) struct writer before = writer_init(LIMIT_SECTION_BYTES);
    CLEANUP(writer_free) struct writer after = writer_init(LIMIT_SECTION_BYTES);
    const struct state_table *table = device->table;
    CLEANUP_FREE void *scratch = calloc(1, table->size);
    struct ferry_error err = {0};
    int ret;

    assert_non_null(scratch);
    quiesce(device);
    save_device(device, &before);
    save(table, state, &bytes);
    ret = state_load(table, table->version, bytes.data, bytes.size, context, scratch, &err);
    if (ret == 0 && device->ops->accept)
        ret = device->ops->accept(device, scratch, &err);
    assert_true(ret < 0);
    assert_int_equal(err.kind, FERRY_REFUSED);
    save_device(device, &after);
    assert_int_equal(after.size, before.size);
    assert_memory_equal(after.data, before.data, before.size);
}
