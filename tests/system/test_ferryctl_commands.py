# SPDX-License-Identifier: BSD-3-Clause
"""ferryctl's commands that set, tell and keep: guests, status, set, caps, attach, save, raw..."""

import contextlib
import json
import os
import re
import socket
import subprocess

import pytest
from ctl import Ctl
from qemu import start_qemu
from scenes import GUEST, MIB, check_moved, eventually, hold_active, path
from wire import WELCOME, block, hello, memfd, ready


@pytest.fixture
def ctl(lab):
    return Ctl(lab)


# ---- guests, status ----

@path("ferryctl/guests")
def test_guests(scene, ctl):
    assert ctl.good(scene.a, "guests") == "No guest is attached.\n"
    source, _ = scene.pair()
    scene.a.scripted("another", incoming=True)
    head, *rows = [line.split() for line in ctl.good(scene.a, "guests").splitlines()]
    assert head == ["NAME", "DRIVER", "STATUS", "RAM", "PID", "MIGRATION"]
    assert sorted(rows) == [
        ["another", "agent", "inmigrate", "16.0", "MiB", rows[1][5], "-"],
        [GUEST, "agent", "running", "16.0", "MiB", str(source.pid), "-"]]
    assert json.loads(ctl.good(scene.a, "guests", "--json")) == scene.a.qmp.cmd("query-guests")


@path("ferryctl/status/of-one-and-of-all")
def test_status(scene, ctl):
    source, target = scene.pair()
    scene.a.scripted("another", incoming=True)
    assert ctl.good(scene.a, "status", GUEST) == f"{GUEST}: no migration\n"
    hold_active(scene, source, target)
    text = ctl.good(scene.a, "status", GUEST)
    for words in (f"{GUEST}: outgoing, active: total time ", " of 16.0 MiB left, round 1",
                  "the guest writes ", "expected downtime "):
        assert words in text, text
    assert "another: no migration\n" in ctl.good(scene.a, "status")
    assert "listens on tcp:127.0.0.1:" in ctl.good(scene.b, "status", "-")
    records = [json.loads(line) for line in ctl.good(scene.a, "status", "--json").splitlines()]
    assert {record["guest"]: record.get("status") for record in records} == {
        GUEST: "active", "another": None}
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    text = ctl.good(scene.a, "status", GUEST)
    assert "completed: " in text and re.search("downtime: stop .* ram .* start ", text), text


@path("ferryctl/status/blocked")
def test_blocked(scene, ctl):
    source, _ = scene.pair()
    source.do("add-blocker a reason")
    eventually(lambda: "blocked-reasons" in scene.a.info(), what="the reason")
    assert "  can't be migrated now: a reason\n" in ctl.good(scene.a, "status", GUEST)


@path("ferryctl/status/watch")
def test_watch(scene, ctl):
    """Each change is shown; an interrupt ends it well."""
    source, target = scene.pair()
    running = ctl.started(scene.a, "status", GUEST, "--watch")
    seen = running.await_text("no migration\n")
    scene.a.migrate(scene.b.listen())
    scene.a.complete()
    running.await_text("outgoing, completed", seen)
    running.interrupt()
    assert running.end() == 0
    check_moved(source, target)


# ---- set, caps ----

@path("ferryctl/set/units")
def test_set(scene, ctl):
    scene.pair()
    assert ctl.good(scene.a, "set", GUEST, "max-bandwidth=1.5G", "downtime-limit=2s",
                    "xbzrle-cache-size=2MiB", "peer-timeout=1m", "announce-rounds=3",
                    "max-cpu-throttle=80%") == ""
    values = scene.a.qmp.cmd("query-migrate-parameters")
    assert [values[name] for name in ("max-bandwidth", "downtime-limit", "xbzrle-cache-size",
                                      "peer-timeout", "announce-rounds", "max-cpu-throttle")] == [
        3 << 29, 2000, 2 * MIB, 60000, 3, 80]
    shown = dict(line.split(None, 1) for line in ctl.good(scene.a, "set", GUEST).splitlines())
    assert shown.keys() == values.keys()
    assert (shown["max-bandwidth"], shown["downtime-limit"]) == ("1.5 GiB/s", "2.0 s")
    assert json.loads(ctl.good(scene.a, "set", "-", "--json")) == values


@path("ferryctl/set/refused")
def test_set_refused(scene, ctl):
    """All or nothing, in the daemon's words."""
    scene.pair()
    before = scene.a.qmp.cmd("query-migrate-parameters")
    ctl.bad(scene.a, 1, "set", GUEST, "max-bandwidth=1G", "announce-rounds=5000")
    assert "'speed' is unexpected" in ctl.bad(scene.a, 1, "set", GUEST, "speed=1")
    assert "'5' is no time" in ctl.bad(scene.a, 2, "set", GUEST, "downtime-limit=5")
    assert "largest" in ctl.bad(scene.a, 2, "set", GUEST, "max-bandwidth=9999999999T")
    assert scene.a.qmp.cmd("query-migrate-parameters") == before


@path("ferryctl/caps")
def test_caps(scene, ctl):
    scene.pair()
    assert ctl.good(scene.a, "caps", GUEST, "verify", "xbzrle=on", "zero-blocks=off") == ""
    shown = dict(line.split() for line in ctl.good(scene.a, "caps", "-").splitlines())
    assert (shown["verify"], shown["xbzrle"], shown["zero-blocks"]) == ("on", "on", "off")
    assert ctl.good(scene.a, "caps", GUEST, "verify=off") == ""
    found = json.loads(ctl.good(scene.a, "caps", GUEST, "--json"))
    assert {"capability": "verify", "state": False} in found
    ctl.bad(scene.a, 1, "caps", GUEST, "speed")


# ---- continue ----

@path("ferryctl/continue")
def test_continue(scene, ctl):
    source, target = scene.pair()
    uri = scene.b.listen()
    running = ctl.started(scene.a, "migrate", GUEST, uri, "--wait", "--cap",
                          "pause-before-switchover", "--cap", "verify=off")
    scene.a.reach("pre-switchover")
    running.await_text("pre-switchover")
    assert ctl.good(scene.a, "continue", GUEST) == ""
    assert running.end() == 0, running.text
    check_moved(source, target)


# ---- attach, detach ----

@path("ferryctl/attach/detached-and-back")
def test_attach_again(scene, ctl):
    scene.pair()
    assert ctl.good(scene.a, "detach", "-") == ""
    assert ctl.good(scene.a, "guests") == "No guest is attached.\n"
    assert ctl.good(scene.a, "attach", GUEST) == ""
    assert GUEST in ctl.good(scene.a, "guests")


@contextlib.contextmanager
def libferry_at(where):
    """The socket of a libferry that listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(where))
        listener.listen()
        yield listener


@path("ferryctl/attach/socket")
def test_attach_socket(scene, ctl):
    """ferryctl connects to a libferry that listens, and gives the daemon the connection."""
    where = scene.lab.folder / "libferry"
    with libferry_at(where) as listener:
        running = ctl.started(scene.a, "attach", "x", "--socket", where)
        sock, _ = listener.accept()
    with sock:
        sock.send(hello(b"x"))
        memory = memfd()
        socket.send_fds(sock, [block()], [memory])
        os.close(memory)
        sock.send(ready())
        assert sock.recv(2048)[0] == WELCOME
        assert running.end() == 0, running.text
        assert [guest["name"] for guest in scene.a.qmp.cmd("query-guests")] == ["x"]
    assert "No libferry" in ctl.bad(scene.a, 1, "attach", "x", "--socket", scene.lab.folder / "no")


@path("ferryctl/attach/socket-refused")
def test_attach_refused(scene, ctl):
    """What was passed and not used is not kept."""
    where = scene.lab.folder / "libferry"
    with libferry_at(where) as listener:
        for _ in range(70):
            assert "printable" in ctl.bad(scene.a, 1, "attach", "a b", "--socket", where)
            listener.accept()[0].close()


@path("ferryctl/attach/qemu")
@pytest.mark.qemu
def test_attach_qemu(scene, ctl):
    """The socket's path is ferryctl's, wherever the daemon runs."""
    qemu = start_qemu(scene.lab, GUEST, paused=True)
    where = os.path.relpath(qemu.qmp_path)
    assert ctl.good(scene.a, "attach", GUEST, "--qmp", where) == ""
    assert "qemu" in ctl.good(scene.a, "guests")
    assert ctl.good(scene.a, "detach", GUEST) == ""


# ---- raw, events, version ----

@path("ferryctl/raw")
def test_raw(scene, ctl):
    scene.pair()
    status = {"return": scene.a.qmp.cmd("query-status")}
    for words in (["query-status"], ["query-status", f"guest={GUEST}"],
                  ['{"execute": "query-status"}']):
        assert json.loads(ctl.good(scene.a, "raw", *words)) == status
    done = ctl.run(scene.a, "raw", "query-status", "guest=12")
    assert done.status == 1 and json.loads(done.out)["error"]["code"] == "guest-unknown"
    ctl.good(scene.a, "raw", "migrate-set-capabilities",
             'capabilities=[{"capability": "verify", "state": true}]')
    assert "This is no JSON" in ctl.bad(scene.a, 2, "raw", "{nonsense}")


@path("ferryctl/events")
def test_events(scene, ctl):
    scene.pair()
    people, program = ctl.started(scene.a, "events"), ctl.started(scene.a, "events", "--json")
    for running in (people, program):
        await_events(scene, running)
        running.interrupt()
        assert running.end() == 0
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} RESUME guest=g\n", people.text, re.M), people.text
    events = [json.loads(line) for line in program.text.splitlines()]
    assert {"guest": GUEST} in [event["data"] for event in events if event["event"] == "STOP"]


def await_events(scene, running):
    """Makes events until some have arrived: nothing tells when it has begun to listen."""
    def seen():
        scene.a.qmp.cmd("stop", guest=GUEST)
        scene.a.qmp.cmd("cont", guest=GUEST)
        return "RESUME" in running.text and "STOP" in running.text

    eventually(seen, what="events")


@path("ferryctl/version-is-the-daemons")
def test_version(scene, ctl):
    said = subprocess.run([scene.lab.build / "ferryd", "--version"], capture_output=True, text=True,
                          check=True).stdout
    assert ctl.good(scene.a, "--version").split()[-1] == said.split()[-1]


@path("ferryctl/reader-gone")
def test_reader_gone(scene, ctl):
    """A pipe that nobody reads ends it without a word."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([ctl.program, "guests"], stdout=writer, stderr=subprocess.PIPE,
                          env=ctl.env(scene.a), check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@path("ferryctl/full-disk")
def test_full(scene, ctl):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([ctl.program, "guests"], stdout=full, stderr=subprocess.PIPE,
                              text=True, env=ctl.env(scene.a), check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("No space left on device\n") and done.stderr.count("\n") == 1
