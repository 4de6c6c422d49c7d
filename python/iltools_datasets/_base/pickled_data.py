"""Plain data out of a pickle without running it: no import, no call, no object but those listed here.

A pickle is a program. This reads the programs that numbers, strings, containers and numpy arrays are written as, with a
stack and nothing else: a global is a name that is compared with a list, and what the list lacks ends the reading.
Arguments of opcodes are decoded by the standard library's `pickletools`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Hashable
from typing import Any

from iltools_datasets._base.pickled_arrays import (
    JOBLIB,
    NAMES,
    Array,
    DType,
    JoblibArray,
    Mark,
    Name,
    array_of,
    finished,
    made,
)
from iltools_datasets._base.pickled_tensors import TENSOR_NAMES, Storages, made_of_torch, storage_of
from iltools_datasets.errors import SourceError

__all__ = ["read_pickled_data"]

_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_MOST_OPCODES = 20_000_000
"""A list of a million poses has some ten million; each can make an object of a hundred bytes."""
_VIEW_FROM = 1 << 12
"""Bytes from which the content of an array is a view of the file."""
_FAILURES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def read_pickled_data(content: memoryview, label: str, storages: Storages | None = None) -> Any:
    """Return what the first pickle in `content` describes, of protocols 2 to 5.

    Args:
        content: bytes that begin with a pickle; what follows it is not looked at.
        label: what the error calls it, such as a path.
        storages: returns the numbers of torch's tensors, which lie beside the pickle; without it there are none.

    Returns:
        None, bool, int, float, str, bytes, list, tuple, dict, numpy scalars and numpy arrays of them. Arrays of bools,
        numbers and text are read-only views of `content` where the pickle holds their bytes as they are, or where
        joblib wrote them between its opcodes. Tensors are such arrays, too.

    Raises:
        SourceError: the pickle is cut or damaged, or describes anything else: another class, a call. Nothing it names
            was imported or called, and no size it claims was allocated.
    """
    reader = _Reader(content)
    try:
        return _Machine(reader, storages).run()
    except _FAILURES as error:
        reason = str(error) or type(error).__name__
        raise SourceError(f"{label}: byte {reader.at}: not plain data in a pickle: {reason}") from error


class _Reader:
    """The part of a binary file that `pickletools` reads arguments with; never more than there is."""

    def __init__(self, content: memoryview) -> None:
        self._content = content.cast("B").toreadonly()
        self._next = self.at = 0

    def opcode(self) -> Any:
        self.at = self._next
        code = bytes(self.read(1)).decode("latin-1")
        if code not in _OPCODES:
            raise ValueError(f"no opcode {code!r}")
        return _OPCODES[code]

    def read(self, size: int) -> bytes | memoryview:
        if size > len(self._content) - self._next:
            raise ValueError(f"{size} bytes are announced, {len(self._content) - self._next} are there")
        piece = self._content[self._next : self._next + size]
        self._next += size
        return piece if size >= _VIEW_FROM else bytes(piece)

    def readline(self) -> bytes:
        # Names of globals in protocols below 4.
        line, found, _ = bytes(self._content[self._next : self._next + 256]).partition(b"\n")
        if not found:
            raise ValueError("a name without an end")
        self._next += len(line) + 1
        return line + b"\n"


def _raw_bytes(reader: _Reader) -> bytes | memoryview:
    # `pickletools` would copy a bytearray's content.
    return reader.read(int.from_bytes(reader.read(8), "little"))


class _Machine:
    """Stack and memo of a pickle; one method per opcode that is known."""

    def __init__(self, reader: _Reader, storages: Storages | None = None) -> None:
        self._reader, self._storages = reader, storages
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        reader = self._reader
        for _ in range(_MOST_OPCODES):
            opcode = reader.opcode()
            if opcode.name == "STOP":
                return finished(self._pop())
            if opcode.name == "BYTEARRAY8":
                argument: Any = _raw_bytes(reader)
            else:
                argument = None if opcode.arg is None else opcode.arg.reader(reader)
            if opcode.name in _VALUES:
                self._stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            else:
                raise ValueError(f"{opcode.name} makes an object or runs code, which is never done")
        raise ValueError(f"more than {_MOST_OPCODES} opcodes")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is Mark:
            raise ValueError("a mark where a value should be")
        return value

    def _since_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not Mark:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def skip(self, _: Any) -> None:
        """Framing and the protocol's number say nothing about the data."""

    def mark(self, _: Any) -> None:
        self._stack.append(Mark)

    def pop(self, _: Any) -> None:
        self._stack.pop()

    def pop_mark(self, _: Any) -> None:
        self._since_mark()

    def duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def append(self, _: Any) -> None:
        item = self._pop()
        self._the(list).append(item)

    def appends(self, _: Any) -> None:
        items = self._since_mark()
        self._the(list).extend(items)

    def set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._the(dict)[_key(key)] = value

    def set_items(self, _: Any) -> None:
        items = self._since_mark()
        target = self._the(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def make_tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._since_mark()))

    def make_list(self, _: Any) -> None:
        self._stack.append(self._since_mark())

    def make_dict(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append({_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)})

    def short_tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def name(self, argument: str) -> None:
        self._push_name(*argument.split(" ", 1))

    def stack_name(self, _: Any) -> None:
        attribute, module = self._pop(), self._pop()
        self._push_name(module, attribute)

    def _push_name(self, module: Any, attribute: Any) -> None:
        name = f"{module}.{attribute}"
        if name not in NAMES and (self._storages is None or name not in TENSOR_NAMES):
            raise ValueError(f"{name:.200} is not data")
        self._stack.append(Name(name))

    def reduce(self, _: Any) -> None:
        arguments, name = self._pop(), self._pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that was made on the way")
        self._stack.append((made_of_torch if name in TENSOR_NAMES else made)(name, arguments))

    def new_object(self, _: Any) -> None:
        arguments, name = self._pop(), self._pop()
        if not isinstance(name, Name) or name != JOBLIB or arguments != ():
            raise ValueError(f"an object of {name!s:.200}, which is no data")
        self._stack.append(JoblibArray())

    def persistent(self, _: Any) -> None:
        if self._storages is None:
            raise ValueError("a reference to something outside of the pickle")
        self._stack.append(storage_of(self._pop(), self._storages))

    def build(self, _: Any) -> None:
        state = self._pop()
        target = self._stack[-1]
        if isinstance(target, DType) and isinstance(state, tuple) and len(state) >= 2:
            target.order = state[1] if state[1] in ("<", ">", "|", "=") else "="
            if len(state) >= 5 and any(part is not None for part in state[2:5]):
                raise ValueError("arrays of records are not read")
        elif isinstance(target, JoblibArray):
            target.fill(state, self._reader.read, lambda: _Machine(self._reader).run())
        elif isinstance(target, Array) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, fortran, content = state
            target.value = array_of(shape, dtype, fortran, content)
        else:
            raise ValueError(f"a state for {type(target).__name__}, which has none")

    def _the(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise ValueError(f"items for {type(self._stack[-1]).__name__}, which is no {kind.__name__}")
        return self._stack[-1]


def _key(key: Any) -> Hashable:
    if not isinstance(key, str | int | float | bytes | bool) or isinstance(key, Name):
        raise ValueError(f"a key of type {type(key).__name__}")
    return key


_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.skip,
    "FRAME": _Machine.skip,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.duplicate,
    "MEMOIZE": _Machine.memoize,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "TUPLE": _Machine.make_tuple,
    "LIST": _Machine.make_list,
    "DICT": _Machine.make_dict,
    "TUPLE1": lambda machine, _: machine.short_tuple(1),
    "TUPLE2": lambda machine, _: machine.short_tuple(2),
    "TUPLE3": lambda machine, _: machine.short_tuple(3),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "NEWOBJ": _Machine.new_object,
    "BINPERSID": _Machine.persistent,
}
