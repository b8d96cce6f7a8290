# SPDX-License-Identifier: BSD-3-Clause
"""ferryctl migrates: what it shows, how it ends, and that Ctrl-C is asked about."""

import json
import signal
import threading

import pytest
from ctl import GREETING, Ctl, Liar, requests
from lab import DEADLINE, Cut
from scenes import GUEST, MIB, SLOW, check_moved, check_source_runs, path
from stream import GO, Tap

FIELDS = ("round 1", " left", " MiB/s", "dirty ", "downtime ~", " to go")


@pytest.fixture
def ctl(lab):
    return Ctl(lab)


def pair(scene, fill=16 * MIB):
    return scene.pair(fill=fill)


def uri_of(ctl, scene):
    """Where the destination listens, as ferryctl says."""
    line = ctl.good(scene.b, "incoming", GUEST, "tcp:127.0.0.1:0")
    assert line.startswith("listens on tcp:127.0.0.1:")
    return line.split()[-1]


def slowly(scene, ctl, start):
    """A migration that goes on until something is done about it; source, and what waits for it."""
    source, _ = pair(scene)
    running = start(scene.a, "migrate", GUEST, uri_of(ctl, scene), "--wait", "--speed", "256K")
    scene.a.reach("active")
    return source, running


def finish(scene):
    """What goes on slowly goes on fast, to its end."""
    scene.a.set(max_bandwidth=0)
    assert scene.a.complete()


# ---- what is shown ----

@path("ferryctl/migrate/wait-on-a-terminal")
def test_bar(scene, ctl):
    source, target = pair(scene)
    running = ctl.terminal(scene.a, "migrate", "-", uri_of(ctl, scene), "--wait",
                           "--speed", SLOW, "--downtime", "10ms", "--cap", "verify")
    running.await_text("to go", running.await_text("[#"))
    scene.a.set(max_bandwidth=0)
    assert running.end() == 0, running.text
    check_moved(source, target)
    *redrawn, last, nothing = running.text.split("\r")
    bars = [line for line in redrawn if line.startswith("[")]
    assert len(bars) >= 2 and all("\n" not in line for line in bars), running.text
    assert all(len(line) < 120 for line in bars), running.text
    for field in FIELDS:
        assert any(field in line for line in bars), (field, running.text)
    assert bars[0].index("]") == bars[-1].index("]"), running.text
    assert last.startswith("completed: total time ") and nothing == "\n", running.text
    assert "downtime " in last and " sent" in last
    assert scene.a.qmp.cmd("query-migrate-parameters")["downtime-limit"] == 10
    assert scene.a.info()["verified"] is True


@path("ferryctl/migrate/wait-without-a-terminal")
def test_lines(scene, ctl):
    source, target = pair(scene)
    running = ctl.started(scene.a, "migrate", GUEST, uri_of(ctl, scene), "--wait", "--speed", "2M")
    running.await_text("to go")
    scene.a.set(max_bandwidth=0)
    assert running.end() == 0, running.text
    check_moved(source, target)
    *lines, last = running.text.splitlines()
    assert "\r" not in running.text and "[" not in running.text
    assert any(line.startswith("active  round 1  ") for line in lines), running.text
    assert last.startswith("completed: total time "), running.text


@path("ferryctl/migrate/without-wait")
def test_no_wait(scene, ctl):
    source, target = pair(scene)
    assert ctl.good(scene.a, "migrate", GUEST, uri_of(ctl, scene)) == ""
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("ferryctl/migrate/json")
def test_json(scene, ctl):
    pair(scene)
    uri = json.loads(ctl.good(scene.b, "incoming", GUEST, "tcp:127.0.0.1:0", "--json"))["listening"]
    lines = ctl.good(scene.a, "--json", "migrate", GUEST, uri, "--wait").splitlines()
    records = [json.loads(line) for line in lines]
    assert records[-1]["status"] == "completed"
    assert all(record["direction"] == "outgoing" for record in records)


@path("ferryctl/incoming/wait")
def test_incoming(scene, ctl):
    """The destination's side, which leaves the guest paused."""
    pair(scene)
    running = ctl.started(scene.b, "incoming", GUEST, "tcp:127.0.0.1:0", "--wait", "--paused",
                          "--cap", "verify=on")
    end = running.await_text("\n", running.await_text("listens on "))
    scene.a.migrate(running.text[:end].split()[-1])
    assert running.end() == 0, running.text
    assert " received" in running.text.splitlines()[-1]
    assert scene.b.run_state() == "paused"


@path("ferryctl/migrate/disks-{option}")
@pytest.mark.parametrize("option", ["--blk", "--inc"])
def test_disk_options(scene, ctl, option):
    """What the daemon says of disks comes from the option."""
    pair(scene)
    text = ctl.bad(scene.a, 1, "migrate", GUEST, "tcp:127.0.0.1:1", option)
    assert f"'{option[2:]}' asks to migrate disks" in text


# ---- how it ends ----

@path("ferryctl/exit/refused")
def test_refused(scene, ctl):
    pair(scene, fill=0)
    text = ctl.bad(scene.a, 1, "migrate", GUEST, "ether:x", "--wait")
    assert "unknown migration protocol" in text
    assert "not attached" in ctl.bad(scene.a, 1, "migrate", "other", "tcp:127.0.0.1:1")
    assert "No such file" in ctl.bad(scene.lab.folder / "none", 1, "guests")
    done = ctl.run(scene.a, "cancel", "other", "--json")
    assert json.loads(done.out)["error"]["code"] == "guest-unknown"


@path("ferryctl/exit/usage")
def test_usage(scene, ctl):
    for words in ((), ("sail",), ("migrate", GUEST), ("--speed", "1G"), ("guests", "--loud"),
                  ("set", GUEST, "max-bandwidth=fast"), ("set", GUEST, "max-bandwidth"),
                  ("caps", GUEST, "xbzrle=maybe"), ("--timeout", "5", "guests"),
                  ("resolve", GUEST, "both"), ("report", GUEST, "--width", "-3"),
                  ("attach", GUEST, "--qmp", "a", "--socket", "b")):
        ctl.bad(scene.a, 2, *words)


@path("ferryctl/exit/failed")
def test_failed(scene, ctl):
    source, _ = pair(scene)
    done = ctl.run(scene.a, "migrate", GUEST, "tcp:127.0.0.1:1", "--wait")
    assert done.status == 3, done
    last = done.out.splitlines()[-1]
    assert last.startswith("failed: ") and last.endswith(" (connect-failed)"), done
    assert last in ctl.good(scene.a, "status", GUEST)
    check_source_runs(scene.a, source)


@path("ferryctl/exit/cancelled")
def test_cancelled(scene, ctl):
    source, running = slowly(scene, ctl, ctl.started)
    assert ctl.good(scene.a, "cancel", GUEST) == ""
    assert running.end() == 4, running.text
    assert running.text.splitlines()[-1].startswith("cancelled: ")
    check_source_runs(scene.a, source)


@path("ferryctl/exit/undecided-and-resolved")
def test_undecided(scene, ctl):
    """The link breaks at GO and stays down."""
    source, target = pair(scene, fill=MIB)
    tap = Tap()
    relay = scene.relay(uri_of(ctl, scene), tap=tap)

    def break_link(raw):
        relay.open = False
        return Cut(raw)

    tap.on("out", GO, break_link)
    done = ctl.run(scene.a, "migrate", GUEST, relay.uri, "--wait", "--timeout", "3s")
    assert done.status == 5, done
    assert "handover undecided" in done.out and "ferryctl resolve" in done.err
    assert "handover undecided" in ctl.good(scene.a, "status", GUEST)
    scene.b.complete()
    ctl.good(scene.a, "resolve", GUEST, "destination")
    scene.a.complete()
    check_moved(source, target)


@path("ferryctl/exit/daemon-lost")
def test_daemon_lost(scene, ctl):
    _, running = slowly(scene, ctl, ctl.started)
    running.await_text("active")
    scene.a.kill()
    assert running.end() == 5, running.text
    assert "is not known here" in running.text


@path("ferryctl/exit/interrupted-without-a-terminal")
def test_left(scene, ctl):
    _, running = slowly(scene, ctl, ctl.started)
    running.await_text("active")
    running.interrupt()
    assert running.end() == 6, running.text
    assert "was left running" in running.text
    finish(scene)


@path("ferryctl/exit/interrupted-without-wait/{command}")
@pytest.mark.parametrize("command", ["migrate", "incoming"])
def test_unanswered(lab, ctl, command):
    """What waits for nothing but an answer is ended by the signal."""
    asked = threading.Event()

    def serve(sock):
        sock.sendall(GREETING)
        for name in requests(sock):
            if name.startswith("migrate"):
                asked.set()
            else:
                sock.sendall(b'{"return": {}}\r\n')

    liar = Liar(lab, serve)
    running = ctl.started(liar.path, command, "g", "tcp:x:1", "--timeout", "5s")
    assert asked.wait(DEADLINE)
    running.interrupt()
    assert running.end() == -signal.SIGINT, running.text
    assert running.text == ""


# ---- Ctrl-C on a terminal ----

LEAVE = {"said": "l\n", "ctrl-c-again": "\x03", "ctrl-d": "\x04"}


def ask(scene, ctl):
    source, running = slowly(scene, ctl, ctl.terminal)
    running.await_text("round 1")
    running.type("\x03")
    running.await_text("[c]ancel, [l]eave it running, [k]eep waiting? ")
    assert scene.a.status() == "active"
    return source, running


@path("ferryctl/ctrl-c/cancel")
def test_ask_cancel(scene, ctl):
    source, running = ask(scene, ctl)
    running.type("c\n")
    assert running.end() == 4, running.text
    check_source_runs(scene.a, source)


@path("ferryctl/ctrl-c/leave-{how}")
@pytest.mark.parametrize("how", LEAVE)
def test_ask_leave(scene, ctl, how):
    _, running = ask(scene, ctl)
    running.type(LEAVE[how])
    assert running.end() == 6, running.text
    finish(scene)


@path("ferryctl/ctrl-c/keep-waiting")
def test_ask_keep(scene, ctl):
    """What is no answer is asked again."""
    _, running = ask(scene, ctl)
    asked = running.await_text("waiting? ")
    running.type("what\n")
    again = running.await_text("waiting? ", asked)
    running.type("k\n")
    running.await_text("round 1", again)
    scene.a.set(max_bandwidth=0)
    assert running.end() == 0, running.text
