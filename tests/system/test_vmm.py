# SPDX-License-Identifier: BSD-3-Clause
"""What a VMM has a say in, or is told of: blockers, announcing, waking up."""

import re

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


# ---- announcing ----

def events(vmm):
    """The names of all callbacks so far, in order, without what was told of migrations."""
    names = [line.split()[1] for line in vmm.output().splitlines() if line.startswith("event ")]
    return [name for name in names if name != "migration"]


@path("announce/five-rounds-after-the-resume")
def test_announce(scene):
    source, target = scene.pair()
    scene.move(source, target)
    target.await_event("announce", 5)
    assert events(target)[-6:] == ["resume"] + ["announce"] * 5
    assert "announce" not in events(source)


@path("announce/rounds-as-the-destination-says")
def test_announce_rounds(scene):
    """All due at once, so that none is left when the VMM has answered as often as there are."""
    source, target = scene.pair()
    scene.a.set(announce_rounds=7)
    scene.b.set(announce_rounds=2, announce_initial=0, announce_max=0, announce_step=1)
    scene.move(source, target)
    target.await_event("announce", 2)
    for _ in range(3):
        scene.b.qmp.cmd("stop", guest=GUEST)
        scene.b.qmp.cmd("cont", guest=GUEST)
    assert events(target).count("announce") == 2


@path("announce/not-in-the-downtime")
def test_announce_hangs(scene):
    """The migration is completed at both ends while the first round hangs."""
    source, target = scene.pair()
    target.do("behave announce=hang")
    scene.a.migrate(scene.b.listen())
    scene.a.complete()
    scene.b.complete()
    target.await_event("announce")
    target.do("behave announce=ok")
    target.await_event("announce", 5)
    assert target.do("state") == "running"


@path("announce/goes-on-without-its-daemon")
def test_announce_alone(scene):
    source, target = scene.pair()
    scene.b.set(announce_initial=20, announce_max=20)
    target.do("behave announce=hang")
    scene.a.migrate(scene.b.listen())
    scene.b.complete()
    target.await_event("announce")
    scene.b.kill()
    target.do("behave announce=ok")
    target.await_event("announce", 5)
    scene.b.restart(GUEST)
    scene.a.complete()
    assert source.do("state") == "given-away"


@path("announce/a-paused-guest-when-it-runs")
def test_announce_paused(scene):
    source, target = scene.pair()
    scene.a.qmp.cmd("stop", guest=GUEST)
    scene.a.migrate(scene.b.listen())
    scene.a.complete()
    scene.b.complete()
    assert target.do("state") == "paused"
    assert "announce" not in events(target)
    scene.b.qmp.cmd("cont", guest=GUEST)
    target.await_event("announce", 5)
    assert events(target)[-6:] == ["resume"] + ["announce"] * 5


@path("announce/announce-self")
def test_announce_self(scene):
    """As the parameters say, or as the command does; a new series replaces one under way."""
    source = scene.a.scripted()
    scene.a.set(announce_initial=100000, announce_max=100000, announce_rounds=3)
    assert scene.a.qmp.cmd("announce-self") == {}
    source.await_event("announce")
    assert scene.a.qmp.cmd("announce-self", guest=GUEST, initial=0, max=0, rounds=4, step=1) == {}
    source.await_event("announce", 5)
    scene.a.qmp.cmd("stop", guest=GUEST)
    assert events(source) == ["attached"] + ["announce"] * 5 + ["stop"]


@path("announce/announce-self/refused")
def test_announce_self_refused(scene):
    source = scene.a.scripted()
    for name, value in (("initial", 100001), ("max", -1), ("rounds", 1001), ("step", 0)):
        with pytest.raises(CommandError) as refused:
            scene.a.qmp.cmd("announce-self", **{name: value})
        assert refused.value.code == "parameter-range"
        assert f"'{name}'" in refused.value.desc
    scene.a.qmp.cmd("stop", guest=GUEST)
    with pytest.raises(CommandError) as refused:
        scene.a.qmp.cmd("announce-self", guest=GUEST)
    assert refused.value.code == "guest-state"
    with wire.RawVmm(scene.a.daemon.guests) as vmm:
        vmm.introduce(b"mute")
        with pytest.raises(CommandError) as refused:
            scene.a.qmp.cmd("announce-self", guest="mute")
    assert refused.value.code == "announce-unsupported"
    assert not source.events("announce")


# ---- waking up ----

@path("wakeup/before-the-stop")
def test_wakeup(scene):
    source, target = scene.pair()
    scene.move(source, target)
    assert events(source)[-4:] == ["wakeup", "stop", "save", "released"]
    assert "wakeup" not in events(target)


@path("wakeup/not-of-a-paused-guest")
def test_wakeup_paused(scene):
    """Nor by an operator's stop."""
    source, _ = scene.pair()
    scene.a.qmp.cmd("stop", guest=GUEST)
    scene.a.migrate(scene.b.listen())
    scene.a.complete()
    scene.b.complete()
    assert "wakeup" not in events(source)


@path("wakeup/fails")
def test_wakeup_fails(scene):
    source, target = scene.pair()
    source.do("behave wakeup=fail")
    scene.a.migrate(scene.b.listen())
    scene.a.fail(GUEST, "wakeup", "the script told this callback to fail")
    scene.b.end()
    assert "stop" not in events(source)
    check_source_runs(scene.a, source)
    source.do("behave wakeup=ok")
    scene.move(source, target)


@path("wakeup/hangs")
def test_wakeup_hangs(scene):
    """It is waited for no longer than for any other callback, and cancelled like any other."""
    source, target = scene.pair()
    source.do("behave wakeup=hang")
    scene.a.migrate(scene.b.listen())
    source.await_event("wakeup")
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    scene.b.end()
    source.do("behave wakeup=ok")
    check_source_runs(scene.a, source)
    scene.move(source, target)


@pytest.mark.kvm
@path("wakeup/kvm/suspended-guest-arrives-awake")
def test_sleeper(scene):
    source = scene.a.vmm(guest="sleeper", args="every=10 sleep=3", memory=32,
                         options=("--log-level", "info"))
    source.await_line("the guest suspends itself", errors=True)
    target = scene.b.vmm(incoming=True, memory=32)
    source.await_line("sleeper: tick 3\nsleeper: suspends\n")
    assert "woken" not in source.output()
    scene.a.migrate(scene.b.listen())
    scene.a.complete()
    scene.b.complete()
    assert "is woken to be migrated" in source.errors()
    target.await_line("sleeper: tick 5\n")
    assert "sleeper: woken" in source.output() + target.output()
    assert source.wait() == 0


@pytest.mark.kvm
@path("wakeup/kvm/halted-guest-goes-on")
def test_halted(scene):
    """All its vCPUs are in hlt nearly all the time: one waits for its timer, one for ever."""
    source = scene.a.vmm(guest="idle", args="hz=19 every=1", memory=32, cpus=2)
    source.await_line("idle: ticks")
    target = scene.b.vmm(incoming=True, memory=32, cpus=2)
    scene.a.migrate(scene.b.listen())
    scene.a.complete()
    scene.b.complete()
    target.await_line("\n", after=target.await_line("idle: ticks"))
    ticks = [int(n) for n in re.findall(r"ticks (\d+)\n", source.output() + target.output())]
    assert ticks == sorted(set(ticks)) and len(ticks) >= 2
    assert source.wait() == 0
