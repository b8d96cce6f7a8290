# SPDX-License-Identifier: BSD-3-Clause
"""Several guests, several migrations: at once, there and back, within one daemon."""

import re

import pytest
from lab import CommandError
from scenes import (GUEST, MIB, PAGE, check_moved, eventually, first_block, move, path)


def fill_some(guest, seed, blocks=("ram:16",)):
    block = first_block({"blocks": blocks})
    guest.do(f"fill {block} 0 {2 * MIB} random {seed}")
    guest.do(f"fill {block} {6 * MIB} {5 * PAGE} random {seed + 1}")


@path("many/ten-there-and-back")
def test_ten(scene):
    """Each round trip with new writes in between, holes and zeroed pages."""
    hosts = [scene.a, scene.b]
    vmm = scene.a.scripted()
    fill_some(vmm, 1)
    for turn in range(10):
        vmm.do(f"fill ram {turn * MIB} {3 * PAGE} random {turn + 9}")
        vmm.do(f"punch ram {turn * 64 * PAGE} {2 * PAGE}")
        vmm.do(f"fill ram {(turn + 100) * PAGE} {2 * PAGE} zero")
        target = hosts[1].scripted(incoming=True)
        move(hosts[0], hosts[1], vmm, target)
        vmm.kill()
        vmm = target
        hosts.reverse()
    assert scene.a.daemon.alive() and scene.b.daemon.alive()


@path("many/two-at-once-in-opposite-directions")
def test_opposite(scene):
    one, one_target = scene.a.scripted("one"), scene.b.scripted("one", incoming=True)
    two, two_target = scene.b.scripted("two"), scene.a.scripted("two", incoming=True)
    for seed, (host, guest) in enumerate(((scene.a, one), (scene.b, two))):
        guest.do(f"fill ram 0 {16 * MIB} random {seed + 1}")
        host.set(guest.guest_name, max_bandwidth=8 * MIB)
    uris = scene.b.listen("one"), scene.a.listen("two")
    scene.a.migrate(uris[0], "one")
    scene.b.migrate(uris[1], "two")
    eventually(lambda: scene.a.status("one") == scene.b.status("two") == "active",
               what="both at once")
    for host, name in ((scene.a, "one"), (scene.b, "two")):
        host.set(name, max_bandwidth=0)
        host.complete(name)
    check_moved(one, one_target)
    check_moved(two, two_target)


@path("many/eight-at-once")
def test_eight(scene):
    """While they run, others are asked and changed without mixing them up."""
    names = [f"guest{n}" for n in range(8)]
    sources = [scene.a.scripted(name, blocks=("ram:4",)) for name in names]
    targets = [scene.b.scripted(name, blocks=("ram:4",), incoming=True) for name in names]
    for number, (name, source) in enumerate(zip(names, sources)):
        source.do(f"fill ram 0 {4 * MIB} random {number + 1}")
        scene.a.set(name, max_bandwidth=MIB * (number + 1))
    for name in names:
        scene.a.migrate(scene.b.listen(name), name)
    infos = [scene.a.info(name) for name in names]
    assert len({info["job"] for info in infos}) == len(names)
    limits = [scene.a.qmp.cmd("query-migrate-parameters", guest=name)["max-bandwidth"]
              for name in names]
    assert limits == [MIB * (n + 1) for n in range(8)]
    for name in names:
        scene.a.set(name, max_bandwidth=0)
    for name, source, target in zip(names, sources, targets):
        scene.a.complete(name)
        scene.b.complete(name)
        check_moved(source, target)


@path("many/within-one-daemon")
def test_local(scene):
    """From one name to another, in the same daemon."""
    source = scene.a.scripted("old")
    target = scene.a.scripted("new", incoming=True)
    fill_some(source, 4)
    move(scene.a, scene.a, source, target, "old", "new")
    states = {g["name"]: g["status"] for g in scene.a.qmp.cmd("query-guests")}
    assert states == {"old": "postmigrate", "new": "running"}


@path("many/blocks")
def test_many_blocks(scene):
    """As many RAM blocks as are allowed, with gaps between them."""
    blocks = tuple(f"block{n}:1:{n * 4 * MIB:#x}" for n in range(16))
    source, target = scene.pair(blocks=blocks, fill=0)
    for number in range(0, 16, 3):
        source.do(f"fill block{number} {number * PAGE} {7 * PAGE} random {number}")
    scene.move(source, target)
    for number in range(16):
        assert target.do(f"hash block{number}") == source.do(f"hash block{number}")


@path("many/same-guest-refused-a-second-job")
def test_one_job(scene):
    source, target = scene.pair(fill=8 * MIB)
    scene.a.set(max_bandwidth=MIB)
    uri = scene.b.listen()
    with pytest.raises(CommandError, match="There's a migration process in progress"):
        scene.b.qmp.cmd("migrate-incoming", guest=GUEST, uri="tcp:127.0.0.1:0")
    scene.a.migrate(uri)
    with pytest.raises(CommandError) as refused:
        scene.a.qmp.cmd("migrate", guest=GUEST, uri=uri)
    assert refused.value.desc == "There's a migration process in progress"
    assert refused.value.code == "migration-active"
    with pytest.raises(CommandError, match="There's a migration process in progress"):
        scene.a.qmp.cmd("guest-detach", guest=GUEST)
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("many/roles")
def test_roles(scene):
    """Who may be sent, and who may be awaited."""
    source, target = scene.pair()
    with pytest.raises(CommandError) as refused:
        scene.b.qmp.cmd("migrate", guest=GUEST, uri="tcp:127.0.0.1:1")
    assert refused.value.desc == "Guest is waiting for an incoming migration"
    with pytest.raises(CommandError) as refused:
        scene.a.qmp.cmd("migrate-incoming", guest=GUEST, uri="tcp:127.0.0.1:0")
    assert refused.value.code == "guest-not-incoming"
    scene.move(source, target)
    with pytest.raises(CommandError) as refused:
        scene.a.qmp.cmd("migrate", guest=GUEST, uri="tcp:127.0.0.1:1")
    assert refused.value.code == "guest-given-away"
    with pytest.raises(CommandError) as refused:
        scene.b.qmp.cmd("migrate-incoming", guest=GUEST, uri="tcp:127.0.0.1:0")
    assert refused.value.code == "guest-not-incoming"


@path("many/writing-all-the-time")
def test_writer(scene):
    """A guest that writes throughout: later rounds and the stop lose nothing."""
    source, target = scene.pair()
    source.do("dirty 0 2000 50000")
    scene.a.migrate(scene.b.listen())
    info = scene.a.complete()
    scene.b.complete()
    assert info["ram"]["dirty-sync-count"] >= 2
    assert target.do("hash") == source.do("hash")
    assert target.do("state") == "running"
    assert target.do("dirty-stop") == source.do("dirty-stop")


@path("many/large-device-state")
def test_large_state(scene):
    source, target = scene.pair()
    source.do(f"set-state-size {80 * MIB}")
    scene.move(source, target)
    assert target.events("load") == [str(80 * MIB)]


@path("many/guest-that-vanishes-from-the-records")
def test_record_stays(scene):
    """query-migrate answers for a guest whose VMM is gone."""
    source, target = scene.pair()
    sent, _ = scene.move(source, target)
    source.do("quit")
    scene.a.qmp.await_event("GUEST_DETACHED", guest=GUEST)
    assert scene.a.qmp.cmd("query-guests") == []
    assert scene.a.qmp.cmd("query-migrate", guest=GUEST) == sent
    assert scene.a.qmp.cmd("query-migrate") == sent
    assert scene.a.qmp.cmd("query-status", guest=GUEST)["status"] == "shutdown"
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", sent["job"])


@path("many/convergence-of-a-scripted-guest")
def test_scripted_dirtier(scene):
    """The same by marks instead of KVM's log, and with equal RAM at the end."""
    source, target = scene.pair(fill=8 * MIB)
    source.do("dirty 0 2048 20000")
    scene.a.set(max_bandwidth=10 * MIB)
    scene.a.migrate(scene.b.listen())
    eventually(lambda: scene.a.info().get("ram", {}).get("dirty-sync-count", 0) >= 3,
               what="a third round")
    assert scene.a.status() == "active"
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    target.do("dirty-stop")
    assert target.do("state") == "running"


