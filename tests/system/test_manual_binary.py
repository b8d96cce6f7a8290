# SPDX-License-Identifier: BSD-3-Clause
"""The manual pages as they are installed, held against the programs: what they name is there, takes
what they say it takes, and nothing is there that they do not name."""

import pathlib
import re
import subprocess

import pytest
from lab import DEADLINE, CommandError
from scenes import GUEST, path

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# A value that each of ferryd's options takes.
VALUES = {"MODE": "0600", "GROUP": "0", "USER": "0", "LEVEL": "debug", "PATH": "/nowhere/x",
          "DIR": "/nowhere", "ADDRESS": {"--allow-listen": "10.0.0.0/8", "--metrics": "unix:/x"}}


def page(build, name):
    """As text, in lines that are not wrapped."""
    where = build / "man" / name
    shown = subprocess.run(["man", "-l", where], capture_output=True, text=True, check=True,
                           timeout=DEADLINE, env={"PATH": "/usr/bin:/bin", "MANWIDTH": "1000",
                                                  "LC_ALL": "C.UTF-8"})
    return shown.stdout.replace("\N{HYPHEN}", "-").replace("\N{MINUS SIGN}", "-")


@pytest.fixture
def build(lab):
    """The pages are built with the programs, whichever those of a sanitizer are."""
    return lab.build


# ---- ferry-qmp(7) ----

def commands_of(text):
    """The page's own: {command: (aliases, arguments)}."""
    body = text.split("\nCOMMANDS\n", 1)[1].split("\nEVENTS\n", 1)[0]
    found = {}
    for part in re.split(r"(?:^|\n)   (?=\S)", body)[1:]:
        name = part.split("\n", 1)[0].strip()
        aliases = re.search(r"Also known as ([^.]*)\.", part)
        arguments = part.split("Arguments:", 1)[1] if "Arguments:" in part else ""
        found[name] = (re.findall(r"[\w-]+", aliases[1]) if aliases else [],
                       set(re.findall(r"^       ([\w-]+) \(", arguments.split("Returns:")[0], re.M)))
    return found


@path("manual/binary/qmp-commands")
def test_commands(lab, build):
    """Of each command the name, the aliases and the arguments are what the daemon itself says."""
    told = commands_of(page(build, "ferry-qmp.7"))
    session = lab.session(lab.daemon("a"))
    names = {command["name"] for command in session.cmd("query-commands")}
    assert {name for command, (aliases, _) in told.items() for name in [command, *aliases]} == names
    entries = {entry["name"]: entry for entry in session.cmd("query-qmp-schema")}
    for name, (_, arguments) in told.items():
        takes = entries[entries[name]["arg-type"]]["members"]
        assert {member["name"] for member in takes} == arguments, name


@path("manual/binary/qmp-commands-are-answered")
def test_answered(lab, build):
    """Each is known, and refuses an argument that the page does not have."""
    told = commands_of(page(build, "ferry-qmp.7"))
    session = lab.session(lab.daemon("a"))
    for name in sorted(told.keys() - {"qmp_capabilities"}):
        with pytest.raises(CommandError) as error:
            session.cmd(name, not_on_the_page=1)
        assert error.value.code == "parameter-unexpected" or "is missing" in error.value.desc, name


@path("manual/binary/qmp-errors")
def test_errors(lab, build):
    """An error that is easily had has a code of the page."""
    session = lab.session(lab.daemon("a"))
    with pytest.raises(CommandError) as error:
        session.cmd("migrate", uri="tcp:127.0.0.1:1", guest=GUEST)
    assert re.search(rf"^ +{error.value.code}\b", page(build, "ferry-qmp.7"), re.M)


# ---- ferryd(8), ferryctl(1) ----

def options_of(text):
    """{option: its value's name, or None}, from the beginnings of the page's paragraphs."""
    own = re.split(r"\n\n(?=[A-Z])", text.split("\nOPTIONS\n", 1)[1])[0]
    heads = re.findall(r"^       (--\S.*)$", own, re.M)
    return {option: value or None for head in heads
            for option, value in re.findall(r"(--[a-z-]+)(?: ([A-Z]+))?", head)}


@path("manual/binary/ferryd-options")
def test_ferryd(lab, build):
    """Each option is the daemon's, and takes such a value; it has no other."""
    told = options_of(page(build, "ferryd.8"))
    ferryd = lab.build / "ferryd"
    shown = subprocess.run([ferryd, "--help"], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  (--[a-z-]+)", shown, re.M)) == set(told)
    config = lab.folder / "conf"
    config.write_text("")
    for option, value in told.items():
        value = VALUES[value] if value else None
        value = value[option] if isinstance(value, dict) else value
        value = config if option == "--config" else value
        done = subprocess.run([ferryd, "--config", "", *([option, value] if value else [option]),
                               "--check-config"], capture_output=True, text=True, check=False,
                              timeout=DEADLINE)
        assert (done.returncode, done.stderr) == (0, ""), option


@path("manual/binary/ferryctl-commands")
def test_ferryctl(build):
    """Each command is ferryctl's, with the options that the page gives it."""
    text = page(build, "ferryctl.1")
    own = text.split("\nCOMMANDS\n", 1)[1].split("\nSIZES", 1)[0]
    heads = re.findall(r"^       ([a-z]+)\b(.*)$", own, re.M)
    ferryctl = ROOT / "contrib" / "ferryctl" / "ferryctl"

    def help_of(*command):
        return subprocess.run([ferryctl, *command, "--help"], capture_output=True, text=True,
                              check=True, timeout=DEADLINE).stdout

    everywhere = set(options_of(text))
    listed = re.findall(r"^  ([a-z]+)\b", help_of().split("Commands:\n")[1].split("\n\n")[0], re.M)
    known = [(name, rest) for name, rest in heads if name in listed]
    assert sorted(name for name, _ in known) == sorted(listed) and "migrate" in listed
    for name, rest in known:
        assert set(re.findall(r"--[a-z-]+", help_of(name))) - everywhere == \
            set(re.findall(r"--[a-z-]+", rest)), name
