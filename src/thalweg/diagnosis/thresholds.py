"""Where readings become verdicts: every threshold of the diagnosis, with its reason.

All are pure numbers: shares of the possible progress, ratios of lengths, of steps and of costs.
None of them changes under J → c J + d, or under θ → c θ.
"""

__all__ = [
    "ALIGNED",
    "ATTENUATED",
    "AT_REST",
    "CLIMBS",
    "DEAD",
    "FADES",
    "FALLS",
    "FAR_TOO_SMALL",
    "FOLLOWS",
    "IN_VALLEYS",
    "LASTING",
    "LONG_WAY",
    "NOISY",
    "ORDERED",
    "PRESENT",
    "RISES",
    "SLOW",
    "SMOOTH",
    "STUCK",
    "UNENDING",
    "UNSTABLE",
]

# Share of the possible progress that an obstacle must take to be worth a change: below it, whoever
# removes the obstacle does not see it in the cost.
PRESENT = 0.03
# A remedy counts where the run gained less than this share of what the remedy gains in its place:
# an honest optimiser is within a factor of two of another one of its kind.
SLOW = 0.5
# A step is far too small where a safe one is longer by an order of magnitude.
FAR_TOO_SMALL = 10.0
# Beyond the limit of stability by more than this factor a step is too large; at the limit itself
# training of networks settles by itself (Cohen et al. 2021).
UNSTABLE = 1.05
# Share of the descent term that noise must eat: at a noise floor it eats all that curvature leaves.
NOISY = 0.25
# Share of what is left above the floor that a step along gradient and curvature promises at most
# where a run is at rest.
AT_REST = 0.05
# Updates follow the gradient where their component along the expected update is more than this
# many standard errors from nothing.
FOLLOWS = 3.0
# Level at which the order of snapshots is told from a random one.
ORDERED = 0.05
# The back-propagated gradient has vanished, or exploded, over the depth: a thousandfold is more
# than any one learning rate can serve.
ATTENUATED = 1e-3
# Share of a layer's units that are off for all examples: with half of a layer gone the network is
# another one.
DEAD = 0.5
# Path over chord from which on a way is a detour: half a circle has 1.57, a quarter 1.11.
LONG_WAY = 1.2
# The path through a third of the snapshots must keep this share of its length: the zigzag of noise
# is as long as one looks closely, and loses four tenths.
SMOOTH = 0.85
# Share of what Newton's step promises that lies along valleys (of less than a twentieth of the
# largest curvature), where a stable step is too short.
IN_VALLEYS = 0.5
# A cosine below this is no direction.
ALIGNED = 0.1
# Climb as a share of the difference between the costs at the ends.
CLIMBS = 0.05
# Share of its fall that the cost on held-out examples must rise again.
RISES = 0.05
# Share of the possible progress that must be left at the end for layers to have stopped a run: a
# network that learns three quarters of it has layers that work.
STUCK = 0.25
# Share of J above the floor that may be left with the parameters scaled up, for a cost that fades.
FADES = 0.5
# The share that a cost without a critical point takes: a third of `PRESENT`, for it falls by itself
# all the time.
UNENDING = PRESENT / 3
# Share of what is left that J must still fall in the second half of a run, to be on its way.
FALLS = 0.1
# Growth of the parameters over the second half of a run without a critical point.
LASTING = 0.01
