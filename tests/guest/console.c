/*
 * COM1, polled from CPL3 through the I/O bitmap.  An access may cost tens of microseconds, so the
 * FIFO is filled without looking, 16 bytes at a time, and the clock is watched in between.
 */
#include "tests/guest/guest.h"

#define FIFO_BYTES 16

enum { DATA = 0, IER = 1, FCR = 2, LCR = 3, MCR = 4, LSR = 5 };
#define LSR_INPUT 0x01
#define LSR_EMPTY 0x20

static unsigned fifo_room;

void console_init(void)
{
    outb(COM1 + IER, 0);
    outb(COM1 + LCR, 0x83); /* divisor 1: 115200, 8n1 */
    outb(COM1 + DATA, 1);
    outb(COM1 + IER, 0);
    outb(COM1 + LCR, 0x03);
    outb(COM1 + FCR, 0x07);
    outb(COM1 + MCR, 0x03);
}

int console_input(void)
{
    return inb(COM1 + LSR) & LSR_INPUT ? inb(COM1 + DATA) : -1;
}

static void put_byte(char c)
{
    if (fifo_room == 0) {
        while (!(inb(COM1 + LSR) & LSR_EMPTY))
            clock_watch();
        fifo_room = FIFO_BYTES;
    }
    outb(COM1 + DATA, (uint8_t)c);
    fifo_room--;
    clock_watch();
}

void put(const char *text)
{
    for (; *text; text++)
        put_byte(*text);
}

static void put_digits(const char *label, uint64_t value, unsigned base, unsigned width)
{
    char text[24], *p = text + sizeof(text) - 1;
    *p = 0;
    do {
        *--p = "0123456789abcdef"[value % base];
        value /= base;
    } while (value || p > text + sizeof(text) - 1 - width);
    put(label);
    put(p);
}

void put_number(const char *label, uint64_t value)
{
    put_digits(label, value, 10, 1);
}

void put_hex(const char *label, uint64_t value)
{
    put_digits(label, value, 16, 16);
}
