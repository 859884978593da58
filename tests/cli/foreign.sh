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

# ---- VHDX and VDI ----
for format in vhdx vdi; do
    kinds="subformat=dynamic subformat=dynamic,block_size=1M subformat=fixed"
    [ $format = vdi ] && kinds="static=off static=on"
    for options in $kinds; do
        qemu-img convert -O $format -o $options "$T/raw" "$T/q.$format" || fail "qemu-img $format $options"
        reads "$T/q.$format" "$T/raw"
    done
    writes $format $format "$T/raw" "$T/w.$format"
    for file in "$T/w.$format" "$T/w.$format.pipe"; do
        qemu-img check -q "$file" || fail "qemu-img check: $file"
        qemu-io -c 'write -P 1 3M 1M' -c 'write -P 2 40M 600K' -c 'read -P 1 3M 1M' "$file" > /dev/null &&
            qemu-img check -q "$file" || fail "what qemu writes into our $format breaks it"
    done
    ferry convert "$T/large.raw" "$T/l.$format" --verify > /dev/null || fail "3 TiB of $format"
    [ $(($(stat -c %b "$T/l.$format") * 512)) -lt 16000000 ] || fail "3 TiB of nothing are stored"
    qemu-io -r -f $format -c 'read -v 0x18000000000 9' "$T/l.$format" | grep -q somewhere || fail "3 TiB of $format: qemu-io"
done

# A VHDX whose table of blocks is only in its log: what we read is what qemu-img replays.
python3 - "$T/w.vhdx.pipe" "$T/log.vhdx" << 'END'
import shutil, struct, sys
source, path = sys.argv[1:]
shutil.copy(source, path)
def crc(data):
    value = 0xffffffff
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82f63b78 if value & 1 else 0)
    return value ^ 0xffffffff
def summed(data):
    data = data[:4] + bytes(4) + data[8:]
    return data[:4] + struct.pack("<I", crc(data)) + data[8:]
guid = bytes(range(1, 17))
with open(path, "r+b") as f:
    headers = [(f.seek(o), f.read(4096))[1] for o in (65536, 131072)]
    newest = max(range(2), key=lambda i: struct.unpack_from("<Q", headers[i], 8)[0])
    header = headers[newest]
    bytes_, offset = struct.unpack_from("<IQ", header, 68)
    size = f.seek(0, 2)
    f.seek(3 << 20)
    bat = f.read(4096)
    f.seek(3 << 20)
    f.write(b"\xee" * 8192)  # what the log mends: a sector of data, a sector of zeroes
    start = bytes_ - 4096    # the entries go around the end of the ring
    def entry(sequence, at, tail, descriptors, sectors):
        body = struct.pack("<4sIIIQII", b"loge", 0, 4096 * (1 + len(sectors)), tail, sequence, len(descriptors), 0)
        body += guid + struct.pack("<QQ", size, size) + b"".join(descriptors)
        body = summed(body.ljust(4096, b"\0") + b"".join(sectors))
        for i in range(0, len(body), 4096):
            f.seek(offset + (at + i) % bytes_)
            f.write(body[i:i + 4096])
    def data(sequence, where, sector):
        low, high = sequence & 0xffffffff, sequence >> 32
        return (b"desc" + sector[-4:] + sector[:8] + struct.pack("<QQ", where, sequence),
                struct.pack("<4sI", b"data", high) + sector[8:-4] + struct.pack("<I", low))
    first, sector = data(7, 3 << 20, b"\x55" * 4096)  # overwritten by the second entry
    entry(7, start, start, [first], [sector])
    second, sector = data(8, 3 << 20, bat)
    zero = struct.pack("<4sIQQQ", b"zero", 0, 4096, (3 << 20) + 4096, 8)
    entry(8, 4096, start, [second, zero], [sector])
    f.seek((65536, 131072)[newest])
    f.write(summed(header[:48] + guid + header[64:]))
END
digest_of "$T/log.vhdx" > "$T/replayed"
qemu-img check -q -r all "$T/log.vhdx" || fail "qemu-img does not replay the log"
[ "$(cat "$T/replayed")" = "$(digest_of "$T/w.vhdx.pipe")" ] || fail "replaying a log gives other content"
qemu-img compare -q "$T/log.vhdx" "$T/w.vhdx.pipe" || fail "qemu-img replays other content"

# ---- VHD ----
for options in subformat=dynamic subformat=fixed subformat=dynamic,force_size=on subformat=fixed,force_size=on; do
    qemu-img convert -O vpc -o $options "$T/raw" "$T/q.vhd" || fail "qemu-img $options"
    # Without force_size the disk is rounded up to a geometry.
    qemu-img convert -f vpc -O raw "$T/q.vhd" "$T/q.raw"
    reads "$T/q.vhd" "$T/q.raw"
done
writes vhd vpc "$T/raw" "$T/w.vhd"
for file in "$T/w.vhd" "$T/w.vhd.pipe"; do
    qemu-img info -f vpc --output=json "$file" > "$T/info"
    [ "$(json "$T/info" virtual-size)" = "$(stat -c %s "$T/raw")" ] || fail "qemu-img sees another size"
    if command -v vhdiinfo > /dev/null; then
        vhdiinfo "$file" > "$T/info" || fail "vhdiinfo: $(cat "$T/info")"
        grep -q "($(stat -c %s "$T/raw") bytes)" "$T/info" || fail "vhdiinfo: $(cat "$T/info")"
    fi
done
expect 3 "to 2040 GiB" ferry convert "$T/large.raw" "$T/y.vhd"
ferry convert "$T/large2000.raw" "$T/l.vhd" --verify > /dev/null || fail "2000 GiB of VHD"
qemu-io -r -f vpc -c 'read -v 0x18000000000 9' "$T/l.vhd" | grep -q somewhere || fail "2000 GiB of VHD: qemu-io"

# A child is made of a dynamic one whose blocks and bitmaps are thinned out.
python3 - "$T/w.vhd" "$T/child.vhd" "$T/child.raw" "$T/raw" << 'END'
import shutil, struct, sys
base, child, want, raw = sys.argv[1:]
data = bytearray(open(base, "rb").read())
content = bytearray(open(raw, "rb").read())
parent = bytes(len(content))  # the parent is content with every byte inverted
parent = bytes(b ^ 0xff for b in content)
def fix(at, size, sum_at):
    data[at + sum_at:at + sum_at + 4] = bytes(4)
    struct.pack_into(">I", data, at + sum_at, ~sum(data[at:at + size]) & 0xffffffff)
for at in (0, len(data) - 512):
    struct.pack_into(">I", data, at + 60, 4)
    fix(at, 512, 64)
data[576:576 + 20] = "../evil.vh".encode("utf-16-be")
fix(512, 1024, 36)
result = bytearray(parent)
for block in range((len(content) + (2 << 20) - 1) // (2 << 20)):
    sector = struct.unpack_from(">I", data, 1536 + 4 * block)[0]
    if sector == 0xffffffff:
        continue
    for i in range(512):  # runs of sectors of the child and of the parent, of all lengths
        bits = (0xff, 0xff, 0xa5, 0, 0x7e, 0, 0xff)[i % 7]
        data[sector * 512 + i] = bits
        for bit in range(8):
            at = block * (2 << 20) + (i * 8 + bit) * 512
            part = content[at:at + 512] if bits & 0x80 >> bit else b""
            result[at:at + len(part)] = part
data[552:568] = b"a parent's name."
fix(512, 1024, 36)
open(child, "wb").write(data)
open(want, "wb").write(result)
open(want + ".parent", "wb").write(parent)
END
expect 3 "builds on '../evil.vh'" ferry digest "$T/child.vhd"
ferry convert "$T/child.raw.parent" "$T/parent.vhd" > /dev/null || fail "cannot write the parent"
expect 3 "another UUID" ferry convert "$T/child.vhd" "$T/back.raw" --allow-external "$T/parent.vhd"
python3 - "$T/parent.vhd" << 'END'
import struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
for at in (0, len(data) - 512):
    data[at + 68:at + 84] = b"a parent's name."
    data[at + 64:at + 68] = bytes(4)
    struct.pack_into(">I", data, at + 64, ~sum(data[at:at + 512]) & 0xffffffff)
open(sys.argv[1], "wb").write(data)
END
for parent in parent.vhd child.raw.parent; do # another format has no UUID
    ferry convert "$T/child.vhd" "$T/back.raw" --allow-external "$T/$parent" > /dev/null || fail "a child"
    cmp "$T/back.raw" "$T/child.raw" || fail "a child has other content"
done

# What a format cannot do is said, and leaves nothing.
for to in vmdk vhd vhdx vdi; do
    expect 2 "codec" ferry convert "$T/raw" "$T/z.$to" --codec zstd
    expect 2 "" ferry convert "$T/raw" "$T/z.$to" --cluster 4K
    [ ! -e "$T/z.$to" ] || fail "wrong usage leaves a file"
    cp "$T/w.$to" "$T/cut.$to" 2> /dev/null || cp "$T/vmdk/disk.vmdk" "$T/cut.$to"
    truncate -s -1500000 "$T/cut.$to"
    expect 3 "cut.$to" ferry digest "$T/cut.$to"
done
