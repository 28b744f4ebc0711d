"""One experiment from its specification to its results.

The life of a run:

 1. Take the machine's lock: what comes next would already disturb another run's measurements.
 2. Prepare: load and export the model, time it, plan. Nothing is emulated yet; a user's mistake ends here.
    Ask the machine what it can do; refuse with the remedy when it can't do what the specification says.
 3. Make the run's folder, open its journal.
 4. Build the cluster: hosts, switches, links, limits; each is read back. The nursery imports torch meanwhile.
 5. Measure every link before the workload.
 6. Fit the CPU quotas to this machine. Start a partition server on every worker, then the dispatcher, which deploys
    the first plan; then the client.
 7. Time zero: the client begins, the timeline of faults runs, counters are sampled every second.
 8. The client ends. Heal what is still in force; measure every link again.
 9. Undo: servers, cluster, limits. This happens whatever went wrong before.
10. Compute what degraded answers should have been. Analyse: tables, figures, verdict. All are functions of the
    recorded history. The checker reads the tables, and nothing else, and decides whether the run has passed.
11. Write ``run.json``, the mark of completion. At the very end, and whatever went wrong, the journal is cleaned up:
    what it names and is still there is removed, and then the journal itself.

Ctrl-C ends steps 1 to 6 without a result; a system under test that fails in step 6 leaves one, and raises. In step 7
Ctrl-C ends the workload; all that follows happens as always.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runner import provenance, verdict
from runner.admission import admit, demand, left_for_hosts
from runner.checker.check import rule_on
from runner.checker.findings import Ruling
from runner.degraded import judge_degraded, settled
from runner.events import Check, DegradedJudged, RunEnded, RunStarted
from runner.faults.compilation import faults_of, impairs
from runner.history import History
from runner.interruption import Interruptions
from runner.kept_answers import answers_folder
from runner.lab import Lab
from runner.lab_checks import check_parts, measure
from runner.lab_disks import disk_needs, disk_sizes
from runner.limits import cpu_limits
from runner.link_sample import MOST_LINKS
from runner.link_traces import TracePlayer, compile_traces, restore_traced
from runner.machine_load import sample as sample_machine
from runner.observer import LatestPlan
from runner.preparation import Prepared, prepare
from runner.results import Owner, RunFolder, clear_errors
from runner.run_record import run_record
from runner.summary import Summary, summarize
from runner.timeline import Timeline
from runner.verdict import Verdict
from runner.virtual_time import in_virtual_time
from testbed.emulation.cleaner import clean_run
from testbed.emulation.lock import machine_lock
from testbed.emulation.machine import Capabilities, capabilities, require
from testbed.emulation.manifest import RunManifest
from testbed.errors import EXIT_FAILED, EXIT_INVALID, EXIT_PASSED, ExperimentError, TestbedError
from testbed.serving.codecs import answer_error, is_lossless
from testbed.serving.events import Event, Note, now_s
from testbed.spec.experiment import Experiment
from testbed.spec.faults import PartitionFault
from testbed.spec.faults.timeline import timeline as timeline_of

SAMPLE_PERIOD_S = 1.0
SETTLING_S = 1.0
"""At most, in declared seconds: a node that its quota holds back tells of its last work a period or two later."""
LEAD_S = 0.2
"""Between the order to begin and time zero, so that client and timeline are both ready for it."""

WORK_ROOT = Path("/var/tmp")  # noqa: S108 - the folder is made with mode 0700 under a name of the run's own


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run."""

    folder: Path
    summary: Summary
    ruling: Ruling
    verdict: Verdict
    events: tuple[Event, ...]

    @property
    def exit_code(self) -> int:
        """As documented: failed before invalid, invalid before passed."""
        if self.ruling.outcome != "passed":
            return EXIT_FAILED
        return EXIT_INVALID if self.verdict.level == "invalid" else EXIT_PASSED


@dataclass(frozen=True, slots=True)
class Options:
    """How to run, besides what the specification says.

    Attributes:
        results: Folder of all runs.
        delay_backend: ``auto``, ``netem`` or ``delayline``.
        progress: Told what is being done before there is a history.
        observe: Called with the prepared experiment and its history before anything happens, for live display.
        prepare: Loads, times and plans; benchmarks whose models have times of their own choice replace it.
        machine: Finds out what this machine can do; who runs many experiments in a row asks once.
        most_links: So many links are measured before and after the workload; none where no rate is judged.
        report: Whether figures and ``report.html`` are made too.
    """

    results: Path
    delay_backend: str = "auto"
    progress: Callable[[str], None] = lambda _: None
    observe: Callable[[Prepared, History], None] = lambda *_: None
    prepare: Callable[[Experiment, Callable[[str], None]], Prepared] = prepare
    machine: Callable[[], Capabilities] = capabilities
    most_links: int = MOST_LINKS
    report: bool = True


def run(experiment: Experiment, options: Options) -> Result:
    """Run an experiment; see the module.

    Raises:
        TestbedError: If it can't be run. An experiment that ran and failed is a result; one that failed before its
            workload began leaves its results, and raises.
    """
    with Interruptions() as interruptions, machine_lock(experiment.name):
        with interruptions.allowed():
            prepared = options.prepare(experiment, options.progress)
            options.progress("asking the machine what it can do")
            machine = options.machine()
        require(machine, needed(experiment, options))
        by_process = impairs(experiment) and (options.delay_backend == "delayline" or not machine["netem"].ok)
        shares = {host: None if limit is None else limit.share for host, limit in cpu_limits(prepared).items()}
        needs = demand(prepared, shares, delay_line=by_process)
        admit(needs, machine.cores, machine.memory_bytes)
        owner = Owner.of_caller(os.environ)
        folder = RunFolder.create(options.results, experiment.name, experiment.seed, owner=owner)
        try:
            with History(folder.events_path) as history:
                options.observe(prepared, history)
                with _workplace(folder.path.name) as (manifest, work):
                    try:
                        backend = emulate(
                            prepared,
                            options,
                            folder,
                            history,
                            owner,
                            interruptions,
                            manifest,
                            work,
                            left_for_hosts(needs, machine.cores),
                            has_disks=machine["disks"].ok,
                        )
                    except ExperimentError as error:
                        # The system under test failed before it was asked anything: that is a result too.
                        history.append(RunEnded(t_s=now_s(), how="failed", detail=error.message))
                        analyse(
                            prepared,
                            folder,
                            history.events,
                            machine,
                            options.delay_backend,
                            work,
                            report=options.report,
                        )
                        raise
                    for judged in _degraded(prepared, history.events, work):
                        history.append(judged)
                    history.raise_if_failed()
                    return analyse(prepared, folder, history.events, machine, backend, work, report=options.report)
        finally:
            folder.give_to_owner()


def needed(experiment: Experiment, options: Options) -> tuple[str, ...]:
    """Names of the capabilities that an experiment needs."""
    names = ["root", "cgroups", "mnexec", "mininet", "ip", "tc", "namespace", "veth"]
    if experiment.switches:
        names.append({"bridge": "bridge", "ovs": "openvswitch"}[experiment.switching])
    if any(link.rate_bps is not None for link in experiment.links):
        names.append("htb")
    if any(link.way(source).duplicate for link in experiment.links for source in link.between):
        names.append("netem")
    if impairs(experiment):
        names.append({"auto": "delay", "netem": "netem", "delayline": "nfqueue"}[options.delay_backend])
    if any(isinstance(fault, PartitionFault) for fault in timeline_of(experiment)):
        names.append("packet_rules")
    return (*names, *disk_needs(experiment))


@contextlib.contextmanager
def _workplace(run_name: str) -> Iterator[tuple[RunManifest, Path]]:
    """The run's journal, and a folder for what nobody needs after it; in the end nothing is left of the run."""
    manifest = RunManifest.create(run_name)
    work = WORK_ROOT / f"testbed-{run_name}"
    try:
        manifest.will_create("directory", path=str(work))
        work.mkdir(mode=0o700)
        yield manifest, work
    finally:
        clean_run(manifest)


def emulate(
    prepared: Prepared,
    options: Options,
    folder: RunFolder,
    history: History,
    owner: Owner | None,
    interruptions: Interruptions,
    manifest: RunManifest,
    work: Path,
    cores_for_hosts: float,
    *,
    has_disks: bool,
) -> str:
    """Steps 4 to 9; returns the delay backend that was used."""
    logs = folder.path / "logs"
    with clear_errors(logs):
        logs.mkdir()
    ids = None if owner is None else (owner.uid, owner.gid)
    if not has_disks and disk_sizes(prepared.experiment, possible=True):
        text = "hosts have plain folders for storage: this machine can't make file systems (see testbed doctor)"
        history.append(Note(t_s=now_s(), source="runner", text=text))
    with contextlib.ExitStack() as stack:
        with interruptions.allowed():
            lab = stack.enter_context(
                Lab(
                    prepared,
                    manifest,
                    work,
                    logs,
                    history,
                    delay_backend=options.delay_backend,
                    has_disks=has_disks,
                    owner=ids,
                )
            )
            measure(lab, history, "before", options.most_links)
            lab.start_sentinel()
            lab.start_metronomes()
            lab.write_model()
            lab.fit_quotas(cores_for_hosts)
            lab.start_nodes()
            lab.start_dispatcher()
            lab.start_client()
        if _workload(prepared, lab, history, interruptions):
            lab.stop_system()
            measure(lab, history, "after", options.most_links)
        return lab.cluster.backend


def _workload(prepared: Prepared, lab: Lab, history: History, interruptions: Interruptions) -> bool:
    """Steps 7 and 8; returns whether the workload came to its end."""
    experiment, k = prepared.emulated.experiment, prepared.experiment.compute.time_scale
    timeline = Timeline(faults_of(prepared.experiment), lab, history.append, time.monotonic, LatestPlan(history))
    traces = TracePlayer(compile_traces(experiment), lab.cluster, history.append, time.monotonic, lab.break_down)
    lab.cluster.delayline_lateness(clear=True)
    zero_s = now_s() + LEAD_S
    history.append(
        RunStarted(
            t_s=zero_s,
            name=experiment.name,
            seed=experiment.seed,
            duration_s=experiment.workload.duration_s,
            time_scale=k,
            dispatcher=experiment.dispatcher,
        )
    )
    timeline.announce(zero_s)
    how, detail = "failed", ""
    try:
        with _sampling(lab, history):
            try:
                with interruptions.allowed():
                    lab.go(zero_s)
                    timeline.start(zero_s)
                    traces.start(zero_s)
                    lab.wait_finished()
                how = "completed"
            except ExperimentError as error:
                detail = str(error)
            except KeyboardInterrupt as error:
                how, detail = "interrupted", str(error)
            finally:
                traces.finish()
                lab.start_no_more()
                timeline.finish()
                restore_traced(experiment, lab.cluster)
            # After the last healing: a host that was stopped has its story still to tell.
            if how == "completed":
                lab.watch.settle(SETTLING_S * k)
    finally:
        history.append(RunEnded(t_s=now_s(), how=how, detail=detail))
    check_parts(lab, history)
    return how == "completed"


@contextlib.contextmanager
def _sampling(lab: Lab, history: History) -> Iterator[None]:
    """Counters of hosts, links and machine, every second on a thread of its own, and once more at the end."""
    stop = threading.Event()

    def sample_all() -> None:
        due_s = now_s()
        while True:
            history.append(sample_machine(now_s()))
            lab.sample()
            history.raise_if_failed()
            due_s += SAMPLE_PERIOD_S
            if stop.wait(max(0.0, due_s - now_s())):
                break
        history.append(sample_machine(now_s()))
        lab.sample()

    def sample() -> None:
        try:
            sample_all()
        except (TestbedError, OSError) as error:
            # A run whose counters can't be read, or not be kept, isn't worth waiting for.
            lab.break_down(f"the counters can't be kept: {error}")

    thread = threading.Thread(target=sample, name="sampler")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _degraded(prepared: Prepared, events: tuple[Event, ...], work: Path) -> Iterator[DegradedJudged]:
    """Judge what could not be judged while it ran."""
    codec = prepared.experiment.placement.codec
    return judge_degraded(events, prepared.graph, prepared.samples.inputs, answers_folder(work), codec)


def analyse(
    prepared: Prepared,
    folder: RunFolder,
    recorded: tuple[Event, ...],
    machine: Capabilities,
    backend: str,
    work: Path,
    *,
    report: bool,
) -> Result:
    """Steps 10 and 11."""
    experiment, k = prepared.experiment, prepared.experiment.compute.time_scale
    recorded = in_virtual_time(settled(recorded), k)
    events = (*recorded, *verdict.checks_of_events(recorded, experiment.verdict))
    judged = verdict.judge(event for event in events if isinstance(event, Check))
    summary = summarize(events)
    folder.write_tables(events, compute_mode=experiment.compute.mode, time_scale=k)
    codec, spec = experiment.placement.codec, prepared.declared.resolved()
    answer_error_pct = None if is_lossless(codec) else 100 * answer_error(codec)
    operations = len(prepared.graph.ops)
    ruling = rule_on(folder.path, {"spec": spec, "answer_error_pct": answer_error_pct, "operations": operations})
    record = run_record(
        folder.name,
        folder.seed,
        folder.started,
        summary,
        ruling,
        judged,
        spec=spec,
        spec_sha256=prepared.declared.sha256(),
        compute_mode=experiment.compute.mode,
        time_scale=k,
        shares={name: host.share for name, host in experiment.hosts.items()},
        provenance=provenance.provenance(),
        capabilities=machine.to_dict(),
        answer_error_pct=answer_error_pct,
        operations=operations,
        delay_backend=backend,
        whole_model_s=prepared.whole_model_s,
    )
    if report:
        # matplotlib keeps a cache of fonts, which would outlive the run in the home of root.
        os.environ.setdefault("MPLCONFIGDIR", str(work / "matplotlib"))
        from runner.report import write_report

        network, dispatcher = prepared.network, experiment.dispatcher
        write_report(folder, events, summary, ruling, judged, network, dispatcher=dispatcher, facts=record)
    folder.finish(record)
    return Result(folder.path, summary, ruling, judged, events)
