/* What this host decides for a new machine: identities that nobody else has, and the CPU. */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "common/cleanup.h"
#include "vmm/cpu_model.h"
#include "vmm/kvm.h"
#include "vmm/machine.h"

static int random_id(uint8_t id[16], struct ferry_error *err)
{
    if (getrandom(id, 16, 0) != 16)
        return ferry_fail_sys(err, -errno, "machine", "cannot make an identity");
    return 0;
}

int machine_config_complete(struct machine_config *config, struct ferry_error *err)
{
    int kvm CLEANUP_FD = -1;

    if (!config->epoch)
        config->epoch = 1;
    if (!config->cpu_model[0])
        strcpy(config->cpu_model, "host");
    int rc = random_id(config->vm_id, err);
    if (!rc)
        rc = random_id(config->generation, err);
    if (!rc)
        rc = kvm_open(&kvm, err);
    if (!rc)
        rc = cpu_model_fill(kvm, config, err);
    if (!rc)
        rc = machine_config_check(config, err);
    return rc;
}
