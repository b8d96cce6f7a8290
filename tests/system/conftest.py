# SPDX-License-Identifier: BSD-3-Clause
"""What all system tests share: the laboratory, the tests' names, and what a failure shows.

A test's name is a path, given with scenes.path; the report shows it in the place of pytest's own.
Options: --build DIR chooses the programs (a sanitizer's build, for instance), --tally FILE writes
the counts for tests/run.
"""

import json
import os
import pathlib
import sys

import pytest
from _pytest.runner import runtestprotocol

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT / "contrib" / "lab")]
sys.dont_write_bytecode = True

import lab as laboratory  # noqa: E402
from linux_scenes import LinuxScene, has_linux  # noqa: E402
from qemu import has_qemu  # noqa: E402
from qemu_scenes import QemuScene  # noqa: E402
from scenes import Scene  # noqa: E402

SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=0:second_deadlock_stack=1",
}


def pytest_addoption(parser):
    parser.addoption("--build", default=os.environ.get("BUILD", "build"),
                     help="the folder with ferryd, ferry-vmm and tests/scripted-vmm")
    parser.addoption("--tally", help="a file for the counts, as JSON")
    parser.addoption("--linux", action="store_true", help="the tests of tests/linux/run too")
    parser.addoption("--rdma", help="the kinds of RDMA devices here, where tests/rdma made them")


def pytest_configure(config):
    config.addinivalue_line("markers", "path(name): the test's name, as the report shows it")
    config.addinivalue_line("markers", "kvm: needs /dev/kvm")
    config.addinivalue_line("markers", "qemu: needs QEMU and /dev/kvm")
    config.addinivalue_line("markers", "scripted: needs no KVM")
    config.addinivalue_line("markers", "linux: needs the guest that tests/linux/run makes")
    for name, value in SANITIZER_OPTIONS.items():
        os.environ.setdefault(name, value)


def rename(item):
    """Makes the path of a test its name; parameters are filled in."""
    marker = item.get_closest_marker("path")
    if marker is None:
        return
    name = marker.args[0]
    call = getattr(item, "callspec", None)
    if call is not None:
        filled = name.format(**call.params)
        name = f"{filled}[{call.id}]" if filled == name else filled
    item._nodeid = name
    item.extra_keyword_matches.add(name)
    item.__dict__["location"] = (item.location[0], item.location[1], name)


def pytest_ignore_collect(collection_path, config):
    """What needs RDMA devices runs in a virtual machine of its own: make check-rdma; what needs a
    Linux guest has it made first: make check-linux."""
    name = collection_path.name
    if (name == "test_rdma.py" and not config.getoption("--rdma")) or \
            (name.startswith("test_linux") and not config.getoption("--linux")):
        return True
    return None


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", metafunc.config.getoption("--rdma").split(","))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    needs = {"kvm": laboratory.has_kvm(), "qemu": has_qemu(), "linux": has_linux()}
    for item in items:
        rename(item)
        needed = [name for name in needs if item.get_closest_marker(name)]
        if not needed:
            item.add_marker("scripted")
        for missing in filter(None, (needs[name] for name in needed)):
            item.add_marker(pytest.mark.skip(reason=missing))
    names = [item.nodeid for item in items]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise pytest.UsageError(f"two tests of one name: {sorted(twice)}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """A Linux guest under emulation hangs or crashes by itself now and then (its driver loses a
    virtqueue, it does not wake from S3), so a scene that fails is played once more.  The warnings at
    the end of the run show why it failed first."""
    if not item.get_closest_marker("linux"):
        return None
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    failed = [report for report in reports if report.failed]
    if failed:
        item.warn(pytest.PytestWarning(f"{item.nodeid} failed at first:\n"
                                       f"{failed[0].longreprtext[-1500:]}\n"
                                       f"{dict(failed[0].sections).get('what the programs printed')}"))
        item._initrequest()  # pylint: disable=protected-access
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failure shows what the programs printed."""
    outcome = yield
    report = outcome.get_result()
    current = getattr(item, "lab", None)
    if report.failed and current is not None:
        report.sections.append(("what the programs printed", current.logs()))


def pytest_sessionfinish(session):
    path = session.config.getoption("--tally")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if path and reporter:
        counts = {key: len(reporter.stats.get(key, [])) for key in
                  ("passed", "failed", "error", "skipped")}
        pathlib.Path(path).write_text(json.dumps(counts), encoding="ascii")


@pytest.fixture
def lab(request):
    """A laboratory that ends with the test; what was wrong with the end of a program fails it."""
    current = laboratory.Lab(request.config.getoption("--build"))
    request.node.lab = current
    faults = []
    try:
        yield current
    finally:
        faults = current.finish()
        if not faults:
            request.node.lab = None
            current.close()
    if faults:
        logs = current.logs()
        request.node.lab = None
        current.close()
        pytest.fail("\n".join(faults) + "\n" + logs, pytrace=False)


@pytest.fixture
def scene(lab):
    """Two hosts, a and b, each with a daemon."""
    made = Scene(lab)
    yield made
    made.close()


@pytest.fixture
def vms(lab):
    """The same, for guests in QEMUs."""
    made = QemuScene(lab)
    yield made
    made.close()


@pytest.fixture
def linux(lab):
    """The same, for a Linux guest and its network."""
    made = LinuxScene(lab)
    yield made
    made.close()
