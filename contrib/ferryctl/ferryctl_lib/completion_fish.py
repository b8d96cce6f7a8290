# SPDX-License-Identifier: BSD-3-Clause
"""Completions for fish."""

from .completing import ASKED, URIS, filled, names_of, positions, with_value
from .table import COMMANDS, GLOBAL_OPTIONS

FISH = r'''# SPDX-License-Identifier: BSD-3-Clause
# Completions of ferryctl for fish.

# The words before the cursor that are no options, and the daemon that is asked for names.
function __ferryctl_words
    set -l awaited
    for word in (commandline -opc)[2..]
        if test -n "$awaited"
            test "$awaited" = --control; and set -g __ferryctl_control --control $word
            set awaited
        else if contains -- $word @VALUES@
            set awaited $word
        else if not string match -q -- '--*' $word
            echo -- $word
        end
    end
end

# Whether the next word is a command's argument at that position; 3+ is the third or any behind it.
function __ferryctl_at
    set -l words (__ferryctl_words)
    test "$words[1]" = $argv[1]; or return
    set -l wanted (string replace + '' -- $argv[2])
    if test $wanted = $argv[2]
        test (count $words) -eq $wanted
    else
        test (count $words) -ge $wanted
    end
end

function __ferryctl_command
    set -l words (__ferryctl_words)
    test "$words[1]" = "$argv[1]"
end

function __ferryctl_names
    set -g __ferryctl_control
    __ferryctl_words >/dev/null
    for name in (ferryctl $__ferryctl_control --timeout 5s completion $argv[1] 2>/dev/null)
        echo -- $name"$argv[2]"
    end
end

complete -c ferryctl -f
@LINES@
'''


def fish_text(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def fish_offer(kind, choices=()):
    """What follows -c ferryctl for a value of a kind."""
    if choices:
        return f"-a {fish_text(' '.join(choices))}"
    if kind in ASKED:
        return f"-a '(__ferryctl_names {' '.join(filter(None, ASKED[kind]))})'"
    return {"file": "-F", "uri": f"-a {fish_text(' '.join(URIS))}"}.get(kind, "")


def fish_option(option, condition):
    value = f" -x {fish_offer(option.kind)}" if option.value else ""
    if option.kind == "file":
        value = " -r -F"
    return (f"complete -c ferryctl{condition} -l {option.name.lstrip('-')}{value.rstrip()} "
            f"-d {fish_text(option.doc)}")


def fish_command(command):
    yield (f"complete -c ferryctl -n '__ferryctl_command \"\"' -a {command.name} "
           f"-d {fish_text(command.doc)}")
    for option in command.options:
        yield fish_option(option, f" -n '__ferryctl_command {command.name}'")
    for position, argument in positions(command):
        offer = fish_offer(argument.kind, argument.choices)
        if offer:
            yield f"complete -c ferryctl -n '__ferryctl_at {command.name} {position}' {offer}"


def fish():
    lines = [fish_option(option, "") for option in GLOBAL_OPTIONS]
    lines += [line for command in COMMANDS for line in fish_command(command)]
    return filled(FISH, {"VALUES": names_of(with_value()), "LINES": "\n".join(lines)})
