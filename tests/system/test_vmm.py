# SPDX-License-Identifier: BSD-3-Clause
"""What a VMM has a say in, or is told of: blockers."""

import pytest
import wire
from lab import CommandError, LabError
from scenes import (GUEST, check_source_runs, eventually, hold_active, hold_setup, path)


# ---- blockers ----

def reasons(host, guest=GUEST):
    return host.info(guest).get("blocked-reasons")


def await_reasons(host, *expected):
    eventually(lambda: reasons(host) == (list(expected) or None), what=f"reasons {expected}")


def check_blocked(host, *words, guest=GUEST):
    with pytest.raises(CommandError) as refused:
        host.qmp.cmd("migrate", guest=guest, uri="tcp:127.0.0.1:1")
    assert refused.value.code == "migration-blocked"
    for word in words:
        assert word in refused.value.desc


@path("blockers/migrate-is-refused")
def test_blocked(scene):
    """All reasons, also where there was no migration yet; without them it goes."""
    source, target = scene.pair()
    assert scene.a.info() == {}
    first = source.do("add-blocker a device is in use")
    second = source.do("add-blocker a snapshot is being taken")
    await_reasons(scene.a, "a device is in use", "a snapshot is being taken")
    assert scene.a.info().keys() == {"blocked-reasons"}
    check_blocked(scene.a, "a device is in use", "a snapshot is being taken")
    source.do(f"remove-blocker {first}")
    await_reasons(scene.a, "a snapshot is being taken")
    check_blocked(scene.a, "a snapshot is being taken")
    source.do(f"remove-blocker {second}")
    await_reasons(scene.a)
    assert scene.a.info() == {}
    scene.move(source, target)


@path("blockers/refused-to-the-vmm-while-it-is-migrated")
def test_too_late(scene):
    source, target = scene.pair()
    hold_active(scene, source, target)
    with pytest.raises(LabError, match="busy"):
        source.do("add-blocker too late")
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    with pytest.raises(LabError, match="busy"):
        source.do("add-blocker much too late")


@path("blockers/one-that-migrate-has-overtaken")
def test_overtaken(scene):
    """Added after the job was made and before it has the guest: the job fails with the reason."""
    source, target = scene.pair()
    hold_setup(scene, source, target)
    number = source.do("add-blocker just in time")
    scene.b.daemon.wake()
    info = scene.a.fail(GUEST, "just in time")
    assert info["blocked-reasons"] == ["just in time"]
    scene.b.end()
    check_source_runs(scene.a, source)
    source.do(f"remove-blocker {number}")
    await_reasons(scene.a)
    scene.move(source, target)


@path("blockers/known-to-the-next-daemon")
def test_next_daemon(scene):
    source, _ = scene.pair()
    source.do("add-blocker still there")
    await_reasons(scene.a, "still there")
    scene.a.kill()
    scene.a.restart(GUEST)
    assert reasons(scene.a) == ["still there"]
    check_blocked(scene.a, "still there")


@path("blockers/of-a-guest-that-arrives")
def test_incoming(scene):
    """They do not keep it from coming, only from leaving again."""
    source, target = scene.pair()
    target.do("add-blocker not again")
    await_reasons(scene.b, "not again")
    scene.move(source, target)
    assert scene.b.info()["status"] == "completed"
    assert reasons(scene.b) == ["not again"]
    check_blocked(scene.b, "not again")


@path("blockers/hostile")
def test_hostile(scene):
    """A VMM with more of them than allowed is dropped; nobody else notices."""
    scene.a.scripted("other")
    with wire.RawVmm(scene.a.daemon.guests) as vmm:
        vmm.introduce(b"evil")
        for number in range(1, 18):
            vmm.send(wire.blocker(number, b"\x1b[2J\xff"))
        scene.a.qmp.await_event("GUEST_DETACHED", guest="evil")
        assert vmm.receive() is None
    assert [g["name"] for g in scene.a.qmp.cmd("query-guests")] == ["other"]
