#!/bin/bash
# ferry serve: independent NBD clients see the disks of an image.
. "$(dirname "$0")/../lib.sh"
plugin=$(realpath -m "$BUILD/nbdkit-ferry-plugin.so")
[ -f "$plugin" ] || skip "no nbdkit plugin in this build (a sanitizer's, or without nbdkit-plugin-dev)"
for tool in nbdkit nbdcopy nbdinfo qemu-img; do
    command -v $tool > /dev/null || skip "$tool is not installed"
done
cd "$T" || exit 1

truncate -s 64M disk.raw
head -c 5M /dev/urandom | dd of=disk.raw bs=1M seek=10 conv=notrunc status=none
head -c 300K /dev/urandom | dd of=disk.raw bs=1K seek=50000 conv=notrunc status=none
cp disk.raw base.raw
ferry pack base.ferry --disk base.raw --name m > /dev/null || fail "pack"
printf changed | dd of=disk.raw bs=1 seek=12345678 conv=notrunc status=none
head -c 1M /dev/urandom > other.raw
ferry pack two.ferry --disk disk.raw --disk other.raw --name m --base base.ferry > /dev/null || fail "pack"

# Only readers are in the plugin.
nm "$plugin" | grep -q image_pread || fail "nm does not see what is in the plugin"
nm -C "$plugin" 2> /dev/null | grep -E "image_writer_|image_rewrite|image_pack" && fail "the plugin has writers in it"

background ferry serve two.ferry --socket "$T/nbd.sock"
server=$background_pid
wait_for 10 test -S nbd.sock
uri="nbd+unix:///?socket=$T/nbd.sock"
nbdinfo --no-content --list --json "$uri" > list || fail "nbdinfo"
[ "$(python3 -c 'import json; print(*[e["export-name"] for e in json.load(open("list"))["exports"]])')" = "vda vdb" ] || fail "exports: $(cat list)"
nbdinfo --no-content --json "$uri" > info || fail "nbdinfo"
python3 -c 'import json; e = json.load(open("info"))["exports"][0]; assert e["is_read_only"] and e["can_multi_conn"] and e["export-size"] == 64 << 20, e' || fail "info: $(cat info)"
nbdcopy --connections=4 "$uri" copy.raw || fail "nbdcopy"
cmp copy.raw disk.raw || fail "what nbdcopy read"
nbdcopy "nbd+unix:///vdb?socket=$T/nbd.sock" copy.raw || fail "nbdcopy of vdb"
cmp copy.raw other.raw || fail "what nbdcopy read of vdb"
qemu-img compare -f raw -F raw "$uri" disk.raw > /dev/null || fail "qemu-img compare"
qemu-img convert -f raw -O qcow2 "$uri" copy.qcow2 || fail "qemu-img convert"
qemu-img compare -f qcow2 -F raw copy.qcow2 disk.raw > /dev/null || fail "what qemu-img converted"
[ "$(stat -c %s copy.qcow2)" -lt $((12 << 20)) ] || fail "holes were copied as data"
nbdinfo --map --totals "$uri" > map || fail "nbdinfo --map"
[ "$(awk '$3 == 0 || $4 == "data" {print $1}' map | head -1)" -lt $((8 << 20)) ] || fail "map: $(cat map)"
nbdinfo "nbd+unix:///nothing?socket=$T/nbd.sock" > /dev/null 2>&1 && fail "an export that is not there"
kill "$server"
wait "$server" 2> /dev/null

# By TCP, with --run; then what is damaged or missing.
ferry serve two.ferry --run 'nbdcopy "$uri" - | cmp - disk.raw' --socket "$T/run.sock" || fail "--run"
expect 2 "give --socket, or --port" ferry serve two.ferry --socket x --port 5
expect 2 "from a pipe" ferry serve -
expect 1 "cannot open" ferry serve nothing.ferry
mv base.ferry base.image
expect 3 "neither beside it" ferry serve two.ferry --run true --socket "$T/run2.sock"
mv base.image base.ferry
size=$(stat -c %s base.ferry)
printf '\0\0\0\0' | dd of=base.ferry bs=1 seek=$((size / 2)) conv=notrunc status=none
ferry serve base.ferry --run 'nbdcopy "$uri" - > /dev/null' --socket "$T/run3.sock" 2> err && fail "damage is served"
grep -q "disk vda at" err || fail "damage is not named: $(cat err)"
exit 0
