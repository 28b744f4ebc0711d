"""The house: licence, package, CI entry, file lengths."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

LONGEST_FILE_LINES = 450


def test_license_is_that_of_mininet(repository: Path) -> None:
    text = (repository / "LICENSE").read_text()
    assert text.startswith("BSD 3-Clause License")
    assert "Neither the name of the copyright holder" in text


def test_ci_runs_make_test_as_ci(repository: Path) -> None:
    lines = (repository / ".ci" / "run").read_text().splitlines()
    assert "export CI=true" in lines
    assert lines[-1] == "make test"


def test_lock_pins_every_package_for_any_index(repository: Path) -> None:
    lines = (repository / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins == sorted(pins, key=str.upper)
    assert "torch==2.13.0" in pins
    for pin in pins:
        name, _, version = pin.partition("==")
        assert name
        assert version.replace(".", "").isalnum(), pin


@pytest.mark.parametrize("package", ["testbed", "runner"])
def test_no_file_is_too_long_to_read_at_once(package: str, repository: Path) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (repository / package).rglob("*.py")}
    assert lengths
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE_LINES} == {}


def test_wheel_holds_the_two_packages_and_its_console_script_works(repository: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--wheel-dir", str(tmp_path)]
    subprocess.run([*build, str(repository)], check=True, capture_output=True, timeout=100)
    (wheel,) = tmp_path.glob("*.whl")

    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"testbed", "runner"}
    assert "testbed/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)

    site = tmp_path / "site"
    install = [*pip, "install", "--no-deps", "--no-index", "--no-cache-dir", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, timeout=100)
    # The site folder comes first on the path, before the tree that .venv points to.
    process = subprocess.run(
        [sys.executable, str(site / "bin" / "testbed"), "--help"],
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONVERBOSE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0
    assert process.stdout.startswith("Usage: testbed")
    assert f"{site}/testbed/cli/main.py" in process.stderr
