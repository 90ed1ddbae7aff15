"""Costs in closed form, with known gradients, Hessians and critical points.

Each is a `FunctionObjective` whose gradient and Hessian are formulas, so that what is computed
can be compared with what is known. Functions of two variables take `at` and `turned`: with the
rotation R by that angle they are f(Rᵀ(θ − at)), so that their critical point is at `at`.

| function | cost | its critical point |
| --- | --- | --- |
| `bowl` | x² + 3y² | minimum |
| `saddle` | −x² + 3y² | saddle |
| `quartic_bowl` | x² + y⁴ | minimum; the Hessian is degenerate |
| `quartic_saddle` | x² − y⁴ | saddle; gradient and Hessian are those of the row above |
| `quartic_hill` | −x⁴ − y⁴ | maximum; the Hessian is zero |
| `monkey_saddle` | x³ − 3xy² | saddle with three ways down; the Hessian is zero |
| `flat` | 0 | degenerate |
| `quadratic` | ½ (θ − c)ᵀ H (θ − c) | by the signs of the eigenvalues |
| `chain` | (1 − Π w)² | saddles where two factors vanish; minima where Π w = 1 |
| `separable_logistic` | mean of log(1 + e^(−xᵢ·θ)) | none: the infimum 0 is not attained |
| `gaussian_precision` | ½ (β s² − ln β + ln 2π) | minimum at β = 1/s²; none for s = 0 |
| `mountain` | 1/(1 + x²) − 1/(1 + e^(−3(x−1))) | one maximum; none in two dimensions |
| `many_minima` | 0.15 ‖θ‖² + 0.35 sin 3x sin 3y + 0.2 cos 5x | many |
| `attractive_saddle` | x²/2 − y²/2 + y⁴/4 | saddle between two minima |
| `terraces` | −tanh 4(x+1) − tanh 4(x−1) + y²/2 | none: terraces of small slope |

Sources: Goodfellow, Vinyals & Saxe (2015), section 5 for `chain`; Goodfellow, Bengio & Courville
(2016), chapters 4 and 8, for critical points and for costs that have none; the pictures of
Dauphin et al. (2014) for `attractive_saddle`.
"""

from thalweg.functions.any_size import chain, flat, quadratic
from thalweg.functions.planar import (
    attractive_saddle,
    bowl,
    many_minima,
    monkey_saddle,
    quartic_bowl,
    quartic_hill,
    quartic_saddle,
    saddle,
    terraces,
)
from thalweg.functions.unattained import gaussian_precision, mountain, separable_logistic

__all__ = [
    "attractive_saddle",
    "bowl",
    "chain",
    "flat",
    "gaussian_precision",
    "many_minima",
    "monkey_saddle",
    "mountain",
    "quadratic",
    "quartic_bowl",
    "quartic_hill",
    "quartic_saddle",
    "saddle",
    "separable_logistic",
    "terraces",
]
