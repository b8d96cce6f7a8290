# SPDX-License-Identifier: BSD-3-Clause
"""migrate_cancel in each state: the guest runs on, and another migration succeeds."""

import pytest
from scenes import GUEST, HOLD, check_source_runs, eventually, path


def statuses(session, guest=GUEST):
    """The statuses that a session has been told of so far, in order."""
    session.cmd("query-version")
    return [event["data"]["status"] for event in session.events
            if event["event"] == "MIGRATION" and event["data"]["guest"] == guest]


@path("cancel/source/{state}")
@pytest.mark.parametrize("state", HOLD)
def test_cancel_at_the_source(scene, state):
    watch = scene.a.session()
    source, target = scene.pair()
    HOLD[state](scene, source, target)
    before = statuses(watch)
    assert before[-1] == state.split("-save")[0].split("-load")[0]
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    # The event comes right after what query-migrate tells.
    eventually(lambda: statuses(watch)[-1] == "cancelled", what="the last event")
    assert statuses(watch)[len(before):] == ["cancelling", "cancelled"]
    scene.b.daemon.wake()
    source.do("behave save=ok")
    target.do("behave load=ok")
    assert scene.b.end()["status"] == "failed"
    check_source_runs(scene.a, source)
    scene.move(source, target)


@path("cancel/destination/{state}")
@pytest.mark.parametrize("state", [name for name in HOLD if name != "setup"])
def test_cancel_at_the_destination(scene, state):
    source, target = scene.pair()
    HOLD[state](scene, source, target)
    scene.b.cancel()
    assert scene.b.end()["status"] == "cancelled"
    source.do("behave save=ok")
    scene.a.fail(GUEST, "cancelled")
    target.do("behave load=ok")
    check_source_runs(scene.a, source)
    scene.move(source, target)


@path("cancel/destination/before-a-source-came")
def test_cancel_while_listening(scene):
    target = scene.b.scripted(incoming=True)
    scene.b.listen()
    scene.b.cancel()
    assert scene.b.end()["status"] == "cancelled"
    source = scene.a.scripted()
    scene.move(source, target)


@path("cancel/source/mute-peer")
def test_cancel_with_a_peer_that_never_answers(scene):
    source = scene.a.scripted()
    scene.a.migrate(scene.mute())
    scene.a.reach("setup")
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    check_source_runs(scene.a, source)


@path("cancel/source/stuck-in-a-write")
def test_cancel_while_the_peer_takes_nothing(scene):
    source, target = scene.pair(blocks=("ram:64",), fill=64 << 20)
    uri = scene.b.listen()
    scene.a.set(max_bandwidth=1 << 20)
    scene.a.migrate(uri)
    scene.a.reach("active")
    scene.b.reach("active")
    scene.b.daemon.suspend()
    scene.a.set(max_bandwidth=0)
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    scene.b.daemon.wake()
    assert scene.b.end()["status"] == "failed"
    check_source_runs(scene.a, source)
    scene.move(source, target)


@path("cancel/idle")
def test_cancel_without_a_migration(scene):
    assert scene.a.qmp.cmd("migrate_cancel") == {}
    source, target = scene.pair()
    scene.a.cancel()
    assert scene.a.info() == {}
    scene.move(source, target)
    assert scene.a.qmp.cmd("migrate_cancel", guest=GUEST) == {}
    assert scene.a.status() == "completed"


@path("cancel/twice")
def test_cancel_twice(scene):
    source, target = scene.pair()
    HOLD["active"](scene, source, target)
    scene.a.cancel()
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    scene.a.cancel()
    assert scene.a.status() == "cancelled"
    check_source_runs(scene.a, source)


@path("cancel/stopped-guest-stays-paused")
def test_cancel_leaves_a_paused_guest_paused(scene):
    source, target = scene.pair()
    scene.a.qmp.cmd("stop", guest=GUEST)
    HOLD["device-load"](scene, source, target)
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    scene.a.await_run_state("paused")
    assert source.do("state") == "paused"
    target.do("behave load=ok")
