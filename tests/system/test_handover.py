# SPDX-License-Identifier: BSD-3-Clause
"""The handover: whatever breaks, the guest runs in exactly one place and is never lost."""

import socket

import pytest
from lab import CommandError, Cut
from scenes import (GUEST, address_of, check_moved, check_source_runs, eventually,
                    hold_device_load, move, path)
import wire
from wire import RawVmm
from stream import (ANSWER, ASK, DONE, FAIL, GO, READY, RUNNING, Tap, flip, preamble, record)


def break_behind(raw):
    """A rule: the record still arrives, then the link is gone."""
    return Cut(raw)


def break_before(raw):
    return None


class Broken:
    """A migration whose link breaks at a record and stays down until it is mended."""

    def __init__(self, scene, way, kind, rule):
        self.scene = scene
        self.source, self.target = scene.pair()
        self.tap = Tap()
        self.relay = scene.relay(scene.b.listen(), tap=self.tap)
        self.tap.on(way, kind, lambda raw: self._break(rule, raw))
        scene.a.migrate(self.relay.uri)

    def _break(self, rule, raw):
        self.relay.open = False
        return rule(raw)

    def undecided(self):
        """Waits until the source says that it does not know."""
        info = eventually(lambda: self._undecided_info(), what="an undecided handover")
        assert info["status"] == "device"
        assert self.source.do("state") == "given-away"
        return info

    def _undecided_info(self):
        info = self.scene.a.info()
        return info if info.get("handover") == "undecided" else None

    def mend(self):
        self.relay.open = True


def check_one_place(source, target):
    states = [source.do("state"), target.do("state")]
    assert states.count("running") == 1, states


@path("handover/link-cut/between-go-and-running")
def test_cut_behind_go(scene):
    broken = Broken(scene, "out", GO, break_behind)
    broken.undecided()
    assert scene.b.complete()["handover"] == "destination"
    broken.mend()
    assert scene.a.complete()["handover"] == "destination"
    assert broken.tap.count("out", ASK) >= 1
    assert broken.tap.count("out", GO) == 1
    assert broken.tap.count("back", ANSWER) >= 1
    eventually(lambda: broken.tap.count("out", DONE), what="DONE")
    check_moved(broken.source, broken.target)


@path("handover/link-cut/at-running")
def test_cut_at_running(scene):
    """The destination has said it, the source has not heard it."""
    broken = Broken(scene, "back", RUNNING, break_before)
    broken.undecided()
    broken.mend()
    scene.a.complete()
    scene.b.complete()
    check_moved(broken.source, broken.target)


@path("handover/link-cut/before-go")
def test_cut_before_go(scene):
    """The destination never heard GO: it is sent again on the new link."""
    broken = Broken(scene, "out", GO, break_before)
    broken.undecided()
    assert broken.target.do("state") == "incoming"
    broken.mend()
    scene.a.complete()
    scene.b.complete()
    assert broken.tap.count("out", GO) == 2
    check_moved(broken.source, broken.target)


@path("handover/link-cut/again-and-again")
def test_cut_again(scene):
    """Links break while it asks, too."""
    broken = Broken(scene, "out", GO, break_before)
    broken.undecided()
    broken.tap.on("out", ASK, break_before)
    broken.tap.on("back", ANSWER, break_before)
    broken.tap.on("out", GO, break_behind)
    broken.mend()
    scene.a.complete()
    scene.b.complete()
    assert broken.tap.count("out", ASK) >= 4
    check_moved(broken.source, broken.target)


@path("handover/link-cut/running-damaged")
def test_running_damaged(scene):
    broken = Broken(scene, "back", RUNNING, flip(4))
    broken.undecided()
    broken.mend()
    scene.a.complete()
    scene.b.complete()
    check_moved(broken.source, broken.target)


@path("handover/link-cut/a-lie-in-the-place-of-running")
def test_running_replaced(scene):
    """Anything but RUNNING or FAIL decides nothing."""
    broken = Broken(scene, "back", RUNNING, lambda raw: record(READY, bytes(8)))
    broken.undecided()
    broken.mend()
    scene.a.complete()
    check_moved(broken.source, broken.target)


@path("handover/link-cut/ready-lost")
def test_cut_at_ready(scene):
    """Nothing was given away: the source resumes, the destination forgets."""
    source, target = scene.pair()
    scene.b.set(peer_timeout=200, guest_timeout=1000)
    tap = Tap().on("back", READY, break_before)
    scene.a.migrate(scene.relay(scene.b.listen(), tap=tap).uri)
    info = scene.a.fail()
    assert "handover" not in info
    scene.b.fail()
    check_one_place(source, target)
    check_source_runs(scene.a, source)
    scene.move(source, target)


@path("handover/link-cut/done-lost")
def test_cut_at_done(scene):
    """Both know already; the destination stops waiting for questions by itself."""
    broken = Broken(scene, "out", DONE, break_before)
    scene.a.complete()
    scene.b.complete()
    check_moved(broken.source, broken.target)
    broken.source.kill()
    back = scene.a.scripted(incoming=True)
    move(scene.b, scene.a, broken.target, back)


@path("handover/resolved/destination")
def test_resolve_destination(scene):
    broken = Broken(scene, "out", GO, break_behind)
    broken.undecided()
    scene.b.complete()
    assert scene.a.qmp.cmd("migrate-resolve", guest=GUEST, outcome="destination") == {}
    assert scene.a.complete()["handover"] == "destination"
    check_moved(broken.source, broken.target)


@path("handover/resolved/source")
def test_resolve_source(scene):
    broken = Broken(scene, "out", GO, break_before)
    broken.undecided()
    scene.b.cancel()
    assert scene.b.end()["status"] == "cancelled"
    assert scene.a.qmp.cmd("migrate-resolve", guest=GUEST, outcome="source") == {}
    assert scene.a.fail(GUEST, "operator")["handover"] == "source"
    check_source_runs(scene.a, broken.source)
    assert broken.target.do("state") == "incoming"
    scene.move(broken.source, broken.target)


@path("handover/undecided/destination-forgets-after-its-patience")
def test_destination_forgets(scene):
    broken = Broken(scene, "out", GO, break_before)
    scene.b.set(peer_timeout=100, guest_timeout=200)
    broken.undecided()
    scene.b.fail()
    assert broken.target.do("state") == "incoming"
    assert scene.a.info()["handover"] == "undecided"
    scene.a.qmp.cmd("migrate-resolve", guest=GUEST, outcome="source")
    scene.a.fail(GUEST, "operator")
    check_source_runs(scene.a, broken.source)


@path("handover/undecided/source-learns-that-it-was-cancelled")
def test_cancelled_at_the_destination(scene):
    """The destination answers a while after its end: it never ran, the source may have it."""
    broken = Broken(scene, "out", GO, break_before)
    broken.undecided()
    scene.b.cancel()
    assert scene.b.end()["status"] == "cancelled"
    broken.mend()
    assert scene.a.fail(GUEST, "gave the guest up")["handover"] == "source"
    check_source_runs(scene.a, broken.source)
    scene.move(broken.source, broken.target)


@path("handover/undecided/refuses-everything-else")
def test_undecided_refuses(scene):
    broken = Broken(scene, "out", GO, break_behind)
    broken.undecided()
    scene.a.cancel()
    for name, arguments in (("migrate", {"uri": "tcp:127.0.0.1:1"}), ("stop", {}), ("cont", {}),
                            ("guest-detach", {}), ("migrate-continue", {"state": "device"}),
                            ("migrate-set-capabilities", {"capabilities": []})):
        with pytest.raises(CommandError):
            scene.a.qmp.cmd(name, guest=GUEST, **arguments)
    info = broken.undecided()
    assert info["status"] == "device"
    assert scene.a.run_state() == "postmigrate"
    broken.mend()
    scene.a.complete()
    check_moved(broken.source, broken.target)


@path("handover/resolve/nothing-to-decide")
def test_resolve_refused(scene):
    source, target = scene.pair()
    for outcome in ("source", "destination"):
        for host in (scene.a, scene.b):
            with pytest.raises(CommandError) as refused:
                host.qmp.cmd("migrate-resolve", guest=GUEST, outcome=outcome)
            assert refused.value.code == "handover-decided"
    hold_device_load(scene, source, target)
    with pytest.raises(CommandError) as refused:
        scene.a.qmp.cmd("migrate-resolve", guest=GUEST, outcome="source")
    assert refused.value.code == "handover-decided"
    target.do("behave load=ok")
    scene.a.complete()
    with pytest.raises(CommandError) as refused:
        scene.a.qmp.cmd("migrate-resolve", guest=GUEST, outcome="source")
    assert refused.value.code == "handover-decided"
    assert source.do("state") == "given-away"


@path("handover/refused/load")
def test_load_fails(scene):
    source, target = scene.pair()
    target.do("behave load=fail")
    scene.a.migrate(scene.b.listen())
    words = ("load_state", "the script told this callback to fail")
    scene.b.fail(GUEST, *words)
    scene.a.fail(GUEST, *words)
    assert len(target.events("load")) == 1
    check_source_runs(scene.a, source)
    scene.move(source, target)


@path("handover/refused/start")
def test_start_fails(scene):
    """After GO: the VMM says that the guest does not run, so the source may have it back."""
    source, target = scene.pair()
    target.do("behave resume=fail")
    scene.a.migrate(scene.b.listen())
    words = ("resume", "the script told this callback to fail")
    scene.b.fail(GUEST, *words)
    assert scene.a.fail(GUEST, *words)["handover"] == "source"
    assert len(target.events("resume")) == 1
    check_one_place(source, target)
    check_source_runs(scene.a, source)
    scene.move(source, target)


@path("handover/refused/save")
def test_save_fails(scene):
    source, target = scene.pair()
    source.do("behave save=fail")
    scene.a.migrate(scene.b.listen())
    scene.a.fail(GUEST, "save_state", "the script told this callback to fail")
    scene.b.fail(GUEST, "save_state")
    check_source_runs(scene.a, source)
    scene.move(source, target)


@path("handover/refused/stop")
def test_stop_fails(scene):
    source, target = scene.pair()
    source.do("behave stop=fail")
    scene.a.migrate(scene.b.listen())
    scene.a.fail(GUEST, "stop", "the script told this callback to fail")
    scene.b.fail(GUEST)
    check_source_runs(scene.a, source)
    scene.move(source, target)


@path("handover/in-doubt/start-answers-late")
def test_start_hangs(scene):
    """GO was taken and nobody knows whether it runs: nothing is said until the VMM has answered."""
    source, target = scene.pair()
    scene.b.set(guest_timeout=200, peer_timeout=300)
    scene.a.set(guest_timeout=1000, peer_timeout=1000)
    target.do("behave resume=hang")
    scene.a.migrate(scene.b.listen())
    for side in (scene.a, scene.b):
        info = eventually(lambda: side.info().get("handover") and side.info(),
                          what="an undecided handover")
        assert (info["status"], info["handover"]) == ("device", "undecided")
    assert source.do("state") == "given-away"
    target.do("behave resume=ok")
    eventually(lambda: target.do("state") == "running", what="a start that came late")
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("handover/destination-daemon-killed/{moment}")
@pytest.mark.parametrize("moment", ["before-go", "behind-go"])
def test_destination_daemon_killed(scene, moment):
    """Its memory of the job is gone: the source stays undecided until an operator has looked."""
    rule = break_before if moment == "before-go" else break_behind
    broken = Broken(scene, "out", GO, rule)
    broken.undecided()
    if moment == "behind-go":
        scene.b.complete()
    scene.b.kill()
    scene.b.restart(GUEST)
    broken.mend()
    broken.undecided()
    runs = "destination" if moment == "behind-go" else "source"
    assert (broken.target.do("state") == "running") == (runs == "destination")
    scene.a.qmp.cmd("migrate-resolve", guest=GUEST, outcome=runs)
    if runs == "source":
        scene.a.fail(GUEST, "operator")
        check_source_runs(scene.a, broken.source)
        scene.move(broken.source, broken.target)
    else:
        scene.a.complete()
        check_moved(broken.source, broken.target)


@path("handover/source-daemon-killed/{outcome}")
@pytest.mark.parametrize("outcome", ["source", "destination"])
def test_source_daemon_killed(scene, outcome):
    """After the guest was given away: the next daemon knows that, and an operator decides."""
    rule = break_before if outcome == "source" else break_behind
    broken = Broken(scene, "out", GO, rule)
    job = broken.undecided()["job"]
    scene.a.kill()
    if outcome == "source":
        scene.b.cancel()
        scene.b.end()
    else:
        scene.b.complete()
    scene.a.restart(GUEST)
    assert broken.source.do("state") == "given-away"
    info = scene.a.info()
    assert (info["status"], info["handover"], info["job"]) == ("device", "undecided", job)
    assert scene.a.run_state() == "postmigrate"
    for name, arguments in (("cont", {}), ("migrate", {"uri": "tcp:127.0.0.1:1"})):
        with pytest.raises(CommandError):
            scene.a.qmp.cmd(name, guest=GUEST, **arguments)
    scene.a.qmp.cmd("migrate-resolve", guest=GUEST, outcome=outcome)
    if outcome == "source":
        check_source_runs(scene.a, broken.source)
        assert scene.a.info().get("handover") != "undecided"
        scene.move(broken.source, broken.target)
    else:
        check_moved(broken.source, broken.target)
        assert scene.a.info().get("handover") != "undecided"
        assert broken.source.do("state") == "given-away"


@path("handover/source-vmm-killed/undecided")
def test_source_vmm_killed(scene):
    """The VMM of a guest that was given away may go: the record can still be resolved."""
    broken = Broken(scene, "out", GO, break_behind)
    broken.undecided()
    broken.source.kill()
    scene.b.complete()
    broken.mend()
    assert scene.a.complete()["handover"] == "destination"
    assert broken.target.do("state") == "running"


@path("handover/sigterm/undecided")
def test_sigterm_undecided(scene):
    """A daemon that ends leaves the guest as it is: given away, and nowhere resumed."""
    broken = Broken(scene, "out", GO, break_behind)
    broken.undecided()
    assert scene.a.daemon.terminate() == 0
    assert broken.source.do("state") == "given-away"
    scene.a.restart(GUEST)
    assert scene.a.info()["handover"] == "undecided"
    scene.a.qmp.cmd("migrate-resolve", guest=GUEST, outcome="destination")
    check_moved(broken.source, broken.target)


@path("handover/stranger-asks")
def test_stranger_at_the_listener(scene):
    """While the destination waits for its source, somebody else connects: a question, garbage."""
    source, target = scene.pair()
    tap = Tap()
    uri = scene.b.listen()
    relay = scene.relay(uri, tap=tap)

    def down(raw):
        relay.open = False
        return None

    tap.on("out", GO, down)
    scene.a.migrate(relay.uri)
    eventually(lambda: scene.a.info().get("handover") == "undecided", what="undecided")
    for words in (preamble() + record(ASK, bytes(16)), preamble() + record(FAIL), b"x" * 100,
                  preamble() + record(GO), preamble() + record(1, bytes(64))):
        with socket.create_connection(address_of(uri)) as stranger:
            stranger.sendall(words)
            stranger.shutdown(socket.SHUT_WR)
            answer = stranger.recv(100)
            assert not answer or answer == record(ANSWER, b"\4" + bytes(7))
    assert target.do("state") == "incoming"
    relay.open = True
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("handover/fd/link-lost-behind-go")
def test_fd_cannot_reconnect(scene):
    """A descriptor can't be connected again: undecided until an operator decides."""
    source, target = scene.pair()
    uri = scene.b.listen()
    tap = Tap().on("out", GO, break_behind)
    relay = scene.relay(uri, tap=tap)
    with socket.create_connection(("127.0.0.1", relay.port)) as link:
        scene.a.qmp.cmd("getfd", fds=[link.fileno()], fdname="link")
    scene.a.migrate("fd:link")
    eventually(lambda: scene.a.info().get("handover") == "undecided", what="undecided")
    scene.b.complete()
    scene.a.qmp.cmd("migrate-resolve", guest=GUEST, outcome="destination")
    scene.a.complete()
    check_moved(source, target)


def give_away_and_vanish(scene, uri, last):
    """A raw VMM gives its guest away and loses its connection as it hears what became of it."""
    with RawVmm(scene.a.daemon.guests) as vmm:
        vmm.introduce()
        scene.a.qmp.await_event("GUEST_ATTACHED", guest=GUEST)
        scene.a.migrate(uri)
        return vmm.obey_until(last)[wire.GIVE_AWAY]


def come_back(scene, job):
    """The same VMM connects again: welcomed first, then told.  What it is asked."""
    vmm = RawVmm(scene.a.daemon.guests)
    with vmm:
        vmm.introduce(state=wire.GIVEN_AWAY, job=job)
        return vmm.receive()[0]


@path("handover/vmm-comes-back/released")
def test_comes_back_released(scene):
    """Its guest has arrived meanwhile, and it is told so."""
    job = give_away_and_vanish(scene, "exec:cat >/dev/null", wire.RELEASE)
    scene.a.complete()
    assert come_back(scene, job) == wire.RELEASE


@path("handover/vmm-comes-back/taken-back")
def test_comes_back_failed(scene):
    """Its guest has not arrived: it gets it back."""
    job = give_away_and_vanish(scene, "exec:cat >/dev/null; exit 3", wire.TAKE_BACK)
    scene.a.fail(GUEST, "status 3")
    assert come_back(scene, job) == wire.TAKE_BACK
