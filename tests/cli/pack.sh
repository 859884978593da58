#!/bin/bash
# ferry pack: an image of disks and options; what it holds, and what is refused.
. "$(dirname "$0")/../lib.sh"
cd "$T" || exit 1
same() { cmp "$1" "$2" || fail "$1 and $2 differ"; }

# A disk with data, zeroes that are written, holes, equal parts, and an odd number of sectors.
truncate -s 9M disk.raw
head -c 700K /dev/urandom | dd of=disk.raw bs=512 seek=3 conv=notrunc status=none
dd if=/dev/zero of=disk.raw bs=1M seek=2 count=1 conv=notrunc status=none
dd if=disk.raw of=disk.raw bs=256K skip=1 seek=24 count=2 conv=notrunc status=none
truncate -s $((9 * 1048576 + 1536)) disk.raw
head -c 3M /dev/urandom > other.raw
head -c 100K /dev/urandom > kernel
head -c 200001 /dev/urandom > initrd

ferry pack one.ferry --disk disk.raw,serial=abc --disk other.raw,readonly --kernel kernel \
    --initrd initrd --append "root=/dev/vda" --memory 64M --cpus 2 --json > result || fail "pack"
[ "$(json result bytes)" = "$(stat -c %s one.ferry)" ] || fail "bytes"
[ "$(stat -c %a one.ferry)" = 600 ] || fail "mode"
expect 0 "$(json result root)" ferry verify one.ferry
zstd -qt one.ferry || fail "zstd does not take it"
ferry inspect one.ferry --json > inspect || fail "inspect"
python3 - inspect << 'EOF' || fail "manifest: $(cat inspect)"
import json, sys
image = json.load(open(sys.argv[1]))
machine = image["manifest"]["machine"]
assert image["manifest"]["stopped"] is True and "saved" not in image["manifest"]
assert machine["name"] == "one" and machine["cpus"] == 2 and machine["memory_bytes"] == 64 << 20
assert machine["append"] == "root=/dev/vda" and machine["cpuid"] == []
assert [d["serial"] for d in machine["disks"]] == ["abc", ""]
assert [d["readonly"] for d in machine["disks"]] == [False, True]
kinds = [(s["kind"], s["name"]) for s in image["sections"]]
assert kinds == [("file", "kernel"), ("file", "initrd"), ("disk", "vda"), ("disk", "vdb")], kinds
import json, sys
image = json.load(open(sys.argv[1]))
machine = image["manifest"]["machine"]
assert image["manifest"]["stopped"] is True and "saved" not in image["manifest"]
assert machine["name"] == "one" and machine["cpus"] == 2 and machine["memory_bytes"] == 64 << 20
assert machine["append"] == "root=/dev/vda" and machine["cpuid"] == []
assert [d["serial"] for d in machine["disks"]] == ["abc", ""]
assert [d["readonly"] for d in machine["disks"]] == [False, True]
kinds = [(s["kind"], s["name"]) for s in image["sections"]]
assert kinds == [("file", "kernel"), ("file", "initrd"), ("disk", "vda"), ("disk", "vdb")], kinds
EOF

# What went in comes out, and is known by its digest.
for pair in vda:disk.raw vdb:other.raw file:kernel:kernel initrd:initrd; do
    ferry extract one.ferry "${pair%:*}" out > /dev/null || fail "extract $pair"
    same out "${pair##*:}"
    digest=$(ferry digest --raw "${pair##*:}" | cut -d' ' -f1)
    ferry digest one.ferry | grep -q "^$digest " || fail "digest of $pair"
done

# The same bytes: to a pipe, from one CPU, over an older file.
again="--name one --disk disk.raw,serial=abc --disk other.raw,readonly --kernel kernel
    --initrd initrd --memory 64M --cpus 2 --append root=/dev/vda"
ferry pack - $again > piped.ferry || fail "pack to a pipe"
same one.ferry piped.ferry
ferry pack - $again | cat > piped.ferry || fail "pack into a pipe"
same one.ferry piped.ferry
taskset -c 0 "$FERRY" pack piped.ferry $again > /dev/null || fail "on one CPU"
same one.ferry piped.ferry
ferry pack --level 9 piped.ferry $again --disk-chunk 4K > /dev/null || fail "--level"
root=$(ferry digest one.ferry | head -1 | cut -d' ' -f1)
expect 0 "$root" ferry digest piped.ferry

# A hole costs nothing.
truncate -s 1T hole.raw
printf x | dd of=hole.raw bs=1 seek=$((900 << 30)) conv=notrunc status=none
ferry pack hole.ferry --disk hole.raw > /dev/null || fail "a hole"
[ "$(stat -c %s hole.ferry)" -lt 8192 ] || fail "the hole has $(stat -c %s hole.ferry) bytes"

# Refusals leave nothing behind, and what was there.
cp one.ferry before
expect 2 "nothing to pack" ferry pack no.ferry
expect 2 "with --kernel only" ferry pack no.ferry --disk disk.raw --initrd initrd
expect 2 "power of two" ferry pack no.ferry --disk disk.raw --disk-chunk 5K
expect 2 "one of --fast" ferry pack no.ferry --disk disk.raw --fast --level 2
expect 2 "--json and an image" ferry pack - --disk disk.raw --json
expect 2 "must be from 8M" ferry pack no.ferry --disk disk.raw --memory 1M
expect 1 "cannot open" ferry pack no.ferry --disk nothing.raw
expect 1 "multiple of 512" ferry pack no.ferry --disk initrd
expect 1 "cannot read the kernel" ferry pack no.ferry --kernel nothing
expect 2 "is no kernel" ferry pack one.ferry --kernel /dev/null
expect 1 "neither a file nor a block device" ferry pack no.ferry --disk "$T"
[ ! -e no.ferry ] || fail "a refused image is there"
same one.ferry before
expect 2 "use 'ferry run'" ferry restore one.ferry
cat > held.py << 'EOF'
import fcntl, struct, subprocess, sys
disk = open(sys.argv[1], "r+b")
fcntl.fcntl(disk, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))  # F_OFD_SETLK
done = subprocess.run([sys.argv[2], "pack", "no.ferry", "--disk", sys.argv[1]], stderr=subprocess.PIPE)
assert done.returncode == 3 and b"in use" in done.stderr, done
EOF
python3 held.py disk.raw "$FERRY" || fail "a disk in use was packed"
[ ! -e no.ferry ] || fail "a refused image is there"
[ "$(ls -A | grep -c '^\.')" = 0 ] || fail "temporary files: $(ls -A)"

# Running it.  The payload has no driver for disks: tests/unit/test_image_disk.c writes to them.
[ -r /dev/kvm ] && [ -w /dev/kvm ] || exit 0
run="--memory 32M --serial file:$T/serial.log --detach"
ferry pack web.ferry --disk disk.raw --disk other.raw,readonly --kernel "$PAYLOAD" --append "fill=2 period=20" \
    --memory 32M > /dev/null || fail "pack of a payload"
expect 0 "web" ferry run web.ferry --serial "file:$T/serial.log" --detach
wait_for 20 at_tick "$T/serial.log" 3
ferry inspect web.ferry > /dev/null || fail "an image in use can be read"
[ "$(stat -c %a web.ferry.vda.overlay)" = 600 ] || fail "the overlay's mode"
[ ! -e web.ferry.vdb.overlay ] || fail "a read-only disk has an overlay"
expect 3 "web.ferry.vda.overlay: is in use" ferry run web.ferry --name two $run
expect 3 "cannot move yet" ferry migrate web tcp://127.0.0.1:1
ferry snapshot web snap.ferry > /dev/null || fail "snapshot"
ferry digest snap.ferry | grep -q "$(ferry digest disk.raw | cut -d' ' -f1).*disk vda" || fail "the snapshot's disk"
expect 2 "in the middle of its work" ferry run snap.ferry
ferry kill web > /dev/null || fail "kill"
expect 0 "two" ferry run web.ferry --name two $run
ferry kill two > /dev/null

# Elsewhere, for once, with another kernel, and disks of other images.
mkdir over
expect 0 "three" ferry run web.ferry --name three --overlay-dir over $run
[ -f over/web.ferry.vda.overlay ] || fail "--overlay-dir"
expect 0 "four" ferry run web.ferry --name four --overlay-dir over --temporary $run
[ "$(ls over)" = web.ferry.vda.overlay ] || fail "--temporary left $(ls over)"
expect 0 "five" ferry run --name five --kernel "$PAYLOAD" --disk snap.ferry,section=vdb,readonly --disk snap.ferry $run
[ -f snap.ferry.vda.overlay ] || fail "a disk on an image"
for name in three four five; do ferry kill $name > /dev/null || fail "kill $name"; done
ferry pack nokernel.ferry --disk disk.raw > /dev/null || fail "pack without a kernel"
expect 2 "holds no kernel" ferry run nokernel.ferry
expect 0 "six" ferry run nokernel.ferry --name six --kernel "$PAYLOAD" $run
ferry kill six > /dev/null
expect 2 "from a pipe" ferry run -
expect 2 "holds no such disk" ferry run --kernel "$PAYLOAD" --disk snap.ferry,section=vdx
expect 2 "section= is for images" ferry run --kernel "$PAYLOAD" --disk disk.raw,section=vda
expect 2 "not raw or ferry" ferry run --kernel "$PAYLOAD" --disk disk.raw,format=qcow2
expect 3 "not a ferry image" ferry run --kernel "$PAYLOAD" --disk disk.raw,format=ferry

# An overlay goes with its image only; a damaged one is named.
cp other.raw disk2.raw && truncate -s $((9 * 1048576 + 1536)) disk2.raw
ferry pack web.ferry --disk disk2.raw --kernel "$PAYLOAD" > /dev/null || fail "pack over it"
expect 3 "holds the changes of another disk" ferry run web.ferry $run
printf x | dd of=snap.ferry.vda.overlay bs=1 seek=20 conv=notrunc status=none
expect 3 "header is damaged" ferry run --kernel "$PAYLOAD" --disk snap.ferry
# No guest decides what its disk is taken for.
cp snap.ferry guest.raw && truncate -s %512 guest.raw
expect 0 "seven" ferry run --name seven --kernel "$PAYLOAD" --disk guest.raw $run
[ ! -e guest.raw.vda.overlay ] || fail "a raw disk was taken for an image"
ferry kill seven > /dev/null
