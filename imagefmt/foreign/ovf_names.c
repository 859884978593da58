/* OVF: what units and formats are called. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "imagefmt/foreign/ovf.h"

#define OWN_FORMAT "urn:ferry:disk:" /* where nobody has settled on a name */

static const struct {
    const char *format;
    const char *uri;
} formats[] = {
    {"vmdk", "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"},
    {"qcow2", "http://www.gnome.org/~markmc/qcow-image-format.html"},
    {"vhd", "http://go.microsoft.com/fwlink/?LinkId=137171"},
    {"vdi", OWN_FORMAT "vdi"},
    {"vhdx", OWN_FORMAT "vhdx"},
    {"raw", OWN_FORMAT "raw"},
};

#define FORMATS (sizeof(formats) / sizeof(*formats))

const char *ovf_uri_of_format(const char *format)
{
    for (size_t i = 0; i < FORMATS; i++)
        if (!strcmp(formats[i].format, *format ? format : "vmdk"))
            return formats[i].uri;
    return NULL;
}

/* VMware alone has had several spellings. */
const char *ovf_format_of_uri(const char *uri)
{
    for (size_t i = 0; i < FORMATS; i++)
        if (!strcmp(formats[i].uri, uri))
            return formats[i].format;
    if (strcasestr(uri, "vmdk"))
        return "vmdk";
    if (strcasestr(uri, "qcow"))
        return "qcow2";
    return strcasestr(uri, "137171") ? "vhd" : "";
}

/* The word at text, up to a space or '*', in lower case; returns what is behind it and spaces. */
static const char *take_word(const char *text, char *word, size_t room)
{
    size_t length = 0;

    for (; *text && !isspace((unsigned char)*text) && *text != '*'; text++)
        if (length + 1 < room)
            word[length++] = (char)tolower((unsigned char)*text);
    word[length] = 0;
    return text + strspn(text, " \t\r\n");
}

/* "2^20", "10^3" or "1024", to the end of text; 0: it is none of these. */
static uint64_t parse_factor(const char *text)
{
    char *end;
    unsigned long base = strtoul(text, &end, 10), exponent = 1;

    end += strspn(end, " ");
    if (!isdigit((unsigned char)*text) || base > UINT32_MAX)
        return 0;
    if (*end == '^') {
        const char *digits = end + 1 + strspn(end + 1, " ");
        exponent = strtoul(digits, &end, 10);
        if (!isdigit((unsigned char)*digits) || exponent > 63)
            return 0;
    }
    uint64_t factor = 1;
    for (unsigned long i = 0; i < exponent; i++)
        if (__builtin_mul_overflow(factor, (uint64_t)base, &factor))
            return 0;
    return end[strspn(end, " \t\r\n")] ? 0 : factor;
}

uint64_t ovf_unit_bytes(const char *unit)
{
    static const struct {
        const char *word;
        unsigned shift;
    } words[] = {
        {"byte", 0},       {"bytes", 0},      {"b", 0},   {"kb", 10},  {"kib", 10},
        {"kbytes", 10},    {"kilobytes", 10}, {"mb", 20}, {"mib", 20}, {"mbytes", 20},
        {"megabytes", 20}, {"megabyte", 20},  {"gb", 30}, {"gib", 30}, {"gbytes", 30},
        {"gigabytes", 30}, {"gigabyte", 30},  {"tb", 40}, {"tib", 40}, {"terabytes", 40},
        {"kilobyte", 10},
    };
    char word[16];

    unit = take_word(unit + strspn(unit, " \t\r\n"), word, sizeof(word));
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
        if (strcmp(words[i].word, word) != 0)
            continue;
        if (!*unit)
            return UINT64_C(1) << words[i].shift;
        if (*unit != '*' || words[i].shift)
            return 0;
        return parse_factor(unit + 1 + strspn(unit + 1, " \t\r\n"));
    }
    return 0;
}
