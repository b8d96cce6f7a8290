# SPDX-License-Identifier: BSD-3-Clause
"""Each member of query-migrate, recomputed from what others have counted: the link, record by
record; the VMM, write by write; this test, by its own clock."""

import time

import pytest
from scenes import GUEST, MIB, PAGE, check_moved, eventually, hold_active, path
from stream import ROUND, STOPPED, Ledger

LIMIT = 4 * MIB


def within(figure, expected, factor):
    """Right up to what a busy machine does to a rate; a wrong unit is off by far more."""
    return expected / factor <= figure <= expected * factor


def tapped(scene):
    """A link that keeps account, in front of the destination."""
    ledger = Ledger()
    return ledger, scene.relay(scene.b.listen(), tap=ledger).uri


def hold_writing(scene):
    """A guest that writes 2 MiB over and over, through a link that takes as much in half a second."""
    source, target = scene.pair(fill=2 * MIB)
    ledger, uri = tapped(scene)
    source.do(f"dirty 0 {2 * MIB // PAGE} 8192")
    scene.a.set(max_bandwidth=LIMIT, downtime_limit=20)
    scene.a.migrate(uri)
    eventually(lambda: ledger.count("out", ROUND) >= 4, what="a fourth round")
    return source, target, ledger


@path("fields/ram/totals")
def test_totals(scene):
    """Pages of each kind, and bytes before and behind the stop."""
    source, target = scene.pair(fill=0)
    source.do(f"fill ram 0 {300 * PAGE} random 3")
    source.do(f"fill ram {MIB * 4} {50 * PAGE} zero")
    ledger, uri = tapped(scene)
    scene.a.migrate(uri)
    info = scene.a.complete()
    scene.b.complete()
    ram = info["ram"]
    eventually(lambda: ledger.total() >= ram["transferred"], what="the last record")
    assert ram["normal"] == ledger.pages() == 300
    assert ram["normal-bytes"] == 300 * PAGE
    assert ram["duplicate"] == ledger.zero_pages() == 50
    assert ram["skipped"] == 4096 - 350
    assert (ram["total"], ram["remaining"], ram["page-size"]) == (16 * MIB, 0, PAGE)
    assert ram["dirty-sync-count"] == ledger.last_round()
    assert 0 <= ledger.total() - ram["transferred"] <= 32  # GO and DONE
    assert abs(ram["precopy-bytes"] - ledger.before(STOPPED)) <= 64
    assert ram["downtime-bytes"] == ram["transferred"] - ram["precopy-bytes"]
    check_moved(source, target)


@path("fields/ram/rates-of-ended/{fill}-MiB")
@pytest.mark.parametrize("fill", [1, 16])
def test_ended_rates(scene, fill):
    """Those of the whole, without its setup: a job may end before a window of 100 ms has passed."""
    source, target = scene.pair(fill=fill * MIB)
    for info in scene.move(source, target):
        ram, took = info["ram"], info["total-time"] - info["setup-time"]
        assert abs(took * ram["mbps"] - ram["transferred"] * 8 / 1000) <= ram["mbps"] * 2
        pages = ram["normal"] + ram["duplicate"]
        assert abs(took * ram["pages-per-second"] - pages * 1000) <= ram["pages-per-second"] * 2 + took


@path("fields/ram/later-rounds-count-again")
def test_again(scene):
    """What the VMM wrote in between is what was sent more."""
    source, target = scene.pair()
    ledger, uri = tapped(scene)
    source.do(f"fill ram 0 {16 * MIB} random 7")
    scene.a.set(max_bandwidth=2 * MIB)
    scene.a.migrate(uri)
    eventually(lambda: scene.a.info().get("ram", {}).get("normal", 0) > 300, what="300 pages")
    source.do(f"fill ram {50 * PAGE} {40 * PAGE} random 8")
    scene.a.set(max_bandwidth=0)
    ram = scene.a.complete()["ram"]
    scene.b.complete()
    assert ram["normal"] == ledger.pages() == 4096 + 40
    check_moved(source, target)


@path("fields/ram/remaining")
def test_remaining(scene):
    """What is left is what the round began with, less what has gone over the link since."""
    source, target = scene.pair()
    ledger, uri = tapped(scene)
    source.do(f"fill ram 0 {16 * MIB} random 7")
    scene.a.set(max_bandwidth=2 * MIB)
    scene.a.migrate(uri)
    assert scene.a.reach("active")["ram"]["remaining"] > 0  # from the first look on
    eventually(lambda: scene.a.info()["ram"]["normal"] > 300, what="300 pages")
    before = ledger.pages()
    remaining = scene.a.info()["ram"]["remaining"]
    after = ledger.pages()
    # A batch of up to 256 pages is counted before it is on the link
    assert 16 * MIB - (after + 512) * PAGE <= remaining <= 16 * MIB - before * PAGE
    scene.a.cancel()
    scene.a.end()


@path("fields/ram/rates")
def test_rates(scene):
    """mbps and pages-per-second are the link's, dirty-pages-rate the VMM's."""
    source, _, ledger = hold_writing(scene)
    start, written = time.monotonic(), int(source.do("dirty-stop"))
    source.do(f"dirty 0 {2 * MIB // PAGE} 500")
    rounds = ledger.count("out", ROUND)
    eventually(lambda: ledger.count("out", ROUND) >= rounds + 3, what="three more rounds")
    ram = scene.a.info()["ram"]
    rate = (int(source.do("dirty-stop")) - written) / (time.monotonic() - start)
    assert within(ram["dirty-pages-rate"], rate, 2.5)
    scene.a.cancel()
    scene.a.end()


@path("fields/ram/throughput")
def test_throughput(scene):
    source, target = scene.pair()
    source.do(f"fill ram 0 {16 * MIB} random 7")
    ledger, uri = tapped(scene)
    scene.a.set(max_bandwidth=LIMIT)
    scene.a.migrate(uri)
    scene.a.reach("active")
    start, sent = time.monotonic(), ledger.total()
    eventually(lambda: ledger.total() > sent + 4 * MIB, what="a second's worth")
    rate = (ledger.total() - sent) / (time.monotonic() - start)
    ram = scene.a.info()["ram"]
    scene.a.cancel()
    scene.a.end()
    assert within(ram["mbps"], rate * 8 / 1e6, 2)
    assert within(ram["pages-per-second"], rate / PAGE, 2)


@path("fields/expected-downtime")
def test_expected(scene):
    """What the round has to send, at the rate of the link."""
    _, _, ledger = hold_writing(scene)
    due = ledger.rounds()[-1][1]
    expected = scene.a.info()["expected-downtime"]
    scene.a.cancel()
    scene.a.end()
    assert within(expected, due * PAGE / LIMIT * 1000, 2.5)


@path("fields/expected-downtime/at-first-the-limit")
def test_expected_first(scene):
    source, target = scene.pair()
    scene.a.set(downtime_limit=1234)
    hold_active(scene, source, target)
    assert scene.a.info()["expected-downtime"] == 1234


@path("fields/times")
def test_times(scene):
    """Milliseconds by this test's clock: a save that takes its time is downtime, and total time."""
    source, target = scene.pair()
    source.do("behave save=hang")
    start = time.monotonic()
    scene.a.migrate(scene.b.listen())
    source.await_event("save")
    seen = time.monotonic()
    eventually(lambda: time.monotonic() - seen > 0.3, what="0.3 s")
    held = (time.monotonic() - seen) * 1000
    source.do("behave save=ok")
    info = scene.a.complete()
    all_of_it = (time.monotonic() - start) * 1000
    assert held <= info["downtime"] + 1
    assert info["downtime"] <= info["total-time"] <= all_of_it + 1
    assert info["downtime-parts"]["state"] + info["downtime-parts"]["ram"] >= held - 1
    assert abs(sum(info["downtime-parts"].values()) - info["downtime"]) <= 2
    assert info["setup-time"] <= info["total-time"] - info["downtime"] + 1


@path("fields/setup-time")
def test_setup_time(scene):
    """The time until the destination has answered."""
    source, target = scene.pair()
    uri = scene.b.listen()
    scene.b.daemon.suspend()
    scene.a.migrate(uri)
    scene.a.reach("setup")
    seen = time.monotonic()
    eventually(lambda: time.monotonic() - seen > 0.3, what="0.3 s")
    held = (time.monotonic() - seen) * 1000
    scene.b.daemon.wake()
    info = scene.a.complete()
    assert held <= info["setup-time"] + 1
    check_moved(source, target)


@path("fields/round-records-name-what-is-due")
def test_due(scene):
    """A round's own figure is what the VMM wrote since the last."""
    source, target = scene.pair()
    ledger, uri = tapped(scene)
    source.do(f"fill ram 0 {16 * MIB} random 7")
    scene.a.set(max_bandwidth=2 * MIB)
    scene.a.migrate(uri)
    eventually(lambda: scene.a.info().get("ram", {}).get("normal", 0) > 300, what="300 pages")
    source.do(f"fill ram {10 * PAGE} {33 * PAGE} random 9")
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    scene.b.complete()
    rounds = ledger.rounds()
    assert rounds[0][1] == 4096
    assert rounds[1][1] == 33
    assert [number for number, _ in rounds] == sorted({number for number, _ in rounds})
    check_moved(source, target)
    assert scene.a.qmp.cmd("query-migrate", guest=GUEST)["ram"]["normal"] == 4096 + 33
