/*
 * A whole machine for tests, with a guest of a few instructions: 32-bit, PVH, no paging, so that it
 * runs on every KVM.  Failures are test failures; without /dev/kvm the test is skipped, aloud.
 */
#ifndef FERRY_TESTS_BOX_H
#define FERRY_TESTS_BOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/machine.h"

#define BOX_MEMORY  (32 * MIB)
#define BOX_CODE    0x100000 /* where the code runs */
#define BOX_COUNTER 0x200000 /* what BOX_COUNT_CODE counts in */
#define BOX_OUTPUT  4096

/* loop: lock incl BOX_COUNTER; jmp loop */
#define BOX_COUNT_CODE "\xf0\xff\x05\x00\x00\x20\x00\xeb\xf7"
/* cli; loop: hlt; jmp loop */
#define BOX_HALT_CODE "\xfa\xf4\xeb\xfd"

struct box {
    struct machine *machine;
    struct machine_config config;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint8_t output[BOX_OUTPUT]; /* of COM1 */
    size_t output_size;
    unsigned events[3]; /* seen, by enum machine_event */
};

/* Created, not booted. */
struct box *box_create(uint32_t cpus);
/* Another machine of the same description. */
struct box *box_twin(const struct box *box);
void box_destroy(struct box *box);
/* Boot the code (size bytes, placed at BOX_CODE and entered there); paused. */
void box_boot(struct box *box, const void *code, size_t size);
void box_resume(struct box *box);
void box_pause(struct box *box);
uint32_t box_load_u32(const struct box *box, uint64_t gpa);
/* Wait until the 32 bits at gpa have changed from `from`; a failure after 20 s. */
void box_wait_change(const struct box *box, uint64_t gpa, uint32_t from);
void box_wait_event(struct box *box, enum machine_event event);

/* All sections of a paused machine, owned. */
struct box_sections {
    size_t count;
    struct machine_section section[LIMIT_VCPUS + 32];
    char *names[LIMIT_VCPUS + 32]; /* what section[].name and .data point to */
    uint8_t *data[LIMIT_VCPUS + 32];
};
void box_save(struct box *box, struct box_sections *out);
void box_free(struct box_sections *sections);
struct machine_section *box_find(struct box_sections *sections, const char *name);
/* Put other bytes in the place of a section's; takes data over. */
void box_replace(struct box_sections *sections, const char *name, uint8_t *data, size_t size);
/* Load all and commit; the result of the first call that fails. */
int box_load(struct box *box, const struct box_sections *sections, struct ferry_error *err);
/* Copy all RAM that has data. */
void box_copy_ram(struct box *to, const struct box *from);
void box_assert_equal(const struct box_sections *a, const struct box_sections *b);

#endif
