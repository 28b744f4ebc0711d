"""The planning problem, the strategies that solve it, and the plan."""
