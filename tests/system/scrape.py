# SPDX-License-Identifier: BSD-3-Clause
"""Asking a daemon for its figures, as Prometheus does."""

import http.client
import re
import socket

from lab import DEADLINE

SAMPLE = re.compile(r'([a-z_]+)(\{[^}]*\})? (\S+)')


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, where):
        super().__init__("localhost", timeout=DEADLINE)
        self.where = str(where)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(self.where)


def get(connection, method="GET", what="/metrics", **options):
    connection.request(method, what, **options)
    answer = connection.getresponse()
    return answer, answer.read().decode()


def scrape_text(host):
    """What a host of serve_metrics answers."""
    answer, text = get(UnixConnection(host.lab.folder / f"{host.name}.metrics"))
    assert answer.status == 200
    return text


def scrape(host):
    """All samples: {name{labels}: value}."""
    found = map(SAMPLE.fullmatch, scrape_text(host).splitlines())
    return {m[1] + (m[2] or ""): float(m[3]) for m in found if m}


def serve_metrics(scene):
    """Starts both daemons anew, with metrics; the scene."""
    for host in (scene.a, scene.b):
        host.daemon.terminate()
        host.options = {"options": ["--metrics", f"unix:{host.lab.folder}/{host.name}.metrics"]}
        host.start()
    return scene
