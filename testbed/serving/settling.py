"""How long a plan serves before it may be changed without need: longer after each such change.

A link that flaps would make the plan flap with it: away when it gets slow, back when it has recovered. Each change
costs a transfer of weights and a pause, so after each the next one has to wait twice as long, up to the horizon within
which changes have to pay. A plan that has served for two horizons ends the suspicion. So in a time t there are some
log2(horizon / settle) + t / horizon changes at most that nothing forced, whatever the links do.
"""

from __future__ import annotations


class Settling:
    """The time that a plan has to serve.

    Args:
        settle_s: At first.
        horizon_s: At most, unless ``settle_s`` is longer.
    """

    def __init__(self, settle_s: float, horizon_s: float) -> None:
        self._first_s = self._wait_s = settle_s
        self._most_s = max(settle_s, horizon_s)

    def has_settled(self, served_s: float) -> bool:
        """Whether a plan that has served for so long may be changed."""
        return served_s >= self._wait_s

    def changed(self, served_s: float) -> None:
        """A plan that had served for so long is changed without need."""
        self._wait_s = self._first_s if served_s >= 2 * self._most_s else min(2 * self._wait_s, self._most_s)
