"""From the YAML file to a checked experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from testbed.errors import SpecError
from testbed.spec import document as documents
from testbed.spec import overrides as options
from testbed.spec.checks import check
from testbed.spec.experiment import Experiment
from testbed.spec.findings import as_error, translated
from testbed.spec.quantities import FileContext
from testbed.spec.replay import with_timeline_of


def load_experiment(
    path: Path, overrides: Sequence[str] = (), seed: int | None = None, replay: Path | None = None
) -> Experiment:
    """Read, override, validate and check an experiment file.

    Args:
        path: The YAML file.
        overrides: ``key.path=value`` each; applied in turn before validation.
        seed: Replaces the file's seed.
        replay: The ``faults.csv`` of an earlier run, whose timeline replaces the file's faults.

    Raises:
        SpecError: With line, path, and what would be legal.
    """
    document = documents.read(path)
    if document.value is None:
        raise SpecError("the file is empty", file=path, remedy="`testbed schema` prints what an experiment consists of")
    if not isinstance(document.value, dict):
        raise SpecError(
            "is no mapping of keys to values", file=path, line=document.line, remedy="begin it like name: demo"
        )
    for override in overrides:
        document = options.apply(document, override)
    if seed is not None:
        document = options.with_seed(document, seed)
    if replay is not None:
        document = with_timeline_of(document, replay)
    try:
        experiment = Experiment.model_validate(
            document.plain(), by_alias=True, by_name=False, context=FileContext(path.absolute())
        )
    except ValidationError as error:
        raise as_error(translated(error), document, path) from error
    findings = list(check(experiment, replayed=replay is not None))
    if findings:
        raise as_error(findings, document, path)
    return experiment
