/*
 * Encodings are those of ACPI 6.4, 20.2; resource descriptors those of 6.4.  Bodies always use the
 * three-byte form of PkgLength, so that a length can be filled in without moving bytes.
 */
#include "vmm/aml.h"

#include <errno.h>
#include <string.h>

enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_DUAL_NAME = 0x2e,
    OP_MULTI_NAME = 0x2f,
    OP_EXT = 0x5b,
    OP_EXT_DEVICE = 0x82,
    OP_NOTIFY = 0x86,

    SEGMENT_BYTES = 4,
    PKG_LENGTH_BYTES = 3,
    PKG_LENGTH_MAX = 0xfffff,

    RESOURCE_IRQ = 0x22,
    RESOURCE_IO = 0x47,
    RESOURCE_END = 0x79,
    RESOURCE_MEMORY32 = 0x86,
    RESOURCE_DWORD_SPACE = 0x87,
    RESOURCE_WORD_SPACE = 0x88,
    SPACE_MEMORY = 0,
    SPACE_IO = 1,
    SPACE_BUS = 2,
    SPACE_PRODUCER_FIXED = 0x0c, /* MinFixed, MaxFixed, PosDecode, ResourceProducer */
    SPACE_READ_WRITE = 0x01,     /* memory: not cacheable */
    SPACE_ENTIRE_RANGE = 0x03,   /* I/O: ISA and non-ISA ports */
};

/* One name segment, padded to four characters. */
static void segment(struct writer *w, const char *text, size_t length)
{
    for (size_t i = 0; i < SEGMENT_BYTES; i++)
        writer_u8(w, i < length ? (uint8_t)text[i] : '_');
}

void aml_path(struct writer *w, const char *path)
{
    unsigned segments = 1;

    if (*path == '\\')
        writer_u8(w, (uint8_t)*path++);
    for (const char *c = path; *c; c++)
        segments += *c == '.';
    if (segments == 2) {
        writer_u8(w, OP_DUAL_NAME);
    } else if (segments > 2) {
        writer_u8(w, OP_MULTI_NAME);
        writer_u8(w, (uint8_t)segments);
    }
    for (;;) {
        size_t length = strcspn(path, ".");

        segment(w, path, length);
        if (!path[length])
            return;
        path += length + 1;
    }
}

static struct aml_body begin(struct writer *w)
{
    struct aml_body body = {.start = w->size};

    writer_grow(w, PKG_LENGTH_BYTES);
    return body;
}

void aml_end(struct writer *w, struct aml_body body)
{
    size_t length = w->size - body.start;

    if (w->error)
        return;
    if (length > PKG_LENGTH_MAX) {
        w->error = -EFBIG;
        return;
    }
    w->data[body.start] = (uint8_t)((PKG_LENGTH_BYTES - 1) << 6 | (length & 0xf));
    w->data[body.start + 1] = (uint8_t)(length >> 4);
    w->data[body.start + 2] = (uint8_t)(length >> 12);
}

struct aml_body aml_scope(struct writer *w, const char *name)
{
    struct aml_body body;

    writer_u8(w, OP_SCOPE);
    body = begin(w);
    aml_path(w, name);
    return body;
}

struct aml_body aml_device(struct writer *w, const char *name)
{
    struct aml_body body;

    writer_u8(w, OP_EXT);
    writer_u8(w, OP_EXT_DEVICE);
    body = begin(w);
    aml_path(w, name);
    return body;
}

struct aml_body aml_method(struct writer *w, const char *name, unsigned arguments)
{
    struct aml_body body;

    writer_u8(w, OP_METHOD);
    body = begin(w);
    aml_path(w, name);
    writer_u8(w, arguments & 7); /* not serialized */
    return body;
}

struct aml_body aml_package(struct writer *w, uint8_t elements)
{
    struct aml_body body;

    writer_u8(w, OP_PACKAGE);
    body = begin(w);
    writer_u8(w, elements);
    return body;
}

void aml_name(struct writer *w, const char *name)
{
    writer_u8(w, OP_NAME);
    aml_path(w, name);
}

void aml_integer(struct writer *w, uint64_t value)
{
    if (value <= 1) {
        writer_u8(w, value ? OP_ONE : OP_ZERO);
    } else if (value <= UINT8_MAX) {
        writer_u8(w, OP_BYTE);
        writer_u8(w, (uint8_t)value);
    } else if (value <= UINT16_MAX) {
        writer_u8(w, OP_WORD);
        writer_u16(w, (uint16_t)value);
    } else if (value <= UINT32_MAX) {
        writer_u8(w, OP_DWORD);
        writer_u32(w, (uint32_t)value);
    } else {
        writer_u8(w, OP_QWORD);
        writer_u64(w, value);
    }
}

void aml_string(struct writer *w, const char *text)
{
    writer_u8(w, OP_STRING);
    writer_copy(w, text, strlen(text) + 1);
}

static unsigned hex_digit(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10) & 0xf;
}

/* Three letters of five bits, four hex digits; big-endian (ACPI 6.4, 19.6.36). */
void aml_eisa_id(struct writer *w, const char *id)
{
    uint32_t value = 0;

    for (int i = 0; i < 3; i++)
        value = value << 5 | ((unsigned)(id[i] - '@') & 0x1f);
    for (int i = 3; i < 7; i++)
        value = value << 4 | hex_digit(id[i]);
    writer_u8(w, OP_DWORD);
    writer_u32(w, __builtin_bswap32(value));
}

void aml_name_integer(struct writer *w, const char *name, uint64_t value)
{
    aml_name(w, name);
    aml_integer(w, value);
}

void aml_name_string(struct writer *w, const char *name, const char *text)
{
    aml_name(w, name);
    aml_string(w, text);
}

void aml_name_eisa(struct writer *w, const char *name, const char *id)
{
    aml_name(w, name);
    aml_eisa_id(w, id);
}

void aml_notify(struct writer *w, const char *path, uint8_t value)
{
    writer_u8(w, OP_NOTIFY);
    aml_path(w, path);
    aml_integer(w, value);
}

struct aml_resources aml_resources(struct writer *w, const char *name)
{
    struct aml_resources resources;

    aml_name(w, name);
    writer_u8(w, OP_BUFFER);
    resources.buffer = begin(w);
    writer_u8(w, OP_DWORD);
    resources.size_at = w->size;
    writer_u32(w, 0);
    return resources;
}

void aml_resources_end(struct writer *w, struct aml_resources resources)
{
    writer_u8(w, RESOURCE_END);
    writer_u8(w, 0); /* checksum 0: treated as right */
    if (!w->error)
        writer_put_u32_at(w, resources.size_at, (uint32_t)(w->size - resources.size_at - 4));
    aml_end(w, resources.buffer);
}

void aml_io(struct writer *w, uint16_t port, uint8_t length)
{
    writer_u8(w, RESOURCE_IO);
    writer_u8(w, 1); /* decodes 16 bits */
    writer_u16(w, port);
    writer_u16(w, port);
    writer_u8(w, 1); /* alignment */
    writer_u8(w, length);
}

void aml_irq(struct writer *w, unsigned line)
{
    writer_u8(w, RESOURCE_IRQ);
    writer_u16(w, (uint16_t)(1u << line));
}

void aml_memory32(struct writer *w, uint32_t start, uint32_t size)
{
    writer_u8(w, RESOURCE_MEMORY32);
    writer_u16(w, 9);
    writer_u8(w, 1); /* read, write */
    writer_u32(w, start);
    writer_u32(w, size);
}

static void word_space(struct writer *w, uint8_t type, uint8_t type_flags, uint16_t first,
                       uint16_t last)
{
    writer_u8(w, RESOURCE_WORD_SPACE);
    writer_u16(w, 13);
    writer_u8(w, type);
    writer_u8(w, SPACE_PRODUCER_FIXED);
    writer_u8(w, type_flags);
    writer_u16(w, 0); /* granularity */
    writer_u16(w, first);
    writer_u16(w, last);
    writer_u16(w, 0); /* translation */
    writer_u16(w, (uint16_t)(last - first + 1));
}

void aml_window_bus(struct writer *w, uint16_t first, uint16_t last)
{
    word_space(w, SPACE_BUS, 0, first, last);
}

void aml_window_io(struct writer *w, uint16_t first, uint16_t last)
{
    word_space(w, SPACE_IO, SPACE_ENTIRE_RANGE, first, last);
}

void aml_window_memory32(struct writer *w, uint32_t first, uint32_t last)
{
    writer_u8(w, RESOURCE_DWORD_SPACE);
    writer_u16(w, 23);
    writer_u8(w, SPACE_MEMORY);
    writer_u8(w, SPACE_PRODUCER_FIXED);
    writer_u8(w, SPACE_READ_WRITE);
    writer_u32(w, 0); /* granularity */
    writer_u32(w, first);
    writer_u32(w, last);
    writer_u32(w, 0); /* translation */
    writer_u32(w, last - first + 1);
}
