# SPDX-License-Identifier: BSD-3-Clause
"""The migration stream as tests see it: records to be read, changed and made."""

import ctypes
import ctypes.util
import struct
import threading

from lab import Cut

MAGIC = b"FERRYMIG"
VERSION = 1
TWO_WAY = 1
PREAMBLE_SIZE = 16
HEAD_SIZE = 16
SKIPPABLE = 0x80000000

HELLO, BLOCK, CAPABILITY, OPEN, ROUND, RAM_PAGES, RAM_ZERO, STOPPED = range(1, 9)
STATE, STATE_END, VERIFY, END, GO, ASK, DONE, ALIVE = range(9, 17)
RAM_DELTA = 17
DISK, DISK_DATA, DISK_ZERO, DISK_END, MACHINE = range(19, 24)
ACCEPT, READY, RUNNING, ANSWER = range(32, 36)
FAIL = 48

STREAMED = (RAM_PAGES, STATE, DISK_DATA)  # the check covers 16 bytes of these bodies

_xxhash = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
_xxhash.XXH32.restype = ctypes.c_uint32
_xxhash.XXH32.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint32]


def check_of(kind, length, fixed):
    """The check in a record's head."""
    seed = _xxhash.XXH32(struct.pack("<IIQ", kind, 0, length), HEAD_SIZE, 0)
    return _xxhash.XXH32(fixed, len(fixed), seed) if fixed else seed


def padded(data):
    return data + bytes(-len(data) % 8)


def record(kind, body=b"", length=None, check=None):
    """A record as bytes; `length` and `check` lie when they are given."""
    length = len(body) if length is None else length
    fixed = body[:16] if kind in STREAMED else body
    check = check_of(kind, length, fixed) if check is None else check
    return struct.pack("<IIQ", kind, check, length) + padded(body)


def preamble(flags=TWO_WAY, magic=MAGIC, version=VERSION):
    return magic + struct.pack("<II", version, flags)


def split(data):
    """The preamble, and the records as (type, body), of a whole stream."""
    at, records = PREAMBLE_SIZE, []
    while at < len(data):
        kind, _, length = struct.unpack_from("<IIQ", data, at)
        records.append((kind, data[at + HEAD_SIZE:at + HEAD_SIZE + length]))
        at += HEAD_SIZE + length + -length % 8
    return data[:PREAMBLE_SIZE], records


def join(head, records):
    return head + b"".join(record(kind, body) for kind, body in records)


class Direction:
    """Cuts one direction of a link into records; passes on what `look(type, raw)` makes of each."""

    def __init__(self, look, has_preamble):
        self.look = look
        self.buffer = b""
        self.has_preamble = has_preamble

    def feed(self, data):
        self.buffer += data
        out = b""
        while True:
            kind, raw = self._next()
            if raw is None:
                return out
            made = self.look(kind, raw)
            if made is None:
                return Cut(out)
            out += made
            if isinstance(made, Cut):
                return Cut(out)

    def _next(self):
        """The next whole record and its type (None: the preamble)."""
        if self.has_preamble:
            if len(self.buffer) < PREAMBLE_SIZE:
                return None, None
            self.has_preamble = False
            return None, self._take(PREAMBLE_SIZE)
        if len(self.buffer) < HEAD_SIZE:
            return None, None
        kind, _, length = struct.unpack_from("<IIQ", self.buffer)
        whole = HEAD_SIZE + length + -length % 8
        return (kind, self._take(whole)) if len(self.buffer) >= whole else (None, None)

    def _take(self, length):
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        return taken


class Tap:
    """For Relay(tap=...): records go by, and rules change them.

    A rule is a function of the raw record that answers what is passed on: the record, other bytes,
    b"" to swallow it, None or a Cut to break the link.  Rules of a number fire once.
    """

    def __init__(self):
        self.rules = {}
        self.seen = []
        self.lock = threading.Lock()

    def on(self, way, kind, rule, nth=1):
        """`rule` for the nth record of that type; nth 0: for all of them."""
        self.rules[way, kind] = [rule, nth]
        return self

    def __call__(self, relay, number):
        ends = {"out": Direction(lambda kind, raw: self._look(number, "out", kind, raw), True),
                "back": Direction(lambda kind, raw: self._look(number, "back", kind, raw), False)}
        return lambda way, data: ends[way].feed(data)

    def _look(self, number, way, kind, raw):
        with self.lock:
            self.seen.append((number, way, kind))
            rule = self.rules.get((way, kind))
            if rule is None:
                return raw
            if rule[1] > 1:
                rule[1] -= 1
                return raw
            if rule[1] == 1:
                del self.rules[way, kind]
        return rule[0](raw)

    def count(self, way, kind):
        with self.lock:
            return sum(1 for _, seen_way, seen in self.seen if (seen_way, seen) == (way, kind))


class Ledger(Tap):
    """A tap that keeps account of each record of the first connection's way out."""

    def __init__(self):
        super().__init__()
        self.entries = []  # (type, bytes on the wire, the first 32 bytes of the body)

    def _look(self, number, way, kind, raw):
        if (number, way) == (1, "out"):
            with self.lock:
                self.entries.append((kind, len(raw), raw[HEAD_SIZE:HEAD_SIZE + 32]
                                     if kind is not None else b"", length_of(raw, kind)))
        return super()._look(number, way, kind, raw)

    def _sum(self, kinds, value):
        with self.lock:
            return sum(value(entry) for entry in self.entries if entry[0] in kinds)

    def total(self):
        """Bytes on the wire, all of them."""
        with self.lock:
            return sum(entry[1] for entry in self.entries)

    def bytes_of(self, *kinds):
        """Bytes on the wire in records of these types."""
        return self._sum(kinds, lambda entry: entry[1])

    def pages(self):
        """Pages sent whole."""
        return self._sum((RAM_PAGES,), lambda entry: (entry[3] - 16) // 4096)

    def zero_pages(self):
        return self._sum((RAM_ZERO,), lambda entry: struct.unpack_from("<Q", entry[2], 16)[0] // 4096)

    def last_round(self):
        return max(number for number, _ in self.rounds())

    def rounds(self):
        """(number, pages due) of each."""
        with self.lock:
            return [struct.unpack_from("<QQ", entry[2]) for entry in self.entries
                    if entry[0] == ROUND]

    def before(self, kind):
        """Bytes on the wire before the first record of that type."""
        with self.lock:
            at = next(i for i, entry in enumerate(self.entries) if entry[0] == kind)
            return sum(entry[1] for entry in self.entries[:at])


def length_of(raw, kind):
    """The length of a record's body; of the preamble 0."""
    return struct.unpack_from("<Q", raw, 8)[0] if kind is not None else 0


def flip(offset, bit=0):
    """A rule that flips one bit of a record; a negative offset counts from its end."""
    def rule(raw):
        changed = bytearray(raw)
        changed[offset] ^= 1 << bit
        return bytes(changed)
    return rule


def rewrite(change):
    """A rule that changes a record's body and makes its check good again."""
    def rule(raw):
        kind, _, length = struct.unpack_from("<IIQ", raw)
        body = bytearray(raw[HEAD_SIZE:HEAD_SIZE + length])
        return record(kind, bytes(change(body) or body))
    return rule


def put(layout, offset, value):
    """A change of one field of a body, for rewrite."""
    def change(body):
        struct.pack_into(layout, body, offset, value)
    return change
