#!/bin/bash
# Images with right sums and hostile numbers, by the commands: status 3 and a name, in little memory.
# tests/unit/test_image_forged.c and test_image_access.c have many more of them.
. "$(dirname "$0")/../lib.sh"
/usr/bin/python3 -c 'import xxhash' 2> /dev/null || skip "no python3-xxhash"
cd "$T" || exit 1
cat > forge.py << 'EOF2'
import hashlib, struct, subprocess, sys, xxhash

class Image:
    def __init__(self):
        self.out = bytearray()
        self.record(b"HEAD", b"ferryimg" + struct.pack("<II", 1, 0))
    def record(self, tag, body):
        at = len(self.out)
        head = struct.pack("<II4sQ", 0x184D2A57, 20 + len(body), tag, at)
        self.out += head + body + struct.pack("<Q", xxhash.xxh3_64_intdigest(head + body))
        return at
    def finish(self, name, manifest, sections=()):
        digest = hashlib.sha256(manifest).digest()
        root = digest + struct.pack("<I", len(sections))
        table = struct.pack("<QQ", self.manifest_at, len(manifest)) + root
        for first, chunk, rest, places in sections:
            root += first + bytes(4) + rest
            table += first + chunk + rest + places
        root = hashlib.sha256(root).digest()
        at = self.record(b"ROOT", table + root)
        self.record(b"FOOT", struct.pack("<IQQQQ", 1, at, 0, at, len(self.out) + 96) + root)
        open(name, "wb").write(self.out)

def manifest_image(name, manifest):
    image = Image()
    image.manifest_at = image.record(b"MANI", manifest)
    image.finish(name, manifest)

def disk_image(name, size, chunk, records=()):
    """A disk of zeroes, its numbers as they are given; what is in records stands before its end."""
    image = Image()
    manifest = b"{}"
    image.manifest_at = image.record(b"MANI", manifest)
    at = image.record(b"DATA", struct.pack("<IBHBIQ", 0, 3, 0, 3, chunk, size) + b"vda")
    for tag, body, behind in records:
        image.record(tag, body)
        image.out += behind
    leaves = max(10, (-(-size // 4096) - 1).bit_length())
    digest = hashlib.sha256(struct.pack("<Q", size) + bytes(32)).digest()
    image.record(b"DEND", struct.pack("<IQQQ", 0, 0, 0, 0) + digest)
    image.finish(name, manifest, [(struct.pack("<BBH", 3, 3, 0), struct.pack("<I", chunk),
                                   struct.pack("<Q", size) + b"vda" + digest,
                                   struct.pack("<QQQQQ", at, 0, 0, 0, 0))])

def chunk(index, content, stored):
    return (b"CHNK", struct.pack("<IIQIIQ32s", 0, 1, index, content, len(stored),
                                 xxhash.xxh3_64_intdigest(stored), b"x" * 32), stored)

manifest_image("good.ferry", b"{}")
disk_image("zeroes.ferry", 1 << 40, 1 << 18)
manifest_image("deep.ferry", b'{"a":' + b"[" * 10000 + b"]" * 10000 + b"}")
manifest_image("large.ferry", b'{"a":"' + b"x" * (100 << 20) + b'"}')
manifest_image("text.ferry", b"no JSON")
manifest_image("orders.ferry", b'{"machine":{"name":"a\\u001b[31mb\\nroot 00","vm_id":"\\u009b2J","cpu_model":"\\u007f"}}')
disk_image("size63.ferry", 1 << 63, 1 << 18)
disk_image("chunk31.ferry", 1 << 20, 1 << 31)
zeroes = subprocess.run(["zstd", "-qc"], input=bytes(64 << 20), capture_output=True).stdout
disk_image("inflates.ferry", 1 << 20, 4096, [chunk(0, 4096, zeroes)])
# RFC 8878, 3.1.1.1: magic, a descriptor that announces 8 bytes of content size, and they.
declared = struct.pack("<IBQ", 0xFD2FB528, 0xE0, 1 << 40) + bytes([1, 0, 0])
disk_image("declares40.ferry", 1 << 20, 4096, [chunk(0, 4096, declared)])
EOF2
/usr/bin/python3 forge.py || fail "forge.py"
limited() { # COMMAND...: in 64 MiB beyond what the program itself takes, and a minute
    (ulimit -v "$limit_kib" && FERRY_RUNTIME_DIR=$T/a exec timeout 60 "$FERRY" "$@")
}
# What a whole image of 1 TiB of zeroes takes, with its threads, is what the others may take.
limit_kib=400000
[[ $BUILD == *san* ]] && limit_kib=unlimited
for image in good zeroes; do
    expect 0 "whole" limited verify $image.ferry
done
named="damaged|larger than|too large or too deep|not JSON|chunk size|does not hold a machine"
for image in deep large text size63 chunk31 inflates declares40; do
    expect 3 "$image.ferry: .*($named)" limited verify $image.ferry
done
for image in deep large text size63 chunk31; do
    expect 3 "$image.ferry: .*($named)" limited inspect $image.ferry
    expect 3 "$image.ferry: .*($named)" limited run $image.ferry
    expect 3 "$image.ferry: .*($named)" limited restore $image.ferry
done
for image in large size63 chunk31; do
    expect 3 "$image.ferry: .*($named)" limited extract $image.ferry vda made
    expect 3 "$image.ferry: .*($named)" limited digest $image.ferry
    expect 3 "$image.ferry: .*($named)" limited diff $image.ferry good.ferry
    expect 3 "$image.ferry: .*($named)" limited diff good.ferry $image.ferry
    expect 3 "$image.ferry: .*($named)" limited flatten $image.ferry made
    expect 3 "$image.ferry: .*($named)" limited rebase $image.ferry made --base good.ferry
    expect 3 "$image.ferry: .*($named)" limited rebase good.ferry made --base $image.ferry
    expect 3 "$image.ferry: .*($named)" limited pack made --disk forge.py --base $image.ferry
    expect 3 "$image.ferry: .*($named)" limited convert $image.ferry made.raw
done
# What a terminal would take for orders is not shown.
expect 0 "^machine a.\[31mb.root 00: 0 CPUs \(\?\)" ferry inspect orders.ferry
LC_ALL=C grep -q $'[\001-\011\013-\037\177\200-\237]' "$T/out" && fail "orders to the terminal: $(cat -v "$T/out")"
expect 0 "^risk: unsigned" ferry inspect orders.ferry
[ ! -e made ] && [ ! -e made.raw ] || fail "something was written"
