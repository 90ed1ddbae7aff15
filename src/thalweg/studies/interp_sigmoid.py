"""From start to solution of a sigmoid network with dropout, in a straight line.

Goodfellow, Vinyals & Saxe (2015) evaluate the total cost at θ(α) = (1 − α) θ_i + α θ_f, from
the initial parameters to those with the lowest validation error. They find that it falls all
the way: a coarse line search in the right direction would have trained the network.

The network is the paper's (784-898-1532-10, 2,097,528 parameters).
Its output weights start at zero, so the cost starts at exactly ln 10.

Expected: no climb to speak of; flat near α = 0; most of the epochs are spent at the bottom.
Sigmoid networks learn slowly, and a shallow rise next to the start fades as they do. Measured on
MNIST (seed 0; 25 minutes for 40 epochs on 2 cores): it is 0.0104 high (0.5 % of the range) for the
solution after 12 epochs, and 0.00099 (0.05 %) for the one after 40, which is scale `small`.
"""

from thalweg.studies.descent import descent_claims, descent_scales, run_descent
from thalweg.studies.study import Study

STUDY = Study(
    name="interp-sigmoid",
    title="Sigmoid network: straight from start to solution",
    source="Goodfellow, Vinyals & Saxe (2015), figure 2 left; appendix A",
    run=run_descent,
    scales=descent_scales(
        "SIGMOID",
        smoke={"init_ranges": [0.5, 0.5, 0.0], "epochs": 500},
        small_epochs=40,
    ),
    claims=descent_claims(starts_at_log_classes=True),
)
