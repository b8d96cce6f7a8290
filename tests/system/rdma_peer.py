# SPDX-License-Identifier: BSD-3-Clause
"""rdma:'s messages as tests see them (schema/rdma.md), and a peer that sends whatever it is told."""

import struct
import subprocess

from lab import ScriptedVmm
from stream import ACCEPT, BLOCK, CAPABILITY, HELLO, OPEN, preamble, record

MIB = 1 << 20
DATA, CREDIT, FINISH, SHARE, REGION, SHARED, ASK, KEYS = range(1, 9)
UUID = bytes(range(16))


def hello(magic=b"FERRYRDM", version=1, buffer=32768, credits_given=32):
    return magic + struct.pack("<IIII", version, buffer, credits_given, 0)


def message(kind, body=b"", credits_given=0, length=None):
    return struct.pack("<HHI", kind, credits_given, len(body) if length is None else length) + body


def share(chunk=MIB, pin_all=0, regions=1):
    return message(SHARE, struct.pack("<QII", chunk, pin_all, regions))


def region(number=0, unit=MIB, base=1 << 40, length=32 * MIB):
    return message(REGION, struct.pack("<IIQQQ", number, 0, unit, base, length))


def ask(*units, number=0):
    return message(ASK, b"".join(struct.pack("<IIQ", number, 0, unit) for unit in units))


def keys(*units, number=0, rkey=1):
    return message(KEYS, b"".join(struct.pack("<IIQ", number, rkey, unit) for unit in units))


def introduction(*capabilities, blocks=((b"ram", 0, 32 * MIB),)):
    """What a source says of its guest; blocks are names, addresses and lengths."""
    ram = sum(length for *_, length in blocks)
    return (preamble()
            + record(HELLO, UUID + struct.pack("<QQIIII", 0, ram, 4096, len(blocks), 1, 0) + b"g")
            + b"".join(record(BLOCK, struct.pack("<QQII", gpa, length, len(name), 0) + name)
                       for name, gpa, length in blocks)
            + b"".join(record(CAPABILITY, name) for name in capabilities) + record(OPEN))


class RdmaPeer(ScriptedVmm):
    """tests/rdma/peer.c: a line goes in, an answer comes out."""

    def __init__(self, lab):
        argv = [lab.build / "tests" / "rdma-peer"]
        super(ScriptedVmm, self).__init__(lab.unique("peer"), argv, lab.folder,
                                          stdin=subprocess.PIPE)
        self.start_answers()

    def call(self, uri, greeting=None):
        """Calls a listener; its hello."""
        host, port = uri.removeprefix("rdma:").rsplit(":", 1)
        return bytes.fromhex(self.do(f"connect {host} {port} {(greeting or hello()).hex() or '-'}"))

    def send(self, raw):
        self.do(f"send {raw.hex()}")

    def receive(self):
        """The next message but those that only give credits: its type and body."""
        while True:
            raw = bytes.fromhex(self.do("receive"))
            kind, _, length = struct.unpack_from("<HHI", raw)
            assert length == len(raw) - 8
            if kind != CREDIT:
                return kind, raw[8:]

    def expect(self, kind):
        found, body = self.receive()
        assert found == kind, (found, body)
        return body

    def introduce(self, uri, *capabilities, **options):
        """As a source, up to ACCEPT."""
        self.call(uri)
        self.send(message(DATA, introduction(*capabilities, **options)))
        assert struct.unpack_from("<I", self.expect(DATA))[0] == ACCEPT

    def share_memory(self, uri, chunk=MIB):
        """As a source, up to where memory is shared; where it is at the destination."""
        self.introduce(uri)
        self.send(share(chunk))
        _, _, unit, base, length = struct.unpack("<IIQQQ", self.expect(REGION))
        assert (unit, length) == (chunk, 32 * MIB)
        self.expect(SHARED)
        return base

    def key(self, unit=0):
        self.send(ask(unit))
        number, rkey, found = struct.unpack("<IIQ", self.expect(KEYS))
        assert (number, found) == (0, unit)
        return rkey

    def be_destination(self, host, call):
        """Listens, lets `call(uri)` call, and answers up to the source's SHARE."""
        port = self.do(f"listen {host}")
        call(f"rdma:{host}:{port}")
        self.do(f"accept {hello().hex()}")
        got = b""
        while not got.endswith(record(OPEN)):
            got += self.expect(DATA)
        self.send(message(DATA, record(ACCEPT, bytes(8))))
        return struct.unpack("<QII", self.expect(SHARE))
