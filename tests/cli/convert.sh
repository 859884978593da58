#!/bin/bash
# Disks from one format to another, with qemu-img as the witness of what they hold.
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
same_as_raw() { # QCOW2: ferry and qemu-img find the content of $T/raw in it
    [ "$(digest_of "$1")" = "$want" ] || fail "$1 has another digest"
    ferry convert "$1" "$T/back.raw" --verify > /dev/null || fail "cannot convert $1"
    cmp "$T/raw" "$T/back.raw" || fail "$1 comes back with other content"
}

make_raw "$T/raw" $((12 * 1048576 + 512 * 7))
want=$(digest_of "$T/raw" --raw)

# What qemu-img writes is read.
for options in cluster_size=512 cluster_size=4K cluster_size=64K cluster_size=2M compat=0.10 \
    extended_l2=on,cluster_size=16K preallocation=metadata refcount_bits=1 lazy_refcounts=on; do
    qemu-img convert -O qcow2 -o $options "$T/raw" "$T/q.qcow2" || fail "qemu-img $options"
    same_as_raw "$T/q.qcow2"
done
for options in cluster_size=512 cluster_size=64K compression_type=zstd \
    compression_type=zstd,cluster_size=2M compat=0.10,cluster_size=2M \
    extended_l2=on,compression_type=zstd; do
    qemu-img convert -c -O qcow2 -o $options "$T/raw" "$T/c.qcow2" || fail "qemu-img -c $options"
    same_as_raw "$T/c.qcow2"
done

# Clusters in all their kinds: zero, discarded, subclusters, rewritten after compression.
qemu-img convert -c -O qcow2 -o extended_l2=on,cluster_size=64K "$T/raw" "$T/mixed.qcow2"
qemu-io -c 'write -P 7 70000 3000' -c 'write -z 200K 100K' -c 'discard 1M 256K' \
    -c 'write -P 9 5M 2K' -c 'write -z 5M 512' "$T/mixed.qcow2" > /dev/null || fail "qemu-io"
qemu-img convert -O raw "$T/mixed.qcow2" "$T/mixed.raw"
[ "$(digest_of "$T/mixed.qcow2")" = "$(digest_of "$T/mixed.raw" --raw)" ] || fail "mixed clusters differ"

# Three tebibytes of nothing cost nothing.
qemu-img create -q -f qcow2 "$T/large.qcow2" 3T
qemu-io -c 'write -P 5 2T 64K' "$T/large.qcow2" > /dev/null
ferry convert "$T/large.qcow2" "$T/large.raw" > /dev/null || fail "3 TiB"
[ "$(stat -c %s "$T/large.raw")" = $((3 << 40)) ] || fail "3 TiB have another size"
[ "$(stat -c %b "$T/large.raw")" -lt 1000 ] || fail "3 TiB are not sparse"
cmp <(head -c 65536 /dev/zero | tr '\0' '\5') <(tail -c +$(((2 << 40) + 1)) "$T/large.raw" | head -c 65536) ||
    fail "3 TiB have other content"

# Another file only if it is named here.
qemu-img create -q -f qcow2 -b "$T/q.qcow2" -F qcow2 "$T/child.qcow2"
qemu-io -c 'write -P 3 1M 100K' "$T/child.qcow2" > /dev/null
qemu-img convert -O raw "$T/child.qcow2" "$T/child.raw"
expect 3 "builds on '.*q.qcow2'; allow it with --allow-external" ferry convert "$T/child.qcow2" "$T/x.raw"
expect 0 "child.raw2: raw" ferry convert "$T/child.qcow2" "$T/child.raw2" --to raw --allow-external "$T/q.qcow2"
cmp "$T/child.raw" "$T/child.raw2" || fail "the backing file is not where it belongs"
expect 2 "builds on no other file" ferry convert "$T/q.qcow2" "$T/x.raw" --allow-external "$T/raw"
for name in 'json:{"driver":"null-co"}' http://127.0.0.1/x /etc/passwd; do
    qemu-img create -q -f qcow2 "$T/evil.qcow2" 1M
    qemu-img rebase -u -b "$name" -F raw "$T/evil.qcow2" || fail "cannot make evil.qcow2"
    expect 3 "builds on '" ferry convert "$T/evil.qcow2" "$T/x.raw"
done
qemu-img create -q -f qcow2 -o data_file="$T/data",data_file_raw=on "$T/ext.qcow2" 1M
expect 3 "in another file, '.*/data'" ferry digest "$T/ext.qcow2"
qemu-img create -q -f qcow2 --object secret,id=s,data=abc -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 \
    "$T/luks.qcow2" 1M
expect 3 "is encrypted \(LUKS\)" ferry digest "$T/luks.qcow2"

# What is written, qemu-img finds sound and equal, from a file and from a pipe, and so does ferry.
check_qcow2() { # FILE
    qemu-img check -q "$1" || fail "qemu-img check: $1"
    qemu-img compare -q -f raw -F qcow2 "$T/raw" "$1" || fail "qemu-img compare: $1"
    [ "$(digest_of "$1")" = "$want" ] || fail "$1 has another digest"
}
for codec in none zlib zstd; do
    for cluster in 512 4K 64K 2M; do
        ferry convert "$T/raw" "$T/w.qcow2" --codec $codec --cluster $cluster --verify > /dev/null ||
            fail "convert to $codec $cluster"
        check_qcow2 "$T/w.qcow2"
        ferry convert "$T/raw" - --to qcow2 --codec $codec --cluster $cluster > "$T/p.qcow2" ||
            fail "convert to a pipe, $codec $cluster"
        check_qcow2 "$T/p.qcow2"
        [ $codec = none ] || cmp "$T/w.qcow2" "$T/p.qcow2" || fail "a pipe gets other bytes"
    done
done
ferry convert "$T/raw" "$T/again.qcow2" --codec zstd --cluster 2M > /dev/null
cmp "$T/w.qcow2" "$T/again.qcow2" || fail "the same disk gives other bytes"
ferry convert "$T/raw" "$T/n.qcow2" --codec zlib > /dev/null
qcowinfo "$T/n.qcow2" | grep -q "Media size.*($(stat -c %s "$T/raw") bytes)" || fail "qcowinfo does not read it"
qemu-img convert -c -O qcow2 "$T/raw" "$T/q.zlib.qcow2"
[ "$(stat -c %s "$T/n.qcow2")" -le $(($(stat -c %s "$T/q.zlib.qcow2") * 101 / 100)) ] ||
    fail "larger than what qemu-img makes: $(stat -c %s "$T/n.qcow2" "$T/q.zlib.qcow2")"
qemu-io -c 'write -P 1 3M 1M' -c 'read -P 1 3M 1M' "$T/n.qcow2" > "$T/out" && qemu-img check -q "$T/n.qcow2" ||
    fail "what qemu writes into our qcow2 breaks it"

# An odd size is filled up to a sector, nothing at all is a disk, too, and so are three tebibytes.
make_raw "$T/odd.raw" 1000001
expect 0 "the exact size: 1000001 bytes become 1000448" ferry convert "$T/odd.raw" "$T/odd.qcow2" --codec zstd --verify
qemu-img compare -q "$T/odd.raw" "$T/odd.qcow2" || fail "an odd size"
: > "$T/empty"
expect 0 "qcow2" ferry convert "$T/empty" "$T/empty.qcow2"
qemu-img check -q "$T/empty.qcow2" || fail "an empty disk"
for to in "$T/large2.qcow2" -; do
    ferry convert "$T/large.raw" $to --to qcow2 --codec zstd --cluster 64K > "$T/pipe.qcow2" || fail "3 TiB to $to"
    [ $to = - ] && mv "$T/pipe.qcow2" "$T/large2.qcow2"
    qemu-img check -q "$T/large2.qcow2" || fail "3 TiB: check"
    qemu-img compare -q "$T/large.qcow2" "$T/large2.qcow2" || fail "3 TiB: compare"
    [ "$(stat -c %s "$T/large2.qcow2")" -lt 1000000 ] || fail "3 TiB of nothing are stored"
done
expect 2 "too large for clusters of 512 bytes" ferry convert "$T/large.raw" "$T/y.qcow2" --cluster 512
expect 2 "power of two" ferry convert "$T/raw" "$T/y.qcow2" --cluster 3000
expect 2 "'lzma' is not none, zlib or zstd" ferry convert "$T/raw" "$T/y.qcow2" --codec lzma
expect 2 "13 is not a level of zlib" ferry convert "$T/raw" "$T/y.qcow2" --codec zlib --level 13
expect 2 "needs --codec" ferry convert "$T/raw" "$T/y.qcow2" --level 3
[ ! -e "$T/y.qcow2" ] || fail "wrong usage leaves a file"

# Snapshots are told of.
qemu-img snapshot -c before "$T/mixed.qcow2"
qemu-img snapshot -c "$(printf 'e\033[2Jvil')" "$T/mixed.qcow2"
expect 0 "internal snapshots: 2" ferry convert "$T/mixed.qcow2" x.raw --check-only
expect 0 "^  1 +'before', 2[0-9-]+ .* UTC, nothing of memory" ferry inspect "$T/mixed.qcow2"
expect 0 "^  2 +'e\?\[2Jvil'" ferry inspect "$T/mixed.qcow2"
ferry inspect "$T/mixed.qcow2" --json > "$T/about" || fail "inspect --json"
[ "$(json "$T/about" details.internal_snapshots | grep -o "'name': 'before'")" ] || fail "inspect: $(cat "$T/about")"
[ "$(json "$T/about" details.cluster_bytes)" = 65536 ] || fail "inspect: $(cat "$T/about")"
ferry convert "$T/mixed.qcow2" x.raw --check-only --json > "$T/losses"
grep -q '"losses":\["internal snapshots: 2"\]' "$T/losses" || fail "losses: $(cat "$T/losses")"
expect 0 "not kept in raw: internal snapshots: 2" ferry convert "$T/mixed.qcow2" "$T/x.raw"
cmp "$T/mixed.raw" "$T/x.raw" || fail "a snapshot changes what is read"

# Raw to a pipe, and a raw disk whose guest wrote marks to it.
ferry convert "$T/c.qcow2" - --to raw | cmp - "$T/raw" || fail "raw to a pipe differs"
ferry digest "$T/q.qcow2" --raw > /dev/null || fail "--raw"
expect 0 "raw, disk of" ferry convert "$T/q.qcow2" "$T/wrapped.raw" --from raw
cmp "$T/q.qcow2" "$T/wrapped.raw" || fail "--from raw looks inside"
for mark in 'QFI\xfb\0\0\0\1' 'KDMV' 'conectix' 'LUKS\xba\xbe'; do
    { printf "$mark"; head -c 5000 /dev/zero; } > "$T/marked"
    expect 3 "say --from raw" ferry convert "$T/marked" "$T/y.raw"
    [ ! -e "$T/y.raw" ] || fail "a refused disk leaves a file"
    expect 0 "raw" ferry convert "$T/marked" "$T/y.raw" --from raw
    rm "$T/y.raw"
done

# Damage is found, and nothing is left.
cp "$T/c.qcow2" "$T/bad.qcow2"
truncate -s -70000 "$T/bad.qcow2"
echo old > "$T/keep.raw"
expect 3 "bad.qcow2" ferry convert "$T/bad.qcow2" "$T/keep.raw"
[ "$(cat "$T/keep.raw")" = old ] || fail "a failed conversion touched its DEST"

# A disk of an image.
head -c 300000 "$T/raw" > "$T/small.raw"
ferry pack "$T/two.ferry" --kernel "$T/small.raw" --disk "$T/raw" --disk "$T/large.raw",readonly > /dev/null || fail "pack"
expect 0 "qcow2" ferry convert "$T/two.ferry" "$T/i.qcow2" --disk vda --codec zstd --verify
check_qcow2 "$T/i.qcow2"
cmp "$T/i.qcow2" <(ferry convert "$T/raw" - --to qcow2 --codec zstd) || fail "a disk of an image gives other bytes"
expect 0 "raw" ferry convert "$T/two.ferry" "$T/vdb.raw" --disk vdb
[ "$(stat -c %b "$T/vdb.raw")" -lt 1000 ] || fail "3 TiB of an image are not sparse"
expect 2 "has 2 disks; say which" ferry convert "$T/two.ferry" "$T/y.raw"
expect 2 "has no disk 'vdc'" ferry convert "$T/two.ferry" "$T/y.raw" --disk vdc
expect 2 "names a disk of an image" ferry convert "$T/q.qcow2" "$T/y.raw" --disk vda
truncate -s -100 "$T/two.ferry"
expect 3 "two.ferry" ferry convert "$T/two.ferry" "$T/y.raw" --disk vda
[ ! -e "$T/y.raw" ] || fail "a refused image leaves a file"

# Usage.
expect 2 "does not tell" ferry convert "$T/raw" "$T/y.xyz"
expect 2 "'vmdq' is not a format of disks: raw, qcow2" ferry convert "$T/raw" "$T/y" --to vmdq
expect 2 "needs a file" ferry convert "$T/raw" - --to raw --verify
expect 2 "not a plain file" ferry convert "$T/raw" /dev/null --to raw
expect 0 "^qcow2 .*yes" ferry formats
ferry formats --json | grep -q '"name":"raw","extension":".raw","reads":true,"streams_in":true,"writes":true' || fail "formats --json"
