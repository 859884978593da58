#!/bin/bash
# Images that earlier versions of ferry have written: they load, and hold what they held.
. "$(dirname "$0")/../lib.sh"
images="base child everything machine passphrase sealed signed"
reader=$PWD/tests/support/reader.py
secret_of() { # IMAGE
    [ "$1" = passphrase ] && echo "--passphrase-file passphrase" || echo "--key-file key"
}
for folder in tests/golden/image-*; do
    cp "$folder"/* "$T" || fail "copy"
    cd "$T" || fail "$T"
    for image in $images; do
        [ -s $image.ferry ] || fail "$folder: $image.ferry is not there"
        secret=$(secret_of $image)
        ferry digest $image.ferry $secret > now || fail "$folder: digest $image"
        grep "^[0-9a-f]*  $image.ferry:" digests | cmp - now || fail "$folder: $image is not what it was"
        ferry verify $image.ferry $secret > /dev/null || fail "$folder: verify $image"
        ferry inspect $image.ferry $secret --json > /dev/null || fail "$folder: inspect $image"
        zstd -qt $image.ferry || fail "$folder: zstd does not take $image"
    done
    for n in 1 2; do
        ferry verify signed.ferry --key sign$n.pub > /dev/null || fail "$folder: signature $n"
        ferry verify everything.ferry --key sign$n.pub --key-file key > /dev/null ||
            fail "$folder: signature $n of what is sealed"
    done
    ferry extract child.ferry vda child.raw > /dev/null || fail "$folder: extract"
    for image in child everything; do
        ferry extract $image.ferry vda - --key-file key | cmp - child.raw || fail "$folder: $image differs"
        ferry flatten $image.ferry - --key-file key --encrypt | ferry digest - --key-file key |
            cut -d' ' -f1 | head -1 | grep -qf - digests || fail "$folder: $image made flat"
    done
    # What FORMAT.md says, read by somebody else.
    if /usr/bin/python3 -c 'import cryptography, xxhash' 2> /dev/null; then
        for image in $images; do
            base=
            [ $image != child ] || base="--base base.ferry"
            [ $image != everything ] || base="--base sealed.ferry"
            $reader $image.ferry $base $(secret_of $image) | sed 's/  [^ ]*\.ferry$/  root/' > theirs ||
                fail "$folder: $image by FORMAT.md"
            ferry digest $image.ferry $(secret_of $image) | sed 's/  [^:]*: /  /' | cmp - theirs ||
                fail "$folder: FORMAT.md tells another story of $image"
        done
    fi
    cd - > /dev/null || fail "cd"
done
