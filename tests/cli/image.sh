#!/bin/bash
# Commands on images without a machine: digest.
. "$(dirname "$0")/../lib.sh"

corpus=$(dirname "$0")/../fuzz/corpus/image
cp "$corpus/disk" "$T/disk.ferry"

# The disk of that image, by hand: block i is 4 KiB of one letter.
for i in $(seq 0 40); do
    head -c 4096 /dev/zero | tr '\0' "$(printf '%b' "\\$(printf %o $((65 + i % 30)))")"
done | head -c 164352 > "$T/disk.raw"

ferry digest "$T/disk.raw" --json > "$T/raw.json" || fail "digest of a raw file"
digest=$(json "$T/raw.json" digest)
expect 0 "^$digest  $T/disk.raw\$" ferry digest "$T/disk.raw"
expect 0 "^$digest  $T/disk.ferry: disk vda\$" ferry digest "$T/disk.ferry"
ferry digest - --json < "$T/disk.ferry" | grep -q "$digest" || fail "digest of an image from a pipe"
ferry verify "$T/disk.ferry" --json > "$T/verify.json" || fail "verify"
expect 0 "^$(json "$T/verify.json" root)  $T/disk.ferry: root\$" ferry digest "$T/disk.ferry"

# What looks like an image is taken for one, unless told otherwise.
head -c 5000 "$T/disk.ferry" > "$T/cut.ferry"
expect 3 "ends early" ferry digest "$T/cut.ferry"
expect 0 "$T/cut.ferry" ferry digest "$T/cut.ferry" --raw
cat "$T/disk.raw" | "$FERRY" digest - > /dev/null 2>&1
[ $? = 3 ] || fail "a raw disk from a pipe was taken"
expect 1 "No such file" ferry digest "$T/none"
