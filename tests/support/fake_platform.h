/*
 * What a device is built on, for tests of one device: real buses and RAM, and a KVM VM with
 * interrupt controllers behind it when /dev/kvm can be opened.  Without it, interrupt lines lead
 * nowhere and fake_platform_line cannot be asked.
 */
#ifndef FERRY_TESTS_FAKE_PLATFORM_H
#define FERRY_TESTS_FAKE_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/device.h"
#include "vmm/platform.h"

struct fake_platform {
    struct platform platform;
    bool has_kvm;
    unsigned poweroffs, resets; /* requests seen */
    uint8_t output[4096];       /* of COM1 */
    size_t output_size;
};

/* Failures are test failures.  memory_bytes: 0 for no RAM. */
struct fake_platform *fake_platform_create(uint64_t memory_bytes);
void fake_platform_destroy(struct fake_platform *fake);
/* The level of an interrupt line below 24, as the IOAPIC sees it.  Only with has_kvm. */
bool fake_platform_line(struct fake_platform *fake, unsigned gsi);
/* Skip the running test, and say so, unless there is /dev/kvm. */
void fake_platform_need_kvm(const struct fake_platform *fake);

/* Port and memory accesses as a vCPU makes them; size in bytes. */
uint64_t fake_in(struct fake_platform *fake, uint16_t port, unsigned size);
void fake_out(struct fake_platform *fake, uint16_t port, uint64_t value, unsigned size);
uint64_t fake_load(struct fake_platform *fake, uint64_t address, unsigned size);
void fake_store(struct fake_platform *fake, uint64_t address, uint64_t value, unsigned size);

/* A reproducible sequence of random numbers (xorshift64*); *seed must not be 0. */
uint64_t fake_random(uint64_t *seed);
/* Fill a state struct at random, each field within its own range. */
void fake_random_state(const struct state_table *table, void *state, uint64_t *seed);
/* Element `index` of the field `name` of a state struct, whose type is private to its device. */
uint64_t fake_state_get(const struct device *device, const void *state, const char *name,
                        uint32_t index);
void fake_state_set(const struct device *device, void *state, const char *name, uint32_t index,
                    uint64_t value);
/* The live count of a counted array. */
void fake_state_set_count(const struct device *device, void *state, const char *name,
                          uint32_t count);
/* The device's state as it is; free it. */
void *fake_state_capture(struct device *device);
/*
 * For `rounds` random states, made valid by fix (NULL: they are): save, load, commit to the
 * device, capture, save: the bytes must be the same.  The device is left quiet.
 */
void fake_check_round_trip(struct device *device,
                           void (*fix)(const struct device *device, void *state, uint64_t *seed),
                           const struct state_context *context, unsigned rounds);
/* state must be refused by the table, and the device keep the state that it had. */
void fake_check_refused(struct device *device, const void *state,
                        const struct state_context *context);

#endif
