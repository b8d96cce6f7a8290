# SPDX-License-Identifier: BSD-3-Clause
"""Completions for zsh."""

from .completing import ASKED, URIS, cases, filled, options_of, positions
from .table import COMMANDS, GLOBAL_OPTIONS

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
