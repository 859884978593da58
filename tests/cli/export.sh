#!/bin/bash
# Machines out and in again, in every format of machines: equal digests, through files and pipes, from
# images, pipes and machines that run; and what must be refused, without a trace.
. "$(dirname "$0")/../lib.sh"
command -v qemu-img > /dev/null || skip "no qemu-img"
cd "$T" || exit 1

# A machine with two disks, one of an odd number of 4 KiB blocks and with holes, and a kernel.
python3 - << 'END'
import random
rng = random.Random(4)
with open("a.raw", "wb") as f:
    f.truncate(70 << 20)
    for at in (0, 3 << 20, (64 << 20) - 4096, (70 << 20) - 512):
        f.seek(at)
        f.write((rng.randbytes(40000) + b"text " * 9000)[: (70 << 20) - at])
with open("b.raw", "wb") as f:
    f.truncate(5 * 1000 * 1024 + 512)
    f.write(rng.randbytes(300000))
open("kernel", "wb").write(rng.randbytes(100000))
END
ferry pack web.ferry --name web --cpus 2 --memory 96M --disk a.raw,serial=S1 --disk b.raw,readonly --kernel kernel \
    --append "console=ttyS0 quiet" > /dev/null || fail "pack"
ferry pack bare.ferry --name bare --disk a.raw > /dev/null || fail "pack without kernel"
digest() {
    ferry digest "$1" | awk '$3 == "disk" {print $4, $1}'
}
root=$(digest web.ferry)
[ "$(wc -l <<< "$root")" = 2 ] || fail "two disks: $root"

# Every format that is read gives all disks back; what describes the machine comes back from all.
for to in ova ovf xva oci oci-folder libvirt vmx; do
    ferry export web.ferry "out.$to" --to $to --verify > /dev/null 2> notes || fail "export to $to: $(cat notes)"
    ferry import "out.$to" "back.$to.ferry" > /dev/null 2>&1 || fail "import from $to"
    [ "$(digest "back.$to.ferry")" = "$root" ] || fail "$to: other content comes back"
    ferry inspect "back.$to.ferry" --json > "$to.json" || fail "inspect $to"
    python3 - $to << 'END' || fail "$to: another machine comes back"
import json, sys
machine = json.load(open(sys.argv[1] + ".json"))["manifest"]["machine"]
assert machine["name"] == "web" and machine["cpus"] == 2 and machine["memory_bytes"] == 96 << 20, machine
assert [d["size_bytes"] for d in machine["disks"]] == [70 << 20, 5 * 1000 * 1024 + 512], machine
END
    [ "$(digest "out.$to")" = "$root" ] || fail "digest of $to"
    # The same machine, the same bytes.
    ferry export web.ferry "again.$to" --to $to > /dev/null 2>&1 || fail "export to $to again"
    diff -r "out.$to" "again.$to" > /dev/null || fail "$to: other bytes the second time"
done
for to in ova ovf oci oci-folder libvirt; do # those with a place for it, or that let ferry make one
    ferry extract "back.$to.ferry" kernel - 2> /dev/null | cmp -s - kernel || fail "$to: the kernel does not come back"
done
for to in xl vagrant; do
    ferry export web.ferry "out.$to" --to $to > /dev/null 2> notes || fail "export to $to: $(cat notes)"
    expect 2 "written, but not read" ferry import "out.$to" none.ferry --from $to
done

piped() { # FILE ARGUMENT...
    cat "$1" | ferry "${@:2}"
}

# The disks as others see them.
mkdir seen && tar -xf out.ova -C seen || fail "tar of the OVA"
(cd seen && sed -n 's/^SHA256(\(.*\))= \(.*\)$/\2  \1/p' web.mf | sha256sum -c --quiet) || fail "sums of the OVA"
same() { # RAW FILE FORMAT
    qemu-img compare -q -f raw -F "$3" "$1" "$2" || fail "$2 is not $1"
}
same a.raw seen/web-disk1.vmdk vmdk
same a.raw "$(ls out.libvirt/*0.qcow2)" qcow2
same b.raw "$(ls out.libvirt/*1.qcow2)" qcow2
same a.raw "$(ls out.vmx/*.vmdk | head -n 1)" vmdk
same a.raw "$(ls out.xl/* | grep -v cfg | head -n 1)" raw

# Through pipes: in pieces, whole, and in again.
for to in ova xva oci; do
    ferry export web.ferry - --to $to 2> /dev/null > "pipe.$to" || fail "$to to a pipe"
    ferry import "pipe.$to" "pipe.$to.ferry" > /dev/null 2>&1 || fail "$to from a file that a pipe wrote"
    [ "$(digest "pipe.$to.ferry")" = "$root" ] || fail "$to by a pipe: other content"
    ferry export web.ferry - --to $to --whole 2> /dev/null > "whole.$to" || fail "$to whole to a pipe"
    ferry import "whole.$to" - 2> /dev/null | ferry digest - | awk "/: disk / {print \$NF, \$1}" > whole.digest
    [ "$(sort whole.digest)" = "$(sort <<< "$root")" ] || fail "$to whole: other content"
done
for to in ova xva; do
    ferry import - "in.$to.ferry" < <(cat "pipe.$to") > /dev/null 2>&1 || fail "$to from a pipe"
    [ "$(digest "in.$to.ferry")" = "$root" ] || fail "$to from a pipe: other content"
    gzip -c "out.$to" | ferry import - "gz.$to.ferry" > /dev/null 2>&1 || fail "$to, compressed, from a pipe"
    [ "$(digest "gz.$to.ferry")" = "$root" ] || fail "$to, compressed: other content"
done
cat web.ferry | ferry export - stream.ova --verify > /dev/null 2>&1 || fail "an image from a pipe"
cmp -s stream.ova out.ova || fail "an image from a pipe makes another OVA"
head -c -100 web.ferry > short.ferry
head -c 100000 web.ferry > half.ferry
for short in short half; do
    expect 3 "" piped $short.ferry export - none.ova
    [ ! -e none.ova ] || fail "a $short image was exported"
done
expect 3 "cannot be read from a pipe" piped out.oci import - none.ferry

# From one to another, without a stop between.
ferry import out.ova - 2> /dev/null | ferry export - chain.xva 2> /dev/null > /dev/null || fail "OVA to XVA"
ferry import chain.xva chain.ferry > /dev/null 2>&1 && [ "$(digest chain.ferry)" = "$root" ] || fail "OVA to XVA: other content"

# A single disk, and a machine made of one.
ferry export web.ferry one.qcow2 --disk vdb --verify > /dev/null 2>&1 || fail "one disk"
same b.raw one.qcow2 qcow2
expect 2 "say which one" ferry export web.ferry none.qcow2
ferry import one.qcow2 one.ferry --name one --memory 32M > /dev/null 2>&1 || fail "a machine of one disk"
[ "$(ferry digest one.qcow2 | cut -d ' ' -f 1)" = "$(digest one.ferry | cut -d ' ' -f 2)" ] || fail "one disk: other content"

# What is lost is told, before and at the time.
ferry export bare.ferry x.ova --check-only | grep -q "SATA" || fail "--check-only"
[ ! -e x.ova ] || fail "--check-only wrote something"
ferry export web.ferry x.xva --check-only --json | python3 -c 'import json, sys; assert json.load(sys.stdin)["losses"]' ||
    fail "--check-only --json"

# Damaged, and what would lead elsewhere: refused, with nothing left behind.
refuse() { # STATUS WORDS SRC
    expect "$1" "$2" ferry import "$3" refused.ferry
    [ ! -e refused.ferry ] || fail "$3: something was written"
    [ -z "$(find . -maxdepth 1 -name '.*tmp*')" ] || fail "$3: something was left behind"
}
python3 - << 'END'
data = bytearray(open("out.ova", "rb").read())
data[len(data) // 2] ^= 1
open("flip.ova", "wb").write(data)
open("cut.ova", "wb").write(data[: len(data) * 2 // 3])
END
refuse 3 "" flip.ova
refuse 3 "" cut.ova
expect 3 "" piped flip.ova import - refused.ferry
[ ! -e refused.ferry ] || fail "a damaged OVA from a pipe left an image"
cp -r out.libvirt away
for path in /etc/passwd ../a.raw /dev/zero; do
    sed "s,file=\"[^\"]*0.qcow2\",file=\"$path\"," out.libvirt/domain.xml > away/domain.xml
    refuse 3 "" away
done
mkdir deep && ln -s /etc/passwd deep/link && tar -cf links.ova -C deep link
refuse 3 "" links.ova
expect 1 "already" ferry export web.ferry out.libvirt --to libvirt
[ -e out.libvirt/domain.xml ] || fail "a folder that was there is gone"
expect 2 "is a folder" ferry export web.ferry - --to libvirt
expect 2 "not a format" ferry export web.ferry x --to nothing
expect 2 "written, but not read" ferry export web.ferry x.box --verify
expect 1 "" ferry export web.ferry /nowhere/x.ova

# Of a machine that runs, and goes on.
if [ -w /dev/kvm ] && [ -e "$PAYLOAD" ]; then
    cp a.raw live.raw
    ferry run --name live --kernel "$PAYLOAD" --memory 16M --disk live.raw --serial none --detach > /dev/null || fail "run"
    ferry export live live.ova --verify > /dev/null 2>&1 || fail "export of a machine that runs"
    ferry export live live.qcow2 --verify > /dev/null 2>&1 || fail "its disk alone"
    expect 0 "live: running" ferry status live
    ferry import live.ova live.ferry > /dev/null 2>&1 || fail "import of it"
    [ "$(digest live.ferry | cut -d ' ' -f 2)" = "$(head -n 1 <<< "$root" | cut -d ' ' -f 2)" ] || fail "live: other content"
    ferry extract live.ferry kernel - 2> /dev/null | cmp -s - "$PAYLOAD" || fail "live: another kernel"
    touch live
    expect 2 "is a running machine, and a file here" ferry export live x.ova
    rm live
    ferry kill live > /dev/null || fail "kill"
fi

# And from a web server.
mkdir www && cp out.ova www/ && cp one.qcow2 www/
background python3 "$OLDPWD/tests/cli/http_server.py" "$T/www" "$T/port" "$T/log"
wait_for 10 test -s "$T/port"
url=http://127.0.0.1:$(cat "$T/port")
ferry import "$url/ok/out.ova" url.ferry > /dev/null 2>&1 || fail "import of a URL"
[ "$(digest url.ferry)" = "$root" ] || fail "import of a URL: other content"
ferry import "$url/ok/one.qcow2" urldisk.ferry > /dev/null 2>&1 || fail "import of a disk's URL"
[ "$(digest urldisk.ferry)" = "$(digest one.ferry)" ] || fail "import of a disk's URL: other content"
exit 0
