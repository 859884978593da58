#!/bin/bash
# Disks in order: through pipes and in compressed files, with gzip, xz, zstd, bzip2 and qemu-img as
# the witnesses, both ways; and what must not be taken.
. "$(dirname "$0")/../lib.sh"
for tool in gzip xz zstd bzip2 qemu-img python3; do
    command -v $tool > /dev/null || skip "no $tool"
done

SIZE=$((9 * 1048576 + 512 * 3))
python3 - "$T/raw" $SIZE << 'END'
import random, sys
path, size = sys.argv[1], int(sys.argv[2])
random.seed(7)
with open(path, "wb") as f:
    f.truncate(size)
    for at in range(0, size, 1 << 20):
        f.seek(at + random.randrange(0, 300000))
        f.write(random.randbytes(random.randrange(1000, 50000)) if (at >> 20) % 3 else
                b"text of a guest, line %d\n" % at * 9000)
    f.truncate(size)
    f.seek(size - 700)
    f.write(b"the end" * 100)
END
cd "$T" || exit 1
want=$("$FERRY" digest raw --raw | cut -c1-64)
same() { # WHAT COMMAND...: it prints the digest of raw
    local what=$1
    shift
    "$@" > out 2> err || fail "$what: $(cat err)"
    [ "$(cut -c1-64 out)" = "$want" ] || fail "$what has other content"
}
# refuse FILE STATUS TEXT [OPTION...]: through a pipe; neither a digest nor a file comes of it.
refuse() {
    local file=$1 status=$2 text=$3 got
    shift 3
    rm -f none.qcow2
    cat "$file" | "$FERRY" convert - none.qcow2 "$@" > out 2> err
    got=${PIPESTATUS[1]}
    [ "$got" = "$status" ] || fail "status $got, not $status: $file $* ($(cat err))"
    grep -qE -- "$text" err || fail "does not say '$text': $file $* ($(cat err))"
    [ ! -e none.qcow2 ] || fail "$file $*: a refused disk leaves a file"
}

# What the tools write is read, from files and pipes, also in several members.
for tool in "gzip -1" "gzip -9" "xz -1" "xz -9" "xz -T2 --block-size=1MiB" "xz --check=sha256" \
    "zstd -q -1" "zstd -q -19" "zstd -q --long=27" "zstd -q -T2" "bzip2 -1" "bzip2 -9"; do
    $tool -c raw > packed || fail "$tool"
    same "$tool" ferry digest packed
    same "$tool in a pipe" ferry digest - --size $SIZE < <(cat packed)
    { head -c 3000001 raw | $tool -c; tail -c +3000002 raw | $tool -c; } > members
    same "$tool in members" ferry digest members
    same "$tool in members in a pipe" ferry digest - --size $SIZE < <(cat members)
    ferry convert packed back.qcow2 > /dev/null || fail "convert of $tool"
    qemu-img compare -q -f raw -F qcow2 raw back.qcow2 || fail "qemu-img: $tool has other content"
done
same "a file as stdin" ferry digest - < packed

# What is written is read by the tools.
for kind in gz:gzip xz:xz zst:zstd bz2:bzip2; do
    tool=${kind#*:} name=own.raw.${kind%:*}
    expect 0 "$name: raw, disk of .* verified" ferry convert back.qcow2 "$name" --verify
    $tool -t -q "$name" || fail "$tool does not take $name"
    $tool -dc "$name" | cmp - raw || fail "$tool: other content"
    ferry convert raw - --to raw --wrap "$tool" --level 1 | $tool -dc | cmp - raw || fail "--wrap $tool"
    ferry convert raw again."${kind%:*}" --to raw > /dev/null
    cmp "$name" again."${kind%:*}" || fail "$tool: other bytes of the same content"
    same "own $tool" ferry digest "$name"
done
ferry convert raw plain.gz --to raw --wrap none > /dev/null || fail "--wrap none"
cmp raw plain.gz || fail "--wrap none wraps"
ferry convert raw json.raw.zst --json > json || fail "json"
[ "$(json json wrap)" = zstd ] || fail "json: $(cat json)"
truncate -s 1T hole
timeout 60 "$FERRY" convert hole hole.raw.zst > /dev/null || fail "a hole of a tebibyte takes long"
[ "$(stat -c %s hole.raw.zst)" -lt 60000000 ] || fail "a hole takes much room"
expect 2 "is none of gzip" ferry convert raw x.raw --wrap lz4
expect 2 "not a level of bzip2" ferry convert raw x.raw.bz2 --level 10
expect 2 "compressed with gzip already" ferry convert raw x.vmdk.gz --codec zlib

# VMDK and VHD, bare and wrapped.
qemu-img convert -O vmdk -o subformat=streamOptimized raw qemu.vmdk || fail "qemu-img vmdk"
ferry convert raw own.vmdk > /dev/null || fail "own vmdk"
for vmdk in qemu.vmdk own.vmdk; do
    same "$vmdk" ferry digest $vmdk
    same "$vmdk in a pipe" ferry digest - < <(cat $vmdk)
    gzip -k $vmdk
    same "$vmdk.gz" ferry digest $vmdk.gz
    same "$vmdk.gz in a pipe" ferry digest - < <(cat $vmdk.gz)
done
ferry convert raw - --to vmdk | "$FERRY" convert - back.raw --verify > /dev/null || fail "a pipe of ferry's"
cmp raw back.raw || fail "a pipe of ferry's has other content"
qemu-img convert -O vpc -o subformat=fixed,force_size raw fixed.vhd || fail "qemu-img vhd"
disk=$(($(stat -c %s fixed.vhd) - 512))
xz -k fixed.vhd
want_raw=$want want=$("$FERRY" digest fixed.vhd | cut -c1-64)
ferry digest fixed.vhd.xz --json > json || fail "a fixed VHD in xz"
[ "$(json json format):$(json json digest)" = "vhd:$want" ] || fail "a fixed VHD in xz: $(cat json)"
ferry convert - vhd.raw --from vhd --size $disk < <(cat fixed.vhd) > /dev/null || fail "a VHD in a pipe"
same "a VHD from a pipe" ferry digest vhd.raw --raw
ferry convert fixed.vhd.xz vhd2.raw --from vhd > /dev/null || fail "--from vhd of a wrap"
cmp vhd.raw vhd2.raw || fail "--from vhd of a wrap has other content"
refuse fixed.vhd 3 "no footer" --from vhd --size $((disk - 512))
want=$want_raw

# What is stated must be right, and what is not known must be stated.
refuse raw 2 "give the disk's size with --size"
refuse own.raw.gz 2 "give the disk's size with --size"
for file in raw own.raw.gz own.raw.xz own.raw.zst own.raw.bz2; do
    refuse $file 3 "goes on behind its end" --size $((SIZE - 512))
    refuse $file 3 "is cut short" --size $((SIZE + 512))
done
refuse own.vmdk 3 "and --size says 1048576" --size 1M
expect 3 "and --size says 1048576" ferry convert back.qcow2 none.qcow2 --size 1M
ferry convert own.raw.gz wrapped.raw --from raw > /dev/null || fail "--from raw"
cmp own.raw.gz wrapped.raw || fail "--from raw looks inside"
gzip -c own.raw.xz > twice.gz
expect 3 "looks like a xz file" ferry convert twice.gz none.qcow2

# What needs a file says so; what is no disk, too.
ferry convert raw dynamic.vhd > /dev/null && ferry convert raw d.vhdx > /dev/null && ferry convert raw d.vdi > /dev/null
ferry convert back.qcow2 d.qcow2 > /dev/null
for file in dynamic.vhd d.vhdx d.vdi d.qcow2; do
    refuse $file 3 "needs a file"
    gzip -c $file > $file.gz
    expect 3 "needs a file" ferry convert $file.gz none.qcow2
done
refuse back.qcow2 2 "builds on no other file" --allow-external raw
expect 2 "is compressed; a file is needed" ferry convert back.qcow2 none.raw --allow-external own.raw.gz
expect 2 "must know beforehand" ferry convert own.raw.gz - --to vhd < /dev/null
tar cf tar.tar raw
expect 3 "tar archive, of which 'ferry import'" ferry convert tar.tar none.qcow2
refuse tar.tar 3 "tar archive" --size 10M
gzip -k tar.tar
expect 3 "tar archive" ferry convert tar.tar.gz none.qcow2

# Cut short anywhere, from a file and from a pipe, or with something behind.
for file in own.raw.gz own.raw.xz own.raw.zst own.raw.bz2 own.vmdk; do
    size=$(stat -c %s $file)
    for cut in 1 2 9 13 $((size / 3)) $((size / 2)) $((size - 600)) $((size - 20000)); do
        head -c $((size - cut)) $file > cut
        refuse cut 3 "cut short|early" --size $SIZE
        expect 3 "cut short" ferry convert cut none.qcow2
    done
    { cat $file; echo garbage; } > more
    refuse more 3 "behind (the|its) end|cannot be inflated|end early" --size $SIZE
    expect 3 "behind (the|its) end|cannot be inflated|end early|footer" ferry convert more none.qcow2
done
size=$(stat -c %s qemu.vmdk)
for cut in 70000 $((size / 2)); do
    head -c $((size - cut)) qemu.vmdk > cut
    refuse cut 3 "cut short"
done

# Bombs: little is read, and little is held.
head -c 1G /dev/zero | gzip -1 > bomb.gz
refuse bomb.gz 3 "goes on behind its end" --size 1M
python3 - "$FERRY" << 'END' || fail "a bomb takes much memory"
import resource, subprocess, sys
with open("bomb.gz") as bomb:
    subprocess.run([sys.argv[1], "digest", "-", "--size", "1G"], stdin=bomb,
                   stdout=subprocess.DEVNULL, check=True)
sys.exit(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 600000)
END
python3 - << 'END'
import struct, zlib
crc = lambda b: b + struct.pack("<I", zlib.crc32(b))
block = crc(bytes([2, 0, 0x21, 1, 36]) + bytes(3))  # a dictionary of 1 GiB
open("window.xz", "wb").write(b"\xfd7zXZ\0" + crc(b"\0\4")[0:2] + struct.pack("<I", zlib.crc32(b"\0\4")) +
                              block + bytes(100))
END
refuse window.xz 3 "window of more than 128 MiB" --size 1M
zstd -q -1 --long=28 -c < raw > window.zst
refuse window.zst 3 "window of more than 128 MiB" --size $SIZE

# A disk of an image, whose sums come last.
cp raw vda.raw
head -c 2M raw > vdb.raw
head -c 100K /dev/urandom > kernel
ferry pack two.ferry --kernel kernel --memory 32M --disk vda.raw --disk vdb.raw > /dev/null || fail "pack"
ferry convert - vda.qcow2 --disk vda < <(cat two.ferry) > /dev/null || fail "a disk of an image"
qemu-img compare -q -f raw -F qcow2 raw vda.qcow2 || fail "a disk of an image has other content"
ferry convert - vdb.out --to raw --disk vdb < two.ferry > /dev/null || fail "an image as stdin"
cmp vdb.raw vdb.out || fail "the other disk of an image has other content"
refuse two.ferry 2 "several disks; say which one with --disk"
refuse two.ferry 2 "has no disk 'vdc'" --disk vdc
refuse raw 2 "names a disk of an image" --disk vda --size $SIZE
size=$(stat -c %s two.ferry)
for cut in 1 100 5000 $((size / 2)) $((size - 3000)); do
    head -c $((size - cut)) two.ferry > cut
    refuse cut 3 "ends early" --disk vda
done
{ cat two.ferry; echo x; } > more
refuse more 3 "" --disk vda
ferry digest two.ferry > one && ferry digest - < <(cat two.ferry) | sed 's/standard input/two.ferry/' | cmp - one ||
    fail "digest of an image in a pipe"

# As it leaves a machine.
[ -w /dev/kvm ] && [ -f "$PAYLOAD" ] || exit 0
ferry run --name web --kernel "$PAYLOAD" --memory 32M --append "fill=1 ws=1 period=20 ticks=4000" \
    --disk vda.raw --detach > /dev/null || fail "run"
ferry snapshot web - | "$FERRY" convert - snap.qcow2 --disk vda > /dev/null || fail "snapshot to convert"
ferry kill web > /dev/null
qemu-img compare -q -f raw -F qcow2 raw snap.qcow2 || fail "a snapshot's disk has other content"
