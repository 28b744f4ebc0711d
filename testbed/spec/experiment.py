"""The experiment: everything that the YAML file says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    WrapSerializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from testbed.spec.faults import FaultSpec
from testbed.spec.faults.chaos import ChaosSpec
from testbed.spec.hosts import ComputeSpec, HostSpec
from testbed.spec.inference import ADAPTIVE_STRATEGIES, ModelSpec, PlacementSpec
from testbed.spec.links import LinkSpec
from testbed.spec.quantities import FileContext, NodeName, RunName
from testbed.spec.recovery import RecoverySpec
from testbed.spec.section import Section
from testbed.spec.shapes import ShapeError, ShapeSpec, expanded
from testbed.spec.verdict import VerdictSpec
from testbed.spec.workload import WorkloadSpec

Switching = Literal["bridge", "ovs"]


def _read_only(value: Mapping[str, HostSpec]) -> Mapping[str, HostSpec]:
    return MappingProxyType(dict(value))


def _plain(value: Mapping[str, HostSpec], serialize: SerializerFunctionWrapHandler) -> Any:
    return serialize(dict(value))


def _beside(trace: dict[str, Any] | None, folder: Path) -> None:
    """Make the path of a recording relative, if it lies below the experiment's folder."""
    if trace is not None and Path(trace["file"]).is_relative_to(folder):
        trace["file"] = Path(trace["file"]).relative_to(folder).as_posix()


class Experiment(Section):
    """One experiment, immutable; `testbed.spec.load_experiment` reads it from a file and checks it as a whole."""

    noun: ClassVar[str] = "the experiment"

    name: Annotated[RunName, Field(description="Name of the experiment; results are named after it.")]
    seed: Annotated[
        int, Field(ge=0, le=2**32 - 1, description="Seed of everything random: weights, inputs, arrivals.")
    ] = 0
    hosts: Annotated[
        Mapping[NodeName, HostSpec],
        AfterValidator(_read_only),
        WrapSerializer(_plain),
        Field(description="Emulated hosts by name; all but the dispatcher are workers."),
    ]
    shape: Annotated[
        ShapeSpec | None,
        Field(description="Hosts and links made by a rule; hosts and links then only say what is different."),
    ] = None
    dispatcher: Annotated[NodeName, Field(description="The host that takes requests and plans.")] = "dispatcher"
    switches: Annotated[tuple[NodeName, ...], Field(description="Names of the switches.")] = ()
    switching: Annotated[
        Switching,
        Field(description="What the switches are: Linux bridges, or Open vSwitch where the kernel has its datapath."),
    ] = "bridge"
    links: Annotated[tuple[LinkSpec, ...], Field(description="Links between hosts and switches.")]
    model: Annotated[ModelSpec, Field(description="The model that the cluster serves.")]
    placement: Annotated[PlacementSpec, Field(description="How stages come to hosts.")] = PlacementSpec()
    compute: Annotated[ComputeSpec, Field(description="How an emulated CPU spends its time.")] = ComputeSpec()
    workload: Annotated[WorkloadSpec, Field(description="Who asks for inference, how often, for how long.")]
    recovery: Annotated[RecoverySpec, Field(description="How failures are noticed and mended.")] = RecoverySpec()
    faults: Annotated[tuple[FaultSpec, ...], Field(description="What breaks, and when.")] = ()
    chaos: Annotated[ChaosSpec | None, Field(description="A random campaign of faults, besides those.")] = None

    verdict: Annotated[VerdictSpec, Field(description="Above what the emulation is not to be trusted.")] = VerdictSpec()

    @model_validator(mode="before")
    @classmethod
    def _shape_is_expanded(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("shape"), Mapping):
            return data
        try:
            shape = ShapeSpec.model_validate(data["shape"], context=info.context)
        except ValidationError:
            # The field's own validation tells what is wrong; nothing else is known of hosts and links.
            return {"hosts": {}, "links": (), **data}
        try:
            return expanded(data, shape)
        except ShapeError as conflict:
            details = InitErrorDetails(
                type=PydanticCustomError("value_error", "{error}", {"error": str(conflict)}),
                loc=conflict.location,
                input=None,
            )
            raise ValidationError.from_exception_data("experiment", [details]) from conflict

    _source: Path = PrivateAttr(default=Path())

    def model_post_init(self, context: Any, /) -> None:
        """Remember the file that the experiment was read from."""
        if isinstance(context, FileContext):
            self._source = context.source

    @property
    def source(self) -> Path:
        """The absolute path of the file that it came from; ``.`` when it was made in Python."""
        return self._source

    @property
    def workers(self) -> tuple[str, ...]:
        """All hosts but the dispatcher, in the order of the file."""
        return tuple(host for host in self.hosts if host != self.dispatcher)

    @property
    def adapts(self) -> bool:
        """Whether measured changes of rates, speeds and load lead to new plans: as declared, else by the strategy."""
        declared = self.recovery.adaptive
        return self.placement.strategy in ADAPTIVE_STRATEGIES if declared is None else declared

    def resolved(self) -> dict[str, Any]:
        """The whole experiment with its defaults, as plain JSON values in the units of the attribute names.

        Paths below the file's folder are relative to it, so that the same experiment is equal on every machine.
        """
        plain = self.model_dump(mode="json")
        folder = self._source.parent
        for section, key, path in (
            ("model", "weights", self.model.weights),
            ("workload", "images", self.workload.images),
            ("placement", "accuracy", self.placement.accuracy),
        ):
            if path is not None and path.is_relative_to(folder):
                plain[section][key] = path.relative_to(folder).as_posix()
        for link in plain["links"]:
            for settings in (link, link["forward"] or {}, link["backward"] or {}):
                trace = settings.get("trace")
                _beside(trace, folder)
        for fault in plain["faults"]:
            _beside(fault.get("recording"), folder)
        return plain

    def sha256(self) -> str:
        """Hash of the canonical JSON of `resolved`, as hexadecimal digits."""
        canonical = json.dumps(self.resolved(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()
