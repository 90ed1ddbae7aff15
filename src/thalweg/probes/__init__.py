"""Probes: questions put to an objective or a trajectory, answered by results."""
