/* Images of known content for tests. */
#include "tests/support/image_sample.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"

uint64_t sample_random(uint64_t *seed)
{
    uint64_t x = *seed ? *seed : 88172645463325252u;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *seed = x;
    return x * 0x2545F4914F6CDD1Du;
}

static void fill_run(uint8_t *data, size_t size, uint64_t *seed)
{
    static const char words[] = "the quick brown fox jumps over the lazy dog; ";
    unsigned kind = (unsigned)(sample_random(seed) % 4);

    for (size_t i = 0; i < size; i++)
        data[i] = kind == 0   ? 0
                  : kind == 1 ? (uint8_t)words[i % (sizeof(words) - 1)]
                  : kind == 2 ? (uint8_t)(sample_random(seed) >> 56)
                              : (uint8_t)(i >> 4 & 7);
}

void sample_add(struct sample *sample, enum image_section_kind kind, const char *name,
                uint64_t size, uint32_t chunk_bytes, uint64_t seed)
{
    struct sample_section *section = &sample->sections[sample->count++];

    *section = (struct sample_section){.kind = kind, .size = size};
    snprintf(section->name, sizeof(section->name), "%s", name);
    section->version = kind == IMAGE_STATE ? (uint16_t)(1 + seed % 9) : 0;
    section->chunk_bytes = kind == IMAGE_STATE ? 0 : chunk_bytes;
    section->content = calloc(1, size + 1);
    uint64_t at = 0;
    while (at < size) {
        uint64_t run = 1 + sample_random(&seed) % (3 * (uint64_t)(chunk_bytes ? chunk_bytes : 512));
        run = run < size - at ? run : size - at;
        fill_run(section->content + at, run, &seed);
        at += run;
    }
}

void sample_fill(struct sample *sample, uint64_t seed)
{
    *sample = (struct sample){0};
    snprintf(sample->manifest, sizeof(sample->manifest), "{\"sample\": %llu}",
             (unsigned long long)seed);
    sample_add(sample, IMAGE_STATE, "vcpu0", sample_random(&seed) % 5000, 0, seed);
    sample_add(sample, IMAGE_STATE, "empty", 0, 0, seed);
    sample_add(sample, IMAGE_RAM, "ram", (1 + sample_random(&seed) % 300) * 4096, 65536, seed);
    sample_add(sample, IMAGE_STATE, "vda", 77, 0, seed);
    sample_add(sample, IMAGE_DISK, "vda", 1 + sample_random(&seed) % 3000000, 262144, seed);
    sample_add(sample, IMAGE_DISK, "vdb", 1 + sample_random(&seed) % 200000, 4096, seed);
    sample_add(sample, IMAGE_DISK, "vdc", 0, 4096, seed);
}

void sample_small(struct sample *sample)
{
    *sample = (struct sample){.manifest = "{\"format\": \"ferry machine\"}"};
    sample_add(sample, IMAGE_STATE, "vcpu0", 40, 0, 5);
    sample_add(sample, IMAGE_RAM, "ram", 20480, 4096, 1);
    sample_add(sample, IMAGE_DISK, "vda", 8704, 4096, 1);
    for (unsigned i = 1; i < sample->count; i++) {
        struct sample_section *section = &sample->sections[i];
        memset(section->content, 0, section->size);
        memset(section->content, 'a' + (int)i, 100);
        memcpy(section->content + 8202, "the end", 7);
    }
}

void sample_example(struct sample *sample)
{
    *sample = (struct sample){.manifest = "{}"};
    sample_add(sample, IMAGE_STATE, "rtc", 2, 0, 0);
    memcpy(sample->sections[0].content, "hi", 2);
    sample_add(sample, IMAGE_RAM, "ram", 12288, 4096, 1);
    memset(sample->sections[1].content, 0, 12288);
    memset(sample->sections[1].content + 4096, 'A', 4096);
}

void sample_free(struct sample *sample)
{
    for (unsigned i = 0; i < sample->count; i++)
        free(sample->sections[i].content);
    sample->count = 0;
}

static int write_data(struct image_writer *w, const struct sample_section *section,
                      struct ferry_error *err)
{
    int error = image_writer_begin(w, section->kind, section->name, section->size,
                                   section->chunk_bytes, err);

    for (uint64_t at = 0; !error && at < section->size; at += section->chunk_bytes)
        error = image_writer_chunk(w, at / section->chunk_bytes, section->content + at, err);
    return error ? error : image_writer_end(w, err);
}

int sample_write(const struct sample *sample, int fd, const struct image_writer_options *options,
                 uint8_t root[SHA256_BYTES], struct ferry_error *err)
{
    struct image_writer *w = NULL;

    int error =
        image_writer_create(fd, options, sample->manifest, strlen(sample->manifest), &w, err);
    for (unsigned i = 0; !error && i < sample->count; i++) {
        const struct sample_section *section = &sample->sections[i];
        error = section->kind == IMAGE_STATE
                    ? image_writer_state(w, section->name, section->version, section->content,
                                         section->size, err)
                    : write_data(w, section, err);
    }
    if (!error)
        error = image_writer_finish(w, root, err);
    image_writer_destroy(w);
    return error;
}

uint8_t *sample_image(const struct sample *sample, const struct image_writer_options *options,
                      size_t *size)
{
    CLEANUP_FD int fd = memfd_create("image", MFD_CLOEXEC);
    struct ferry_error err = {0};
    char text[512];

    if (fd < 0 || sample_write(sample, fd, options, NULL, &err)) {
        fprintf(stderr, "sample_image: %s\n", ferry_error_text(&err, text, sizeof(text)));
        return NULL;
    }
    *size = (size_t)lseek(fd, 0, SEEK_END);
    uint8_t *data = malloc(*size + 1);
    if (!data || pread_all(fd, data, *size, 0)) {
        free(data);
        return NULL;
    }
    return data;
}

/* The comparing visitor. */
struct compare {
    const struct sample *sample;
    unsigned next; /* section expected */
    uint64_t at;   /* content compared so far */
    bool open, manifest_seen;
};

static int differs(struct ferry_error *err, const char *what)
{
    return ferry_fail(err, -EILSEQ, "sample", "%s differs", what);
}

static int on_manifest(void *opaque, const char *json, size_t size, struct ferry_error *err)
{
    struct compare *c = opaque;

    c->manifest_seen = true;
    if (size != strlen(c->sample->manifest) || memcmp(json, c->sample->manifest, size))
        return differs(err, "manifest");
    return 0;
}

static bool same(const struct compare *c, const struct image_section *section)
{
    const struct sample_section *want = &c->sample->sections[c->next];

    return c->next < c->sample->count && section->kind == want->kind &&
           section->version == want->version && section->size == want->size &&
           section->chunk_bytes == want->chunk_bytes && !strcmp(section->name, want->name);
}

static int on_state(void *opaque, const struct image_section *section, const uint8_t *data,
                    struct ferry_error *err)
{
    struct compare *c = opaque;

    if (!c->manifest_seen || c->open || !same(c, section) ||
        memcmp(data, c->sample->sections[c->next].content, section->size))
        return differs(err, "state");
    c->next++;
    return 0;
}

static int on_begin(void *opaque, const struct image_section *section, struct ferry_error *err)
{
    struct compare *c = opaque;

    if (c->open || !same(c, section))
        return differs(err, "section");
    c->open = true;
    c->at = 0;
    return 0;
}

static bool zero_until(struct compare *c, uint64_t end)
{
    for (; c->at < end; c->at++)
        if (c->sample->sections[c->next].content[c->at])
            return false;
    return true;
}

static int on_chunk(void *opaque, const struct image_section *section, uint64_t offset,
                    const uint8_t *data, size_t size, struct ferry_error *err)
{
    struct compare *c = opaque;

    if (!c->open || !same(c, section) || offset < c->at || offset + size > section->size ||
        !zero_until(c, offset) || memcmp(data, c->sample->sections[c->next].content + offset, size))
        return differs(err, "chunk");
    c->at = offset + size;
    return 0;
}

static int on_end(void *opaque, const struct image_section *section, struct ferry_error *err)
{
    struct compare *c = opaque;

    if (!c->open || !same(c, section) || !zero_until(c, section->size))
        return differs(err, "end");
    c->open = false;
    c->next++;
    return 0;
}

int sample_compare(const struct sample *sample, int fd, unsigned workers,
                   struct image_summary *summary, struct ferry_error *err)
{
    static const struct image_visitor visitor = {
        .manifest = on_manifest,
        .state = on_state,
        .begin = on_begin,
        .chunk = on_chunk,
        .end = on_end,
    };
    struct compare c = {.sample = sample};

    int error = image_read(fd, "sample", sample->env, workers, &visitor, &c, summary, err);
    if (!error && (c.next != sample->count || c.open || !c.manifest_seen))
        return differs(err, "number of sections");
    return error;
}

int sample_fd(const uint8_t *data, size_t size)
{
    int fd = memfd_create("image", MFD_CLOEXEC);

    if (fd >= 0 && (write_all(fd, data, size) || lseek(fd, 0, SEEK_SET))) {
        close(fd);
        return -1;
    }
    return fd;
}

int sample_read_with(const uint8_t *data, size_t size, const struct image_environment *env,
                     struct ferry_error *err)
{
    CLEANUP_FD int fd = sample_fd(data, size);

    return image_read(fd, "sample", env, 1, NULL, NULL, NULL, err);
}

int sample_read_bytes(const uint8_t *data, size_t size, struct ferry_error *err)
{
    return sample_read_with(data, size, NULL, err);
}

static int access_data(struct image *image, uint32_t number, const struct sample_section *want,
                       struct ferry_error *err)
{
    uint64_t seed = number + 1;
    uint8_t *got = malloc(want->size + 1);

    int error = got ? image_pread(image, number, 0, got, want->size, err) : -ENOMEM;
    if (!error && memcmp(got, want->content, want->size))
        error = differs(err, "content");
    for (unsigned i = 0; !error && want->size && i < 20; i++) {
        uint64_t at = sample_random(&seed) % want->size;
        size_t size = sample_random(&seed) % (want->size - at) + 1;
        error = image_pread(image, number, at, got, size, err);
        if (!error && memcmp(got, want->content + at, size))
            error = differs(err, "content at random");
    }
    free(got);
    return error;
}

static int access_section(struct image *image, uint32_t number, const struct sample_section *want,
                          struct ferry_error *err)
{
    const struct image_section *section = image_section(image, number);
    CLEANUP_FREE uint8_t *state = NULL;

    if (section->kind != want->kind || section->size != want->size ||
        section->version != want->version || section->chunk_bytes != want->chunk_bytes ||
        strcmp(section->name, want->name) || image_find(image, want->kind, want->name) != number)
        return differs(err, "section");
    if (want->kind != IMAGE_STATE)
        return access_data(image, number, want, err);
    int error = image_state(image, number, &state, err);
    if (!error && memcmp(state, want->content, want->size))
        return differs(err, "state");
    return error;
}

int sample_access(const struct sample *sample, int fd, struct ferry_error *err)
{
    CLEANUP(image_cleanup) struct image *image = NULL;
    size_t size;

    int error = image_open(fd, "sample", sample->env, &image, err);
    if (error)
        return error;
    const char *manifest = image_manifest(image, &size);
    if (image_sections(image) != sample->count || size != strlen(sample->manifest) ||
        memcmp(manifest, sample->manifest, size))
        return differs(err, "table");
    for (uint32_t i = 0; !error && i < sample->count; i++)
        error = access_section(image, i, &sample->sections[i], err);
    return error;
}

static int look(void *opaque, const struct image_section *section, uint64_t offset,
                const uint8_t *data, size_t size, struct ferry_error *err)
{
    uint64_t *sum = opaque;

    (void)section;
    (void)err;
    *sum += offset + data[0] + data[size - 1];
    return 0;
}

int sample_access_bytes(const uint8_t *data, size_t size, struct ferry_error *err)
{
    return sample_access_with(data, size, NULL, err);
}

int sample_access_with(const uint8_t *data, size_t size, const struct image_environment *env,
                       struct ferry_error *err)
{
    CLEANUP_FD int fd = sample_fd(data, size);
    CLEANUP(image_cleanup) struct image *image = NULL;
    uint8_t some[5000];
    uint64_t sum = 0;

    int error = image_open(fd, "sample", env, &image, err);
    for (uint32_t i = 0; !error && i < image_sections(image); i++) {
        const struct image_section *section = image_section(image, i);
        CLEANUP_FREE uint8_t *state = NULL;
        if (section->kind == IMAGE_STATE) {
            error = image_state(image, i, &state, err);
            continue;
        }
        size_t part = section->size < sizeof(some) ? section->size : sizeof(some);
        error = image_walk(image, i, 1, look, &sum, err);
        if (!error)
            error = image_check_pages(image, i, err);
        if (!error)
            error = image_pread(image, i, section->size - part, some, part, err);
    }
    return error;
}
