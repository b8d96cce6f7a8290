# SPDX-License-Identifier: BSD-3-Clause
"""The manual says what there is: each name of the code's has its place in it."""

import json
import pathlib
import re
import subprocess
import sys

from scenes import path

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "contrib" / "ferryctl"))
# pylint: disable=wrong-import-position
from ferryctl_lib.failure import MEANINGS  # noqa: E402
from ferryctl_lib.table import COMMANDS, ENVIRONMENT, GLOBAL_OPTIONS  # noqa: E402


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def page_words(name):
    """All words of a page, as they are when its markup is gone."""
    found = re.findall(r"[A-Za-z0-9_]+", read(name).replace("\\", ""))
    return {word.strip("_") for word in found}


def missing(wanted, there):
    """For an assert that shows what is not there."""
    return sorted(set(wanted) - set(there))


def without_comments(text):
    return re.sub(r"/\*.*?\*/", "", text, flags=re.S)


def public_names(header):
    """Functions, types, constants and members, but for what is the header's own matter."""
    text = without_comments(header)
    text = re.sub(r"__attribute__\(\(.*\)\)", "", text)
    names = set(re.findall(r"\b(?:FERRY|ferry)_\w+", text)) | {"ferry"}
    for body in re.findall(r"struct \w+ \{(.*?)\n\};", text, flags=re.S):
        names |= set(re.findall(r"\(\*(\w+)\)", body))  # callbacks
        names |= set(re.findall(r"(\w+);", re.sub(r"\(\*.*?;", "", body, flags=re.S)))
    return names - {"FERRY_API"}


def record_types():
    """Those of the code and those of the stream's description, without RECORD_."""
    enum = re.search(r"enum record_type \{(.*?)\};", without_comments(read("ram/records.h")), re.S)
    table = read("schema/stream.md").split("## Records", 1)[1]
    return (set(re.findall(r"RECORD_(\w+)\s*=", enum.group(1))),
            set(re.findall(r"^\| \d+ \| ([A-Z_]+) \| [SD, ]+ \|", table, re.M)))


def rdma_messages():
    return set(re.findall(r"^\| \d+ \| ([A-Z]+) \|", read("schema/rdma.md"), re.M))


@path("manual/libferry/names")
def test_libferry_names():
    names = public_names(read("guest/libferry.h"))
    assert {"ferry_new", "FERRY_NO_SLOT", "ferry_ram_block", "save_state", "has_base"} <= names
    assert not missing(names, page_words("guest/libferry.3.scd"))


@path("manual/stream/records")
def test_stream_records():
    code, described = record_types()
    assert code == described and "RAM_PAGES" in code
    messages = rdma_messages()
    assert "KEYS" in messages
    assert not missing(code | messages, page_words("schema/ferry-stream.7.scd"))


@path("manual/qmp/names")
def test_qmp_names(tmp_path):
    """The generated page has each command, event, type and error code as its own entry."""
    made = tmp_path / "ferry-qmp.7.scd"
    subprocess.run([ROOT / "schema" / "generate", "--man", made], check=True)
    lines = made.read_text(encoding="utf-8").replace("\\", "").splitlines()
    table = json.loads(read("schema/control.json"))
    entries = [f"## {name}" for part in ("commands", "events", "types") for name in table[part]]
    entries += [f"*{entry['code']}*" for entry in table["errors"]]
    assert not missing(entries, lines)
    assert not [line for line in lines if line.startswith("@")]


@path("manual/operating/codes")
def test_operating_codes():
    """What to do is said for each error."""
    text = read("docs/operating.md")
    codes = [entry["code"] for entry in json.loads(read("schema/control.json"))["errors"]]
    assert not [code for code in codes if f"`{code}`" not in text]


@path("manual/ferryd/options")
def test_ferryd_options(request):
    """Each option that ferryd knows is on its page."""
    ferryd = pathlib.Path(request.config.getoption("--build")) / "ferryd"
    shown = subprocess.run([ferryd, "--help"], check=True, capture_output=True, text=True).stdout
    options = set(re.findall(r"--[a-z-]+", shown))
    assert "--control" in options
    assert not missing(options, re.findall(r"--[a-z-]+", read("daemon/ferryd.8.scd")))


@path("manual/ferryd/messages")
def test_ferryd_messages():
    """Each kind of message that the journal gets has its id there."""
    ids = re.findall(r'"([0-9a-f]{32})"', read("daemon/messages.h"))
    assert len(ids) == len(set(ids)) > 3
    assert not missing(ids, re.findall(r"[0-9a-f]{32}", read("daemon/ferryd.8.scd")))


@path("manual/ferryctl/options")
def test_ferryctl_options():
    """Each command and option of the table is on the page, and no other is."""
    text = read("contrib/ferryctl/ferryctl.1.scd").replace("\\", "")
    own = text.split("# COMMANDS", 1)[1].split("# SIZES", 1)[0]
    heads = {line.split()[0].strip("*"): line for line in own.splitlines() if line.startswith("*")}
    assert list(sorted(heads)) == sorted(command.name for command in COMMANDS)
    for command in COMMANDS:
        head = heads[command.name]
        assert set(re.findall(r"\*(--[a-z-]+)\*", head)) == {o.name for o in command.options}
        for argument in command.arguments:
            assert not missing(argument.choices or argument.name.split("|"),
                               re.findall(r"[\w=-]+", head.replace("_", " "))), head
    ahead = text.split("# OPTIONS", 1)[1].split("# COMMANDS", 1)[0]
    assert re.findall(r"^\*(--[a-z-]+)\*", ahead, re.M) == [o.name for o in GLOBAL_OPTIONS]
    others = set(re.findall(r"\*(--[a-z-]+)\*", text)) - {"--allow-fd"}
    assert others == {o.name for c in COMMANDS for o in c.options + GLOBAL_OPTIONS}


@path("manual/ferryctl/statuses-and-environment")
def test_ferryctl_statuses():
    text = read("contrib/ferryctl/ferryctl.1.scd").replace("\\", "")
    told = text.split("# EXIT STATUS", 1)[1].split("# FILES", 1)[0]
    statuses, environment = told.split("# ENVIRONMENT")
    assert re.findall(r"^\*(\d)\*$", statuses, re.M) == [str(int(s)) for s in MEANINGS]
    assert re.findall(r"^\*(\w+)\*$", environment, re.M) == [name for name, _ in ENVIRONMENT]
