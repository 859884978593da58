/* The disks of a machine as of one instant, to be read while its guest goes on. */
#ifndef FERRY_SNAPSHOT_LIVE_DISKS_H
#define FERRY_SNAPSHOT_LIVE_DISKS_H

#include "common/progress.h"
#include "snapshot/snapshot.h"
#include "vmm/copy_before_write.h"

struct live_disks;

/*
 * The instant: a running guest is paused until its disks stand still, and goes on; one that stands
 * still is left so.  *pause_ns: how long that was, 0 for one that stood still before.  Between this
 * and live_disks_end the disks may not be released and the machine not be destroyed; it may be
 * paused, resumed and reset, also while live_disks_end is at work on another thread.
 */
int live_disks_begin(struct machine *machine, const struct cbw_options *options,
                     struct live_disks **out, uint64_t *pause_ns, struct ferry_error *err);
/* Disk `index` as it was: see cbw_view.  Belongs to live. */
struct block *live_disks_view(struct live_disks *live, uint32_t index);
/* Why it has been given up (a negative errno, see cbw_failure); 0: it has not. */
int live_disks_failure(struct live_disks *live, struct ferry_error *err);
struct cbw_numbers live_disks_numbers(struct live_disks *live);
/* Nobody reads any more: the guest uses its disks as before.  It does not stop for that.  NULL is
 * fine. */
void live_disks_end(struct live_disks *live);
void live_disks_cleanup(struct live_disks **live); /* CLEANUP(live_disks_cleanup) */

/*
 * Write the machine down as one that is switched off (snapshot/pack.h), with its disks as of one
 * instant, to path or fd as snapshot_save does.  options: what
 * it boots, level, workers, secret, disk_chunk_bytes, base, store_bytes.  result: pause_ns is the
 * pause of the guest, who then goes on while the image is written.  Errors: -ECANCELED when
 * progress says so, -ETIMEDOUT when the guest would have had to wait too long.
 */
int snapshot_save_disks(struct machine *machine, const char *path,
                        const struct snapshot_options *options, struct progress *progress,
                        struct snapshot_result *result, struct ferry_error *err);
int snapshot_save_disks_fd(struct machine *machine, int fd, const struct snapshot_options *options,
                           struct progress *progress, struct snapshot_result *result,
                           struct ferry_error *err);

#endif
