#!/bin/bash
# Sealed and signed images: every command with and without the secret, and two witnesses that know
# FORMAT.md and libcrypto only: python's cryptography unseals, openssl verifies the signature.
. "$(dirname "$0")/../lib.sh"

command -v openssl > /dev/null || { echo "SKIP: no openssl"; exit 77; }

head -c 32 /dev/urandom > "$T/key"
head -c 32 /dev/urandom > "$T/other"
head -c 31 /dev/urandom > "$T/short"
head -c 4097 /dev/urandom > "$T/long"
printf 'correct horse\nbattery\n' > "$T/phrase"
printf 'wrong horse\n' > "$T/wrong"
{ seq 1 60000; head -c 300000 /dev/urandom; seq 1 60000; } > "$T/disk"
truncate -s 2M "$T/disk"

expect 0 "content" ferry pack "$T/key.ferry" --disk "$T/disk" --key-file "$T/key" --disk-chunk 64K
expect 0 "content" ferry pack "$T/pass.ferry" --disk "$T/disk" --passphrase-file "$T/phrase"
expect 0 "content" ferry pack "$T/open.ferry" --disk "$T/disk"
expect 2 "32 to 4096 bytes" ferry pack "$T/no.ferry" --disk "$T/disk" --key-file "$T/short"
expect 2 "32 to 4096 bytes" ferry pack "$T/no.ferry" --disk "$T/disk" --key-file "$T/long"
expect 2 "one of" ferry pack "$T/no.ferry" --disk "$T/disk" --key-file "$T/key" --passphrase-file "$T/phrase"
[ ! -e "$T/no.ferry" ] || fail "a refused pack left a file"
grep -q "ferry machine" "$T/open.ferry" || fail "the open image does not show its manifest"
! grep -q "ferry machine" "$T/key.ferry" || fail "the sealed image shows its manifest"

# Reading: files and pipes, the right secret and others.
ferry extract "$T/key.ferry" vda - --key-file "$T/key" | cmp -s - "$T/disk" || fail "extract with a key file"
"$FERRY" extract - vda - --passphrase-file "$T/phrase" < <(cat "$T/pass.ferry") |
    cmp -s - "$T/disk" || fail "extract from a pipe with a passphrase"
expect 3 "not sealed with this key file" ferry extract "$T/key.ferry" vda "$T/out" --key-file "$T/other"
expect 3 "not sealed with this passphrase" ferry digest "$T/pass.ferry" --passphrase-file "$T/wrong"
expect 3 "sealed with a passphrase, not with a key file" ferry inspect "$T/pass.ferry" --key-file "$T/key"
expect 2 "name it with --key-file" ferry inspect "$T/key.ferry"
expect 2 "give --passphrase-file" setsid "$FERRY" inspect "$T/pass.ferry"
root=$(ferry digest "$T/open.ferry" | sed -n 's/ .*: root$//p')
digest=$(ferry digest "$T/disk" | cut -d" " -f1)
expect 0 "^$digest .* disk vda" ferry digest "$T/key.ferry" --key-file "$T/key"
expect 0 "^sealed" ferry inspect "$T/key.ferry" --key-file "$T/key"
ferry inspect "$T/open.ferry" --json | grep -q '"risks":\["not sealed' || fail "risks"
[ -z "$(ferry diff "$T/key.ferry" "$T/key.ferry" --key-file "$T/key")" ] || fail "diff of a sealed image"

# The terminal is asked, without an echo; what is typed goes nowhere else.
cat > "$T/typed.py" << 'EOP'
import os, pty, select, signal, sys, time

def typed(lines, *command):
    """The command's status and what its terminal showed; a line goes in after each prompt."""
    pid, tty = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    shown, prompts, end = b"", 0, time.monotonic() + 30
    while time.monotonic() < end:
        if not select.select([tty], [], [], 1)[0]:
            continue
        try:
            part = os.read(tty, 4096)
        except OSError:
            break
        shown += part
        while lines and shown.count(b": ") > prompts:
            prompts += 1
            time.sleep(0.2)  # until the echo is off
            os.write(tty, lines.pop(0))
    else:
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()

ferry, folder = sys.argv[1], sys.argv[2]
image, disk = folder + "/typed.ferry", folder + "/disk"
pack = [ferry, "pack", image, "--disk", disk, "--encrypt", "--progress", "none"]
def expect(want, text, lines, *command):
    got, shown = typed(lines, *command)
    assert got == want and text in shown, (got, shown)
    assert "horse" not in shown, "the passphrase is shown"
expect(2, "the two passphrases differ", [b"horse 1\n", b"horse 2\n"], *pack)
assert not os.path.exists(image)
expect(1, "no passphrase was given", [b"hors\3"], *pack)
expect(2, "must be text of 1 to", [b"\n", b"\n"], *pack)
expect(0, "of content", [b"horse 1\n", b"horse 1\n"], *pack)
expect(0, "disk vda", [b"horse 1\n"], ferry, "digest", image)
expect(3, "not sealed with this passphrase", [b"horse 2\n"], ferry, "digest", image)
EOP
python3 "$T/typed.py" "$FERRY" "$T" || fail "a passphrase from the terminal"
ferry digest "$T/typed.ferry" --passphrase-file <(echo "horse 1") > /dev/null || fail "what was typed is no passphrase"

# A host without the secret checks the sums.
expect 0 "whole, .* but sealed: content not checked" ferry verify "$T/key.ferry"
ferry verify "$T/key.ferry" --json | grep -q '"content_checked":false' || fail "verify --json without the secret"
expect 0 "whole, .* root [0-9a-f]{64}" ferry verify "$T/key.ferry" --key-file "$T/key"
cp "$T/key.ferry" "$T/bad.ferry"
printf '\x55' | dd of="$T/bad.ferry" bs=1 seek=100000 conv=notrunc status=none
expect 3 "a sealed chunk is damaged" ferry verify "$T/bad.ferry"
expect 3 "damaged" ferry verify "$T/bad.ferry" --key-file "$T/key"
head -c -1 "$T/key.ferry" > "$T/cut.ferry"
expect 3 "ends early" ferry verify "$T/cut.ferry"
if command -v zstd > /dev/null; then
    zstd -tq "$T/key.ferry" || fail "zstd -t of a sealed image"
fi

# Signatures.
openssl genpkey -algorithm ed25519 -out "$T/me.pem" 2> /dev/null
openssl pkey -in "$T/me.pem" -pubout -out "$T/me.pub"
openssl genpkey -algorithm ed25519 -out "$T/you.pem" 2> /dev/null
openssl pkey -in "$T/you.pem" -pubout -out "$T/you.pub"
openssl genpkey -algorithm x25519 -out "$T/x.pem" 2> /dev/null
me=$(openssl pkey -pubin -in "$T/me.pub" -outform DER | tail -c 32 | sha256sum | cut -d' ' -f1)
expect 3 "nobody has signed it" ferry verify "$T/open.ferry" --key "$T/me.pub"
for image in open key; do
    with=()
    [ $image = open ] || with=(--key-file "$T/key")
    expect 0 "signed by $me" ferry sign "$T/$image.ferry" --key "$T/me.pem" "${with[@]}"
    cp "$T/$image.ferry" "$T/before"
    expect 0 "signed already" ferry sign "$T/$image.ferry" --key "$T/me.pem" "${with[@]}"
    cmp -s "$T/before" "$T/$image.ferry" || fail "signing twice changed the image"
    expect 0 "signed by $me, key not given" ferry verify "$T/$image.ferry" "${with[@]}"
    expect 0 "signed by $me\$" ferry verify "$T/$image.ferry" --key "$T/me.pub" "${with[@]}"
    expect 3 "not signed by this key; signed by $me" ferry verify "$T/$image.ferry" --key "$T/you.pub" "${with[@]}"
    expect 0 "signed by $me" ferry inspect "$T/$image.ferry" "${with[@]}"
    expect 0 "signed by" ferry sign "$T/$image.ferry" --key "$T/you.pem" "${with[@]}"
    expect 0 "signed by" ferry verify "$T/$image.ferry" --key "$T/you.pub" "${with[@]}"
    ferry extract "$T/$image.ferry" vda - "${with[@]}" | cmp -s - "$T/disk" || fail "extract of a signed image"
    head -c -1 "$T/$image.ferry" > "$T/torn"
    expect 3 "no whole signature" ferry verify "$T/torn" "${with[@]}"
    cat "$T/$image.ferry" <(tail -c $([ $image = open ] && echo 128 || echo 152) "$T/$image.ferry") > "$T/twice"
    expect 3 "" ferry verify "$T/twice" "${with[@]}"
done
expect 0 "but sealed" ferry verify "$T/key.ferry"
expect 3 "cannot be seen without its secret" ferry verify "$T/key.ferry" --key "$T/me.pub"
expect 2 "not the PEM of an Ed25519 private key" ferry sign "$T/open.ferry" --key "$T/x.pem"
expect 2 "not the PEM of an Ed25519 public key" ferry verify "$T/open.ferry" --key "$T/me.pem"
expect 2 "say whose signature" ferry sign "$T/open.ferry"

# openssl on the first signature: 256 bytes before the end are two SIGN records of 128.
tail -c 256 "$T/open.ferry" | head -c 120 | tail -c 64 > "$T/signature"
{ printf 'ferry image root 1\n'; printf "$(echo "$root" | sed 's/../\\x&/g')"; } > "$T/message"
openssl pkeyutl -verify -pubin -inkey "$T/me.pub" -rawin -in "$T/message" -sigfile "$T/signature" \
    > /dev/null || fail "openssl does not find the signature right"

# A signature of a key of one's own under a foreign public key, its sum made right, is none.
python=/usr/bin/python3
$python -c 'import cryptography, xxhash' 2> /dev/null || { echo "SKIP: no python3-cryptography"; exit 77; }
$python - "$T/open.ferry" "$T/forged" << 'EOP' || fail "cannot forge"
import sys, xxhash
image = bytearray(open(sys.argv[1], 'rb').read())
image[-128 + 60] ^= 1
image[-8:] = xxhash.xxh3_64_intdigest(bytes(image[-128:-8])).to_bytes(8, 'little')
open(sys.argv[2], 'wb').write(image)
EOP
expect 3 "does not match the root" ferry verify "$T/forged"
expect 3 "does not match the root" ferry inspect "$T/forged"

# Unsealing by FORMAT.md alone.
reader="$python tests/support/reader.py"
$reader "$T/key.ferry" --key-file "$T/key" --extract vda | cmp -s - "$T/disk" || fail "the key file, by FORMAT.md"
$reader "$T/pass.ferry" --passphrase-file "$T/phrase" --extract vda | cmp -s - "$T/disk" ||
    fail "the passphrase, by FORMAT.md"
exit 0
