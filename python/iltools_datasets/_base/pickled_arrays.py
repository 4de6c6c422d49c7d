"""What a pickle may name: numpy's arrays, dtypes and scalars, made of bytes that were measured first."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPE = re.compile(r"([<>=|]?)([biuf])([1248])")
_TEXT_DTYPE = re.compile(r"([<>=|]?)([SU])([0-9]{1,6})")


_PLAIN = (type(None), bool, int, float, str, bytes, np.generic, np.ndarray)


class Mark:
    """Where a container's items begin on the stack."""


class Name(str):
    """A global that was named: `module.attribute`, from the list."""

    __slots__ = ()


class DType:
    """A dtype in the making: its code, and the byte order that its state gives."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def numpy(self) -> np.dtype[Any]:
        match = _DTYPE.fullmatch(self.code) or _TEXT_DTYPE.fullmatch(self.code)
        if match is None:
            raise ValueError(f"values of type {self.code!r} are not read")
        order = match[1] or (self.order if self.order in "<>" else "=")
        return np.dtype(f"{'' if order == '|' else order}{match[2]}{match[3]}")

    @property
    def holds_objects(self) -> bool:
        return self.code in ("O", "O8", "|O")


class Array:
    """An array in the making: `BUILD` gives it shape, type and content, and then it is replaced by the array."""

    def __init__(self) -> None:
        self.value: NDArray[Any] | None = None


class JoblibArray(Array):
    """An array whose content joblib wrote behind the state that describes it, outside of any opcode."""

    def fill(self, state: Any, read: Callable[[int], bytes | memoryview], nested: Callable[[], Any]) -> None:
        """Read the content of what a state describes: padding first, then values, or a pickle of their own.

        Format: `joblib.numpy_pickle.NumpyArrayWrapper.write_array`.
        """
        if not isinstance(state, dict) or not {"subclass", "shape", "order", "dtype"} <= state.keys():
            raise ValueError("an array of joblib without shape or dtype")
        shape, dtype, order = state["shape"], state["dtype"], state["order"]
        if state["subclass"] != Name("numpy.ndarray") or order not in ("C", "F") or not isinstance(dtype, DType):
            raise ValueError("an array of joblib of another class")
        if dtype.holds_objects:
            self.value = nested()
            if not isinstance(self.value, np.ndarray) or self.value.shape != shape:
                raise ValueError("objects of another shape than is announced")
            return
        if state.get("numpy_array_alignment_bytes") is not None:
            read(read(1)[0])
        size = prod(checked_shape(shape)) * dtype.numpy().itemsize
        self.value = array_of(shape, dtype, order == "F", read(size))


_ARRAY_MAKERS = {f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")}
_FROM_BUFFER = {f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")}
_SCALARS = {f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")}
_DICTIONARIES = {"collections.OrderedDict", "builtins.dict", "__builtin__.dict"}
_EMPTY_BYTES = {"__builtin__.bytes", "builtins.bytes"}
JOBLIB = "joblib.numpy_pickle.NumpyArrayWrapper"
NAMES = (
    {"numpy.ndarray", "numpy.dtype", "_codecs.encode", JOBLIB}
    | _EMPTY_BYTES
    | _ARRAY_MAKERS
    | _FROM_BUFFER
    | _SCALARS
    | _DICTIONARIES
)


def made(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return what a name of `NAMES` makes of its arguments; `ValueError` for any other arguments than data has."""
    if name in _ARRAY_MAKERS:
        if arguments[:1] != (Name("numpy.ndarray"),):
            raise ValueError("an array of another class")
        return Array()
    if name == "numpy.dtype":
        if not isinstance(arguments[0], str):
            raise ValueError("a dtype without a code")
        return DType(arguments[0])
    if name in _FROM_BUFFER:
        content, dtype, shape, order = arguments
        return array_of(shape, dtype, order == "F", content)
    if name in _SCALARS:
        dtype, content = arguments
        return array_of((), dtype, False, content)[()]
    if name == "_codecs.encode":
        text, encoding = arguments
        if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
            raise ValueError("bytes in another encoding than latin-1")
        return text.encode("latin-1")
    if arguments == () and name in _DICTIONARIES | _EMPTY_BYTES:
        return {} if name in _DICTIONARIES else b""
    raise ValueError(f"{name} with {len(arguments)} arguments is not data")


def checked_shape(shape: Any) -> tuple[int, ...]:
    """Return a shape; ValueError for anything else, and for sizes that nothing has."""
    if not isinstance(shape, tuple) or len(shape) > 32:
        raise ValueError("no shape")
    if any(type(extent) is not int or not 0 <= extent < 2**48 for extent in shape):
        raise ValueError(f"no shape: {shape!r:.80}")
    return shape


def array_of(shape: Any, dtype: Any, fortran: Any, content: Any) -> NDArray[Any]:
    """Return the array of a shape over its bytes; the sizes are compared before anything is made."""
    checked_shape(shape)
    if not isinstance(dtype, DType):
        raise ValueError("an array without a dtype")
    order: Any = "F" if fortran else "C"
    if dtype.holds_objects:
        if not isinstance(content, list) or len(content) != prod(shape):
            raise ValueError(f"{list(shape)} objects are announced, {len(content)} are there")
        objects = np.empty(len(content), dtype=object)
        for at, item in enumerate(content):
            objects[at] = finished(item)
        return objects.reshape(shape, order=order)
    if isinstance(content, str):  # Python 2's bytes
        content = content.encode("latin-1")
    if not isinstance(content, bytes | memoryview):
        raise ValueError(f"values of an array in {type(content).__name__}")
    plain = dtype.numpy()
    needed = prod(shape) * plain.itemsize
    if needed != len(content):
        raise ValueError(f"{plain} {list(shape)} takes {needed} bytes, {len(content)} are there")
    if plain == np.bool_ and np.frombuffer(content, np.uint8).max(initial=0) > 1:
        raise ValueError("bools that are neither 0 nor 1")
    array: NDArray[Any] = np.ndarray(shape, plain, content, order=order)
    return array


def finished(value: Any) -> Any:
    """Return a value with the arrays that were made within it in place.

    Whatever is there several times is looked into once: a pickle of a hundred bytes can hold a tuple 2^50 times.
    """
    root = [value]
    todo: list[list[Any] | dict[Any, Any]] = [root]
    seen: set[int] = {id(root)}
    tuples: dict[int, tuple[Any, tuple[Any, ...]]] = {}

    def plain(item: Any) -> Any:
        if isinstance(item, tuple):
            if id(item) not in tuples:
                tuples[id(item)] = (
                    item,
                    tuple(plain(part) for part in item),
                )  # kept alive, so that its id stays its own
            return tuples[id(item)][1]
        if isinstance(item, list | dict):
            if id(item) not in seen:
                seen.add(id(item))
                todo.append(item)
        elif isinstance(item, Array):
            if item.value is None:
                raise ValueError("an array without a state")
            return item.value
        elif isinstance(item, memoryview):
            return bytes(item)
        elif isinstance(item, Name) or not isinstance(item, _PLAIN):
            raise ValueError(f"{type(item).__name__} is no data")
        return item

    while todo:
        container = todo.pop()
        for place in range(len(container)) if isinstance(container, list) else list(container):
            container[place] = plain(container[place])
    return root[0]
