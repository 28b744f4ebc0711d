"""Is there a plan under a threshold? Exact: depth-first search first, then beams, then labels with growing state."""

from __future__ import annotations

from testbed.planning.deadline import Deadline, NodeLimit
from testbed.planning.depthfirst import NODE_LIMIT, DepthFirst
from testbed.planning.instance import Instance, Step
from testbed.planning.labels import LabelSweep
from testbed.planning.threshold import Threshold

NARROW_BEAM = 3
WIDE_BEAM = 40
MANY_CRITICAL = 6


class Decision:
    """Answers for thresholds of one instance; what it learns of critical hosts at one serves at the next.

    Args:
        instance: What is asked about.
        deadline: Ends every answer.
        node_limit: Nodes of the depth-first search before labels take over.
    """

    def __init__(self, instance: Instance, deadline: Deadline, node_limit: int = NODE_LIMIT) -> None:
        self._instance = instance
        self._deadline = deadline
        self._node_limit = node_limit
        self._critical: set[int] = set()

    def possible(self, beta_s: float) -> bool:
        """Whether the walk bound allows the threshold; quick, and False is a proof.

        Raises:
            OutOfTime: At the deadline.
        """
        self._deadline.check()
        return Threshold.of(self._instance, beta_s).possible

    def plan(self, beta_s: float) -> list[Step] | None:
        """The steps of a plan under the threshold, or None if there is none.

        Forgetting which of the uncritical hosts a walk used only adds walks, so "no walk" proves "no plan"; a walk that
        repeats no host is a plan; else the hosts it repeats become critical (decremental state-space relaxation), and
        once all are critical the answer is exact.

        Raises:
            OutOfTime: At the deadline, without an answer.
        """
        self._deadline.check()
        threshold = Threshold.of(self._instance, beta_s)
        if not threshold.possible:
            return None
        try:
            return DepthFirst(threshold, self._deadline, self._node_limit).search()
        except NodeLimit:
            pass
        sweep = LabelSweep(threshold, self._deadline)
        steps = sweep.beam(NARROW_BEAM)
        if steps is not None:
            return steps
        widened = False
        while True:
            if len(self._critical) > MANY_CRITICAL and not widened:
                widened = True
                steps = sweep.beam(WIDE_BEAM) or sweep.beam(WIDE_BEAM, by_spare=True)
                if steps is not None:
                    return steps
            walk = sweep.walk(self._critical)
            if walk is None:
                return None
            repeated = sweep.repeated(walk)
            if not repeated:
                return walk
            self._critical |= repeated
