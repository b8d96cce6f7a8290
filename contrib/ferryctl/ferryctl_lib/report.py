# SPDX-License-Identifier: BSD-3-Clause
"""Draws a migration out of query-migrate-history, for a terminal or into an SVG file."""

import locale

from .failure import Exit, Failure
from .follow import call, named
from .history import PARTS, SIZES, largest_size, round_name, stop_text
from .progress import terminal_columns
from .svg import draw
from .text import clean, columns
from .units import show_size, show_time

# Shades of a bar's last cell, from empty to full.
BLOCKS = " ▏▎▍▌▋▊▉█"
PLAIN = " #"
WIDTH_MIN = 40


def bar(value, largest, width, shades):
    """Text of a length that stands for a value; what is not nothing is seen."""
    steps = len(shades) - 1
    cells = max(0, min(1, value / largest if largest else 0)) * width * steps
    cells = max(1, round(cells)) if value > 0 else 0
    full, rest = divmod(cells, steps)
    return shades[-1] * full + (shades[rest] if rest else "")


def shades_for_locale():
    """Blocks where the locale has them; what Python writes in is another matter."""
    try:
        # getpreferredencoding says what Python writes in; getencoding is new in Python 3.11.
        BLOCKS.encode(locale.nl_langinfo(locale.CODESET))
    except UnicodeEncodeError:
        return PLAIN
    return BLOCKS


def title(name, history):
    count = sum(entry["count"] for entry in history["rounds"])
    parts = [history.get("direction", "migration"), history.get("status", "unknown"),
             f"{count} round{'' if count == 1 else 's'}"]
    return f"{clean(name)}: {clean(', '.join(parts))}"


def round_lines(rounds, width, shades):
    """A row for each round, time going down; all bars are of one scale."""
    largest = largest_size(rounds)
    heads = ["ROUND", "START", "TOOK"]
    rows = [[round_name(entry), show_time(entry["start"]),
             show_time(entry["end"] - entry["start"])] for entry in rounds]
    if any(entry["throttle"] for entry in rounds):
        heads.append("THROTTLED")
        rows = [[*row, f"{entry['throttle']} %"] for row, entry in zip(rows, rounds)]
    fixed = columns([heads, *rows], numbers=range(len(heads)))
    # For each bar its number, and what is left of the width.
    cell = max(4, (width - max(map(len, fixed)) - len(SIZES) * (2 + 10 + 1)) // len(SIZES))
    yield fixed[0] + "".join(f"  {name.upper():<{cell + 11}}" for name, _ in SIZES).rstrip()
    for text, entry in zip(fixed[1:], rounds):
        bars = (f"  {show_size(size(entry)):>10} {bar(size(entry), largest, cell, shades):<{cell}}"
                for _, size in SIZES)
        yield (text + "".join(bars)).rstrip()


def stop_lines(stop, width, shades):
    """The stop and its parts, of a scale of their own: they are far shorter than rounds."""
    yield stop_text(stop)
    largest = max(stop["parts"][part] for part in PARTS)
    for part in PARTS:
        value = stop["parts"][part]
        text = f"  {part:<5}  {show_time(value):>9}  "
        yield (text + bar(value, largest, width - len(text), shades)).rstrip()


def report_lines(name, history, width, shades):
    yield title(name, history)
    if history["rounds"]:
        yield from round_lines(history["rounds"], width, shades)
    if "stop" in history:
        yield from stop_lines(history["stop"], width, shades)


def write_svg(path, name, history):
    try:
        with open(path, "wb") as file:
            file.write(draw(title(name, history), history))
    except OSError as fault:
        raise Failure(f"{clean(path)}: {fault.strerror}") from fault


def run_report(session):
    guest = session.guest()
    history = session.client().execute("query-migrate-history", named(guest))
    if "status" not in history:
        raise Failure(f"There was no migration of {call(guest)} that could be drawn")
    if history.get("direction") == "incoming":
        raise Failure(f"What there is to draw of {call(guest)} is known at its source")
    name = guest or "-"
    width = max(WIDTH_MIN, session.values["width"] or terminal_columns(session.out.stdout))
    if session.values["svg"]:
        write_svg(session.values["svg"], name, history)
        session.out.answer(history)
    else:
        session.out.answer(history, *report_lines(name, history, width,
                                                  shades_for_locale()))
    return Exit.DONE
