#!/bin/bash
# VMDK, VHD, VHDX and VDI, with qemu-img and libyal's tools as witnesses of what is in them.
. "$(dirname "$0")/../lib.sh"
command -v qemu-img > /dev/null || skip "no qemu-img"

# make_raw FILE BYTES: text, noise, zeroes that are written, and holes, to an odd end.
make_raw() {
    python3 - "$1" "$2" << 'END'
import random, sys
path, size = sys.argv[1], int(sys.argv[2])
random.seed(size)
with open(path, "wb") as f:
    f.truncate(size)
    for at in range(0, size, 1 << 20):
        f.seek(at + random.randrange(0, 300000))
        kind = (at >> 20) % 4
        length = min(random.randrange(1000, 400000), size - f.tell())
        if length <= 0 or kind == 3:
            continue
        f.write(b"text of a guest, line %d\n" % at * (length // 30) if kind == 0 else
                random.randbytes(length) if kind == 1 else bytes(length))
    f.seek(size - 700)
    f.write(b"the end" * 100)
END
}
digest_of() {
    ferry digest "$@" --json > "$T/digest" || fail "no digest of $*"
    json "$T/digest" digest
}
reads() { # FILE RAW: ferry finds RAW's content in FILE
    [ "$(digest_of "$1")" = "$(digest_of "$2" --raw)" ] || fail "$1 has another digest than $2"
}
# writes FORMAT QEMU_NAME RAW FILE: to a file and to a pipe, both as qemu-img and ferry like them.
writes() {
    local file
    rm -f "$4" "$4.pipe"
    ferry convert "$3" "$4" --to "$1" --verify > /dev/null || fail "convert $3 to $1"
    ferry convert "$3" - --to "$1" > "$4.pipe" || fail "convert $3 to $1 on a pipe"
    for file in "$4" "$4.pipe"; do
        qemu-img compare -q -f raw -F "$2" "$3" "$file" || fail "qemu-img compare: $file"
        reads "$file" "$3"
    done
}
make_raw "$T/raw" $((41 * 1048576 + 512 * 7))
truncate -s 3T "$T/large.raw"
truncate -s 2000G "$T/large2000.raw"
for f in large large2000; do
    printf 'somewhere' | dd of="$T/$f.raw" bs=512 seek=$((3 << 30)) conv=notrunc status=none
done

# ---- VMDK ----
for options in subformat=streamOptimized subformat=monolithicSparse \
    subformat=monolithicSparse,zeroed_grain=on adapter_type=lsilogic; do
    qemu-img convert -O vmdk -o $options "$T/raw" "$T/q.vmdk" || fail "qemu-img $options"
    reads "$T/q.vmdk" "$T/raw"
done
qemu-img convert -O vmdk -o subformat=monolithicFlat "$T/raw" "$T/flat.vmdk"
expect 3 "in 'flat-flat.vmdk', which is opened only if" ferry digest "$T/flat.vmdk"
qemu-img convert -O vmdk -o subformat=twoGbMaxExtentSparse "$T/raw" "$T/two.vmdk"
expect 3 "kind SPARSE in 'two-s001.vmdk'" ferry digest "$T/two.vmdk"
expect 3 "one extent of a disk in several" ferry digest "$T/two-s001.vmdk"
mkdir "$T/vmdk"
writes vmdk vmdk "$T/raw" "$T/vmdk/disk.vmdk"
qemu-img check -q "$T/vmdk/disk.vmdk" || fail "qemu-img check: VMDK"
qemu-img convert -O vmdk -o subformat=streamOptimized "$T/raw" "$T/q.vmdk"
[ "$(stat -c %s "$T/vmdk/disk.vmdk")" -le "$(stat -c %s "$T/q.vmdk")" ] || fail "larger than qemu-img's VMDK"
if command -v vmdkinfo > /dev/null; then
    vmdkinfo "$T/vmdk/disk.vmdk" > "$T/info" || fail "vmdkinfo: $(cat "$T/info")"
    grep -qi "Stream optimized" "$T/info" || fail "vmdkinfo: $(cat "$T/info")"
    grep -q "$(stat -c %s "$T/raw") bytes" "$T/info" || fail "vmdkinfo: $(cat "$T/info")"
fi
expect 3 "512 bytes to 2 TiB" ferry convert "$T/large.raw" "$T/y.vmdk"
ferry convert "$T/large2000.raw" "$T/l.vmdk" --verify > /dev/null || fail "2000 GiB of VMDK"
[ "$(stat -c %s "$T/l.vmdk")" -lt 700000 ] || fail "2000 GiB of nothing are stored"
qemu-io -r -c 'read -P 0 1T 1M' -c 'read -v 0x18000000000 9' "$T/l.vmdk" | grep -q somewhere || fail "2000 GiB of VMDK: qemu-io"
