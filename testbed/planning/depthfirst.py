"""Depth-first search for a plan under a threshold: exact when it finishes, and it mostly does so at once."""

from __future__ import annotations

from testbed.planning.capacity import Capacity
from testbed.planning.deadline import Deadline, NodeLimit
from testbed.planning.hosttypes import UsedSets
from testbed.planning.instance import Step
from testbed.planning.threshold import Threshold

NODE_LIMIT = 3000


class DepthFirst:
    """Walk forwards, longest stage first, every end tried.

    Trying the farthest end first is an order, not a rule: a short stage on a host with the right links can be essential
    (the relay case of the tests). Failed (boundary, host type, used-set) triples are remembered.
    """

    def __init__(self, threshold: Threshold, deadline: Deadline, node_limit: int = NODE_LIMIT) -> None:
        instance = threshold.instance
        self._threshold = threshold
        self._deadline = deadline
        self._segments = instance.segments
        self._max_stages = instance.max_stages
        # Complete used-sets, so the number of stages is the number of used hosts.
        self._sets = UsedSets([len(group) for group in instance.members], counted=False)
        self._capacity = Capacity(threshold, self._sets)
        self._reach = threshold.reach.tolist()
        self._hops = threshold.hops.tolist()
        self._returns = threshold.returns.tolist()
        self._failed: set[tuple[int, int, int]] = set()
        self._nodes_left = node_limit

    def search(self) -> list[Step] | None:
        """A plan's steps, or None if there is none under the threshold.

        Raises:
            NodeLimit: If the nodes ran out before an answer.
            OutOfTime: At the deadline.
        """
        if self._capacity.of(0).earliest > 0:
            return None
        for kind in self._threshold.starts:
            steps: list[Step] = []
            if self._extend(0, kind, self._sets.add(0, kind), steps):
                return steps[::-1]
        return None

    def _extend(self, boundary: int, kind: int, used: int, steps: list[Step]) -> bool:
        """Finish a plan whose latest stage starts at ``boundary`` on ``kind``; ``steps`` grows from the end."""
        farthest = self._reach[kind][boundary]
        if farthest == self._segments and self._returns[kind]:
            steps.append(Step(kind, boundary, self._segments))
            return True
        if not self._nodes_left:
            raise NodeLimit
        self._nodes_left -= 1
        self._deadline.check()
        # The loops below are all of the time that a search takes.
        stages, masks, successors, failed = used.bit_count(), self._sets.masks, self._threshold.successors, self._failed
        for end in range(min(farthest, self._segments - 1), max(boundary, self._capacity.of(used).earliest - 1), -1):
            hops = self._hops[end]
            for follower in successors(end, kind):
                if stages + hops[follower] > self._max_stages:
                    break  # successors come by hops, fewest first
                if used & masks[follower] == masks[follower]:
                    continue
                more = self._sets.add(used, follower)
                if (end, follower, more) not in failed and self._extend(end, follower, more, steps):
                    steps.append(Step(kind, boundary, end))
                    return True
        failed.add((boundary, kind, used))
        return False
