"""The emulated cluster: Mininet hosts, shaped links, limits, the nursery, and what undoes them."""
