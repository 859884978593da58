#!/usr/bin/python3
"""A second reader of ferry images, written from imagefmt/FORMAT.md alone: a witness.

reader.py IMAGE [--base IMAGE]... [--key-file FILE | --passphrase-file FILE] [--extract NAME]
It reads the image from one end to the other, demands every rule of the page, makes pages, index, table
and root anew, and prints the root and the digest of each section, as 'ferry digest' does.  --extract
writes the content of one section to stdout.  --base: the image that this one builds on, then the one
that that one builds on.  Slow, and for images that fit into memory; frames are inflated by zstd(1).
"""
import argparse
import hashlib
import re
import struct
import subprocess
import sys

import xxhash

KINDS = {1: "state", 2: "ram", 3: "disk", 4: "file"}
MOST = {2: 1, 3: 16, 4: 8}
LARGEST = {2: 1 << 40, 3: 64 << 40, 4: 2 << 30}
RECORD_BYTES = (4 << 20) + (20 << 10)
ZERO = bytes(32)


class Refused(Exception):
    pass


def demand(what, text):
    if not what:
        raise Refused(text)


def sha(data):
    return hashlib.sha256(data).digest()


def xxh3(data):
    return xxhash.xxh3_64_intdigest(data)


class Tree:
    """The nodes of a section's content over leaves of 4 KiB; those that are absent are zero."""

    def __init__(self, size):
        self.size = size
        self.depth = 10
        while 4096 << self.depth < size:
            self.depth += 1
        self.given = {}  # (level, number) -> 32 bytes: chunks, and what is kept
        self.made = None  # the same with all above them

    def node(self, level, number):
        if self.made is None:
            self.made = dict(self.given)
            for below in range(self.depth):
                for parent in {number >> 1 for (at, number) in self.made if at == below}:
                    left = self.made.get((below, parent * 2), ZERO)
                    right = self.made.get((below, parent * 2 + 1), ZERO)
                    self.made[below + 1, parent] = sha(left + right)
        return self.made.get((level, number), ZERO)

    def digest(self):
        return sha(struct.pack("<Q", self.size) + self.node(self.depth, 0))


def identity(content, chunk):
    """The node over a chunk."""
    content = content + bytes(chunk - len(content))
    nodes = [content[at : at + 4096] for at in range(0, chunk, 4096)]
    nodes = [ZERO if not any(leaf) else sha(leaf) for leaf in nodes]
    while len(nodes) > 1:
        pairs = [nodes[at] + nodes[at + 1] for at in range(0, len(nodes), 2)]
        nodes = [ZERO if pair == bytes(64) else sha(pair) for pair in pairs]
    return nodes[0]


class Section:
    def __init__(self, kind, name, version=0, chunk=0, size=0, offset=0, first_page=0):
        self.kind, self.name, self.version = kind, name, version
        self.chunk, self.size, self.offset, self.first_page = chunk, size, offset, first_page
        self.records = self.content_bytes = self.stored_bytes = 0
        self.digest = None
        self.data = {}  # chunk index -> bytes
        self.next = 0  # chunk index that may come next
        self.tree = Tree(size)


class Image:
    def __init__(self, data, secret=None, bases=()):
        self.data, self.secret, self.at = data, secret, 0
        self.keys = None
        self.sections, self.pages, self.frames, self.signers = [], [], [], []
        self.base = None
        self.read(list(bases))

    # Records

    def record(self, *tags):
        at, data = self.at, self.data
        demand(len(data) - at >= 28, "cut short")
        magic, length, tag, offset = struct.unpack_from("<II4sQ", data, at)
        demand(magic == 0x184D2A57, "not a record at %d" % at)
        demand(20 <= length and length + 8 <= RECORD_BYTES, "length of a record")
        demand(at + 8 + length <= len(data), "cut short")
        whole = data[at : at + 8 + length]
        demand(xxh3(whole[:-8]) == int.from_bytes(whole[-8:], "little"), "sum of a record")
        demand(offset == at, "record from elsewhere")
        tag = tag.decode("ascii")
        demand(tag in tags, "%s where one of %s is due" % (tag, tags))
        self.at = at + len(whole)
        body = whole[20:-8]
        if self.keys and tag == "SIGN":
            body = self.open(self.keys[0], whole[8:12] + body[-8:], body[:-8], whole[:20])
        elif self.keys and tag != "SEAL":
            body = self.open(self.keys[0], whole[8:20], body, whole[:20])
        return tag, at, body

    def peek(self):
        return self.data[self.at + 8 : self.at + 12].decode("latin1")

    @staticmethod
    def open(key, nonce, body, associated):
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            return AESGCM(key).decrypt(nonce, body, associated)
        except InvalidTag:
            raise Refused("seal") from None

    def unlock(self, body, flags):
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        demand(len(body) == 64, "CRYP")
        source, log_n, r, p, salt, check = struct.unpack("<IIII32s16s", body)
        demand(self.secret and self.secret[0] == source, "another kind of secret")
        if source == 1:
            demand(1 <= log_n <= 20 and 1 <= r <= 32 and 1 <= p <= 16, "scrypt")
            demand((128 << log_n) * r <= 64 << 20, "scrypt")
            master = hashlib.scrypt(self.secret[1], salt=salt, n=1 << log_n, r=r, p=p, dklen=32, maxmem=1 << 28)
        else:
            demand(source == 2 and log_n == r == p == 0, "CRYP")
            demand(32 <= len(self.secret[1]) <= 4096, "key file")
            master = self.secret[1]
        info = b"ferry image 1" + struct.pack("<I", flags)
        made = HKDF(hashes.SHA256(), 80, salt, info).derive(master)
        demand(made[64:] == check, "wrong secret")
        self.keys = made[:32], made[32:64]

    # The whole

    def read(self, bases):
        _, _, body = self.record("HEAD")
        demand(len(body) == 16, "HEAD")
        mark, version, flags = struct.unpack("<8sII", body)
        demand(mark == b"ferryimg" and version == 1 and flags & ~3 == 0, "HEAD")
        if flags & 2:
            self.unlock(self.record("CRYP")[2], flags)
        if flags & 1:
            body = self.record("BASE")[2]
            demand(len(body) == 32, "BASE")
            demand(bases, "no base given")
            with open(bases[0], "rb") as file:
                self.base = Image(file.read(), self.secret, bases[1:])
            demand(self.base.root == body, "another base")
        _, self.manifest_at, self.manifest = self.record("MANI")
        demand(len(self.manifest) <= 1 << 20, "MANI")
        while self.peek() in ("STAT", "DATA"):
            tag, at, body = self.record("STAT", "DATA")
            (self.stat if tag == "STAT" else self.data_section)(at, body)
        self.inflate()
        self.end(version)

    def add(self, number, section):
        demand(number == len(self.sections), "number of a section")
        demand(re.fullmatch("[A-Za-z0-9._-]{1,63}", section.name), "name of a section")
        demand(all((s.kind, s.name) != (section.kind, section.name) for s in self.sections), "two sections of a name")
        section.first_page = len(self.pages)
        self.sections.append(section)

    def stat(self, at, body):
        number, version, zero, length = struct.unpack_from("<IHBB", body)
        state = body[8 + length :]
        demand(zero == 0 and len(body) >= 8 + length and len(state) <= 4 << 20, "STAT")
        section = Section(1, body[8 : 8 + length].decode("latin1"), version, 0, len(state), at)
        section.digest = sha(state)
        self.add(number, section)
        states = [s for s in self.sections if s.kind == 1]
        demand(len(states) <= 1024 and sum(s.size for s in states) <= 64 << 20, "too much state")

    def data_section(self, at, body):
        number, kind, zero, length, chunk, size = struct.unpack_from("<IBHBIQ", body)
        demand(kind in MOST and zero == 0 and len(body) == 20 + length, "DATA")
        demand(chunk in [4096 << n for n in range(11)], "chunk size")
        demand(size <= LARGEST[kind], "size of a section")
        section = Section(kind, body[20:].decode("latin1"), 0, chunk, size, at)
        self.add(number, section)
        demand(sum(s.kind == kind for s in self.sections) <= MOST[kind], "too many sections")
        entries = []
        while self.peek() in ("CHNK", "PAGE"):
            if self.record_of_chunk(number, section, entries):
                entries = []
        demand(not entries, "chunks without a page")
        _, _, body = self.record("DEND")
        section.dend = body

    def record_of_chunk(self, number, section, entries):
        tag, at, body = self.record("CHNK", "PAGE")
        if tag == "PAGE":
            made = struct.pack("<II", number, len(entries)) + b"".join(
                struct.pack("<QQIBBH32s", index, offset, stored, codec, level, 0, digest)
                for index, offset, stored, codec, level, digest in entries
            )
            demand(entries and (len(entries) == 1024 or self.peek() == "DEND"), "PAGE before it is full")
            demand(body == made, "PAGE")
            self.pages.append((number, len(entries), entries[0][0], at))
            return True
        demand(len(entries) < 1024 and len(body) == 64, "CHNK")
        who, codec, index, length, stored, xxh, digest = struct.unpack("<IIQIIQ32s", body)
        count = -(-section.size // section.chunk)
        demand(who == number and section.next <= index < count and digest != ZERO, "CHNK")
        content = min(section.chunk, section.size - index * section.chunk)
        level, base_level = 0, section.chunk.bit_length() - 13  # of a chunk: log2(C / 4 KiB)
        section.next = index + 1
        if codec == 3:
            level = stored
            demand(self.base is not None and length == xxh == 0 and level < 40, "what is kept")
            demand(index % (1 << level) == 0 and index + (1 << level) <= count, "what is kept")
            old = [s for s in self.base.sections if (s.kind, s.name) == (section.kind, section.name)]
            demand(old and old[0].chunk == section.chunk, "what is kept has no base")
            demand(old[0].tree.node(base_level + level, index >> level) == digest, "what is kept differs from the base")
            section.next = index + (1 << level)
            for i in range(index, index + (1 << level)):
                if i in old[0].data:
                    section.data[i] = old[0].data[i]
            entries.append((index, 0, 0, 3, level, digest))
        else:
            demand(length == content, "content length")
            demand(1 <= stored <= length + length // 256 + 64, "stored length")
            if codec == 1:
                frame = self.frame(number, index, stored)
                demand(xxh3(frame) == xxh, "sum of a chunk")
                self.frames.append((at, section, index, length, stored, digest, frame))
                section.stored_bytes += stored
                entries.append((index, at, stored, 1, 0, digest))
            else:
                demand(codec == 2 and xxh < at and at - xxh <= 32 << 20, "as a chunk too far away")
                found = [f for f in self.frames if f[0] == xxh]
                demand(found and found[0][3:6] == (length, stored, digest), "as another chunk")
                self.frames.append((None, section, index, length, stored, digest, found[0][6]))
                entries.append((index, xxh, stored, 2, 0, digest))
            section.content_bytes += length
        section.records += 1
        section.tree.given[base_level + level, index >> level] = digest
        return False

    def frame(self, number, index, stored):
        if self.keys:
            _, _, body = self.record("SEAL")
            demand(len(body) == stored + 16, "SEAL")
            return self.open(self.keys[1], struct.pack("<IQ", number, index), body, b"SEAL")
        demand(len(self.data) - self.at >= stored, "cut short")
        self.at += stored
        return self.data[self.at - stored : self.at]

    def inflate(self):
        """All frames at once; then cut where the content lengths say."""
        zstd = ["zstd", "-qdc", "--memory=8MB"]
        content = subprocess.run(zstd, input=b"".join(f[6] for f in self.frames), capture_output=True, check=False)
        demand(content.returncode == 0 or not self.frames, "zstd refuses a frame")
        at = 0
        for _, section, index, length, _, digest, _ in self.frames:
            part = content.stdout[at : at + length]
            at += length
            demand(len(part) == length and identity(part, section.chunk) == digest, "content is not what its digest says")
            section.data[index] = part
        demand(at == len(content.stdout), "more content than declared")
        for s in self.sections:
            if s.kind != 1:
                s.digest = s.tree.digest()
                sums = struct.pack("<QQQ", s.records, s.content_bytes, s.stored_bytes)
                number = struct.pack("<I", self.sections.index(s))
                demand(s.dend == number + sums + s.digest, "DEND")

    def end(self, version):
        first_index = self.at
        for start in range(0, len(self.pages), 4096):
            part = self.pages[start : start + 4096]
            made = struct.pack("<I", len(part)) + b"".join(struct.pack("<IIQQ", *page) for page in part)
            demand(self.record("INDX")[2] == made, "INDX")
        content = sha(self.manifest) + struct.pack("<I", len(self.sections))
        table = struct.pack("<QQ", self.manifest_at, len(self.manifest)) + content
        for s in self.sections:
            first = struct.pack("<BBH", s.kind, len(s.name), s.version)
            last = struct.pack("<Q", s.size) + s.name.encode() + s.digest
            content += first + bytes(4) + last
            table += first + struct.pack("<I", s.chunk) + last
            table += struct.pack("<QQQQQ", s.offset, s.records, s.content_bytes, s.stored_bytes, s.first_page)
        self.root = sha(content)
        _, root_at, body = self.record("ROOT")
        demand(body == table + self.root, "ROOT")
        before = self.at
        made = struct.pack("<IQQQ", version, first_index, len(self.pages), root_at)
        _, _, body = self.record("FOOT")
        demand(self.at - before == (112 if self.keys else 96), "FOOT")
        demand(body == made + struct.pack("<Q", self.at) + self.root, "FOOT")
        while self.at < len(self.data):
            self.signature(self.record("SIGN")[2])

    def signature(self, body):
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        demand(len(body) == 100 and len(self.signers) < 16, "SIGN")
        algorithm, key, signature = struct.unpack("<I32s64s", body)
        demand(algorithm == 1 and key not in self.signers, "SIGN")
        self.signers.append(key)
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, b"ferry image root 1\n" + self.root)
        except InvalidSignature:
            raise Refused("signature") from None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("--base", action="append", default=[])
    parser.add_argument("--key-file")
    parser.add_argument("--passphrase-file")
    parser.add_argument("--extract")
    options = parser.parse_args()
    secret = None
    if options.key_file:
        secret = 2, open(options.key_file, "rb").read()
    elif options.passphrase_file:
        secret = 1, open(options.passphrase_file, "rb").readline().rstrip(b"\n")
    image = Image(open(options.image, "rb").read(), secret, options.base)
    if options.extract:
        for s in image.sections:
            if s.name == options.extract and s.kind != 1:
                for i in range(-(-s.size // s.chunk)):
                    length = min(s.chunk, s.size - i * s.chunk)
                    sys.stdout.buffer.write(s.data.get(i, bytes(length)))
        return
    print(image.root.hex(), "", options.image)
    for s in image.sections:
        print(s.digest.hex(), "", KINDS[s.kind], s.name)


if __name__ == "__main__":
    try:
        main()
    except Refused as refusal:
        print("refused:", refusal, file=sys.stderr)
        sys.exit(3)
