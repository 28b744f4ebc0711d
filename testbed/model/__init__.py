"""Models: loading, export to a graph, cuts, costs and stage programs."""
