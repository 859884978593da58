#!/bin/bash
# Disks on a web server: read by ranges, through faults that pass, and refused when they do not.
. "$(dirname "$0")/../lib.sh"
command -v qemu-img > /dev/null || skip "no qemu-img"
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
export HOME=$T no_proxy='*'
mkdir "$T/www"

# Text, noise, zeroes and an odd end.
python3 - "$T/www/disk.raw" << 'END'
import random, sys
random.seed(4)
with open(sys.argv[1], "wb") as f:
    for i in range(9):
        f.write(random.randbytes(700000) + b"text of a guest" * 30000 + bytes(500000))
    f.write(b"end")
END
raw=$T/www/disk.raw
qemu-img convert -O qcow2 -c "$raw" "$T/www/disk.qcow2" || fail "qemu-img"
: > "$T/www/empty"
head -c 300000 "$T/www/disk.qcow2" > "$T/www/short.qcow2"
start_server() { # NAME ARGUMENT...: its port is in $port
    local name=$1
    shift
    background python3 tests/cli/http_server.py "$T/www" "$T/port.$name" "$T/log.$name" "$@"
    wait_for 30 [ -e "$T/port.$name" ]
    port=$(cat "$T/port.$name")
}
start_server http
url=http://127.0.0.1:$port
echo "file://$raw" > "$T/www/to-file"
echo "ftp://127.0.0.1/disk.raw" > "$T/www/to-ftp"

digest_of() {
    ferry digest "$@" --json > "$T/digest" || fail "no digest of $*"
    json "$T/digest" digest
}
expected=$(digest_of "$raw" --raw)
expected_qcow2=$(digest_of "$T/www/disk.qcow2")
same() { # PATH OPTION...: the content of the file is there
    [ "$(digest_of "$url/$1" "${@:2}")" = "$(digest_of "$T/www/${1#*/}" --raw)" ] ||
        fail "$1 reads with other content"
}
refused() { # STATUS TEXT PATH OPTION...
    expect "$1" "$2" ferry digest "$url/$3" --raw "${@:4}"
}

# ---- What works ----
for fault in ok weak date bare redirect; do
    same $fault/disk.raw --raw
done
[ "$(digest_of "$url/ok/disk.qcow2")" = "$expected_qcow2" ] || fail "qcow2 by http"
ferry convert "$url/ok/disk.qcow2" "$T/out.raw" --verify > /dev/null || fail "convert"
qemu-img compare -q "$T/out.raw" "$T/www/disk.qcow2" || fail "convert: other content"
ferry convert "$url/ok/disk.raw" "$T/out.vmdk" --from raw --json > "$T/json" 2> "$T/err" ||
    fail "convert to VMDK"
[ "$(json "$T/json" source)" = "$url/ok/disk.raw" ] || fail "source in JSON"
qemu-img create -q -f qcow2 -b disk.raw -F raw "$T/www/child.qcow2" || fail "child"
expect 3 "allow-external" ferry digest "$url/ok/child.qcow2"
ferry convert "$url/ok/child.qcow2" "$T/child.raw" --allow-external "$url/ok/disk.raw" > /dev/null ||
    fail "a backing file by http"
[ "$(digest_of "$url/ok/empty" --raw)" = "$(digest_of "$T/www/empty" --raw)" ] || fail "an empty file"

# Few requests: in order large ones, tables small ones.
truncate -s 1G "$T/www/sparse.raw"
printf x | dd of="$T/www/sparse.raw" bs=1 seek=900000000 conv=notrunc status=none
qemu-img convert -O qcow2 "$T/www/sparse.raw" "$T/www/sparse.qcow2"
: > "$T/log.http"
same ok/disk.raw --raw
requests=$(grep -c '^ok' "$T/log.http")
[ "$requests" -le 16 ] || fail "$requests requests for $(stat -c %s "$raw") bytes in order"
digest_of "$url/weak/sparse.qcow2" > /dev/null
requests=$(grep -c '^weak' "$T/log.http")
[ "$requests" -le 12 ] || fail "$requests requests for the tables of an empty qcow2"

# ---- Faults that pass ----
same cut/disk.raw --raw
same stall/disk.raw --raw --timeout 1s
for fault in flaky later expired; do
    same $fault/short.qcow2 --raw
done
grep -q '^once .* 403' "$T/log.http" || fail "the address that expired was not met"

# ---- Faults that do not ----
# These take their time, so all at once.
given_up=(
    "tiny:given up after 6 tries"
    "busy:given up after .*status 500"
    "short:given up after .*less than was asked"
    "dies:given up after .*status 503"
    "stalls:given up after .*byte [0-9]+"
)
for line in "${given_up[@]}"; do
    (
        ferry digest "$url/${line%%:*}/disk.raw" --raw --timeout 1s > "$T/slow.${line%%:*}" 2>&1
        echo "status $?" >> "$T/slow.${line%%:*}"
    ) &
done
wait $(jobs -p | grep -vx -f <(printf '%s\n' "${own_pids[@]}"))
for line in "${given_up[@]}"; do
    grep -qE "${line#*:}" "$T/slow.${line%%:*}" && grep -qx "status 1" "$T/slow.${line%%:*}" ||
        fail "$line: $(cat "$T/slow.${line%%:*}")"
done
refused 1 "status 404" ok/nothing
refused 1 "status 403" forbidden/disk.raw
refused 1 "asks for a name and a password" auth/disk.raw
refused 3 "whole files only .*curl URL [|] ferry convert" norange/disk.raw
for fault in changing replaced date-changing grows; do
    refused 3 "changed while it was read" $fault/disk.raw
done
refused 3 "other bytes than" shifted/disk.raw
refused 3 "other bytes than" long/disk.raw
refused 3 "other bytes than" multipart/disk.raw
refused 3 "other bytes than" overflow/disk.raw
refused 3 "larger than a disk may be" huge/disk.raw
refused 3 "does not tell the file's size" unknown/disk.raw
refused 3 "compresses what should come as it is" gzip/disk.raw
refused 3 "more headers than" headers/disk.raw
refused 3 "redirected more than 5 times" loop/disk.raw
refused 3 "does not go: only http and https" to-file/disk.raw
refused 3 "does not go: only http and https" to-ftp/disk.raw
expect 1 "cannot read at byte 0 .*onnect" ferry digest http://127.0.0.1:9/disk.raw
expect 2 "not a URL" ferry digest "http://"
expect 2 "not a URL" ferry digest "http://127.0.0.1:99999/disk.raw"
expect 3 "is cut short" ferry digest "$url/ok/short.qcow2"

# ---- Images ----
truncate -s 1M "$T/small.raw"
ferry pack "$T/www/image.ferry" --disk "$T/small.raw" > /dev/null || fail "no image"
expect 3 "is a ferry image.*download it first" ferry digest "$url/ok/image.ferry"
expect 3 "is a ferry image.*download it first" ferry convert "$url/ok/image.ferry" "$T/x.qcow2"
expect 2 "which is read from a file" ferry convert "$url/ok/disk.raw" "$T/x.qcow2" --disk vda
[ ! -e "$T/x.qcow2" ] || fail "something was written"

# ---- Names, passwords, queries ----
printf 'machine 127.0.0.1 login user password "se cret"\n' > "$T/.netrc"
chmod 600 "$T/.netrc"
refused 1 "asks for a name and a password" auth/disk.raw
secret=http://user:se%20cret@127.0.0.1:$port
ferry digest "$secret/auth/disk.raw?token=hidden" --raw --json > "$T/digest" || fail "with a password"
[ "$(json "$T/digest" digest)" = "$expected" ] || fail "other content with a password"
[ "$(json "$T/digest" file)" = "$url/auth/disk.raw?..." ] || fail "file: $(json "$T/digest" file)"
ferry convert "$secret/auth/disk.raw" "$T/x.qcow2" --from raw --json > "$T/json" 2> "$T/err" ||
    fail "with a password"
for path in forbidden/disk.raw norange/disk.raw loop/disk.raw ok/nothing to-file/disk.raw; do
    ferry digest "$secret/$path?token=hidden" > "$T/out" 2> "$T/err" && fail "$path was read"
    cat "$T/out" "$T/err" >> "$T/all"
done
grep -E 'user|se cret|se%20|hidden' "$T/all" "$T/json" && fail "a secret was shown"

# ---- https ----
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$T/key" -out "$T/cert" -days 2 -subj /CN=x \
    -addext "subjectAltName=IP:127.0.0.1" 2> /dev/null || fail "openssl"
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$T/key2" -out "$T/other" -days 2 -subj /CN=y \
    -addext "subjectAltName=IP:127.0.0.1" 2> /dev/null || fail "openssl"
echo "$url/ok/disk.raw" > "$T/www/to-http"
start_server https "$T/cert" "$T/key"
url=https://127.0.0.1:$port
refused 3 "is not trusted; --cacert" ok/disk.raw
refused 3 "is not trusted; --cacert" ok/disk.raw --cacert "$T/other"
refused 3 "is not trusted; --cacert" ok/disk.raw --cacert "$T/nothing"
same ok/disk.raw --raw --cacert "$T/cert"
refused 3 "from https to https" to-http/disk.raw --cacert "$T/cert"
expect 3 "is not trusted" ferry digest "https://localhost:$port/ok/disk.raw" --cacert "$T/cert"
