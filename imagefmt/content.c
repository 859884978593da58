/*
 * The tree of content.  Nodes come from left to right; like the carries of a binary counter, a node
 * that completes a pair is hashed with its left neighbour at once, so that one node a level is all
 * that is ever kept.  A gap is filled with the largest aligned nodes of zeroes, which need no hash.
 */
#include "imagefmt/content.h"

#include <endian.h>
#include <string.h>

#include "common/zero.h"

unsigned content_level(uint64_t bytes)
{
    return (unsigned)(__builtin_ctzll(bytes) - __builtin_ctzll(CONTENT_LEAF_BYTES));
}

bool content_is_zero(const uint8_t node[SHA256_BYTES])
{
    return is_zero(node, SHA256_BYTES);
}

/* node = the parent of left and node. */
static void join(const uint8_t left[SHA256_BYTES], uint8_t node[SHA256_BYTES])
{
    uint8_t pair[2 * SHA256_BYTES];

    if (content_is_zero(left) && content_is_zero(node))
        return;
    memcpy(pair, left, SHA256_BYTES);
    memcpy(pair + SHA256_BYTES, node, SHA256_BYTES);
    sha256(pair, sizeof(pair), node);
}

/* The next node; tree->leaves is a multiple of its leaves. */
static void push(struct content_tree *tree, unsigned level, const uint8_t *next)
{
    uint8_t node[SHA256_BYTES];
    uint64_t at = tree->leaves >> level;

    memcpy(node, next, SHA256_BYTES);
    tree->leaves += UINT64_C(1) << level;
    for (; at & 1; at >>= 1)
        join(tree->left[level++], node);
    memcpy(tree->left[level], node, SHA256_BYTES);
}

/* Zeroes up to this leaf. */
static void skip_to(struct content_tree *tree, uint64_t leaf)
{
    static const uint8_t zero[SHA256_BYTES];

    while (tree->leaves < leaf) {
        unsigned level = 63 - (unsigned)__builtin_clzll(leaf - tree->leaves);
        unsigned aligned = tree->leaves ? (unsigned)__builtin_ctzll(tree->leaves) : level;
        push(tree, aligned < level ? aligned : level, zero);
    }
}

void content_add(struct content_tree *tree, uint64_t index, unsigned level,
                 const uint8_t node[SHA256_BYTES])
{
    skip_to(tree, index << level);
    push(tree, level, node);
}

void content_node(const void *data, size_t size, unsigned level, uint8_t node[SHA256_BYTES])
{
    struct content_tree tree = {0};
    uint8_t last[CONTENT_LEAF_BYTES], leaf[SHA256_BYTES];
    const uint8_t *bytes = data;

    for (size_t at = 0; at < size; at += CONTENT_LEAF_BYTES) {
        size_t part = size - at < CONTENT_LEAF_BYTES ? size - at : CONTENT_LEAF_BYTES;
        const uint8_t *whole = bytes + at;
        if (is_zero(whole, part))
            continue;
        if (part < CONTENT_LEAF_BYTES) {
            memcpy(last, whole, part);
            memset(last + part, 0, CONTENT_LEAF_BYTES - part);
            whole = last;
        }
        sha256(whole, CONTENT_LEAF_BYTES, leaf);
        content_add(&tree, at / CONTENT_LEAF_BYTES, 0, leaf);
    }
    content_top(&tree, level, node);
}

void content_top(const struct content_tree *tree, unsigned level, uint8_t node[SHA256_BYTES])
{
    struct content_tree whole = *tree;

    skip_to(&whole, UINT64_C(1) << level);
    memcpy(node, whole.left[level], SHA256_BYTES);
}

void content_digest(const struct content_tree *tree, uint64_t size, uint8_t digest[SHA256_BYTES])
{
    uint64_t leaves = size / CONTENT_LEAF_BYTES + !!(size % CONTENT_LEAF_BYTES);
    unsigned level = leaves > 1 ? 64 - (unsigned)__builtin_clzll(leaves - 1) : 0;
    level = level < CONTENT_TOP_LEAST ? CONTENT_TOP_LEAST : level;
    uint64_t wire = htole64(size);
    uint8_t text[sizeof(wire) + SHA256_BYTES];

    memcpy(text, &wire, sizeof(wire));
    content_top(tree, level, text + sizeof(wire));
    sha256(text, sizeof(text), digest);
}
