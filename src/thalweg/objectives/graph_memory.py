"""What the graphs of derivatives take of the memory."""

import functools
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from thalweg.environment import free_memory

__all__ = ["bytes_saved", "memory_for_graphs", "nodes_of"]

# Graphs are kept in this share of the memory that is free; where nobody tells, in so many bytes.
_SHARE = 0.4
_BYTES = 1 << 30


def memory_for_graphs(device: torch.device) -> int:
    """Return the bytes that graphs may take on a device."""
    free = free_memory(device)
    return _BYTES if free is None else int(_SHARE * free)


def bytes_saved(roots: Iterable[Any], fixed: frozenset[int]) -> int:
    """Return the bytes that a graph keeps.

    The graph is walked; hooks on what is saved would make it keep itself for ever.

    Args:
        roots: The nodes at its ends.
        fixed: Places of memory that is there anyway, such as that of the data.
    """
    sizes: dict[int, int] = {}
    for node in nodes_of(roots):
        for tensor in _saved_by(node):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in fixed:
                sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def nodes_of(roots: Iterable[Any]) -> Iterator[Any]:
    """Iterate over the nodes of a graph, each once."""
    seen: set[Any] = set()
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            yield node


def _saved_by(node: Any) -> Iterator[Tensor]:
    """Iterate over the tensors that one node keeps, as far as it tells."""
    kind: Any = type(node)
    for name in _names_of_saved(kind):
        value = getattr(node, name)
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, Tensor):
                yield each


@functools.cache
def _names_of_saved(kind: Hashable) -> tuple[str, ...]:
    """Return the attributes of a kind of node that hold what it keeps."""
    return tuple(n for n in dir(kind) if n.startswith("_saved_") or n == "saved_tensors")
