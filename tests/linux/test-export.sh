#!/bin/bash
# A machine made with ferry run goes out to an OVA and to a libvirt domain with qcow2, is booted by
# QEMU from what is in them, and comes back with the digest it had.
. "$(dirname "$0")/../lib.sh"
linux=$BUILD/linux
make -s --no-print-directory O="$BUILD" linux-export || fail "could not prepare the Linux guest"
echo 1..8
count=0
ok() {
    count=$((count + 1))
    echo "ok $count - $*"
}
no() {
    count=$((count + 1))
    echo "not ok $count - $*"
}
tell() { # WHAT COMMAND...
    local what=$1
    shift
    if "$@"; then ok "$what"; else no "$what"; fi
}
quiet() {
    "$@" > /dev/null
}
disk=$T/disk.raw
cp --sparse=always "$linux/boot.raw" "$disk"
sum=$(sha256sum < "$disk" | cut -d ' ' -f 1)
digest=$(ferry digest "$disk" | cut -d ' ' -f 1)

boot() { # LOG QEMU_OPTION...
    local log=$1
    shift
    timeout 150 qemu-system-x86_64 -nodefaults -no-user-config -display none -serial stdio -no-reboot \
        -accel tcg,thread=multi -M q35 "$@" < /dev/null 2> "$log.err" | tr -d '\r' > "$log"
    grep -q "guest: disk $sum" "$log" || { tail -n 5 "$log" "$log.err" >&2; return 1; }
}
same_digest() { # IMAGE
    [ "$(ferry digest "$1" | sed -n 's/^\([0-9a-f]*\) .*disk vda$/\1/p')" = "$digest" ]
}

# As an OVA, of the running machine where there is KVM.
source=$T/web.ferry
if [ -w /dev/kvm ]; then
    source=web
    ferry run --name web --kernel "$PAYLOAD" --memory 256M --disk "$disk" --serial none --detach > /dev/null ||
        fail "run"
else
    ferry pack "$source" --name web --memory 256M --disk "$disk" > /dev/null || fail "pack"
fi
tell "export to OVA" quiet ferry export "$source" "$T/web.ova" --verify
[ "$source" = "$T/web.ferry" ] || tell "the machine runs on" test "$(ferry status web --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["state"])')" = running
[ "$source" = "$T/web.ferry" ] || ferry kill web > /dev/null
mkdir "$T/ova"
tar -xf "$T/web.ova" -C "$T/ova"
started() { # LOG HOW
    grep -q "guest: started $2" "$1"
}
tell "QEMU boots the disk of the OVA" boot "$T/ova.log" -m 256 \
    -drive "file=$(ls "$T"/ova/*.vmdk),format=vmdk,if=virtio,snapshot=on"
tell "by itself" started "$T/ova.log" by-itself
ferry import "$T/web.ova" "$T/back.ferry" > /dev/null 2>&1 || fail "import of the OVA"
tell "the OVA comes back with its digest" same_digest "$T/back.ferry"

# As a libvirt domain, with its kernel.
ferry pack "$T/kernel.ferry" --name web --memory 256M --disk "$disk" --kernel "$linux/vmlinuz" \
    --initrd "$linux/export.cpio.xz" --append "console=ttyS0 quiet panic=-1 started=by-kernel" > /dev/null ||
    fail "pack"
ferry export "$T/kernel.ferry" "$T/domain" --to libvirt > /dev/null || fail "export to libvirt"
# The domain as options of QEMU, as far as this test needs them.
python3 - "$T/domain" > "$T/options" << 'END'
import glob, os, sys, xml.etree.ElementTree as xml
folder = sys.argv[1]
domain = xml.parse(glob.glob(os.path.join(folder, "*.xml"))[0]).getroot()
at = lambda name: os.path.join(folder, os.path.basename(name))
memory = domain.find("memory")
scale = {"b": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[memory.get("unit", "KiB")]
options = ["-m", str(int(memory.text) * scale >> 20), "-smp", domain.find("vcpu").text]
boot = domain.find("os")
for tag, option in (("kernel", "-kernel"), ("initrd", "-initrd")):
    options += [option, at(boot.find(tag).text)]
options += ["-append", boot.find("cmdline").text]
for disk in domain.findall("devices/disk"):
    options += ["-drive", "file=%s,format=%s,if=virtio,snapshot=on" % (
        at(disk.find("source").get("file")), disk.find("driver").get("type"))]
print("\n".join(options))
END
mapfile -t options < "$T/options"
tell "QEMU boots the libvirt domain" boot "$T/domain.log" "${options[@]}"
tell "by its kernel" started "$T/domain.log" by-kernel
ferry import "$T/domain" "$T/again.ferry" > /dev/null 2>&1 || fail "import of the domain"
tell "the domain comes back with its digest" same_digest "$T/again.ferry"
[ "$count" = 8 ] || ok "no running machine: no KVM here # SKIP"
