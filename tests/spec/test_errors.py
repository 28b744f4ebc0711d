"""Golden pairs: an edit of the quickstart, and exactly what is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from testbed.errors import SpecError
from testbed.spec import Experiment, load_experiment
from testbed.spec.faults import FAULT_VERBS
from testbed.spec.inference import PlacementSpec

Load = Callable[..., Experiment]
Edit = tuple[str, str]

LINK1 = "  - {between: [node1, s1], rate: 20Mbit/s, delay: 5ms, loss: 0.1%}\n"
KILL = "{at: 8s, kill: node2}"
THROTTLE = "{at: 20s, throttle: [node1, s1], rate: 2Mbit/s, for: 5s}"
KINDS = ", ".join(FAULT_VERBS)
HOSTS = "hosts and switches: dispatcher, node1, node2, s1"
STRATEGIES = ", ".join(get_args(PlacementSpec.model_fields["strategy"].annotation))
DURATIONS = "(units: us, ms, s, min, h)"

GOLDEN: dict[str, tuple[Edit, str]] = {
    "unknown key": (
        ("storage", "storrage"),
        "5: hosts.node1.storrage: unknown key 'storrage'\n"
        "did you mean 'storage'? legal keys: cpu, device, memory, storage, power, price_per_hour, tier, tags",
    ),
    "unknown top key": (
        ("seed: 1", "sede: 1"),
        "2: sede: unknown key 'sede'\ndid you mean 'seed'? legal keys: name, seed, hosts, shape, dispatcher, "
        "switches, switching, links, model, placement, compute, workload, recovery, faults, chaos, verdict",
    ),
    "attribute name in place of key": (
        ("rate: 50Mbit/s", "rate_bps: 5"),
        "9: links[0].rate_bps: unknown key 'rate_bps'\ndid you mean 'rate'? legal keys: rate, delay, jitter, "
        "jitter_distribution, jitter_reorders, loss, reorder, duplicate, queue, trace, between, price_per_gb, "
        "forward, backward",
    ),
    "duplicate key": (
        ("seed: 1", "seed: 1\nseed: 2"),
        "3: the key 'seed' is there twice\nit was first given in line 2",
    ),
    "missing key": (
        ("dispatcher: {cpu: 0.3}", "dispatcher: {}"),
        "4: hosts.dispatcher: the key 'cpu' is missing; a host needs it (a share of one core of this machine), "
        "or a device",
    ),
    "missing key of a block": (
        ("recovery:", "recovery:\n  heartbeat: 100\n#"),
        f"15: recovery.heartbeat: 100 has no unit; a duration is written like 5ms {DURATIONS}",
    ),
    "missing unit": (
        ("delay: 2ms", "delay: 2"),
        f"9: links[0].delay: 2 has no unit; a duration is written like 5ms {DURATIONS}",
    ),
    "not a word of the list": (
        ("recovery:", "placement: {strategy: exat}\nrecovery:"),
        f"14: placement.strategy: 'exat' is not legal here\ndid you mean 'exact'? legal: {STRATEGIES}",
    ),
    "weights for a strategy without": (
        ("recovery:", "placement: {strategy: exact, weights: {latency: 1}}\nrecovery:"),
        "14: placement: has weights, which only the strategy pareto knows, not exact",
    ),
    "weights of nothing": (
        ("recovery:", "placement: {strategy: pareto, weights: {latency: 0}}\nrecovery:"),
        "14: placement.weights: are all 0; give at least one aim a weight above 0",
    ),
    "weight of no aim": (
        ("recovery:", "placement: {strategy: pareto, weights: {latencie: 1}}\nrecovery:"),
        "14: placement.weights.latencie: unknown key 'latencie'\n"
        "did you mean 'latency'? legal keys: latency, throughput, energy, traffic, memory, accuracy",
    ),
    "negative weight": (
        ("recovery:", "placement: {strategy: pareto, weights: {energy: -1}}\nrecovery:"),
        "14: placement.weights.energy: -1 is too small; the least is 0.0\nenergy: Energy of a request, by the model.",
    ),
    "several stages on a host with another strategy": (
        ("recovery:", "placement: {strategy: even, stages_per_host: 2}\nrecovery:"),
        "14: placement: has stages_per_host 2, which only the strategy exact knows; even gives a host one stage",
    ),
    "no stage on a host": (
        ("recovery:", "placement: {stages_per_host: 0}\nrecovery:"),
        "14: placement.stages_per_host: 0 is too small; the least is 1\nstages_per_host: exact: a host may hold up to "
        "so many stages, with stages of others between them; they share its processor, its memory and its links.",
    ),
    "balance of another strategy": (
        ("recovery:", "placement: {strategy: exact, balance: layers}\nrecovery:"),
        "14: placement: has the balance layers, which only the strategy even knows, not exact",
    ),
    "objective of another strategy": (
        ("recovery:", "placement: {strategy: exact, objective: cost}\nrecovery:"),
        "14: placement: has the objective cost, which only the strategy dnnsplit knows, not exact",
    ),
    "power without unit": (
        ("dispatcher: {cpu: 0.3}", "dispatcher: {cpu: 0.3, power: 5}"),
        "4: hosts.dispatcher.power: 5 has no unit; a power is written like 6.4W (units: mW, W)",
    ),
    "unknown workload": (
        ("kind: closed", "kind: opne"),
        "13: workload.kind: 'opne' is not legal here\ndid you mean 'open'? legal: closed, open",
    ),
    "unknown fault": (
        ("kill: node2", "kil: node2"),
        f"16: faults[0].kil: unknown kind of fault 'kil'\ndid you mean 'kill'? "
        f"kinds of fault: {', '.join(FAULT_VERBS[:20])}, … ({len(FAULT_VERBS) - 20} more)",
    ),
    "two faults in one": (
        ("kill: node2", "kill: node2, throttle: [node1, s1]"),
        "16: faults[0]: one fault can't be kill and throttle at once\nwrite them as two items of the list",
    ),
    "no fault": (
        ("{at: 8s, kill: node2}", "{at: 8s}"),
        f"16: faults[0]: it doesn't say what happens\nkinds of fault: {KINDS}",
    ),
    "quoted number": (("seed: 1", "seed: '1'"), "2: seed: '1' is no whole number\nwrite it without quotes"),
    "neither true nor false": (
        ("misses: 3}", "misses: 3, adaptive: maybe}"),
        "14: recovery.adaptive: 'maybe' is neither true nor false\n"
        "adaptive: Whether a new plan is also considered when the measured rates, speeds or load change; when absent, "
        "only with the strategies that are made for it: dnnsplit and dynamic.",
    ),
    "number as name": (
        ("name: quickstart", "name: 5"),
        "1: name: 5 is no text; put it in quotes if it is a name\n"
        "name: Name of the experiment; results are named after it.",
    ),
    "octal": (
        ("seed: 1", "seed: 010"),
        "2: 010 is ambiguous: some YAML readers take a leading zero for octal\n"
        "write it without the zero, or in quotes if it is text",
    ),
    "run name": (
        ("name: quickstart", "name: ../up"),
        "1: name: '../up' is no legal name of an experiment; it names files, so it has at most 32 small letters, "
        "digits and -, and starts with a letter or digit",
    ),
    "host name": (
        ("  node2: {", "  2node: {"),
        "6: hosts.2node: '2node' is no legal name; a name starts with a letter and has letters, digits, _ and - only",
    ),
    "long host name": (
        ("  node2: {", "  raspberrypi4: {"),
        "6: hosts.raspberrypi4: the name 'raspberrypi4' has 12 characters; at most 10 are legal, because Linux limits "
        "interface names to 15 and Mininet appends -eth0",
    ),
    "unknown host in a link": (
        ("[node1, s1], rate: 20", "[nod1, s1], rate: 20"),
        f"10: links[1].between[0]: there is no host or switch 'nod1'\ndid you mean 'node1'? {HOSTS}",
    ),
    "link to itself": (
        ("[node1, s1], rate: 20", "[node1, node1], rate: 20"),
        "10: links[1].between: a link from 'node1' to itself\nname two different nodes",
    ),
    "same link twice": (
        (LINK1, LINK1 + "  - {between: [s1, node1]}\n"),
        "11: links[2].between: the link between s1 and node1 is there already\nit is links[1]",
    ),
    "host and switch": (
        ("switches: [s1]", "switches: [s1, node2]"),
        "7: switches[1]: 'node2' is a host already\ngive the switch a name of its own",
    ),
    "host linked to nothing": (
        ("switches:", "  spare: {cpu: 0.1}\nswitches:"),
        "7: hosts.spare: the host 'spare' is linked to nothing\nadd it to links, or remove it",
    ),
    "switch linked to nothing": (
        ("switches: [s1]", "switches: [s1, s2]"),
        "7: switches[1]: the switch 's2' is linked to nothing\nadd it to links, or remove it",
    ),
    "island": (
        ("switches: [s1]\nlinks:\n", "  a: {cpu: 1}\n  b: {cpu: 1}\nswitches: [s1]\nlinks:\n  - {between: [a, b]}\n"),
        "7: hosts.a: the dispatcher 'dispatcher' can't reach a, b\nadd links that join all hosts",
    ),
    "loop of switches": (
        (
            "switches: [s1]\nlinks:\n",
            "switches: [s1, s2, s3]\nlinks:\n"
            "  - {between: [s1, s2]}\n  - {between: [s3, s2]}\n  - {between: [s3, s1]}\n",
        ),
        "11: links[2].between: switches are wired in a loop, which would storm: s3-s2, s1-s2, s3-s1\n"
        "remove one of these links",
    ),
    "two links into one segment": (
        (
            "switches: [s1]\nlinks:\n",
            "switches: [s1, s2]\nlinks:\n  - {between: [s1, s2]}\n  - {between: [node1, s2]}\n",
        ),
        "12: links[3].between: 'node1' has two links into one switched segment: node1-s2 (links[1]) and node1-s1\n"
        "remove one of them, or the link that joins the switches",
    ),
    "no such dispatcher": (
        ("seed: 1", "dispatcher: node3"),
        "2: dispatcher: there is no host 'node3'\ndid you mean 'node2'? hosts: dispatcher, node1, node2",
    ),
    "fault on unknown host": (
        ("kill: node2", "kill: ndoe2"),
        "16: faults[0].kill: there is no host 'ndoe2'\ndid you mean 'node2'? hosts: dispatcher, node1, node2",
    ),
    "leave of the dispatcher": (
        ("kill: node2", "leave: dispatcher"),
        "16: faults[0].leave: 'dispatcher' is the dispatcher; leave is for workers\nworkers: node1, node2",
    ),
    "kill of a switch": (
        ("kill: node2", "kill: s1"),
        "16: faults[0].kill: 's1' is a switch; kill is for hosts\nhosts: dispatcher, node1, node2",
    ),
    "throttle of no link": (
        ("throttle: [node1, s1]", "throttle: [node1, node2]"),
        "17: faults[1].throttle: no link joins node1 and node2\n"
        "did you mean 'node1-s1'? links: dispatcher-s1, node1-s1, node2-s1",
    ),
    "fault after the end": (
        ("at: 8s", "at: 30s"),
        "16: faults[0].at: strikes at 30s, but the workload ends after 30s\n"
        "move it earlier, or make workload.duration longer",
    ),
    "fault ends after the end": (
        ("for: 5s", "for: 11s"),
        "17: faults[1].for: lasts until 31s, but the workload ends after 30s\n"
        "shorten it, leave `for` out (it then lasts to the end), or make workload.duration longer",
    ),
    "killed twice": (
        (THROTTLE, "{at: 9s, kill: node2}"),
        "17: faults[1]: 'node2' is killed already (faults[0])\nremove one of them, or change its time",
    ),
    "throttle that isn't one": (
        ("rate: 2Mbit/s", "rate: 20Mbit/s"),
        "17: faults[1].rate: is no throttle: node1-s1 has 20Mbit/s anyway\ntake a lower rate",
    ),
    "jitter beyond the delay": (
        ("throttle: [node1, s1], rate: 2Mbit/s", "jitter: [node1, s1], add: 6ms"),
        "17: faults[1].add: a jitter of 6ms would be more than the delay of 5ms from node1; "
        "packets can't arrive before they were sent\ntake less, or let a delay fault of the link last as long",
    ),
    "name and module": (
        ("name: mobilenet_v2", "name: mobilenet_v2, module: 'a.b:c'"),
        "12: model: has both a name and a module; a model comes from the zoo (name) or from your code (module)",
    ),
    "neither name nor module": (
        ("name: mobilenet_v2, ", ""),
        "12: model: needs a name (a model of the zoo) or a module (your own: package.module:factory)",
    ),
    "one end of a link": (
        ("[node1, s1], rate: 20", "[node1], rate: 20"),
        "10: links[1].between: has one entry too few\nit takes two names, like [node1, s1]",
    ),
    "two documents": (("seed: 1", "---\nseed: 1"), "2: a second document starts here\none experiment a file"),
    "tag": (
        ("seed: 1", "seed: !!python/object/apply:os.getcwd []"),
        "2: the tag !!python/object/apply:os.getcwd is not supported\nwrite the value without a tag",
    ),
    "tab": (
        ("seed: 1", "\tseed: 1"),
        "2: not legal YAML: found character '\\t' that cannot start any token\nYAML is indented with spaces, not tabs",
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_what_is_told(case: str, load: Load, tmp_path: Path) -> None:
    edit, expected = GOLDEN[case]
    with pytest.raises(SpecError) as caught:
        load(edit)
    assert str(caught.value) == f"{tmp_path / 'topo.yaml'}:{expected}"
    assert caught.value.line == int(expected.partition(":")[0])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("hosts.node1.cpu=0", "hosts.node1.cpu: 0 is too small; it must be above 0"),
        ("hosts.node1.cpu=257", "hosts.node1.cpu: 257 is too large; the most is 256"),
        ("hosts.node1.cpu=1e999", "hosts.node1.cpu: inf is no number"),
        ("links.0.rate=11Gbit/s", "11Gbit/s is out of range; the rate of a link lies between 8kbit/s and 10Gbit/s"),
        ("links.0.rate=7kbit/s", "7kbit/s is out of range; the rate of a link lies between 8kbit/s and 10Gbit/s"),
        ("links.0.delay=11s", "11s is out of range; the delay of a link lies between 0s and 10s"),
        ("links.0.loss=1", "links[0].loss: a loss must be below 1 (100%); to cut a link off, use a fault"),
        ("workload.in_flight=0", "workload.in_flight: 0 is too small; the least is 1"),
        ("workload.duration=0s", "workload.duration: a duration must be above 0"),
        ("recovery.misses=0", "recovery.misses: 0 is too small; the least is 1"),
        ("recovery.heartbeat=10us", "10us is out of range; the time between heartbeats lies between 1ms and 60s"),
        ("recovery={replicas: 2}", "recovery: has replicas, which only the policy standby knows, not replan"),
        ("recovery={wait: 5s}", "recovery: has wait, which only the policy restart knows, not replan"),
        ("recovery={threshold: 8}", "recovery: has threshold, which only the detector phi knows, not misses"),
        ("recovery={detector: phi, misses: 3}", "recovery: has misses, which only the detector misses knows, not phi"),
        ("recovery={drift: 20%}", "recovery.drift: says when to adapt, but nothing adapts"),
        ("recovery.gain=200%", "200%"),
        ("recovery.policy=stand-by", "recovery.policy: 'stand-by'"),
        ("compute.mode=reel", "compute.mode: 'reel'"),
        ("compute.time_scale=0.5", "compute.time_scale: 0.5 is too small"),
        ("compute.noise=5%", "compute: has noise, which only mode calibrated knows"),
        ("compute={mode: calibrated, noise: 60%}", "60% is out of range; the noise of service times"),
        (
            "compute.time_scale=10000",
            "compute.time_scale: 10000 is too large",
        ),
        ("hosts.node1={device: raspberry-pi}", "unknown device 'raspberry-pi'; devices: raspberry-pi-4"),
        ("hosts.node1={device: raspberry-pi-4, cpu: 1}", "hosts.node1: has both cpu and device"),
        ("compute.period=2s", "2s is out of range; the period of the CPU quota lies between 1ms and 1s"),
        ("model.input=[1, 0]", "model.input[1]: 0 is too small; the least is 1"),
        ("model.input=[]", "model.input: an empty list has too few entries; at least 1 are needed"),
        ("seed=-1", "seed: -1 is too small; the least is 0"),
        ("seed=true", "seed: true is no whole number"),
        ("recovery.misess=5", "recovery: unknown key 'misess'\ndid you mean 'misses'?"),
        ("hosts.nod1.cpu=5", "hosts: unknown key 'nod1'\ndid you mean 'node1'?"),
        ("links.9.rate=5Mbit/s", "links: has no item '9'\nits items are links[0] to links[2]"),
        ("seed.x=5", "seed: has no keys below it"),
        ("hosts={dispatcher: {cpu: 1}}", "hosts: there is no worker"),
        ("seed", "no override\nwrite it like --set links.0.rate=5Mbit/s"),
        ("a..b=1", "'a..b' is no path of keys"),
        ("seed=[1", "not legal YAML"),
        ("workload={duration: 60s}", "workload: the key 'kind' is missing; workload needs it\nlegal: closed, open"),
    ],
)
def test_an_error_in_an_override_names_the_option(load: Load, override: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(overrides=(override,))
    message = str(caught.value)
    assert message.startswith(f"--set {override}: ")
    assert told in message
    assert caught.value.file is None


def test_the_seed_option_is_named(load: Load) -> None:
    with pytest.raises(SpecError, match=r"^--seed -1: seed: -1 is too small"):
        load(seed=-1)


def test_many_errors_fit_a_screen(load: Load) -> None:
    with pytest.raises(SpecError) as caught:
        load(("5ms", "5"), ("cpu: 0.1", "cpus: 0.1"), ("128MiB", "128"), ("at: 8s, ", ""))
    lines = str(caught.value).splitlines()
    assert "unknown key 'cpus'" in lines[0]
    assert lines[2] == "also wrong (6):"
    assert lines[-1] == "  … and 2 more"
    assert len(lines) <= 10


def test_an_anchor_bomb_is_refused(load: Load) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    with pytest.raises(SpecError, match="more than 200000 values, aliases expanded"):
        load(("seed: 1\n", bomb))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file is empty"),
        (b"- a\n", "1: is no mapping of keys to values"),
        (b"name: \xff\n", "1: not UTF-8 text"),
        (b"name: a\nseed: \x01\n", "2: not legal YAML: a control character"),
        (b"[" * 50_000, "nested deeper than 32 levels"),
        (b"a: &a [*a]\n", r"1: the alias \*a refers to itself"),
        (b"a: *b\n", r"1: the alias \*b is defined nowhere above"),
        (b"? [a]\n: b\n", "1: a key must be a plain word"),
        (b"<<: 5\n", "1: << takes a mapping"),
        (b'a: "\\ud800"\n', "surrogate"),
        (b'a: "\\UFFFFFFFF"\n', "out of range"),
        (b"#" * (2**20 + 1), "the file is larger than 1 MiB"),
    ],
)
def test_files_that_are_no_experiment(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(SpecError, match=told):
        load_experiment(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "ring.yaml").write_text("name: ring\n")
    with pytest.raises(SpecError) as caught:
        load_experiment(tmp_path / "rnig.yaml")
    assert "can't read it: No such file or directory" in str(caught.value)
    assert "ring.yaml" in str(caught.value)
    with pytest.raises(SpecError, match="can't read it: Is a directory"):
        load_experiment(tmp_path)
