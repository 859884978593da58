#!/bin/bash
# Images that earlier versions of ferry have written: they load, and hold what they held.
. "$(dirname "$0")/../lib.sh"
for folder in tests/golden/image-*; do
    cp "$folder"/* "$T" || fail "copy"
    (
        cd "$T" || exit 1
        for image in base child sealed signed machine; do
            ferry digest $image.ferry --key-file key || exit 1
            ferry verify $image.ferry --key-file key > /dev/null || exit 1
            ferry inspect $image.ferry --key-file key --json > /dev/null || exit 1
        done > now
        cmp now digests
    ) || fail "$folder: $(diff "$T/now" "$T/digests")"
    ferry verify "$T/signed.ferry" --key "$T/sign.pub" > /dev/null || fail "$folder: signature"
    (cd "$T" && ferry extract child.ferry vda - | cmp - <(ferry extract sealed.ferry vda - --key-file key)) ||
        fail "$folder: the child is not what was sealed"
done
