"""Random directions in parameter space, scaled to the network that they start from."""

from typing import Literal

import torch
from torch import Tensor

from thalweg.space import ParameterSpace, TensorBlock

__all__ = ["Normalization", "random_directions"]

Normalization = Literal["filter", "layer", "none"]


def random_directions(
    space: ParameterSpace,
    theta: Tensor,
    count: int,
    *,
    normalize: Normalization = "filter",
    biases: bool = False,
    seed: int = 0,
) -> tuple[Tensor, ...]:
    """Return random directions that are orthogonal to each other and scaled to θ.

    Entries are drawn from N(0, 1), never uniformly: a uniform [0, 1) "direction" is a drift.
    With `normalize="filter"` every filter d_f of a direction is rescaled to the norm of the
    same filter of θ, d_f ← d_f ‖θ_f‖ / ‖d_f‖, so that two networks whose layers differ only
    by a scale show the same picture (Li et al. 2017, section 4). Directions are made
    orthogonal *within each filter* before that, because rescaling filter by filter would
    otherwise undo it; where a filter has fewer entries than there are directions that is
    impossible, and the rescaled draw stays as it is.

    Args:
        space: The space of θ.
        theta: The point that sets the scale, shape (P,).
        count: How many directions.
        normalize: `"filter"`; `"layer"`, the same per tensor; or `"none"`, entries N(0, 1).
        biases: Move biases and the parameters of normalisation layers too. By default they
            get zero, as in Li et al.
        seed: Seed of the draw; a local generator on the CPU, so that devices agree.

    Returns:
        Directions of shape (P,), in the type and on the device of θ.

    Raises:
        ValueError: If `normalize` is none of the three, or nothing is left to move.
        ParameterMismatchError: If θ is no point of the space.

    Example:
        >>> space = ParameterSpace.of(torch.nn.Linear(4, 3))
        >>> theta = torch.arange(1.0, 16.0)
        >>> one, two = random_directions(space, theta, 2, seed=7)
        >>> bool(torch.isclose(one[:4].norm(), theta[:4].norm()))
        True
        >>> bool(one @ two < 1e-4)
        True
    """
    if normalize not in ("filter", "layer", "none"):
        raise ValueError(
            f"`normalize` must be 'filter', 'layer' or 'none'; got {normalize!r}. "
            "Li et al. (2017) use 'filter'."
        )
    space.unflatten(theta)  # raises for a point of another space
    generator = torch.Generator().manual_seed(seed)
    # In float64, so that the seed gives one direction and every type its rounding of it.
    drawn = torch.randn(count, space.size, generator=generator, dtype=torch.float64)
    reference = theta.detach().to("cpu", torch.float64)
    for block in space.blocks:
        part = drawn[:, block.start : block.stop]
        if block.kind != "weight" and not biases:
            part.zero_()
        elif normalize != "none":
            groups = _groups(block, normalize)
            scaled = _scaled(part[:, groups], reference[block.start : block.stop][groups])
            part[:, groups] = scaled
    if normalize == "none":
        drawn = _orthogonal(drawn)
    norms = torch.linalg.vector_norm(drawn, dim=1)
    if not bool((norms > 0).all()):
        raise ValueError(
            "Random directions need a finite θ with weights that are not all zero, and no more "
            f"directions than weights; the ones drawn have the norms {norms.tolist()}. Pass "
            "biases=True where a model has no other parameters, or normalize='none'."
        )
    return tuple(direction.to(theta.device, theta.dtype) for direction in drawn)


def _groups(block: TensorBlock, normalize: Normalization) -> Tensor:
    """Return the entries of each filter of a block, shape (filters, entries)."""
    index = torch.arange(block.size).view(block.shape)
    if normalize == "layer" or block.filter_axis is None:
        return index.reshape(1, -1)
    return index.movedim(block.filter_axis, 0).reshape(block.shape[block.filter_axis], -1)


def _scaled(draw: Tensor, reference: Tensor) -> Tensor:
    """Orthogonalise (count, groups, entries) within groups, and give them the reference norms."""
    count, _, entries = draw.shape
    if entries >= count:
        draw = _orthogonal(draw.movedim(0, 1)).movedim(1, 0)
    norms = torch.linalg.vector_norm(draw, dim=-1, keepdim=True)
    wanted = torch.linalg.vector_norm(reference, dim=-1, keepdim=True)
    scaled: Tensor = draw * (wanted / norms)
    return scaled


def _orthogonal(draw: Tensor) -> Tensor:
    """Orthogonalise the last-but-one axis by Gram-Schmidt, keeping the norms of the draw.

    The projection is divided by the squared norm and done twice, against rounding.
    """
    kept: list[Tensor] = []
    for vector in draw.unbind(-2):
        norm = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
        for _ in range(2):
            for other in kept:
                share = (vector * other).sum(-1, keepdim=True) / (other * other).sum(-1, True)
                vector = vector - share * other  # noqa: PLW2901
        kept.append(vector * (norm / torch.linalg.vector_norm(vector, dim=-1, keepdim=True)))
    return torch.stack(kept, dim=-2)
