"""Plain facts about live objects - code, settings, tensors - that can be kept and compared.

Code is told by its bytecode rather than by the text of its file: the text may have been edited
since it was loaded, and what was loaded is what runs. Code of installed packages is told by the
version of the package. Nothing here is complete, for Python can hide a number anywhere; what
matters is that the same objects give the same facts in another process, and that the usual
changes change them.
"""

import dis
import enum
import functools
import json
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping, Set
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["canonical", "digest_of", "facts_of", "module_facts", "tensor_facts"]

# What every module keeps for itself; the rest of its attributes are its settings.
_MODULE_KEYS = frozenset(vars(nn.Module()))
# Attributes of models of Transformers and PEFT that are no settings: where a model was loaded
# from, and a checksum that is another one in every process.
_ORIGINS = frozenset(
    {
        "_commit_hash",
        "_name_or_path",
        "_original_object_hash",
        "base_model_name_or_path",
        "name_or_path",
    }
)
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_STABLE = (torch.dtype, torch.device, torch.layout, torch.memory_format, range, slice, complex)
# Globals of a function count where they are no containers, which are often caches or counters.
_GLOBALS = (
    bool | int | float | complex | str | bytes | tuple | Tensor | np.ndarray | nn.Module,
    types.FunctionType | type | functools.partial,
)
_PYTHON = (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["platstdlib"], "<frozen")
_MOST_OBJECTS = 100_000
_DEEPEST = 50


def facts_of(value: Any, dtype: torch.dtype | None = None) -> Any:
    """Return what can be told about an object, as plain JSON.

    Args:
        value: Anything: numbers, containers, functions with closures and globals, instances.
        dtype: What floating-point tensors are cast to before their bytes are taken.

    Example:
        >>> scale = 2.0
        >>> def loss(output, target):
        ...     return scale * (output - target).square().mean()
        >>> before = facts_of(loss)
        >>> scale = 3.0
        >>> before == facts_of(loss)
        False
    """
    return _Facts(dtype).of(value)


def module_facts(model: nn.Module, *, parameters: bool = False) -> Any:
    """Return what can be told about a network: its parts, their code and their settings.

    Args:
        model: The network.
        parameters: Whether the values of parameters and buffers count.
    """
    return _Facts(None).module(model, parameters)


def tensor_facts(tensor: Tensor, dtype: torch.dtype | None = None) -> list[Any]:
    """Return type, shape and checksum of a tensor.

    Example:
        >>> tensor_facts(torch.zeros(2))[:2]
        ['torch.float32', [2]]
    """
    values = tensor.detach()
    if dtype is not None and values.is_floating_point():
        values = values.to(dtype)
    values = values.cpu().contiguous()
    digest = sha256()
    if values.numel():
        digest.update(values.view(-1).view(torch.uint8).numpy().data)
    return [str(values.dtype), list(values.shape), digest.hexdigest()]


def digest_of(facts: Any) -> str:
    """Return the SHA-256 of plain facts."""
    return sha256(canonical(facts)).hexdigest()


def canonical(facts: Any) -> bytes:
    """Return plain facts as bytes, the same for the same facts."""
    text = json.dumps(facts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


class _Facts:
    """One description: what was met before is not described again, so that cycles end."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self.met: dict[int, tuple[int, Any]] = {}  # the objects too, so that no id is used twice
        self.depth = 0

    def of(self, value: Any) -> Any:
        """Describe anything."""
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return {"float": value.hex()}
        if isinstance(value, Tensor):
            if isinstance(value, nn.Parameter):
                return {"parameter": list(value.shape)}
            return {"tensor": tensor_facts(value, self.dtype)}
        if isinstance(value, bytes | bytearray):
            return {"bytes": sha256(value).hexdigest()}
        if isinstance(value, _STABLE) or value is Ellipsis or value is NotImplemented:
            return {type(value).__name__: str(value)}
        if isinstance(value, types.CodeType):
            return self.code(value)
        if type(value) is tuple:
            return [self.of(item) for item in value]
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        if isinstance(value, type) and (package := _package_of(value)) is not None:
            return f"{_name(value)} {package}".strip()
        return self._once(value)

    def _once(self, value: Any) -> Any:
        """Describe an object that may be met again."""
        if id(value) in self.met:
            return {"again": self.met[id(value)][0]}
        self.met[id(value)] = (len(self.met), value)
        if len(self.met) > _MOST_OBJECTS or self.depth > _DEEPEST:
            return {"instance": _name(type(value))}
        self.depth += 1
        try:
            return self._described(value)
        finally:
            self.depth -= 1

    def _described(self, value: Any) -> Any:
        """Describe a container, a function, a class or an instance."""
        if isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
            plain = array.tobytes() if array.dtype.kind in "biufcSU" else b""
            return {"array": [str(array.dtype), list(array.shape), sha256(plain).hexdigest()]}
        if isinstance(value, Mapping):
            return {"mapping": [[self.of(key), self.of(item)] for key, item in value.items()]}
        if isinstance(value, Set):
            return {"set": sorted((self.of(item) for item in value), key=canonical)}
        if isinstance(value, list | tuple):
            return {type(value).__name__: [self.of(item) for item in value]}
        if isinstance(value, functools.partial):
            return {"partial": [self.of(part) for part in (value.func, value.args, value.keywords)]}
        if isinstance(value, types.MethodType):
            return {"method": self.of(value.__func__), "of": self.of(value.__self__)}
        if isinstance(value, types.FunctionType):
            return self.function(value)
        if isinstance(value, type):
            return self.kind(value)
        if isinstance(value, nn.Module):
            return self.module(value, True)
        if isinstance(value, enum.Enum):
            return {"member": f"{_name(type(value))}.{value.name}"}
        named = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
        if isinstance(named, str):  # a function that is not written in Python
            return {"builtin": f"{getattr(value, '__module__', '')}.{named}"}
        return {"instance": self.of(type(value)), "state": self._state(value)}

    def _state(self, value: Any) -> Any:
        """Describe the attributes of an instance, unless its class is Python's own."""
        if _package_of(type(value)) == "":
            return None
        own = getattr(value, "__dict__", {})
        return {name: self.of(item) for name, item in sorted(own.items()) if name not in _ORIGINS}

    def function(self, function: types.FunctionType) -> Any:
        """Describe code, defaults, closure and the globals that the code reads."""
        package = _package_at(function.__code__.co_filename, function.__module__)
        if package is not None:
            return {"function": f"{function.__module__}.{function.__qualname__} {package}"}
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        known = function.__globals__
        return {
            "function": function.__qualname__,
            "code": self.code(function.__code__),
            "defaults": [self.of(function.__defaults__), self.of(function.__kwdefaults__)],
            "closure": {name: self.of(_content(cell)) for name, cell in cells},
            "globals": {
                name: self.of(known[name])
                for name in sorted(_globals_read(function.__code__))
                if isinstance(known.get(name), _GLOBALS)
            },
        }

    def code(self, code: types.CodeType) -> str:
        """Return the checksum of compiled code, wherever in a file it stands."""
        constants = [
            {"set": sorted((self.of(c) for c in constant), key=canonical)}
            if isinstance(constant, frozenset)
            else self.of(constant)
            for constant in code.co_consts
        ]
        arguments = code.co_argcount + code.co_kwonlyargcount
        shape = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
        names = [code.co_names, code.co_varnames[:arguments], code.co_freevars, code.co_cellvars]
        return digest_of([code.co_code.hex(), constants, shape, [list(n) for n in names]])

    def kind(self, cls: type) -> Any:
        """Describe a class: what its own code says, and its bases."""
        body = {}
        for name, item in sorted(vars(cls).items()):
            inner = getattr(item, "__func__", getattr(item, "fget", item))
            if isinstance(inner, types.FunctionType):
                body[name] = self.of(inner)
            elif not name.startswith("__") and isinstance(item, _GLOBALS):
                body[name] = self.of(item)
        bases = [self.of(base) for base in cls.__bases__]
        return {"class": cls.__qualname__, "body": body, "bases": bases}

    def module(self, model: nn.Module, parameters: bool) -> Any:
        """Describe a network: every part with its class and its settings, and who shares what."""
        parts, first = [], dict[int, str]()
        for name, part in model.named_modules(remove_duplicate=False):
            if id(part) in first:
                parts.append([name, first[id(part)]])
                continue
            first[id(part)] = name
            settings = {
                key: self.of(value)
                for key, value in sorted(vars(part).items())
                if key not in _MODULE_KEYS | _ORIGINS and not _holds_parameters(value)
            }
            hooks = [self.of(hook) for key in _HOOKS for hook in vars(part).get(key, {}).values()]
            parts.append([name, self.of(type(part)), settings, hooks])
        values = {}
        if parameters:
            tensors = [*model.named_parameters(), *model.named_buffers()]
            values = {name: tensor_facts(tensor, self.dtype) for name, tensor in tensors}
        return {"parts": parts, "values": values}


def _holds_parameters(value: Any) -> bool:
    """Tell whether an attribute of a module is, or lists, parameters that count elsewhere."""
    if isinstance(value, list | tuple) and value:
        return all(_holds_parameters(item) for item in value)
    return isinstance(value, nn.Parameter)


def _package_of(cls: type) -> str | None:
    """Return the version of the installed package of a class; "" for Python's own; else None."""
    for item in vars(cls).values():
        if isinstance(item, types.FunctionType) and item.__code__.co_filename[:1] != "<":
            return _package_at(item.__code__.co_filename, cls.__module__)
    module = sys.modules.get(cls.__module__)
    # A file that was run may be called like a module of Python's.
    if module is None or getattr(module, cls.__qualname__.partition(".")[0], None) is None:
        return None
    return _package_at(getattr(module, "__file__", None) or "<frozen>", cls.__module__)


def _package_at(place: str, module: str | None) -> str | None:
    """Return the version of the installed package of a file; "" for Python's own; else None."""
    if "site-packages" in place or "dist-packages" in place:
        package = sys.modules.get((module or "").partition(".")[0])
        return str(getattr(package, "__version__", None) or "installed")
    return "" if place.startswith(_PYTHON) else None


def _name(cls: type) -> str:
    """Return the full name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _content(cell: Any) -> Any:
    """Return what a cell of a closure holds, None where it is still empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _globals_read(code: types.CodeType) -> Iterator[str]:
    """Iterate over the names of globals that code reads, that of inner functions included."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(step.argval)
    yield from _inner_globals(code.co_consts)


def _inner_globals(constants: Iterable[Any]) -> Iterator[str]:
    """Iterate over the globals that the functions among constants read."""
    for constant in constants:
        if isinstance(constant, types.CodeType):
            yield from _globals_read(constant)
