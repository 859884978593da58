#!/bin/bash
# ferry snapshot --disks-only: the disks of a guest that goes on.
. "$(dirname "$0")/../lib.sh"
need_kvm
payload="--kernel $PAYLOAD --memory 32M"
busy="fill=1 ws=1 period=20 disk=1024 writes=20"
job() {
    ferry status "$1" --json | grep -q '"job"'
}
no_job() {
    ! job "$1"
}
# A snapshot into a pipe, read by descriptor 8; its first bytes come when the instant has passed.
mkfifo "$T/pipe"
piped() { # ARGUMENT...
    exec 9<> "$T/pipe"
    background ferry snapshot "$@" > "$T/pipe" 2> "$T/err" 9>&-
    saving=$background_pid
    exec 8< "$T/pipe" 9>&-
}
# instant FILE: after how many writes the guest's disk was like this.
instant() {
    python3 - "$1" "$T/disk.before" <<'PY'
import struct, sys
MASK = (1 << 64) - 1
def mix(x):
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9 & MASK
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb & MASK
    return x ^ (x >> 31)
disk, before = (open(name, "rb").read() for name in sys.argv[1:])
slots, last = 1024, {}
found = [struct.unpack_from("<Q", disk, slot * 4096)[0] for slot in range(slots)]
n = max([x for slot, x in enumerate(found) if x < 1 << 24 and mix(x) % slots == slot], default=0)
for i in range(1, n + 1):
    last[mix(i) % slots] = i
for slot in range(slots):
    got = disk[slot * 4096:slot * 4096 + 4096]
    if slot not in last:
        assert got == before[slot * 4096:slot * 4096 + 4096], f"slot {slot} was never written to"
    else:
        words = struct.unpack("<512Q", got)
        assert words[0] == last[slot], f"of {n} writes, slot {slot} has {words[0]}, not {last[slot]}"
        assert all(words[i] == mix(words[0] * 512 + i) for i in (1, 200, 511)), f"slot {slot}"
assert disk[slots * 4096:] == before[slots * 4096:]
print(n)
PY
}
head -c 12M /dev/urandom > "$T/disk.raw"
cp "$T/disk.raw" "$T/disk.before"
head -c 1M /dev/urandom > "$T/readonly.raw"
ferry run --name one $payload --append "$busy" --disk "$T/disk.raw" --disk "$T/readonly.raw,readonly" \
    --serial "file:$T/1.log" --detach > /dev/null || fail "run"
wait_for 10 at_tick "$T/1.log" 3

# An image of a machine that is switched off, with the disks of one instant
ferry snapshot one "$T/one.ferry" --disks-only --json > "$T/result.json" || fail "snapshot --disks-only"
[ "$(json "$T/result.json" bytes)" = "$(stat -c %s "$T/one.ferry")" ] || fail "bytes"
for key in content_bytes pause_ms total_ms copied_bytes root; do json "$T/result.json" $key > /dev/null || fail $key; done
echo "paused for $(json "$T/result.json" pause_ms) ms of $(json "$T/result.json" total_ms) ms"
expect 0 "one: running" ferry status one
expect 0 "whole" ferry verify "$T/one.ferry"
ferry extract "$T/one.ferry" vda "$T/vda" > /dev/null || fail "extract"
first=$(instant "$T/vda") || fail "not of one instant"
[ "$first" -ge 60 ] || fail "older than the guest's third tick: $first"
ferry extract "$T/one.ferry" vdb "$T/vdb" > /dev/null || fail "extract"
cmp "$T/vdb" "$T/readonly.raw" || fail "the read-only disk"
ferry inspect "$T/one.ferry" --json > "$T/inspect.json"
[ "$(json "$T/inspect.json" manifest.stopped)" = True ] || fail "not of a stopped machine"
grep -q '"kind": *"\(ram\|state\)"' "$T/inspect.json" && fail "memory or state in it"

# Slowly through a pipe: the guest works on, the image stays of the instant when it began
head -c 64 "$T/readonly.raw" > "$T/key"
piped one - --disks-only --key-file "$T/key"
head -c 16 <&8 > "$T/piped.ferry" # the instant has passed
now=$(tick_of "$T/1.log")
wait_for 20 at_tick "$T/1.log" $((now + 40))
expect 1 "is busy: snapshot is under way" ferry snapshot one "$T/x.ferry" --disks-only
expect 1 "is busy: snapshot is under way" ferry migrate one unix:"$T/none"
ferry pause one > /dev/null || fail "pause meanwhile"
expect 0 "one: paused" ferry status one
ferry resume one > /dev/null || fail "resume meanwhile"
cat <&8 >> "$T/piped.ferry"
exec 8<&-
wait "$saving" || fail "snapshot into a pipe"
ferry extract "$T/piped.ferry" vda "$T/vda" --key-file "$T/key" > /dev/null || fail "extract"
piped=$(instant "$T/vda") || fail "not of one instant"
[ "$piped" -ge "$first" ] && [ "$piped" -le $(((now + 2) * 20)) ] || fail "of another instant: $piped at tick $now"

# A child of it, and small chunks
ferry snapshot one "$T/child.ferry" --disks-only --base "$T/one.ferry" --fast > /dev/null || fail "--base"
ferry extract "$T/child.ferry" vda "$T/vda" > /dev/null || fail "extract"
instant "$T/vda" > /dev/null || fail "not of one instant"
ferry snapshot one "$T/cut.ferry" --disks-only --disk-chunk 8K --store 1M > /dev/null || fail "--disk-chunk"
ferry extract "$T/cut.ferry" vda "$T/vda" > /dev/null || fail "extract"
instant "$T/vda" > /dev/null || fail "not of one instant"

# A paused machine stays so
ferry pause one > /dev/null
ferry snapshot one "$T/still.ferry" --disks-only --json > "$T/result.json" || fail "of a paused machine"
[ "$(json "$T/result.json" pause_ms)" = 0.0 ] || [ "$(json "$T/result.json" pause_ms)" = 0 ] || fail "pause_ms of a paused machine"
expect 0 "one: paused" ferry status one
ferry extract "$T/still.ferry" vda "$T/vda" > /dev/null || fail "extract"
cmp "$T/vda" "$T/disk.raw" || fail "the disk stood still"
ferry resume one > /dev/null

# Refusals
expect 2 "none of --no-disks" ferry snapshot one "$T/no.ferry" --disks-only --stop
expect 2 "none of --no-disks" ferry snapshot one "$T/no.ferry" --disks-only --no-disks
expect 2 "none of --no-disks" ferry snapshot one "$T/no.ferry" --disks-only --ram-chunk 64K
expect 2 "goes with --disks-only" ferry snapshot one "$T/no.ferry" --store 1M
expect 2 "from 64K to 16G" ferry snapshot one "$T/no.ferry" --disks-only --store 32G
expect 2 "power of two" ferry snapshot one "$T/no.ferry" --disks-only --disk-chunk 3K
expect 3 "in use as a disk" ferry snapshot one "$T/disk.raw" --disks-only
[ ! -e "$T/no.ferry" ] || fail "a refused snapshot left a file"

# The client goes: the image is given up, the guest goes on
piped one - --disks-only
wait_for 10 job one
kill "$saving"
wait_for 10 no_job one
exec 8<&-
now=$(tick_of "$T/1.log")
wait_for 10 at_tick "$T/1.log" $((now + 3))
ferry snapshot one "$T/again.ferry" --disks-only > /dev/null || fail "after one that was given up"

# A machine is killed meanwhile: no image, nothing left
piped one - --disks-only
wait_for 10 job one
ferry kill one || fail "kill"
cat <&8 > /dev/null
exec 8<&-
wait "$saving" && fail "an image of a machine that was killed"
wait_for 10 test ! -e "$T/a/one"
instant "$T/disk.raw" > /dev/null || fail "the guest's own disk"
payload_is_well "$T/1.log" || fail "the payload complains"
state_lines "$T/1.log" | awk '{if ($2 != NR) exit 1}' || fail "a tick is missing"

# A guest that switches itself off: the image is finished first, then the machine ends
ferry run --name off $payload --append "$busy ticks=60 off=1" --disk "$T/disk.raw" --serial "file:$T/off.log" --detach > /dev/null
wait_for 10 at_tick "$T/off.log" 3
piped off - --disks-only
head -c 16 <&8 > "$T/off.ferry"
wait_for 20 at_tick "$T/off.log" 60
wait_for 10 grep -aq "payload: done" "$T/off.log"
job off || fail "the machine did not wait for its image"
cat <&8 >> "$T/off.ferry"
exec 8<&-
wait "$saving" || fail "an image of a machine that switched itself off"
wait_for 10 test ! -e "$T/a/off"
expect 0 "whole" ferry verify "$T/off.ferry"

# One that boots again does so at once, and the image goes on
ferry run --name again $payload --append "$busy ticks=40" --disk "$T/disk.raw" --serial "file:$T/again.log" --detach > /dev/null
wait_for 10 at_tick "$T/again.log" 3
piped again - --disks-only
head -c 16 <&8 > "$T/again.ferry"
wait_for 20 sh -c "[ \$(grep -ac 'payload: .fill' '$T/again.log') -ge 3 ]"
job again || fail "the image did not take that long"
cat <&8 >> "$T/again.ferry"
exec 8<&-
wait "$saving" || fail "an image of a machine that booted again"
ferry kill again
expect 0 "whole" ferry verify "$T/again.ferry"

# Of one that ends with its reset the image is finished first, as if it had switched itself off
ferry run --name once $payload --append "$busy ticks=40" --disk "$T/disk.raw" --serial "file:$T/once.log" --no-reboot --detach > /dev/null
wait_for 10 at_tick "$T/once.log" 3
piped once - --disks-only
head -c 16 <&8 > "$T/once.ferry"
wait_for 20 grep -aq "payload: done" "$T/once.log"
cat <&8 >> "$T/once.ferry"
exec 8<&-
wait "$saving" || fail "an image of a machine that ended with a reset"
wait_for 10 test ! -e "$T/a/once"
expect 0 "whole" ferry verify "$T/once.ferry"

# The image runs: a copy of the machine, with the kernel that it had
ferry run "$T/one.ferry" --name copy --overlay-dir "$T" --serial "file:$T/copy.log" --detach > /dev/null ||
    fail "run of the image"
wait_for 10 at_tick "$T/copy.log" 3
ferry kill copy

# A disk on an image, with an overlay
ferry pack "$T/packed.ferry" --name packed --kernel "$PAYLOAD" --memory 32M --append "$busy" --disk "$T/disk.before" > /dev/null ||
    fail "pack"
ferry run "$T/packed.ferry" --detach --serial "file:$T/packed.log" > /dev/null || fail "run of a packed image"
wait_for 10 at_tick "$T/packed.log" 3
ferry snapshot packed "$T/child.ferry" --disks-only --base "$T/packed.ferry" > /dev/null || fail "of a disk on an image"
ferry extract "$T/child.ferry" vda "$T/vda" > /dev/null || fail "extract"
[ "$(instant "$T/vda")" -ge 60 ] || fail "not of one instant"
ferry kill packed
exit 0
