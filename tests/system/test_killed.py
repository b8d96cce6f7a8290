# SPDX-License-Identifier: BSD-3-Clause
"""SIGKILL for each of the four processes in each state: the guest runs in exactly one place."""

import pytest
from scenes import (BLOCKS, GUEST, HOLD, check_source_runs, eventually, hold_active, move, path)

STATES = list(HOLD)


@path("killed/destination-daemon/{state}")
@pytest.mark.parametrize("state", STATES)
def test_destination_daemon(scene, state):
    source, target = scene.pair()
    HOLD[state](scene, source, target)
    scene.b.kill()
    source.do("behave save=ok")
    scene.a.fail(GUEST)
    check_source_runs(scene.a, source)
    target.do("behave load=ok")
    scene.b.restart(GUEST)
    assert scene.b.run_state() == "inmigrate"
    scene.move(source, target)


@path("killed/source-daemon/{state}")
@pytest.mark.parametrize("state", STATES)
def test_source_daemon(scene, state):
    source, target = scene.pair()
    scene.b.set(peer_timeout=200, guest_timeout=1000)
    HOLD[state](scene, source, target)
    scene.a.kill()
    scene.b.daemon.wake()
    source.do("behave save=ok")
    eventually(lambda: source.do("state") == "running", what="a guest that runs again")
    target.do("behave load=ok")
    scene.b.fail(GUEST)
    assert target.do("state") == "incoming"
    scene.a.restart(GUEST)
    assert scene.a.info() == {}
    check_source_runs(scene.a, source)
    scene.move(source, target)


@path("killed/destination-vmm/{state}")
@pytest.mark.parametrize("state", STATES)
def test_destination_vmm(scene, state):
    source, target = scene.pair()
    HOLD[state](scene, source, target)
    scene.b.daemon.wake()
    if state == "setup":
        scene.b.reach("active")
    target.kill()
    source.do("behave save=ok")
    if state == "setup":
        scene.a.end()  # it went on when the daemon did: either way the guest is not there
    else:
        scene.a.fail(GUEST, "VMM")
    assert scene.b.end()["status"] == "failed"
    check_source_runs(scene.a, source)
    scene.move(source, scene.b.scripted(incoming=True))


@path("killed/source-vmm/{state}")
@pytest.mark.parametrize("state", STATES)
def test_source_vmm(scene, state):
    source, target = scene.pair()
    HOLD[state](scene, source, target)
    source.kill()
    info = scene.a.fail(GUEST, "VMM")
    assert GUEST in info["error-desc"]
    assert not scene.a.qmp.cmd("query-guests")
    scene.b.daemon.wake()
    target.do("behave load=ok")
    scene.b.fail(GUEST, *([] if state == "setup" else ["VMM"]))
    assert target.do("state") == "incoming"
    scene.b.await_run_state("inmigrate")
    scene.move(scene.a.scripted(), target)


@path("killed/source-vmm/while-another-guest-migrates")
def test_only_its_own_job(scene):
    source, target = scene.pair()
    other = scene.a.scripted("other")
    other_target = scene.b.scripted("other", incoming=True)
    other.do("fill ram 0 16777216 random 3")
    scene.a.set("other", max_bandwidth=4 << 20)
    scene.a.migrate(scene.b.listen("other"), "other")
    scene.a.reach("active", guest="other")
    hold_active(scene, source, target)
    source.kill()
    scene.a.fail(GUEST)
    assert scene.a.status("other") == "active"
    scene.a.set("other", max_bandwidth=0)
    assert scene.a.complete("other")["status"] == "completed"
    assert other_target.do("hash") == other.do("hash")


@path("killed/both-daemons/active")
def test_both_daemons(scene):
    source, target = scene.pair()
    hold_active(scene, source, target)
    scene.a.kill()
    scene.b.kill()
    scene.a.restart(GUEST)
    scene.b.restart(GUEST)
    check_source_runs(scene.a, source)
    scene.move(source, target)


@path("killed/destination-daemon/after-the-end")
def test_destination_daemon_after_the_end(scene):
    """A guest that has arrived does not care for its daemon; it can move back."""
    source, target = scene.pair()
    scene.move(source, target)
    scene.b.kill()
    assert target.do("state") == "running"
    scene.b.restart(GUEST)
    source.kill()
    back = scene.a.scripted(incoming=True)
    move(scene.b, scene.a, target, back)


@path("killed/daemon/idle-guests-are-found-again")
def test_restart_with_several_guests(scene):
    guests = [scene.a.scripted(name, blocks=BLOCKS) for name in ("one", "two", "three")]
    scene.a.qmp.cmd("stop", guest="two")
    scene.a.kill()
    scene.a.restart("one", "two", "three")
    states = {info["name"]: info["status"] for info in scene.a.qmp.cmd("query-guests")}
    assert states == {"one": "running", "two": "paused", "three": "running"}
    assert [guest.do("state") for guest in guests] == ["running", "paused", "running"]
