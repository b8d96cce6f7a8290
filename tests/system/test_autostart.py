# SPDX-License-Identifier: BSD-3-Clause
"""Whether a guest runs where it arrives: as migrate-incoming says, and as its source left it."""

import pytest
from lab import CommandError
from scenes import GUEST, MIB, check_moved, eventually, hold_active, path


def one_way(scene):
    """The source's and the destination's URI of a migration through a file."""
    return [f"exec:{command} {scene.lab.folder}/stream" for command in ("cat >", "cat")]


def listen(scene, uri="tcp:127.0.0.1:0", **arguments):
    scene.b.qmp.cmd("migrate-incoming", guest=GUEST, uri=uri, **arguments)
    return scene.b.info()["listening"] if uri.startswith("tcp:") else None


def check_paused(scene, source, target):
    """It has arrived and stands still, until it is told to run."""
    assert scene.b.info()["status"] == "completed"
    assert scene.b.run_state() == "paused"
    assert target.do("state") == "paused"
    assert source.do("state") == "given-away"
    assert target.events("load") and not target.events("resume")
    assert target.do("hash") == source.do("hash")
    scene.b.qmp.cmd("cont", guest=GUEST)
    assert scene.b.run_state() == "running"
    assert len(target.events("resume")) == 1
    check_moved(source, target)


def send_through_file(scene, hold=lambda: None, **arguments):
    """To the file, then from it; `hold` is called while the source sends."""
    to, back = one_way(scene)
    scene.a.migrate(to)
    hold()
    scene.a.complete()
    listen(scene, back, **arguments)
    scene.b.complete()


@path("autostart/tcp/{asked}")
@pytest.mark.parametrize("asked", ["left-out", "true"])
def test_runs(scene, asked):
    source, target = scene.pair()
    scene.a.migrate(listen(scene, **({"autostart": True} if asked == "true" else {})))
    scene.a.complete()
    scene.b.complete()
    assert scene.b.run_state() == "running"
    assert len(target.events("resume")) == 1
    check_moved(source, target)


@path("autostart/tcp/false")
def test_stays_paused(scene):
    source, target = scene.pair()
    scene.a.migrate(listen(scene, autostart=False))
    scene.a.complete()
    scene.b.complete()
    check_paused(scene, source, target)


@path("autostart/one-way/false")
def test_stays_paused_one_way(scene):
    source, target = scene.pair()
    send_through_file(scene, autostart=False)
    check_paused(scene, source, target)


@path("autostart/false/only-for-that-migration")
def test_next_runs(scene):
    """A destination that was given up forgets it."""
    source, target = scene.pair()
    listen(scene, autostart=False)
    scene.b.cancel()
    scene.b.end()
    scene.move(source, target)
    assert scene.b.run_state() == "running"


@path("autostart/start-running-end-paused/tcp")
def test_paused_on_the_way(scene):
    """It is paused at its source while the rounds run, and wins over autostart."""
    source, target = scene.pair()
    source.do(f"fill ram 0 {16 * MIB} random 7")
    scene.a.set(max_bandwidth=2 * MIB)
    scene.a.migrate(listen(scene, autostart=True))
    scene.a.reach("active")
    assert scene.a.run_state() == "running"
    scene.a.qmp.cmd("stop", guest=GUEST)
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    check_paused(scene, source, target)


@path("autostart/start-running-end-paused/one-way")
def test_paused_on_the_way_one_way(scene):
    source, target = scene.pair()
    source.do(f"fill ram 0 {16 * MIB} random 7")
    scene.a.set(max_bandwidth=2 * MIB)

    def pause():
        scene.a.reach("active")
        scene.a.qmp.cmd("stop", guest=GUEST)
        scene.a.set(max_bandwidth=0)

    send_through_file(scene, pause)
    check_paused(scene, source, target)


@path("autostart/paused-then-run-on-the-way")
def test_run_on_the_way(scene):
    """The other way round: what counts is how it was when it was stopped."""
    source, target = scene.pair()
    scene.a.qmp.cmd("stop", guest=GUEST)
    hold_active(scene, source, target)
    scene.a.qmp.cmd("cont", guest=GUEST)
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    eventually(lambda: scene.b.run_state() == "running", what="a guest that runs")
    check_moved(source, target)


@path("autostart/not-a-boolean")
def test_wrong_type(scene):
    scene.b.scripted(incoming=True)
    with pytest.raises(CommandError) as refused:
        listen(scene, autostart="no")
    assert refused.value.code == "parameter-type"
    with pytest.raises(CommandError) as refused:
        scene.b.qmp.cmd("migrate", guest=GUEST, uri="tcp:127.0.0.1:1", autostart=False)
    assert refused.value.code == "parameter-unexpected"
