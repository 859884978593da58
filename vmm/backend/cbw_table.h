/* The blocks that copy_before_write.c knows more of than a state: copies, and what is read in
 * parts. */
#ifndef FERRY_VMM_BACKEND_CBW_TABLE_H
#define FERRY_VMM_BACKEND_CBW_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/block.h"

#define CBW_BLOCK_BYTES BLOCK_APART_BYTES
#define CBW_NONE        UINT32_MAX

struct cbw_entry {
    uint64_t block;
    uint32_t disk;
    uint32_t next;  /* entry in the same bucket, or free one */
    uint32_t slot;  /* where its copy is; CBW_NONE: there is none */
    uint32_t taken; /* bytes of it that have been read */
    bool copying;   /* somebody is reading it to copy it */
};

struct cbw_table {
    struct cbw_entry *entries;
    uint32_t *buckets;
    uint32_t bucket_mask;
    uint32_t free_entry;  /* the first one */
    uint32_t *free_slots; /* a stack */
    uint32_t free_count;
    uint8_t *store; /* CBW_BLOCK_BYTES a slot */
};

/* Room for `slots` copies (at least one) and `others` entries without one.  -ENOMEM. */
int cbw_table_init(struct cbw_table *table, uint32_t slots, uint32_t others);
void cbw_table_free(struct cbw_table *table); /* also one that is all zero */
/* NULL: there is none. */
struct cbw_entry *cbw_table_find(const struct cbw_table *table, uint32_t disk, uint64_t block);
/* A new entry for a block that has none; NULL: there is no room. */
struct cbw_entry *cbw_table_add(struct cbw_table *table, uint32_t disk, uint64_t block);
void cbw_table_remove(struct cbw_table *table, struct cbw_entry *entry); /* with its slot */
/* Give it a slot; false: all are taken. */
bool cbw_table_take_slot(struct cbw_table *table, struct cbw_entry *entry);
uint8_t *cbw_table_data(const struct cbw_table *table, const struct cbw_entry *entry);
/* The first block of [*block, end) that is copied or is being copied: true. */
bool cbw_table_next(const struct cbw_table *table, uint32_t disk, uint64_t *block, uint64_t end);

#endif
