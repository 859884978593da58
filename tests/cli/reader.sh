#!/bin/bash
# FORMAT.md is enough to read an image by: tests/support/reader.py, which was made from it alone, finds
# in images with every feature what ferry finds, and what was put in.
. "$(dirname "$0")/../lib.sh"
reader="/usr/bin/python3 $PWD/tests/support/reader.py"
/usr/bin/python3 -c 'import cryptography, xxhash' 2> /dev/null || skip "no python3-cryptography, python3-xxhash"
cd "$T" || exit 1
python3 - << 'EOF2'
import os, random
random.seed(5)
block = random.randbytes(300000)
with open("one.raw", "wb") as disk:  # equal chunks, zeroes, holes, an end within a sector
    disk.write(bytes(range(256)) * 4096 + block + bytes(2000000) + block[:262144] + b"x" * 3000)
    disk.seek(40000777)
    disk.write(block * 3)
    disk.seek(100 << 20)
    disk.write(b"".join(i.to_bytes(4, "little") * 1024 for i in range(3000)))
    disk.truncate((120 << 20) + 1536)
with open("two.raw", "wb") as disk:
    disk.write(bytes(512) + b"tail" * 128 + bytes(512))
with open("kernel", "wb") as kernel:
    kernel.write(b"\x7fELF" + random.randbytes(70000))
EOF2
head -c 32 /dev/urandom > key
echo "correct horse" > passphrase
for n in 1 2; do
    openssl genpkey -algorithm ed25519 -out sign$n.pem 2> /dev/null || fail "openssl"
done
pack() { # IMAGE DISK OPTION...
    ferry pack "$1" --disk "$2" --disk two.raw --kernel kernel --name m "${@:3}" > /dev/null || fail "pack $*"
}
agree() { # IMAGE DISK "SECRET" BASE...: both tell the same of it, and it holds the disk
    local bases=() base
    for base in "${@:4}"; do bases+=(--base "$base"); done
    ferry digest "$1" $3 | sed 's/  [^:]*: /  /' > ours || fail "digest $1"
    $reader "$1" $3 "${bases[@]}" | sed 's/  [^ ]*\.ferry$/  root/' > theirs
    cmp ours theirs || fail "FORMAT.md tells another story of $1"
    $reader "$1" $3 "${bases[@]}" --extract vda | cmp - "$2" || fail "the disk of $1"
}
cp one.raw grown.raw
printf changed | dd of=grown.raw bs=1 seek=500000 conv=notrunc status=none
dd if=/dev/zero of=grown.raw bs=1M seek=105 count=3 conv=notrunc status=none
truncate -s $(((121 << 20) + 512)) grown.raw
cp grown.raw shrunk.raw
truncate -s 99999744 shrunk.raw
pack a.ferry one.raw
pack b.ferry grown.raw --base a.ferry --fast
pack c.ferry shrunk.raw --base b.ferry --level 9
pack small.ferry one.raw --disk-chunk 4K # more than one page
pack sealed.ferry one.raw --passphrase-file passphrase
pack child.ferry grown.raw --passphrase-file passphrase --base sealed.ferry
pack large.ferry one.raw --key-file key --disk-chunk 4M
for n in 1 2; do
    ferry sign c.ferry --key sign$n.pem > /dev/null || fail "sign"
    ferry sign child.ferry --key sign$n.pem --passphrase-file passphrase > /dev/null || fail "sign child"
done
agree a.ferry one.raw ""
agree b.ferry grown.raw "" a.ferry
agree c.ferry shrunk.raw "" b.ferry a.ferry
agree small.ferry one.raw ""
agree sealed.ferry one.raw "--passphrase-file passphrase"
agree child.ferry grown.raw "--passphrase-file passphrase" sealed.ferry
agree large.ferry one.raw "--key-file key"
$reader b.ferry --base c.ferry --base b.ferry --base a.ferry 2> err && fail "another base was taken"
grep -q "another base" err || fail "$(cat err)"
for image in *.ferry; do
    zstd -qt $image || fail "zstd -t does not take $image"
    zstd -ql $image > /dev/null || fail "zstd -l does not take $image"
done
