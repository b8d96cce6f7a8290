# SPDX-License-Identifier: BSD-3-Clause
"""query-migrate-history: a migration told round by round, while it runs and afterwards."""

import pytest
from scenes import GUEST, MIB, PAGE, eventually, hold_active, path


def history(host, guest=GUEST):
    return host.qmp.cmd("query-migrate-history", guest=guest)


@path("history/none-yet")
def test_none(scene):
    scene.a.scripted()
    assert history(scene.a) == {"rounds": []}


@path("history/completed")
def test_completed(scene):
    source, target = scene.pair(fill=2 * MIB)
    info, _ = scene.move(source, target)
    told = history(scene.a)
    rounds, stop = told["rounds"], told["stop"]
    assert (told["status"], told["direction"], told["job"]) == ("completed", "outgoing", info["job"])
    assert [r["round"] for r in rounds] == list(range(1, len(rounds) + 1))
    assert all(r["count"] == 1 for r in rounds)
    assert rounds[0]["pages"] == 2 * MIB // PAGE
    assert rounds[0]["transferred"] >= 2 * MIB
    assert all(a["end"] <= b["start"] for a, b in zip(rounds, rounds[1:]))
    assert rounds[-1]["end"] <= stop["start"]
    assert stop["transferred"] == info["ram"]["downtime-bytes"]
    assert stop["parts"] == info["downtime-parts"]
    assert stop["downtime"] == pytest.approx(info["downtime"], abs=0.51)
    assert stop["start"] + stop["downtime"] <= info["total-time"] + 1


@path("history/what-the-guest-wrote")
def test_dirtied(scene):
    """What was written in a round is what the round tells at its end, and what the next one sends."""
    source, target = scene.pair(fill=0)
    hold_active(scene, source, target)
    source.do(f"fill ram {8 * MIB} {3 * PAGE} random 2")
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    rounds = history(scene.a)["rounds"]
    assert sum(r["dirtied"] for r in rounds) == 3
    writing = next(r for r in rounds if r["dirtied"])
    assert writing["remaining"] == 3 * PAGE


@path("history/failed")
def test_failed(scene):
    source, target = scene.pair(fill=MIB)
    hold_active(scene, source, target)
    scene.a.cancel()
    scene.a.end()
    told = history(scene.a)
    assert told["status"] == "cancelled"
    assert "stop" not in told


@path("history/incoming")
def test_incoming(scene):
    source, target = scene.pair(fill=MIB)
    scene.move(source, target)
    told = history(scene.b)
    assert (told["direction"], told["rounds"]) == ("incoming", [])
    assert told["job"] == history(scene.a)["job"]


@path("history/outlives-the-guest")
def test_gone(scene):
    source, target = scene.pair(fill=MIB)
    scene.move(source, target)
    source.terminate()
    eventually(lambda: scene.a.qmp.cmd("query-guests") == [], what="the guest's end")
    assert history(scene.a)["status"] == "completed"
