# SPDX-License-Identifier: BSD-3-Clause
"""Monitors that are none, and monitors that lie: an error each, nothing of another process is
touched, and the daemon lives on."""

import contextlib
import json
import os
import pathlib
import re
import socket
import threading

import pytest
from qemu import attach
from qemu_scenes import attach_refused, attach_through, check_console
from scenes import GUEST, path

pytestmark = pytest.mark.qemu


class FakeMonitor:
    """Listens where a QMP socket would be, and says what it likes."""

    def __init__(self, lab, talk):
        self.path = lab.folder / "fake.qmp"
        self.talk = talk
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
                with peer, contextlib.suppress(OSError):
                    self.talk(peer)

    def close(self):
        self.listener.close()


def greeting(major=7, minor=2):
    return json.dumps({"QMP": {"version": {"qemu": {"major": major, "minor": minor, "micro": 0},
                                           "package": ""}, "capabilities": []}}).encode() + b"\r\n"


def drain(peer):
    while peer.recv(65536):
        pass


def say(*words):
    """Says it and listens until the other end has gone."""
    def talk(peer):
        for word in words:
            peer.sendall(word)
        drain(peer)
    return talk


def for_ever(piece, first=b""):
    def talk(peer):
        peer.sendall(first)
        while True:
            peer.sendall(piece)
    return talk


def answer_with(reply):
    """The same answer to every command."""
    def talk(peer):
        peer.sendall(greeting())
        while data := peer.recv(65536):
            number = json.loads(data)["id"]
            peer.sendall(json.dumps({**reply, "id": number}).encode() + b"\r\n")
    return talk


def event(name):
    return json.dumps({"event": name, "data": {}}).encode() + b"\r\n"


FAKES = {
    "closes-at-once": (lambda peer: None, "guest-lost"),
    "garbage": (say(b"SSH-2.0-OpenSSH\r\n"), "guest-protocol"),
    "binary": (say(os.urandom(4096)), "guest-protocol"),
    "another-greeting": (say(b'{"hello": "world"}\r\n{"QMP": 5}\r\n'), "guest-unsuitable"),
    "no-version": (say(b'{"QMP": {"version": {}}}\r\n'), "guest-unsuitable"),
    "wild-version": (say(greeting(10**9, -3)), "guest-unsuitable"),
    "old-version": (say(greeting(6, 0)), "guest-unsuitable"),
    "nested": (say(b'{"a":' * 5000), "guest-protocol"),
    "array": (say(b"[]\r\n"), "guest-protocol"),
    "text-without-end": (for_ever(b" " * 65536, b'{"QMP": "'), "guest-protocol"),
    "closes-behind-the-greeting": (lambda peer: peer.sendall(greeting()), "guest-lost"),
    "garbage-behind-the-greeting": (say(greeting(), b"}}}}\r\n"), "guest-protocol"),
    "refuses-all": (answer_with({"error": {"class": "GenericError", "desc": "no"}}),
                    "guest-refused"),
    "answers-null": (answer_with({"return": None}), None),
    "answers-nonsense": (answer_with({"return": [1, "x", {"y": []}]}), None),
    "answers-neither": (answer_with({}), None),
    "resumes-for-ever": (for_ever(event("RESUME") * 100, greeting()), "guest-protocol"),
    "answers-text": (answer_with({"return": "x" * 100000}), None),
}


@path("qemu/hostile/monitor/{what}")
@pytest.mark.parametrize("what", FAKES)
def test_monitor(vms, what):
    talk, code = FAKES[what]
    fake = FakeMonitor(vms.lab, talk)
    vms.sockets.append(fake)
    error = attach_refused(vms.a, fake.path)
    assert code is None or error.code == code, error
    attach(vms.a.qmp, vms.qemu())


@path("qemu/hostile/monitor/talks-without-end")
def test_endless(vms):
    """Events for ever: others get their turn, and the attach ends in time."""
    fake = FakeMonitor(vms.lab, for_ever(event("RTC_CHANGE") * 100, greeting()))
    vms.sockets.append(fake)
    other = vms.a.session()
    other.send({"execute": "guest-attach", "arguments": {
        "name": GUEST, "driver": "qemu", "qmp": str(fake.path)}})
    attach(vms.a.qmp, vms.qemu(name="good"), "good")
    assert vms.a.run_state("good") == "running"
    assert other.answer()["error"]["code"] == "guest-timeout"


@path("qemu/hostile/monitor/{word}-without-end")
@pytest.mark.parametrize("word", ["SHUTDOWN", "MIGRATION", "STOP"])
def test_news(vms, word):
    """What is told to all clients, more often than is good for them."""
    source = vms.source(attached=False)
    relay = vms.relay_qmp(source)
    attach_through(vms.a, relay)
    with contextlib.suppress(OSError):  # it is hung up
        while True:
            relay.tell(word, {})
            relay.tell("RESUME", {})
    ended = vms.a.qmp.await_event("GUEST_DETACHED", guest=GUEST)
    assert "too often" in ended["data"]["reason"]
    check_console(source)
    attach(vms.a.qmp, source)


# ---- lies about a guest that is there ----

def of_command(name, change):
    """A reply rule for one command's answers."""
    def rule(message, command):
        if command == name and "return" in message:
            change(message)
        return message
    return rule


def put_thread(thread):
    def change(message):
        message["return"][0]["thread-id"] = thread
    return of_command("query-cpus-fast", change)


def put_memdev(**fields):
    def change(message):
        message["return"][0].update(fields)
    return of_command("query-memdev", change)


def put_text(pattern, text):
    def change(message):
        message["return"] = re.sub(pattern, text, message["return"])
    return of_command("human-monitor-command", change)


def number(message):
    message["return"] = 5


def no_backends(message):
    message["return"] = []


def many_backends(message):
    message["return"] *= 1000


def wide_map(message, command):
    """RAM of many backends, most of them nowhere, and a map that is long to go through."""
    if command == "query-memdev":
        mem0 = {**message["return"][0], "share": False}
        message["return"] = [{**mem0, "id": f"x{i}"} for i in range(1000)] + [mem0]
    elif "FlatView" in str(message.get("return")):
        heading = " Root memory region: system\r\n"
        line = "  00000000fec00000-00000000fec00fff (prio 0, ram): y\r\n"
        assert heading in message["return"]
        message["return"] = message["return"].replace(heading, heading + 100000 * line)
    return message


LIES = {
    "map-wide": wide_map,
    "thread-of-init": put_thread(1),
    "thread-0": put_thread(0),
    "thread-negative": put_thread(-1),
    "thread-unknown": put_thread(2**31 - 1),
    "thread-wide": put_thread(2**62),
    "thread-text": put_thread("1"),
    "machine-number": of_command("qom-get", number),
    "no-vcpus": of_command("query-cpus-fast", no_backends),
    "no-backends": of_command("query-memdev", no_backends),
    "many-backends": of_command("query-memdev", many_backends),
    "size-0": put_memdev(size=0),
    "size-negative": put_memdev(size=-4096),
    "size-unaligned": put_memdev(size=4097),
    "size-too-large": put_memdev(size=65 << 20),
    "size-huge": put_memdev(size=2**62),
    "name-long": put_memdev(id="x" * 5000),
    "name-path": put_memdev(id="../../etc/passwd"),
    "name-bad": put_memdev(id="a b\n"),
    "address-0": put_text(r" is 0x[0-9a-f]+", " is 0x0"),
    "address-wrong": put_text(r" is 0x[0-9a-f]+", " is 0x7fff00000000"),
    "address-unaligned": put_text(r" is 0x([0-9a-f]+)", r" is 0x\g<1>1"),
    "address-last": put_text(r" is 0x[0-9a-f]+", " is 0xfffffffffffff000"),
    "address-text": put_text(r"^Host virtual address.*", "somewhere"),
    "map-empty": put_text(r"(?s)FlatView.*", ""),
    "map-wild": put_text(r"ram\): mem0", "ram): mem0 @fffffffffffff000"),
    "map-offset": put_text(r"ram\): mem0", "ram): mem0 @0000000000800000"),
}


@path("qemu/hostile/lie/{what}")
@pytest.mark.parametrize("what", LIES)
def test_lie(vms, what):
    source = vms.source(attached=False)
    error = attach_refused(vms.a, vms.relay_qmp(source, reply=LIES[what]).path)
    assert error.code != "guest-timeout"  # it was heard
    check_console(source)
    attach(vms.a.qmp, source)


@path("qemu/hostile/lie/thread-of-another-vmm")
def test_other_process(vms):
    """A monitor that points at another guest's process gets nothing of its memory."""
    source, victim = vms.source(attached=False), vms.qemu(name="victim")
    thread = victim.qmp.cmd("query-cpus-fast")[0]["thread-id"]
    attach_refused(vms.a, vms.relay_qmp(source, reply=put_thread(thread)).path)
    maps = pathlib.Path(f"/proc/{vms.a.daemon.pid}/maps").read_text(encoding="ascii")
    assert str(victim.ram_path) not in maps
    check_console(source)
    attach(vms.a.qmp, victim, "victim")
