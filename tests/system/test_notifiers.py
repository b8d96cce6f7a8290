# SPDX-License-Identifier: BSD-3-Clause
"""VMMs are told how the migrations of their guests go, in order with what is asked of them."""

import pytest
from scenes import (GUEST, check_source_runs, eventually, hold_active, hold_device_load,
                    hold_pre_switchover, path)


def statuses(vmm):
    """What the VMM was told so far; all of it was about one direction, which comes first."""
    told = [words.split() for words in vmm.events("migration")]
    ways = {way for _, way in told}
    assert len(ways) == 1
    return [ways.pop()] + [status for status, _ in told]


def await_statuses(vmm, *expected):
    vmm.await_event("migration", len(expected) - 1)
    assert statuses(vmm) == list(expected)


def story(vmm):
    """All events from the first word of a migration on."""
    lines = [line.split()[1:] for line in vmm.output().splitlines() if line.startswith("event ")]
    names = [words[1] if words[0] == "migration" else words[0].upper() for words in lines]
    return names[names.index("setup"):]


@path("notifiers/completed")
def test_completed(scene):
    """Each status where it belongs among the callbacks."""
    source, target = scene.pair()
    scene.b.set(announce_rounds=0)
    scene.move(source, target)
    await_statuses(source, "outgoing", "setup", "active", "device", "completed")
    await_statuses(target, "incoming", "setup", "active", "device", "completed")
    assert story(source) == ["setup", "active", "WAKEUP", "STOP", "device", "SAVE", "RELEASED",
                             "completed"]
    assert story(target) == ["setup", "active", "device", "LOAD", "RESUME", "completed"]


@path("notifiers/pre-switchover")
def test_pre_switchover(scene):
    source, target = scene.pair()
    hold_pre_switchover(scene, source, target)
    await_statuses(source, "outgoing", "setup", "active", "pre-switchover")
    scene.a.qmp.cmd("migrate-continue", guest=GUEST, state="pre-switchover")
    scene.a.complete()
    await_statuses(source, "outgoing", "setup", "active", "pre-switchover", "device", "completed")
    await_statuses(target, "incoming", "setup", "active", "device", "completed")


@path("notifiers/failed")
def test_failed(scene):
    """The end is told when all is as it was."""
    source, target = scene.pair()
    target.do("behave load=fail")
    scene.a.migrate(scene.b.listen())
    scene.a.fail()
    scene.b.fail()
    await_statuses(source, "outgoing", "setup", "active", "device", "failed")
    await_statuses(target, "incoming", "setup", "active", "device", "failed")
    assert story(source)[-2:] == ["RESUME", "failed"]
    check_source_runs(scene.a, source)


@path("notifiers/failed-in-setup")
def test_failed_early(scene):
    source = scene.a.scripted()
    scene.a.migrate("tcp:127.0.0.1:1")
    scene.a.fail()
    await_statuses(source, "outgoing", "setup", "failed")


@path("notifiers/cancelled/{when}")
@pytest.mark.parametrize("when", ["active", "device"])
def test_cancelled(scene, when):
    source, target = scene.pair()
    {"active": hold_active, "device": hold_device_load}[when](scene, source, target)
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    target.do("behave load=ok")
    scene.b.end()
    before = ["active"] if when == "active" else ["active", "device"]
    await_statuses(source, "outgoing", "setup", *before, "cancelling", "cancelled")
    await_statuses(target, "incoming", "setup", *before, "failed")
    check_source_runs(scene.a, source)


@path("notifiers/cancelled-at-the-destination")
def test_cancelled_incoming(scene):
    target = scene.b.scripted(incoming=True)
    scene.b.listen()
    scene.b.cancel()
    assert scene.b.end()["status"] == "cancelled"
    await_statuses(target, "incoming", "setup", "cancelling", "cancelled")


@path("notifiers/a-vmm-that-stands-still")
def test_deaf(scene):
    """Nobody waits for it; it hears of the end when it goes on."""
    source, target = scene.pair()
    hold_active(scene, source, target)
    source.suspend()
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    source.wake()
    eventually(lambda: statuses(source)[-1] == "cancelled", what="the end, late")
    scene.b.end()
    check_source_runs(scene.a, source)
