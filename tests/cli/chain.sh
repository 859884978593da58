#!/bin/bash
# Images that build on others, by the commands: --base, flatten, rebase, --search-path, refusals.
. "$(dirname "$0")/../lib.sh"
cd "$T" || exit 1
same() { cmp "$1" "$2" || fail "$1 and $2 differ"; }
pack() { ferry pack "$@" --name m > /dev/null || fail "pack $*"; }

truncate -s 512M disk.raw
head -c 40M /dev/urandom | dd of=disk.raw bs=1M seek=100 conv=notrunc status=none
pack monday.ferry --disk disk.raw
# 113 scattered writes of 256 KiB.
python3 - disk.raw << 'EOF'
import os, random, sys
random.seed(1)
with open(sys.argv[1], "r+b") as disk:
    for _ in range(113):
        disk.seek(random.randrange(512 * 4) * 262144)
        disk.write(os.urandom(262144))
EOF
pack tuesday.ferry --disk disk.raw --base monday.ferry
[ "$(stat -c %s tuesday.ferry)" -le $((40 << 20)) ] || fail "a child of $(stat -c %s tuesday.ferry) bytes"
pack tuesday-again.ferry --disk disk.raw --base monday.ferry
same tuesday.ferry tuesday-again.ferry
rm tuesday-again.ferry
cp disk.raw tuesday.raw
dd if=/dev/zero of=disk.raw bs=1M seek=110 count=3 conv=notrunc status=none
pack wednesday.ferry --disk disk.raw --base tuesday.ferry
[ "$(stat -c %s wednesday.ferry)" -lt 20000 ] || fail "zeroes cost $(stat -c %s wednesday.ferry) bytes"

for day in tuesday wednesday; do
    ferry verify $day.ferry > /dev/null || fail "verify $day"
    zstd -qt $day.ferry || fail "zstd does not take $day"
done
ferry extract wednesday.ferry vda out > /dev/null || fail "extract of a child"
same out disk.raw
ferry extract - vda out --search-path . < wednesday.ferry > /dev/null || fail "extract from a pipe"
same out disk.raw
digest=$(ferry digest --raw disk.raw | cut -d' ' -f1)
ferry digest wednesday.ferry | grep -q "^$digest .* vda" || fail "digest of a child"
expect 0 "builds on $(ferry digest tuesday.ferry | head -1 | cut -d' ' -f1)" ferry inspect wednesday.ferry
expect 1 "disk vda" ferry diff tuesday.ferry wednesday.ferry

# Whole again, and on another base.
root=$(ferry digest wednesday.ferry | head -1 | cut -d' ' -f1)
ferry flatten wednesday.ferry whole.image --json > result || fail "flatten"
[ "$(json result root)" = "$root" ] || fail "the root of what is flat"
ferry flatten wednesday.ferry - | ferry verify - > /dev/null || fail "flatten to a pipe"
ferry rebase wednesday.ferry other.ferry --base monday.ferry > /dev/null || fail "rebase"
mkdir away
mv tuesday.ferry away
expect 3 "neither beside it nor in --search-path" ferry extract wednesday.ferry vda -
expect 0 "builds on" ferry inspect wednesday.ferry
ferry extract wednesday.ferry vda - --search-path away | cmp - disk.raw || fail "--search-path"
ferry extract other.ferry vda - | cmp - disk.raw || fail "what was rebased"
ferry rebase other.ferry other.ferry --base away/tuesday.ferry > /dev/null 2> err && fail "its base's base is not there"
ferry rebase other.ferry other.ferry --base away/tuesday.ferry --search-path . > /dev/null || fail "rebase in place"
ferry extract other.ferry vda - --search-path away | cmp - disk.raw || fail "what was rebased in place"
ferry extract whole.image vda - | cmp - disk.raw || fail "what is flat"

# Sealed: one secret for the chain.
head -c 32 /dev/urandom > key
pack sealed.ferry --disk disk.raw --key-file key
pack child.ferry --disk tuesday.raw --base sealed.ferry --key-file key
ferry extract child.ferry vda - --key-file key | cmp - tuesday.raw || fail "a sealed child"
expect 2 "say --encrypt" ferry flatten child.ferry open.image --key-file key
ferry flatten child.ferry flat.ferry --key-file key --encrypt > /dev/null || fail "flatten of a sealed one"
ferry extract flat.ferry vda - --key-file key | cmp - tuesday.raw || fail "a sealed flat one"

# Refusals
expect 2 "--base is missing" ferry rebase other.ferry no.ferry
expect 2 "cannot come from a pipe" ferry flatten - no.ferry
expect 2 "cannot both go to stdout" ferry flatten whole.image - --json
expect 3 "not a ferry image" ferry pack no.ferry --disk disk.raw --base disk.raw
expect 1 "cannot open" ferry pack no.ferry --disk disk.raw --base nothing.ferry
printf x | dd of=monday.ferry bs=1 seek=40 conv=notrunc status=none
expect 3 "no good.*monday" ferry verify away/tuesday.ferry --search-path .
[ ! -e no.ferry ] || fail "a refused image is there"

# A machine: what it has not touched is not stored again.
[ -r /dev/kvm ] && [ -w /dev/kvm ] || exit 0
ferry run --name one --kernel "$PAYLOAD" --memory 64M --append "fill=32 ws=1 period=20" --disk tuesday.raw \
    --serial "file:$T/serial.log" --detach > /dev/null || fail "run"
wait_for 20 at_tick "$T/serial.log" 3
ferry snapshot one base.ferry > /dev/null || fail "snapshot"
ferry snapshot one next.ferry --base base.ferry > /dev/null || fail "snapshot --base"
[ $(($(stat -c %s next.ferry) * 3)) -lt "$(stat -c %s base.ferry)" ] || fail "a child of $(stat -c %s next.ferry) bytes"
ferry kill one > /dev/null
ferry verify next.ferry > /dev/null || fail "verify of a machine's child"
tick=$(tail -1 serial.log | cut -d' ' -f2)
expect 0 "one" ferry restore next.ferry --detach --serial "file:$T/serial2.log"
wait_for 20 test -s serial2.log
cmp next.ferry.vda.raw tuesday.raw || fail "the restored disk"
ferry kill one > /dev/null
