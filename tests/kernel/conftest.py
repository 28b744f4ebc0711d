"""Tests marked ``kernel`` run on another kernel: all that are selected, in one boot of User-Mode Linux.

It is booted when the session begins; on a machine with two CPUs those marked ``pure`` run meanwhile. The guest runs
pytest on the same files and writes each of its reports as a line of JSON; here they are replayed, so that every test
passes or fails in this session as if it had run here, with its own output. A test without a report has failed, and what
the guest printed is the reason. Figures that tests record (``record_property``) are listed at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel import uml

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 480.0
_INSIDE = "TESTBED_INSIDE_UML"
_REPORTS = "reports.jsonl"

_wait = pytest.StashKey[Callable[[], None]]()
_replayed = pytest.StashKey[dict[str, list[pytest.TestReport]]]()
_guest = pytest.StashKey[uml.Guest]()


def _is_inside() -> bool:
    return _INSIDE in os.environ


def _belongs_inside(item: pytest.Item) -> bool:
    return not _is_inside() and item.get_closest_marker("kernel") is not None


class _Reporter:
    """Inside: writes every report down as soon as there is one."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with (uml.OUT / _REPORTS).open("a") as file:
            file.write(json.dumps(data) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    if _is_inside():
        config.pluginmanager.register(_Reporter(config))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = uml.missing()
    if _belongs_inside(item) and reason:
        pytest.skip(reason)


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item) -> bool | None:
    """The boot has a deadline of its own, and inside each test has its own again."""
    return True if _belongs_inside(item) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what is ``pure``, beside the guest; then the guest's own tests; then all others, on a quiet machine."""
    own = [item for item in items if _belongs_inside(item)]
    if not own or uml.missing():
        return
    room = len(os.sched_getaffinity(0)) > 1
    beside = [item for item in items if room and item.get_closest_marker("pure")]
    first = {*beside, *own}
    items[:] = [*beside, *own, *(item for item in items if item not in first)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Boot, if there is something to run inside."""
    own = [item.nodeid for item in session.items if _belongs_inside(item)]
    if own and not uml.missing() and not session.config.option.collectonly:
        _boot(session.config, own)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Replay what the guest reported instead of running the test here."""
    stash = item.config.stash
    if not _belongs_inside(item) or _wait not in stash:
        return None
    if _replayed not in stash:
        stash[_wait]()
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = stash[_replayed][item.nodeid]
    if not any(report.when == "teardown" for report in reports):
        reports = [*reports, _lost(item, stash[_guest])]
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _boot(config: pytest.Config, nodeids: list[str]) -> None:
    """Boot once for all of these tests; the end of the session is the end of the guest."""
    environment = {
        _INSIDE: "1",
        "PYTHONPATH": str(REPOSITORY),
        "CI": os.environ.get("CI", ""),
        "MPLCONFIGDIR": "/run/matplotlib",
    }
    words = ["env", f"--chdir={REPOSITORY}", *(f"{name}={value}" for name, value in environment.items())]
    options = ["-o", "cache_dir=/run/pytest-cache", "--basetemp=/run/pytest", "-m", "kernel"]
    command = [*words, sys.executable, "-u", "-m", "pytest", *options, *nodeids]
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(uml.folder())
        end_of_guest = stack.enter_context(uml.booted(command, out, DEADLINE_S))
        config.add_cleanup(stack.pop_all().close)

    def wait() -> None:
        reports: dict[str, list[pytest.TestReport]] = defaultdict(list)
        config.stash[_guest] = end_of_guest()
        file = out / _REPORTS
        for line in file.read_text().splitlines() if file.exists() else ():
            report = config.hook.pytest_report_from_serializable(config=config, data=json.loads(line))
            reports[report.nodeid].append(report)
        config.stash[_replayed] = reports

    config.stash[_wait] = wait


def _lost(item: pytest.Item, guest: uml.Guest) -> pytest.TestReport:
    return pytest.TestReport(
        item.nodeid, item.location, {}, "failed", f"the guest reported nothing of it: {guest}", "call", duration=0.0
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _guest not in config.stash:
        return
    terminalreporter.section("measured on the kernel of User-Mode Linux")
    terminalreporter.write_line(f"one boot and all kernel tests: {config.stash[_guest].seconds:.0f} s")
    for reports in config.stash[_replayed].values():
        for name, value in reports[-1].user_properties if reports else ():
            terminalreporter.write_line(f"{name}: {value}")
