#!/bin/bash
# Commands on images without a machine: digest, extract, diff, inspect, verify --salvage.
. "$(dirname "$0")/../lib.sh"

corpus=$(dirname "$0")/../fuzz/corpus/image
cp "$corpus/disk" "$T/disk.ferry"

# The disk of that image, by hand: block i is 4 KiB of one letter.
for i in $(seq 0 40); do
    head -c 4096 /dev/zero | tr '\0' "\\$(printf %03o $((65 + i % 30)))"
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
[ $? = 2 ] || fail "a raw disk from a pipe was taken without its size"
expect 1 "No such file" ferry digest "$T/none"

# extract: a file, a pipe, from a pipe; what it gives is what went in.
expect 0 "160.5 KiB of vda" ferry extract "$T/disk.ferry" vda "$T/out.raw"
cmp -s "$T/out.raw" "$T/disk.raw" || fail "extract to a file"
[ "$(stat -c %a "$T/out.raw")" = 600 ] || fail "the mode of what was extracted"
ferry extract "$T/disk.ferry" disk:vda - | cmp -s - "$T/disk.raw" || fail "extract to a pipe"
"$FERRY" extract - vda - < <(cat "$T/disk.ferry") | cmp -s - "$T/disk.raw" || fail "from pipe to pipe"
ferry extract "$T/disk.ferry" vda "$T/out.raw" --json > "$T/extract.json" || fail "extract --json"
[ "$(json "$T/extract.json" digest)" = "$digest" ] || fail "the digest of what was extracted"
cp "$corpus/zero" "$T/zero.ferry"
expect 0 "of ram" ferry extract "$T/zero.ferry" ram "$T/zero.raw"
[ "$(stat -c '%s %b' "$T/zero.raw")" = "1048576 0" ] || fail "zeroes are no hole"
ferry extract "$T/zero.ferry" ram - | cmp -s - "$T/zero.raw" || fail "zeroes to a pipe"
cp "$corpus/small" "$T/small.ferry"
[ "$(ferry extract "$T/small.ferry" state:vcpu0 - | wc -c)" = 40 ] || fail "extract of state"
expect 2 "holds no section 'vdb'" ferry extract "$T/disk.ferry" vdb "$T/none.raw"
expect 2 "holds no section 'vda'" ferry extract "$T/disk.ferry" state:vda "$T/none.raw"
expect 2 "is not a plain file" ferry extract "$T/disk.ferry" vda /dev/null
expect 2 "cannot both go to stdout" ferry extract "$T/disk.ferry" vda - --json
expect 3 "damaged" ferry extract "$T/cut.ferry" vda "$T/none.raw"
[ ! -e "$T/none.raw" ] || fail "a refused extract left a file"

# A tail that is lost: what comes before is listed, and can be had.
expect 3 "disk  vda +[1-9][0-9.]* KiB of 160.5 KiB" ferry verify "$T/cut.ferry" --salvage
ferry verify "$T/cut.ferry" --salvage --json > "$T/cut.json" 2> /dev/null
[ $? = 3 ] || fail "the status of verify --salvage"
python3 - "$T/cut.json" << 'EOF' || fail "the JSON of verify --salvage"
import json, sys
found = json.load(open(sys.argv[1]))
assert not found["ok"] and found["manifest"] and "ends early" in found["damage"]
section, = found["sections"]
assert section["name"] == "vda" and not section["whole"] and section["whole_bytes"] > 4096
EOF
expect 0 "were salvaged" ferry extract "$T/cut.ferry" vda "$T/part.raw" --salvage
part=$(ferry extract "$T/cut.ferry" vda "$T/part.raw" --salvage --json 2> /dev/null |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["whole_bytes"])')
cmp -s -n "$part" "$T/part.raw" "$T/disk.raw" || fail "what was salvaged is not what was there"
[ "$(stat -c %s "$T/part.raw")" = 164352 ] || fail "the size of what was salvaged"
head -c 100 "$T/disk.ferry" > "$T/head.ferry"
expect 3 "ends early" ferry extract "$T/head.ferry" vda "$T/none.raw" --salvage

# diff: equal, and by section and range.
[ -z "$(ferry diff "$T/disk.ferry" "$T/disk.ferry" || echo "status $?")" ] || fail "equal images differ"
expect 1 "only in the second" ferry diff "$T/disk.ferry" "$T/small.ferry"
ferry diff "$T/disk.ferry" "$T/small.ferry" --json > "$T/diff.json"
python3 - "$T/diff.json" << 'EOF' || fail "the JSON of diff"
import json, sys
found = json.load(open(sys.argv[1]))
assert not found["equal"] and found["manifest_differs"]
by = {(s["kind"], s["name"]): s for s in found["sections"]}
assert by["disk", "vda"]["difference"] == "size" and by["disk", "vda"]["ranges"][0][0] == 0
assert by["disk", "vda"]["bytes"] == 164352
assert by["ram", "ram"]["difference"] == "only in the second"
EOF
expect 1 "cannot seek" sh -c "cat '$T/disk.ferry' | '$FERRY' diff - '$T/disk.ferry'"
expect 3 "damaged" ferry diff "$T/cut.ferry" "$T/disk.ferry"

# A file is inspected by its index, a pipe by reading it: they agree.
for image in disk zero; do
    ferry inspect "$T/$image.ferry" --json | sed 's/"checked":false/"checked":true/' > "$T/1.json"
    cat "$T/$image.ferry" | "$FERRY" inspect - --json > "$T/2.json"
    cmp -s "$T/1.json" "$T/2.json" || fail "inspect of $image differs: $(cat "$T/1.json" "$T/2.json")"
done

# Other programs know the images as .zst, references to equal chunks too.
if command -v zstd > /dev/null; then
    for image in disk zero small; do
        zstd -q -t < "$T/$image.ferry" || fail "zstd -t of $image"
        zstd -l "$T/$image.ferry" > /dev/null || fail "zstd -l of $image"
    done
fi
