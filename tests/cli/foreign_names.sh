#!/bin/bash
# Disks that name files and places which are not theirs: none is opened but by leave, as the kernel
# (inotify) and listeners on loopback say.  And disks that would be without end if one let them.
. "$(dirname "$0")/../lib.sh"
command -v qemu-img > /dev/null || skip "no qemu-img"

mkdir "$T/secret"
head -c 1048576 /dev/urandom > "$T/secret/disk"
python3 - "$FERRY" "$T" << 'END' || fail "see above"
import ctypes, os, socket, struct, subprocess, sys

ferry, folder = sys.argv[1:]
secret = f"{folder}/secret/disk"
libc = ctypes.CDLL(None, use_errno=True)
watch = libc.inotify_init1(os.O_NONBLOCK)
IN_ALL = 0xFFF
assert watch >= 0 and libc.inotify_add_watch(watch, f"{folder}/secret".encode(), IN_ALL) >= 0
listener = socket.create_server(("127.0.0.1", 0))
listener.setblocking(False)
port = listener.getsockname()[1]


def touched():
    """Was the secret, or its folder, opened, or a connection made?"""
    seen = False
    try:
        seen = bool(os.read(watch, 65536))
    except BlockingIOError:
        pass
    try:
        listener.accept()[0].close()
        seen = True
    except BlockingIOError:
        pass
    return seen


def run(*arguments):
    done = subprocess.run([ferry, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          timeout=60, cwd=folder)
    return done.returncode, done.stderr


def never(path, status, says, *options):
    """The file is refused (or read), and the secret is not touched."""
    out = path + ".out"
    for command in (["convert", path, out, "--to", "raw", *options], ["digest", path]):
        got, text = run(*command)
        if touched():
            sys.exit(f"{command}: something that the disk names was opened")
        if got != status or says not in text:
            sys.exit(f"{command}: status {got}, {text}")


def img(*arguments):
    subprocess.run(["qemu-img", *arguments], check=True, stdout=subprocess.DEVNULL)
    touched()  # qemu-img may look


names = [secret, "secret/disk", "../" + os.path.basename(folder) + "/secret/disk", f"file:{secret}",
         'json:{"driver":"file","filename":"%s"}' % secret, f"http://127.0.0.1:{port}/disk",
         f"nbd://127.0.0.1:{port}/disk", f"nbd:127.0.0.1:{port}", "/etc/passwd", "/dev/zero"]
tried = 0
for name in names:
    # qcow2: a backing file, an external data file.
    path = f"{folder}/backing.qcow2"
    img("create", "-q", "-f", "qcow2", path, "1M")
    img("rebase", "-u", "-b", name, "-F", "raw", path)
    never(path, 3, "builds on '")
    path = f"{folder}/data.qcow2"
    img("create", "-q", "-f", "qcow2", "-o", f"data_file={folder}/x,data_file_raw=on", path, "1M")
    data = bytearray(open(path, "rb").read())
    at = data.index(b"DATA")
    struct.pack_into(">I", data, at + 4, len(name))
    data[at + 8 : at + 8 + len(name) + 16] = name.encode() + bytes(16)
    open(path, "wb").write(data)
    never(path, 3, "in another file, '")
    # VMDK: flat extents, of one or several, a parent, and an extent's name in a sparse one.
    def text(create, extents, parent=""):
        cid = "12345678" if parent else "ffffffff"
        return f'# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID={cid}\n{parent}createType="{create}"\n{extents}\n'
    for create, extents, says in (
        ("monolithicFlat", f'RW 2048 FLAT "{name}" 0', "keeps its content in '"),
        ("vmfs", f'RW 2048 VMFS "{name}"', "keeps its content in '"),
        ("twoGbMaxExtentFlat", f'RW 1024 FLAT "{name}" 0\nRW 1024 FLAT "{name}" 1024', "in 2 extents"),
        ("monolithicSparse", f'RW 2048 SPARSE "{name}"', "is not read through its descriptor"),
        ("fullDevice", f'RW 2048 FLAT "{name}" 0', "keeps its content in '"),
    ):
        path = f"{folder}/descriptor.vmdk"
        open(path, "w").write(text(create, extents))
        never(path, 3, says)
    path = f"{folder}/delta.vmdk"
    img("create", "-q", "-f", "vmdk", path, "1M")
    data = bytearray(open(path, "rb").read())
    for body, status, says in (
        (text("monolithicSparse", 'RW 2048 SPARSE "a"', f'parentFileNameHint="{name}"\n'), 3, "delta disk on parent '"),
        (text("monolithicSparse", f'RW 2048 SPARSE "{name}"'), 0, ""),
    ):
        data[512 : 512 + 10240] = body.encode().ljust(10240, b"\0")
        open(path, "wb").write(data)
        never(path, status, says)
    # VHD: the parent's name, and a locator that is a path.
    path = f"{folder}/child.vhd"
    img("create", "-q", "-f", "vpc", path, "4M")
    data = bytearray(open(path, "rb").read())
    def mend(at, size, sum_at):
        data[at + sum_at : at + sum_at + 4] = bytes(4)
        struct.pack_into(">I", data, at + sum_at, ~sum(data[at : at + size]) & 0xFFFFFFFF)
    for at in (0, len(data) - 512):
        struct.pack_into(">I", data, at + 60, 4)
        mend(at, 512, 64)
    wide = name.encode("utf-16-be")[:512]
    data[576 : 576 + len(wide)] = wide
    data[512 + 576 : 512 + 600] = struct.pack(">4sIIIQ", b"W2ku", 512, 2 * len(name), 0, 65536)
    data += bytes(65536 + 512 - len(data)) if len(data) < 66048 else b""
    data[65536 : 65536 + 2 * len(name)] = name.encode("utf-16-le")
    mend(512, 1024, 36)
    data[-512:] = data[:512]
    open(path, "wb").write(data)
    never(path, 3, "builds on '")
    # VDI: a child.
    path = f"{folder}/child.vdi"
    img("create", "-q", "-f", "vdi", path, "1M")
    data = bytearray(open(path, "rb").read())
    data[84 : 84 + len(name)] = name.encode()  # its description
    struct.pack_into("<I", data, 76, 4)
    open(path, "wb").write(data)
    never(path, 3, "differencing")
    tried += 1

# This check can fail: what is named on the command line is opened.
path = f"{folder}/backing.qcow2"
img("rebase", "-u", "-b", "nothing", "-F", "raw", path)
status, text = run("convert", path, path + ".out", "--to", "raw", "--allow-external", secret)
if status or not touched():
    sys.exit(f"an allowed file is not opened, or that is not seen: {status} {text}")
print(f"{tried} names, none opened")
END

# A raw disk whose guest wrote the header of a qcow2 over it is content: below a qcow2 and a flat
# VMDK that say so, and wherever --from raw does.
qemu-img create -q -f qcow2 -b "$T/secret/disk" -F raw "$T/header" 1M
cp "$T/header" "$T/base.raw"
truncate -s 1M "$T/base.raw"
qemu-img create -q -f qcow2 -b "$T/base.raw" -F raw "$T/over.qcow2"
expect 0 "raw" ferry convert "$T/over.qcow2" "$T/over.raw" --allow-external "$T/base.raw"
cmp "$T/over.raw" "$T/base.raw" || fail "a raw backing file is taken for what its guest wrote to it"
for start in header '\x1f\x8b\x08' 'conectix'; do
    [ "$start" = header ] || printf "$start" | dd of="$T/base.raw" conv=notrunc status=none
    printf '# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 2048 FLAT "x" 0\n' > "$T/flat.vmdk"
    expect 0 "raw" ferry convert "$T/flat.vmdk" "$T/flat.raw" --allow-external "$T/base.raw"
    cmp "$T/flat.raw" "$T/base.raw" || fail "a flat extent is taken for what its guest wrote to it"
    for to in raw qcow2 vmdk vhd vhdx vdi; do
        expect 0 "$to" ferry convert "$T/base.raw" "$T/as.$to" --from raw --to $to
        expect 0 "raw" ferry convert "$T/as.$to" "$T/back" --from $to --to raw
        cmp "$T/back" "$T/base.raw" || fail "--from raw looks inside: $to"
    done
done
expect 2 "its name does not tell" ferry convert "$T/base.raw" "$T/noname" --from raw

# A chain, each file by leave.
qemu-img create -q -f qcow2 "$T/one.qcow2" 4M
qemu-io -c 'write -P 1 0 4M' "$T/one.qcow2" > "$T/out"
qemu-img create -q -f qcow2 -b "$T/one.qcow2" -F qcow2 "$T/two.qcow2" 5M
qemu-io -c 'write -P 2 1M 1M' "$T/two.qcow2" > "$T/out"
qemu-img create -q -f qcow2 -b "$T/two.qcow2" -F qcow2 -o cluster_size=2M "$T/three.qcow2" 6M
qemu-io -c 'write -P 3 3M 70K' -c 'write -z 100K 10K' "$T/three.qcow2" > "$T/out"
qemu-img convert -O raw "$T/three.qcow2" "$T/three.raw"
expect 3 "three.qcow2: builds on '.*two" ferry convert "$T/three.qcow2" "$T/x.raw"
expect 3 "two.qcow2: builds on '.*one" ferry convert "$T/three.qcow2" "$T/x.raw" --allow-external "$T/two.qcow2"
expect 0 "raw" ferry convert "$T/three.qcow2" "$T/x.raw" --allow-external "$T/two.qcow2" --allow-external "$T/one.qcow2"
cmp "$T/x.raw" "$T/three.raw" || fail "a chain has other content"
expect 2 "builds on no other file" ferry convert "$T/three.qcow2" "$T/x.raw" --allow-external "$T/two.qcow2" \
    --allow-external "$T/one.qcow2" --allow-external "$T/one.qcow2"
for kind in raw vmdk vhd vhdx vdi; do
    ferry convert "$T/three.raw" "$T/k.$kind" > "$T/out" || fail "convert to $kind"
    expect 2 "no other file" ferry convert "$T/k.$kind" "$T/x.raw" --from $kind --allow-external "$T/one.qcow2"
done

# Small files that say that they hold very much: all entries of a table are one block, all tables
# one table.  Refused long before they end.
python3 - "$T" << 'END'
import struct, sys, zlib
folder = sys.argv[1]
def write(name, size, *parts):
    with open(f"{folder}/{name}", "wb") as f:
        f.truncate(size)
        for at, data in parts:
            f.seek(at)
            f.write(data)
M = 1 << 20
# VDI: 1 TiB of blocks of 1 MiB, each the first one (its map is a hole of the file).
write("bomb.vdi", 8 * M, (64, struct.pack("<IIIII", 0xBEDA107F, 0x10001, 400, 1, 0)),
      (340, struct.pack("<IIIIIIIQIIII", 512, 6 * M, 0, 0, 0, 512, 0, 1 << 40, M, 0, M, M)), (6 * M, b"x" * M))
def qcow2(name, entry, features=0, kind=0, more=b""):
    # 32 TiB in clusters of 64 KiB: 65536 L1 entries name one L2 table, whose entries one cluster.
    header = struct.pack(">4sIQIIQIIQQIIQQQQIIB7x", b"QFI\xfb", 3, 0, 0, 16, 32 << 40, 0, 65536, 65536, 3 << 16, 1,
                         0, 0, features, 0, 0, 4, 112, kind)
    write(name, M, (0, header), (65536, struct.pack(">Q", 1 << 63 | 10 << 16) * 65536),
          (10 << 16, struct.pack(">Q", entry) * 8192), (11 << 16, more or b"x" * 65536))
qcow2("bomb.qcow2", 1 << 63 | 11 << 16)
packer = zlib.compressobj(9, zlib.DEFLATED, -15)
qcow2("bomb.z.qcow2", 1 << 62 | 11 << 16 | 1 << 54, more=packer.compress(b"z" * 65536) + packer.flush())
# VMDK: 2 TiB, all grain tables one table, all of its entries one grain.
text = b'# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\ncreateType="monolithicSparse"\nRW 4294967296 SPARSE "x"\n'
write("bomb.vmdk", 2 * M, (0, struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", 1, 1, 1 << 32, 128, 1, 20, 512, 0, 21, 2048, 0, b"\n \r\n", 0)),
      (512, text), (21 * 512, struct.pack("<I", 1000) * 65536), (1000 * 512, struct.pack("<I", 2048) * 512),
      (M, b"x" * M))
END
head -c 32M /dev/zero | tr '\0' A > "$T/dense.raw" # what is truly that dense is none
for options in "--to vmdk" "--to qcow2 --codec zlib --level 12 --cluster 2M" "--to qcow2 --codec zstd --level 19 --cluster 2M"; do
    # shellcheck disable=SC2086
    expect 0 "verified" ferry convert "$T/dense.raw" "$T/dense" $options --verify
done
for bomb in bomb.vdi bomb.qcow2 bomb.z.qcow2 bomb.vmdk; do
    expect 3 "more content before byte" timeout 60 "$FERRY" digest "$T/$bomb"
    expect 3 "more content before byte" timeout 60 "$FERRY" convert "$T/$bomb" "$T/x.qcow2"
    [ ! -e "$T/x.qcow2" ] || fail "$bomb leaves a file"
done
