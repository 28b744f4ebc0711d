"""Links that change and what is random about them, on a kernel with netem: the same tests as with the delay line."""

from __future__ import annotations

import pytest

from tests.emulation.test_link_changes import (
    running,
    test_a_queue_of_its_own_length_drops_what_is_beyond_it,
    test_bursts_lose_in_runs,
    test_down_loses_silently_and_up_brings_it_back,
    test_jitter_scatters_delays_and_keeps_the_order,
    test_no_change_lets_more_pass_than_rate_and_burst,
    test_packets_are_doubled_by_netem_or_refused,
    test_reordered_packets_overtake,
)

pytestmark = [pytest.mark.root, pytest.mark.kernel]

__all__ = [
    "running",
    "test_a_queue_of_its_own_length_drops_what_is_beyond_it",
    "test_bursts_lose_in_runs",
    "test_down_loses_silently_and_up_brings_it_back",
    "test_jitter_scatters_delays_and_keeps_the_order",
    "test_no_change_lets_more_pass_than_rate_and_burst",
    "test_packets_are_doubled_by_netem_or_refused",
    "test_reordered_packets_overtake",
]
