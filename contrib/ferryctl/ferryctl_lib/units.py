# SPDX-License-Identifier: BSD-3-Clause
"""Sizes and times as people write them: 1.5G, 300ms; bytes and milliseconds to the daemon."""

import re

SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
TIME_UNITS = {"ms": 1, "s": 1000, "m": 60 * 1000, "h": 60 * 60 * 1000}
LARGEST = (1 << 63) - 1  # what the daemon's integers hold

SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)", re.ASCII)
COUNT = re.compile(r"\d+", re.ASCII)

# How the values of parameters are written; those not named here are plain numbers.
PARAMETER_KINDS = {
    "max-bandwidth": "rate",
    "avail-switchover-bandwidth": "rate",
    "xbzrle-cache-size": "size",
    "rdma-chunk-size": "size",
    "downtime-limit": "time",
    "guest-timeout": "time",
    "peer-timeout": "time",
    "announce-initial": "time",
    "announce-max": "time",
    "announce-step": "time",
    "throttle-trigger-threshold": "percent",
    "cpu-throttle-initial": "percent",
    "cpu-throttle-increment": "percent",
    "max-cpu-throttle": "percent",
}


def _whole(number, unit, text):
    value = int(float(number) * unit) if "." in number else int(number[:30]) * unit
    if value > LARGEST:
        raise ValueError(f"'{text}' is more than the largest number, {LARGEST}")
    return value


def parse_size(text):
    """Bytes; units are powers of 1024."""
    found = SIZE.fullmatch(text)
    if not found:
        raise ValueError(f"'{text}' is no size: say it as 4096, 512M or 1.5G")
    return _whole(found[1], SIZE_UNITS[found[2].upper()], text)


def parse_time(text):
    """Milliseconds.  A bare number could be taken for seconds or milliseconds: only 0 may be."""
    found = TIME.fullmatch("0ms" if text == "0" else text)
    if not found:
        raise ValueError(f"'{text}' is no time: say it as 300ms, 2s or 1m")
    return _whole(found[1], TIME_UNITS[found[2]], text)


def parse_count(text):
    if not COUNT.fullmatch(text):
        raise ValueError(f"'{text}' is no whole number")
    return _whole(text, 1, text)


def parse_percent(text):
    return parse_count(text.removesuffix("%"))


def show_size(size):
    """Three or four digits and a unit."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def show_rate(rate):
    return f"{show_size(rate)}/s"


def show_time(milliseconds):
    if milliseconds < 1000:
        return f"{milliseconds:.3g} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {seconds:02} s"
    return f"{minutes // 60} h {minutes % 60:02} m"


# Per kind: how it is read, how it is shown.
KINDS = {
    "rate": (parse_size, lambda value: show_rate(value) if value else "0"),
    "size": (parse_size, show_size),
    "time": (parse_time, show_time),
    "percent": (parse_percent, lambda value: f"{value} %"),
    "count": (parse_count, str),
}


def parse_parameter(name, text):
    """The value of a migration parameter, as the daemon takes it."""
    return KINDS[PARAMETER_KINDS.get(name, "count")][0](text)


def show_parameter(name, value):
    """As people write it; what is of no kind known here, as it came."""
    show = KINDS[PARAMETER_KINDS.get(name, "count")][1]
    return show(value) if isinstance(value, int) else str(value)
