#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The network of the Linux tests' guests, in a network namespace of its own: a bridge, and a server
on it.  Run by `unshare --net`: the namespace goes when this program and the taps' users have gone.

network.py SOCKET FOLDER

On the unix socket a test asks for things, one JSON object a line: {"do": "tap"} is answered with
a tap's descriptor, {"do": "release"} lets the downloads go on that are held half way, {"do":
"state"} tells what was seen, {"do": "watch"} forgets the longest silence. HTTP: /sum, /blob,
/held, POST /kinds (kept as FOLDER/kinds). UDP port 7: beats.
"""

import array
import contextlib
import fcntl
import hashlib
import http.server
import json
import os
import pathlib
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

ADDRESS = "10.7.0.1"
BLOB = random.Random(1).randbytes(1 << 20)
PIECE = 1 << 16
PAUSE = 0.02  # seconds between pieces: a download is under way most of the time
TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 2, 0x1000, 0x4000
RARP, ARP = 0x8035, 0x0806


class Seen:
    """What the network has seen; counters."""

    def __init__(self):
        self.lock = threading.Lock()
        self.held = 0  # downloads that are held half way
        self.downloads = self.announced = self.beats = 0
        self.last_beat, self.longest = None, 0.0
        self.release = threading.Event()

    def beat(self):
        now = time.monotonic()
        with self.lock:
            if self.last_beat is not None:
                self.longest = max(self.longest, now - self.last_beat)
            self.last_beat = now
            self.beats += 1

    def state(self):
        with self.lock:
            return {"held": self.held, "downloads": self.downloads, "beats": self.beats,
                    "announced": self.announced, "longest": round(self.longest * 1000)}

    def watch(self):
        """The longest silence is of the time from now on."""
        with self.lock:
            self.longest = 0.0


SEEN = Seen()


class Handler(http.server.BaseHTTPRequestHandler):
    """Downloads, in pieces."""

    folder = None

    def log_message(self, format, *arguments):  # pylint: disable=redefined-builtin
        pass

    def _begin(self, length):
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def do_GET(self):
        if self.path == "/sum":
            text = hashlib.sha256(BLOB).hexdigest().encode()
            self._begin(len(text))
            self.wfile.write(text)
            return
        self._begin(len(BLOB))
        for at in range(0, len(BLOB), PIECE):
            if self.path == "/held" and at == len(BLOB) // 2:
                self._hold()
            self.wfile.write(BLOB[at:at + PIECE])
            time.sleep(PAUSE)
        SEEN.downloads += 1

    @staticmethod
    def _hold():
        SEEN.release.clear()
        SEEN.held += 1
        SEEN.release.wait()
        SEEN.held -= 1

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        (self.folder / "kinds").write_bytes(data)
        self._begin(0)


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


def make_tap(number):
    """A tap on the bridge, which goes when its descriptor is closed everywhere."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    name = f"tap{number}"
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(),
                                           IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    ip("link", "set", name, "master", "br0", "up")
    return fd


def count_beats():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((ADDRESS, 7))
        while True:
            sock.recv(64)
            SEEN.beat()


def count_announcements():
    """RARP, as QEMU sends it, and gratuitous ARP, as the guest does."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sock:
        sock.bind(("br0", 3))
        while True:
            frame = sock.recv(2048)
            kind = int.from_bytes(frame[12:14], "big")
            if kind == RARP or (kind == ARP and frame[28:32] == frame[38:42]):
                SEEN.announced += 1


def serve_test(connection):
    taps = 0
    for line in connection.makefile("r"):
        what = json.loads(line)["do"]
        if what == "tap":
            fd = make_tap(f"{taps}")
            taps += 1
            connection.sendmsg([b"{}\n"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                            array.array("i", [fd]))])
            os.close(fd)
            continue
        if what == "release":
            SEEN.release.set()
        elif what == "watch":
            SEEN.watch()
        connection.sendall(json.dumps(SEEN.state()).encode() + b"\n")


def main():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # with threads that wait for a test
    path, Handler.folder = sys.argv[1], pathlib.Path(sys.argv[2])
    # With an address of its own: else a bridge takes that of one of its ports, and they change.
    ip("link", "add", "br0", "address", "52:54:00:07:00:01", "type", "bridge", "forward_delay", "0")
    ip("address", "add", f"{ADDRESS}/24", "dev", "br0")
    ip("link", "set", "br0", "up")
    ip("link", "set", "lo", "up")
    server = http.server.ThreadingHTTPServer((ADDRESS, 80), Handler)
    for serve in (server.serve_forever, count_beats, count_announcements):
        threading.Thread(target=serve, daemon=True).start()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("network ready", flush=True)
        connection, _ = listener.accept()
        with contextlib.suppress(OSError):
            serve_test(connection)


if __name__ == "__main__":
    main()
