# SPDX-License-Identifier: BSD-3-Clause
"""How ferryctl ends, and the one exception that ends it early."""

import enum


class Exit(enum.IntEnum):
    """The exit statuses; scripts rely on them."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    FAILED = 3
    CANCELLED = 4
    UNDECIDED = 5
    LEFT = 6


MEANINGS = {
    Exit.DONE: "What was asked for is done.",
    Exit.REFUSED: "The daemon refused it or could not be reached, or a file could not be used.",
    Exit.USAGE: "The command line is wrong.",
    Exit.FAILED: "The migration failed; the guest is where it was.",
    Exit.CANCELLED: "The migration was cancelled; the guest is where it was.",
    Exit.UNDECIDED: "Where the guest runs is not known here: the handover is undecided, or the "
                    "daemon was lost.",
    Exit.LEFT: "The migration was left running, as the user chose.",
}


class Failure(Exception):
    """Ends ferryctl with one line on stderr and a status."""

    def __init__(self, text, status=Exit.REFUSED):
        super().__init__(text)
        self.status = status
