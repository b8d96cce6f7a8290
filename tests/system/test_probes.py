# SPDX-License-Identifier: BSD-3-Clause
"""The probe points: that the program has those it is said to have, and what the scripts of
contrib/probes/ make of a migration."""

import functools
import pathlib
import re
import shutil
import signal
import subprocess

import pytest
from lab import DEADLINE, LabError, Process
from scenes import GUEST, MIB, PAGE, Scene, eventually, hold_active, path

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCRIPTS = sorted((ROOT / "contrib" / "probes").glob("*.bt"))
NOP = b"\x90"

NOTE = re.compile(r"Provider: (\S+)\s+Name: (\S+)\s+Location: 0x([0-9a-f]+),.*\s+Arguments: (.*)")


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def notes(program):
    """The probe points of a program: its name, where it is in the file, how many arguments it has."""
    shown = subprocess.run(["readelf", "-nW", program], check=True, capture_output=True, text=True)
    return [(name, int(where, 16), len(arguments.split()))
            for provider, name, where, arguments in NOTE.findall(shown.stdout) if provider == "ferry"]


def section(page, title):
    return re.search(rf"^# {title}$(.*?)^# ", read(page), flags=re.M | re.S)[1]


# ---- what there is ----

@path("probes/listed")
def test_listed(lab):
    """The built program, probes.h and the manual have the same ones, with as many arguments."""
    built = {(name, count) for name, _, count in notes(lab.build / "ferryd")}
    header = set(re.findall(r"^#define probe_.*?FERRY_PROBE(\d)\((\w+),",
                            read("daemon/probes.h").replace("\\\n", ""), flags=re.M))
    manual = re.findall(r"^\*(\w+)\*\((.*)\)$", section("daemon/ferryd.8.scd", "PROBES"), flags=re.M)
    assert ("round_end", 4) in built
    assert built == {(name, int(count)) for count, name in header}
    assert sorted(built) == sorted((name, len(names.split(","))) for name, names in manual)


@path("probes/steps")
def test_steps():
    """The steps of the handover that the code has are those of probes.h and of the manual."""
    code = set()
    for source in (ROOT / "daemon").glob("*.c"):
        for call in re.findall(r"(?:probe_handover|note_started)\((.*?)\);", source.read_text(encoding="utf-8"), re.S):
            code |= set(re.findall(r'"([a-z-]+)"', call))
    assert {"stop", "not-sent", "running", "resolved"} <= code
    comment = re.search(r"A step of the handover(.*?)\*/", read("daemon/probes.h"), flags=re.S)[1]
    entry = re.search(r"\*handover\*(.*?)```", section("daemon/ferryd.8.scd", "PROBES"), flags=re.S)[1]
    for text in (comment, entry):
        assert not code - set(re.findall(r"[a-z-]+", text))


# ---- the scripts ----

@functools.cache
def refusal():
    """None, or the words with which the smallest program of all is refused: its one probe is
    attached as ferryd's are."""
    tried = subprocess.run(["bpftrace", "-e", "BEGIN { exit(); }"], capture_output=True, text=True,
                           timeout=DEADLINE, check=False)
    return " ".join(tried.stderr.split()) if tried.returncode else None


@pytest.fixture
def kernel():
    """Skips where the kernel lets nobody here trace."""
    if refusal():
        pytest.skip(f"tracing is refused: {refusal()}")


@path("probes/scripts/parse/{script}")
@pytest.mark.parametrize("script", [script.name for script in SCRIPTS])
def test_parse(kernel, lab, script):
    """It is compiled for the built program, without a warning; nothing is attached."""
    shown = subprocess.run(["bpftrace", "-d", ROOT / "contrib" / "probes" / script, lab.build / "ferryd"],
                           capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert shown.returncode == 0, shown.stderr
    assert f"{script}:" not in shown.stderr


def is_attached(daemon, program, names):
    """Whether there is a breakpoint in the place of each of these probes' nops."""
    with open(f"/proc/{daemon.pid}/maps", encoding="ascii") as maps:
        base = next(int(line.split("-")[0], 16) for line in maps if line.endswith(f"{program}\n"))
    with open(f"/proc/{daemon.pid}/mem", "rb", buffering=0) as memory:
        for name, where, _ in notes(program):
            memory.seek(base + where)
            if name in names and memory.read(1) == NOP:
                return False
    return True


class Script(Process):
    """A script that traces; it is attached to these daemons when this returns."""

    def __init__(self, lab, name, names, daemons, argv):
        super().__init__(name, ["bpftrace", ROOT / "contrib" / "probes" / name, *argv], lab.folder)
        lab.keep(self)
        program = lab.build / "ferryd"
        for daemon in daemons:
            eventually(lambda d=daemon: self.has_ended() or is_attached(d, program, names),
                       what=f"the breakpoints of {name}")

    def has_ended(self):
        if not self.alive():
            raise LabError(f"{self.name} ended: {self.errors()}")

    def lines(self, *awaited):
        """Ends it as a ^C does when it has printed what is awaited; the words of each line."""
        for text in awaited:
            self.await_line(text)
        self.meant_to_end = True
        self.proc.send_signal(signal.SIGINT)
        assert self.wait() == 0, self.errors()
        return [line.split() for line in self.output().splitlines()]


def rounds_of(script, count):
    """The lines of this many rounds.  bpftrace reads one processor's after the other's: they may come
    in another order."""
    lines = script.lines(*(f"\n{GUEST:<16} {number:5} " for number in range(1, count + 1)))
    return sorted((words for words in lines if words[:1] == [GUEST]), key=lambda words: int(words[1]))


@path("probes/rounds")
def test_rounds(kernel, scene):
    """A line for each round, as the history has them."""
    script = Script(scene.lab, "rounds.bt", ["round_begin", "round_end"], [scene.a.daemon],
                    ["-p", scene.a.daemon.pid])
    source, target = scene.pair(fill=0)
    scene.a.set(downtime_limit=1)  # ms: what is written in the first round takes a second one
    hold_active(scene, source, target)
    source.do(f"fill ram {8 * MIB} {6 * MIB} random 2")
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    rounds = scene.a.qmp.cmd("query-migrate-history", guest=GUEST)["rounds"]
    assert len(rounds) > 1 and all(r["count"] == 1 for r in rounds)
    assert rounds[0]["dirtied"] == 6 * MIB // PAGE
    lines = rounds_of(script, len(rounds))
    assert [(int(number), int(sent), int(dirtied)) for _, number, _, sent, dirtied, _ in lines] == \
           [(r["round"], r["transferred"], r["dirtied"]) for r in rounds]
    for _, _, ms, sent, _, rate in lines:
        assert int(rate) == pytest.approx(int(sent) / float(ms) / 1000, rel=0.02, abs=1)


@path("probes/rounds/attached-in-the-middle")
def test_rounds_late(kernel, scene):
    """A round that nobody saw begin has no duration, but is told."""
    source, target = scene.pair(fill=0)
    hold_active(scene, source, target)
    script = Script(scene.lab, "rounds.bt", ["round_begin", "round_end"], [scene.a.daemon],
                    ["-p", scene.a.daemon.pid])
    scene.a.set(max_bandwidth=0)
    scene.a.complete()
    first = scene.a.qmp.cmd("query-migrate-history", guest=GUEST)["rounds"][0]
    lines = rounds_of(script, 1)
    assert lines[0] == [GUEST, "1", "-", str(first["transferred"]), str(first["dirtied"]), "-"]


SOURCE_STEPS = ["stop", "stopped", "sent", "ready", "given-away", "running"]
TARGET_STEPS = ["loaded", "start", "started"]


def step_lines(host, steps):
    """How the lines of these steps of a daemon begin."""
    return [f"\n{GUEST:<16} {host.daemon.pid:7} {step} " for step in steps]


def steps_of(lines, host):
    """The steps that were told of a daemon; the figures beside them must agree with each other."""
    lines = [words for words in lines if words[:2] == [GUEST, str(host.daemon.pid)]]
    lines.sort(key=lambda words: int(words[4]))
    times = [(int(us), int(total)) for *_, us, total in lines]
    assert times[0] == (0, 0)
    for (_, before), (us, total) in zip(times, times[1:]):
        assert abs(before + us - total) <= 1  # each is cut to whole microseconds
    return [step for _, _, step, *_ in lines]


def counted(lines):
    """How many the histogram has."""
    at = lines.index(["@downtime_us:"])
    return sum(int(re.search(r"[\])]\s+(\d+) \|", " ".join(words))[1]) for words in lines[at + 1:] if words)


@path("probes/handover")
def test_handover(kernel, scene):
    script = Script(scene.lab, "handover.bt", ["handover"], [scene.a.daemon],
                    ["-p", scene.a.daemon.pid])
    scene.move(*scene.pair())
    lines = script.lines(*step_lines(scene.a, SOURCE_STEPS))
    assert steps_of(lines, scene.a) == SOURCE_STEPS
    assert not [words for words in lines if str(scene.b.daemon.pid) in words]
    assert counted(lines) == 1


@pytest.fixture(name="alone")
def scene_of_its_own(lab):
    """Two hosts with a ferryd that nobody else runs: what is traced by its path is traced in all that
    run it, and a moment longer than the tracer lives."""
    folder = lab.folder.resolve() / "build"
    folder.mkdir()
    shutil.copy(lab.build / "ferryd", folder)
    (folder / "tests").symlink_to(lab.build / "tests")
    lab.build = folder
    made = Scene(lab)
    yield made
    made.close()


@path("probes/handover/both-daemons-by-their-path")
def test_handover_path(kernel, alone):
    script = Script(alone.lab, "handover.bt", ["handover"], [alone.a.daemon, alone.b.daemon],
                    [alone.lab.build / "ferryd"])
    alone.move(*alone.pair())
    lines = script.lines(*step_lines(alone.a, SOURCE_STEPS), *step_lines(alone.b, TARGET_STEPS))
    assert steps_of(lines, alone.a) == SOURCE_STEPS
    assert steps_of(lines, alone.b) == TARGET_STEPS
    assert counted(lines) == 1


@path("probes/handover/not-sent")
def test_not_sent(kernel, scene):
    """A handover that comes to nothing has its steps, and no downtime."""
    script = Script(scene.lab, "handover.bt", ["handover"], [scene.a.daemon],
                    ["-p", scene.a.daemon.pid])
    source, target = scene.pair()
    source.do("behave save=fail")
    scene.a.migrate(scene.b.listen())
    scene.a.fail()
    steps = ["stop", "stopped", "not-sent"]
    lines = script.lines(*step_lines(scene.a, steps))
    assert steps_of(lines, scene.a) == steps
    assert ["@downtime_us:"] not in lines
