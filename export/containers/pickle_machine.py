"""A machine for pickles that builds plain values and runs nothing.

A pickle is a program: it may name any function and call it. This machine executes its stack
operations on plain containers. A name is kept as a ``GlobalName``, and what a pickle would build
by calling one becomes a ``StandIn``, an inert record of the name and its arguments. Only the
constructors of a table, which is our own code, give anything else.

Source: the operations as ``pickletools`` documents them, which also reads their arguments.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

NOT_PICKLES = (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError)
"""What reading a malformed pickle raises."""


@dataclass(frozen=True)
class GlobalName:
    """A name that a pickle refers to; it is never looked up."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """``module.name``."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class StandIn:
    """An object that was not built: the name of its class or function and what it was given."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    entries: dict[Any, Any] | None = None


MOST_OPERATIONS = 20_000_000
MOST_COPIES = 8
"""Constructors may copy this many times the bytes of the pickle."""

Constructor = Callable[..., Any]
Constructors = Mapping[str, Constructor]
"""Dotted name -> our own function that takes the arguments of the pickle."""

PLAIN: dict[str, Constructor] = {
    "collections.OrderedDict": lambda pairs=(): dict(_flat_pairs(pairs)),
    "collections.defaultdict": lambda *_: {},
    "builtins.dict": lambda pairs=(): dict(_flat_pairs(pairs)),
    "builtins.list": lambda values=(): list(values),
    "builtins.tuple": lambda values=(): tuple(values),
    "builtins.set": lambda values=(): list(values),
    "builtins.frozenset": lambda values=(): tuple(values),
    "torch.Size": lambda values=(): tuple(values),
    "_codecs.encode": lambda text, encoding="latin1", *_: _encode(text, encoding),
}
PLAIN |= {
    name.replace("builtins.", "__builtin__."): function
    for name, function in PLAIN.items()
    if name.startswith("builtins.")
}


_SIZED = (str, bytes, bytearray, list, tuple, dict)


class _Mark:
    """The operation MARK on the stack."""


_MARK = _Mark()
_PUSHES = frozenset(
    {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
        "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    }
)  # fmt: skip
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_IGNORED = frozenset({"PROTO", "FRAME"})


class PickleMachine:
    """One run over one pickle.

    Args:
        constructors: names that become something else than a stand-in.
        size: bytes of the file; what constructors copy is bounded by it.
        persistent: builds what a persistent id stands for (torch's storages).
    """

    def __init__(
        self,
        constructors: Constructors,
        size: int,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self._constructors = constructors
        self._persistent = persistent
        self._budget = MOST_COPIES * size
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: IO[bytes]) -> Any:
        """The value of the pickle at the file's position; the file stands behind it afterwards.

        Raises:
            ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError: malformed.
        """
        self._stack, self._memo = [], {}
        for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
            if operation.name == "STOP":
                return self._stack.pop()
            if count > MOST_OPERATIONS:
                break
            self._execute(operation.name, argument)
        raise ValueError(f"it does not end within {MOST_OPERATIONS:,} operations")

    def _execute(self, name: str, argument: Any) -> None:
        if name in _PUSHES:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name not in _IGNORED:
            handler = _HANDLERS.get(name)
            if handler is None:
                raise ValueError(f"it uses {name}, which checkpoints do not")
            handler(self, argument)

    def _pop_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        values.reverse()
        return values

    def _tuple(self, count: int) -> None:
        values = tuple(self._stack[-count:])
        if len(values) < count or _MARK in map(_as_mark, values):
            raise ValueError("a tuple lacks values")
        del self._stack[-count:]
        self._stack.append(values)

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(GlobalName(module, name))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name is not text")
        self._stack.append(GlobalName(module, name))

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(arguments, tuple):
            raise ValueError("arguments are not a tuple")
        if not isinstance(function, GlobalName):
            self._stack.append(StandIn("?", arguments))
            return
        build = self._constructors.get(function.path)
        if build is None:
            self._stack.append(StandIn(function.path, arguments))
            return
        self._budget -= sum(len(value) for value in arguments if isinstance(value, _SIZED))
        if self._budget < 0:
            raise ValueError(f"it copies its values more than {MOST_COPIES} times")
        self._stack.append(build(*arguments))

    def _reduce(self, _: Any) -> None:
        arguments = self._stack.pop()
        self._call(self._stack.pop(), arguments)

    def _new_object(self, keywords: bool) -> None:
        if keywords:
            self._stack.pop()
        self._reduce(None)

    def _instance(self, argument: str) -> None:
        values = tuple(self._pop_mark())
        self._global(argument)
        self._call(self._stack.pop(), values)

    def _object(self, _: Any) -> None:
        function, *values = self._pop_mark()
        self._call(function, tuple(values))

    def _build(self, _: Any) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, StandIn):
            target.state = state
        elif hasattr(target, "take_state"):
            target.take_state(state)

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, StandIn):
            raise ValueError("it appends to something that is not a list")

    def _set_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, StandIn) and target.entries is None:
            target.entries = {}
        entries = target.entries if isinstance(target, StandIn) else target
        if not isinstance(entries, dict) or len(values) % 2:
            raise ValueError("it sets items of something that is not a dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            entries[_key(key)] = value

    def _persistent_id(self, identity: Any) -> None:
        if self._persistent is None:
            raise ValueError("it refers to data outside itself")
        self._stack.append(self._persistent(identity))


def _as_mark(value: Any) -> _Mark | None:
    return value if isinstance(value, _Mark) else None


def _key(value: Any) -> Any:
    """A key whose hash is bounded work: hashing nested tuples is recursion without a limit."""
    if isinstance(value, (str, int, float, bytes, type(None), GlobalName)):
        return value
    flat = isinstance(value, tuple) and len(value) < 16
    if flat and all(isinstance(part, (str, int, float, bytes)) for part in value):
        return value
    return StandIn("key")


def _flat_pairs(pairs: Any) -> list[tuple[Any, Any]]:
    if isinstance(pairs, dict):
        return list(pairs.items())
    return [(_key(key), value) for key, value in pairs]


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        raise ValueError("unknown text encoding")
    return text.encode(encoding)


Handler = Callable[[PickleMachine, Any], None]
_HANDLERS: dict[str, Handler] = {
    "MARK": lambda m, _: m._stack.append(_MARK),
    "POP": lambda m, _: _drop(m._stack),
    "POP_MARK": lambda m, _: _drop_many(m._pop_mark()),
    "DUP": lambda m, _: m._stack.append(m._stack[-1]),
    "MEMOIZE": lambda m, _: m._memo.__setitem__(len(m._memo), m._stack[-1]),
    "TUPLE1": lambda m, _: m._tuple(1),
    "TUPLE2": lambda m, _: m._tuple(2),
    "TUPLE3": lambda m, _: m._tuple(3),
    "TUPLE": lambda m, _: m._stack.append(tuple(m._pop_mark())),
    "FROZENSET": lambda m, _: m._stack.append(tuple(m._pop_mark())),
    "LIST": lambda m, _: m._stack.append(m._pop_mark()),
    "DICT": lambda m, _: _make_dict(m),
    "APPEND": lambda m, _: m._extend([m._stack.pop()]),
    "APPENDS": lambda m, _: m._extend(m._pop_mark()),
    "ADDITEMS": lambda m, _: m._extend(m._pop_mark()),
    "SETITEM": lambda m, _: m._set_items([m._stack.pop(), m._stack.pop()][::-1]),
    "SETITEMS": lambda m, _: m._set_items(m._pop_mark()),
    "GLOBAL": PickleMachine._global,
    "STACK_GLOBAL": lambda m, _: m._stack_global(),
    "REDUCE": PickleMachine._reduce,
    "NEWOBJ": lambda m, _: m._new_object(False),
    "NEWOBJ_EX": lambda m, _: m._new_object(True),
    "INST": PickleMachine._instance,
    "OBJ": PickleMachine._object,
    "BUILD": PickleMachine._build,
    "PERSID": lambda m, argument: m._persistent_id(argument),
    "BINPERSID": lambda m, _: m._persistent_id(m._stack.pop()),
}


def _drop(stack: list[Any]) -> None:
    stack.pop()


def _drop_many(_values: list[Any]) -> None:
    return


def _make_dict(machine: PickleMachine) -> None:
    values = machine._pop_mark()
    machine._stack.append({})
    machine._set_items(values)
