"""Models that no single device holds: parameters sharded over the ranks of a job (FSDP2).

Each rank keeps a slice of every parameter; for the moment that a layer computes, its slices are
gathered from all ranks (`torch.distributed.fsdp.fully_shard`). The ranks evaluate every point
together and share the batches of the data: a rank that has no batch left computes one along, for
all ranks must gather at the same time, and it does not count.
"""

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["Sharding", "local_rows", "sharded", "whole"]

_PLAIN = (Tensor, nn.Parameter)  # known without the import of what shards, which takes long


@dataclass(frozen=True, eq=False)
class Sharding:
    """How the parameters of a model lie on the ranks of a job.

    Attributes:
        rank: This process, from 0.
        size: Number of processes.
        group: Their process group.
        blueprint: The model before it was sharded, without memory (on the meta device): what
            tells models apart does not depend on how they are sharded.
    """

    rank: int
    size: int
    group: Any
    blueprint: nn.Module

    @property
    def place(self) -> tuple[int, int, Any]:
        """Rank, number of ranks and their group."""
        return self.rank, self.size, self.group

    def share(
        self,
        batches: Iterable[Any],
        totals: Tensor,
        measure: Callable[[int, Any], Sequence[Tensor]],
    ) -> None:
        """Add up what a measure says to each batch, every rank taking its share of them.

        Args:
            batches: The batches, the same on all ranks.
            totals: What is added to, on all ranks.
            measure: Says something to a batch, given its number: one tensor an entry of the
                first axis of `totals`.
        """
        first, source = 0, iter(batches)
        while some := list(islice(source, self.size)):
            own = min(self.rank, len(some) - 1)
            table = totals.new_zeros(len(some), *totals.shape)
            found = torch.stack(list(measure(first + own, some[own])))
            if own == self.rank:
                table[own] = found
            # Each entry comes from one rank, and they are added up in the order of the batches:
            # the bits are those of one process.
            dist.all_reduce(table, group=self.group)
            for row in table:
                totals += row
            first += len(some)


def sharded(model: nn.Module, device: torch.device) -> Sharding:
    """Shard the parameters of a model over all ranks of the job, in place.

    The children of every `ModuleList` (the blocks of a transformer) are gathered one at a time,
    what is left with the whole.

    Args:
        model: The model; it may be changed, and is not the user's.
        device: Where it computes.

    Raises:
        ValueError: If there are no other ranks, or the parameters cannot be sharded.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    _join(device)
    if scalar := [name for name, p in model.named_parameters() if p.ndim == 0]:
        raise ValueError(
            "Parameters that are sharded have rows; those of this model include the number(s) "
            f"{', '.join(map(repr, scalar[:4]))}. Give them the shape (1,), or leave `shard` out."
        )
    blueprint = copy.deepcopy(model).to("meta")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    return Sharding(dist.get_rank(), dist.get_world_size(), mesh.get_group(), blueprint)


def local_rows(parameter: Tensor) -> tuple[Tensor, slice | None]:
    """Return the slice of a parameter that this rank keeps, and which rows it is.

    Args:
        parameter: A parameter of a sharded model, or of any other: then it is kept whole.
    """
    if type(parameter) in _PLAIN:
        return parameter.data, None
    from torch.distributed.tensor import DTensor

    if not isinstance(parameter, DTensor):
        return parameter.data, None
    local: Tensor = parameter.to_local()
    mesh = parameter.device_mesh
    most = -(-parameter.shape[0] // mesh.size())  # as `torch.chunk` cuts
    start = min(mesh.get_local_rank() * most, parameter.shape[0])
    return local, slice(start, start + local.shape[0])


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor gathered from all ranks, which must all ask for it; others as they are."""
    if type(tensor) in _PLAIN:
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _join(device: torch.device) -> None:
    """Make sure that the ranks of the job can talk to one another."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not dist.is_available() or not (dist.is_initialized() or several):
        raise ValueError(
            "A model is sharded over the ranks of a job; this process is alone. Start it with "
            "`torchrun --nproc-per-node 2 ...`, or leave `shard` out."
        )
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Return the parts that are gathered one at a time, inner ones first.

    A part that shares a parameter with another is left to the whole.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    parts = list(dict.fromkeys(child for group in reversed(lists) for child in group))
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return [
        part
        for part in parts
        if any(True for _ in part.parameters())
        and all(owners[id(p)] == 1 for p in part.parameters())
    ]
