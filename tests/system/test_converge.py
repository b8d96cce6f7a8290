# SPDX-License-Identifier: BSD-3-Clause
"""Auto-converge: a guest that writes faster than the link is slowed down, and for no longer."""

import os

import pytest
from scenes import GUEST, MIB, PAGE, check_moved, check_source_runs, eventually, path
from test_control import error_of
from wire import RawVmm

FIRST, STEP = 20, 10


def throttles(vmm):
    """The percentages that the VMM was told, in order."""
    return [int(line.split()[-1]) for line in vmm.events("throttle")]


def start_busy(scene, capable=True, **parameters):
    """A guest that writes 2 MiB again and again, far faster than its link of 4 MiB/s."""
    source, target = scene.pair(fill=2 * MIB)
    source.do(f"dirty 0 {2 * MIB // PAGE} {16 * MIB // PAGE}")
    scene.a.set(max_bandwidth=4 * MIB, downtime_limit=20, **parameters)
    scene.a.capable(auto_converge=capable)
    scene.a.migrate(scene.b.listen())
    return source, target


def hold_throttled(scene):
    source, target = start_busy(scene)
    source.await_event("throttle")
    return source, target


def percentage(host):
    return host.info().get("cpu-throttle-percentage")


@path("converge/tcp/completes-in-steps")
def test_steps(scene):
    """The guest never stops writing: it is the throttle that lets the migration end."""
    source, target = start_busy(scene)
    info = scene.a.complete()
    scene.b.complete()
    told = throttles(source)
    assert told[-1] == 0
    rising = told[:-1]
    assert rising and rising[0] == FIRST
    assert rising == [min(FIRST + STEP * i, 99) for i in range(len(rising))]
    assert "cpu-throttle-percentage" not in info
    assert info["ram"]["dirty-sync-count"] > len(rising)
    target.do("dirty-stop")
    check_moved(source, target)


@path("converge/tcp/shown-while-it-lasts")
def test_shown(scene):
    source, _ = hold_throttled(scene)
    shown = eventually(lambda: percentage(scene.a), what="cpu-throttle-percentage")
    assert shown in range(FIRST, 100)
    assert shown in throttles(source)
    scene.a.cancel()
    scene.a.end()
    assert percentage(scene.a) is None
    assert scene.b.info().get("cpu-throttle-percentage") is None


@path("converge/tcp/never-without-the-capability")
def test_off(scene):
    source, _ = start_busy(scene, capable=False)
    eventually(lambda: scene.a.info().get("ram", {}).get("dirty-sync-count", 0) >= 6,
               what="six rounds")
    assert scene.a.status() == "active"
    assert throttles(source) == []
    assert percentage(scene.a) is None
    scene.a.cancel()
    scene.a.end()


@path("converge/tcp/never-for-an-idle-guest")
def test_idle(scene):
    source, target = scene.pair(fill=4 * MIB)
    scene.a.capable(auto_converge=True)
    scene.move(source, target)
    assert throttles(source) == []


@path("converge/tcp/ends-on-cancel")
def test_cancel(scene):
    source, _ = hold_throttled(scene)
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    assert throttles(source)[-1] == 0
    check_source_runs(scene.a, source)


@path("converge/tcp/ends-when-the-peer-fails")
def test_failure(scene):
    source, _ = hold_throttled(scene)
    scene.b.kill()
    scene.a.fail()
    assert throttles(source)[-1] == 0
    check_source_runs(scene.a, source)


@path("converge/tcp/ends-with-the-daemon")
def test_daemon(scene):
    """libferry sees to it itself."""
    source, _ = hold_throttled(scene)
    scene.a.kill()
    eventually(lambda: throttles(source)[-1] == 0, what="the throttle's end")
    scene.a.restart(GUEST)
    check_source_runs(scene.a, source)


@path("converge/tcp/ends-with-the-stop")
def test_stop(scene):
    """Also when the guest then waits: it comes back at full speed."""
    source, _ = start_busy(scene)
    scene.a.qmp.cmd("migrate_cancel", guest=GUEST)
    scene.a.end()
    scene.b.end()
    scene.a.capable(pause_before_switchover=True)
    scene.a.migrate(scene.b.listen())
    scene.a.reach("pre-switchover")
    assert throttles(source)[-1] == 0
    assert percentage(scene.a) is None
    scene.a.cancel()
    scene.a.end()
    check_source_runs(scene.a, source)


@path("converge/parameters/are-followed")
def test_parameters(scene):
    source, _ = start_busy(scene, cpu_throttle_initial=35, cpu_throttle_increment=5,
                           max_cpu_throttle=40, throttle_trigger_threshold=10)
    source.await_event("throttle", 2)
    assert throttles(source) == [35, 40]
    scene.a.set(cpu_throttle_initial=10, max_cpu_throttle=15)
    source.await_event("throttle", 3)
    assert throttles(source) == [35, 40, 15]
    eventually(lambda: percentage(scene.a) == 15, what="the new maximum")
    scene.a.set(max_bandwidth=0)
    scene.a.complete()


@path("converge/parameters/maximum-below-initial-refused")
@pytest.mark.parametrize("given", [{"max-cpu-throttle": 19}, {"cpu-throttle-initial": 50,
                                                             "max-cpu-throttle": 49}],
                         ids=["alone", "together"])
def test_maximum(scene, given):
    scene.pair(fill=0)
    before = scene.a.qmp.cmd("query-migrate-parameters")
    error = error_of(scene.a.qmp, "migrate-set-parameters", given)
    assert error.code == "parameter-range"
    assert "cpu-throttle-initial" in error.desc
    assert scene.a.qmp.cmd("query-migrate-parameters") == before


@path("converge/a-vmm-that-cannot-throttle")
def test_cannot(scene):
    """Refused before anything is begun; without the capability it migrates as any other."""
    with RawVmm(scene.a.daemon.guests) as vmm:
        os.close(vmm.introduce())
        scene.lab.await_guest(scene.a.qmp, GUEST)
        scene.a.capable(auto_converge=True)
        error = error_of(scene.a.qmp, "migrate", {"uri": scene.mute()})
        assert error.code == "no-throttle"
        assert GUEST in error.desc and "auto-converge" in error.desc
        assert scene.a.info() == {}
        scene.a.capable(auto_converge=False)
        scene.a.migrate(scene.mute())


@path("converge/kvm/{what}")
@pytest.mark.parametrize("what", ["completes", "does-not-without"])
@pytest.mark.kvm
def test_kvm(scene, what):
    """A guest that writes at full speed: only the throttle gets it through the link."""
    source = scene.a.vmm(guest="checker", args="set=8 every=20", memory=32)
    source.await_line("bad 0")
    target = scene.b.vmm(incoming=True, memory=32)
    # Not even on a machine so busy that the guest is slow.
    scene.a.set(max_bandwidth=4 * MIB, downtime_limit=1, cpu_throttle_increment=30)
    scene.a.capable(auto_converge=what == "completes")
    scene.a.migrate(scene.b.listen())
    if what == "completes":
        eventually(lambda: percentage(scene.a), what="a throttle")
        scene.a.set(max_bandwidth=16 * MIB, downtime_limit=100)
        scene.a.complete()
        at = target.await_line("bad 0")
        target.await_line("bad 0", after=at)
        assert "BAD" not in target.output()
        assert source.wait() == 0
    else:
        eventually(lambda: scene.a.info().get("ram", {}).get("dirty-sync-count", 0) >= 5,
                   what="five rounds")
        assert scene.a.status() == "active"
        scene.a.cancel()
        assert scene.a.end()["status"] == "cancelled"
