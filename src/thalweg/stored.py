"""Points that stay on disk: their tensors are read when they are needed, one at a time."""

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from thalweg.checkpoints import StoredTensors
from thalweg.errors import ParameterMismatchError
from thalweg.space import ParameterSpace, TensorBlock

__all__ = ["StoredPoint"]


class StoredPoint:
    """A point θ whose tensors stay in a safetensors file, or a folder of them.

    It stands for a vector wherever a section needs an anchor, so that a line between two large
    checkpoints takes the memory of one model and one tensor: at every point of the line the
    tensors of the model are overwritten one by one with Σ_j w_j P_j, each read from the
    memory-mapped files. The values are those of `space.flatten(path)`, bit for bit.

    Args:
        space: The space of θ.
        path: A `.safetensors` file, or a folder with one or with several and their index (as
            Transformers writes them). The files must stay as they are while the point is used.

    Attributes:
        space: The space of θ.
        path: Where it is kept.
        dtype: Floating-point type of the tensors on disk; the widest of several.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        CheckpointError: If a file is damaged, or none of this format.
        ParameterMismatchError: If names or shapes are those of another architecture, or frozen
            parameters differ from those of the model that the space is of.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> space = ParameterSpace.of(model)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"weight": torch.tensor([[1.0, 2.0]])}, f"{folder}/end.safetensors")
        ...     point = StoredPoint(space, f"{folder}/end.safetensors")
        ...     point.flat()
        tensor([1., 2.])
    """

    def __init__(self, space: ParameterSpace, path: str | Path) -> None:
        self.space = space
        self.path = Path(path)
        self._tensors = StoredTensors(self.path)
        names, statistics = space.match(self._tensors.mapped())
        self._names = {name: names[name] for name in space.names}
        space.remember(self, statistics)

    def __repr__(self) -> str:
        return f"StoredPoint({self.space.size} parameters in {str(self.path)!r})"

    @property
    def shape(self) -> torch.Size:
        """The shape (P,) of θ."""
        return torch.Size([self.space.size])

    @cached_property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the tensors on disk; the widest of several."""
        found = None
        for block in self.space.blocks:
            own = self.tensor(block).dtype
            found = own if found is None else torch.promote_types(found, own)
        assert found is not None
        return found

    def tensor(self, block: TensorBlock, rows: slice | None = None) -> Tensor:
        """Return one tensor, or some rows of its first axis, from the memory-mapped file.

        Args:
            block: Which tensor.
            rows: Part of the first axis; all of it by default.

        Raises:
            CheckpointError: If the file has changed since the point was made.
        """
        return self._tensors.read(self._names[block.name], block.shape, rows)

    def check(self, space: ParameterSpace) -> None:
        """Raise unless this is a point of a space, with finite entries.

        Raises:
            ParameterMismatchError: If it is of another space.
            ValueError: If an entry is NaN or infinite.
        """
        layout = [(block.name, block.shape) for block in self.space.blocks]
        if layout != [(block.name, block.shape) for block in space.blocks]:
            raise ParameterMismatchError(
                "A point on disk must be of the objective's space; that of "
                f"{self.path} was made for another model. Use `StoredPoint(objective.space, path)`."
            )
        for block in self.space.blocks:
            if not bool(torch.isfinite(self.tensor(block)).all()):
                raise ValueError(
                    f"Parameters must be finite; {block.name!r} in {self.path} holds NaN or "
                    "infinity. Use a checkpoint from before the training diverged."
                )

    def flat(self) -> Tensor:
        """Return θ as one vector in memory, shape (P,)."""
        return torch.cat([self.tensor(b).reshape(-1).to(self.dtype) for b in self.space.blocks])
