/*
 * Shared by boot.c and the two kernel formats, and by nobody else.
 *
 * A format reads a file's headers into a struct boot_kernel: plain numbers, which boot.c checks
 * against RAM and against each other.  Then boot.c loads the segments, and the format writes its
 * kind of start information for what has been placed where.
 */
#ifndef FERRY_VMM_BOOT_INTERNAL_H
#define FERRY_VMM_BOOT_INTERNAL_H

#include <stdint.h>

#include "common/error.h"
#include "common/limits.h"
#include "vmm/boot.h"
#include "vmm/memory.h"

#define BOOT_HEAD_BYTES   4096 /* of the kernel file: all fixed headers lie in it */
#define BOOT_MAP_ENTRIES  8
#define BOOT_SETUP_OFFSET 0x1f1 /* of the setup header in a bzImage, and in boot_params */
#define BOOT_SETUP_BYTES  0x80  /* most of it that is taken over */

struct boot_file {
    int fd; /* -1: not open */
    uint64_t size;
    const char *path;
};

struct boot_segment {
    uint64_t gpa;
    uint64_t file_offset;
    uint64_t file_bytes;
    uint64_t memory_bytes; /* at least file_bytes; the rest is zero */
};

enum boot_format { BOOT_PVH, BOOT_BZIMAGE };

struct boot_kernel {
    enum boot_format format;
    struct boot_segment segments[LIMIT_ELF_SEGMENTS];
    uint32_t segment_count;
    uint64_t entry;         /* guest-physical */
    uint64_t initrd_end;    /* the initrd has to end at or below */
    uint32_t cmdline_limit; /* bytes, without the terminator */
    /* bzImage only */
    bool long_mode;
    uint8_t setup[BOOT_SETUP_BYTES]; /* the setup header */
    uint32_t setup_bytes;
};

enum boot_memory_type { BOOT_MEMORY_RAM = 1, BOOT_MEMORY_RESERVED = 2 };

struct boot_map_entry {
    uint64_t gpa;
    uint64_t size;
    enum boot_memory_type type;
};

/* What has been placed where: the input of the start information. */
struct boot_layout {
    uint64_t initrd_gpa;
    uint64_t initrd_bytes; /* 0: none */
    uint64_t rsdp;
    struct boot_map_entry map[BOOT_MAP_ENTRIES];
    uint32_t map_count;
};

/* size bytes at offset of the file; -EBADMSG ("cut short") if it has not that many. */
int boot_file_read(const struct boot_file *file, uint64_t offset, void *data, size_t size,
                   struct ferry_error *err);

/*
 * head: the first BOOT_HEAD_BYTES of file, zero behind its end.  Return 1 and fill *kernel, 0 if
 * the file is of another format, or an error.
 */
int boot_pvh_parse(const struct boot_file *file, const uint8_t *head, struct boot_kernel *kernel,
                   struct ferry_error *err);
int boot_bzimage_parse(const struct boot_file *file, const uint8_t *head,
                       const struct memory *memory, struct boot_kernel *kernel,
                       struct ferry_error *err);

/* Write hvm_start_info, or boot_params (and page tables), and fill *out. */
int boot_pvh_finish(struct memory *memory, const struct boot_kernel *kernel,
                    const struct boot_layout *layout, struct boot_entry *out,
                    struct ferry_error *err);
int boot_bzimage_finish(struct memory *memory, const struct boot_kernel *kernel,
                        const struct boot_layout *layout, struct boot_entry *out,
                        struct ferry_error *err);

#endif
