/*
 * Fuzz target: bytes as a kernel, loaded into 16 MiB of RAM.  Whatever is accepted must enter
 * inside RAM, and must not have touched the area of the ACPI tables.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/limits.h"
#include "vmm/boot.h"
#include "vmm/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(struct memory *memory, const struct boot_entry *entry)
{
    uint64_t acpi = 1;

    if (memory_read(memory, (struct gpa){LAYOUT_ACPI}, &acpi, sizeof(acpi)) < 0 || acpi != 0)
        abort();
    if (!memory_contains(memory, (struct gpa){entry->rip}, 1) || entry->rip < LAYOUT_KERNEL)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP_FD int fd = memfd_create("kernel", MFD_CLOEXEC);
    struct boot_entry entry = {0};
    struct memory *memory = NULL;
    char path[32];

    if (fd < 0 || write_all(fd, data, size) < 0 || memory_create(16 * MIB, &memory, NULL) < 0)
        return 0;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    const struct boot_source source = {.kernel = path, .initrd = path, .append = "console=ttyS0"};
    if (boot_load(memory, &source, (struct gpa){LAYOUT_ACPI}, &entry, NULL) == 0)
        check(memory, &entry);
    memory_destroy(memory);
    return 0;
}
