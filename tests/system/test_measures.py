# SPDX-License-Identifier: BSD-3-Clause
"""What is counted, what is kept within limits, and that holes stay holes."""

import re
import threading
import time

import pytest
from scenes import GUEST, MIB, PAGE, check_moved, eventually, hold_active, path
from stream import RAM_PAGES, Tap, split


@path("measures/transferred-is-what-the-link-saw")
def test_transferred(scene):
    source, target = scene.pair(fill=8 * MIB)
    relay = scene.relay(scene.b.listen())
    scene.a.migrate(relay.uri)
    sent, got = scene.a.complete(), scene.b.complete()
    eventually(lambda: relay.passed["out"] >= sent["ram"]["transferred"], what="the last bytes")
    ram = sent["ram"]
    # GO and DONE come behind the end of the count or in it, 16 bytes each
    assert 0 <= relay.passed["out"] - ram["transferred"] <= 32
    assert 0 <= relay.passed["out"] - got["ram"]["transferred"] <= 32
    assert ram["precopy-bytes"] + ram["downtime-bytes"] == ram["transferred"]
    assert ram["precopy-bytes"] >= 8 * MIB
    check_moved(source, target)


@path("measures/pages-are-counted")
def test_pages(scene):
    source, target = scene.pair(fill=0)
    source.do(f"fill ram 0 {10 * PAGE} random 1")
    source.do(f"fill ram {MIB} {7 * PAGE} zero")
    sent, got = scene.move(source, target)
    ram = sent["ram"]
    assert (ram["normal"], ram["duplicate"]) == (10, 7)
    assert ram["skipped"] == 4096 - 17
    assert ram["normal-bytes"] == 10 * PAGE
    assert ram["total"] == 16 * MIB
    assert ram["remaining"] == 0
    assert ram["page-size"] == PAGE
    assert (got["ram"]["normal"], got["ram"]["duplicate"]) == (10, 7)


@path("measures/downtime-and-its-parts")
def test_downtime(scene):
    source, target = scene.pair()
    info, _ = scene.move(source, target)
    parts = info["downtime-parts"]
    assert set(parts) == {"stop", "ram", "state", "load", "start"}
    assert all(isinstance(part, float) and part >= 0 for part in parts.values())
    assert max(parts.values()) <= info["downtime"] + 1
    assert info["downtime"] <= info["total-time"]
    assert info["setup-time"] <= info["total-time"]


@path("measures/one-slow-answer")
def test_slow_answer(scene):
    """One delay of the link, longer than the guest may stand still, is not expected of every answer
    after it: the guest moves."""
    source, target = scene.pair()
    source.do("dirty 0 2048 1000000")
    late = []

    def delay(relay, way, data):
        if way == "back" and not late:
            late.append(way)
            time.sleep(0.4)  # what the link takes
        return data

    relay = scene.relay(scene.b.listen(), on_data=delay)
    scene.a.set(max_bandwidth=64 * MIB, downtime_limit=0)
    scene.a.migrate(relay.uri)
    scene.a.reach("active")
    eventually(lambda: scene.a.info()["ram"]["dirty-sync-count"] > 3, what="a few rounds")
    assert scene.a.info()["expected-downtime"] < 2 * 400
    scene.a.set(downtime_limit=300)
    scene.a.complete()
    scene.b.complete()
    target.do("dirty-stop")
    assert late
    check_moved(source, target)


@path("measures/rate-limit/{limit}-MiB")
@pytest.mark.parametrize("limit", [2, 8])
def test_rate_limit(scene, limit):
    """In no window much more than its share passes; the slack is for the link's buffers."""
    source, _ = scene.pair(fill=16 * MIB)
    times, lock = [], threading.Lock()

    def note(relay, way, data):
        if way == "out":
            with lock:
                times.append((time.monotonic(), len(data)))
        return data

    relay = scene.relay(scene.b.listen(), on_data=note)
    scene.a.set(max_bandwidth=limit * MIB)
    scene.a.migrate(relay.uri)
    scene.a.reach("active")
    eventually(lambda: relay.passed["out"] > limit * MIB * 1.2, what="more than a second's worth")
    info = scene.a.info()
    scene.a.cancel()
    scene.a.end()
    assert 0 < info["ram"]["mbps"] < limit * MIB * 8 / 1e6 * 1.6
    assert 0 < info["ram"]["pages-per-second"] < limit * MIB / PAGE * 1.6
    assert info["expected-downtime"] > 0
    with lock:
        seen = list(times)
    for start, _ in seen:
        within = sum(size for when, size in seen if start <= when < start + 0.5)
        assert within <= limit * MIB * 0.5 * 1.6 + 256 * 1024
    assert source.do("state") == "running"


@path("measures/rate-limit/slower-than-a-page-a-window")
def test_tiny_limit(scene):
    """A limit below one byte per millisecond divides nothing by zero."""
    source, target = scene.pair()
    scene.a.set(max_bandwidth=900)
    scene.a.migrate(scene.b.listen())
    scene.a.reach("active")
    eventually(lambda: scene.a.info()["ram"]["normal"] > 0, what="a first page")
    info = scene.a.info()
    assert info["expected-downtime"] >= 0
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("measures/rate-limit/raised-while-it-waits")
def test_raised(scene):
    source, target = scene.pair()
    hold_active(scene, source, target)
    scene.a.qmp.cmd("migrate_set_speed", guest=GUEST, value=2**62)
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)


@path("measures/holes/an-untouched-guest")
def test_untouched(scene):
    """Nothing is allocated at either side by migrating what was never touched."""
    blocks = ("ram:1024",)
    source, target = scene.pair(blocks=blocks, fill=0)
    for place in range(0, 1024, 100):
        source.do(f"fill ram {place * MIB} {PAGE} random {place + 1}")
    before = int(source.do("allocated"))
    assert before == 11 * PAGE
    sent, _ = scene.move(source, target)
    assert int(source.do("allocated")) == before
    assert int(target.do("allocated")) == before
    assert sent["ram"]["transferred"] < MIB
    assert sent["ram"]["normal"] == 11


@path("measures/holes/zeroed-pages-become-holes")
def test_zeroes(scene):
    source, target = scene.pair(fill=0)
    source.do(f"fill ram 0 {8 * MIB} zero")
    source.do(f"fill ram {8 * MIB} {2 * PAGE} random 2")
    sent, _ = scene.move(source, target)
    assert int(source.do("allocated")) == 8 * MIB + 2 * PAGE
    assert int(target.do("allocated")) == 2 * PAGE
    assert sent["ram"]["duplicate"] == 2048


@path("measures/holes/zeroed-in-a-later-round")
def test_zeroed_later(scene):
    """What had arrived with data is a hole again."""
    source, target = scene.pair()
    hold_active(scene, source, target)
    eventually(lambda: scene.a.info()["ram"]["normal"] >= 300, what="300 pages")
    source.do(f"fill ram 0 {MIB} zero")
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    check_moved(source, target)
    assert int(target.do("allocated")) == 15 * MIB


@path("measures/holes/marks-do-not-allocate")
def test_marks(scene):
    """Pages that are told as written and are holes are not read into being."""
    source, target = scene.pair()
    hold_active(scene, source, target)
    source.do(f"punch ram {8 * MIB} {8 * MIB}")
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    assert int(source.do("allocated")) <= 8 * MIB
    assert int(target.do("allocated")) <= 8 * MIB
    check_moved(source, target)


@path("measures/holes/a-destination-with-old-content")
def test_old_content(scene):
    """What the waiting VMM had in its RAM does not shine through."""
    source, target = scene.pair()
    target.do(f"fill ram 0 {16 * MIB} random 77")
    scene.move(source, target)
    assert int(target.do("allocated")) == MIB


@path("measures/holes/after-a-failed-migration")
def test_wiped(scene):
    source, target = scene.pair()
    hold_active(scene, source, target)
    scene.a.cancel()
    scene.a.end()
    scene.b.end()
    assert int(target.do("allocated")) == 0


@path("measures/rounds/second-round-sends-what-was-written")
def test_second_round(scene):
    """A page written behind the sender's back is sent again, with its new content."""
    source, target = scene.pair()
    tap = Tap()
    uri = scene.relay(scene.b.listen(), tap=tap).uri
    source.do(f"fill ram 0 {16 * MIB} random 7")
    scene.a.set(max_bandwidth=2 * MIB)
    scene.a.migrate(uri)
    eventually(lambda: scene.a.info().get("ram", {}).get("normal", 0) > 300, what="300 pages")
    source.do(f"fill ram {100 * PAGE} {3 * PAGE} random 8")
    scene.a.set(max_bandwidth=0)
    info = scene.a.complete()
    scene.b.complete()
    assert info["ram"]["normal"] == 4096 + 3
    assert info["ram"]["dirty-sync-count"] >= 2
    assert tap.count("out", RAM_PAGES) > 1
    check_moved(source, target)


@path("measures/saved-file-is-small")
def test_file(scene):
    source, _ = scene.pair(blocks=("ram:1024",), fill=5 * PAGE)
    file = scene.lab.folder / "saved"
    scene.a.migrate(f"exec:cat >{file}")
    scene.a.complete()
    assert file.stat().st_size < 64 * 1024
    assert source.do("state") == "given-away"
    _, records = split(file.read_bytes())
    assert sum(len(body) - 16 for kind, body in records if kind == RAM_PAGES) == 5 * PAGE


@path("measures/ram-is-in-no-core-dump")
def test_core_dump(scene):
    """Of neither daemon's, and no helper inherits it: dd and dc among the mapping's flags."""
    source, target = scene.pair()
    hold_active(scene, source, target)
    for host in (scene.a, scene.b):
        with open(f"/proc/{host.daemon.pid}/smaps", encoding="ascii") as smaps:
            mappings = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", smaps.read())
        ram = [m for m in mappings if "/memfd:" in m and re.search(r"^Size: +16384 kB", m, re.M)]
        assert len(ram) == 1, [m.splitlines()[0] for m in mappings]
        flags = re.search(r"^VmFlags: (.*)$", ram[0], re.M)[1].split()
        assert {"dd", "dc"} <= set(flags)
    scene.a.cancel()
    scene.a.end()
