"""What holds for all tests: what they are marked with, who may run those marked ``root``, and where caches are kept."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

REPOSITORY = Path(__file__).parent.parent
PURE = tuple(REPOSITORY / "tests" / name for name in ("planning", "spec"))
"""Folders of tests that judge no times, and start nothing that does: as many as last as long as User-Mode Linux."""
IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")

set_hypothesis_home_dir(REPOSITORY / ".venv" / "cache" / "hypothesis")
# No deadline: the machines that run this share their cores, so the time of one example says nothing.
hypothesis.settings.register_profile("testbed", deadline=None, max_examples=100, print_blob=True)
hypothesis.settings.load_profile("testbed")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, None, None]:
    """What tests measure is nothing to keep for the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is ``pure``, before tests are selected by their marks."""
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in PURE):
            item.add_marker("pure")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if os.geteuid() != 0 and item.get_closest_marker("root"):
        pytest.skip("needs root: make test runs it through sudo")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a root test that is skipped, for whatever reason, has failed: it would prove nothing, silently."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("root"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"a root test may not be skipped in CI ({reason})"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module skipped as a whole hides its root tests, so in CI that counts as a failure too."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: a module may not be skipped in CI"
    return report
