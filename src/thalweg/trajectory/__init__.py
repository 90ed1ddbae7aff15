"""Trajectories: the recorded points of a training run, on disk, in memory or made on the fly."""
