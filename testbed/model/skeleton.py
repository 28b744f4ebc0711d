"""A graph without its weights, as JSON.

The dispatcher cuts stages out of the model while it runs, also for plans that nobody foresaw. For that it needs the
graph but neither the weights in memory nor the user's code: it is given the skeleton that the experiment exported once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from testbed.errors import ModelError
from testbed.model.graph import ModelGraph
from testbed.model.program import DTYPES, decode_argument, dtype_name, encode_argument
from testbed.model.tracing import Op, Value

VERSION = 1


def dump_skeleton(graph: ModelGraph) -> bytes:
    """The graph's values and operations as JSON."""
    return json.dumps(
        {
            "version": VERSION,
            "inputs": len(graph.inputs),
            "weights": len(graph.weights),
            "values": [
                [value.name, value.shape, dtype_name(value.dtype), value.order, value.strides] for value in graph.values
            ],
            "ops": [
                {
                    "name": op.name,
                    "op": op.op,
                    "args": encode_argument(op.args),
                    "kwargs": {name: encode_argument(argument) for name, argument in op.kwargs.items()},
                    "reads": op.reads,
                    "makes": op.makes,
                    "module": op.module,
                }
                for op in graph.ops
            ],
            "outputs": graph.crossing(len(graph.ops)),
        },
        allow_nan=False,
        separators=(",", ":"),
    ).encode()


def load_skeleton(path: Path) -> ModelGraph:
    """The graph of a file that :func:`dump_skeleton` filled; its weights have shapes but no memory.

    Raises:
        ModelError: If the file can't be read or is no skeleton of this version.
    """
    try:
        plain = json.loads(path.read_bytes())
        if plain["version"] != VERSION:
            raise ModelError(f"{path}: a graph of version {plain['version']}, this is version {VERSION}")
        values = [_value(item) for item in plain["values"]]
        inputs, weights = int(plain["inputs"]), int(plain["weights"])
        return ModelGraph(
            values,
            inputs,
            [torch.empty(value.shape, dtype=value.dtype, device="meta") for value in values[inputs : inputs + weights]],
            [_op(item, len(values)) for item in plain["ops"]],
            [int(value) for value in plain["outputs"]],
        )
    except OSError as error:
        raise ModelError(f"{path}: can't read the graph: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: no graph of a model: {error!r}") from error


def _value(item: Any) -> Value:
    name, shape, dtype, order, strides = item
    return Value(name, tuple(shape), DTYPES[dtype], None if order is None else tuple(order), tuple(strides))


def _op(item: Any, values: int) -> Op:
    return Op(
        name=item["name"],
        op=item["op"],
        args=decode_argument(item["args"], item["name"], values),
        kwargs={name: decode_argument(argument, item["name"], values) for name, argument in item["kwargs"].items()},
        reads=tuple(item["reads"]),
        makes=tuple(item["makes"]),
        module=item["module"],
    )
