/* Manifests of OVF packages: lines "SHA256(file)= hex", as DSP0243 and openssl dgst have them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/member.h"
#include "imagefmt/foreign/ovf_bundle.h"

#define LINE_BYTES (LIMIT_MEMBER_NAME_BYTES + 2 * DIGEST_MAX_BYTES + 64)

static bool kind_of(const char *word, size_t length, enum digest_kind *kind)
{
    for (int k = 0; k < DIGEST_KINDS; k++) {
        const char *name = digest_name(k);
        /* "SHA-256", too */
        bool dashed = length == strlen(name) + 1 && !strncasecmp(word, name, 3) && word[3] == '-' &&
                      !strncmp(word + 4, name + 3, length - 4);
        if (dashed || (length == strlen(name) && !strncasecmp(word, name, length))) {
            *kind = k;
            return true;
        }
    }
    return false;
}

static const char *skip_spaces(const char *at)
{
    return at + strspn(at, " \t");
}

/* A line, which is cut up; false: it is no sum. */
static bool parse_line(char *line, const char **name, enum digest_kind *kind,
                       uint8_t sum[DIGEST_MAX_BYTES])
{
    char *open = strchr(line, '('), *close = strrchr(line, ')');

    if (!open || !close || close <= open + 1)
        return false;
    size_t word = strcspn(line, " \t(");
    if (skip_spaces(line + word) != open || !kind_of(line, word, kind))
        return false;
    *close = 0;
    *name = open + 1;
    const char *hex = skip_spaces(close + 1);
    if (*hex != '=')
        return false;
    hex = skip_spaces(hex + 1);
    return hex_decode(hex, sum, digest_bytes(*kind)) == 0;
}

static int add_sum(struct ovf_manifest *manifest, const char *name, enum digest_kind kind,
                   const uint8_t sum[DIGEST_MAX_BYTES], const char *about, struct ferry_error *err)
{
    if (manifest->count == LIMIT_OVA_MEMBERS)
        return ferry_refuse(err, -E2BIG, about, "its manifest has too many sums");
    if (!(manifest->count & (manifest->count - 1))) {
        size_t room = manifest->count ? manifest->count * 2 : 1;
        struct ovf_sum *sums = reallocarray(manifest->sums, room, sizeof(*sums));
        if (!sums)
            return ferry_fail(err, -ENOMEM, about, "out of memory");
        manifest->sums = sums;
    }
    struct ovf_sum *new = &manifest->sums[manifest->count];
    if (!(new->name = strdup(name)))
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    new->kind = kind;
    memcpy(new->sum, sum, DIGEST_MAX_BYTES);
    manifest->count++;
    return 0;
}

static int take_line(struct ovf_manifest *manifest, char *line, unsigned number, const char *about,
                     struct ferry_error *err)
{
    uint8_t sum[DIGEST_MAX_BYTES] = {0};
    char clean[LIMIT_MEMBER_NAME_BYTES + 1];
    enum digest_kind kind;
    const char *name;

    for (size_t size = strlen(line); size && strchr(" \t\r", line[size - 1]);)
        line[--size] = 0;
    if (!*line)
        return 0;
    if (!parse_line(line, &name, &kind, sum))
        return ferry_refuse(err, -EBADMSG, about,
                            "line %u of its manifest is no sum of a known kind", number);
    int error = member_name_check(name, about, clean, err);
    return error ? error : add_sum(manifest, clean, kind, sum, about, err);
}

static int compare_names(const void *a, const void *b)
{
    const struct ovf_sum *x = a, *y = b;
    int order = strcmp(x->name, y->name);

    return order ? order : (int)x->kind - (int)y->kind;
}

int ovf_manifest_parse(const char *text, size_t size, const char *about,
                       struct ovf_manifest *manifest, struct ferry_error *err)
{
    char line[LINE_BYTES];
    const char *end = text + size;
    int error = 0;

    for (unsigned number = 1; !error && text < end; number++) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        size_t length = (size_t)((newline ? newline : end) - text);
        if (length >= sizeof(line) || memchr(text, 0, length))
            return ferry_refuse(err, -EBADMSG, about, "line %u of its manifest is no sum", number);
        memcpy(line, text, length);
        line[length] = 0;
        error = take_line(manifest, line, number, about, err);
        text += length + (newline != NULL);
    }
    if (!error && manifest->count)
        qsort(manifest->sums, manifest->count, sizeof(*manifest->sums), compare_names);
    return error;
}

static int compare_name(const void *name, const void *sum)
{
    return strcmp(name, ((const struct ovf_sum *)sum)->name);
}

bool ovf_manifest_has(const struct ovf_manifest *manifest, const char *name)
{
    return manifest->count &&
           bsearch(name, manifest->sums, manifest->count, sizeof(*manifest->sums), compare_name);
}

void ovf_manifest_free(struct ovf_manifest *manifest)
{
    for (size_t i = 0; i < manifest->count; i++)
        free(manifest->sums[i].name);
    free(manifest->sums);
    *manifest = (struct ovf_manifest){.sums = NULL};
}
