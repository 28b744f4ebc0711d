"""The system under test: its model, and how it is placed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    WrapSerializer,
    model_validator,
)

from testbed.spec.quantities import ArgumentName, BesideFile, Factory
from testbed.spec.section import Section

Dimension = Annotated[int, Field(ge=1, le=65_536)]
Shape = Annotated[tuple[Dimension, ...], Field(min_length=1, max_length=8)]
_INTEGER_BITS = {"int64": 63, "int32": 31, "int16": 15, "int8": 7, "uint8": 8}


class InputSpec(Section):
    """One of several inputs of a model, or one that isn't float32."""

    noun: ClassVar[str] = "an input"

    shape: Annotated[Shape, Field(description="Its shape, batch first.")]
    dtype: Annotated[
        Literal["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"],
        Field(description="Type of its elements."),
    ] = "float32"
    below: Annotated[
        int | None,
        Field(ge=1, le=2**31 - 1, description="Synthetic integers are drawn from 0 up to but not including this; 2."),
    ] = None

    @model_validator(mode="after")
    def _integers_have_a_limit(self) -> InputSpec:
        if self.below is not None:
            if self.dtype not in _INTEGER_BITS:
                raise ValueError(f"has a limit (below) that {self.dtype} elements can't have; integers can")
            most = 2 ** _INTEGER_BITS[self.dtype]
            if self.below > most:
                raise ValueError(f"has the limit (below) {self.below}; {self.dtype} elements are below {most}")
        return self


def _form(value: object) -> str:
    return "<named>" if isinstance(value, Mapping) else "<shape>"


def _read_only(value: Mapping[str, InputSpec]) -> Mapping[str, InputSpec]:
    return MappingProxyType(dict(value))


def _plain(value: Any, serialize: SerializerFunctionWrapHandler) -> Any:
    return serialize(dict(value) if isinstance(value, Mapping) else value)


ModelInput = Annotated[
    Annotated[Shape, Tag("<shape>")]
    | Annotated[Mapping[ArgumentName, InputSpec], Field(min_length=1), AfterValidator(_read_only), Tag("<named>")],
    Discriminator(_form),
    WrapSerializer(_plain),
]
"""A shape (one input, float32), or each input by the name of the argument of the model's `forward`."""


class ModelSpec(Section):
    """The model that the cluster serves; exactly one of `name` and `module` is set."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["name"]}, {"required": ["module"]}]})
    noun: ClassVar[str] = "model"

    name: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=80,
            description="A model of the zoo: one of torchvision's classification models (mobilenet_v2), of timm's "
            "(timm:xception), or BERT in its published sizes (transformers:bert-base).",
        ),
    ] = None
    module: Annotated[
        Factory | None,
        Field(description="Your own model: package.module:factory, called without arguments, returns a torch Module."),
    ] = None
    input: Annotated[
        ModelInput,
        Field(
            description="What one request holds: the shape of its only input, batch first, or its inputs by the names "
            "that the model's forward gives them: {input_ids: {shape: [1, 128], dtype: int64, below: 30522}}."
        ),
    ]
    weights: Annotated[
        BesideFile | None,
        Field(description="Weights file, relative to this file; seeded random weights when absent."),
    ] = None

    @property
    def inputs(self) -> Mapping[str | None, InputSpec]:
        """The inputs in order; a single one may have no name, which is None."""
        found: dict[str | None, InputSpec] = {}
        if isinstance(self.input, Mapping):
            found.update(self.input)
        else:
            found[None] = InputSpec(shape=self.input)
        return MappingProxyType(found)

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSpec:
        if self.name is not None and self.module is not None:
            raise ValueError(
                "has both a name and a module; a model comes from the zoo (name) or from your code (module)"
            )
        if self.name is None and self.module is None:
            raise ValueError("needs a name (a model of the zoo) or a module (your own: package.module:factory)")
        return self


class WeightsSpec(Section):
    """How much each aim counts when a plan is picked from those that no other plan beats in everything."""

    noun: ClassVar[str] = "weights"

    latency: Annotated[float, Field(ge=0, le=1e6, description="Latency of one request.")] = 0.0
    throughput: Annotated[float, Field(ge=0, le=1e6, description="Requests a second: the bottleneck.")] = 0.0
    energy: Annotated[float, Field(ge=0, le=1e6, description="Energy of a request, by the model.")] = 0.0
    traffic: Annotated[float, Field(ge=0, le=1e6, description="Bytes sent for a request, over all hops.")] = 0.0
    memory: Annotated[float, Field(ge=0, le=1e6, description="Memory of the host that needs most.")] = 0.0
    accuracy: Annotated[float, Field(ge=0, le=1e6, description="Loss of accuracy, by the table given.")] = 0.0

    @model_validator(mode="after")
    def _something_counts(self) -> WeightsSpec:
        if not any(self.by_aim.values()):
            raise ValueError("are all 0; give at least one aim a weight above 0")
        return self

    @property
    def by_aim(self) -> dict[str, float]:
        """The weights above 0 by the names of their aims."""
        return {aim: weight for aim in type(self).model_fields if (weight := getattr(self, aim)) > 0}


Strategy = Literal[
    "exact", "even", "single", "random", "joint-greedy", "k-path", "min-latency", "pareto", "dnnsplit", "dynamic"
]
STRATEGY_NAMES: tuple[str, ...] = get_args(Strategy)

ADAPTIVE_STRATEGIES = frozenset({"dnnsplit", "dynamic"})
"""Strategies that are made to decide anew during a run."""


class PlacementSpec(Section):
    """How stages come to hosts."""

    noun: ClassVar[str] = "placement"

    strategy: Annotated[
        Strategy,
        Field(
            description="exact: the least bottleneck, proven; even: stages of equal work, as DEFER does it; "
            "single: the whole model on the best host; random: any cuts and hosts, seeded; joint-greedy and k-path: "
            "SEIFER's; min-latency: the least latency of one request; pareto: by weights among the plans that no other "
            "beats in everything; dnnsplit: at DNNSplit's candidate cuts over tiers of hosts; dynamic: a cut smaller "
            "than the input, for the rates and the load."
        ),
    ] = "exact"
    objective: Annotated[
        Literal["throughput", "latency", "cost"],
        Field(
            description="What dnnsplit optimises: latency (also when absent) or cost. Every other strategy has an aim "
            "of its own."
        ),
    ] = "throughput"
    balance: Annotated[
        Literal["compute", "layers"],
        Field(description="What the stages of even are even in: compute, or layers (operations), as DEFER's own cuts."),
    ] = "compute"
    weights: Annotated[
        WeightsSpec | None,
        Field(description="pareto: how much each aim counts; latency, throughput and energy alike when absent."),
    ] = None
    accuracy: Annotated[
        BesideFile | None,
        Field(
            description="pareto: CSV file (host, op, loss): points of accuracy that the model loses when "
            "an operation runs on a host."
        ),
    ] = None
    costs: Annotated[
        Literal["measured", "analytic"],
        Field(
            description="Where the times of the model's operations come from: measured on this machine (once, then "
            "kept), or analytic: counted operations and bytes on a nominal core, for plans where nothing may be run."
        ),
    ] = "measured"
    codec: Annotated[
        Literal["none", "lz4", "zstd", "zlib", "fp16", "int8", "int8+zstd"],
        Field(
            description="How tensors are encoded on the wire: lz4, zstd or zlib (lossless), fp16, or int8 (one range "
            "for a tensor). Through fp16 and int8 an answer may differ from the whole model's by a documented bound."
        ),
    ] = "none"
    deploy: Annotated[
        Literal["network", "prestaged"],
        Field(description="network: weights cross the emulated links; prestaged: they are on the disks beforehand."),
    ] = "network"
    max_stages: Annotated[
        int | None,
        Field(ge=1, le=10_000, description="At most so many stages; as many as the workers may hold when absent."),
    ] = None
    stages_per_host: Annotated[
        int,
        Field(
            ge=1,
            le=16,
            description="exact: a host may hold up to so many stages, with stages of others between them; they share "
            "its processor, its memory and its links.",
        ),
    ] = 1

    @model_validator(mode="after")
    def _keys_fit_the_strategy(self) -> PlacementSpec:
        for key in ("weights", "accuracy"):
            if getattr(self, key) is not None and self.strategy != "pareto":
                raise ValueError(f"has {key}, which only the strategy pareto knows, not {self.strategy}")
        if self.stages_per_host > 1 and self.strategy != "exact":
            raise ValueError(
                f"has stages_per_host {self.stages_per_host}, which only the strategy exact knows; "
                f"{self.strategy} gives a host one stage"
            )
        if self.balance != "compute" and self.strategy != "even":
            raise ValueError(f"has the balance {self.balance}, which only the strategy even knows, not {self.strategy}")
        if self.objective != "throughput" and self.strategy != "dnnsplit":
            raise ValueError(
                f"has the objective {self.objective}, which only the strategy dnnsplit knows, not {self.strategy}"
            )
        return self
