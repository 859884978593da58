/* A hash table with chains by index, in arrays of a fixed size: nothing is allocated later. */
#include "vmm/backend/cbw_table.h"

#include <errno.h>
#include <stdlib.h>

#include "common/limits.h"

int cbw_table_init(struct cbw_table *table, uint32_t slots, uint32_t others)
{
    uint32_t entries = slots + others, buckets = 1;

    while (buckets < entries)
        buckets *= 2;
    *table = (struct cbw_table){.bucket_mask = buckets - 1, .free_count = slots};
    table->entries = calloc(entries, sizeof(*table->entries));
    table->buckets = calloc(buckets, sizeof(*table->buckets));
    table->free_slots = calloc(slots, sizeof(*table->free_slots));
    table->store = malloc(slots * CBW_BLOCK_BYTES); /* only what is used of it costs memory */
    if (!table->entries || !table->buckets || !table->free_slots || !table->store) {
        cbw_table_free(table);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < entries; i++)
        table->entries[i].next = i + 1 < entries ? i + 1 : CBW_NONE;
    for (uint32_t i = 0; i < buckets; i++)
        table->buckets[i] = CBW_NONE;
    for (uint32_t i = 0; i < slots; i++)
        table->free_slots[i] = slots - 1 - i; /* the first ones again and again */
    return 0;
}

void cbw_table_free(struct cbw_table *table)
{
    free(table->entries);
    free(table->buckets);
    free(table->free_slots);
    free(table->store);
    *table = (struct cbw_table){0};
}

static uint32_t *bucket_of(const struct cbw_table *table, uint32_t disk, uint64_t block)
{
    uint64_t hash = (block * LIMIT_DISKS + disk) * UINT64_C(0x9e3779b97f4a7c15);

    return &table->buckets[(hash >> 32) & table->bucket_mask];
}

struct cbw_entry *cbw_table_find(const struct cbw_table *table, uint32_t disk, uint64_t block)
{
    uint32_t i = *bucket_of(table, disk, block);

    while (i != CBW_NONE && (table->entries[i].block != block || table->entries[i].disk != disk))
        i = table->entries[i].next;
    return i == CBW_NONE ? NULL : &table->entries[i];
}

struct cbw_entry *cbw_table_add(struct cbw_table *table, uint32_t disk, uint64_t block)
{
    uint32_t *bucket = bucket_of(table, disk, block), i = table->free_entry;

    if (i == CBW_NONE)
        return NULL;
    struct cbw_entry *entry = &table->entries[i];
    table->free_entry = entry->next;
    *entry = (struct cbw_entry){.block = block, .disk = disk, .next = *bucket, .slot = CBW_NONE};
    *bucket = i;
    return entry;
}

void cbw_table_remove(struct cbw_table *table, struct cbw_entry *entry)
{
    uint32_t i = (uint32_t)(entry - table->entries);
    uint32_t *link = bucket_of(table, entry->disk, entry->block);

    while (*link != i)
        link = &table->entries[*link].next;
    *link = entry->next;
    if (entry->slot != CBW_NONE)
        table->free_slots[table->free_count++] = entry->slot;
    entry->slot = CBW_NONE;
    entry->copying = false;
    entry->next = table->free_entry;
    table->free_entry = i;
}

bool cbw_table_take_slot(struct cbw_table *table, struct cbw_entry *entry)
{
    if (!table->free_count)
        return false;
    entry->slot = table->free_slots[--table->free_count];
    return true;
}

uint8_t *cbw_table_data(const struct cbw_table *table, const struct cbw_entry *entry)
{
    return table->store + entry->slot * CBW_BLOCK_BYTES;
}

static bool is_copied(const struct cbw_entry *entry)
{
    return entry->copying || entry->slot != CBW_NONE;
}

/* Of many blocks: look at what there is. */
static bool next_by_entries(const struct cbw_table *table, uint32_t disk, uint64_t *block,
                            uint64_t end)
{
    uint64_t first = end;

    for (uint32_t b = 0; b <= table->bucket_mask; b++)
        for (uint32_t i = table->buckets[b]; i != CBW_NONE; i = table->entries[i].next) {
            const struct cbw_entry *entry = &table->entries[i];
            if (entry->disk == disk && entry->block >= *block && entry->block < first &&
                is_copied(entry))
                first = entry->block;
        }
    *block = first;
    return first != end;
}

bool cbw_table_next(const struct cbw_table *table, uint32_t disk, uint64_t *block, uint64_t end)
{
    if (*block < end && end - *block > table->bucket_mask)
        return next_by_entries(table, disk, block, end);
    for (; *block < end; ++*block) {
        const struct cbw_entry *entry = cbw_table_find(table, disk, *block);
        if (entry && is_copied(entry))
            return true;
    }
    return false;
}
