# SPDX-License-Identifier: BSD-3-Clause
"""Completions for bash, zsh and fish, made from the table.

Names of guests, capabilities, parameters and commands are asked of the daemon when they are needed,
by `ferryctl completion guests` and so on.
"""

import textwrap

from .failure import Exit
from .settings import NAMES
from .table import COMMANDS, GLOBAL_OPTIONS
from .text import clean

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
    """(position from 1, argument); "more" is any position from the last on."""
    for at, argument in enumerate(command.arguments, 1):
        yield (f"{at}+" if argument.count in ("*", "+") else str(at)), argument


# ---- bash ----

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


def names_of(options):
    return " ".join(option.name for option in options)


def cases(lines):
    return textwrap.indent("\n".join(lines), "\t\t")


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


def filled(template, parts):
    for name, text in parts.items():
        template = template.replace(f"@{name}@", text)
    return template


# ---- zsh ----

ZSH = r'''#compdef ferryctl
# SPDX-License-Identifier: BSD-3-Clause
# Completions of ferryctl for zsh.

_ferryctl_names()
{
	local -a names daemon
	local control=$_ferryctl_control
	local at=${words[(I)--control]}
	((at)) && control=${(Q)words[at + 1]}
	[[ -n $control ]] && daemon=(--control ${(q)control})
	names=(${(f)"$(_call_program names ferryctl $daemon --timeout 5s completion $1)"})
	compadd $2 $3 -a names
}

_ferryctl_arguments()
{
	case $1 in
@ARGUMENTS@
	esac
}

_ferryctl()
{
	local curcontext=$curcontext state line _ferryctl_control
	typeset -A opt_args
	local -a commands=(
@COMMANDS@
	)
	_arguments -C -A '-*' \
@GLOBAL@
		'1:command:->command' \
		'*:: :->arguments'
	_ferryctl_control=${(Q)opt_args[--control]}
	case $state in
		command) _describe command commands ;;
		arguments) _ferryctl_arguments $line[1] ;;
	esac
}

_ferryctl "$@"
'''


def zsh_text(text):
    """Inside of single quotes, where [ ] and : mean something to _arguments."""
    for plain, escaped in (("\\", "\\\\"), ("[", "\\["), ("]", "\\]"), (":", "\\:"),
                           ("'", "'\\''")):
        text = text.replace(plain, escaped)
    return text


def zsh_action(kind, choices=()):
    """A blank in front keeps _arguments from adding words of its own."""
    if choices:
        return f"({' '.join(choices)})"
    if kind in ASKED:
        what, end = ASKED[kind]
        return f" _ferryctl_names {what}" + (f" -S {end}" if end else "")
    return {"file": "_files", "uri": f" compadd -S \"\" {' '.join(URIS)}"}.get(kind, " ")


def zsh_option(option):
    star = "*" if option.many else ""
    value = f":{zsh_text(option.value)}:{zsh_action(option.kind)}" if option.value else ""
    return f"'{star}{option.name}[{zsh_text(option.doc)}]{value}' \\"


def zsh_argument(position, argument):
    where = "*" if position.endswith("+") else position
    maybe = ":" if argument.count == "?" else ""
    action = zsh_action(argument.kind, argument.choices)
    return f"'{where}:{maybe}{zsh_text(argument.name)}:{action}' \\"


def zsh_case(command):
    specs = [*map(zsh_option, options_of(command)),
             *(zsh_argument(position, argument) for position, argument in positions(command))]
    specs[-1] = specs[-1].removesuffix(" \\") + " ;;"
    return "\n".join([f"{command.name})", "\t_arguments \\", *(f"\t\t{spec}" for spec in specs)])


def zsh():
    parts = {
        "ARGUMENTS": cases(zsh_case(command) for command in COMMANDS),
        "COMMANDS": cases(f"'{c.name}:{zsh_text(c.doc)}'" for c in COMMANDS),
        "GLOBAL": cases(map(zsh_option, GLOBAL_OPTIONS)),
    }
    return filled(ZSH, parts)


# ---- fish ----

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


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


def run_completion(session):
    what = session.values["WHAT"]
    if what in SHELLS:
        session.out.stdout.write(SHELLS[what]())
    else:
        session.out.say(*map(clean, NAMES[what](session.client())))
    return Exit.DONE
