# SPDX-License-Identifier: BSD-3-Clause
"""Completions for bash."""

from .completing import (ASKED, URIS, cases, filled, names_of, options_of, positions,
                         with_value)
from .table import COMMANDS, GLOBAL_OPTIONS

BASH = r'''# SPDX-License-Identifier: BSD-3-Clause
# Completions of ferryctl for bash.

_ferryctl_options()
{
	case $1 in
@OPTIONS@
		*) echo "@GLOBAL@" ;;
	esac
}

# The kind of an option's value; nothing: it takes none.
_ferryctl_value()
{
	case $1 in
@VALUES@
	esac
}

# The kind of a command's argument, by its position.
_ferryctl_argument()
{
	case $1:$2 in
@ARGUMENTS@
	esac
}

_ferryctl_names()
{
	local daemon=()
	[[ -n $_ferryctl_control ]] && daemon=(--control "$_ferryctl_control")
	ferryctl "${daemon[@]}" --timeout 5s completion "$1" 2>/dev/null
}

# Offers the lines of its input that begin like the word, quoted: a daemon may have said them.
_ferryctl_offer_lines()
{
	local line
	while IFS= read -r line; do
		[[ $line == "$1"* ]] && printf -v line %q "$line" && COMPREPLY+=("$line$2")
	done
}

# The values of a kind that begin like the word: names, or files.
_ferryctl_offer()
{
	local IFS=$'\n' kind=$1 word=$2
	case $kind in
		file) compopt -o filenames; COMPREPLY=($(compgen -f -- "$word")) ;;
@KINDS@
	esac
}

# bash splits words at = and :, which belong to names, values and URIs.
_ferryctl_words()
{
	local i word glue=
	_ferryctl_line=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		if [[ $word == [=:]* || -n $glue ]] && ((${#_ferryctl_line[@]})); then
			_ferryctl_line[-1]+=$word
		else
			_ferryctl_line+=("$word")
		fi
		[[ $word == *[=:] ]] && glue=yes || glue=
	done
}

_ferryctl()
{
	local word=${COMP_WORDS[COMP_CWORD]} command= position=0 awaited= item
	local _ferryctl_line=() _ferryctl_control=
	COMPREPLY=()
	_ferryctl_words
	for item in "${_ferryctl_line[@]}"; do
		if [[ -n $awaited ]]; then
			[[ $awaited == --control ]] && _ferryctl_control=$item
			awaited=
		elif [[ $item == --*=* ]]; then
			[[ ${item%%=*} == --control ]] && _ferryctl_control=${item#*=}
		elif [[ $item == --* ]]; then
			[[ -n $(_ferryctl_value "$item") ]] && awaited=$item
		elif [[ -z $command ]]; then
			command=$item
		else
			position=$((position + 1))
		fi
	done
	if [[ $word == [=:] || ${COMP_WORDS[COMP_CWORD - 1]} == [=:] ]]; then
		return
	elif [[ -n $awaited ]]; then
		_ferryctl_offer "$(_ferryctl_value "$awaited")" "$word"
	elif [[ $word == -?* ]]; then
		COMPREPLY=($(compgen -W "$(_ferryctl_options "$command")" -- "$word"))
	elif [[ -z $command ]]; then
		COMPREPLY=($(compgen -W "@COMMANDS@" -- "$word"))
	else
		_ferryctl_offer "$(_ferryctl_argument "$command" $((position + 1)))" "$word"
	fi
}

complete -F _ferryctl ferryctl
'''


def shell_kind(argument):
    """A name of a kind; each set of choices has one of its own."""
    return "choice-" + "-".join(argument.choices) if argument.choices else argument.kind


def all_kinds():
    return {shell_kind(argument): argument for command in COMMANDS
            for argument in command.arguments if argument.choices}


def bash_kind_lines():
    for kind, (what, end) in ASKED.items():
        before = "compopt -o nospace; " if end else ""
        yield (f'{kind}) {before}_ferryctl_offer_lines "$word" "{end}" '
               f'< <(_ferryctl_names {what}) ;;')
    yield ("uri) compopt -o nospace; COMPREPLY=($(compgen -W $'" + r"\n".join(URIS)
           + "' -- \"$word\")) ;;")
    for kind, argument in all_kinds().items():
        choices = r"\n".join(argument.choices)
        yield f"{kind}) COMPREPLY=($(compgen -W $'{choices}' -- \"$word\")) ;;"


def bash_patterns(command, position):
    """A position from the third on reads [3-9]*."""
    at = position.removesuffix("+")
    return f"{command}:[{at}-9]*" if position.endswith("+") else f"{command}:{at}"


def bash():
    parts = {
        "OPTIONS": cases(f'{c.name}) echo "{names_of(options_of(c))}" ;;' for c in COMMANDS),
        "GLOBAL": names_of(GLOBAL_OPTIONS),
        "VALUES": cases(f"{o.name}) echo {o.kind} ;;" for o in with_value()),
        "ARGUMENTS": cases(f"{bash_patterns(c.name, position)}) echo {shell_kind(argument)} ;;"
                           for c in COMMANDS for position, argument in positions(c)),
        "KINDS": cases(bash_kind_lines()),
        "COMMANDS": " ".join(c.name for c in COMMANDS),
    }
    return filled(BASH, parts)
