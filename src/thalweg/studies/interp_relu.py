"""From start to solution of a ReLU network with dropout, in a straight line.

Goodfellow, Vinyals & Saxe (2015) evaluate the total cost at θ(α) = (1 − α) θ_i + α θ_f, from
the initial parameters to those with the lowest validation error. They find that it falls all
the way: a coarse line search in the right direction would have trained the network.

The network is the paper's (784-898-1532-10, 2,097,528 parameters).
Its output weights start at zero, so the cost starts at exactly ln 10.

Expected: no climb; flat near α = 0; most of the epochs are spent at the bottom. Measured at scale
`small` (MNIST, 12 epochs, seed 0; 10 minutes on 2 cores): from ln 10 to 0.0296, climb 0.
"""

from thalweg.studies.descent import descent_claims, descent_scales, run_descent
from thalweg.studies.study import Study

STUDY = Study(
    name="interp-relu",
    title="ReLU network: straight from start to solution",
    source="Goodfellow, Vinyals & Saxe (2015), figure 2 right; appendix A",
    run=run_descent,
    scales=descent_scales(
        "RELU",
        smoke={"init_ranges": [0.1, 0.2, 0.0]},
        small_epochs=12,
    ),
    claims=descent_claims(starts_at_log_classes=True),
)
