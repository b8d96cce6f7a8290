# SPDX-License-Identifier: BSD-3-Clause
"""The command that prints completions, or the names that they offer."""

from .completion_bash import bash
from .completion_fish import fish
from .completion_zsh import zsh
from .failure import Exit
from .settings import NAMES
from .text import clean

SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


def run_completion(session):
    what = session.values["WHAT"]
    if what in SHELLS:
        session.out.stdout.write(SHELLS[what]())
    else:
        session.out.say(*map(clean, NAMES[what](session.client())))
    return Exit.DONE
