/*
 * ACPI fixed hardware.  Four groups of registers share one lock and one interrupt:
 *
 *   PORT_PM_EVENT   PM1 status (write 1 to clear) and PM1 enable, 16 bits each
 *   PORT_PM_CONTROL PM1 control; SCI_EN is always set, as there is no other mode (SMI_CMD is 0)
 *   PORT_PM_TIMER   32 bits at 3.579545 MHz
 *   PORT_GPE0       status and enable of 16 general purpose events
 *
 * The SCI is high while an enabled status bit is set.  The timer shows the same gap over a pause, a
 * restore or a move as the guest's other clocks do (machine_run.c): what CLOCK_REALTIME says has
 * passed since it was stopped, and never less than nothing.
 * TMR_STS is set when the timer's top bit changes; as nobody looks for it between two accesses, it
 * is brought up to date at each of them, and by an alarm only if the guest enabled its interrupt.
 */
#include "vmm/device/acpi_pm.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "vmm/deadline.h"
#include "vmm/layout.h"

enum {
    PM1_TMR = 1 << 0,
    PM1_GBL = 1 << 5,
    PM1_PWRBTN = 1 << 8,
    PM1_RTC = 1 << 10, /* can be enabled, as Linux tries to, but the clock does not set it */
    PM1_STATUS_BITS = PM1_TMR | PM1_GBL | PM1_PWRBTN,
    PM1_ENABLE_BITS = PM1_STATUS_BITS | PM1_RTC,

    CONTROL_SCI_EN = 1 << 0,
    CONTROL_BM_RLD = 1 << 1,
    CONTROL_SLP_TYP = 7 << 10,
    CONTROL_SLP_TYP_SHIFT = 10,
    CONTROL_SLP_EN = 1 << 13, /* write-only */
    CONTROL_KEPT = CONTROL_BM_RLD | CONTROL_SLP_TYP,

    TIMER_HALF_SHIFT = 31, /* TMR_STS: the top bit of the 32 has changed */
    GPE_COUNT = 16,
};
#define NS_PER_S UINT64_C(1000000000)

struct acpi_pm_state {
    uint16_t pm1_status;
    uint16_t pm1_enable;
    uint16_t pm1_control;
    uint16_t gpe_status;
    uint16_t gpe_enable;
    uint64_t timer_ns;               /* of guest time since power on */
    uint64_t timer_halves;           /* changes of the top bit that TMR_STS knows of */
    uint64_t stopped_at_realtime_ns; /* when timer_ns was taken; 0: the gap does not count */
};

static int check_state(const void *state, const struct state_context *context,
                       struct ferry_error *err)
{
    const struct acpi_pm_state *s = state;

    (void)context;
    if (s->pm1_status & ~PM1_STATUS_BITS || s->pm1_enable & ~PM1_ENABLE_BITS)
        return ferry_refuse(err, -EBADMSG, "acpi_pm", "PM1 has bits set that do not exist");
    if (s->pm1_control & ~CONTROL_KEPT)
        return ferry_refuse(err, -EBADMSG, "acpi_pm",
                            "field pm1_control has bits set that cannot be");
    return 0;
}

#define TIMER_NS_MOST (UINT64_C(1) << 62) /* 146 years: room to count on */

static const struct state_field acpi_pm_fields[] = {
    STATE_SCALAR(STATE_U16, struct acpi_pm_state, pm1_status, 1, 1),
    STATE_SCALAR(STATE_U16, struct acpi_pm_state, pm1_enable, 2, 1),
    STATE_SCALAR(STATE_U16, struct acpi_pm_state, pm1_control, 3, 1),
    STATE_SCALAR(STATE_U16, struct acpi_pm_state, gpe_status, 4, 1),
    STATE_SCALAR(STATE_U16, struct acpi_pm_state, gpe_enable, 5, 1),
    STATE_RANGE(STATE_U64, struct acpi_pm_state, timer_ns, 6, 1, 0, TIMER_NS_MOST),
    STATE_SCALAR(STATE_U64, struct acpi_pm_state, timer_halves, 7, 1),
    STATE_SCALAR(STATE_U64, struct acpi_pm_state, stopped_at_realtime_ns, 8, 1),
};

const struct state_table acpi_pm_table = {
    .name = "acpi_pm",
    .version = 1,
    .size = sizeof(struct acpi_pm_state),
    .fields = acpi_pm_fields,
    .field_count = sizeof(acpi_pm_fields) / sizeof(acpi_pm_fields[0]),
    .check = check_state,
};

struct acpi_pm {
    struct device device;
    struct platform platform;
    struct bus_region event, control, timer, gpe;
    struct deadline *alarm;
    pthread_mutex_t lock;      /* guards all below */
    struct acpi_pm_state regs; /* timer_ns: valid while the timer stands */
    bool timer_runs;
    uint64_t timer_zero_ns; /* CLOCK_MONOTONIC at which the running timer was 0 (may wrap) */
    bool sci_high;          /* as last driven */
};

static struct acpi_pm *acpi_pm_of(struct device *device)
{
    return (struct acpi_pm *)device;
}

static uint64_t timer_ns(const struct acpi_pm *pm)
{
    return pm->timer_runs ? monotonic_ns() - pm->timer_zero_ns : pm->regs.timer_ns;
}

static uint64_t timer_ticks(const struct acpi_pm *pm)
{
    uint64_t ns = timer_ns(pm);

    return ns / NS_PER_S * ACPI_PM_TIMER_HZ + ns % NS_PER_S * ACPI_PM_TIMER_HZ / NS_PER_S;
}

static void timer_start(struct acpi_pm *pm)
{
    uint64_t now = realtime_ns(), stopped = pm->regs.stopped_at_realtime_ns;

    if (stopped && now > stopped)
        pm->regs.timer_ns += now - stopped;
    pm->regs.stopped_at_realtime_ns = 0;
    pm->timer_zero_ns = monotonic_ns() - pm->regs.timer_ns;
    pm->timer_runs = true;
}

static void timer_stop(struct acpi_pm *pm)
{
    if (!pm->timer_runs)
        return;
    pm->regs.timer_ns = timer_ns(pm);
    pm->regs.stopped_at_realtime_ns = realtime_ns();
    pm->timer_runs = false;
    deadline_set(pm->alarm, DEADLINE_NEVER);
}

/* TMR_STS as of now, and the alarm for when it will next be set, if that is to interrupt. */
static void update_timer_status(struct acpi_pm *pm)
{
    uint64_t halves = timer_ticks(pm) >> TIMER_HALF_SHIFT;
    uint64_t at = DEADLINE_NEVER;

    if (halves != pm->regs.timer_halves)
        pm->regs.pm1_status |= PM1_TMR;
    pm->regs.timer_halves = halves;
    if (pm->timer_runs && pm->regs.pm1_enable & ~pm->regs.pm1_status & PM1_TMR) {
        uint64_t ticks = (halves + 1) << TIMER_HALF_SHIFT;

        at = pm->timer_zero_ns + ticks / ACPI_PM_TIMER_HZ * NS_PER_S +
             (ticks % ACPI_PM_TIMER_HZ * NS_PER_S + ACPI_PM_TIMER_HZ - 1) / ACPI_PM_TIMER_HZ;
    }
    if (deadline_set(pm->alarm, at) < 0)
        log_warn(pm->platform.log, "acpi_pm: no thread for the timer's interrupt");
}

static void drive_sci(struct acpi_pm *pm)
{
    const struct acpi_pm_state *s = &pm->regs;
    bool high = s->pm1_status & s->pm1_enable || s->gpe_status & s->gpe_enable;

    if (high != pm->sci_high)
        irq_set_line(pm->platform.irq, GSI_SCI, high);
    pm->sci_high = high;
}

static void alarm_expired(void *opaque)
{
    struct acpi_pm *pm = opaque;

    LOCK_SCOPE(&pm->lock);
    update_timer_status(pm);
    drive_sci(pm);
}

/* Bytes offset.. of a status (low half) and enable (high half) register pair. */
static uint64_t read_pair(uint16_t status, uint16_t enable, uint64_t offset)
{
    return (status | (uint64_t)enable << 16) >> (8 * offset);
}

static void write_pair(uint16_t *status, uint16_t *enable, uint16_t bits, uint64_t offset,
                       uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++, offset++) {
        unsigned shift = 8 * (offset & 1);
        uint16_t byte = (uint16_t)((value >> (8 * i) & 0xff) << shift);

        if (offset < 2)
            *status &= (uint16_t)~byte;
        else
            *enable = ((*enable & ~(0xff << shift)) | byte) & bits;
    }
}

static uint64_t event_read(void *opaque, uint64_t offset, unsigned size)
{
    struct acpi_pm *pm = opaque;

    (void)size;
    update_timer_status(pm);
    drive_sci(pm);
    return read_pair(pm->regs.pm1_status, pm->regs.pm1_enable, offset);
}

static void event_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct acpi_pm *pm = opaque;

    update_timer_status(pm);
    write_pair(&pm->regs.pm1_status, &pm->regs.pm1_enable, PM1_ENABLE_BITS, offset, value, size);
    update_timer_status(pm);
    drive_sci(pm);
}

static uint64_t control_read(void *opaque, uint64_t offset, unsigned size)
{
    struct acpi_pm *pm = opaque;

    (void)size;
    return (uint64_t)(pm->regs.pm1_control | CONTROL_SCI_EN) >> (8 * offset);
}

static void control_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct acpi_pm *pm = opaque;
    uint16_t mask = (uint16_t)((size == 1 ? 0xff : 0xffff) << (8 * offset));
    uint16_t control = (uint16_t)((value << (8 * offset) & mask) | (pm->regs.pm1_control & ~mask));

    pm->regs.pm1_control = control & CONTROL_KEPT;
    if (control & CONTROL_SLP_EN &&
        (control & CONTROL_SLP_TYP) >> CONTROL_SLP_TYP_SHIFT == ACPI_PM_SLP_TYP_S5)
        pm->platform.request(pm->platform.opaque, PLATFORM_POWEROFF);
}

static uint64_t timer_read(void *opaque, uint64_t offset, unsigned size)
{
    struct acpi_pm *pm = opaque;

    (void)size;
    return (timer_ticks(pm) & UINT32_MAX) >> (8 * offset);
}

static void timer_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    (void)opaque, (void)offset, (void)value, (void)size; /* read-only */
}

static uint64_t gpe_read(void *opaque, uint64_t offset, unsigned size)
{
    struct acpi_pm *pm = opaque;

    (void)size;
    return read_pair(pm->regs.gpe_status, pm->regs.gpe_enable, offset);
}

static void gpe_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct acpi_pm *pm = opaque;

    write_pair(&pm->regs.gpe_status, &pm->regs.gpe_enable, UINT16_MAX, offset, value, size);
    drive_sci(pm);
}

void acpi_pm_power_button(struct device *device)
{
    struct acpi_pm *pm = acpi_pm_of(device);

    LOCK_SCOPE(&pm->lock);
    pm->regs.pm1_status |= PM1_PWRBTN;
    drive_sci(pm);
}

void acpi_pm_raise_gpe(struct device *device, unsigned bit)
{
    struct acpi_pm *pm = acpi_pm_of(device);

    if (bit >= GPE_COUNT)
        return;
    LOCK_SCOPE(&pm->lock);
    pm->regs.gpe_status |= (uint16_t)(1u << bit);
    drive_sci(pm);
}

/* Also power on: the timer starts anew. */
static void acpi_pm_reset(struct device *device)
{
    struct acpi_pm *pm = acpi_pm_of(device);

    LOCK_SCOPE(&pm->lock);
    pm->regs = (struct acpi_pm_state){0};
    if (pm->timer_runs)
        timer_start(pm);
    update_timer_status(pm);
    drive_sci(pm);
}

static int acpi_pm_quiesce(struct device *device, struct ferry_error *err)
{
    struct acpi_pm *pm = acpi_pm_of(device);

    (void)err;
    LOCK_SCOPE(&pm->lock);
    timer_stop(pm);
    return 0;
}

/* KVM forgets the level of a line over save and load, so it is driven anew. */
static int acpi_pm_resume(struct device *device, struct ferry_error *err)
{
    struct acpi_pm *pm = acpi_pm_of(device);

    (void)err;
    LOCK_SCOPE(&pm->lock);
    if (!pm->timer_runs)
        timer_start(pm);
    pm->sci_high = false;
    irq_set_line(pm->platform.irq, GSI_SCI, false);
    update_timer_status(pm);
    drive_sci(pm);
    return 0;
}

static void acpi_pm_capture(struct device *device, void *state)
{
    struct acpi_pm *pm = acpi_pm_of(device);
    struct acpi_pm_state *s = state;

    LOCK_SCOPE(&pm->lock);
    *s = pm->regs;
    if (!pm->timer_runs)
        return;
    s->timer_ns = timer_ns(pm);
    s->stopped_at_realtime_ns = realtime_ns();
}

static int acpi_pm_commit(struct device *device, const void *state, struct ferry_error *err)
{
    struct acpi_pm *pm = acpi_pm_of(device);

    (void)err;
    LOCK_SCOPE(&pm->lock);
    timer_stop(pm);
    pm->regs = *(const struct acpi_pm_state *)state;
    return 0;
}

static void acpi_pm_destroy(struct device *device)
{
    struct acpi_pm *pm = acpi_pm_of(device);

    bus_remove(pm->platform.pio, &pm->event);
    bus_remove(pm->platform.pio, &pm->control);
    bus_remove(pm->platform.pio, &pm->timer);
    bus_remove(pm->platform.pio, &pm->gpe);
    deadline_destroy(pm->alarm);
    pthread_mutex_destroy(&pm->lock);
    free(pm);
}

static const struct device_ops acpi_pm_ops = {
    .reset = acpi_pm_reset,
    .quiesce = acpi_pm_quiesce,
    .resume = acpi_pm_resume,
    .capture = acpi_pm_capture,
    .commit = acpi_pm_commit,
    .destroy = acpi_pm_destroy,
};

static int add_regions(struct acpi_pm *pm, struct ferry_error *err)
{
    struct bus_region *regions[] = {&pm->event, &pm->control, &pm->timer, &pm->gpe};
    const unsigned count = sizeof(regions) / sizeof(regions[0]);

    pm->event = (struct bus_region){
        .start = PORT_PM_EVENT, .size = 4, .read = event_read, .write = event_write};
    pm->control = (struct bus_region){
        .start = PORT_PM_CONTROL, .size = 2, .read = control_read, .write = control_write};
    pm->timer = (struct bus_region){
        .start = PORT_PM_TIMER, .size = 4, .read = timer_read, .write = timer_write};
    pm->gpe =
        (struct bus_region){.start = PORT_GPE0, .size = 4, .read = gpe_read, .write = gpe_write};
    for (unsigned i = 0; i < count; i++) {
        int ret;

        regions[i]->name = "acpi_pm";
        regions[i]->lock = &pm->lock;
        regions[i]->opaque = pm;
        ret = bus_add(pm->platform.pio, regions[i], err);
        if (ret < 0) {
            while (i-- > 0)
                bus_remove(pm->platform.pio, regions[i]);
            return ret;
        }
    }
    return 0;
}

int acpi_pm_create(const struct platform *platform, struct device **out, struct ferry_error *err)
{
    struct acpi_pm *pm = calloc(1, sizeof(*pm));
    int ret;

    if (!pm)
        return ferry_fail(err, -ENOMEM, "acpi_pm", "out of memory");
    pm->device = (struct device){.name = "acpi_pm", .table = &acpi_pm_table, .ops = &acpi_pm_ops};
    pm->platform = *platform;
    pthread_mutex_init(&pm->lock, NULL);
    ret = deadline_create(alarm_expired, pm, &pm->alarm, err);
    if (ret == 0)
        ret = add_regions(pm, err);
    if (ret < 0) {
        deadline_destroy(pm->alarm);
        pthread_mutex_destroy(&pm->lock);
        free(pm);
        return ret;
    }
    timer_start(pm);
    *out = &pm->device;
    return 0;
}
