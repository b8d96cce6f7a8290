# SPDX-License-Identifier: BSD-3-Clause
"""How a migration that is waited for is shown: a line redrawn in place, plain lines, or JSON."""

import contextlib
import json
import os
import time

from .text import clean
from .units import show_rate, show_size, show_time

BAR_MIN, BAR_MAX, BAR_SHARE = 10, 40, 6  # columns; of a line, the sixth part
COLUMNS = 80  # of a terminal that does not say
LINES_EVERY = 1.0  # seconds between plain lines
REDRAW_EVERY = 0.2


# ---- what is shown of a record ----

def remaining(info):
    """Bytes still to send, and of how many, disks among them."""
    parts = [info[name] for name in ("ram", "disk") if name in info]
    return sum(p["remaining"] for p in parts), sum(p["total"] for p in parts)


def rates(info):
    """Bytes per second: sent, and written by the guest."""
    ram = info["ram"]
    return ram["mbps"] * 1e6 / 8, ram["dirty-pages-rate"] * ram["page-size"]


def verb(info):
    """What is done with the bytes."""
    return "received" if info.get("direction") == "incoming" else "sent"


def time_left(info):
    """When little will be left, should all go on as now; None where nobody can say."""
    left, _ = remaining(info)
    sent, written = rates(info)
    if info.get("status") != "active" or not sent:
        return None
    if sent <= written:
        return "does not converge"
    return f"{show_time(left * 1000 / (sent - written))} to go"


def _expected_text(info):
    expected = info.get("expected-downtime")
    return None if expected is None else f"downtime ~{show_time(expected)}"


def _throttle_text(info):
    percent = info.get("cpu-throttle-percentage")
    return f"throttled {percent} %" if percent else None


# In the order in which they are shown; a narrow line loses the last first.
FIELDS = (
    lambda info: f"round {info['ram']['dirty-sync-count']}",
    lambda info: f"{show_size(remaining(info)[0])} left",
    lambda info: show_rate(rates(info)[0]),
    time_left,
    _expected_text,
    lambda info: f"dirty {show_rate(rates(info)[1])}",
    _throttle_text,
)


def phase(info):
    """The status, with what is known beside it."""
    status = clean(info.get("status", "none"))
    return f"{status}, handover undecided" if info.get("handover") == "undecided" else status


def fields(info):
    """Everything that moves, as short texts."""
    texts = (field(info) for field in FIELDS) if "ram" in info else ()
    return [phase(info), *filter(None, texts)]


def bar(share, width):
    full = round(max(0.0, min(1.0, share)) * width)
    return f"[{'#' * full}{'-' * (width - full)}]"


def progress_line(info, width):
    """A bar and as many fields as there is room for."""
    left, total = remaining(info)
    share = 1 - left / total if total else 0
    begin = f"{bar(share, max(BAR_MIN, min(BAR_MAX, width // BAR_SHARE)))} {share * 100:3.0f}%"
    texts = [begin, *fields(info)]
    while len(texts) > 1 and len("  ".join(texts)) > width:
        texts.pop()
    return "  ".join(texts)[:width]


def error_text(info):
    """Why it failed, and behind that the code to look up, where the daemon tells one."""
    code = f" ({clean(info['error-code'])})" if "error-code" in info else ""
    return clean(info["error-desc"]) + code


def end_line(info):
    """How it ended, in one line."""
    texts = [f"total time {show_time(info.get('total-time', 0))}"]
    if "downtime" in info:
        texts.append(f"downtime {show_time(info['downtime'])}")
    if "ram" in info:
        size = info["ram"]["transferred"] + info.get("disk", {}).get("transferred", 0)
        texts.append(f"{show_size(size)} {verb(info)}")
    if "error-desc" in info:
        texts.append(error_text(info))
    return f"{phase(info)}: {', '.join(texts)}"


# ---- where it is shown ----

def terminal_columns(stream):
    try:
        return os.get_terminal_size(stream.fileno()).columns or COLUMNS
    except OSError:
        return COLUMNS


class Progress:
    """The base of all: a stream whose reader may have gone, which stops no migration."""

    every = LINES_EVERY  # seconds between two looks at the migration
    interactive = False  # whether a question can be asked there

    def __init__(self, out, stream):
        self.out = out
        self.stream = stream

    def write(self, text):
        with contextlib.suppress(OSError):
            self.stream.write(text)
            self.stream.flush()

    def show(self, info):
        raise NotImplementedError

    def clear(self):
        """Makes room for other lines."""

    def end(self, info):
        self.clear()
        with contextlib.suppress(OSError):
            self.out.say(end_line(info))


class Bar(Progress):
    """One line, redrawn in place."""

    every = REDRAW_EVERY
    interactive = True

    def __init__(self, out, stream):
        super().__init__(out, stream)
        self.shown = 0

    def show(self, info):
        line = progress_line(info, terminal_columns(self.stream) - 1)
        self.write(f"\r{line.ljust(self.shown)}")
        self.shown = len(line)

    def clear(self):
        if self.shown:
            self.write(f"\r{' ' * self.shown}\r")
        self.shown = 0


class Lines(Progress):
    """A line for each status and round, and each second."""

    def __init__(self, out, stream):
        super().__init__(out, stream)
        self.last = None
        self.next_time = 0

    def show(self, info):
        now = time.monotonic()
        current = (phase(info), info.get("ram", {}).get("dirty-sync-count"))
        if current == self.last and now < self.next_time:
            return
        self.last, self.next_time = current, now + LINES_EVERY
        self.write("  ".join(fields(info)) + "\n")


class Records(Progress):
    """The daemon's records, one a line; the last is the end's."""

    def show(self, info):
        self.write(json.dumps(info) + "\n")

    def end(self, info):
        self.show(info)


def progress_for(out):
    """Redrawn on a terminal, stderr's first: what is written to stdout may be wanted elsewhere."""
    if out.json:
        return Records(out, out.stdout)
    terminal = next((s for s in (out.stderr, out.stdout) if s.isatty()), None)
    return Bar(out, terminal) if terminal else Lines(out, out.stdout)
