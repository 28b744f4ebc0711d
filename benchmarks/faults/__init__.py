"""Does the system survive every fault, under every policy, and how fast? See :mod:`.command`."""
