"""Runs cells, one after the other, in one process: models are exported once a seed, the machine is asked once."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.cells import Cell, First, document, ending
from benchmarks.faults.cluster import POLICIES, experiment
from benchmarks.faults.judgement import FAILED, Judgement, judge
from benchmarks.faults.kinds import RECORDED, RECORDING
from benchmarks.faults.table import Row
from runner.experiment import Options, run
from runner.link_sample import MOST_LINKS
from runner.preparation import Modelled, Prepared, model_of, planned
from testbed.emulation.machine import capabilities
from testbed.errors import ExperimentError
from testbed.spec.experiment import Experiment
from testbed.spec.loader import load_experiment

NAN = float("nan")


class Bench:
    """Runs cells.

    Args:
        results: Folder of the runs; those of cells that passed are removed from it.
        work: A folder for the cells' files.
        progress: Told of each step that isn't of a cell.
        keep: Whether runs of cells that passed stay too.
    """

    def __init__(self, results: Path, work: Path, progress: Callable[[str], None], *, keep: bool = False) -> None:
        self._results = results
        self._work = work
        self._progress = progress
        self._keep = keep
        self._models: dict[tuple[str, str, int], Modelled] = {}
        self._options = Options(
            results=results,
            prepare=lambda experiment, _: self._prepare(experiment),
            machine=functools.cache(capabilities),
            most_links=0,  # outcomes are judged here, not rates
            report=False,
        )
        (work / RECORDING).write_text(RECORDED)

    def experiment(self, cell: Cell) -> Experiment:
        """The cell's experiment, read from the file that it is kept in."""
        return self._read(cell.name.replace("/", "-"), document(cell, self._first(cell.seed)))

    def run(self, cell: Cell, experiment: Experiment) -> Row:
        """Run a cell, and judge it.

        Raises:
            TestbedError: If it couldn't be run; a system that couldn't be started is a cell that failed.
        """
        began_s = time.monotonic()
        try:
            result = run(experiment, self._options)
        except ExperimentError as error:
            judgement = Judgement(FAILED, error.message, NAN, NAN, NAN, 0, 0)
            return Row(cell, judgement, "", time.monotonic() - began_s, str(self._results), experiment.sha256())
        judgement = judge(result.folder, ending(cell))
        folder = ""
        if self._keep or judgement.outcome == FAILED:
            folder = str(result.folder)
            shutil.copy(experiment.source, result.folder / "experiment.yaml")
            shutil.copy(self._work / RECORDING, result.folder)  # which it may name
        else:
            shutil.rmtree(result.folder)
        took_s = time.monotonic() - began_s
        return Row(cell, judgement, result.verdict.level, took_s, folder, experiment.sha256())

    def measure(self, name: str, content: dict[str, object]) -> Path:
        """Run an experiment for its figures, with its links measured; returns the folder, which stays.

        Raises:
            TestbedError: If it couldn't be run, or the checker fails it.
        """
        options = dataclasses.replace(self._options, most_links=MOST_LINKS)
        result = run(self._read(name, content), options)
        if result.ruling.errors:
            raise ExperimentError(f"{name} failed ({result.folder}): {'; '.join(result.ruling.reasons)}")
        return result.folder

    def _read(self, name: str, content: dict[str, object]) -> Experiment:
        path = self._work / f"{name}.yaml"
        path.write_text(json.dumps(content, indent=1))  # which is YAML
        return load_experiment(path)

    @functools.cache  # noqa: B019 - a bench lives as long as its process
    def _first(self, seed: int) -> First:
        plain = self._read(f"none-{seed}", experiment("none", POLICIES["replan"], seed, 1.0, []))
        plan = self._prepare(plain).plan
        slowest = max(plan.stages, key=lambda stage: stage.compute_s)
        return First(tuple(dict.fromkeys(stage.host for stage in plan.stages)), slowest.host)

    def _prepare(self, experiment: Experiment) -> Prepared:
        key = (str(experiment.model.name or experiment.model.module), experiment.placement.codec, experiment.seed)
        known = self._models.get(key)
        if known is None:
            known = self._models[key] = model_of(experiment, self._progress)
        return planned(experiment, experiment, known.graph, known.samples, known.op_seconds, known.encoded_bits)
