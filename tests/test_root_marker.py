"""The rule of conftest.py for tests marked ``root``: skipped for want of root on a desk, never skipped in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PASSES = """
import pytest

@pytest.mark.root
def test_it():
    pass
"""
NOT_ROOT = "import os\nos.geteuid = lambda: 1000\n" + PASSES
SKIPS_ITSELF = "import os\nos.geteuid = lambda: 0\n" + PASSES.replace("pass", "pytest.skip('no bridge here')")
SKIPS_ITS_MODULE = "import pytest\npytest.skip('no bridge here', allow_module_level=True)\n"
SKIPS_WITHOUT_ROOT = SKIPS_ITSELF.replace("@pytest.mark.root", "")


def run_pytest(folder: Path, test: str, ci: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(Path(__file__).parent / "conftest.py", folder)
    (folder / "test_it.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = root\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs"],
        cwd=folder,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "test",
    [NOT_ROOT, SKIPS_ITSELF, SKIPS_ITS_MODULE, SKIPS_WITHOUT_ROOT],
    ids=["not root", "itself", "its module", "no root test"],
)
def test_skip_is_fine_on_a_desk(test: str, tmp_path: Path) -> None:
    process = run_pytest(tmp_path, test, ci="")
    assert "1 skipped" in process.stdout
    assert process.returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (NOT_ROOT, "a root test may not be skipped in CI (Skipped: needs root"),
        (SKIPS_ITSELF, "a root test may not be skipped in CI (Skipped: no bridge here)"),
        (SKIPS_ITS_MODULE, "a module may not be skipped in CI"),
    ],
    ids=["not root", "itself", "its module"],
)
def test_skipped_root_test_fails_in_ci(test: str, reason: str, tmp_path: Path) -> None:
    process = run_pytest(tmp_path, test, ci="true")
    assert reason in process.stdout
    assert process.returncode != pytest.ExitCode.OK


def test_other_tests_may_be_skipped_in_ci(tmp_path: Path) -> None:
    assert run_pytest(tmp_path, SKIPS_WITHOUT_ROOT, ci="true").returncode == pytest.ExitCode.OK
