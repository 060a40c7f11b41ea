"""A stage's identity: configurations that can be hashed, and the hash.

Owns the base class of every configuration and the canonical encoding under the keys. Refuses whatever has no stable encoding
(paths, sets, functions, arrays, NaN), so that nothing about *where* a stage runs can slip into *what* it is. Contract: equal
keys mean equal types (by name, not by module) and equal values throughout; the encoding depends on nothing but these.
"""

import dataclasses
import functools
import hashlib
import math
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

SHORT_KEY_DIGITS = 12
"""Hex digits of a key that go into a directory's name; the whole key stands in the record."""

_BEFORE = "before"
_TOLD = "told"


def added(default: Any) -> Any:
    """A field that a configuration got after results of it lay on disks; to be written where `dataclasses.field` would be.

    While it holds its default it has no part in the identity, so that the keys of before stay. So the default must mean what the
    code did before it had the field, for good: what becomes usual later belongs into a preset, not here.

    Args:
        default: immutable, of the field's annotated type.
    """
    return dataclasses.field(default=default, metadata={_BEFORE: default})


def told(default: Any) -> Any:
    """A field for people alone, such as what something is called: it never has a part in the identity.

    Args:
        default: immutable, of the field's annotated type.
    """
    return dataclasses.field(default=default, metadata={_TOLD: True})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configurations: frozen, keyword-only, every field checked against its annotation.

    An int given for a float field becomes a float and a list for a tuple field a tuple, so that `lr=1` and `lr=1.0` are one
    configuration with one key. Subclasses that add checks call `super().__post_init__()` first, then `expect`.

    Raises:
        ValueError: a field holds a value of another type than annotated.
        TypeError: the class itself is not declared as such a dataclass, or has a field of a kind that isn't supported.
    """

    def __post_init__(self) -> None:
        if "__dataclass_params__" not in vars(type(self)):
            raise TypeError(f"{type(self).__name__} lacks @dataclass(frozen=True, kw_only=True): its own fields would not count")
        hints = _hints(type(self))  # type: ignore[arg-type]  # classes can be hashed
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            fitted = _fit(value, hints[field.name])
            if fitted is _MISFIT:
                raise ValueError(f"{type(self).__name__}.{field.name} is {value!r}; expected {_describe(hints[field.name])}")
            object.__setattr__(self, field.name, fitted)

    def expect(self, **ranges: tuple[bool, str]) -> None:
        """Refuse a field that is out of its range.

        Args:
            ranges: by the field, whether its value is good, and what is expected of it.

        Raises:
            ValueError: for the first that isn't.
        """
        for name, (good, expected) in ranges.items():
            if not good:
                value = getattr(self, name)
                raise ValueError(f"{name} is {f'{value:g}' if isinstance(value, float) else value}; expected {expected}")

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain dicts and lists, for reading in a record (the key is never computed from this). Fields that
        have no part in the identity are left out.
        """
        return {name: _plain(value) for name, value in _counting(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_json()
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


@functools.cache  # a class's hints are read from text each time
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


_MISFIT = object()


def _fit(value: Any, hint: Any) -> Any:
    """Return `value` as the annotation wants it, or _MISFIT."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return next((a for a in args if type(a) is type(value) and a == value), _MISFIT)
    if origin in (typing.Union, types.UnionType):
        return next((f for a in args if (f := _fit(value, a)) is not _MISFIT), _MISFIT)
    if origin is tuple:
        if len(args) != 2 or args[1] is not Ellipsis:
            raise TypeError(f"fields of type {hint} are not supported; expected tuple[X, ...]")
        if not isinstance(value, (list, tuple)):
            return _MISFIT
        items = [_fit(v, args[0]) for v in value]
        return _MISFIT if any(i is _MISFIT for i in items) else tuple(items)
    if hint is type(None):
        return None if value is None else _MISFIT
    if hint is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value) + 0.0  # -0.0 becomes 0.0
    if hint in (int, bool, str):
        return value if type(value) is hint else _MISFIT
    if isinstance(hint, type) and issubclass(hint, Config) and isinstance(value, hint):
        return value
    return _MISFIT


def _describe(hint: Any) -> str:
    args = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, args))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(map(_describe, args))
    if typing.get_origin(hint) is tuple:
        return f"a tuple of {_describe(args[0])}"
    if hint is type(None):
        return "none"
    return "a finite number" if hint is float else getattr(hint, "__name__", str(hint))


def encode(value: Any) -> bytes:
    """Encode a value canonically: a type tag, the length and the content, so that no two values share an encoding.

    Args:
        value: None, bool, int, finite float, str, bytes, tuple, dict with str keys, or a `Config` made of these.

    Raises:
        TypeError: the value, or one inside it, has no stable encoding.
        ValueError: a float is NaN or infinite.
    """
    if value is None:
        return _frame("none", b"")
    kind = type(value)
    if kind is bool:
        return _frame("bool", b"1" if value else b"0")
    if kind is int:
        return _frame("int", str(value).encode())
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{value} has no place in an identity; expected a finite number")
        return _frame("float", value.hex().encode())
    if kind is str:
        return _frame("str", value.encode())
    if kind is bytes:
        return _frame("bytes", value)
    if kind is tuple:
        return _frame("tuple", b"".join(map(encode, value)))
    if kind is dict:
        if not all(type(k) is str for k in value):
            raise TypeError(f"a dict in an identity needs str keys; found {list(value)!r}")
        return _frame("dict", _encode_items(value.items()))
    if isinstance(value, Config):
        return _frame(f"config:{kind.__qualname__}", _encode_items(_counting(value)))
    raise TypeError(f"{value!r} ({kind.__name__}) has no stable encoding and can't be part of a stage's identity")


def _counting(config: Config) -> Iterator[tuple[str, Any]]:
    """The fields that count as identity, with their values."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if _TOLD not in field.metadata and (_BEFORE not in field.metadata or value != field.metadata[_BEFORE]):
            yield field.name, value


def _encode_items(items: Iterable[tuple[str, Any]]) -> bytes:
    return b"".join(encode(name) + encode(value) for name, value in sorted(items))


def _frame(tag: str, payload: bytes) -> bytes:
    return f"{tag}[{len(payload)}]".encode() + payload


def key_of(value: Any) -> str:
    """Return the sha256 of the canonical encoding, as 64 hex digits. Raises what `encode` raises."""
    return hashlib.sha256(encode(value)).hexdigest()
