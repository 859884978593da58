#!/bin/bash
# matrix.sh BUILD [all]: disks of several sizes from every format that is written into every other
# one, equal by digest, with qemu-img and libyal's tools as witnesses of each.  `make test` takes one
# disk of odd size from every kind into every format, and the others in a ring through the kinds;
# `all` (`make soak`) takes all pairs of kinds for all disks, every cluster size, and large blocks.
. "$(dirname "$0")/../lib.sh"
all=${2:-}
command -v qemu-img > /dev/null || skip "no qemu-img"

# What is written: NAME FORMAT QEMU_NAME OPTION...  The usual kind of a format has its name.
kinds=(
    "raw raw raw"
    "qcow2 qcow2 qcow2"
    "qcow2-512 qcow2 qcow2 --cluster 512"
    "qcow2-zlib-8K qcow2 qcow2 --codec zlib --cluster 8K"
    "qcow2-zstd-2M qcow2 qcow2 --codec zstd --cluster 2M"
    "vmdk vmdk vmdk"
    "vmdk-sparse vmdk vmdk --subformat monolithicSparse"
    "vhd vhd vpc"
    "vhd-fixed vhd vpc --subformat fixed"
    "vhdx vhdx vhdx"
    "vhdx-1M vhdx vhdx --cluster 1M"
    "vhdx-fixed vhdx vhdx --subformat fixed"
    "vdi vdi vdi"
    "vdi-static vdi vdi --subformat static"
)
name_of() {
    echo "${1%% *}"
}

# make_disk FILE BYTES STEP: every STEP bytes, in turn, a few sectors of noise, text to the next
# step, written zeroes, a hole; and something in the last bytes.
make_disk() {
    python3 - "$@" << 'END'
import random, sys
path, size, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(size)
with open(path, "wb") as f:
    f.truncate(size)
    for i, at in enumerate(range(0, size, step)):
        length = min(step, size - at)
        f.seek(at)
        if i % 4 == 0:
            f.write(random.randbytes(min(length, random.randrange(1, 40) * 512)))
        elif i % 4 == 1:
            f.write((b"line %d of a guest\n" % i * length)[:length])
        elif i % 4 == 2:
            f.write(bytes(length))
    f.seek(max(size - 100, 0))
    f.write(b"end."[:size])
END
}
digest_of() { # FILE [OPTION...]
    local line
    line=$(ferry digest "$@") || fail "no digest of $*"
    echo "${line%% *}"
}
# write_kind SRC KIND FILE [OPTION...]
write_kind() {
    local name format qemu options
    read -r name format qemu options <<< "$2"
    # shellcheck disable=SC2086
    ferry convert "$1" "$3" --to "$format" $options "${@:4}" > "$T/out" 2> "$T/err" ||
        fail "$1 to $name: $(cat "$T/err")"
}
# witness KIND FILE RAW BYTES: other tools find RAW's content in FILE, nothing wrong, and this size.
witness() {
    local name format qemu options says tool
    read -r name format qemu options <<< "$1"
    qemu-img info -f "$qemu" --output=json "$2" > "$T/info" || fail "qemu-img info: $name of $3"
    grep -q "\"virtual-size\": $4," "$T/info" || fail "qemu-img sees another size in $name of $3"
    qemu-img compare -q -f raw -F "$qemu" "$3" "$2" || fail "qemu-img compare: $name of $3"
    case $name in
    vmdk* | qcow2* | vhdx* | vdi*) qemu-img check -q -f "$qemu" "$2" || fail "qemu-img check: $name of $3" ;;
    esac
    case $format in
    qcow2) [[ $name = *zstd* ]] && return 0 || tool=qcowinfo ;; # which knows no zstd
    vmdk) tool=vmdkinfo ;;
    vhd | vhdx) tool=vhdiinfo ;;
    *) return 0 ;;
    esac
    says=$($tool "$2" 2>&1) || fail "$tool: $name of $3: $says"
    grep -qE "size.*[( ]$4 bytes" <<< "$says" || fail "$tool sees another size in $name of $3: $says"
}

# one_disk RAW PAIRS: into each kind, with witnesses; from each into the next one (ring), those of
# each format (formats), or all.
one_disk() {
    local raw=$1 pairs=$2 bytes want from to i j count=${#kinds[@]}
    bytes=$((($(stat -c %s "$raw") + 511) / 512 * 512))
    cp --sparse=always "$raw" "$raw.whole"
    truncate -s $bytes "$raw.whole"
    want=$(digest_of "$raw.whole" --raw)
    for ((i = 0; i < count; i++)); do
        from=$T/from.$i
        write_kind "$raw" "${kinds[i]}" "$from" --from raw
        [ "$i" = 0 ] && truncate -s $bytes "$from" # the others fill the last sector themselves
        witness "${kinds[i]}" "$from" "$raw.whole" $bytes
        [ "$(digest_of "$from")" = "$want" ] || fail "$(name_of "${kinds[i]}") of $raw has another digest"
        for ((j = 0; j < count; j++)); do
            case $pairs in
            ring) [ $j = $(((i + 1) % count)) ] || continue ;;
            formats) [[ ${kinds[j]} != *-* ]] || continue ;;
            esac
            to=$T/to
            write_kind "$from" "${kinds[j]}" "$to"
            [ "$(digest_of "$to")" = "$want" ] ||
                fail "$(name_of "${kinds[i]}") to $(name_of "${kinds[j]}") of $raw: another digest"
            tried=$((tried + 1))
        done
        rm "$from"
    done
}

# What qemu-img writes of RAW is read, in each kind that it has.
from_qemu() {
    local raw=$1 want format options
    want=$(digest_of "$raw" --raw)
    while read -r format options; do
        qemu-img convert -f raw -O "$format" ${options:+-o "$options"} "$raw" "$T/q" || fail "qemu-img $format $options"
        [ "$(digest_of "$T/q")" = "$want" ] || fail "qemu-img's $format $options of $raw has another digest"
        tried=$((tried + 1))
    done << 'END'
raw
qcow2 compat=0.10
qcow2 extended_l2=on,cluster_size=16K
vmdk subformat=monolithicSparse
vmdk subformat=streamOptimized
vpc force_size=on
vpc subformat=fixed,force_size=on
vhdx block_size=1M
vhdx subformat=fixed
vdi
vdi static=on
END
}

tried=0
make_disk "$T/odd" $((5 * 1048576 + 1234567)) 70000
one_disk "$T/odd" "${all:-formats}"
for spec in "tiny 1 512" "sector 512 512" "4k $((3 * 1048576 + 4096)) 4096" "blocks $((4 * 1048576)) 1048576"; do
    read -r name bytes step <<< "$spec"
    make_disk "$T/$name" "$bytes" "$step"
    one_disk "$T/$name" "${all:-ring}"
    [ $((bytes % 512)) != 0 ] || from_qemu "$T/$name"
done

# Large ones: a hole with something in the middle and at the end, to what each format can hold.
large() { # BYTES KIND...
    local bytes=$1 want from to
    shift
    rm -f "$T/large"
    truncate -s "$bytes" "$T/large"
    printf 'middle' | dd of="$T/large" bs=4096 seek=$((bytes / 8192 + 3)) conv=notrunc status=none
    printf 'end' | dd of="$T/large" bs=1 seek=$((bytes - 3)) conv=notrunc status=none
    want=$(digest_of "$T/large")
    for from in "$@"; do
        write_kind "$T/large" "$from" "$T/large.from"
        for to in "$@"; do
            write_kind "$T/large.from" "$to" "$T/large.to"
            [ "$(digest_of "$T/large.to")" = "$want" ] || fail "$bytes bytes: $from to $to: another digest"
            [ $(($(stat -c %b "$T/large.to") * 512)) -lt $((64 << 20)) ] || fail "$bytes bytes: $to stores a hole"
            tried=$((tried + 1))
        done
    done
}
large $((3 << 40)) "raw raw raw" "qcow2 qcow2 qcow2" "vhdx vhdx vhdx" "vdi vdi vdi"
large $((2 << 40)) "qcow2 qcow2 qcow2 --codec zstd --cluster 2M" "vmdk-stream vmdk vmdk" "vmdk-sparse vmdk vmdk --subformat monolithicSparse"
large $((2040 << 30)) "vhd vhd vpc" "vhd-fixed vhd vpc --subformat fixed" "vmdk-stream vmdk vmdk"
for limit in "vhd $(((2040 << 30) + 512)) to 2040 GiB.*take vhdx" "vmdk $(((2 << 40) + 512)) to 2 TiB.*take qcow2 or vhdx"; do
    read -r format bytes says <<< "$limit"
    truncate -s "$bytes" "$T/over"
    expect 3 "$says" ferry convert "$T/over" "$T/over.$format"
    [ ! -e "$T/over.$format" ] || fail "what is too large for $format is written"
done
truncate -s $(((64 << 40) + 512)) "$T/over" 2> /dev/null &&
    expect 3 "larger than a disk may be" ferry convert "$T/over" "$T/over.vhdx"

# Sectors of 4 KiB, and so another number of blocks between the entries of bitmaps: block 20000 of a
# VHDX of 40 GiB has its entry elsewhere.
truncate -s $((40 << 30)) "$T/4kn.raw"
printf 'behind the first chunk' | dd of="$T/4kn.raw" bs=1M seek=20000 conv=notrunc status=none
printf 'behind the second' | dd of="$T/4kn.raw" bs=1M seek=40000 conv=notrunc status=none
ferry convert "$T/4kn.raw" "$T/4kn.vhdx" --cluster 1M > /dev/null || fail "40 GiB of VHDX"
python3 - "$T/4kn.vhdx" << 'END'
import struct, sys
with open(sys.argv[1], "r+b") as f:
    f.seek((2 << 20) + 65536 + 32)
    f.write(struct.pack("<I", 4096))
    f.seek(3 << 20)
    old = struct.unpack("<%dQ" % (40960 + 9), f.read(8 * (40960 + 9)))
    new = [0] * len(old)
    for block in range(40960):
        new[block + block // 32768] = old[block + block // 4096]
    f.seek(3 << 20)
    f.write(struct.pack("<%dQ" % len(new), *new))
END
[ "$(digest_of "$T/4kn.vhdx")" = "$(digest_of "$T/4kn.raw")" ] || fail "a VHDX with sectors of 4 KiB has another digest"
vhdiinfo "$T/4kn.vhdx" | grep -qE "size.*\($((40 << 30)) bytes" || fail "vhdiinfo: $(vhdiinfo "$T/4kn.vhdx")" # qemu reads no such

if [ "$all" ]; then
    for name in odd 4k; do
        want=$(digest_of "$T/$name.whole" --raw)
        for cluster in 512 1K 2K 4K 8K 16K 32K 64K 128K 256K 512K 1M 2M; do
            for codec in none zlib zstd; do
                kind="qcow2-$codec-$cluster qcow2 qcow2 --codec $codec --cluster $cluster"
                write_kind "$T/$name" "$kind" "$T/to" --from raw
                witness "$kind" "$T/to" "$T/$name.whole" "$(stat -c %s "$T/$name.whole")"
                [ "$(digest_of "$T/to")" = "$want" ] || fail "$kind of $name has another digest"
            done
        done
        for block in 4M 32M 256M; do
            write_kind "$T/$name" "vhdx-$block vhdx vhdx --cluster $block" "$T/to" --from raw
            witness "vhdx vhdx vhdx" "$T/to" "$T/$name.whole" "$(stat -c %s "$T/$name.whole")"
            [ "$(digest_of "$T/to")" = "$want" ] || fail "blocks of $block have another digest"
        done
    done
fi

# What 100 GiB of nothing cost: told, not judged.
truncate -s 100G "$T/hole"
for kind in "${kinds[@]}"; do
    case $kind in *fixed* | *static* | *512*) continue ;; esac
    start=${EPOCHREALTIME/./}
    write_kind "$T/hole" "$kind" "$T/to"
    echo "100 GiB hole to $(name_of "$kind"): $(((${EPOCHREALTIME/./} - start) / 1000)) ms"
done
echo "$tried conversions"
