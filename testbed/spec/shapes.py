"""Shapes: hosts and links made by a rule instead of being listed. Pure and seeded.

``star`` joins all hosts to the switch s1, ``chain`` each to the next. In all other shapes every pair of hosts has a
link of its own, as radios in reach of each other do: ``complete`` says nothing of where they stand; ``ring``, ``grid``,
``clusters`` and ``random`` place them on a field of 150 m as SEIFER's emulator does (arXiv:2304.11941, its notebook
``generate_cluster_architectures``):

- ring: corners of a regular polygon, 75 m from its centre;
- grid: rows and columns 50 m apart;
- clusters: groups, each a small polygon of radius 150 m // nodes, around points of a ring of 75 m;
- random: uniform in a square of 150 m; the experiment's seed decides.

``rate: wifi`` takes SEIFER's rate over a distance of d metres, B(d) = log2(1 + 283230/d²) Mbit/s. Nearer than 1 m, its
least distance, hosts don't get.

The first of the nodes is the dispatcher, the others are node1, node2 and so on. What the file has under ``hosts`` and
``links`` is laid over what the shape makes, key by key.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from testbed.spec.links import LossModel
from testbed.spec.quantities import Length, LinkDelay, Rate, Size
from testbed.spec.section import Section

Point = tuple[float, float]

WIFI_BPS = 1e6
WIFI_SNR_M2 = 283_230.0
LEAST_DISTANCE_M = 1.0
FIELD_M = 150.0
MAX_NODES = 50
SWITCH = "s1"

_KEYS_OF: Mapping[str, tuple[str, ...]] = {
    "star": ("radius",),
    "chain": ("spacing",),
    "ring": ("radius",),
    "grid": ("spacing", "columns"),
    "clusters": ("radius", "groups", "group_radius"),
    "complete": (),
    "random": ("side",),
}
_GEOMETRY = ("radius", "spacing", "side", "columns", "groups", "group_radius")


def _rate_tag(value: object) -> str:
    return "<wifi>" if value == "wifi" else "<rate>"


RateOrWifi = Annotated[
    Annotated[Rate, Tag("<rate>")] | Annotated[Literal["wifi"], Tag("<wifi>")], Discriminator(_rate_tag)
]
"""Bit/s, or ``wifi``."""


class ShapeSpec(Section):
    """Hosts and links made by a rule."""

    noun: ClassVar[str] = "a shape"

    kind: Annotated[
        Literal["star", "chain", "ring", "grid", "clusters", "complete", "random"],
        Field(description="star and chain join neighbours; in the others each pair of hosts has a link of its own."),
    ]
    nodes: Annotated[int, Field(ge=2, le=MAX_NODES, description="How many hosts, the dispatcher included.")]
    rate_bps: Annotated[
        RateOrWifi | None,
        Field(alias="rate", description="Rate of each link; or wifi: from the distance, log2(1 + 283230/d²) Mbit/s."),
    ] = None
    delay_s: Annotated[LinkDelay, Field(alias="delay", description="Delay of each link, one way.")] = 0.0
    jitter_s: Annotated[LinkDelay, Field(alias="jitter", description="How far the delays scatter.")] = 0.0
    loss: Annotated[LossModel, Field(description="Share of packets that each link loses, or a model of bursts.")] = 0.0
    radius_m: Annotated[
        Length, Field(alias="radius", description="From the centre to a host (star, ring) or a group (clusters); 75m.")
    ] = 75.0
    spacing_m: Annotated[
        Length, Field(alias="spacing", description="From a host to its neighbours (chain, grid); 50m.")
    ] = 50.0
    side_m: Annotated[Length, Field(alias="side", description="Side of the square (random); 150m.")] = FIELD_M
    columns: Annotated[
        int | None, Field(ge=1, le=MAX_NODES, description="Of a grid; as many as rows, or one more, when absent.")
    ] = None
    groups: Annotated[int, Field(ge=1, le=MAX_NODES, description="How many groups (clusters).")] = 3
    group_radius_m: Annotated[
        Length | None, Field(alias="group_radius", description="Of each group (clusters); 150m // nodes when absent.")
    ] = None
    cpu: Annotated[float | None, Field(gt=0, le=256, description="Share of a core of each host.")] = None
    device: Annotated[str | None, Field(description="Instead of cpu: a real device, such as raspberry-pi-4.")] = None
    memory_bytes: Annotated[Size | None, Field(alias="memory", description="Memory of each host.")] = None
    storage_bytes: Annotated[Size | None, Field(alias="storage", description="Disk of each host.")] = None

    @model_validator(mode="after")
    def _keys_belong_to_the_kind(self) -> Self:
        for key in _GEOMETRY:
            field = key if key in type(self).model_fields else f"{key}_m"
            if field in self.model_fields_set and key not in _KEYS_OF[self.kind]:
                own = ", ".join(_KEYS_OF[self.kind]) or "none"
                raise ValueError(f"the shape {self.kind} has no {key}; of its kind's own keys it has: {own}")
        if self.rate_bps == "wifi" and self.kind == "complete":
            raise ValueError(
                "rate: wifi needs distances, which complete doesn't have; use ring, grid, clusters or random"
            )
        if self.kind == "clusters" and self.groups > self.nodes:
            raise ValueError(f"{self.groups} groups are more than the {self.nodes} nodes")
        return self


class ShapeError(ValueError):
    """The file says something of hosts, links or switches that doesn't go with its shape.

    Args:
        message: What.
        location: Keys and indices of where.
    """

    def __init__(self, message: str, *location: str | int) -> None:
        super().__init__(message)
        self.location = location


def wifi_rate_bps(distance_m: float) -> int:
    """B(d) = log2(1 + 283230/d²) Mbit/s: SEIFER, ``generate_cluster_architectures`` (notes in arXiv:2304.11941)."""
    return round(WIFI_BPS * math.log2(1 + WIFI_SNR_M2 / max(LEAST_DISTANCE_M, distance_m) ** 2))


def positions(shape: ShapeSpec, seed: int) -> tuple[Point, ...]:
    """Where each node stands, in metres; of a complete shape, and of the switch of a star, nothing is known."""
    count = shape.nodes
    match shape.kind:
        case "star" | "ring" | "complete":
            return _polygon(count, shape.radius_m)
        case "chain":
            return tuple((index * shape.spacing_m, 0.0) for index in range(count))
        case "grid":
            columns = shape.columns or math.ceil(math.sqrt(count))
            return tuple(
                (index % columns * shape.spacing_m, index // columns * shape.spacing_m) for index in range(count)
            )
        case "clusters":
            radius_m = FIELD_M // count if shape.group_radius_m is None else shape.group_radius_m
            sizes = [count // shape.groups + (group < count % shape.groups) for group in range(shape.groups)]
            return tuple(
                (x + dx, y + dy)
                for (x, y), size in zip(_polygon(shape.groups, shape.radius_m), sizes, strict=True)
                for dx, dy in _polygon(size, radius_m)
            )
        case "random":
            draw = random.Random(f"{seed}/shape")  # noqa: S311 - repeatable, not secret
            return tuple((draw.uniform(0, shape.side_m), draw.uniform(0, shape.side_m)) for _ in range(count))


def _polygon(corners: int, radius_m: float) -> tuple[Point, ...]:
    if corners == 1:
        return ((0.0, 0.0),)
    angles = [2 * math.pi * index / corners for index in range(corners)]
    return tuple((radius_m * math.cos(angle), radius_m * math.sin(angle)) for angle in angles)


def host_names(shape: ShapeSpec, dispatcher: str) -> tuple[str, ...]:
    """The dispatcher, then node1, node2 …; a worker that would have the dispatcher's name is left out of the count."""
    workers = (name for number in itertools.count(1) if (name := f"node{number}") != dispatcher)
    return (dispatcher, *itertools.islice(workers, shape.nodes - 1))


def expanded(data: Mapping[str, Any], shape: ShapeSpec) -> dict[str, Any]:
    """The experiment's keys with the shape's hosts, switches and links in them, as a file would list them.

    Args:
        data: The keys of the file, ``shape`` among them.
        shape: That shape.

    Raises:
        ShapeError: If the file has switches, or names a host or a link that the shape doesn't have.
    """
    if data.get("switches"):
        raise ShapeError(
            "there are both switches and a shape; a star brings its switch, the other shapes need none", "switches"
        )
    names = host_names(shape, str(data.get("dispatcher", "dispatcher")))
    raw = data["shape"] if isinstance(data["shape"], Mapping) else {}
    common = {key: raw[key] for key in ("cpu", "device", "memory", "storage") if key in raw}
    seed = data.get("seed", 0)
    links = _links(shape, names, seed if isinstance(seed, int) else 0)
    for key in ("delay", "jitter", "loss"):
        if key in raw:
            for link in links:
                link[key] = raw[key]
    return {
        **data,
        "hosts": _laid_over({name: dict(common) for name in names}, data.get("hosts")),
        "switches": (SWITCH,) if shape.kind == "star" else (),
        "links": _links_laid_over(links, data.get("links")),
    }


def _links(shape: ShapeSpec, names: Sequence[str], seed: int) -> list[dict[str, Any]]:
    points = positions(shape, seed)
    numbers = range(shape.nodes)
    if shape.kind == "star":
        ends = [((name, SWITCH), shape.radius_m) for name in names]
    else:
        pairs = itertools.pairwise(numbers) if shape.kind == "chain" else itertools.combinations(numbers, 2)
        ends = [((names[one], names[other]), math.dist(points[one], points[other])) for one, other in pairs]
    links: list[dict[str, Any]] = []
    for between, distance_m in ends:
        link: dict[str, Any] = {"between": between}
        if shape.rate_bps is not None:
            rate_bps = wifi_rate_bps(distance_m) if shape.rate_bps == "wifi" else shape.rate_bps
            link["rate"] = f"{rate_bps}bit/s"
        links.append(link)
    return links


def _laid_over(made: dict[str, dict[str, Any]], given: object) -> object:
    """Hosts with what the file says of them; a value that is no mapping is left to validation."""
    if given is None:
        return made
    if not isinstance(given, Mapping):
        return given
    for name, settings in given.items():
        if name not in made:
            shown = ", ".join(itertools.islice(made, 20)) + (", …" if len(made) > 20 else "")
            raise ShapeError(
                f"the shape has no host {str(name)[:60]!r}; hosts of the shape: {shown}", "hosts", str(name)
            )
        if not isinstance(settings, Mapping):
            return {**made, **given}
        # A device instead of a share, or the other way round.
        base = {
            key: value
            for key, value in made[name].items()
            if not ((key == "cpu" and "device" in settings) or (key == "device" and "cpu" in settings))
        }
        made[name] = {**base, **settings}
    return made


def _links_laid_over(made: list[dict[str, Any]], given: object) -> object:
    if given is None:
        return tuple(made)
    if not isinstance(given, (list, tuple)):
        return given
    place = {frozenset(link["between"]): index for index, link in enumerate(made)}
    for number, settings in enumerate(given):
        between = settings.get("between") if isinstance(settings, Mapping) else None
        if not isinstance(between, (list, tuple)) or not all(isinstance(end, str) for end in between):
            return given  # validation says what is wrong with it
        index = place.get(frozenset(between))
        if index is None:
            raise ShapeError(f"the shape has no link between {' and '.join(between)[:60]}", "links", number, "between")
        made[index] = {**made[index], **settings}
    return tuple(made)
