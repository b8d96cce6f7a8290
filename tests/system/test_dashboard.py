# SPDX-License-Identifier: BSD-3-Clause
"""The dashboard for Grafana: it can be imported, asks only for figures that there are, and leaves
none of them out."""

import collections
import json
import pathlib
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scenes import hold_active, path
from scrape import scrape_text, serve_metrics

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DASHBOARD = ROOT / "contrib" / "grafana" / "ferry.json"

NOT_SHOWN = {}  # families that the dashboard leaves out, and why
ADDED = {"instance"}  # labels that Prometheus adds to each sample
CLOSING = {")": "(", "]": "[", "}": "{"}


@pytest.fixture(name="dashboard")
def read_dashboard():
    return json.loads(DASHBOARD.read_text(encoding="ascii"))


def expressions(dashboard):
    """Each expression with the title of its panel."""
    return [(panel["title"], target["expr"])
            for panel in dashboard["panels"] for target in panel.get("targets", [])]


def families_of(scene):
    """All families of a daemon that has something to tell of each: one migration has failed, and one
    is under way."""
    source, target = scene.pair(fill=0)
    scene.a.migrate("exec:exit 3")
    scene.a.fail()
    hold_active(scene, source, target)
    return list(text_string_to_metric_families(scrape_text(scene.a)))


def samples_of(families):
    """{name: {label: its values}}."""
    found = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = found.setdefault(sample.name, collections.defaultdict(set))
        for label, value in sample.labels.items():
            labels[label].add(value)
    return found


def unbalanced(expr):
    """What of it is left open, or is closed without having been opened."""
    opened = []
    for character in re.sub(r'"[^"]*"', "", expr):
        if character in CLOSING.values():
            opened.append(character)
        elif character in CLOSING and (not opened or opened.pop() != CLOSING[character]):
            return character
    return "".join(opened)


@path("metrics/dashboard")
def test_dashboard(scene, dashboard):
    """Its figures are ferryd's: names, labels and, where it picks some, the labels' values."""
    families = families_of(serve_metrics(scene))
    exported = samples_of(families)
    used = set()
    for title, expr in expressions(dashboard):
        assert not unbalanced(expr), (title, expr)
        names = set(re.findall(r"\bferry_\w+", expr))
        assert names and names <= set(exported), (title, names - set(exported))
        used |= names
        known = ADDED.union(*(exported[name] for name in names))
        for group in re.findall(r"\bby \(([^)]*)\)", expr):
            assert set(re.findall(r"\w+", group)) <= known, (title, group)
    without = {family.name for family in families
               if not used & {sample.name for sample in family.samples}}
    assert without == set(NOT_SHOWN)


@path("metrics/dashboard/labels")
def test_labels(scene, dashboard):
    """What is picked by a label's value can be there; and what legends show."""
    exported = samples_of(families_of(serve_metrics(scene)))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expr = target["expr"]
            for name, matchers in re.findall(r"(ferry_\w+)\{([^}]*)\}", expr):
                for label, how, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', matchers):
                    if label not in ADDED:
                        values = set(value.split("|")) if how == "=~" else {value}
                        assert values <= exported[name][label], (panel["title"], label)
            known = ADDED.union(*(exported[name] for name in re.findall(r"ferry_\w+", expr)))
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= known, (panel["title"], shown - known)


@path("metrics/dashboard/importable")
def test_importable(dashboard):
    """What Grafana asks for at an import; each panel has its place, a unit, and says what to do."""
    assert [given["name"] for given in dashboard["__inputs"]] == ["DS_PROMETHEUS"]
    assert dashboard["id"] is None and dashboard["schemaVersion"] >= 36
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    kinds = {entry["id"] for entry in dashboard["__requires"] if entry["type"] == "panel"}
    assert {panel["type"] for panel in panels} == kinds | {"row"}
    cells = collections.Counter()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells.update((x, y) for x in range(at["x"], at["x"] + at["w"])
                     for y in range(at["y"], at["y"] + at["h"]))
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    assert max(cells.values()) == 1  # no two lie on each other


@path("metrics/dashboard/every-query-by-instance")
def test_templated(dashboard):
    """Each query goes to the data source that was chosen, and is of the hosts that were."""
    variables = {entry["name"]: entry for entry in dashboard["templating"]["list"]}
    assert set(variables) == {"instance"}
    sources = [variables["instance"]["datasource"]]
    for panel in dashboard["panels"]:
        sources += [thing["datasource"] for thing in [panel, *panel.get("targets", [])]
                    if panel["type"] != "row"]
    assert all(source == {"type": "prometheus", "uid": "${DS_PROMETHEUS}"} for source in sources)
    for title, expr in expressions(dashboard):
        picked = re.findall(r'ferry_\w+(\{instance=~"\$instance")?', expr)
        assert all(picked), (title, expr)


@path("metrics/dashboard/undecided-is-red")
def test_undecided(dashboard):
    panel = dashboard["panels"][1]
    assert "ferry_undecided_handovers" in panel["targets"][0]["expr"]
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [(step["color"], step["value"]) for step in steps] == [("green", None), ("red", 1)]
