# SPDX-License-Identifier: BSD-3-Clause
"""The figures for Prometheus: where they can be had, that they are well-formed, what they count."""

import http.client
import re
import socket
import subprocess

import pytest
from lab import DEADLINE
from prometheus_client.parser import text_string_to_metric_families
from scenes import GUEST, MIB, Host, eventually, hold_active, path
from scrape import UnixConnection, get, scrape, scrape_text, serve_metrics


@pytest.fixture
def hosts(scene):
    """Two daemons with metrics."""
    return serve_metrics(scene)


@path("metrics/off-by-default")
def test_off(scene):
    listening = subprocess.run(["ss", "-lxtnp"], capture_output=True, text=True, check=True).stdout
    ours = [line for line in listening.splitlines() if f"pid={scene.a.daemon.pid}," in line]
    assert len(ours) == 2, ours  # control and guests


@path("metrics/port/{address}")
@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
def test_port(lab, address):
    daemon = lab.daemon("a", options=["--metrics", f"{address}:0"])
    port = int(re.search(r"metrics at .*, port (\d+)", daemon.errors())[1])
    answer, text = get(http.client.HTTPConnection(address.strip("[]"), port, timeout=DEADLINE))
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "ferry_guests 0\n" in text


@path("metrics/address-refused/{address}")
@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:80", "[::]:0", "localhost:0", "here",
                                     "127.0.0.1", "127.0.0.1:x"])
def test_refused(lab, address):
    shown = subprocess.run(
        [lab.build / "ferryd", "--config", "", "--control", lab.folder / "c", "--guests",
         lab.folder / "g", "--state-dir", lab.folder / "s", "--metrics", address],
        capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert shown.returncode == 2
    assert shown.stderr.count("\n") == 1 and f"'{address}'" in shown.stderr


@path("metrics/well-formed")
def test_well_formed(hosts):
    """Prometheus' own reader of the format takes it, and each family says what it is, once."""
    source, target = hosts.pair(fill=MIB)
    hosts.move(source, target)
    families = list(text_string_to_metric_families(scrape_text(hosts.a)))
    names = [family.name for family in families]
    assert len(names) == len(set(names)) and "ferry_downtime_seconds" in names
    assert all(name.startswith("ferry_") for name in names)
    assert all(family.documentation.endswith(".") and family.type != "unknown"
               for family in families)
    labels = [(sample.name, tuple(sorted(sample.labels.items())))
              for family in families for sample in family.samples]
    assert len(labels) == len(set(labels))


@path("metrics/completed")
def test_completed(hosts):
    source, target = hosts.pair(fill=2 * MIB)
    info, _ = hosts.move(source, target)
    eventually(lambda: scrape(hosts.a)['ferry_migrations_total{direction="outgoing",end="completed"}']
               == 1, what="the count")
    at_a, at_b = scrape(hosts.a), scrape(hosts.b)
    ram = info["ram"]
    assert at_a['ferry_jobs{direction="outgoing",state="completed"}'] == 1
    assert at_b['ferry_jobs{direction="incoming",state="completed"}'] == 1
    assert at_a['ferry_bytes_total{direction="outgoing",kind="normal"}'] == ram["normal-bytes"]
    assert at_a['ferry_pages_total{direction="outgoing",kind="zero"}'] == ram["duplicate"]
    assert at_a['ferry_transferred_bytes_total{direction="outgoing"}'] >= ram["transferred"]
    assert at_a['ferry_rounds_total{direction="outgoing"}'] == ram["dirty-sync-count"]
    assert at_a["ferry_downtime_seconds_count"] == 1
    assert at_a["ferry_downtime_seconds_sum"] == pytest.approx(info["downtime"] / 1000, abs=0.001)
    assert at_b["ferry_downtime_seconds_count"] == 0
    assert at_a["ferry_guests"] == at_b["ferry_guests"] == 1
    assert at_a["ferry_sessions"] == 1


@path("metrics/downtime-buckets-grow")
def test_buckets(hosts):
    source, target = hosts.pair(fill=MIB)
    hosts.move(source, target)
    eventually(lambda: scrape(hosts.a)["ferry_downtime_seconds_count"] == 1, what="the count")
    found = {name: value for name, value in scrape(hosts.a).items() if "seconds_bucket" in name}
    values = list(found.values())
    assert values == sorted(values) and values[-1] == 1
    assert list(found)[-1] == 'ferry_downtime_seconds_bucket{le="+Inf"}'


@path("metrics/active")
def test_active(hosts):
    source, target = hosts.pair()
    hold_active(hosts, source, target)
    now = scrape(hosts.a)
    assert now['ferry_jobs{direction="outgoing",state="active"}'] == 1
    assert now[f'ferry_remaining_bytes{{guest="{GUEST}"}}'] > 0
    assert f'ferry_dirty_pages_per_second{{guest="{GUEST}"}}' in now
    assert now['ferry_transferred_bytes_total{direction="outgoing"}'] > 0
    hosts.a.cancel()
    hosts.a.end()
    eventually(lambda: scrape(hosts.a)['ferry_migrations_total{direction="outgoing",end="cancelled"}']
               == 1, what="the count")
    then = scrape(hosts.a)
    assert f'ferry_remaining_bytes{{guest="{GUEST}"}}' not in then
    assert all(then[name] >= value for name, value in now.items() if name.split("{")[0].endswith("_total"))


@path("metrics/failed")
def test_failed(hosts):
    hosts.a.scripted()
    hosts.a.migrate("exec:exit 3")
    hosts.a.fail()
    eventually(lambda: scrape(hosts.a).get('ferry_errors_total{code="exec-failed"}') == 1
               or scrape(hosts.a).get('ferry_errors_total{code="channel-closed"}') == 1,
               what="the error's count")
    assert scrape(hosts.a)['ferry_migrations_total{direction="outgoing",end="failed"}'] == 1


@path("metrics/http/{what}")
@pytest.mark.parametrize("what,method,where,status", [
    ("elsewhere", "GET", "/", 404), ("post", "POST", "/metrics", 501),
    ("head", "HEAD", "/metrics", 200), ("query", "GET", "/metrics?x=1", 200),
])
def test_http(hosts, what, method, where, status):
    answer, _ = get(UnixConnection(hosts.lab.folder / "a.metrics"), method, where)
    assert answer.status == status, what


@path("metrics/http/hostile/{what}")
@pytest.mark.parametrize("what,data", [
    ("nonsense", b"\0\1\2\n\n"), ("long-line", b"GET /" + b"x" * 100000 + b" HTTP/1.1\r\n\r\n"),
    ("many-headers", b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 10000 + b"\r\n"),
    ("body", b"GET /metrics HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100000),
    ("cut", b"GET /met"),
])
def test_hostile(hosts, what, data):
    """It gets an error, or nothing; the daemon and the next scraper are none the worse."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(DEADLINE)
    sock.connect(str(hosts.lab.folder / "a.metrics"))
    try:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = sock.recv(4096)
        assert not answer or b" 4" in answer.split(b"\r\n")[0] or what == "body", answer
    except (BrokenPipeError, ConnectionResetError):
        pass
    sock.close()
    assert scrape(hosts.a)["ferry_guests"] == 0
    assert hosts.a.qmp.cmd("query-version")


@path("metrics/fewer-descriptors-than-scrapers")
def test_many(lab):
    """Scrapers that take all descriptors do not make it spin, and are served when some are free."""
    host = Host(lab, "a", options=["--metrics", f"unix:{lab.folder}/a.metrics"])
    resource_limit(host.daemon.pid, 40)
    socks = []
    for _ in range(60):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(lab.folder / "a.metrics"))
        socks.append(sock)
    host.daemon.await_line("can't accept a scraper's connection", errors=True)
    assert host.qmp.cmd("query-version")
    for sock in socks:
        sock.close()
    assert scrape(host)["ferry_guests"] == 0


def resource_limit(pid, descriptors):
    subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={descriptors}:{descriptors}"],
                   check=True, timeout=DEADLINE)
