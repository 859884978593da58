/*
 * The numbers of FORMAT.md, shared by writer and reader.  Private to imagefmt/.
 *
 * An image is a run of records; a record is one zstd skippable frame:
 *
 *     u32 RECORD_MAGIC, u32 length of the rest, u32 tag, u64 offset of the record in the image,
 *     body, u64 XXH3-64 of all bytes before
 *
 * and the record of a chunk is followed by the zstd frame with the chunk's content.
 */
#ifndef FERRY_IMAGEFMT_FORMAT_H
#define FERRY_IMAGEFMT_FORMAT_H

#include <stdint.h>

#include "common/hash.h"
#include "common/limits.h"

#define RECORD_MAGIC       0x184D2A57u /* one of zstd's 16 skippable magics (RFC 8878, 3.1.2) */
#define RECORD_FRAME_BYTES 8           /* magic and length */
#define RECORD_HEAD_BYTES  20          /* up to the body */
#define RECORD_SUM_BYTES   8
#define RECORD_LEAST_BYTES (RECORD_HEAD_BYTES + RECORD_SUM_BYTES)
#define RECORD_LIMIT_BYTES (LIMIT_SECTION_BYTES + 20 * KIB) /* whole record */
#define RECORD_TAG(a, b, c, d) \
    ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

enum record_tag {
    RECORD_HEADER = RECORD_TAG('H', 'E', 'A', 'D'),
    RECORD_CRYPT = RECORD_TAG('C', 'R', 'Y', 'P'),
    RECORD_BASE = RECORD_TAG('B', 'A', 'S', 'E'),
    RECORD_MANIFEST = RECORD_TAG('M', 'A', 'N', 'I'),
    RECORD_STATE = RECORD_TAG('S', 'T', 'A', 'T'),
    RECORD_DATA = RECORD_TAG('D', 'A', 'T', 'A'),
    RECORD_CHUNK = RECORD_TAG('C', 'H', 'N', 'K'),
    RECORD_SEAL = RECORD_TAG('S', 'E', 'A', 'L'),
    RECORD_PAGE = RECORD_TAG('P', 'A', 'G', 'E'),
    RECORD_END = RECORD_TAG('D', 'E', 'N', 'D'),
    RECORD_INDEX = RECORD_TAG('I', 'N', 'D', 'X'),
    RECORD_ROOT = RECORD_TAG('R', 'O', 'O', 'T'),
    RECORD_FOOTER = RECORD_TAG('F', 'O', 'O', 'T'),
    RECORD_SIGNATURE = RECORD_TAG('S', 'I', 'G', 'N'),
};

#define HEADER_MAGIC       "ferryimg" /* 8 bytes, no terminator */
#define HEADER_MAGIC_BYTES 8
#define HEADER_CHILD       1u /* flag: BASE names the image that this one builds on */
#define HEADER_SEALED      2u /* flag: the bodies behind CRYP are ciphertext */
#define CODEC_ZSTD         1
#define CODEC_SAME         2   /* a chunk with this content was stored before */
#define CODEC_KEPT         3   /* not a chunk, but a node of the tree that is as in the base */
#define KEPT_LEVELS        40u /* a node spans fewer chunks than 2^this */

#define PAGE_CHUNKS   1024u /* entries of every page but a section's last */
#define INDEX_ENTRIES 4096u /* entries of every index record but the last */

#define INDEX_ENTRY_BYTES   UINT64_C(24)
#define PAGE_ENTRY_BYTES    UINT64_C(56)
#define CHUNK_BODY_BYTES    64
#define SIGN_BODY_BYTES     100
#define FOOTER_BODY_BYTES   68
#define HEADER_RECORD_BYTES (RECORD_HEAD_BYTES + 16 + RECORD_SUM_BYTES)
#define CRYPT_RECORD_BYTES  (RECORD_HEAD_BYTES + 64 + RECORD_SUM_BYTES)
#define FOOTER_RECORD_BYTES (RECORD_HEAD_BYTES + FOOTER_BODY_BYTES + RECORD_SUM_BYTES)
#define CHUNK_RECORD_BYTES  (RECORD_HEAD_BYTES + CHUNK_BODY_BYTES + RECORD_SUM_BYTES)

/* The most a chunk may take as stored: zstd's own bound for incompressible content. */
#define STORED_LIMIT(content) ((content) + (content) / 256 + 64)

#endif
