/* A disk in pieces, whose sizes are known before they are written into a pipe. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "imagefmt/foreign/ovf_bundle.h"

static int put_piece(struct ovf_pieces *p, struct ferry_error *err)
{
    char name[OVF_NAME_BYTES + OVF_PIECE_DIGITS + 2];
    uint8_t sum[SHA256_BYTES];
    struct sink *member;

    snprintf(name, sizeof(name), "%s.%0*u", p->name, OVF_PIECE_DIGITS, p->count);
    int error = container_begin(p->container, name, p->used, &member, err);
    if (!error)
        error = member->write(member, p->piece, p->used, err);
    if (!error)
        error = container_end(p->container, sum, NULL, err);
    if (error)
        return error;
    p->count++;
    p->used = 0;
    return p->written(p->opaque, name, sum, err);
}

static int write_pieces(struct sink *sink, const void *data, size_t size, struct ferry_error *err)
{
    struct ovf_pieces *p = (struct ovf_pieces *)sink;
    const uint8_t *at = data;
    int error = 0;

    sink->position += size;
    while (!error && size) {
        size_t room = OVF_PIECE_BYTES - p->used;
        size_t part = size < room ? size : room;
        memcpy(p->piece + p->used, at, part);
        p->used += part;
        at += part;
        size -= part;
        if (p->used == OVF_PIECE_BYTES)
            error = put_piece(p, err);
    }
    return error;
}

int ovf_pieces_open(struct ovf_pieces *p, struct ferry_error *err)
{
    p->sink = (struct sink){.write = write_pieces, .about = p->name};
    p->used = 0;
    p->count = 0;
    p->piece = malloc(OVF_PIECE_BYTES);
    return p->piece ? 0 : ferry_fail(err, -ENOMEM, p->name, "out of memory");
}

int ovf_pieces_end(struct ovf_pieces *p, struct ferry_error *err)
{
    return p->used ? put_piece(p, err) : 0;
}

void ovf_pieces_close(struct ovf_pieces *p)
{
    free(p->piece);
    p->piece = NULL;
}
