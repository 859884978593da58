#!/bin/bash
# ferry snapshot, restore, inspect, verify: results, refusals, files that appear whole or not at all.
. "$(dirname "$0")/../lib.sh"
need_kvm
does() { # COMMAND...: it works, whatever it says
    "$@" > "$T/out" 2>&1 || fail "status $?: $* ($(cat "$T/out"))"
}
payload="--kernel $PAYLOAD --memory 32M"
append="fill=4 ws=2 period=20"
head -c 1M /dev/urandom > "$T/disk.raw"
cp "$T/disk.raw" "$T/disk.before"
ferry run --name one $payload --append "$append" --disk "$T/disk.raw" --serial "file:$T/1.log" --detach > /dev/null
wait_for 10 at_tick "$T/1.log" 3

# Results
ferry snapshot one "$T/one.ferry" --json > "$T/snapshot.json" || fail "ferry snapshot"
[ "$(json "$T/snapshot.json" bytes)" = "$(stat -c %s "$T/one.ferry")" ] || fail "bytes"
for key in content_bytes pause_ms total_ms root; do json "$T/snapshot.json" $key > /dev/null || fail $key; done
expect 0 "one: running" ferry status one
expect 0 "whole.*$(json "$T/snapshot.json" root)" ferry verify "$T/one.ferry"
ferry inspect "$T/one.ferry" --json > "$T/inspect.json" || fail "ferry inspect"
[ "$(json "$T/inspect.json" manifest.machine.name)" = one ] || fail "the manifest's name"
expect 0 "machine one: 1 CPU" ferry inspect "$T/one.ferry"
ferry snapshot one "$T/one.ferry" --progress-fd 5 5> "$T/progress" > /dev/null || fail "snapshot again"
python3 -c 'import json, sys; [json.loads(l)["phase"] for l in open(sys.argv[1])]' "$T/progress" || fail "progress"
ferry snapshot one - > "$T/pipe.ferry" || fail "snapshot to stdout"
expect 0 "whole" ferry verify "$T/pipe.ferry"
cat "$T/pipe.ferry" | ferry verify - > /dev/null || fail "verify of a pipe"
ferry snapshot one - | ferry verify - > /dev/null || fail "snapshot into verify"
# Sealed: the secret travels to the machine's process, and its log says nothing of it.
printf 'open sesame\n' > "$T/phrase"
ferry snapshot one "$T/sealed.ferry" --passphrase-file "$T/phrase" > /dev/null || fail "snapshot --passphrase-file"
ferry snapshot one - --passphrase-file "$T/phrase" | ferry verify - --passphrase-file "$T/phrase" > /dev/null ||
    fail "a sealed snapshot into verify"
expect 0 "but sealed" ferry verify "$T/sealed.ferry"
expect 0 "machine one: 1 CPU" ferry inspect "$T/sealed.ferry" --passphrase-file "$T/phrase"
ferry restore "$T/sealed.ferry" --passphrase-file "$T/phrase" --name unsealed --clone --paused --detach > /dev/null ||
    fail "restore of a sealed image"
ferry kill unsealed > /dev/null || fail "kill"
rm "$T/sealed.ferry" "$T/sealed.ferry.vda.raw"
mkdir "$T/elsewhere"
(cd "$T/elsewhere" && ferry snapshot one relative.ferry --no-disks > /dev/null) || fail "relative path"
[ -f "$T/elsewhere/relative.ferry" ] || fail "a relative path is the client's"
[ "$(stat -c %a "$T/one.ferry")" = 600 ] || fail "an image holds secrets: 0600"

# How an image is cut and compressed does not change what it holds.
ferry pause one > /dev/null || fail "pause"
ferry snapshot one "$T/elsewhere/plain.ferry" > /dev/null || fail "snapshot of a paused machine"
ferry snapshot one "$T/elsewhere/cut.ferry" --fast --ram-chunk 16K --disk-chunk 1M > /dev/null || fail "snapshot --fast"
ferry snapshot one "$T/elsewhere/level.ferry" --level 7 --ram-chunk 4M --disk-chunk 4K > /dev/null || fail "--level"
ferry resume one > /dev/null || fail "resume"
for image in cut level; do
    expect 0 "whole" ferry verify "$T/elsewhere/$image.ferry"
    ferry diff "$T/elsewhere/plain.ferry" "$T/elsewhere/$image.ferry" --json > "$T/diff.json"
    ! grep -q '"kind":"ram"\|"kind":"disk"' "$T/diff.json" || fail "$image differs: $(cat "$T/diff.json")"
done
ferry inspect "$T/elsewhere/cut.ferry" --json > "$T/inspect.json" || fail "inspect of a file"
python3 -c 'import json, sys
chunks = {s["kind"]: s.get("chunk_bytes") for s in json.load(open(sys.argv[1]))["sections"]}
assert chunks["ram"] == 16384 and chunks["disk"] == 1 << 20' "$T/inspect.json" || fail "chunk sizes"
digest=$(ferry digest "$T/disk.raw" | cut -d' ' -f1)
expect 0 "^$digest .* disk vda" ferry digest "$T/elsewhere/level.ferry"
does ferry extract "$T/elsewhere/cut.ferry" vda "$T/elsewhere/vda.content"
cmp "$T/elsewhere/vda.content" "$T/disk.raw" || fail "what was extracted is not the disk"

# Refusals of snapshot
expect 2 "power of two from 4K to 4M" ferry snapshot one "$T/no.ferry" --ram-chunk 3K
expect 2 "power of two from 4K to 4M" ferry snapshot one "$T/no.ferry" --disk-chunk 8M
expect 2 "power of two from 4K to 4M" ferry snapshot one "$T/no.ferry" --disk-chunk 4G
expect 2 "one of --fast and --level" ferry snapshot one "$T/no.ferry" --fast --level 3
[ ! -e "$T/no.ferry" ] || fail "a refused snapshot left a file"
cp "$T/one.ferry" "$T/kept.ferry"
expect 1 "cannot open the folder" ferry snapshot one "$T/none/x.ferry"
expect 3 "disk.raw: is in use as a disk" ferry snapshot one "$T/disk.raw"
mkfifo "$T/not-a-file"
expect 1 "not-a-file: exists and is not a regular file" ferry snapshot one "$T/not-a-file"
[ -p "$T/not-a-file" ] || fail "a FIFO was replaced"
expect 0 "one: running" ferry status one
cmp -s "$T/one.ferry" "$T/kept.ferry" || fail "an image changed"
[ -z "$(find "$T" -name '*.tmp')" ] || fail "temporary files: $(find "$T" -name '*.tmp')"

# The client goes: the image is given up, the guest goes on
job() {
    ferry status one --json | grep -q '"job"'
}
no_job() {
    ! job
}
mkfifo "$T/pipe"
sleep 60 < "$T/pipe" & own_pids+=($!)
background ferry snapshot one - > "$T/pipe" # nobody reads it
wait_for 10 job
expect 1 "is busy: snapshot is under way" ferry snapshot one "$T/x.ferry"
kill "$background_pid"
wait_for 10 no_job
expect 0 "one: running" ferry status one

# Refusals of restore
expect 3 "is alive on this host as 'one'.*--clone" ferry restore "$T/one.ferry" --name two --detach
expect 1 "a machine of this name is running already" ferry restore "$T/one.ferry" --clone --detach
expect 2 "the machine has no disk vdb" ferry restore "$T/one.ferry" --disk vdb=x --detach
expect 2 "does not hold disk vda; name its file" ferry restore "$T/elsewhere/relative.ferry" --detach
expect 2 "where shall disk vda go" sh -c "FERRY_RUNTIME_DIR='$T/b' '$FERRY' restore - < '$T/one.ferry'"
head -c 100000 "$T/one.ferry" > "$T/short.ferry"
expect 3 "short.ferry" ferry_at b restore "$T/short.ferry" --detach
cp "$T/one.ferry" "$T/flipped.ferry"
printf '\377' | dd of="$T/flipped.ferry" bs=1 seek=150000 conv=notrunc 2> /dev/null
cmp -s "$T/one.ferry" "$T/flipped.ferry" && printf '\0' | dd of="$T/flipped.ferry" bs=1 seek=150000 conv=notrunc 2> /dev/null
expect 3 "flipped.ferry" ferry_at b restore "$T/flipped.ferry" --detach
expect 3 "flipped.ferry" ferry verify "$T/flipped.ferry"
find "$T" -name '*.raw' | sort > "$T/raws"
echo "$T/disk.raw" | cmp -s - "$T/raws" || fail "a refused restore left disks: $(cat "$T/raws")"
[ -z "$(find "$T/b" -mindepth 1 -maxdepth 1 ! -name '.*')" ] || fail "a refused restore left a folder"

# Kill and restore: the guest goes on where it was; the disk is beside the image
ferry kill one
ferry restore "$T/one.ferry" --detach --serial "file:$T/2.log" --json > "$T/restore.json" || fail "ferry restore"
for key in first_instruction_ms total_ms; do json "$T/restore.json" $key > /dev/null || fail $key; done
wait_for 10 at_tick "$T/2.log" 6
cmp "$T/one.ferry.vda.raw" "$T/disk.before" || fail "the disk's content"
payload_is_well "$T/1.log" "$T/2.log" || fail "the payload complains"
expect 0 "disk vda" ferry status one
ferry kill one

# Rolling back: only with --overwrite, never under a machine that uses the file
expect 1 "exists already; --overwrite" ferry restore "$T/one.ferry" --detach
[ ! -e "$T/a/one" ] || fail "left a folder"
echo changed > "$T/one.ferry.vda.raw.new" && head -c 1M /dev/zero > "$T/one.ferry.vda.raw"
expect 0 "one: running again after" ferry restore "$T/one.ferry" --overwrite --detach
cmp "$T/one.ferry.vda.raw" "$T/disk.before" || fail "not rolled back"
expect 3 "one.ferry.vda.raw" ferry restore "$T/one.ferry" --overwrite --clone --name two --detach
expect 0 "two: running again" ferry restore "$T/one.ferry" --clone --name two --disk "vda=$T/two.raw" --detach
ferry status one --json > "$T/s1"
ferry status two --json > "$T/s2"
[ "$(json "$T/s1" vm_id)" != "$(json "$T/s2" vm_id)" ] || fail "a clone has the same identity"
[ "$(json "$T/s1" generation)" != "$(json "$T/s2" generation)" ] || fail "a clone has the same generation"
ferry kill one
ferry kill two

# A reset after a restore: nothing to boot, or what --kernel says, with the command line it came with
ferry run --name r --kernel "$PAYLOAD" --memory 32M --append "fill=1 ws=1 period=20 ticks=40" --detach > /dev/null
ferry snapshot r "$T/r.ferry" --stop > /dev/null || fail "snapshot of r"
wait_for 5 test ! -e "$T/a/r"
ferry restore "$T/r.ferry" --serial "file:$T/r.log" > /dev/null 2> "$T/err" || fail "restore of r: $(cat "$T/err")"
grep -q "its kernel is not known here" "$T/err" || fail "a reset without a kernel: $(cat "$T/err")"
ferry restore "$T/r.ferry" --serial "file:$T/r2.log" --kernel "$PAYLOAD" --detach > /dev/null || fail "restore of r"
wait_for 20 grep -aq "^payload: 'fill=1 ws=1 period=20 ticks=40'" "$T/r2.log"
ferry kill r

# A file that took a disk's name while the image was read keeps it
mkfifo "$T/fifo"
ferry restore - --clone --name three --disk "vda=$T/taken.raw" --detach < "$T/fifo" > "$T/taken.out" 2>&1 &
restoring=$!
exec 8> "$T/fifo"
head -c 300000 "$T/one.ferry" >&8
wait_for 10 test -e "$T/a/three"
echo mine > "$T/taken.raw"
tail -c +300001 "$T/one.ferry" >&8
exec 8>&-
wait $restoring && fail "a restore replaced a file that was not there when it began"
grep -q "taken.raw.*File exists" "$T/taken.out" || fail "not the reason: $(cat "$T/taken.out")"
[ "$(cat "$T/taken.raw")" = mine ] || fail "the file is not what it was"

# A disk that is not in the image is used as it is; from a pipe; paused; stopped by the snapshot
expect 0 "restored, paused" ferry restore "$T/elsewhere/relative.ferry" --disk "vda=$T/disk.raw" --paused --detach
expect 0 "one: paused" ferry status one
ferry kill one
truncate -s 2M "$T/large.raw"
ferry restore "$T/elsewhere/relative.ferry" --disk "vda=$T/large.raw" --detach > "$T/out" 2>&1 && fail "a disk of another size"
ferry restore - --disk "vda=$T/piped.raw" --detach < "$T/one.ferry" > /dev/null || fail "restore from a pipe"
expect 0 "for 0 us" sh -c "FERRY_RUNTIME_DIR='$T/a' '$FERRY' pause one && FERRY_RUNTIME_DIR='$T/a' '$FERRY' snapshot one '$T/two.ferry'"
does ferry resume one
does ferry snapshot one "$T/last.ferry" --stop
wait_for 5 test ! -e "$T/a/one"
expect 0 "whole" ferry verify "$T/last.ferry"

# --stop into a pipe ends the machine only when all of it has been read
ferry run --name one $payload --append "$append" --detach > /dev/null
wait_for 10 sh -c "FERRY_RUNTIME_DIR='$T/a' '$FERRY' console one --log | grep -q 'tick 2'"
ferry snapshot one - --stop 2> "$T/err" | head -c 1000 > /dev/null
[ "${PIPESTATUS[0]}" = 1 ] || fail "an image that nobody read was taken for written"
expect 0 "one: running" ferry status one
ferry snapshot one - --stop | cat > "$T/last.ferry"
wait_for 5 test ! -e "$T/a/one"
expect 0 "whole" ferry verify "$T/last.ferry"
exit 0
