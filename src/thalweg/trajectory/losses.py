"""The losses of mini-batches: averaged over those of one update, and watched for jumps."""

import math

__all__ = ["LossJump", "Losses"]


class Losses:
    """The losses of the mini-batches whose gradients one update is made from.

    Example:
        >>> losses = Losses()
        >>> losses.add(1.0, 30)
        >>> losses.add(4.0, 10)
        >>> losses.take(), losses.take()
        ((1.75, 40), (None, None))
    """

    def __init__(self) -> None:
        self._losses: list[float | None] = []
        self._sizes: list[int | None] = []

    def add(self, loss: float | None, batch_size: int | None) -> None:
        """Add one mini-batch."""
        self._losses.append(loss)
        self._sizes.append(None if batch_size is None else int(batch_size))

    def take(self) -> tuple[float | None, int | None]:
        """Return the mean loss and the number of examples, as far as they are known, and forget."""
        if len(self._losses) == 1:
            return self._losses.pop(), self._sizes.pop()
        losses, sizes = self._losses, [size for size in self._sizes if size is not None]
        self._losses, self._sizes = [], []
        complete = bool(losses) and len(sizes) == len(losses) and sum(sizes) > 0
        weights = sizes if complete else [1] * len(losses)
        known = [(w, loss) for w, loss in zip(weights, losses, strict=True) if loss is not None]
        total = sum(weight for weight, _ in known)
        mean = sum(weight * loss for weight, loss in known) / total if total else None
        return mean, sum(sizes) if complete else None


class LossJump:
    """Notices a loss that is many times its running mean, once for each time that it rises.

    Args:
        factor: How many times.

    Example:
        >>> jump = LossJump(2.0)
        >>> [jump.seen(loss) for loss in (1.0, 1.0, 5.0, 6.0, 1.0)]
        [False, False, True, False, False]
    """

    _MEMORY = 0.95  # what the running mean keeps of itself at each step

    def __init__(self, factor: float) -> None:
        if not factor > 1:
            raise ValueError(
                f"A loss jumps to more than once its mean; got loss_jump={factor}. Give a number "
                "above 1, such as 2.0."
            )
        self._factor = factor
        self._mean = math.nan
        self._above = False

    def seen(self, loss: float) -> bool:
        """Tell whether a jump begins with this loss."""
        was_above, self._above = self._above, self._is_above(loss)
        if math.isfinite(loss):  # a loss that stays high becomes what is usual
            known = not math.isnan(self._mean)
            self._mean = self._MEMORY * self._mean + (1 - self._MEMORY) * loss if known else loss
        return self._above and not was_above

    def _is_above(self, loss: float) -> bool:
        """Tell whether a loss is far above its mean, or none."""
        if not math.isfinite(loss):
            return True
        return not math.isnan(self._mean) and loss > self._factor * self._mean > 0
