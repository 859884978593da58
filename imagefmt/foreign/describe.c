/* Text, notes and numbers of machine descriptions. */
#include "imagefmt/foreign/describe.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/hash.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* ---- Notes ---- */

/* Control characters, those of C1 among them, and what is no UTF-8 become '?'; never cut within a
 * character. */
static void clean(const char *text, char *out, size_t room)
{
    size_t left = strlen(text), at = 0;

    while (left) {
        uint32_t code = 0;
        size_t length = utf8_next(text, left, &code);
        bool fine = length && code >= 0x20 && (code < 0x7f || code > 0x9f);
        size_t step = length ? length : 1, bytes = fine ? length : 1;

        if (at + bytes >= room)
            break;
        memcpy(out + at, fine ? text : "?", bytes);
        at += bytes;
        text += step;
        left -= step;
    }
    out[at] = 0;
}

const char *shown(const char *text, char out[SHOWN_BYTES])
{
    clean(text, out, SHOWN_BYTES);
    return out;
}

void notes_add(struct notes *notes, const char *fmt, ...)
{
    char raw[512], text[512];
    va_list args;

    if (!notes->list || json_array_size(notes->list) > LIMIT_NOTES)
        return;
    va_start(args, fmt);
    vsnprintf(raw, sizeof(raw), fmt, args);
    va_end(args);
    clean(json_array_size(notes->list) < LIMIT_NOTES ? raw : "there is more that is not told here",
          text, sizeof(text));
    if (json_array_append_new(notes->list, json_string(text)))
        notes->failed = true;
}

int notes_done(const struct notes *notes, const char *about, struct ferry_error *err)
{
    return notes->failed ? ferry_fail(err, -ENOMEM, about, "out of memory") : 0;
}

/* ---- Text ---- */

size_t utf8_next(const char *text, size_t left, uint32_t *code)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const uint8_t *bytes = (const uint8_t *)text;
    size_t length = bytes[0] < 0x80             ? 1
                    : (bytes[0] & 0xe0) == 0xc0 ? 2
                    : (bytes[0] & 0xf0) == 0xe0 ? 3
                    : (bytes[0] & 0xf8) == 0xf0 ? 4
                                                : 0;

    if (!length || length > left)
        return 0;
    *code = length == 1 ? bytes[0] : bytes[0] & (0xffu >> (length + 1));
    for (size_t i = 1; i < length; i++) {
        if ((bytes[i] & 0xc0) != 0x80)
            return 0;
        *code = *code << 6 | (bytes[i] & 0x3f);
    }
    bool surrogate = *code >= 0xd800 && *code < 0xe000;
    return *code < least[length] || *code > 0x10ffff || surrogate ? 0 : length;
}

bool utf8_valid(const char *text, size_t size)
{
    uint32_t code;

    for (size_t at = 0, length; at < size; at += length) {
        length = utf8_next(text + at, size - at, &code);
        if (!length)
            return false;
    }
    return true;
}

struct text text_init(void)
{
    return (struct text){.out = writer_init(LIMIT_DESCRIPTION_BYTES)};
}

void text_free(struct text *t)
{
    writer_free(&t->out);
}

void text_add(struct text *t, const char *text)
{
    writer_copy(&t->out, text, strlen(text));
}

void text_printf(struct text *t, const char *fmt, ...)
{
    char line[512];
    va_list args;

    va_start(args, fmt);
    int length = vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    if (length < 0 || (size_t)length >= sizeof(line))
        t->out.error = t->out.error ? t->out.error : -EFBIG; /* what may be long is added plainly */
    else
        text_add(t, line);
}

/* How a character goes into XML if not as itself; NULL: as itself. */
static const char *xml_escape(uint32_t code)
{
    switch (code) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    case '\t':
        return "&#9;";
    case '\n':
        return "&#10;";
    case '\r':
        return "&#13;";
    default: /* XML 1.0, 2.2: characters that a document must not have in any form */
        return code < 0x20 || code == 0xfffe || code == 0xffff ? REPLACEMENT : NULL;
    }
}

static void add_value(struct text *t, const char *value, bool xml)
{
    size_t left = strlen(value);

    while (left) {
        uint32_t code = 0;
        size_t length = utf8_next(value, left, &code);
        const char *escape = !length ? REPLACEMENT : xml ? xml_escape(code) : NULL;

        if (escape && !strcmp(escape, REPLACEMENT))
            t->replaced = true;
        if (escape)
            text_add(t, escape);
        else
            writer_copy(&t->out, value, length);
        value += length ? length : 1;
        left -= length ? length : 1;
    }
}

void text_utf8(struct text *t, const char *value)
{
    add_value(t, value, false);
}

void text_xml(struct text *t, const char *value)
{
    add_value(t, value, true);
}

void text_attribute(struct text *t, const char *name, const char *value)
{
    text_printf(t, " %s=\"", name);
    text_xml(t, value);
    text_add(t, "\"");
}

void text_element(struct text *t, int indent, const char *name, const char *value)
{
    text_printf(t, "%*s<%s>", indent, "", name);
    text_xml(t, value);
    text_printf(t, "</%s>\n", name);
}

int text_done(struct text *t, struct notes *notes, char **text, size_t *size,
              struct ferry_error *err)
{
    if (t->replaced)
        notes_add(notes, "characters that this format cannot hold were replaced");
    writer_u8(&t->out, 0);
    if (t->out.error)
        return ferry_fail(err, t->out.error, NULL, "the description could not be put together: %s",
                          strerror(-t->out.error));
    int error = notes_done(notes, NULL, err);
    if (error)
        return error;
    *size = t->out.size - 1;
    *text = (char *)t->out.data;
    t->out = writer_init(LIMIT_DESCRIPTION_BYTES);
    return 0;
}

/* ---- Numbers ---- */

int describe_number(const char *text, uint64_t *value)
{
    text += strspn(text, " \t\r\n");
    if (!isdigit((unsigned char)*text))
        return -EINVAL;
    for (*value = 0; isdigit((unsigned char)*text); text++)
        if (__builtin_mul_overflow(*value, (uint64_t)10, value) ||
            __builtin_add_overflow(*value, (uint64_t)(*text - '0'), value))
            return -ERANGE;
    return text[strspn(text, " \t\r\n")] ? -EINVAL : 0;
}

uint64_t describe_multiply(uint64_t value, uint64_t unit)
{
    uint64_t product;

    return __builtin_mul_overflow(value, unit, &product) ? UINT64_MAX : product;
}

/* Exactly size bytes in hex digits, with any of the separators between them. */
static int parse_hex(const char *text, const char *separators, uint8_t *out, size_t size)
{
    char digits[33];
    size_t length = 0;

    for (; *text; text++) {
        if (strchr(separators, *text))
            continue;
        if (length == 2 * size)
            return -EINVAL;
        digits[length++] = *text;
    }
    digits[length] = 0;
    return hex_decode(digits, out, size);
}

void describe_mac(const char *text, struct guest_nic *nic, struct notes *notes)
{
    char name[SHOWN_BYTES];

    nic->has_mac = parse_hex(text, ":- ", nic->mac, sizeof(nic->mac)) == 0;
    if (nic->has_mac)
        return;
    memset(nic->mac, 0, sizeof(nic->mac));
    if (*text)
        notes_add(notes, "'%s' is not the address of a network card: left out", shown(text, name));
}

int describe_parse_uuid(const char *text, uint8_t uuid[16])
{
    if (!parse_hex(text, "{}- ", uuid, 16))
        return 0;
    memset(uuid, 0, 16);
    return -EINVAL;
}

char *describe_format_uuid(const uint8_t uuid[16], char text[37])
{
    char *end = text;

    for (int i = 0; i < 16; i++)
        end +=
            snprintf(end, 4, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
    return text;
}

bool describe_yes(const char *text)
{
    return !strcasecmp(text, "yes") || !strcasecmp(text, "true") || !strcasecmp(text, "on") ||
           !strcmp(text, "1");
}

int describe_copy(const char *text, char *out, size_t room, const char *what, const char *about,
                  struct ferry_error *err)
{
    char name[SHOWN_BYTES];

    if (strlen(text) >= room)
        return ferry_refuse(err, -ENAMETOOLONG, about,
                            "has %s that is too long: '%s...', %zu bytes, at most %zu", what,
                            shown(text, name), strlen(text), room - 1);
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

void describe_cut(const char *text, char *out, size_t room, const char *what, struct notes *notes)
{
    size_t length = strlen(text);
    char name[SHOWN_BYTES];

    if (length >= room) {
        length = room - 1;
        while (length && (text[length] & 0xc0) == 0x80)
            length--; /* not within a character */
        notes_add(notes, "%s is too long, and was cut: '%s...'", what, shown(text, name));
    }
    memcpy(out, text, length);
    out[length] = 0;
}

int describe_check_text(const char *text, size_t size, const char *about, struct ferry_error *err)
{
    if (size > LIMIT_DESCRIPTION_BYTES)
        return ferry_refuse(err, -EFBIG, about, "is larger than %u MiB, which no description is",
                            (unsigned)(LIMIT_DESCRIPTION_BYTES / MIB));
    if (memchr(text, 0, size) || !utf8_valid(text, size))
        return ferry_refuse(err, -EBADMSG, about, "is not a text in UTF-8");
    return 0;
}
