/*
 * Fuzz target: what an OCI artifact is made of.  The first byte chooses which part is hostile:
 *
 *     T  the archive          M  the annotation with the machine     Z  a disk in zstd
 *     L  the manifest, in an archive that is right around it         C  KubeVirt's config
 *
 * Sums keep mutations away from the parsers, so the parts are tried by themselves.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "imagefmt/foreign/bundle.h"
#include "imagefmt/foreign/container.h"
#include "imagefmt/foreign/oci.h"
#include "imagefmt/foreign/raw_zstd.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/stream.h"

#define DISK_BYTES (3 * MIB)
#define EXTENTS    100

/* Blobs that a manifest may name. */
static const char config[] =
    "{\"kind\":\"VirtualMachine\",\"spec\":{\"template\":{\"spec\":{\"domain\":{}}}}}";
static const uint8_t layer[] = {0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x38, 5, 0,    0, 0, 0,
                                0,    0,    0,    0x08, 0,    0,    0, 0x23, 0, 0, 0};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_disk(struct disk *disk)
{
    static uint8_t bytes[64 * KIB];
    uint64_t at = 0;

    for (int i = 0; i < EXTENTS && at < disk->size_bytes; i++) {
        struct disk_extent extent;
        if (disk->format->extent(disk, at, &extent, NULL))
            return;
        if (!extent.size_bytes || extent.size_bytes > disk->size_bytes - at)
            abort();
        size_t part = extent.size_bytes < sizeof(bytes) ? (size_t)extent.size_bytes : sizeof(bytes);
        if (disk->format->read(disk, at, bytes, part, NULL))
            return;
        at += extent.kind == DISK_ZERO ? extent.size_bytes : part;
    }
}

static void read_bundle(struct source *source)
{
    const struct bundle_input input = {.source = source, .folder_fd = -1, .about = "fuzz"};
    struct bundle *bundle;
    struct disk *disk;
    uint32_t index;

    if (bundle_oci.open(&input, &bundle, NULL))
        return;
    if (guest_check(&bundle->guest, "fuzz", NULL))
        abort();
    while (bundle_oci.next_disk(bundle, &index, &disk, NULL) > 0)
        if (disk->size_bytes <= 64 * MIB)
            read_disk(disk);
    bundle_oci.close(bundle);
}

static void try_tar(const void *data, size_t size)
{
    CLEANUP(source_cleanup) struct source *source = NULL;

    if (!source_of_memory(data, size, "fuzz", &source, NULL))
        read_bundle(source);
}

struct memory_sink {
    struct sink sink;
    struct writer bytes;
};

static int store(struct sink *sink, const void *data, size_t size, struct ferry_error *err)
{
    (void)err;
    writer_copy(&((struct memory_sink *)sink)->bytes, data, size);
    sink->position += size;
    return 0;
}

static void add_blob(struct container *c, const void *data, size_t size,
                     char digest[OCI_DIGEST_BYTES])
{
    uint8_t sum[SHA256_BYTES];
    char name[100];

    sha256(data, size, sum);
    oci_format_digest(sum, digest);
    snprintf(name, sizeof(name), "%s%s", OCI_BLOBS, digest + 7);
    container_add(c, name, data, size, NULL, NULL);
}

static void try_manifest(const void *data, size_t size)
{
    struct memory_sink m = {.sink = {.write = store, .about = "fuzz"},
                            .bytes = writer_init(16 * MIB)};
    char digest[OCI_DIGEST_BYTES];
    struct container *c = NULL;
    uint64_t bytes;

    if (!container_create_tar(&m.sink, &c, NULL)) {
        container_add(c, OCI_LAYOUT_FILE, OCI_LAYOUT, strlen(OCI_LAYOUT), NULL, NULL);
        add_blob(c, config, strlen(config), digest);
        add_blob(c, layer, sizeof(layer), digest);
        add_blob(c, data, size, digest);
        json_t *index = json_pack("{s:[{s:s, s:s, s:I}]}", "manifests", "mediaType",
                                  OCI_TYPE_MANIFEST, "digest", digest, "size", (json_int_t)size);
        char *text = json_dumps(index, 0);
        container_add(c, OCI_INDEX_FILE, text, strlen(text), NULL, NULL);
        container_finish(c, &bytes, NULL);
        try_tar(m.bytes.data, m.bytes.size);
        json_decref(index);
        free(text);
    }
    container_destroy(c);
    writer_free(&m.bytes);
}

static void try_machine(const char *text)
{
    CLEANUP_FREE char *again = NULL;
    struct guest guest;

    if (oci_machine_decode(text, "sha256:0", "fuzz", &guest, NULL) != 1)
        return;
    if (guest_check(&guest, "fuzz", NULL) || oci_machine_encode(&guest, "sha256:0", &again, NULL) ||
        oci_machine_decode(again, "sha256:0", "fuzz", &guest, NULL) != 1)
        abort();
}

static void try_config(const char *text, size_t size)
{
    CLEANUP(json_cleanup) json_t *machine = NULL;
    CLEANUP(json_cleanup) json_t *layers = json_pack("[s, s]", "root", "fedora-root");
    CLEANUP(json_cleanup) json_t *again = NULL;
    struct notes notes = {.list = NULL};
    struct guest guest;

    if (json_parse_object(text, size, LIMIT_DESCRIPTION_BYTES, "fuzz", "it", &machine, NULL) ||
        kubevirt_read(machine, layers, "fuzz", &guest, &notes, NULL))
        return;
    if (kubevirt_write(&guest, &notes, &again, NULL))
        abort();
}

static void try_zstd(const void *data, size_t size)
{
    const struct disk_open_options options = {.size_bytes = DISK_BYTES};
    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP(stream_cleanup) struct stream *stream = NULL;
    struct disk *disk;

    if (source_of_memory(data, size, "fuzz", &source, NULL) ||
        stream_of_source(source, &stream, NULL) ||
        disk_format_raw_zstd.open_stream(stream, &options, &disk, NULL))
        return;
    read_disk(disk);
    disk->format->close(disk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    CLEANUP_FREE char *text = calloc(1, size);
    if (!text)
        return 0;
    memcpy(text, data + 1, size - 1); /* the copy ends with a NUL */
    switch (*data) {
    case 'T':
        try_tar(text, size - 1);
        break;
    case 'L':
        try_manifest(text, size - 1);
        break;
    case 'M':
        try_machine(text);
        break;
    case 'C':
        try_config(text, size - 1);
        break;
    case 'Z':
        try_zstd(text, size - 1);
        break;
    default:
        break;
    }
    return 0;
}
