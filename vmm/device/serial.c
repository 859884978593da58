/*
 * The 16550A after its data sheet (PC16550D), as far as software can tell: registers, FIFOs, line
 * and modem status, interrupt priorities, loopback.  There is no line behind it, so nothing takes
 * time: a byte written to THR has left when the write returns, THR is always empty, and received
 * bytes below the trigger level raise the character timeout at once.
 *
 * One mutex guards the registers; the bus holds it during an access, serial_input takes it itself.
 * As on a PC, the interrupt line passes a gate that OUT2 opens, and which loopback closes.
 */
#include "vmm/device/serial.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "vmm/layout.h"

#define FIFO_BYTES 16

enum { /* register offsets; 0 and 1 are the divisor while LCR_DLAB is set */
       REG_DATA = 0,
       REG_IER = 1,
       REG_IIR_FCR = 2,
       REG_LCR = 3,
       REG_MCR = 4,
       REG_LSR = 5,
       REG_MSR = 6,
       REG_SCR = 7,
       REG_COUNT = 8,
};

enum {
    IER_RX = 0x01,
    IER_THRE = 0x02,
    IER_LINE = 0x04,
    IER_MODEM = 0x08,
    IER_BITS = 0x0f,

    IIR_MODEM = 0x00,
    IIR_NONE = 0x01,
    IIR_THRE = 0x02,
    IIR_RX = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFOS = 0xc0,

    FCR_ENABLE = 0x01,
    FCR_CLEAR_RX = 0x02,
    FCR_KEPT = 0xc9, /* trigger level, DMA mode, enable; the clear bits act and are gone */
    FCR_TRIGGER_SHIFT = 6,

    LCR_DLAB = 0x80,

    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,
    MCR_BITS = 0x1f,

    LSR_DATA = 0x01,
    LSR_OVERRUN = 0x02,
    LSR_THRE = 0x20,
    LSR_TEMT = 0x40,

    MSR_DELTA_RI = 0x04, /* only the trailing edge counts for RI */
    MSR_DELTAS = 0x0f,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
};

struct serial_state {
    uint8_t ier;
    uint8_t fcr;
    uint8_t lcr;
    uint8_t mcr;
    uint8_t scr;
    uint8_t msr_deltas;
    uint16_t divisor;
    bool overrun;
    bool thre_pending; /* a THRE interrupt that has not been read or disarmed */
    uint8_t rx[FIFO_BYTES];
    uint32_t rx_count;
};

static int check_state(const void *state, const struct state_context *context,
                       struct ferry_error *err)
{
    const struct serial_state *s = state;

    (void)context;
    if (s->fcr & ~FCR_KEPT)
        return ferry_refuse(err, -EBADMSG, "serial", "field fcr has bits that do not exist");
    if (!(s->fcr & FCR_ENABLE) && s->rx_count > 1)
        return ferry_refuse(err, -EBADMSG, "serial",
                            "%u bytes received, but the FIFO is switched off", s->rx_count);
    return 0;
}

static const struct state_field serial_fields[] = {
    STATE_RANGE(STATE_U8, struct serial_state, ier, 1, 1, 0, IER_BITS),
    STATE_SCALAR(STATE_U8, struct serial_state, fcr, 2, 1),
    STATE_SCALAR(STATE_U8, struct serial_state, lcr, 3, 1),
    STATE_RANGE(STATE_U8, struct serial_state, mcr, 4, 1, 0, MCR_BITS),
    STATE_SCALAR(STATE_U8, struct serial_state, scr, 5, 1),
    STATE_RANGE(STATE_U8, struct serial_state, msr_deltas, 6, 1, 0, MSR_DELTAS),
    STATE_SCALAR(STATE_U16, struct serial_state, divisor, 7, 1),
    STATE_SCALAR(STATE_BOOL, struct serial_state, overrun, 8, 1),
    STATE_SCALAR(STATE_BOOL, struct serial_state, thre_pending, 9, 1),
    STATE_COUNTED(STATE_U8, struct serial_state, rx, rx_count, 10, 1),
};

const struct state_table serial_table = {
    .name = "serial",
    .version = 1,
    .size = sizeof(struct serial_state),
    .fields = serial_fields,
    .field_count = sizeof(serial_fields) / sizeof(serial_fields[0]),
    .check = check_state,
};

struct serial {
    struct device device;
    struct platform platform;
    struct bus_region region;
    pthread_mutex_t lock; /* guards all below */
    struct serial_state regs;
    bool line_high;   /* as last driven: a system call is saved where nothing changes */
    bool input_waits; /* serial_input took less than it was offered */
    void (*room)(void *opaque);
    void *room_opaque;
};

static struct serial *serial_of(struct device *device)
{
    return (struct serial *)device;
}

static uint32_t fifo_capacity(const struct serial_state *s)
{
    return s->fcr & FCR_ENABLE ? FIFO_BYTES : 1;
}

static uint32_t rx_trigger(const struct serial_state *s)
{
    static const uint8_t levels[] = {1, 4, 8, 14};

    return s->fcr & FCR_ENABLE ? levels[s->fcr >> FCR_TRIGGER_SHIFT] : 1;
}

/* The highest interrupt that is pending and enabled, in the priorities of the data sheet. */
static uint8_t interrupt_id(const struct serial_state *s)
{
    if ((s->ier & IER_LINE) && s->overrun)
        return IIR_LINE;
    if ((s->ier & IER_RX) && s->rx_count > 0)
        return s->rx_count >= rx_trigger(s) ? IIR_RX : IIR_TIMEOUT;
    if ((s->ier & IER_THRE) && s->thre_pending)
        return IIR_THRE;
    if ((s->ier & IER_MODEM) && s->msr_deltas)
        return IIR_MODEM;
    return IIR_NONE;
}

static void drive_line(struct serial *serial)
{
    const struct serial_state *s = &serial->regs;
    bool gate = (s->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
    bool high = gate && interrupt_id(s) != IIR_NONE;

    if (high != serial->line_high)
        irq_set_line(serial->platform.irq, GSI_SERIAL0, high);
    serial->line_high = high;
}

/* The modem inputs: a terminal that is always there, or in loopback our own outputs. */
static uint8_t modem_inputs(const struct serial_state *s)
{
    uint8_t inputs = 0;

    if (!(s->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    if (s->mcr & MCR_RTS)
        inputs |= MSR_CTS;
    if (s->mcr & MCR_DTR)
        inputs |= MSR_DSR;
    if (s->mcr & MCR_OUT1)
        inputs |= MSR_RI;
    if (s->mcr & MCR_OUT2)
        inputs |= MSR_DCD;
    return inputs;
}

static void write_mcr(struct serial_state *s, uint8_t value)
{
    uint8_t before = modem_inputs(s);
    uint8_t deltas;

    s->mcr = value & MCR_BITS;
    deltas = (before ^ modem_inputs(s)) >> 4;
    if (!(before & MSR_RI))
        deltas &= (uint8_t)~MSR_DELTA_RI;
    s->msr_deltas |= deltas;
}

static void write_fcr(struct serial_state *s, uint8_t value)
{
    if ((value ^ s->fcr) & FCR_ENABLE || value & FCR_CLEAR_RX)
        s->rx_count = 0;
    s->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
}

static void write_ier(struct serial_state *s, uint8_t value)
{
    /* THR is always empty, so enabling its interrupt makes one pending. */
    if (~s->ier & value & IER_THRE)
        s->thre_pending = true;
    s->ier = value & IER_BITS;
}

static void receive(struct serial_state *s, uint8_t byte)
{
    if (s->rx_count < fifo_capacity(s)) {
        s->rx[s->rx_count++] = byte;
        return;
    }
    s->overrun = true;
    if (!(s->fcr & FCR_ENABLE)) /* the new character replaces the one in the buffer register */
        s->rx[0] = byte;
}

static void transmit(struct serial *serial, uint8_t byte)
{
    if (serial->regs.mcr & MCR_LOOP)
        receive(&serial->regs, byte);
    else if (serial->platform.serial_output)
        serial->platform.serial_output(serial->platform.opaque, &byte, 1);
    serial->regs.thre_pending = true;
}

static uint8_t take_received(struct serial_state *s)
{
    uint8_t byte = s->rx[0];

    if (s->rx_count == 0)
        return 0;
    s->rx_count--;
    memmove(s->rx, s->rx + 1, s->rx_count);
    return byte;
}

static uint8_t read_iir(struct serial_state *s)
{
    uint8_t id = interrupt_id(s);

    if (id == IIR_THRE)
        s->thre_pending = false;
    return id | (s->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

static uint8_t read_lsr(struct serial_state *s)
{
    uint8_t value = LSR_THRE | LSR_TEMT;

    value |= s->rx_count > 0 ? LSR_DATA : 0;
    value |= s->overrun ? LSR_OVERRUN : 0;
    s->overrun = false;
    return value;
}

static uint8_t read_msr(struct serial_state *s)
{
    uint8_t value = modem_inputs(s) | s->msr_deltas;

    s->msr_deltas = 0;
    return value;
}

static uint8_t read_register(struct serial_state *s, uint64_t offset)
{
    bool dlab = s->lcr & LCR_DLAB;

    switch (offset) {
    case REG_DATA:
        return dlab ? s->divisor & 0xff : take_received(s);
    case REG_IER:
        return dlab ? (uint8_t)(s->divisor >> 8) : s->ier;
    case REG_IIR_FCR:
        return read_iir(s);
    case REG_LCR:
        return s->lcr;
    case REG_MCR:
        return s->mcr;
    case REG_LSR:
        return read_lsr(s);
    case REG_MSR:
        return read_msr(s);
    default:
        return s->scr;
    }
}

static void write_register(struct serial *serial, uint64_t offset, uint8_t value)
{
    struct serial_state *s = &serial->regs;
    bool dlab = s->lcr & LCR_DLAB;

    switch (offset) {
    case REG_DATA:
        if (dlab)
            s->divisor = (uint16_t)((s->divisor & 0xff00) | value);
        else
            transmit(serial, value);
        break;
    case REG_IER:
        if (dlab)
            s->divisor = (uint16_t)((s->divisor & 0x00ff) | value << 8);
        else
            write_ier(s, value);
        break;
    case REG_IIR_FCR:
        write_fcr(s, value);
        break;
    case REG_LCR:
        s->lcr = value;
        break;
    case REG_MCR:
        write_mcr(s, value);
        break;
    case REG_SCR:
        s->scr = value;
        break;
    default: /* LSR and MSR are read-only in operation (factory test only) */
        break;
    }
}

/* After an access: whoever could not get rid of all input may try again. */
static void announce_room(struct serial *serial)
{
    const struct serial_state *s = &serial->regs;

    if (!serial->input_waits || (s->mcr & MCR_LOOP) || s->rx_count >= fifo_capacity(s))
        return;
    serial->input_waits = false;
    if (serial->room)
        serial->room(serial->room_opaque);
}

/* Wider accesses are split into bytes, as the ISA bus does it. */
static uint64_t serial_read(void *opaque, uint64_t offset, unsigned size)
{
    struct serial *serial = opaque;
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)read_register(&serial->regs, offset + i) << (8 * i);
    drive_line(serial);
    announce_room(serial);
    return value;
}

static void serial_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct serial *serial = opaque;

    for (unsigned i = 0; i < size; i++)
        write_register(serial, offset + i, (uint8_t)(value >> (8 * i)));
    drive_line(serial);
    announce_room(serial);
}

size_t serial_input(struct device *device, const uint8_t *data, size_t size)
{
    struct serial *serial = serial_of(device);
    struct serial_state *s = &serial->regs;
    size_t taken = 0;

    LOCK_SCOPE(&serial->lock);
    while (taken < size && !(s->mcr & MCR_LOOP) && s->rx_count < fifo_capacity(s))
        receive(s, data[taken++]);
    serial->input_waits = taken < size;
    if (taken > 0)
        drive_line(serial);
    return taken;
}

void serial_on_room(struct device *device, void (*room)(void *opaque), void *opaque)
{
    struct serial *serial = serial_of(device);

    LOCK_SCOPE(&serial->lock);
    serial->room = room;
    serial->room_opaque = opaque;
}

static void serial_reset(struct device *device)
{
    struct serial *serial = serial_of(device);

    LOCK_SCOPE(&serial->lock);
    serial->regs = (struct serial_state){.divisor = 12}; /* 9600 baud */
    drive_line(serial);
}

/* KVM forgets the level of a line over save and load, so it is driven anew. */
static int serial_resume(struct device *device, struct ferry_error *err)
{
    struct serial *serial = serial_of(device);

    (void)err;
    LOCK_SCOPE(&serial->lock);
    serial->line_high = false;
    irq_set_line(serial->platform.irq, GSI_SERIAL0, false);
    drive_line(serial);
    announce_room(serial);
    return 0;
}

static void serial_capture(struct device *device, void *state)
{
    struct serial *serial = serial_of(device);

    LOCK_SCOPE(&serial->lock);
    *(struct serial_state *)state = serial->regs;
}

static int serial_commit(struct device *device, const void *state, struct ferry_error *err)
{
    struct serial *serial = serial_of(device);

    (void)err;
    LOCK_SCOPE(&serial->lock);
    serial->regs = *(const struct serial_state *)state;
    return 0;
}

static void serial_destroy(struct device *device)
{
    struct serial *serial = serial_of(device);

    bus_remove(serial->platform.pio, &serial->region);
    pthread_mutex_destroy(&serial->lock);
    free(serial);
}

static const struct device_ops serial_ops = {
    .reset = serial_reset,
    .resume = serial_resume,
    .capture = serial_capture,
    .commit = serial_commit,
    .destroy = serial_destroy,
};

int serial_create(const struct platform *platform, struct device **out, struct ferry_error *err)
{
    CLEANUP_FREE struct serial *serial = calloc(1, sizeof(*serial));
    int ret;

    if (!serial)
        return ferry_fail(err, -ENOMEM, "serial0", "out of memory");
    serial->device = (struct device){.name = "serial0", .table = &serial_table, .ops = &serial_ops};
    serial->platform = *platform;
    pthread_mutex_init(&serial->lock, NULL);
    serial->region = (struct bus_region){
        .start = PORT_SERIAL0,
        .size = REG_COUNT,
        .name = "serial0",
        .lock = &serial->lock,
        .opaque = serial,
        .read = serial_read,
        .write = serial_write,
    };
    serial_reset(&serial->device);
    ret = bus_add(platform->pio, &serial->region, err);
    if (ret < 0)
        return ret;
    *out = &take_ptr(&serial)->device;
    return 0;
}
