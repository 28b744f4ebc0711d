"""The dispatcher's epochs: each is one plan, from the decision to the fence that ends it.

A part of the dispatcher: everything here runs on its one controlling thread, but for planning, which posts its result.

An epoch ends in one of two ways. A loss fences it at once, and the next plan is sought while nothing serves. A change
that isn't forced (a host came back, wants to leave, or a rate has changed) is planned while the epoch serves; the
weights that the new plan lacks travel ahead, and only then comes the fence, and the next epoch right behind it.

With the policy ``skip`` a loss may be bridged: the next epoch serves at once, without operations that the model can do
without. What brings the whole model back is a change as above, which nobody has to find worth while.
"""

from __future__ import annotations

from collections.abc import Callable

from testbed.planning.plan import Assignment, Plan
from testbed.serving.blame import Blame
from testbed.serving.connection import Arrival
from testbed.serving.events import EpochActive, EpochFenced, Reporter, now_s
from testbed.serving.inlets import Inlets
from testbed.serving.journal import Standing
from testbed.serving.lookout import Lookout
from testbed.serving.members import holdings_of
from testbed.serving.membership import Membership
from testbed.serving.messages import Gone, PipelineOpened, Planned, Post, Supplied
from testbed.serving.planner import Planner, weighed
from testbed.serving.process import DispatcherConfig
from testbed.serving.requests import Requests
from testbed.serving.rollout import Rollout
from testbed.serving.scribe import Scribe
from testbed.serving.settling import Settling
from testbed.serving.supplies import Supplies
from testbed.serving.wire import Frame, FrameKind

Enter = Callable[[str, str], None]
"""Told the service's new state and why."""

LOOKS = 5
"""Within the time that an epoch needs to settle, the dispatcher looks after it so many times."""


class Epochs:
    """The current epoch, its deployment, and what may come next.

    ``_phase`` is *opening* the journal, *gathering* the nodes before the first epoch, *planning*, *waiting* for lost
    hosts, *deploying*, *serving*, *moving* weights ahead of a change while the epoch serves, *stuck*, without a plan,
    or *unnumbered*, without an epoch number that the journal keeps from being used twice.
    """

    def __init__(
        self,
        config: DispatcherConfig,
        report: Reporter,
        post: Post,
        nodes: Membership,
        requests: Requests,
        inlets: Inlets,
        scribe: Scribe,
        enter: Enter,
    ) -> None:
        self._config = config
        self._policy = config.policy
        self._report = report
        self._post = post
        self._nodes = nodes
        self._requests = requests
        self._inlets = inlets
        self._scribe = scribe
        self._enter = enter
        self._planner = Planner(config, nodes, post)
        self._lookout = Lookout(config, report, nodes, self._planner)
        self._supplies = Supplies(config, nodes, post, report)
        self._phase = "opening"
        self._epoch = 0
        self._epoch_limit = 0
        self._resumed = False
        self._rollout: Rollout | None = None
        self._decision: tuple[Assignment, ...] = config.first_plan
        self._whole = self._decision
        self._replays = 0
        self._next: tuple[Plan, str] | None = None
        self._news = ""
        self._weighing = False
        self._weighed_s = self._active_s = now_s()
        self._look_s: float | None = None
        self._retry_s: float | None = None
        self._blame = Blame(config, nodes, self._planner, post)
        self._settling = Settling(config.policy.settle_s, config.policy.horizon_s)

    @property
    def _hosts(self) -> frozenset[str]:
        """Hosts of the present plan; none while there is none."""
        return frozenset() if self._rollout is None else self._rollout.deployment.hosts

    @property
    def _skipped(self) -> tuple[tuple[int, int], ...]:
        """Operations that the present plan leaves out: it is a bridge then, for ``_whole`` that has lost hosts."""
        return () if self._rollout is None else self._rollout.deployment.plan.skipped

    # The journal -----------------------------------------------------------------------------------------------------

    def begin(self, standing: Standing, epoch_limit: int) -> None:
        """The journal is open: go on where an earlier dispatcher has left off, with its plan, in a new epoch."""
        self._epoch = standing.epoch_limit
        self._epoch_limit = epoch_limit
        if standing.decision is not None and self._config.nodes.keys() >= {at.host for at in standing.decision}:
            self._decision = self._whole = standing.decision
            self._resumed = True
        self._phase = "gathering"
        self._start()

    def reserved(self, epoch_limit: int) -> None:
        """Epochs up to this one may be used."""
        self._epoch_limit = epoch_limit
        if self._phase == "unnumbered" and self._epoch <= epoch_limit:
            self._plan("the journal takes epoch numbers again")

    # Members come and go ---------------------------------------------------------------------------------------------

    def joined(self, host: str) -> None:
        """A node has been found."""
        self._tell_fence(host)
        match self._phase:
            case "opening":
                pass
            case "gathering":
                self._start()
            case "waiting" if self._nodes.usable() >= {at.host for at in self._decision}:
                self._deploy(self._planner.priced(self._decision), f"{host} is back")
            case "stuck" | "waiting" if self._policy.name == "skip":
                self._recover(f"{host} was found")
            case "stuck":
                self._plan(f"{host} was found")
            case "moving" if self._skipped:
                self._stay()  # what has arrived stays; it may have brought the lost stage's weights with it
                self._weigh(f"{host} was found")
            case _:
                self._weigh(f"{host} was found")

    def lost(self, host: str) -> None:
        """A node has been lost."""
        self._supplies.lost(host)
        if self._phase == "gathering":
            self._start()
        elif host in self._hosts:
            self._fence(f"{host} was lost")
        elif self._next is not None and host in {stage.host for stage in self._next[0].stages}:
            self._stay()
            if self._skipped:
                self._weigh(f"{host} was lost")
        elif self._phase == "serving":
            self._supplies.provide(self._decision, self._planner.problem())

    def leave(self, host: str) -> None:
        """A node wants to go; it is released once no stage is on it."""
        if not self._nodes.wants_to_leave(host):
            return
        if host not in self._hosts:
            self._release()
        elif self._phase in ("serving", "moving"):
            self._stay()
            self._weigh(f"{host} wants to leave")
        else:
            self._news = f"{host} wants to leave"

    def _release(self) -> None:
        for host in sorted(self._nodes.leaving - self._hosts):
            self._nodes.send(host, Frame(FrameKind.RELEASED, self._epoch))

    def _start(self) -> None:
        """Begin the first epoch once every host of its plan has answered or was given up.

        The others are waited for only as long as a host may be silent: who is there answers in a few round trips, and
        one that joins later takes seconds to be given up. Who takes up an earlier dispatcher's plan doesn't wait for
        them at all.
        """
        missing = {assignment.host for assignment in self._decision} - self._nodes.members.keys()
        if missing & self._nodes.expected:
            self._retry_s = None
            return
        if self._nodes.expected and (missing or not self._resumed):
            if self._retry_s is None:
                self._retry_s = now_s() + self._config.misses * self._config.heartbeat_s
            if now_s() < self._retry_s:
                return
        self._retry_s = None
        if not missing:
            reason = "the dispatcher was started again" if self._resumed else "start"
            self._new_epoch(reason)
            self._deploy(self._planner.priced(self._decision), reason)
        else:
            self._fence("hosts were missing at the start")

    # Plan ------------------------------------------------------------------------------------------------------------

    def _new_epoch(self, reason: str) -> None:
        if self._rollout is not None:
            self._report(EpochFenced(t_s=now_s(), epoch=self._epoch, reason=reason))
        # A node may know of later epochs than a journal that was damaged or lost with its disk.
        self._epoch = max(self._epoch, self._nodes.newest_epoch) + 1
        self._scribe.reserve(self._epoch)
        self._rollout = None
        self._next = None
        self._look_s = self._retry_s = None
        self._blame.forget()
        self._supplies.stop()
        self._inlets.fence(self._epoch)
        self._replays = self._requests.fence(self._epoch)
        for host in self._nodes.members:
            self._tell_fence(host)

    def _tell_fence(self, host: str) -> None:
        """Let a node drop what it still has of earlier epochs; the hosts that it was connected to can't always say."""
        self._nodes.send(host, Frame(FrameKind.FENCED, self._epoch))

    def _fence(self, reason: str) -> None:
        """End the current epoch, and do what the policy says."""
        self._new_epoch(reason)
        self._enter("recovering", reason)
        self._recover(reason)

    def _recover(self, reason: str) -> None:
        """Do what the policy says for an epoch that has no plan."""
        missing = not self._nodes.usable() >= {at.host for at in self._decision}
        plan = self._planner.bridge(self._whole) if self._policy.name == "skip" else None
        if plan is not None:
            self._deploy(plan, reason)
        elif missing and (waits_s := self._policy.waits_s) is not None:
            self._phase = "waiting"
            self._retry_s = now_s() + waits_s
        else:
            self._plan(reason)

    def _plan(self, reason: str) -> None:
        self._phase = "planning"
        self._retry_s = None
        self._planner.plan(self._epoch, self._whole, reason, bridging=self._policy.name == "standby")

    def planned(self, found: Planned) -> None:
        """Planning has ended, perhaps for an epoch that was fenced off meanwhile."""
        if found.change is not None:
            self._weighed(found)
        elif found.epoch != self._epoch or self._phase != "planning":
            pass
        elif found.plan is None:
            self._phase = "stuck"
            self._retry_s = self._planner.shunning_until_s()
            self._enter("unavailable", found.reason)
        elif self._nodes.usable() >= {stage.host for stage in found.plan.stages}:
            self._deploy(found.plan, found.reason)
        else:
            self._plan("a host was lost while planning")

    # A change that isn't forced --------------------------------------------------------------------------------------

    def _weigh(self, reason: str) -> None:
        """See whether another plan is worth a change, now or as soon as the epoch has served for a while."""
        self._news = reason
        forced = bool(self._skipped) or not self._nodes.usable() >= self._hosts
        settled = self._settling.has_settled(now_s() - self._active_s)
        if self._phase == "serving" and not self._weighing and (forced or settled):
            self._news = ""
            self._weighing = True
            self._weighed_s = now_s()
            whole = self._whole if self._skipped else None
            self._planner.weigh(self._epoch, self._decision, reason, forced=forced, whole=whole)

    def _weighed(self, found: Planned) -> None:
        self._weighing = False
        change, plan = found.change, found.plan
        possible = plan is None or self._nodes.usable() >= {stage.host for stage in plan.stages}
        if not possible or (self._skipped and self._news):
            self._news = self._news or found.reason
        elif found.epoch == self._epoch and self._phase == "serving" and change is not None:
            worth = plan is not None and (change.pays or change.forced)
            self._report(weighed(self._epoch, found, change, changes=worth))
            if plan is not None and worth:
                if not change.forced:
                    self._settling.changed(now_s() - self._active_s)
                self._move(plan, found.reason)
        if self._news and self._phase == "serving":
            self._weigh(self._news)

    def _move(self, plan: Plan, reason: str) -> None:
        """Send what the new plan lacks ahead; the present one serves meanwhile."""
        self._phase = "moving"
        self._next = (plan, reason)
        if not self._supplies.move(tuple(Assignment(at.host, at.first, at.last) for at in plan.stages)):
            self._switch()

    def _stay(self) -> None:
        """Give up a change that is under way."""
        if self._phase == "moving":
            self._phase = "serving"
            self._next = None
            self._supplies.stop()
            self._supplies.provide(self._decision, self._planner.problem())

    def _switch(self) -> None:
        if self._next is None:
            return
        plan, reason = self._next
        if not self._nodes.usable() >= {stage.host for stage in plan.stages}:
            self._stay()
            self._weigh(reason)
            return
        self._new_epoch(reason)
        self._enter("recovering", reason)
        self._deploy(plan, reason)

    def supplied(self, supplied: Supplied) -> None:
        """A courier has ended."""
        if self._supplies.ended(supplied) and self._phase == "moving":
            self._switch()

    # Time ------------------------------------------------------------------------------------------------------------

    def next_due_s(self) -> float | None:
        """When :meth:`tick` will have something to do; None if never."""
        return min((due for due in (self._look_s, self._retry_s, self._blame.due_s) if due is not None), default=None)

    def tick(self) -> None:
        """Do what is due."""
        now = now_s()
        if reason := self._blame.verdict():
            self._fence(reason)
        if self._retry_s is not None and now >= self._retry_s:
            if self._phase == "gathering":
                self._start()
                return
            self._retry_s = None
            if self._phase == "waiting":
                if self._policy.otherwise == "replan":
                    self._plan(f"waited {self._policy.wait_s:g} s for lost hosts")
                else:
                    missing = sorted({at.host for at in self._decision} - self._nodes.usable())
                    self._enter("unavailable", f"waiting for {', '.join(missing)}")
            elif self._phase == "stuck":
                again = self._recover if self._policy.name == "skip" else self._plan
                again("what had failed may work again")
            elif self._phase == "deploying" and self._rollout is not None:
                late = sorted(self._rollout.deployment.waiting)
                for host in late:
                    self._nodes.shun(host)
                self._fence(f"the deployment to {', '.join(late) or 'all hosts'} took too long")
        if self._look_s is not None and now >= self._look_s:
            self._look_s = None
            self._look()

    def _look(self) -> None:
        """Once in a while: does everything get through, and is a change worth its while?"""
        if self._phase not in ("serving", "moving") or self._rollout is None:
            return
        self._look_s = now_s() + self._policy.settle_s / LOOKS
        plan, first = self._rollout.deployment.plan, self._decision[0].host
        if self._requests.is_cut_off(self._config.patience.cut_off_s):
            self._planner.shun(self._config.host, first)
            self._fence(f"{first} acknowledges nothing")
            return
        news = self._lookout.look(plan)
        reason = self._news or news
        if not reason and self._phase == "serving":
            reason = self._lookout.drift(self._decision, self._weighed_s)
        if reason:
            self._weigh(reason)

    # Deploy ----------------------------------------------------------------------------------------------------------

    def _deploy(self, plan: Plan, reason: str) -> None:
        if self._epoch > self._epoch_limit:
            self._phase = "unnumbered"
            self._enter("unavailable", f"the journal doesn't take the number of epoch {self._epoch}")
            return
        self._phase = "deploying"
        self._rollout = Rollout(
            self._config,
            self._nodes,
            self._planner.estimates,
            self._report,
            self._post,
            self._epoch,
            plan,
            reason,
        )
        self._decision = self._rollout.deployment.assignments
        if not self._skipped:
            self._whole = self._decision
        self._scribe.adopt(self._decision)
        self._retry_s = now_s() + self._planner.deploy_limit_s(self._decision)

    def node_frame(self, host: str, frame: Frame) -> None:
        """Take what a node says.

        Raises:
            ProtocolError: If it isn't something that a node may say.
        """
        member = self._nodes.members.get(host)
        if member is None:
            return
        if frame.kind is FrameKind.HOLDINGS:
            member.holdings = holdings_of(frame)
            return
        if frame.kind is FrameKind.LEAVE:
            self.leave(host)
            return
        rollout = self._rollout
        if rollout is None or frame.epoch != self._epoch or host not in self._hosts:
            return
        if frame.kind is FrameKind.FAILED:
            self._blame.failed(host, str(frame.meta.get("suspect", host)), str(frame.meta.get("reason")))
        else:
            rollout.take(host, frame)

    # Serve -----------------------------------------------------------------------------------------------------------

    def opened(self, opened: PipelineOpened) -> None:
        """The connection into the first stage stands, or failed."""
        if opened.epoch != self._epoch or self._phase != "deploying":
            if opened.writer is not None:
                opened.writer.close()
        elif opened.writer is None:
            self._post(Gone(opened.host, "connection", opened.detail, self._nodes.members.get(opened.host)))
        else:
            self._phase = "serving"
            self._active_s = now_s()
            self._retry_s = None
            self._report(EpochActive(t_s=now_s(), epoch=self._epoch, replayed=self._replays))
            skipped = ", ".join(f"{first}–{last - 1}" for first, last in self._skipped)
            self._enter("degraded" if skipped else "serving", f"without operations {skipped}" if skipped else "")
            self._requests.flow(opened.writer, degraded=bool(skipped))
            self._release()
            self._planner.settle(self._decision)
            self._supplies.provide(self._decision, self._planner.problem())
            if self._nodes.usable() - {at.host for at in self._decision} and self._epoch > 1:
                self._news = self._news or "hosts are free"
            self._look_s = now_s() + self._policy.settle_s / LOOKS
            if skipped:
                self._weigh("operations are left out")

    def asked(self, unanswered: int) -> None:
        """A request has come in; so many, itself included, have no outcome yet."""
        self._planner.estimates.observe_request(unanswered)

    def learn(self, arrival: Arrival) -> None:
        """What an answer of this epoch tells of paths and hosts."""
        if self._rollout is not None and arrival.frame.epoch == self._epoch:
            self._planner.learn(self._rollout.deployment.plan, arrival)
