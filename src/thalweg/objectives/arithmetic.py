"""In what arithmetic matrix products are done: all of float32, or less of it if asked by name.

Accelerators (and some processors) multiply float32 matrices several times as fast when they round
the factors to fewer bits first. Torch's global switches allow that in places by default - for
convolutions on NVIDIA's GPUs, say - so an exact cost has to switch it off while it evaluates.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

__all__ = ["Arithmetic", "arithmetic", "arithmetic_policy", "rounding_type"]

Arithmetic = Literal["tf32", "bfloat16"]

# Of factors: TF32 keeps ten bits after the point, as many as float16 does.
_ROUNDING = {"tf32": torch.float16, "bfloat16": torch.bfloat16}


def arithmetic_policy(name: Any, dtype: torch.dtype) -> Arithmetic | None:
    """Check the `precision` argument.

    Raises:
        ValueError: If there is no such arithmetic, or the parameters are not float32.
    """
    if name is None:
        return None
    if name not in get_args(Arithmetic):
        raise ValueError(
            f"`precision` is None, 'tf32' or 'bfloat16'; got {name!r}. Leave it out for all of "
            "the type of the parameters."
        )
    if dtype != torch.float32:
        raise ValueError(
            f"precision={name!r} rounds products of float32; the parameters are {dtype}. Leave "
            "it out, or pass dtype=torch.float32."
        )
    return name  # type: ignore[no-any-return]


def rounding_type(dtype: torch.dtype, precision: Arithmetic | None) -> torch.dtype:
    """Return the type whose rounding the cost has."""
    return dtype if precision is None else _ROUNDING[precision]


@contextmanager
def arithmetic(device: torch.device, precision: Arithmetic | None) -> Iterator[None]:
    """Do products in one arithmetic, whatever the caller's settings; put those back.

    Args:
        device: Where products are done.
        precision: None for all bits of the parameters' type.
    """
    half = precision == "bfloat16"
    # Nothing is cached, for parameters change in place from point to point.
    kind = torch.bfloat16 if half else None
    with torch.autocast(device.type, kind, enabled=half, cache_enabled=False):
        before = _switches()
        _switch(dict.fromkeys(before, "tf32" if precision == "tf32" else "ieee"))
        try:
            yield
        finally:
            _switch(before)


def _places() -> dict[str, Any]:
    """Return torch's switches, by name; none where torch is too old to have them one by one."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    found = {
        "cuda.matmul": getattr(cuda, "matmul", None),
        "cudnn.conv": getattr(cudnn, "conv", None),
        "cudnn.rnn": getattr(cudnn, "rnn", None),
        "mkldnn.matmul": getattr(mkldnn, "matmul", None),
        "mkldnn.conv": getattr(mkldnn, "conv", None),
        "mkldnn.rnn": getattr(mkldnn, "rnn", None),
    }
    try:
        return {n: place for n, place in found.items() if hasattr(place, "fp32_precision")}
    except (AssertionError, RuntimeError):  # torch before 2.9 raises for names it does not know
        return {}


def _switches() -> dict[str, Any]:
    """Return what is allowed now."""
    if places := _places():
        return {name: place.fp32_precision for name, place in places.items()}
    allowed = torch.backends.cudnn.allow_tf32
    return {"matmul": torch.get_float32_matmul_precision(), "cudnn": allowed}


def _switch(wanted: dict[str, Any]) -> None:
    """Set what is allowed."""
    places = _places()
    for name, value in wanted.items():
        if name in places:
            if places[name].fp32_precision != value:
                places[name].fp32_precision = value
        elif name == "matmul":
            words = {"ieee": "highest", "tf32": "high"}
            torch.set_float32_matmul_precision(words.get(value, value))
        else:
            torch.backends.cudnn.allow_tf32 = value == "tf32" or value is True
