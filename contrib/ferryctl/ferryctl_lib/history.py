# SPDX-License-Identifier: BSD-3-Clause
"""What query-migrate-history tells, whichever way it is drawn."""

from .units import show_size, show_time

PAGE = 4096  # bytes of what the history calls a page
# What a stop is spent on, in the order of time.
PARTS = ("stop", "ram", "state", "load", "start")


def dirtied(entry):
    """Bytes that the guest wrote during a round."""
    return entry["dirtied"] * PAGE


# What is drawn of a round: its name, and how many bytes.
SIZES = (
    ("sent", lambda entry: entry["transferred"]),
    ("dirtied", dirtied),
    ("remaining", lambda entry: entry["remaining"]),
)


def largest_size(rounds):
    """What the scale of all that is drawn ends with."""
    return max((size(entry) for _, size in SIZES for entry in rounds), default=0)


def round_name(entry):
    """An entry may stand for several rounds of a long migration."""
    last = entry["round"] + entry["count"] - 1
    return str(entry["round"]) if entry["count"] < 2 else f"{entry['round']}-{last}"


def stop_text(stop):
    return (f"stopped at {show_time(stop['start'])}, for {show_time(stop['downtime'])}, "
            f"{show_size(stop['transferred'])} sent")
