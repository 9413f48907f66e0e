"""Read plain data from an untrusted pickle: containers, text, bytes, numbers and numpy arrays.

Python's own reader calls whatever a pickle names. This one interprets the few operations that
plain data needs, looks nothing up, and rejects every other one. An array is not built: it is
returned as the place of its values in the file.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

OPERATIONS_MAX = 1_000_000
DIMENSIONS_MAX = 4
_RECONSTRUCT = frozenset(
    {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
)
_NDARRAY, _DTYPE = "numpy ndarray", "numpy dtype"
_GLOBALS = _RECONSTRUCT | {_NDARRAY, _DTYPE}
_TEXTS = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"})
_BYTES = {"BINBYTES": 4, "SHORT_BINBYTES": 1, "BINBYTES8": 8, "BINSTRING": 4, "SHORT_BINSTRING": 1}
"""Operations with bytes, and how many bytes hold their length. Strings of Python 2 are bytes."""
_NUMBERS = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"})
_MARK = object()


@dataclass(frozen=True, slots=True)
class _Name:
    """A function or class that the pickle names; never looked up."""

    name: str


@dataclass(frozen=True, slots=True)
class _Bytes:
    """Bytes, and where they are in the file."""

    value: bytes
    offset: int


@dataclass(slots=True)
class PickledArray:
    """An array of uint8 in C order: its values are ``size`` bytes at ``offset`` of the file."""

    shape: tuple[int, ...] = ()
    offset: int = 0
    size: int = 0


@dataclass(slots=True)
class _DType:
    kind: str = ""


@dataclass(slots=True)
class _Machine:
    """The stack and the memo of a pickle."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def since_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("a mark is missing")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items


def read_plain(data: bytes) -> Any:
    """Return what a pickle holds; bytes and strings of Python 2 are bytes.

    Raises:
        ValueError: it is cut short, not a pickle, or holds anything but plain data.
    """
    machine = _Machine()
    try:
        for count, (operation, argument, position) in enumerate(pickletools.genops(data)):
            if count >= OPERATIONS_MAX:
                raise ValueError(f"it has more than {OPERATIONS_MAX:,} operations")
            _step(machine, operation.name, argument, position or 0)
        (result,) = machine.stack
    except (IndexError, KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"it is malformed: {exc!r:.80}") from exc
    return _plain(result)


def _step(machine: _Machine, name: str, argument: Any, position: int) -> None:
    stack = machine.stack
    if name in _NUMBERS or name in _TEXTS:
        stack.append(argument)
    elif name in _BYTES:
        value = argument.encode("latin-1") if isinstance(argument, str) else argument
        stack.append(_Bytes(value, position + 1 + _BYTES[name]))
    elif name in ("BINPUT", "LONG_BINPUT"):
        machine.memo[argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(machine.memo[argument])
    elif name == "GLOBAL":
        if argument not in _GLOBALS:
            raise ValueError(f"it names {argument!r:.80}, which is not plain data")
        stack.append(_Name(argument))
    elif name in _ACTIONS:
        _ACTIONS[name](machine)
    else:
        raise ValueError(f"it has the operation {name}, which plain data does not need")


def _set_items(machine: _Machine, pairs: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, dict):
        raise TypeError("an item is set of something else than a dictionary")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        name = key.value if isinstance(key, _Bytes) else key
        if not isinstance(name, str | bytes | int):  # a deep tuple would be hashed without end
            raise TypeError("a key is neither text nor a number")
        target[name] = value


def _append_all(machine: _Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, list):
        raise TypeError("a value is appended to something else than a list")
    target.extend(values)


def _last(machine: _Machine, count: int) -> list[Any]:
    if len(machine.stack) < count:
        raise IndexError("the stack is empty")
    values = machine.stack[-count:]
    del machine.stack[-count:]
    return values


def _reduce(machine: _Machine) -> None:
    function, arguments = _last(machine, 2)
    if function.name in _RECONSTRUCT and arguments[0] == _Name(_NDARRAY):
        machine.stack.append(PickledArray())
    elif function.name == _DTYPE:
        kind = arguments[0]
        text = kind.value.decode("latin-1") if isinstance(kind, _Bytes) else kind
        machine.stack.append(_DType(text))
    else:
        raise ValueError("it calls a function")


def _build(machine: _Machine) -> None:
    target, state = _last(machine, 2)
    machine.stack.append(target)
    if isinstance(target, _DType):
        return  # byte order and alignment, which one byte does not have
    _, shape, dtype, fortran, values = state
    if not isinstance(target, PickledArray) or dtype.kind != "u1" or fortran:
        raise ValueError("it has an array of another type than uint8 in C order")
    if len(shape) > DIMENSIONS_MAX or not all(0 <= side <= len(values.value) for side in shape):
        raise ValueError("the shape of an array is not plausible")
    count = math.prod(shape)
    if count != len(values.value):
        raise ValueError(f"an array of {count:,} bytes has {len(values.value):,}")
    target.shape, target.offset, target.size = tuple(shape), values.offset, count


def _plain(value: Any) -> Any:
    """Replace the bytes with places by bytes, in lists and dictionaries at the top."""
    if isinstance(value, _Bytes):
        return value.value
    if isinstance(value, dict):
        return {key: _listed(each) for key, each in value.items()}
    return _listed(value)


def _listed(value: Any) -> Any:
    if isinstance(value, list):
        return [each.value if isinstance(each, _Bytes) else each for each in value]
    return value.value if isinstance(value, _Bytes) else value


_ACTIONS: dict[str, Callable[[_Machine], None]] = {
    "PROTO": lambda machine: None,
    "FRAME": lambda machine: None,
    "STOP": lambda machine: None,
    "MARK": lambda machine: machine.stack.append(_MARK),
    "NONE": lambda machine: machine.stack.append(None),
    "NEWTRUE": lambda machine: machine.stack.append(True),
    "NEWFALSE": lambda machine: machine.stack.append(False),
    "EMPTY_DICT": lambda machine: machine.stack.append({}),
    "EMPTY_LIST": lambda machine: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine: machine.stack.append(()),
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": lambda machine: machine.stack.append(tuple(_last(machine, 1))),
    "TUPLE2": lambda machine: machine.stack.append(tuple(_last(machine, 2))),
    "TUPLE3": lambda machine: machine.stack.append(tuple(_last(machine, 3))),
    "SETITEM": lambda machine: _set_items(machine, _last(machine, 2)),
    "SETITEMS": lambda machine: _set_items(machine, machine.since_mark()),
    "APPEND": lambda machine: _append_all(machine, _last(machine, 1)),
    "APPENDS": lambda machine: _append_all(machine, machine.since_mark()),
    "MEMOIZE": lambda machine: machine.memo.__setitem__(len(machine.memo), machine.stack[-1]),
    "REDUCE": _reduce,
    "BUILD": _build,
}
