# SPDX-License-Identifier: BSD-3-Clause
"""Text for people: nothing that a daemon or a peer says may drive the terminal."""


def clean(text):
    """The text with whatever is not printable escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii")
                   for c in str(text))


def columns(rows, numbers=()):
    """Rows of texts as aligned lines; columns whose index is in `numbers` end at the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]

    def line(row):
        cells = (cell.rjust(width) if at in numbers else cell.ljust(width)
                 for at, (cell, width) in enumerate(zip(row, widths)))
        return "  ".join(cells).rstrip()

    return [line(row) for row in rows]
