# SPDX-License-Identifier: BSD-3-Clause
"""Live migrations of real guests: they go on at the destination as if nothing had been."""

import re
import signal

import pytest
from scenes import GUEST, MIB, eventually, path

CHECKER = "set=6 every=20"
LINE = re.compile(r"checker: cpu (\d+) pass (\d+) pages (\d+) bad (\d+)\n")

pytestmark = pytest.mark.kvm


def lines(vmm):
    """What the checker's vCPUs have printed in whole lines: (cpu, pass, pages, bad)."""
    return [tuple(map(int, found)) for found in LINE.findall(vmm.output())]


def check_checks(vmm, cpus=1, more=3):
    """The checker goes on, on each vCPU, and finds nothing bad."""
    before = {cpu: sum(1 for line in lines(vmm) if line[0] == cpu) for cpu in range(cpus)}
    eventually(lambda: all(sum(1 for line in lines(vmm) if line[0] == cpu) >= count + more
                           for cpu, count in before.items()), what="lines of the checker")
    assert "BAD" not in vmm.output()
    assert all(bad == 0 for *_, bad in lines(vmm))


def check_continues(source, target):
    """The destination's lines go on where the source's ended."""
    for cpu in {line[0] for line in lines(source)}:
        last = max(line[2] for line in lines(source) if line[0] == cpu)
        first = min(line[2] for line in lines(target) if line[0] == cpu)
        assert first >= last


def checker(scene, cpus=1, args=CHECKER, memory=32):
    """A checker that has begun to check, and a VMM that waits for it."""
    source = scene.a.vmm(guest="checker", args=args, memory=memory, cpus=cpus)
    check_checks(source, cpus, 1)
    target = scene.b.vmm(incoming=True, memory=memory, cpus=cpus)
    return source, target


def check_gone(source):
    """A VMM whose guest was released ends with success."""
    assert source.wait() == 0


def watch_passes(session):
    """How many rounds each migration has begun, by its MIGRATION_PASS events."""
    session.cmd("query-version")
    return [event["data"]["pass"] for event in session.events
            if event["event"] == "MIGRATION_PASS"]


@path("precopy/tcp/checker-{cpus}-cpu")
@pytest.mark.parametrize("cpus", [1, 2])
def test_checker(scene, cpus):
    watch = scene.a.session()
    source, target = checker(scene, cpus)
    scene.a.migrate(scene.b.listen())
    sent, got = scene.a.complete(), scene.b.complete()
    assert sent["verified"] and got["verified"]
    passes = watch_passes(watch)
    assert passes[0] == 1 and len(passes) >= 2 and passes == sorted(set(passes))
    assert sent["ram"]["dirty-sync-count"] >= 2
    check_checks(target, cpus)
    check_continues(source, target)
    check_gone(source)
    assert scene.b.run_state() == "running"


@path("precopy/tcp/plain-dirty-log")
def test_plain_log(scene):
    """KVM without manual protection: fetching the log clears it."""
    source = scene.a.vmm(guest="checker", args=CHECKER, memory=32, cpus=2, options=["--plain-log"])
    check_checks(source, 2, 1)
    target = scene.b.vmm(incoming=True, memory=32, cpus=2)
    assert scene.a.qmp.cmd("query-guests")[0]["tracking"] == ["kvm-log"]
    scene.a.set(max_bandwidth=8 * MIB, downtime_limit=5)
    scene.a.migrate(scene.b.listen())
    eventually(lambda: is_busy(scene.a.info()), what="a busy third round")
    scene.a.set(max_bandwidth=0)
    assert scene.a.complete()["verified"]
    check_checks(target, 2)
    check_continues(source, target)
    check_gone(source)


@path("precopy/tcp/ten-times-there-and-back")
def test_ten_times(scene):
    hosts = [scene.a, scene.b]
    vmm = scene.a.vmm(guest="checker", args=CHECKER, memory=32, cpus=2)
    check_checks(vmm, 2, 1)
    for _ in range(10):
        target = hosts[1].vmm(incoming=True, memory=32, cpus=2)
        hosts[0].migrate(hosts[1].listen())
        hosts[0].complete()
        hosts[1].complete()
        check_gone(vmm)
        check_checks(target, 2, 1)
        vmm = target
        hosts.reverse()


@path("precopy/unix/checker")
def test_unix(scene):
    source, target = checker(scene)
    scene.a.migrate(scene.b.listen(uri=f"unix:{scene.lab.folder}/link"))
    scene.a.complete()
    check_checks(target)
    check_gone(source)


@path("precopy/exec/checker-saved-and-restored")
def test_exec(scene):
    source, target = checker(scene, cpus=2)
    file = scene.lab.folder / "saved"
    scene.a.migrate(f"exec:cat >{file}")
    scene.a.complete()
    check_gone(source)
    scene.b.listen(uri=f"exec:cat {file}")
    scene.b.complete()
    check_checks(target, 2)
    check_continues(source, target)


@path("precopy/tcp/idle")
def test_idle(scene):
    """Timer interrupts, halted vCPUs, next to nothing written."""
    source = scene.a.vmm(guest="idle", args="every=1 hz=1000", memory=32, cpus=2)
    source.await_line("idle: ticks")
    target = scene.b.vmm(incoming=True, memory=32, cpus=2)
    scene.a.migrate(scene.b.listen())
    info = scene.a.complete()
    assert info["ram"]["normal"] < 2048
    target.await_line("idle: ticks")
    ticks = [int(n) for n in re.findall(r"ticks (\d+)\n", source.output() + target.output())]
    assert ticks == sorted(ticks)
    check_gone(source)


@path("precopy/tcp/{guest}")
@pytest.mark.parametrize("guest", ["random", "writer"])
def test_writers(scene, guest):
    source = scene.a.vmm(guest=guest, args="set=4", memory=32)
    source.await_line(f"{guest}: cpu 0")
    target = scene.b.vmm(incoming=True, memory=32)
    scene.a.migrate(scene.b.listen())
    info = scene.a.complete()
    assert info["ram"]["dirty-sync-count"] >= 2
    target.await_line(f"{guest}: cpu 0")
    check_gone(source)


@path("precopy/tcp/paused-guest-stays-paused")
def test_paused(scene):
    source, target = checker(scene)
    scene.a.qmp.cmd("stop", guest=GUEST)
    scene.a.await_run_state("paused")
    scene.a.migrate(scene.b.listen())
    scene.a.complete()
    scene.b.complete()
    check_gone(source)
    assert scene.b.run_state() == "paused"
    assert not lines(target)
    scene.b.qmp.cmd("cont", guest=GUEST)
    scene.b.await_run_state("running")
    check_checks(target)


@path("precopy/tcp/paused-by-its-vmm")
def test_paused_by_the_vmm(scene):
    source, target = checker(scene)
    source.proc.send_signal(signal.SIGUSR2)
    scene.a.await_run_state("paused")
    scene.a.migrate(scene.b.listen())
    scene.a.complete()
    scene.b.complete()
    assert scene.b.run_state() == "paused"
    scene.b.qmp.cmd("cont", guest=GUEST)
    check_checks(target)


@path("precopy/tcp/several-guests-from-one-daemon")
def test_several(scene):
    """Two KVM guests at the same time, one each way."""
    there = scene.a.vmm("there", guest="checker", args=CHECKER, memory=32)
    back = scene.b.vmm("back", guest="checker", args=CHECKER, memory=32)
    targets = [scene.b.vmm("there", incoming=True, memory=32),
               scene.a.vmm("back", incoming=True, memory=32)]
    uris = [scene.b.listen("there"), scene.a.listen("back")]
    scene.a.migrate(uris[0], "there")
    scene.b.migrate(uris[1], "back")
    scene.a.complete("there")
    scene.b.complete("back")
    for source, target in zip((there, back), targets):
        check_checks(target)
        check_gone(source)


@path("precopy/tcp/memory-filled-at-random")
def test_filled(scene):
    source = scene.a.vmm(guest="checker", args=CHECKER, memory=64,
                         options=["--memory-fill", "random:48"])
    check_checks(source, 1, 1)
    target = scene.b.vmm(incoming=True, memory=64)
    scene.a.migrate(scene.b.listen())
    assert scene.a.complete()["ram"]["normal-bytes"] >= 40 * MIB
    check_checks(target)


# ---- convergence ----

def is_busy(info):
    """Rounds go by while the guest writes more than may be left."""
    ram = info.get("ram", {})
    return (info["status"] == "active" and ram.get("dirty-sync-count", 0) >= 3
            and info["expected-downtime"] > 5 and ram["remaining"] > 0
            and ram["dirty-pages-rate"] > 0)


def hold_busy(scene, **options):
    """A guest that writes faster than the link, also where it gets little of a busy machine."""
    source, target = checker(scene, **options)
    scene.a.set(max_bandwidth=8 * MIB, downtime_limit=5)
    scene.a.migrate(scene.b.listen())
    eventually(lambda: is_busy(scene.a.info()), what="a busy third round")
    assert scene.a.info()["status"] == "active"
    return source, target


@path("precopy/convergence/after-a-speed-change")
def test_speed_change(scene):
    source, target = hold_busy(scene)
    scene.a.qmp.cmd("migrate_set_speed", guest=GUEST, value=0)
    info = scene.a.complete()
    assert info["ram"]["dirty-sync-count"] >= 4
    check_checks(target)
    check_gone(source)


@path("precopy/convergence/after-a-downtime-change")
def test_downtime_change(scene):
    source, target = hold_busy(scene)
    scene.a.qmp.cmd("migrate_set_downtime", guest=GUEST, value=5)
    assert scene.a.complete()["ram"]["remaining"] == 0
    check_checks(target)
    check_gone(source)


@path("precopy/convergence/never-cancelled-and-again")
def test_never(scene):
    source, target = hold_busy(scene)
    scene.a.cancel()
    assert scene.a.end()["status"] == "cancelled"
    scene.b.fail()
    check_checks(source)
    scene.a.set(max_bandwidth=0)
    scene.a.migrate(scene.b.listen())
    scene.a.complete()
    check_checks(target)
    check_continues(source, target)
    check_gone(source)


# ---- failures with a real guest ----

@path("precopy/failures/destination-killed-in-active")
def test_destination_killed(scene):
    source, target = hold_busy(scene)
    scene.b.kill()
    scene.a.fail()
    check_checks(source)
    scene.b.restart(GUEST)
    scene.a.set(max_bandwidth=0)
    scene.a.migrate(scene.b.listen())
    scene.a.complete()
    check_checks(target)


@path("precopy/failures/source-killed-in-{state}")
@pytest.mark.parametrize("state", ["active", "pre-switchover"])
def test_source_killed(scene, state):
    """libferry turns logging off and resumes; the next daemon migrates the guest."""
    if state == "active":
        source, target = hold_busy(scene)
    else:
        source, target = checker(scene)
        scene.a.capable(pause_before_switchover=True)
        scene.a.migrate(scene.b.listen())
        scene.a.reach("pre-switchover")
    scene.a.kill()
    check_checks(source)
    scene.b.fail()
    scene.a.restart(GUEST)
    scene.a.migrate(scene.b.listen())
    scene.a.complete()
    check_checks(target)
    check_gone(source)


@path("precopy/pre-switchover/continued")
def test_continue(scene):
    source, target = checker(scene, cpus=2)
    scene.a.capable(pause_before_switchover=True)
    scene.a.migrate(scene.b.listen())
    scene.a.reach("pre-switchover")
    assert scene.a.run_state() == "finish-migrate"
    scene.a.qmp.cmd("migrate-continue", guest=GUEST, state="pre-switchover")
    scene.a.complete()
    check_checks(target, 2)
    check_continues(source, target)


@path("precopy/layout/{what}")
@pytest.mark.parametrize("what,options", [("memory", {"memory": 48}), ("cpus", {"cpus": 2})])
def test_other_vmm(scene, what, options):
    """A VMM of another size refuses; the guest runs on and goes to a fitting one."""
    source = scene.a.vmm(guest="checker", args=CHECKER, memory=32)
    check_checks(source, 1, 1)
    scene.b.vmm("wrong", incoming=True, **{"memory": 32, **options})
    scene.a.migrate(scene.b.listen("wrong"))
    scene.a.fail()
    scene.b.fail("wrong")
    check_checks(source)
    target = scene.b.vmm(incoming=True, memory=32)
    scene.a.migrate(scene.b.listen())
    scene.a.complete()
    check_checks(target)


@path("precopy/shutdown/while-migrating")
def test_shut_down(scene):
    """A guest that shuts down in the middle: the job fails, the daemon stays."""
    source, _ = checker(scene, args="set=2 every=20 rate=2000 passes=8")
    scene.a.set(max_bandwidth=MIB)
    scene.a.migrate(scene.b.listen())
    scene.a.reach("active")
    assert source.wait() == 0
    scene.a.fail()
    scene.b.fail()
    assert scene.a.qmp.cmd("query-guests") == []
    assert scene.b.run_state() == "inmigrate"
