# SPDX-License-Identifier: BSD-3-Clause
"""ferryctl report: a migration drawn in a terminal and as a picture."""

import json
import xml.etree.ElementTree as xml

import pytest
from ctl import COLUMNS, Ctl, Liar, answering
from scenes import GUEST, MIB, PAGE, SLOW, eventually, path

SVG = "{http://www.w3.org/2000/svg}"
PARTS = ["stop", "ram", "state", "load", "start"]
ROUND = {"round": 1, "count": 8, "start": 0, "end": 70000, "transferred": MIB, "pages": 256,
         "dirtied": 0, "remaining": 0, "throttle": 40}


@pytest.fixture
def ctl(lab):
    return Ctl(lab)


def history(host):
    return host.qmp.cmd("query-migrate-history", guest=GUEST)


def moved(scene):
    """A migration in which the guest wrote: what is told of its rounds."""
    source, _ = scene.pair(fill=0)
    source.do(f"fill ram 0 {16 * MIB} random 7")
    scene.a.set(max_bandwidth=SLOW)
    scene.a.migrate(scene.b.listen())
    eventually(lambda: scene.a.info().get("ram", {}).get("transferred", 0) > MIB, what="a MiB")
    source.do(f"fill ram 0 {64 * PAGE} random 2")
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    told = history(scene.a)
    assert len(told["rounds"]) >= 2
    return told


def rows(text):
    """The lines of a report below its title, split at blanks."""
    return [line.split() for line in text.splitlines()[1:]]


@path("ferryctl/report/in-a-terminal")
def test_terminal(scene, ctl):
    told = moved(scene)
    running = ctl.terminal(scene.a, "report", "-")
    assert running.end() == 0
    text = running.text.replace("\r", "")
    count = len(told["rounds"])
    assert text.startswith(f"{GUEST}: outgoing, completed, {count} rounds\n"), text
    head, *drawn = rows(text)
    assert head == ["ROUND", "START", "TOOK", "SENT", "DIRTIED", "REMAINING"]
    assert [row[0] for row in drawn[:count]] == [str(n + 1) for n in range(count)], text
    assert drawn[0][5:7] == ["16.0", "MiB"] and "256.0 KiB" in text, text
    assert drawn[count][:2] == ["stopped", "at"]
    assert [row[0] for row in drawn[count + 1:]] == PARTS, text
    assert "█" in text and "#" not in text
    assert all(len(line) <= COLUMNS for line in text.splitlines()), text


@path("ferryctl/report/plain-ascii")
def test_plain(scene, ctl):
    """A locale without blocks is given none."""
    moved(scene)
    text = ctl.good(scene.a, "report", GUEST, "--width", "60", LC_ALL="C")
    assert text.isascii() and "#" in text, text
    assert max(map(len, text.splitlines()[-5:])) == 60, text


@path("ferryctl/report/older-python/{encoding}")
@pytest.mark.parametrize("encoding,block", [("C.UTF-8", True), ("C", False)])
def test_older(lab, ctl, encoding, block):
    """Pythons before 3.11 do not have locale.getencoding."""
    (lab.folder / "sitecustomize.py").write_text(
        "import locale\nvars(locale).pop('getencoding', None)\n", encoding="ascii")
    liar = Liar(lab, answering({"query-migrate-history": {
        "direction": "outgoing", "status": "failed", "rounds": [ROUND]}}))
    text = ctl.good(liar.path, "report", "g", LC_ALL=encoding, PYTHONPATH=str(lab.folder))
    assert ("█" in text) == block, text


@path("ferryctl/report/svg")
def test_svg(scene, ctl):
    told = moved(scene)
    file = scene.lab.folder / "picture.svg"
    assert ctl.good(scene.a, "report", GUEST, "--svg", file) == ""
    root = xml.parse(file).getroot()
    assert root.tag == f"{SVG}svg"
    titles = {kind: [group.find(f"{SVG}title").text for group in root.iter(f"{SVG}g")
                     if group.get("class") == kind] for kind in ("round", "part", "stop")}
    assert [title.split(":")[0] for title in titles["round"]] == [
        f"round {entry['round']}" for entry in told["rounds"]]
    assert [title.split(":")[0] for title in titles["part"]] == PARTS
    assert len(titles["stop"]) == 1
    assert "No such file" in ctl.bad(scene.a, 1, "report", GUEST, "--svg", "/nowhere/x.svg")


@path("ferryctl/report/json")
def test_json(scene, ctl):
    told = moved(scene)
    assert json.loads(ctl.good(scene.a, "report", GUEST, "--json")) == told


@path("ferryctl/report/nothing-to-draw")
def test_nothing(scene, ctl):
    scene.pair(fill=0)
    assert "no migration" in ctl.bad(scene.a, 1, "report", GUEST)
    scene.a.migrate(scene.b.listen())
    scene.a.complete()
    scene.b.complete()
    assert "at its source" in ctl.bad(scene.b, 1, "report", GUEST)


@path("ferryctl/report/long-and-throttled")
def test_long(lab, ctl):
    """What stands for several rounds says so; a failed one has no stop; names stay harmless."""
    liar = Liar(lab, answering({"query-migrate-history": {
        "direction": "outgoing", "status": "<&\x1b>", "rounds": [ROUND]}}))
    title, *drawn = ctl.good(liar.path, "report", "g").splitlines()
    assert title == r"g: outgoing, <&\x1b>, 8 rounds"
    assert drawn[0].split()[:4] == ["ROUND", "START", "TOOK", "THROTTLED"]
    assert drawn[1].split()[:8] == ["1-8", "0", "ms", "1", "m", "10", "s", "40"], drawn
    file = lab.folder / "picture.svg"
    ctl.good(liar.path, "report", "g", "--svg", file)
    root = xml.parse(file).getroot()
    assert title in [text.text for text in root.iter(f"{SVG}text")]
    assert root.find(f"{SVG}g/{SVG}title").text.startswith("rounds 1-8: 1 m 10 s from 0 ms, ")
