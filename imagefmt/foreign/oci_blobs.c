/* Blobs of an OCI layout, reading. */
#include "imagefmt/foreign/oci_blobs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/json.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/stream.h"

#define READ_BYTES (1 * MIB)

/* ---- Descriptors ---- */

const char *oci_descriptor_type(const json_t *descriptor)
{
    const char *type = json_string_value(json_object_get(descriptor, "mediaType"));

    return type ? type : "";
}

const char *oci_descriptor_note(const json_t *descriptor, const char *key)
{
    return json_string_value(json_object_get(json_object_get(descriptor, "annotations"), key));
}

static int wrong_digest(const struct oci_blob *blob, const char *about, struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, about, "the blob %.19s... is damaged: its digest is another",
                        blob->text);
}

int oci_blob_find(const struct container_index *index, const json_t *descriptor, const char *about,
                  struct oci_blob *blob, struct ferry_error *err)
{
    const char *digest = json_string_value(json_object_get(descriptor, "digest"));
    const json_t *size = json_object_get(descriptor, "size");
    char name[sizeof(OCI_BLOBS) + 2 * (size_t)SHA256_BYTES], text[SHOWN_BYTES];

    *blob = (struct oci_blob){0};
    if (!digest || oci_parse_digest(digest, blob->digest))
        return ferry_refuse(err, -EBADMSG, about, "names a blob by '%s', which is no SHA-256",
                            shown(digest ? digest : "", text));
    oci_format_digest(blob->digest, blob->text);
    memcpy(name, OCI_BLOBS, sizeof(OCI_BLOBS) - 1);
    hex_encode(blob->digest, SHA256_BYTES, name + sizeof(OCI_BLOBS) - 1);
    blob->member = container_find(index, name);
    if (!blob->member)
        return ferry_refuse(err, -ENOENT, about, "the blob %.19s... is missing", blob->text);
    if (!json_is_integer(size) || json_integer_value(size) < 0 ||
        (uint64_t)json_integer_value(size) != blob->member->size_bytes)
        return ferry_refuse(err, -EBADMSG, about,
                            "the blob %.19s... has %llu bytes, which is not what is said of it",
                            blob->text, (unsigned long long)blob->member->size_bytes);
    return 0;
}

int oci_blob_load(struct container_index *index, const json_t *descriptor, size_t most,
                  const char *about, uint8_t **data, size_t *size, struct ferry_error *err)
{
    uint8_t digest[SHA256_BYTES];
    struct oci_blob blob;

    int error = oci_blob_find(index, descriptor, about, &blob, err);
    if (!error)
        error = container_load(index, blob.member, most, data, size, err);
    if (error)
        return error;
    sha256(*data, *size, digest);
    if (!memcmp(digest, blob.digest, SHA256_BYTES))
        return 0;
    free(*data);
    *data = NULL;
    return wrong_digest(&blob, about, err);
}

int oci_blob_json(struct container_index *index, const json_t *descriptor, const char *about,
                  const char *what, json_t **out, char text[OCI_DIGEST_BYTES],
                  struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *data = NULL;
    size_t size;

    int error = oci_blob_load(index, descriptor, LIMIT_DESCRIPTION_BYTES, about, &data, &size, err);
    if (error)
        return error;
    if (text)
        memcpy(text, json_string_value(json_object_get(descriptor, "digest")), OCI_DIGEST_BYTES);
    return json_parse_object((const char *)data, size, LIMIT_DESCRIPTION_BYTES, about, what, out,
                             err);
}

/* ---- Streams ---- */

struct blob_stream {
    struct stream stream;
    struct container_index *index;
    struct oci_blob *blobs;
    size_t count, current;
    struct source *source; /* of the current one; NULL: it has not begun */
    uint64_t at;           /* in it */
    struct sha256 *sum;
};

static int begin_blob(struct blob_stream *s, struct ferry_error *err)
{
    int error = container_source(s->index, s->blobs[s->current].member, &s->source, err);

    s->at = 0;
    if (!error && !(s->sum = sha256_new()))
        error = ferry_fail(err, -ENOMEM, s->stream.about, "out of memory");
    return error;
}

static int end_blob(struct blob_stream *s, struct ferry_error *err)
{
    struct oci_blob *blob = &s->blobs[s->current];
    uint8_t digest[SHA256_BYTES];

    sha256_final(take_ptr(&s->sum), digest);
    source_close(take_ptr(&s->source));
    if (memcmp(digest, blob->digest, SHA256_BYTES))
        return wrong_digest(blob, s->stream.about, err);
    blob->checked = true;
    s->current++;
    return 0;
}

static int read_blobs(struct stream *stream, void *data, size_t size, size_t *got,
                      struct ferry_error *err)
{
    struct blob_stream *s = (struct blob_stream *)stream;
    uint8_t *out = data;
    int error = 0;

    *got = 0;
    while (!error && *got < size && s->current < s->count) {
        if (!s->source && (error = begin_blob(s, err)))
            return error;
        uint64_t left = s->source->size_bytes - s->at;
        size_t part = left < size - *got ? (size_t)left : size - *got;
        error = s->source->pread(s->source, s->at, out + *got, part, err);
        if (error)
            return error;
        sha256_update(s->sum, out + *got, part);
        *got += part;
        s->at += part;
        if (part == left)
            error = end_blob(s, err);
    }
    return error;
}

static void close_blobs(struct stream *stream)
{
    struct blob_stream *s = (struct blob_stream *)stream;

    sha256_free(s->sum);
    source_close(s->source);
    free(s);
}

int oci_blobs_stream(struct container_index *index, struct oci_blob *blobs, size_t count,
                     const char *about, struct stream **out, struct ferry_error *err)
{
    struct blob_stream *s = calloc(1, sizeof(*s));

    if (!s)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    *s = (struct blob_stream){
        .stream = {.read = read_blobs, .close = close_blobs, .about = about},
        .index = index,
        .blobs = blobs,
        .count = count,
    };
    *out = &s->stream;
    return 0;
}

int oci_blobs_check(struct container_index *index, struct oci_blob *blobs, size_t count,
                    const char *about, struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *buffer = malloc(READ_BYTES);
    int error = buffer ? 0 : ferry_fail(err, -ENOMEM, about, "out of memory");

    for (size_t i = 0; !error && i < count; i++) {
        CLEANUP(stream_cleanup) struct stream *stream = NULL;
        size_t got = READ_BYTES;
        if (blobs[i].checked)
            continue;
        error = oci_blobs_stream(index, &blobs[i], 1, about, &stream, err);
        while (!error && got == READ_BYTES)
            error = stream->read(stream, buffer, READ_BYTES, &got, err);
    }
    return error;
}
