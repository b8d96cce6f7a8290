# SPDX-License-Identifier: BSD-3-Clause
"""What the completions of all shells have in common: the table, and what is asked of the daemon.

Names of guests, capabilities, parameters and commands are asked of the daemon when they are needed,
by `ferryctl completion guests` and so on.
"""

import textwrap

from .table import COMMANDS, GLOBAL_OPTIONS

# Kinds whose values the daemon knows: what is asked for, and what ends a value.
ASKED = {"guest": ("guests", ""), "capability": ("capabilities", ""),
         "parameter": ("parameters", "="), "command": ("commands", "")}
URIS = ("tcp:", "unix:", "rdma:", "fd:", "exec:")


def options_of(command):
    return GLOBAL_OPTIONS + command.options


def with_value():
    """The options that take one, each once."""
    return {option.name: option for command in COMMANDS for option in options_of(command)
            if option.value}.values()


def positions(command):
    """(position from 1, argument); 3+ is the third or any behind it."""
    for at, argument in enumerate(command.arguments, 1):
        yield (f"{at}+" if argument.count in ("*", "+") else str(at)), argument


def names_of(options):
    return " ".join(option.name for option in options)


def cases(lines):
    return textwrap.indent("\n".join(lines), "\t\t")


def filled(template, parts):
    for name, text in parts.items():
        template = template.replace(f"@{name}@", text)
    return template
