"""Times of operations: measured once for each model and machine, kept for the caller, and not run at all if counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from runner import op_times as op_times_module
from runner import user_cache
from runner.op_times import op_times
from runner.preparation import prepare
from runner.results import Owner
from runner.user_cache import FOLDER, UserCache
from testbed.model.graph import ModelGraph
from testbed.spec import load_experiment
from tests.runner.real_run import experiment


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.delenv("SUDO_GID", raising=False)
    return tmp_path / "cache" / FOLDER


def graph_of(width: int = 4) -> ModelGraph:
    return ModelGraph.trace(nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2)).eval(), (1, 4))


class MeasuredError(Exception):
    """Something was measured."""


def test_times_are_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = op_times(graph_of(), [torch.zeros(1, 4)])
    assert len(first) == len(graph_of().ops)
    assert all(seconds > 0 for seconds in first)
    (file,) = cache.iterdir()
    assert json.loads(file.read_text())["torch_version"] == torch.__version__
    monkeypatch.setattr(op_times_module, "profile", lambda *_, **__: (1.0, 2.0, 3.0))
    assert op_times(graph_of(), [torch.zeros(1, 4)]) == first
    assert op_times(graph_of(), [torch.zeros(1, 4)], afresh=True) == (1.0, 2.0, 3.0)
    assert op_times(graph_of(), [torch.zeros(1, 4)]) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("what", ["model", "cpu_model", "kernel", "torch_version"])
def test_another_model_or_machine_is_measured_anew(what: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op_times_module, "profile", lambda *_, **__: (1.0, 2.0, 3.0))
    assert op_times(graph_of(), [torch.zeros(1, 4)]) == (1.0, 2.0, 3.0)

    def refuse(*_: Any, **__: Any) -> None:
        raise MeasuredError

    monkeypatch.setattr(op_times_module, "profile", refuse)
    assert op_times(graph_of(), [torch.zeros(1, 4)]) == (1.0, 2.0, 3.0)
    here = user_cache.machine_fingerprint()
    if what != "model":
        monkeypatch.setattr(op_times_module, "machine_fingerprint", lambda: {**here, what: "another"})
    with pytest.raises(MeasuredError):
        op_times(graph_of(5 if what == "model" else 4), [torch.zeros(1, 4)])


def test_the_values_of_weights_do_not_count() -> None:
    torch.manual_seed(1)
    first = op_times_module.graph_digest(graph_of())
    torch.manual_seed(2)
    assert op_times_module.graph_digest(graph_of()) == first
    assert op_times_module.graph_digest(graph_of(5)) != first


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"op_s": 3}', b'{"op_s": [1, 2]}', b'{"op_s": [1, 2, -3]}'])
def test_damaged_files_count_as_none(damage: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op_times_module, "profile", lambda *_, **__: (1.0, 2.0, 3.0))
    op_times(graph_of(), [torch.zeros(1, 4)])
    (file,) = cache.iterdir()
    file.write_bytes(damage)
    assert op_times(graph_of(), [torch.zeros(1, 4)]) == (1.0, 2.0, 3.0)


def test_a_cache_that_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(op_times_module, "profile", lambda *_, **__: (1.0, 2.0, 3.0))
    told: list[str] = []
    assert op_times(graph_of(), [torch.zeros(1, 4)], told.append) == (1.0, 2.0, 3.0)
    assert "can't keep the times" in told[-1]
    assert "XDG_CACHE_HOME" in told[-1]


def test_under_sudo_the_cache_is_the_callers() -> None:
    import pwd

    user = pwd.getpwnam("nobody")
    found = UserCache.of_caller({"SUDO_UID": str(user.pw_uid), "SUDO_GID": str(user.pw_gid), "HOME": "/root"})
    assert found == UserCache(Path(user.pw_dir) / ".cache" / FOLDER, Owner(user.pw_uid, user.pw_gid))
    assert UserCache.of_caller({"HOME": "/home/me", "XDG_CACHE_HOME": "relative"}).folder == Path(
        "/home/me/.cache", FOLDER
    )


@pytest.mark.root
def test_what_is_kept_belongs_to_the_caller(tmp_path: Path) -> None:
    owned = UserCache(tmp_path / "home" / ".cache" / FOLDER, Owner(65_534, 65_534))
    owned.save(owned.path("times", {"a": 1}), [1], "the times")
    for place in (owned.path("times", {"a": 1}), owned.folder, tmp_path / "home"):
        assert (place.stat().st_uid, place.stat().st_gid) == (65_534, 65_534), place
    assert tmp_path.stat().st_uid == 0


class Unrunnable(nn.Module):
    """Can be exported, but knows when it really runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting():
            raise RuntimeError("I was run")
        return self.layer(x).relu()


def unrunnable() -> nn.Module:
    return Unrunnable()


def test_analytic_costs_run_nothing(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "tiny.yaml"
    model = {"module": "tests.runner.test_op_times:unrunnable", "input": [1, 8]}
    file.write_text(json.dumps(experiment(model=model, placement={"costs": "analytic"})))
    found = prepare(load_experiment(file), answers=False)
    assert found.whole_model_s > 0
    assert found.samples.inputs == ()
    assert not cache.exists()
