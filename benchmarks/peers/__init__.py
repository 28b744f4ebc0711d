"""Two other ways to serve a partitioned model, as baselines under the same faults as ours; see :mod:`.comparison`."""
