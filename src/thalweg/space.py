"""The bijection between the named trainable tensors of a model and one flat vector θ."""

import warnings
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.checkpoints import load_tensors, with_adapter_name
from thalweg.errors import ParameterMismatchError

__all__ = ["ParameterSpace", "TensorBlock", "all_finite", "plain_module"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMALISATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
# What wrappers put before the names of the model that they wrap.
_WRAPPER_PREFIXES = ("_orig_mod.", "module.")
# Attribute by which a flattened point remembers the statistics of the model it came from.
_BUFFERS = "_thalweg_buffers"
_STATISTICS = ("running_mean", "running_var")
_COUNTER = "num_batches_tracked"


def all_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor holds neither NaN nor infinity."""
    # A sum that is finite has finite terms, and takes a third of the time of looking at each.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


@dataclass(frozen=True)
class TensorBlock:
    """The place of one tensor in the flat vector.

    Attributes:
        name: Name of the parameter, as in `model.named_parameters()`.
        shape: Shape of the tensor.
        start: Index of its first entry in the flat vector.
        kind: `"weight"`, `"bias"` (at most one dimension) or `"normalisation"` (scale and
            shift of a normalisation layer).
        filter_axis: For a weight, the axis that counts its filters: output channels of a
            convolution, rows of a matrix. None for the other kinds.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    kind: str = "weight"
    filter_axis: int | None = 0

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(torch.Size(self.shape).numel())

    @property
    def stop(self) -> int:
        """Index after the last entry in the flat vector."""
        return self.start + self.size

    @property
    def layer(self) -> str:
        """Name of the module that owns the tensor."""
        return self.name.rpartition(".")[0]

    def of(self, theta: Tensor) -> Tensor:
        """Return this tensor as a view of the flat vector θ."""
        return theta[self.start : self.stop].view(self.shape)


@dataclass(frozen=True)
class ParameterSpace:
    """The trainable tensors of a model as one vector θ ∈ R^P.

    The order is that of `model.named_parameters()`. A tensor that two layers share counts
    once; frozen tensors (`requires_grad=False`) and buffers are no coordinates and stay as
    they are in the model.

    Attributes:
        blocks: One block a tensor, in order.
        aliases: Further names of shared tensors, each with the name that counts.
        fixed: Names of the tensors that belong to the model but not to θ.
        fingerprints: For each fixed tensor but running statistics, what tells it from
            another: its type, sum and norm.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> space = ParameterSpace.of(model)
        >>> space.size, space.names
        (8, ('weight', 'bias'))
        >>> theta = space.flatten(model)
        >>> tuple(space.unflatten(theta)["weight"].shape)
        (2, 3)
    """

    blocks: tuple[TensorBlock, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()
    fingerprints: Mapping[str, "Fingerprint"] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "aliases", MappingProxyType(dict(self.aliases)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only table cannot be copied or pickled, a plain one can.
        return type(self), (self.blocks, dict(self.aliases), self.fixed)

    @classmethod
    def of(cls, model: nn.Module) -> "ParameterSpace":
        """Return the space of the trainable tensors of a model.

        Raises:
            TypeError: If the model is no module, or has lazy or complex parameters.
            ValueError: If nothing in the model is trainable.
        """
        model = plain_module(model)
        first_name: dict[int, str] = {}
        aliases: dict[str, str] = {}
        blocks: list[TensorBlock] = []
        fixed = {name for name, _ in model.named_buffers()}
        start = 0
        for owner_name, owner in model.named_modules():
            for short, tensor in owner.named_parameters(recurse=False):
                name = f"{owner_name}.{short}" if owner_name else short
                _reject_unusual(name, tensor)
                if not tensor.requires_grad:
                    fixed.add(name)
                elif id(tensor) in first_name:
                    aliases[name] = first_name[id(tensor)]
                else:
                    first_name[id(tensor)] = name
                    kind, axis = _role(owner, tensor)
                    blocks.append(TensorBlock(name, tuple(tensor.shape), start, kind, axis))
                    start += tensor.numel()
        # `named_modules` visits a shared module once: its other names are aliases too.
        for name, tensor in model.named_parameters(remove_duplicate=False):
            counted = first_name.get(id(tensor))
            if counted not in (None, name):
                aliases[name] = counted
            elif counted is None:
                fixed.add(name)
        fixed |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
        if not blocks:
            raise ValueError(
                "A model with trainable parameters is needed; none of "
                f"{type(model).__name__}'s has requires_grad=True. Unfreeze those that you "
                "want to move."
            )
        everything = _tensors_of(model, False)
        prints = {
            name: Fingerprint.of(everything[name])
            for name in sorted(fixed)
            if name in everything and not is_statistic(name) and not name.endswith(_COUNTER)
        }
        return cls(tuple(blocks), aliases, frozenset(fixed), prints)

    @classmethod
    def plain(cls, size: int) -> "ParameterSpace":
        """Return a space without structure: one tensor `theta` of the given size."""
        return cls((TensorBlock("theta", (size,), 0, "weight", None),))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, in order."""
        return tuple(block.name for block in self.blocks)

    @property
    def size(self) -> int:
        """Number P of coordinates."""
        return self.blocks[-1].stop

    def flatten(
        self,
        source: nn.Module | Mapping[str, Tensor] | str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        trust_pickle: bool = False,
    ) -> Tensor:
        """Return the point θ of a model, a state dict or a checkpoint file.

        The result is a copy: training on leaves it as it is. It remembers the running
        statistics that came with it, for `batch_norm="interpolate"`.

        Args:
            source: A module, a mapping of names to tensors, or the path of a `.safetensors`
                or torch checkpoint, or of a folder with an adapter of PEFT. Prefixes of
                `torch.compile` and of data-parallel wrappers are understood.
            dtype: Floating-point type of the result; that of the tensors by default.
            device: Device of the result; that of the tensors by default.
            trust_pickle: See `thalweg.checkpoints.load_tensors`.

        Returns:
            θ, shape (P,).

        Raises:
            ParameterMismatchError: If names or shapes are those of another architecture, or
                frozen parameters differ from those of the model that this space is of.
            ValueError: If a parameter is not finite.
            CheckpointError: If a file cannot be read safely.
        """
        tensors = _tensors_of(source, trust_pickle)
        names, statistics = self.match(tensors)
        parts = [tensors[names[block.name]].detach() for block in self.blocks]
        if dtype is None:
            dtype = parts[0].dtype
            for part in parts[1:]:
                dtype = torch.promote_types(dtype, part.dtype)
        device = parts[0].device if device is None else torch.device(device)
        theta = torch.cat([part.reshape(-1).to(device, dtype) for part in parts])
        for block in self.blocks:
            if not all_finite(block.of(theta)):
                raise ValueError(
                    f"Parameters must be finite; {block.name!r} holds NaN or infinity. "
                    "Use a checkpoint from before the training diverged."
                )
        self.remember(theta, statistics)
        return theta

    def match(self, given: Mapping[str, Tensor]) -> tuple[dict[str, str], dict[str, Tensor]]:
        """Find the tensors of this space among given ones, and make sure that they belong here.

        Args:
            given: Name to tensor, of a model in whatever wrappers.

        Returns:
            For each block the name of its tensor among the given ones, and a copy of the
            running statistics by their names in the model.

        Raises:
            ParameterMismatchError: If names, shapes or frozen parameters are others.
        """
        names = with_adapter_name(_plain_names(given, self._known), self.names, self._known)
        tensors = {name: given[own] for name, own in names.items()}
        self._reject_other_architecture(tensors)
        self._reject_other_frozen(tensors)
        statistics = {
            name: tensor.detach().clone()
            for name, tensor in tensors.items()
            if name in self.fixed and is_statistic(name)
        }
        return {b.name: names[self._found_name(b, tensors)] for b in self.blocks}, statistics

    @staticmethod
    def remember(point: Any, statistics: Mapping[str, Tensor]) -> None:
        """Note at a point the running statistics of the network that it came from."""
        setattr(point, _BUFFERS, statistics)

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """Return the named tensors of θ, as views that keep its type and its gradients.

        Args:
            theta: Shape (P,).

        Returns:
            Name to tensor, ready for `torch.func.functional_call`. Shared tensors appear
            under the one name that counts.

        Raises:
            ParameterMismatchError: If θ has another shape.
        """
        if tuple(theta.shape) != (self.size,):
            raise ParameterMismatchError(
                f"A point of this space has shape ({self.size},); got {tuple(theta.shape)}. "
                "Make it with `space.flatten(model)`."
            )
        return {block.name: block.of(theta) for block in self.blocks}

    def _reject_other_frozen(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise for frozen parameters that differ from the model's; warn for other buffers."""
        differing = [
            name
            for name, known in self.fingerprints.items()
            if name in tensors and not known.matches(tensors[name])
        ]
        if frozen := [name for name in differing if self.fingerprints[name].parameter]:
            raise ParameterMismatchError(
                "Frozen parameters do not move, so they must be those of the objective's model; "
                f"they differ in {_some(frozen)}. Load the checkpoint into the model before "
                "building the objective, or unfreeze them."
            )
        if differing:
            warnings.warn(
                f"The buffers {_some(differing)} differ from those of the objective's model, "
                "which are used everywhere: they do not move along a section. Build the "
                "objective from the model whose buffers you mean. [other-buffers]",
                RuntimeWarning,
                stacklevel=3,
            )

    @property
    def _known(self) -> Set[str]:
        """Every name that a state dict of this model may hold."""
        return {*self.names, *self.aliases, *self.fixed}

    def _found_name(self, block: TensorBlock, tensors: Mapping[str, Tensor]) -> str:
        """Return the name under which the tensor of one block is given."""
        names = [block.name, *(a for a, counted in self.aliases.items() if counted == block.name)]
        found = [(name, tensors[name]) for name in names if name in tensors]
        first_name, first = found[0]
        for name, other in found[1:]:
            if other is not first and not torch.equal(other, first):
                raise ParameterMismatchError(
                    f"{first_name!r} and {name!r} are one shared tensor in this model; they "
                    "differ in what was given. Untie them in the model, or give equal values."
                )
        return first_name

    def _reject_other_architecture(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise unless names and shapes fit."""
        given = set(tensors)
        counted = {self.aliases.get(name, name) for name in given}
        complaints = []
        if missing := [name for name in self.names if name not in counted]:
            complaints.append(f"missing {_some(missing)}")
        if unknown := sorted(given - self._known):
            complaints.append(f"unknown {_some(unknown)}")
        shapes = {block.name: block.shape for block in self.blocks}
        for name in sorted(given):
            want = shapes.get(self.aliases.get(name, name))
            have = tuple(tensors[name].shape)
            if want is not None and want != have:
                complaints.append(f"{name!r} has shape {have}, not {want}")
        if complaints:
            raise ParameterMismatchError(
                "The parameters must be those of the objective's model; got another "
                f"architecture: {_some(complaints, quote=False)}. Build the objective from the "
                "model that the checkpoint belongs to."
            )


@dataclass(frozen=True)
class Fingerprint:
    """What tells a tensor from another without keeping it."""

    dtype: torch.dtype
    total: float
    norm: float
    parameter: bool

    @classmethod
    def of(cls, tensor: Tensor, dtype: torch.dtype | None = None) -> "Fingerprint":
        """Take the fingerprint of a tensor, after a cast if it had another type."""
        dtype = tensor.dtype if dtype is None else dtype
        values = tensor.detach().to(dtype)
        values = torch.view_as_real(values) if values.is_complex() else values
        values = values if values.is_floating_point() else values.double()
        total = float(values.sum(dtype=torch.float64))
        norm = float(torch.linalg.vector_norm(values, dtype=torch.float64))
        return cls(dtype, total, norm, isinstance(tensor, nn.Parameter))

    def matches(self, tensor: Tensor) -> bool:
        """Tell whether a tensor has this fingerprint, up to the order of summation."""
        return self.agrees(Fingerprint.of(tensor, self.dtype), tensor.numel())

    def agrees(self, other: "Fingerprint", size: int = 1) -> bool:
        """Tell whether two fingerprints of a size are the same, up to the order of summation."""
        pairs = ((self.total, other.total), (self.norm, other.norm))
        allowed = 1e-9 * abs(self.norm) * max(size, 1) ** 0.5
        return all(str(a) == str(b) or abs(a - b) <= allowed for a, b in pairs)


def is_statistic(name: str) -> bool:
    """Tell whether a name is that of a running statistic."""
    return name.rpartition(".")[2] in _STATISTICS


def plain_module(model: nn.Module) -> nn.Module:
    """Return the model inside `torch.compile` and data-parallel wrappers."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"A torch.nn.Module is needed; got {type(model).__name__}. For a closed form use "
            "`FunctionObjective`."
        )
    while True:
        inner: Any = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(
            model, nn.DataParallel | nn.parallel.DistributedDataParallel
        ):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def as_vector(point: Any) -> Tensor:
    """Return a point as a tensor without gradient; plain numbers are copied, and keep float64.

    Raises:
        TypeError: If it holds no numbers.
    """
    if isinstance(point, Tensor):
        return point.detach()
    # Through NumPy: torch would round plain numbers to its default type.
    values = np.array(point)
    if values.dtype.kind not in "fiu":
        has_one = hasattr(point, "theta")  # as a point of a trajectory has
        wanted = "Pass its `theta`" if has_one else "Make it with `space.flatten(model)`"
        raise TypeError(
            f"A point is a vector of numbers, shape (P,); got {type(point).__name__}. {wanted}."
        )
    return torch.from_numpy(values)


def remembered_buffers(theta: Any) -> Mapping[str, Tensor] | None:
    """Return the running statistics that came with a flattened point, or None."""
    buffers: Mapping[str, Tensor] | None = getattr(theta, _BUFFERS, None)
    return buffers


def _tensors_of(source: Any, trust_pickle: bool) -> dict[str, Tensor]:
    """Return the tensors of any accepted source by the names that they have there."""
    if isinstance(source, nn.Module):
        model = plain_module(source)
        return {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
    if isinstance(source, str | Path):
        source = load_tensors(source, trust_pickle=trust_pickle)
    if not isinstance(source, Mapping):
        raise TypeError(
            "A module, a mapping of names to tensors or a path is needed; got "
            f"{type(source).__name__}. Pass `model` or `model.state_dict()`."
        )
    return {name: tensor for name, tensor in source.items() if isinstance(tensor, Tensor)}


def _plain_names(given: Iterable[str], known: Set[str]) -> dict[str, str]:
    """Return the names in the plain model, each with the name under which it is given."""
    named = {name: name for name in given}
    # A wrapper may wrap a wrapper; a model's own layer may be called "module".
    while named and not known & named.keys():
        prefix = next((p for p in _WRAPPER_PREFIXES if all(n.startswith(p) for n in named)), None)
        if prefix is None:
            break
        named = {name.removeprefix(prefix): own for name, own in named.items()}
    return named if known & named.keys() else _inner(named, known)


def _inner(named: dict[str, str], known: Set[str]) -> dict[str, str]:
    """Return the one part of a larger module that has the known names, if there is just one.

    A training framework keeps the network as an attribute of its own module, and the names
    of its checkpoints then start with that attribute's.
    """
    prefixes = {
        name.removesuffix(inner) for inner in known for name in named if name.endswith(f".{inner}")
    }
    whole = [p for p in prefixes if {f"{p}{inner}" for inner in known} <= named.keys()]
    if len(whole) != 1:
        return named
    return {n.removeprefix(whole[0]): own for n, own in named.items() if n.startswith(whole[0])}


def _reject_unusual(name: str, tensor: Tensor) -> None:
    """Raise for parameters that have no place in a real vector."""
    if isinstance(tensor, nn.parameter.UninitializedParameter):
        raise TypeError(
            f"Parameters must have a shape; {name!r} is lazy. Run the model on one batch first."
        )
    if tensor.is_complex():
        raise TypeError(
            f"Parameters must be real; {name!r} is complex. Hold its real view "
            "(`torch.view_as_real`) as the parameter."
        )


def _role(owner: nn.Module, tensor: Tensor) -> tuple[str, int | None]:
    """Return the kind of a parameter and the axis of its filters."""
    if isinstance(owner, _NORMALISATION):
        return "normalisation", None
    if tensor.ndim <= 1:
        return "bias", None
    return "weight", 1 if isinstance(owner, _TRANSPOSED) else 0


def _some(items: Iterable[str], quote: bool = True) -> str:
    """List a few items of a long list."""
    texts = [repr(item) if quote else item for item in items]
    more = f" and {len(texts) - 4} more" if len(texts) > 4 else ""
    return ", ".join(texts[:4]) + more
