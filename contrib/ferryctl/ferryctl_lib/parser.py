# SPDX-License-Identifier: BSD-3-Clause
"""The command line's parser and --help, both made from the table.

There are two parsers, one for what comes before the command and one for what comes behind it, so
that options and arguments may be mixed.
"""

import argparse
import os
import textwrap

from . import VERSION
from .failure import MEANINGS, Exit, Failure
from .table import COMMANDS, DEFAULT_CONTROL, ENVIRONMENT, GLOBAL_OPTIONS
from .units import parse_count, parse_size, parse_time

WIDTH = 90
DEFAULT_TIMEOUT = 30000  # ms


def capability(text):
    """NAME, NAME=on or NAME=off: the name and whether it is to be on."""
    name, equals, state = text.partition("=")
    states = {"": not equals, "on": True, "off": False}
    if not name or state not in states or (equals and not state):
        raise ValueError(f"'{text}' is no capability: say NAME, NAME=on or NAME=off")
    return name, states[state]


def assignment(text):
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"'{text}' sets nothing: say NAME=VALUE")
    return name, value


READERS = {"time": parse_time, "size": parse_size, "count": parse_count,
           "capability": capability, "parameter": assignment}


def reader(kind):
    """The kind's reader, with its own words as the error."""
    read = READERS.get(kind, str)

    def convert(text):
        try:
            return read(text)
        except ValueError as fault:
            raise argparse.ArgumentTypeError(str(fault)) from fault

    return convert


class Parser(argparse.ArgumentParser):
    """One line where the command line is wrong."""

    def __init__(self):
        super().__init__(prog="ferryctl", add_help=False, allow_abbrev=False)

    def error(self, message):
        raise Failure(f"{message} (see --help)", Exit.USAGE)


def destination(name):
    return name.lstrip("-")


def add_options(parser, options):
    for option in options:
        common = {"dest": destination(option.name), "default": argparse.SUPPRESS}
        if not option.value:
            parser.add_argument(option.name, action="store_true", **common)
        else:
            parser.add_argument(option.name, metavar=option.value, type=reader(option.kind),
                                action="append" if option.many else "store", **common)


def add_argument(parser, argument):
    parser.add_argument(argument.name, metavar=argument.name, type=reader(argument.kind),
                        nargs=argument.count or None, choices=argument.choices or None)


def command_parser(command):
    parser = Parser()
    add_options(parser, GLOBAL_OPTIONS + command.options)
    for argument in command.arguments:
        add_argument(parser, argument)
    return parser


def front_parser():
    parser = Parser()
    add_options(parser, GLOBAL_OPTIONS)
    parser.add_argument("command", metavar="COMMAND", nargs="?")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    return parser


# ---- help ----

def argument_text(argument):
    name = "|".join(argument.choices) or argument.name
    return {"": name, "?": f"[{name}]", "*": f"[{name}...]", "+": f"{name}..."}[argument.count]


def option_text(option):
    value = f" {option.value}" if option.value else ""
    return f"{option.name}{value}{'...' if option.many else ''}"


def synopsis(command):
    texts = [command.name, *map(argument_text, command.arguments),
             *(f"[{option_text(option)}]" for option in command.options)]
    return " ".join(texts)


def entries(pairs, indent="  "):
    """Names, each with its text beside or below it."""
    for name, text in pairs:
        lines = textwrap.wrap(text, WIDTH - 26)
        if len(name) > 20:
            yield f"{indent}{name}"
            name = ""
        yield f"{indent}{name:<20}  {lines[0]}"
        yield from (f"{indent}{'':<20}  {line}" for line in lines[1:])


def option_entries(options):
    return entries((option_text(option), option.doc) for option in options)


def wrapped(text):
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="      ",
                         break_on_hyphens=False)


def command_lines(command):
    yield from wrapped(synopsis(command))
    yield from textwrap.wrap(command.doc, WIDTH, initial_indent="      ",
                             subsequent_indent="      ")


def help_text():
    lines = ["Usage: ferryctl [OPTION]... COMMAND [ARGUMENT]...",
             "Drives ferryd, which live-migrates running KVM guests.", "", "Commands:"]
    for command in COMMANDS:
        lines += command_lines(command)
    lines += ["", "Options, before or behind the command:", *option_entries(GLOBAL_OPTIONS),
              "", "Exit status:",
              *entries((f"{int(status)}", text) for status, text in MEANINGS.items()),
              "", "Environment:", *entries(ENVIRONMENT)]
    return "\n".join(lines)


def command_help(command):
    lines = [f"Usage: ferryctl {synopsis(command)}", *textwrap.wrap(command.doc, WIDTH), "",
             *entries((argument.name, argument.doc) for argument in command.arguments),
             *option_entries(command.options + GLOBAL_OPTIONS)]
    return "\n".join(lines)


# ---- parsing ----

def find_command(name):
    command = next((command for command in COMMANDS if command.name == name), None)
    if command is None:
        what = f"There is no command '{name}'" if name else "A command is missing"
        raise Failure(f"{what} (see --help)", Exit.USAGE)
    return command


def shown_instead(options, command):
    """What --help or --version ask for; None: neither."""
    if getattr(options, "version", False):
        return f"ferryctl {VERSION}"
    if getattr(options, "help", False):
        return command_help(command) if command else help_text()
    return None


def defaults(command):
    """What an option is that was not given."""
    values = {destination(option.name): None if option.value else False
              for option in GLOBAL_OPTIONS + command.options}
    values["control"] = os.environ.get("FERRY_CONTROL") or DEFAULT_CONTROL
    values["timeout"] = DEFAULT_TIMEOUT
    return values


def parse(argv):
    """The command, and the values of its options and arguments by name; or None, and the text that
    --help or --version ask for."""
    front = front_parser().parse_args(argv)
    text = shown_instead(front, front.command and find_command(front.command))
    if text:
        return None, text
    command = find_command(front.command)
    # What is asked for with --help needs no arguments.
    if "--help" in front.rest or "--version" in front.rest:
        asked = argparse.Namespace(help="--help" in front.rest, version="--version" in front.rest)
        return None, shown_instead(asked, command)
    options = command_parser(command).parse_intermixed_args(front.rest)
    return command, {**defaults(command), **vars(front), **vars(options)}
