#!/bin/bash
# Conversions that are interrupted and taken up again: the file is that of one made in one go.
# (tests/unit/test_resume.c interrupts every format at many places.)
. "$(dirname "$0")/../lib.sh"
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
export no_proxy='*'
mkdir "$T/whole" "$T/www" "$T/src"

# make_raw FILE MIB: noise, text and holes.
make_raw() {
    python3 - "$1" "$2" << 'END'
import random, sys
random.seed(int(sys.argv[2]))
noise = random.randbytes(1 << 20)
with open(sys.argv[1], "wb") as f:
    f.truncate(int(sys.argv[2]) << 20)
    for i in range(int(sys.argv[2])):
        f.seek((i << 20) + 4096)
        kind = i % 4
        if kind != 3:
            f.write(b"text of a guest, line %6d\n" % i * 30000 if kind == 0 else
                    noise[i * 1000:][:600000])
END
}
make_raw "$T/src/disk" 40
make_raw "$T/src/large" 200

# whole SRC NAME OPTION...: what must come of it.  The name is in the identity of some formats.
whole() {
    ferry convert "$1" "$T/whole/$2" --from raw "${@:3}" > /dev/null || fail "convert to $2"
}
same() { # NAME
    cmp "$T/$1" "$T/whole/$1" || fail "$1 is not what it would have been"
    [ ! -e "$T/$1.partial" ] && [ ! -e "$T/$1.resume" ] || fail "$1: something was left behind"
}
resume() { # SRC NAME OPTION...
    ferry convert "$1" "$T/$2" --from raw --resume "${@:3}"
}

# limited KIB SRC NAME OPTION...: the same, where no file may become larger: it is killed there, or,
# with XFSZ ignored, cannot write.
limited() {
    (ulimit -f "$1" && resume "${@:2}")
}

# ---- Killed by the kernel in the middle of a write; no core, and no word of the shell about it ----
ulimit -c 0
for line in raw:150000: vhdx:150000: qcow2:80000:--verify; do
    IFS=: read -r name limit option <<< "$line"
    name=large.$name
    whole "$T/src/large" "$name" $option
    limited $limit "$T/src/large" "$name" $option > "$T/out" 2>&1
    status=$?
    [ $status -gt 128 ] || fail "$name was not killed: status $status ($(cat "$T/out"))"
    [ ! -e "$T/$name" ] || fail "$name is there, though not whole"
    [ "$(stat -c %a "$T/$name.partial" "$T/$name.resume" | sort -u)" = 600 ] || fail "mode"
    resume "$T/src/large" "$name" $option > "$T/out" 2> "$T/err" || fail "resume $name: $(cat "$T/err")"
    grep -qE "going on from [0-9.]+ MiB" "$T/err" || fail "$name began anew: $(cat "$T/err")"
    same "$name"
    rm "$T/$name" "$T/whole/$name"
done

# ---- No room ----
trap '' XFSZ
for line in raw:raw: qcow2:qcow2: zlib:qcow2:--codec=zlib zstd:qcow2:--codec=zstd vmdk:vmdk: vhd:vhd: \
    vhdx:vhdx: vdi:vdi:; do
    IFS=: read -r name format option <<< "$line"
    option=${option/=/ }
    whole "$T/src/disk" "$name" --to "$format" $option
    half=$(($(stat -c %s "$T/whole/$name") / 2048))
    expect 1 "the same command with --resume goes on with it.*cannot write" \
        limited "$half" "$T/src/disk" "$name" --to "$format" $option
    # Again, with a little more room; then with enough.
    expect 1 "the same command with --resume" \
        limited $((half * 5 / 4)) "$T/src/disk" "$name" --to "$format" $option
    resume "$T/src/disk" "$name" --to "$format" $option --json > "$T/json" 2> "$T/err" ||
        fail "$name: $(cat "$T/err")"
    grep -q "going on from" "$T/err" || fail "$name began anew"
    ferry convert "$T/src/disk" "$T/whole/$name" --from raw --to "$format" $option --json > "$T/json2"
    for key in bytes content_bytes written_bytes; do
        [ "$(json "$T/json" $key)" = "$(json "$T/json2" $key)" ] || fail "$name: $key"
    done
    same "$name"
done

# A disk that is full, where a small one can be mounted.
cat > "$T/full.sh" << 'END'
mount -t tmpfs -o size=12m none "$2" || exit 77
"$1" convert "$3" "$2/full.qcow2" --from raw --resume > "$2.out" 2>&1
[ $? = 1 ] || exit 2
grep -q "the same command with --resume.*No space left" "$2.out" || exit 3
mount -o remount,size=100m "$2" || exit 4
"$1" convert "$3" "$2/full.qcow2" --from raw --resume > "$2.out" 2>&1 || exit 5
grep -q "going on from" "$2.out" || exit 6
cmp "$2/full.qcow2" "$4" || exit 7
END
mkdir "$T/small"
whole "$T/src/disk" full.qcow2
unshare -rm sh "$T/full.sh" "$FERRY" "$T/small" "$T/src/disk" "$T/whole/full.qcow2" 2> "$T/err"
case $? in
0 | 1 | 77) ;; # 1: no namespaces for us
*) fail "a full disk: $(cat "$T/small.out" "$T/err")" ;;
esac

# ---- Not the same any more ----
refused() { # STATUS TEXT SRC NAME OPTION...
    expect "$1" "$2" resume "${@:3}"
    [ ! -e "$T/$4" ] || fail "$4 is there"
}
expect 1 "with --resume" limited 6000 "$T/src/disk" other.qcow2
refused 3 "was begun with --codec none, now it is 'zlib'" "$T/src/disk" other.qcow2 --codec zlib
refused 3 "was begun with --cluster 0, now it is 4096" "$T/src/disk" other.qcow2 --cluster 4K
refused 3 "was begun with --verify 'not given', now it is 'given'" "$T/src/disk" other.qcow2 --verify
refused 3 "was begun with --to 'qcow2', now it is 'raw'" "$T/src/disk" other.qcow2 --to raw
cp "$T/src/disk" "$T/src/copy"
refused 3 "was begun with SRC" "$T/src/copy" other.qcow2
touch "$T/src/disk"
refused 3 "was begun with SRC's time of change" "$T/src/disk" other.qcow2
rm "$T/other.qcow2.partial" "$T/other.qcow2.resume"
resume "$T/src/disk" other.qcow2 > /dev/null || fail "anew"
# Nothing is left of what was refused before it began.
expect 2 "must be a power of two" resume "$T/src/disk" strange.qcow2 --cluster 3K
[ ! -e "$T/strange.qcow2.partial" ] && [ ! -e "$T/strange.qcow2.resume" ] || fail "something was left"
expect 2 "needs a file" ferry convert "$T/src/disk" - --to raw --resume
ferry convert - "$T/stdin.qcow2" --from raw --resume < "$T/src/disk" > "$T/out" 2>&1 && fail "stdin"
grep -q "needs SRC by name" "$T/out" || fail "stdin: $(cat "$T/out")"
echo "a diary" > "$T/mine.qcow2.resume"
refused 3 "not the journal of a conversion" "$T/src/disk" mine.qcow2
[ "$(cat "$T/mine.qcow2.resume")" = "a diary" ] || fail "a file of the user's was overwritten"

# ---- A compressed file, which is read in order ----
xz -0 -k "$T/src/disk"
whole "$T/src/disk" unwrapped.qcow2 --codec zlib
unwrap() {
    ferry convert "$T/src/disk.xz" "$T/unwrapped.qcow2" --codec zlib --size 40M --resume
}
unwrap_limited() {
    (ulimit -f 6000 && unwrap)
}
expect 1 "with --resume" unwrap_limited
unwrap > /dev/null 2> "$T/err" || fail "xz: $(cat "$T/err")"
grep -q "going on from" "$T/err" || fail "xz: began anew"
same unwrapped.qcow2

# ---- A server that goes away ----
cp "$T/src/disk" "$T/www/"
background python3 tests/cli/http_server.py "$T/www" "$T/port" "$T/log"
wait_for 30 [ -e "$T/port" ]
url=http://127.0.0.1:$(cat "$T/port")
whole "$T/src/disk" web.vmdk --verify
expect 1 "the same command with --resume.*given up after 6 tries" resume "$url/breaks/disk" web.vmdk --verify
touch "$T/www/healed"
: > "$T/log"
resume "$url/breaks/disk" web.vmdk --verify > /dev/null 2> "$T/err" || fail "web: $(cat "$T/err")"
grep -q "going on from" "$T/err" || fail "web: began anew"
# 8 MiB at least need not come again.
bytes=$(sed -n 's/^breaks bytes=\([0-9]*\)-\([0-9]*\) 206/\1 \2/p' "$T/log" | awk '{sum += $2 - $1 + 1} END {print sum}')
[ "$bytes" -le $((34 << 20)) ] || fail "$bytes bytes came again"
same web.vmdk
rm "$T/www/healed" "$T/web.vmdk"
refused 2 "gives neither ETag nor Last-Modified" "$url/bare/disk" web.vmdk
