# SPDX-License-Identifier: BSD-3-Clause
"""Whichever process dies, in whichever state: QEMU's guest runs in exactly one place, and nothing
of ferryd's is left behind in QEMU."""

import pathlib
import threading

import pytest
from lab import DEADLINE, CommandError
from qemu import attach
from qemu_scenes import (FILLED, HOLD, attach_through, check_arrived, check_console,
                         check_nothing_left, check_stays, children, cut_at_go, descriptors,
                         disk_options, hold_active, holds_lock, settings)
from scenes import GUEST, eventually, path

pytestmark = pytest.mark.qemu


@path("qemu/killed/destination-qemu/{state}")
@pytest.mark.parametrize("state", HOLD)
def test_destination_qemu(vms, state):
    image, both = disk_options(vms)
    source, target = vms.pair(FILLED, both)
    fds = descriptors(source)
    HOLD[state](vms)
    target.kill()
    vms.release()
    info = vms.a.end()
    assert info["status"] == "failed", info
    assert vms.b.end()["status"] == "failed"
    check_stays(vms.a, source)
    assert holds_lock(source, image)
    check_nothing_left(source, fds)
    vms.move(source, vms.target(**both))


@path("qemu/killed/source-qemu/{state}")
@pytest.mark.parametrize("state", HOLD)
def test_source_qemu(vms, state):
    source, target = vms.pair(FILLED)
    HOLD[state](vms)
    source.kill()
    vms.a.fail(GUEST, GUEST)
    assert vms.a.qmp.cmd("query-guests") == []
    vms.release()
    assert vms.b.end()["status"] == "failed"
    if state != "loaded":
        assert target.state() == "inmigrate"
        vms.move(vms.source(), target)
    else:
        assert target.qmp.cmd("query-status")["running"] is False


@path("qemu/killed/destination-daemon/{state}")
@pytest.mark.parametrize("state", HOLD)
def test_destination_daemon(vms, state):
    source, target = vms.pair(FILLED)
    fds = descriptors(source)
    HOLD[state](vms)
    vms.b.kill()
    vms.release(cut=True)
    vms.a.fail(GUEST)
    check_stays(vms.a, source)
    check_nothing_left(source, fds)
    vms.b.start()
    if state == "loaded":
        assert target.qmp.cmd("query-status")["running"] is False
        target = vms.target()
    else:
        assert target.state() == "inmigrate"
        attach(vms.b.qmp, target)
    vms.move(source, target)


@path("qemu/killed/source-daemon/{state}/{how}")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("state", HOLD)
def test_source_daemon(vms, state, how):
    """QEMU resumes its guest by itself; nothing is left in it, and the next ferryd can have it."""
    image, both = disk_options(vms)
    source = vms.source(FILLED, attached=False, **both)
    target = vms.target(**both)
    fds, before = descriptors(source), settings(source)
    attach(vms.a.qmp, source)
    vms.b.set(peer_timeout=200, guest_timeout=1000)
    HOLD[state](vms)
    if how == "SIGKILL":
        vms.a.kill()
    else:
        assert vms.a.daemon.terminate() == 0
    vms.release()
    eventually(lambda: source.state() == "running", what="a guest that runs again")
    check_console(source)
    check_nothing_left(source, fds)
    eventually(lambda: settings(source) == before, what="the settings of before")
    eventually(lambda: holds_lock(source, image), what="the lock of its disk")
    assert vms.b.end()["status"] == "failed"
    vms.a.start()
    attach(vms.a.qmp, source)
    assert vms.a.info() == {}
    if state == "loaded":
        target.kill()
        vms.b.qmp.await_event("GUEST_DETACHED", guest=GUEST)
        target = vms.target(**both)
    vms.move(source, target)


def hold_reply(vms, source, command):
    """Begins a migration that stands still where QEMU has answered to that command; lets it go on."""
    reached, let_go = threading.Event(), threading.Event()

    def hold(message, asked):
        if asked == command and not reached.is_set():
            reached.set()
            let_go.wait()
        return message

    attach_through(vms.a, vms.relay_qmp(source, reply=hold))
    vms.a.migrate(vms.b.listen())
    assert reached.wait(DEADLINE)
    return let_go.set


LOSSES = {
    "cancelled": lambda vms, target: vms.a.cancel(),
    "destination-qemu": lambda vms, target: target.kill(),
    "destination-daemon": lambda vms, target: vms.b.kill(),
    "source-daemon": lambda vms, target: vms.a.kill(),
}
STEPS = ["getfd", "migrate", "migrate-continue"]


@path("qemu/killed/{who}/behind-{command}")
@pytest.mark.parametrize("command", STEPS)
@pytest.mark.parametrize("who", LOSSES)
def test_between_steps(vms, who, command):
    """On the way to the stop, and from there to the state: the guest runs on, and QEMU is as it was."""
    source, target = vms.source(FILLED, attached=False), vms.target()
    fds, before = descriptors(source), settings(source)
    let_go = hold_reply(vms, source, command)
    LOSSES[who](vms, target)
    let_go()
    if who == "source-daemon":
        vms.a.start()
    else:
        assert vms.a.end()["status"] == ("cancelled" if who == "cancelled" else "failed")
        vms.a.qmp.cmd("guest-detach", guest=GUEST)
    eventually(lambda: source.state() == "running", what="a guest that runs again")
    check_nothing_left(source, fds)
    eventually(lambda: settings(source) == before, what="the settings of before")
    check_console(source)


@path("qemu/cancel/not-before-qemu-pauses")
def test_cancel_before_pause(vms):
    """A QEMU that is told to cancel when it is about to pause can stand still for ever."""
    source, _ = vms.source(FILLED, attached=False), vms.target()
    let_go = hold_reply(vms, source, "migrate")
    asked = vms.relays[-1].requests
    before = asked["query-status"]
    vms.a.cancel()
    eventually(lambda: asked["query-status"] > before, what="ferryd's wait for the pause")
    assert not asked["migrate_cancel"]
    let_go()
    assert vms.a.end()["status"] == "cancelled"
    check_stays(vms.a, source)


@path("qemu/killed/source-qemu/behind-{command}")
@pytest.mark.parametrize("command", STEPS)
def test_source_between_steps(vms, command):
    source, target = vms.source(FILLED, attached=False), vms.target()
    let_go = hold_reply(vms, source, command)
    source.kill()
    let_go()
    vms.a.fail(GUEST, GUEST)
    assert vms.b.end()["status"] == "failed"
    assert target.state() == "inmigrate"
    vms.move(vms.source(), target)


@path("qemu/killed/source-daemon/helpers-hold-no-ram")
def test_helpers(vms):
    """Whoever stands by for a ferryd that ends: the guest's memory is not kept for it."""
    source, _ = vms.pair(FILLED)
    hold_active(vms)
    helpers = children(vms.a.daemon.pid)
    assert helpers
    for pid in [vms.a.daemon.pid, *helpers]:
        maps = pathlib.Path(f"/proc/{pid}/maps").read_text(encoding="ascii")
        assert (str(source.ram_path) in maps) == (pid not in helpers)


@path("qemu/killed/source-daemon/given-away/{outcome}")
@pytest.mark.parametrize("outcome", ["source", "destination"])
def test_given_away(vms, outcome):
    """After the word for GO: QEMU does not resume it, and an operator decides."""
    source, target = vms.pair(FILLED)
    cut_at_go(vms)
    vms.a.kill()
    assert source.state() == "postmigrate"
    if outcome == "source":
        vms.b.cancel()
        assert vms.b.end()["status"] == "cancelled"
    else:
        eventually(lambda: vms.b.info().get("handover") == "undecided", what="undecided")
        vms.b.qmp.cmd("migrate-resolve", guest=GUEST, outcome="destination")
        vms.b.complete()
    vms.a.start()
    attach(vms.a.qmp, source)
    assert vms.a.run_state() == "postmigrate"
    with pytest.raises(CommandError):
        vms.a.qmp.cmd("cont", guest=GUEST)
    vms.a.qmp.cmd("migrate-resolve", guest=GUEST, outcome=outcome)
    if outcome == "source":
        check_stays(vms.a, source)
    else:
        check_arrived(source, target)


@path("qemu/resolved-for-the-source-in-error")
def test_resolved_wrongly(vms):
    """The guest runs at its destination, which has its disk: what an operator said in error is tried
    and can be taken back, and does not come true when that disk is free."""
    image, both = disk_options(vms)
    source, target = vms.source(FILLED, attached=False, **both), vms.target(**both)
    relay = vms.relay_qmp(source)
    attach_through(vms.a, relay)
    cut_at_go(vms)
    eventually(lambda: vms.b.info().get("handover") == "undecided", what="undecided")
    vms.b.qmp.cmd("migrate-resolve", guest=GUEST, outcome="destination")
    vms.b.complete()
    vms.a.qmp.cmd("migrate-resolve", guest=GUEST, outcome="source")
    eventually(lambda: relay.requests["cont"] >= 3, what="attempts")
    assert source.state() == "postmigrate"
    vms.a.qmp.cmd("migrate-resolve", guest=GUEST, outcome="destination")
    vms.a.qmp.cmd("guest-detach", guest=GUEST)
    eventually(lambda: relay.ended, what="ferryd's end of the monitor")
    target.kill()
    assert source.state() == "postmigrate"
    assert not holds_lock(source, image)


@path("qemu/killed/{how}/active")
@pytest.mark.parametrize("how", ["guest-powers-off", "qemu-quits"])
def test_ends(vms, how):
    """Its own end, while it is migrated, is no fault of anybody's."""
    source, target = vms.pair(FILLED, args="set=2 every=20 passes=2", paused=True)
    HOLD["active"](vms)
    if how == "qemu-quits":
        source.qmp.cmd("quit")
    else:
        vms.a.qmp.cmd("cont", guest=GUEST)
    told = vms.a.qmp.await_event("SHUTDOWN", name=GUEST)["data"]
    assert (told["guest"], told["reason"]) == (
        (True, "guest-shutdown") if how == "guest-powers-off" else (False, "host-qmp-quit"))
    source.await_end(0)
    vms.a.fail(GUEST, "VMM")
    assert vms.b.end()["status"] == "failed"
    assert target.state() == "inmigrate"
    vms.move(vms.source(), target)
