/* CPU models: what they show, what they hide, and what a foreign description is told. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/cpu_features.h"
#include "vmm/cpu_model.h"
#include "vmm/cpu_topology.h"
#include "vmm/kvm.h"

static int kvm = -1;

static void need_kvm(void)
{
    struct ferry_error err;
    if (kvm < 0 && kvm_open(&kvm, &err)) {
        print_message("%s: skipped\n", err.message);
        skip();
    }
}

static struct machine_config *host_config(uint32_t cpus)
{
    struct machine_config *config = calloc(1, sizeof(*config));
    struct ferry_error err;
    assert_non_null(config);
    snprintf(config->cpu_model, sizeof(config->cpu_model), "host");
    config->cpus = cpus;
    if (cpu_model_fill(kvm, config, &err))
        fail_msg("%s", err.message);
    return config;
}

static struct kvm_cpuid_entry2 *leaf(struct machine_config *config, uint32_t function)
{
    return cpuid_find(config->cpuid, config->cpuid_count, function, 0);
}

static void feature_table_is_consistent(void **state)
{
    (void)state;
    for (size_t i = 0; i < cpu_feature_word_count; i++) {
        const struct cpu_feature_word *w = &cpu_feature_words[i];
        assert_int_equal(w->levels[0] & ~w->levels[1], 0);
        assert_int_equal(w->levels[1] & ~w->levels[2], 0);
        assert_int_equal(w->levels[2] & ~w->movable, 0);
        for (unsigned bit = 0; bit < 32; bit++)
            if (w->levels[2] & 1u << bit)
                assert_non_null(w->names[bit]);
        for (size_t k = 0; k < i; k++)
            assert_false(w->function == cpu_feature_words[k].function &&
                         w->index == cpu_feature_words[k].index &&
                         w->reg == cpu_feature_words[k].reg);
    }
}

static void host_model_hides_what_cannot_move(void **state)
{
    (void)state;
    need_kvm();
    struct machine_config *c = host_config(2);
    const struct kvm_cpuid_entry2 *one = leaf(c, 1);
    assert_non_null(one);
    assert_int_equal(one->ecx & (1u << 5 | 1u << 3 | 1u << 15 | 1u << 27),
                     0);              /* vmx monitor pdcm */
    assert_true(one->ecx & 1u << 31); /* hypervisor */
    assert_null(leaf(c, 0xa));
    assert_null(leaf(c, 0x14));
    assert_null(leaf(c, 0x15));
    if (leaf(c, 0x80000007))
        assert_int_equal(leaf(c, 0x80000007)->edx, 0);
    if (leaf(c, 0x80000001))
        assert_int_equal(leaf(c, 0x80000001)->ecx & 1u << 2, 0); /* svm */
    const struct kvm_cpuid_entry2 *kvm_leaf = leaf(c, 0x40000000);
    assert_non_null(kvm_leaf);
    assert_memory_equal(&kvm_leaf->ebx, "KVMK", 4);
    assert_int_equal(kvm_leaf->eax, 0x40000001);
    struct ferry_error err;
    assert_int_equal(cpu_model_check(kvm, c, &err), 0);
    free(c);
}

static void every_vcpu_has_its_own_id(void **state)
{
    (void)state;
    need_kvm();
    struct machine_config *c = host_config(5);
    for (unsigned i = 0; i < 5; i++) {
        cpu_topology_patch(c->cpuid, c->cpuid_count, i, 5);
        assert_int_equal(leaf(c, 1)->ebx >> 24, i);
        assert_int_equal(leaf(c, 1)->ebx >> 16 & 0xff, 8);
        assert_true(leaf(c, 1)->edx & 1u << 28);
        const struct kvm_cpuid_entry2 *thread = cpuid_find(c->cpuid, c->cpuid_count, 0xb, 0);
        const struct kvm_cpuid_entry2 *core = cpuid_find(c->cpuid, c->cpuid_count, 0xb, 1);
        assert_int_equal(thread->edx, i);
        assert_int_equal(core->edx, i);
        assert_int_equal(thread->eax, 0);
        assert_int_equal(core->eax, 3);
        assert_int_equal(core->ebx, 5);
        assert_int_equal(thread->ecx, 0x100);
        assert_int_equal(core->ecx, 0x201);
    }
    cpu_topology_patch(c->cpuid, c->cpuid_count, 0, 1);
    assert_int_equal(leaf(c, 1)->edx & 1u << 28, 0);
    free(c);
}

static void same_host_same_cpuid(void **state)
{
    (void)state;
    need_kvm();
    struct machine_config *a = host_config(2), *b = host_config(2);
    assert_int_equal(a->cpuid_count, b->cpuid_count);
    assert_memory_equal(a->cpuid, b->cpuid, sizeof(a->cpuid));
    free(a);
    free(b);
}

static void missing_features_are_named(void **state)
{
    (void)state;
    need_kvm();
    struct ferry_error err;
    struct machine_config *c = host_config(1);
    leaf(c, 1)->ecx |= 1u << 5 | 1u << 18; /* vmx: never; dca: not under KVM */
    assert_int_equal(cpu_model_check(kvm, c, &err), -ENOTSUP);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_non_null(strstr(err.message, "vmx, dca"));
    free(c);
    c = host_config(1);
    struct kvm_cpuid_entry2 *extra = &c->cpuid[c->cpuid_count++];
    *extra = (struct kvm_cpuid_entry2){.function = 0x14, .ebx = 1};
    assert_int_equal(cpu_model_check(kvm, c, &err), -ENOTSUP);
    assert_non_null(strstr(err.message, "0x14"));
    memset(extra, 0, sizeof(*extra)); /* a leaf of zeroes says nothing */
    extra->function = 0x14;
    assert_int_equal(cpu_model_check(kvm, c, &err), 0);
    leaf(c, 0x80000008)->eax |= 0xff;
    assert_int_equal(cpu_model_check(kvm, c, &err), -ENOTSUP);
    assert_non_null(strstr(err.message, "physical"));
    free(c);
}

static void levels_are_exact_or_refused_by_name(void **state)
{
    (void)state;
    need_kvm();
    static const char *const names[] = {"x86-64-v2", "x86-64-v3", "x86-64-v4"};
    for (unsigned level = 0; level < 3; level++) {
        struct ferry_error err;
        struct machine_config *c = calloc(1, sizeof(*c));
        assert_non_null(c);
        snprintf(c->cpu_model, sizeof(c->cpu_model), "%s", names[level]);
        c->cpus = 1;
        int rc = cpu_model_fill(kvm, c, &err);
        if (rc) { /* honest about this host */
            assert_int_equal(err.kind, FERRY_REFUSED);
            assert_non_null(strstr(err.message, "lacks"));
        } else {
            assert_int_equal(cpu_model_check(kvm, c, &err), 0);
            for (size_t i = 0; i < cpu_feature_word_count; i++) {
                const struct cpu_feature_word *w = &cpu_feature_words[i];
                struct kvm_cpuid_entry2 *e =
                    cpuid_find(c->cpuid, c->cpuid_count, w->function, w->index);
                if (e)
                    assert_int_equal(*cpuid_register(e, w->reg) & ~w->dynamic,
                                     w->levels[level] & ~w->dynamic);
            }
        }
        free(c);
    }
}

static void unknown_models_are_refused(void **state)
{
    (void)state;
    need_kvm();
    static const char *const names[] = {"", "Host", "x86-64-v1", "x86-64-v5", "pentium"};
    struct machine_config *c = calloc(1, sizeof(*c));
    struct ferry_error err;
    assert_non_null(c);
    c->cpus = 1;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(c->cpu_model, sizeof(c->cpu_model), "%s", names[i]);
        assert_int_equal(cpu_model_fill(kvm, c, &err), -EINVAL);
        assert_int_equal(err.kind, FERRY_USAGE);
    }
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(feature_table_is_consistent),
        cmocka_unit_test(host_model_hides_what_cannot_move),
        cmocka_unit_test(every_vcpu_has_its_own_id),
        cmocka_unit_test(same_host_same_cpuid),
        cmocka_unit_test(missing_features_are_named),
        cmocka_unit_test(levels_are_exact_or_refused_by_name),
        cmocka_unit_test(unknown_models_are_refused),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (kvm >= 0)
        close(kvm);
    return failed;
}
