/*
 * From kernel and initrd files to a first vCPU that may enter:
 *
 *   1. the format reads the headers into numbers (boot_pvh.c, boot_bzimage.c);
 *   2. all of it is checked: inside low RAM, inside the file, not over each other, not below 1 MiB,
 *      where ferry's own tables lie; the initrd gets the highest place that the kernel allows;
 *   3. only then bytes move, in pieces, from the page cache into the memfd; zero pieces stay holes;
 *   4. the format writes its start information.
 *
 * RAM that the kernel expects to be zero (.bss) is made so even if a guest ran there before.
 */
#include "vmm/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/units.h"
#include "common/zero.h"
#include "vmm/boot_internal.h"
#include "vmm/layout.h"

#define PIECE_BYTES (256 * KIB) /* stays in the L2 cache between read and write */
#define SIZE_TEXT   32

static void boot_file_close(struct boot_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
}

static int boot_file_open(struct boot_file *file, const char *path, const char *what,
                          uint64_t limit, struct ferry_error *err)
{
    struct stat st;
    int ret;

    file->path = path;
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file->fd < 0) {
        ret = -errno;
        return ferry_fail_sys(err, ret, path, "cannot open the %s", what);
    }
    if (fstat(file->fd, &st) < 0) {
        ret = -errno;
        return ferry_fail_sys(err, ret, path, "cannot look at the %s", what);
    }
    if (!S_ISREG(st.st_mode))
        return ferry_fail(err, -EINVAL, path, "the %s is not a regular file", what);
    if (st.st_size == 0)
        return ferry_refuse(err, -EBADMSG, path, "the %s is empty", what);
    if ((uint64_t)st.st_size > limit) {
        char text[SIZE_TEXT];

        return ferry_refuse(err, -EFBIG, path, "the %s is larger than %s", what,
                            format_size(limit, text, sizeof(text)));
    }
    file->size = (uint64_t)st.st_size;
    return 0;
}

static int cut_short(const struct boot_file *file, struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, file->path, "damaged: the file is cut short");
}

int boot_file_read(const struct boot_file *file, uint64_t offset, void *data, size_t size,
                   struct ferry_error *err)
{
    int ret;

    if (offset > file->size || size > file->size - offset)
        return cut_short(file, err);
    ret = pread_all(file->fd, data, size, offset);
    if (ret == -ENODATA)
        return cut_short(file, err);
    if (ret < 0)
        return ferry_fail_sys(err, ret, file->path, "cannot read");
    return 0;
}

static int parse_kernel(const struct boot_file *file, const struct memory *memory,
                        struct boot_kernel *kernel, struct ferry_error *err)
{
    uint8_t head[BOOT_HEAD_BYTES] = {0};
    size_t size = file->size < sizeof(head) ? (size_t)file->size : sizeof(head);
    int ret = boot_file_read(file, 0, head, size, err);

    if (ret < 0)
        return ret;
    ret = boot_pvh_parse(file, head, kernel, err);
    if (ret == 0)
        ret = boot_bzimage_parse(file, head, memory, kernel, err);
    if (ret == 0)
        return ferry_refuse(err, -ENOEXEC, file->path,
                            "is no kernel that ferry can boot: neither a PVH ELF (vmlinux) nor a "
                            "bzImage (vmlinuz)");
    return ret < 0 ? ret : 0;
}

static uint64_t segment_end(const struct boot_segment *s)
{
    return s->gpa + s->memory_bytes;
}

static int check_segment(const struct boot_file *file, const struct boot_segment *s,
                         uint64_t ram_end, struct ferry_error *err)
{
    char text[SIZE_TEXT];

    if (s->file_offset > file->size || s->file_bytes > file->size - s->file_offset)
        return cut_short(file, err);
    if (s->gpa < LAYOUT_KERNEL)
        return ferry_refuse(err, -EBADMSG, file->path,
                            "the kernel wants to be loaded at 0x%llx; below 1 MiB is not for it",
                            (unsigned long long)s->gpa);
    if (s->gpa > ram_end || s->memory_bytes > ram_end - s->gpa)
        return ferry_fail(err, -ENOSPC, file->path,
                          "the kernel does not fit into RAM, of which %s can be used; give the "
                          "machine more with --memory",
                          format_size(ram_end, text, sizeof(text)));
    return 0;
}

/* *kernel_end: the first byte behind all segments. */
static int check_segments(const struct boot_file *file, const struct boot_kernel *kernel,
                          uint64_t ram_end, uint64_t *kernel_end, struct ferry_error *err)
{
    const struct boot_segment *s = kernel->segments;

    *kernel_end = 0;
    for (uint32_t i = 0; i < kernel->segment_count; i++) {
        int ret = check_segment(file, &s[i], ram_end, err);

        if (ret < 0)
            return ret;
        for (uint32_t k = 0; k < i; k++)
            if (s[i].gpa < segment_end(&s[k]) && s[k].gpa < segment_end(&s[i]))
                return ferry_refuse(err, -EBADMSG, file->path,
                                    "damaged ELF file: segments lie over each other");
        if (segment_end(&s[i]) > *kernel_end)
            *kernel_end = segment_end(&s[i]);
    }
    return 0;
}

static int place_initrd(const struct boot_file *initrd, const struct boot_kernel *kernel,
                        uint64_t kernel_end, uint64_t ram_end, struct boot_layout *layout,
                        struct ferry_error *err)
{
    uint64_t end = kernel->initrd_end < ram_end ? kernel->initrd_end : ram_end;
    char need[SIZE_TEXT], have[SIZE_TEXT];
    uint64_t room = end > kernel_end ? end - kernel_end : 0;
    uint64_t gpa;

    if (initrd->size <= room) {
        gpa = (end - initrd->size) & ~(uint64_t)(MEMORY_PAGE_BYTES - 1);
        if (gpa >= kernel_end) {
            layout->initrd_gpa = gpa;
            layout->initrd_bytes = initrd->size;
            return 0;
        }
    }
    return ferry_fail(err, -ENOSPC, initrd->path,
                      "the initrd of %s does not fit beside the kernel, where %s are left; give "
                      "the machine more with --memory",
                      format_size(initrd->size, need, sizeof(need)),
                      format_size(room, have, sizeof(have)));
}

/* Copy [offset, +bytes) of the file to low RAM, which has been made zero before. */
static int load_bytes(struct memory *memory, const struct boot_file *file, uint64_t offset,
                      uint64_t gpa, uint64_t bytes, struct ferry_error *err)
{
    const struct memory_region *low = &memory_regions(memory)[0];
    CLEANUP_FREE uint8_t *piece = malloc(PIECE_BYTES);

    if (!piece)
        return ferry_fail(err, -ENOMEM, file->path, "out of memory");
    for (uint64_t done = 0; done < bytes;) {
        size_t size = bytes - done < PIECE_BYTES ? (size_t)(bytes - done) : PIECE_BYTES;
        int ret = boot_file_read(file, offset + done, piece, size, err);

        if (ret < 0)
            return ret;
        if (!is_zero(piece, size)) {
            ret = memory_load(memory, low->ram_offset + (gpa - low->gpa) + done, piece, size);
            if (ret < 0)
                return ferry_fail_sys(err, ret, file->path, "cannot load into guest RAM");
        }
        done += size;
    }
    return 0;
}

static int load_segment(struct memory *memory, const struct boot_file *file,
                        const struct boot_segment *s, struct ferry_error *err)
{
    const struct memory_region *low = &memory_regions(memory)[0];
    int ret = memory_discard(memory, low->ram_offset + (s->gpa - low->gpa), s->memory_bytes);

    if (ret < 0)
        return ferry_fail_sys(err, ret, file->path, "cannot clear guest RAM");
    return load_bytes(memory, file, s->file_offset, s->gpa, s->file_bytes, err);
}

static void add_map(struct boot_layout *layout, uint64_t start, uint64_t end,
                    enum boot_memory_type type)
{
    layout->map[layout->map_count++] = (struct boot_map_entry){start, end - start, type};
}

/* What is RAM and what is not: E820 in all but name. */
static void describe_memory(const struct memory *memory, struct boot_layout *layout)
{
    const struct memory_region *regions = memory_regions(memory);
    const struct memory_region *low = &regions[0], *high = &regions[1];

    add_map(layout, 0, LAYOUT_EBDA, BOOT_MEMORY_RAM);
    add_map(layout, LAYOUT_ACPI, LAYOUT_ACPI_END, BOOT_MEMORY_RESERVED);
    add_map(layout, LAYOUT_KERNEL, low->gpa + low->size, BOOT_MEMORY_RAM);
    add_map(layout, LAYOUT_ECAM, (uint64_t)LAYOUT_ECAM + LAYOUT_ECAM_SIZE, BOOT_MEMORY_RESERVED);
    if (high->size > 0)
        add_map(layout, high->gpa, high->gpa + high->size, BOOT_MEMORY_RAM);
}

static int write_cmdline(struct memory *memory, const struct boot_kernel *kernel,
                         const char *append, struct ferry_error *err)
{
    size_t size = append ? strlen(append) : 0;
    int ret;

    if (size > kernel->cmdline_limit)
        return ferry_fail(err, -E2BIG, "--append",
                          "the kernel command line has %zu bytes; this kernel takes %u", size,
                          kernel->cmdline_limit);
    ret = memory_write(memory, (struct gpa){LAYOUT_CMDLINE}, append ? append : "", size + 1);
    if (ret < 0)
        return ferry_fail_sys(err, ret, "--append", "cannot write the command line");
    return 0;
}

/* Flat segments as both boot protocols name them: __BOOT_CS 0x10, __BOOT_DS 0x18. */
static int write_gdt(struct memory *memory, const struct boot_entry *entry, struct ferry_error *err)
{
    CLEANUP(writer_free) struct writer w = writer_init(64);
    int ret;

    writer_u64(&w, 0);
    writer_u64(&w, 0);
    writer_u64(&w, entry->long_mode ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
    writer_u64(&w, 0x00cf93000000ffff);
    ret = w.error ? w.error : memory_write(memory, (struct gpa){LAYOUT_GDT}, w.data, w.size);
    if (ret < 0)
        return ferry_fail_sys(err, ret, "kernel", "cannot write the descriptor table");
    return 0;
}

static int load_all(struct memory *memory, const struct boot_file *kernel_file,
                    const struct boot_kernel *kernel, const struct boot_file *initrd,
                    const struct boot_layout *layout, struct ferry_error *err)
{
    int ret = 0;

    for (uint32_t i = 0; i < kernel->segment_count && ret == 0; i++)
        ret = load_segment(memory, kernel_file, &kernel->segments[i], err);
    if (ret == 0 && layout->initrd_bytes > 0) {
        struct boot_segment s = {.gpa = layout->initrd_gpa,
                                 .file_bytes = layout->initrd_bytes,
                                 .memory_bytes = layout->initrd_bytes};
        ret = load_segment(memory, initrd, &s, err);
    }
    return ret;
}

int boot_load(struct memory *memory, const struct boot_source *source, struct gpa rsdp,
              struct boot_entry *out, struct ferry_error *err)
{
    CLEANUP(boot_file_close) struct boot_file kernel_file = {.fd = -1}, initrd = {.fd = -1};
    CLEANUP_FREE struct boot_kernel *kernel = calloc(1, sizeof(*kernel));
    const struct memory_region *low = &memory_regions(memory)[0];
    uint64_t ram_end = low->gpa + low->size, kernel_end;
    struct boot_layout layout = {.rsdp = rsdp.value};
    int ret;

    if (!kernel)
        return ferry_fail(err, -ENOMEM, "kernel", "out of memory");
    ret = boot_file_open(&kernel_file, source->kernel, "kernel", LIMIT_KERNEL_BYTES, err);
    if (ret == 0 && source->initrd)
        ret = boot_file_open(&initrd, source->initrd, "initrd", LIMIT_INITRD_BYTES, err);
    if (ret == 0)
        ret = parse_kernel(&kernel_file, memory, kernel, err);
    if (ret == 0)
        ret = check_segments(&kernel_file, kernel, ram_end, &kernel_end, err);
    if (ret == 0 && source->initrd)
        ret = place_initrd(&initrd, kernel, kernel_end, ram_end, &layout, err);
    if (ret == 0)
        ret = write_cmdline(memory, kernel, source->append, err);
    if (ret == 0)
        ret = load_all(memory, &kernel_file, kernel, &initrd, &layout, err);
    if (ret < 0)
        return ret;

    describe_memory(memory, &layout);
    ret = kernel->format == BOOT_PVH ? boot_pvh_finish(memory, kernel, &layout, out, err)
                                     : boot_bzimage_finish(memory, kernel, &layout, out, err);
    if (ret == 0)
        ret = write_gdt(memory, out, err);
    return ret;
}
