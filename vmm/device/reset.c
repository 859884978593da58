/*
 * The keyboard controller's one function that systems still use: pulsing the reset line, by command
 * 0xfe, or by command 0xd1 and an output port byte with bit 0 clear.  It never has data, and its
 * input buffer is never full, so status reads as 0 and whoever waits for it does so in vain but not
 * for long; the FADT says that there is no 8042 to look for.
 */
#include "vmm/device/reset.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "vmm/layout.h"

enum {
    COMMAND_WRITE_OUTPUT = 0xd1,
    COMMAND_PULSE = 0xf0, /* 0xf0..0xff: pulse the output lines whose bits are clear */
    OUTPUT_RESET_N = 0x01,
};

struct reset_state {
    uint8_t command; /* that waits for a data byte; 0: none */
};

static int check_state(const void *state, const struct state_context *context,
                       struct ferry_error *err)
{
    const struct reset_state *s = state;

    (void)context;
    if (s->command != 0 && s->command != COMMAND_WRITE_OUTPUT)
        return ferry_refuse(err, -EBADMSG, "reset", "field command has unknown value 0x%x",
                            s->command);
    return 0;
}

static const struct state_field reset_fields[] = {
    STATE_SCALAR(STATE_U8, struct reset_state, command, 1, 1),
};

const struct state_table reset_table = {
    .name = "reset",
    .version = 1,
    .size = sizeof(struct reset_state),
    .fields = reset_fields,
    .field_count = sizeof(reset_fields) / sizeof(reset_fields[0]),
    .check = check_state,
};

struct reset {
    struct device device;
    struct platform platform;
    struct bus_region data, command;
    pthread_mutex_t lock; /* guards regs */
    struct reset_state regs;
};

static struct reset *reset_of(struct device *device)
{
    return (struct reset *)device;
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque, (void)offset, (void)size;
    return 0;
}

static void apply_output(struct reset *reset, uint64_t output)
{
    if (!(output & OUTPUT_RESET_N))
        reset->platform.request(reset->platform.opaque, PLATFORM_RESET);
}

static void data_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct reset *reset = opaque;

    (void)offset, (void)size;
    if (reset->regs.command == COMMAND_WRITE_OUTPUT)
        apply_output(reset, value);
    reset->regs.command = 0;
}

static void command_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct reset *reset = opaque;
    uint8_t command = (uint8_t)value;

    (void)offset, (void)size;
    if ((command & COMMAND_PULSE) == COMMAND_PULSE)
        apply_output(reset, command);
    reset->regs.command = command == COMMAND_WRITE_OUTPUT ? command : 0;
}

static void reset_reset(struct device *device)
{
    struct reset *reset = reset_of(device);

    LOCK_SCOPE(&reset->lock);
    reset->regs = (struct reset_state){0};
}

static void reset_capture(struct device *device, void *state)
{
    struct reset *reset = reset_of(device);

    LOCK_SCOPE(&reset->lock);
    *(struct reset_state *)state = reset->regs;
}

static int reset_commit(struct device *device, const void *state, struct ferry_error *err)
{
    struct reset *reset = reset_of(device);

    (void)err;
    LOCK_SCOPE(&reset->lock);
    reset->regs = *(const struct reset_state *)state;
    return 0;
}

static void reset_destroy(struct device *device)
{
    struct reset *reset = reset_of(device);

    bus_remove(reset->platform.pio, &reset->data);
    bus_remove(reset->platform.pio, &reset->command);
    pthread_mutex_destroy(&reset->lock);
    free(reset);
}

static const struct device_ops reset_ops = {
    .reset = reset_reset,
    .capture = reset_capture,
    .commit = reset_commit,
    .destroy = reset_destroy,
};

int reset_create(const struct platform *platform, struct device **out, struct ferry_error *err)
{
    struct reset *reset = calloc(1, sizeof(*reset));
    int ret;

    if (!reset)
        return ferry_fail(err, -ENOMEM, "reset", "out of memory");
    reset->device = (struct device){.name = "reset", .table = &reset_table, .ops = &reset_ops};
    reset->platform = *platform;
    pthread_mutex_init(&reset->lock, NULL);
    reset->data = (struct bus_region){.start = PORT_I8042,
                                      .size = 1,
                                      .name = "i8042",
                                      .lock = &reset->lock,
                                      .opaque = reset,
                                      .read = port_read,
                                      .write = data_write};
    reset->command = reset->data;
    reset->command.start = PORT_I8042 + 4;
    reset->command.write = command_write;
    ret = bus_add(platform->pio, &reset->data, err);
    if (ret == 0) {
        ret = bus_add(platform->pio, &reset->command, err);
        if (ret < 0)
            bus_remove(platform->pio, &reset->data);
    }
    if (ret < 0) {
        pthread_mutex_destroy(&reset->lock);
        free(reset);
        return ret;
    }
    *out = &reset->device;
    return 0;
}
