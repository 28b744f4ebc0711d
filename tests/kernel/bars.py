"""What a link may differ from its request in the guest, and the listing of what it does."""

from __future__ import annotations

import math
from collections.abc import Callable

from testbed.emulation.cluster import Cluster
from testbed.emulation.probe import LinkMeasurement, measure_links

MAX_RATE_ERROR = 0.02
# 0.5 ms is the bar on a machine. Here the eight system calls of a round trip take 0.2 to 0.4 ms by themselves, and 1.1
# on a machine with three times more work than CPUs.
MAX_LATENESS_S = 0.0015
MAX_LATENESS = 0.02
# Nothing makes a packet come early but a delay that isn't kept.
MAX_EARLINESS_S = 0.0001
ATTEMPTS = 3


def assert_within_bars(cluster: Cluster, links: list[str], record: Callable[[str, object], None], label: str) -> None:
    """Measure links, each direction alone, until each has been within the bars.

    A busy machine lets the guest stand still at times: it then forwards too little, too late, and is asked again. A
    link that is faster than it may be has no such excuse.
    """
    wanted = links
    for attempt in range(1, ATTEMPTS + 1):
        found = measure_links(cluster, wanted, parallel_bps=0)
        short = {one.link for one in found if _is_short(one)}
        for one in found:
            if one.link not in short or attempt == ATTEMPTS:
                record(f"{label}: {one.source} → {one.target}", _text(one))
            assert not _is_excessive(one), _text(one)
        if not short:
            return
        wanted = sorted(short)
    raise AssertionError(f"in none of {ATTEMPTS} attempts:\n" + "\n".join(_text(one) for one in found))


def _rate_error(found: LinkMeasurement) -> float:
    assert found.requested_rate_bps is not None
    return (found.rate_bps or 0.0) / found.requested_rate_bps - 1


def _lateness_s(found: LinkMeasurement) -> float:
    return math.inf if found.rtt_s is None else found.rtt_s - found.requested_rtt_s


def _is_short(found: LinkMeasurement) -> bool:
    late_s = max(MAX_LATENESS_S, MAX_LATENESS * found.requested_rtt_s)
    return _rate_error(found) < -MAX_RATE_ERROR or _lateness_s(found) > late_s


def _is_excessive(found: LinkMeasurement) -> bool:
    return _rate_error(found) > MAX_RATE_ERROR or _lateness_s(found) < -MAX_EARLINESS_S


def _text(found: LinkMeasurement) -> str:
    measured = (found.rate_bps, found.rtt_s, found.rtt_p99_s)
    rate_bps, rtt_s, p99_s = (math.nan if value is None else value for value in measured)
    return (
        f"{rate_bps / 1e6:.3f} of {(found.requested_rate_bps or 0) / 1e6:g} Mbit/s, round trip {rtt_s * 1e3:.2f}"
        f" of {found.requested_rtt_s * 1e3:g} ms, p99 {p99_s * 1e3:.2f} ms"
    )
