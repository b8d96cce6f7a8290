# SPDX-License-Identifier: BSD-3-Clause
"""libferry's protocol as raw messages, for VMMs that break it."""

import array
import os
import socket
import struct

MAGIC = 0x59525246
VERSION = 2
PAGE = 4096
HELLO, BLOCK, READY, REPLY, STATE, SHUTDOWN, DISK, BLOCKER = range(1, 9)
WELCOME, REFUSE = 64, 65
RUNNING, PAUSED, STOPPED, GIVEN_AWAY, INCOMING = range(5)

STOP, GIVE_AWAY, TAKE_BACK, RELEASE, START, ANNOUNCE = 70, 75, 76, 77, 78, 79
FEATURE_ANNOUNCE = 1 << 3

HEAD = "<IIQ"


def message(kind, body=b"", length=None, seq=0):
    return struct.pack(HEAD, kind, len(body) if length is None else length, seq) + body


def hello(name=b"g", magic=MAGIC, version=VERSION, version_min=VERSION, features=0, page=PAGE,
          blocks=1, state=RUNNING, released=0, job=bytes(16), disks=0):
    fixed = struct.pack("<8I", magic, version, version_min, features, page, blocks, state, released)
    return message(HELLO, fixed + job + name.ljust(65, b"\0") + bytes(3) + struct.pack("<I", disks))


def block(name=b"ram", offset=0, length=1 << 20, gpa=0, has_slot=0):
    return message(BLOCK, struct.pack("<3QI", offset, length, gpa, has_slot) +
                   name.ljust(65, b"\0") + bytes(3))


def disk(name=b"disk", length=1 << 20, part=0, has_base=0):
    return message(DISK, struct.pack("<QII", length, part, has_base) + name.ljust(65, b"\0") +
                   bytes(7))


def blocker(number, reason=b"", added=1):
    return message(BLOCKER, struct.pack("<QI", number, added) + reason.ljust(256, b"\0") + bytes(4))


def ready():
    return message(READY)


def reply(seq, status=0, state=RUNNING, was_paused=0, text=b""):
    return message(REPLY, struct.pack("<iII", status, state, was_paused) + text.ljust(256, b"\0"),
                   seq=seq)


def memfd(size=1 << 20):
    fd = os.memfd_create("ram")
    os.ftruncate(fd, size)
    return fd


class RawVmm:
    """A connection to a guests socket that says whatever a test likes."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(30)
        self.sock.connect(str(path))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sock.close()

    def send(self, data, *fds):
        """False: the daemon has closed the connection."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.sock.sendmsg([data], rights)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self):
        """The next message as (type, seq, body); None at the end.  Its descriptors are closed."""
        try:
            data, fds, _, _ = socket.recv_fds(self.sock, 2048, 4)
        except ConnectionResetError:
            return None
        for fd in fds:
            os.close(fd)
        if not data:
            return None
        kind, _, seq = struct.unpack_from(HEAD, data)
        return kind, seq, data[16:]

    def request(self):
        """The next message that wants an answer; news are passed over."""
        while (got := self.receive()) and not got[1]:
            pass
        return got

    def refusal(self):
        """The text of the daemon's refusal, after which it hangs up; None: only that."""
        got = self.receive()
        if got is None:
            return None
        assert got[0] == REFUSE, got
        assert self.receive() is None
        return got[2].split(b"\0")[0].decode()

    def introduce(self, name=b"g", **options):
        """As a well-behaved VMM would; the memory's descriptor."""
        fd = memfd()
        self.send(hello(name, **options))
        self.send(block(), fd)
        self.send(ready())
        assert self.receive()[0] == WELCOME
        return fd

    def obey_until(self, last):
        """Answers each request with success, up to one of type `last`; the bodies by type."""
        states = {STOP: STOPPED, GIVE_AWAY: GIVEN_AWAY}
        state, bodies = RUNNING, {}
        while True:
            kind, seq, bodies[kind] = self.receive()
            if kind == last:
                return bodies
            state = states.get(kind, state)
            if seq:
                self.send(reply(seq, state=state))
