/* A virtual disk as what image_pack reads. */
#ifndef FERRY_SNAPSHOT_BLOCK_SOURCE_H
#define FERRY_SNAPSHOT_BLOCK_SOURCE_H

#include "imagefmt/pack.h"
#include "vmm/block.h"

/* block must be active, and nobody may write to it meanwhile. */
struct pack_source pack_source_block(struct block *block, const char *about);

#endif
