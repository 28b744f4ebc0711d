"""``inspect``: where a model can be cut, what would cross there, and what lies between; needs no root."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import ValidationError

from testbed.cli.options import afresh_option
from testbed.cli.outputs import OutputFile, write
from testbed.cli.tables import new_table, print_table
from testbed.errors import UsageError
from testbed.spec import load_experiment
from testbed.spec.document import dotted
from testbed.spec.findings import translated
from testbed.spec.inference import ModelSpec, PlacementSpec

if TYPE_CHECKING:
    from testbed.model.inventory import Inventory

DEFAULT_INPUT = "1,3,224,224"


@click.command()
@click.argument("model", metavar="MODEL_OR_FILE")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="[NAME=]SHAPE[:DTYPE[:BELOW]]",
    help="What the model takes, such as 1,3,224,224 (the default) or input_ids=1,128:int64:30522; once for each input.",
)
@click.option("--csv", "csv_file", type=OutputFile(), help="Write the table here too.")
@click.option("--all", "every", is_flag=True, help="Show every cut, also those that several tensors cross.")
@click.option("--codec", metavar="NAME", help="What crosses in this encoding too (zstd, fp16, int8 …); the file's own.")
@click.option("--analytic", is_flag=True, help="Run nothing: count operations and bytes on a nominal core.")
@afresh_option
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the weights.")
def inspect(
    model: str,
    inputs: tuple[str, ...],
    csv_file: Path | None,
    every: bool,
    codec: str | None,
    analytic: bool,
    afresh: bool,
    seed: int,
) -> None:
    """Print the cuts of a model, what crosses them, and the weights, work and time of the segments between them.

    MODEL_OR_FILE is a model of the zoo (mobilenet_v2, timm:xception, transformers:bert-base), your own
    (package.module:factory), or an experiment's YAML file, whose model and input are taken.
    """
    spec, search_path, seed, declared = _model(model, inputs, seed)
    codec = _codec(codec) if codec is not None else declared
    # A wrong command line must not wait for torch.
    from runner.inspection import survey_model

    found = survey_model(
        spec,
        seed,
        search_path,
        lambda text: click.echo(f"{text} …", err=True),
        every=every,
        analytic=analytic,
        afresh=afresh,
        codec=codec,
    )
    show(found, every=every, codec=codec)
    if csv_file is not None:
        from runner.inspection import inventory_csv

        write(csv_file, inventory_csv(found))


def _codec(name: str) -> str:
    try:
        return PlacementSpec.model_validate({"codec": name}).codec
    except ValidationError as error:
        first = translated(error)[0]
        raise UsageError(f"--codec: {first.message}", remedy=first.remedy) from error


def _model(model: str, inputs: tuple[str, ...], seed: int) -> tuple[ModelSpec, Path, int, str]:
    if model.endswith((".yaml", ".yml")) or Path(model).is_file():
        if inputs:
            raise UsageError("the file says what its model takes", remedy="Leave --input out, or name a model.")
        experiment = load_experiment(Path(model))
        return experiment.model, experiment.source.parent, experiment.seed, experiment.placement.codec
    document: dict[str, object] = {"input": _inputs(inputs or (DEFAULT_INPUT,))}
    prefix, colon, _ = model.partition(":")
    own = bool(colon) and prefix not in ("timm", "transformers")
    document["module" if own else "name"] = model
    try:
        return ModelSpec.model_validate(document), Path.cwd(), seed, "none"
    except ValidationError as error:
        first = translated(error)[0]
        raise UsageError(
            f"{model} can't be inspected: {dotted(first.location) or 'it'}: {first.message}",
            remedy="Name a model like mobilenet_v2, timm:xception or package.module:factory, and its input like "
            "--input 1,3,224,224.",
        ) from error


def _inputs(texts: tuple[str, ...]) -> object:
    named: dict[str, object] = {}
    for text in texts:
        name, equals, rest = text.rpartition("=")
        shape_text, *more = rest.split(":")
        try:
            shape = tuple(int(size) for size in shape_text.strip("[]() ").split(","))
            below = int(more[1]) if len(more) > 1 else None
        except ValueError as error:
            raise UsageError(
                f"--input {text}: no shape", remedy="Write it like 1,3,224,224 or input_ids=1,128:int64:30522."
            ) from error
        if not equals:
            if len(texts) > 1 or more:
                raise UsageError(
                    f"--input {text}: an input that isn't the only one, or not float32, needs its name",
                    remedy="Write it like input_ids=1,128:int64, with the name of the argument of the model's forward.",
                )
            return shape
        if name in named:
            raise UsageError(f"--input {text}: {name} is given twice")
        named[name] = {"shape": shape, **({"dtype": more[0]} if more else {}), "below": below}
    return named


def show(found: Inventory, *, every: bool, codec: str = "none") -> None:
    """Print the table, and the whole model below it."""
    from testbed.units import format_duration, format_size

    encoded = codec != "none"
    table = new_table(
        (
            "cut",
            "behind",
            *(["tensors"] if every else []),
            "crossing",
            *([codec] if encoded else []),
            "weights",
            "GFLOP",
            "live",
            "time",
            "sum",
        ),
        texts=("behind",),
    )
    total_s = sum(row.compute_s for row in found.segments)
    done_s = 0.0
    for row in found.segments:
        done_s += row.compute_s
        table.add_row(
            str(row.last_op),
            row.behind,
            *([str(row.tensors)] if every else []),
            format_size(row.cut_bytes),
            *([format_size(row.encoded_bytes)] if encoded else []),
            format_size(row.weight_bytes),
            f"{row.flops / 1e9:.3f}",
            format_size(row.activation_bytes),
            f"{row.compute_s * 1e3:.3g}ms",
            f"{done_s / total_s:.0%}",
        )
    console = print_table(table)
    words = [
        f"{found.operations} operations, {found.cuts} cuts ({found.single_tensor_cuts} that one tensor crosses)",
        f"{format_size(found.weight_bytes)} of weights",
        f"{sum(row.flops for row in found.segments) / 1e9:.3g} GFLOP",
        f"{format_duration(total_s)} on {'a nominal core' if found.analytic else 'one core of this machine'}",
    ]
    console.print("; ".join(words), soft_wrap=True)
    if found.streams:
        cuts = "; ".join(", ".join(map(str, stream)) for stream in found.streams)
        console.print(f"what lies between two cuts of a row may be left out (recovery: skip): {cuts}", soft_wrap=True)
