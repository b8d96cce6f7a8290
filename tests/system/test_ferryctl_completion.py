# SPDX-License-Identifier: BSD-3-Clause
"""--help and the shells' completions: all that the table has, and what comes of it."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
from ctl import Ctl
from scenes import path

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "contrib" / "ferryctl"))
# pylint: disable=wrong-import-position
from ferryctl_lib.main import RUN  # noqa: E402
from ferryctl_lib.table import COMMANDS, GLOBAL_OPTIONS  # noqa: E402

TAB = "\t"
FILES = {"bash": "ferryctl.bash", "zsh": "_ferryctl", "fish": "ferryctl.fish"}
NAMES = [command.name for command in COMMANDS]


@pytest.fixture
def ctl(lab):
    return Ctl(lab)


def options_of(command):
    return {option.name for option in GLOBAL_OPTIONS + command.options}


def file_of(lab, shell):
    return lab.build / "completions" / FILES[shell]


# ---- all of the table ----

@path("ferryctl/help/all-of-the-table")
def test_help(lab, ctl):
    assert list(RUN) == NAMES
    text = ctl.good(lab.folder, "--help")
    for command in COMMANDS:
        assert re.search(rf"^  {command.name}\b", text, re.M), command.name
        own = ctl.good(lab.folder, command.name, "--help")
        assert own.startswith(f"Usage: ferryctl {command.name}")
        for option in options_of(command):
            assert re.search(rf"^  {option}\b", own, re.M), (command.name, option)
        for option in command.options:
            assert f"[{option.name}" in text, (command.name, option)
    for option in GLOBAL_OPTIONS:
        assert re.search(rf"^  {option.name}\b", text, re.M), option.name
    assert re.findall(r"^  (\d) ", text, re.M) == list("0123456")


def path_with(folder):
    """A PATH in which ferryctl is found there first."""
    return f"{folder}:{os.environ['PATH']}"


def bash_offers(lab, lines):
    """What bash offers for the last word of each line, all in one bash."""
    script = [f"source {file_of(lab, 'bash')}", "compopt() { :; }"]
    for line in lines:
        words = " ".join(f"'{word}'" for word in line.split(" "))
        script.append(f"COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _ferryctl; "
                      'echo "${COMPREPLY[*]}"')
    done = subprocess.run(["bash", "--norc", "-c", "\n".join(script)], capture_output=True,
                          text=True, check=True)
    assert done.stderr == ""
    return [set(answer.split()) for answer in done.stdout.splitlines()]


def fish_offers(lab, lines):
    script = [f"source {file_of(lab, 'fish')}"]
    script += [f"complete -C '{line}'; echo ---" for line in lines]
    done = subprocess.run(["fish", "--no-config", "-c", "\n".join(script)], capture_output=True,
                          text=True, check=True, env={**os.environ, "PATH": path_with(lab.build)})
    assert done.stderr == ""
    return [{line.split("\t")[0] for line in answer.splitlines()}
            for answer in done.stdout.split("---\n")[:-1]]


def zsh_offers(lab, lines):
    """What the functions that zsh's own call are given; zsh completes on a terminal only."""
    text = file_of(lab, "zsh").read_text(encoding="utf-8")
    answers = []
    for line in lines:
        _, *words, _ = line.split(" ")
        if words:
            case = re.search(rf"^\t\t{words[0]}\)$(.*?);;$", text, re.M | re.S)[1]
            answers.append(set(re.findall(r"^\t+'\*?(--[a-z]+)\[", case, re.M)))
        else:
            answers.append(set(re.findall(r"^\t\t'([a-z]+):", text, re.M)))
    return answers


OFFERS = {"bash": bash_offers, "fish": fish_offers, "zsh": zsh_offers}


@path("ferryctl/completion/{shell}/all-of-the-table")
@pytest.mark.parametrize("shell", FILES)
def test_table(lab, shell):
    subprocess.run([shell, "-n", file_of(lab, shell)], check=True)
    lines = ["ferryctl ", *(f"ferryctl {name} --" for name in NAMES)]
    commands, *options = OFFERS[shell](lab, lines)
    assert commands == set(NAMES)
    for command, offered in zip(COMMANDS, options, strict=True):
        assert offered == options_of(command), command.name


@path("ferryctl/completion/same-as-made")
def test_made(lab, ctl):
    """What make has left is what the table says now."""
    for shell in FILES:
        assert file_of(lab, shell).read_text(encoding="utf-8") == ctl.good(
            lab.folder, "completion", shell)


# ---- in the shells themselves ----

SETUP = {
    "bash": (["/usr/bin/bash", "--norc", "-i"],
             "PS1='read''y> '; bind 'set bell-style none'; source {file}\n"),
    "zsh": (["/usr/bin/zsh", "-f", "-i"],
            "PS1='read''y> '; unsetopt beep; fpath=({folder} $fpath); autoload -U compinit; "
            "compinit -u -D\n"),
    "fish": (["/usr/bin/fish", "--no-config", "-i"],
             "function fish_prompt; echo -n 'read''y> '; end; source {file}\n"),
}

# What is typed before a TAB, and the words that ferryctl is then run with; END is typed behind it.
TYPED = (
    ("mig", "<migrate> <END>"),
    ("migrate --wai", "<migrate> <--wait> <END>"),
    ("status {start}", "<status> <{guest}> <END>"),
    ("migrate {guest} tc", "<migrate> <{guest}> <tcp:END>"),
    ("migrate --cap xbz", "<migrate> <--cap> <xbzrle> <END>"),
    ("set {guest} max-b", "<set> <{guest}> <max-bandwidth=END>"),
    ("caps {guest} veri", "<caps> <{guest}> <verify> <END>"),
    ("resolve {guest} des", "<resolve> <{guest}> <destination> <END>"),
    ("save {guest} {folder}/sav", "<save> <{guest}> <{folder}/saved> <END>"),
    ("--json --timeout 3s completion zs", "<--json> <--timeout> <3s> <completion> <zsh> <END>"),
)
NAME = "a-guest-of-some-name"
STAND_IN = """#!/bin/sh
case "$*" in *"--timeout 5s completion "*) exec {program} "$@" ;; esac
printf ' <%s>' "$@"
echo
"""


def stand_in(lab):
    """A ferryctl that shows what it is run with, and gives completions the names they ask for."""
    folder = lab.folder / "bin"
    folder.mkdir()
    script = folder / "ferryctl"
    script.write_text(STAND_IN.format(program=lab.build / "ferryctl"), encoding="utf-8")
    script.chmod(0o755)
    return folder


def check_typed(scene, ctl, shell, host, lines):
    """Types lines into a shell whose FERRY_CONTROL is that of a host, or a path."""
    scene.a.scripted(NAME)
    (scene.lab.folder / "saved").touch()
    argv, setup = SETUP[shell]
    file = file_of(scene.lab, shell)
    running = ctl.terminal_of(argv, host, PATH=path_with(stand_in(scene.lab)))
    running.type(setup.format(file=file, folder=file.parent))
    at = running.await_text("ready> ")
    words = {"start": NAME[:5], "guest": NAME, "folder": scene.lab.folder,
             "control": scene.a.daemon.control}
    for typed, completed in lines:
        running.type(f"ferryctl {typed.format(**words)}{TAB}END\n")
        at = running.await_text(f" {completed.format(**words)}\r\n", at)


@path("ferryctl/completion/{shell}/typed")
@pytest.mark.parametrize("shell", SETUP)
def test_typed(scene, ctl, shell):
    check_typed(scene, ctl, shell, scene.a, TYPED)


@path("ferryctl/completion/{shell}/of-the-daemon-that-is-named")
@pytest.mark.parametrize("shell", SETUP)
def test_control(scene, ctl, shell):
    check_typed(scene, ctl, shell, scene.lab.folder / "none", (
        ("--control {control} detach {start}", "<--control> <{control}> <detach> <{guest}> <END>"),
        ("detach --control {control} {start}", "<detach> <--control> <{control}> <{guest}> <END>")))


@path("ferryctl/completion/bash/names-are-not-run")
def test_hostile_name(scene, ctl):
    """A guest's name is up to its VMM: nothing in it means anything to a shell."""
    name = "x$(touch${IFS}run)"
    scene.a.scripted(name)
    done = subprocess.run(["bash", "--norc", "-c",
                           f"source {file_of(scene.lab, 'bash')}; COMP_WORDS=(ferryctl status '') "
                           "COMP_CWORD=2; _ferryctl; eval echo \"${COMPREPLY[0]}\""],
                          capture_output=True, text=True, check=True,
                          cwd=scene.lab.folder,
                          env=ctl.env(scene.a, PATH=path_with(scene.lab.build)))
    assert done.stdout == f"{name}\n"
    assert not (scene.lab.folder / "run").exists()
