# SPDX-License-Identifier: BSD-3-Clause
"""Commands as they are typed: a JSON object, or a command's name and NAME=VALUE."""

import json
import re

from .failure import Exit, Failure
from .qmp import check_event
from .text import clean

ARGUMENT = re.compile(r"\s*([A-Za-z][\w-]*)=", re.ASCII)
WORD = re.compile(r"\S*")
SECONDS_PER_DAY = 86400


def _wrong(text):
    return Failure(text, Exit.USAGE)


def _json_value(text, at):
    """A JSON value that ends at a blank, and where; None: there is none."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError):
        return None
    return (value, end) if text[end:end + 1].strip() == "" else None


def _value(text, at, is_text):
    """The value that begins there, and where it ends."""
    found = None if is_text and text[at:at + 1] != '"' else _json_value(text, at)
    if found:
        return found
    word = WORD.match(text, at)
    return word[0], word.end()


def parse_arguments(schema, command, text):
    arguments, at = {}, 0
    text = text.rstrip()
    while at < len(text):
        name = ARGUMENT.match(text, at)
        if not name:
            raise _wrong(f"'{clean(text[at:].strip())}' is no argument: say NAME=VALUE")
        value, at = _value(text, name.end(), schema.is_text(command, name[1]))
        arguments[name[1]] = value
    return arguments


def parse_object(text):
    try:
        got = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise _wrong(f"This is no JSON: {clean(fault)}") from fault
    return got


def parse_request(schema, text):
    """The request in a line."""
    text = text.strip()
    if text.startswith("{"):
        return parse_object(text)
    command, *rest = text.split(None, 1)
    arguments = parse_arguments(schema, command, rest[0]) if rest else {}
    return {"execute": command, **({"arguments": arguments} if arguments else {})}


# ---- completion ----

def candidates(schema, before, text):
    """What the word `text`, that `before` stands in front of, may become."""
    words = before.split()
    if not words:
        return [f"{name} " for name in schema.commands() if name.startswith(text)]
    if before.endswith("="):
        name = words[-1].removesuffix("=")
        return [f"{value} " for value in schema.argument_values(words[0], name)
                if value.startswith(text)]
    given = {word.split("=", 1)[0] for word in words[1:]}
    return [f"{name}=" for name in schema.arguments(words[0])
            if name.startswith(text) and name not in given]


# ---- events ----

def event_line(event):
    """An event for people, with its time of the day (UTC)."""
    check_event(event)
    stamp = event.get("timestamp", {"seconds": 0, "microseconds": 0})
    minutes, seconds = divmod(stamp["seconds"] % SECONDS_PER_DAY, 60)
    data = " ".join(f"{name}={value if isinstance(value, str) else json.dumps(value)}"
                    for name, value in event.get("data", {}).items())
    text = (f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}."
            f"{stamp['microseconds'] // 1000 % 1000:03} {event['event']} {data}")
    return clean(text.rstrip())
