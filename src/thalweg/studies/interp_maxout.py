"""From start to solution of a maxout network with dropout, in a straight line.

Goodfellow, Vinyals & Saxe (2015) evaluate the total cost at θ(α) = (1 − α) θ_i + α θ_f, from
the initial parameters to those with the lowest validation error. They find that it falls all
the way: a coarse line search in the right direction would have trained the network.

The network is the paper's (784-240-240-10 with 5 pieces a unit, 1,233,610 parameters).
Maxout units do not saturate in their parameters, so a simple picture is expected.

Expected: no climb; flat near α = 0; most of the epochs are spent at the bottom. Measured at scale
`small` (MNIST, 12 epochs, seed 0; 5 minutes on 2 cores): from ln 10 to 0.0363, climb 0.
"""

from thalweg.studies.descent import descent_claims, descent_scales, run_descent
from thalweg.studies.study import Study

STUDY = Study(
    name="interp-maxout",
    title="Maxout network: straight from start to solution",
    source="Goodfellow, Vinyals & Saxe (2015), figure 1 bottom; appendix A",
    run=run_descent,
    scales=descent_scales(
        "MAXOUT",
        smoke={"init_ranges": [0.1, 0.1, 0.1]},
        small_epochs=12,
    ),
    claims=descent_claims(starts_at_log_classes=False),
)
