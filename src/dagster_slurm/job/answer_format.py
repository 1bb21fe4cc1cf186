"""Frozen dataclasses as JSON and back, by their annotations: how answers of Slurm lie in a file."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar

_T = TypeVar("_T")


def to_plain(value: object) -> object:
    """What `json.dumps` takes, of a dataclass with numbers, texts, times, states, mappings and tuples in it."""
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: type[_T], plain: object) -> _T:
    """What `to_plain` was given.

    Raises:
        ValueError: It is not of that kind; another release may have written it.
    """
    try:
        return typing.cast(_T, _read(kind, plain))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a {kind.__name__}: {error}") from error


def _read(kind: Any, plain: Any) -> object:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return None if plain is None else _read(_without_none(kind), plain)
    if typing.get_origin(kind) is tuple:
        return tuple(_read(typing.get_args(kind)[0], item) for item in plain)
    if isinstance(typing.get_origin(kind), type) and issubclass(typing.get_origin(kind), Mapping):
        return {key: _read(typing.get_args(kind)[1], item) for key, item in plain.items()}
    if is_dataclass(kind):
        return _build(kind, plain)
    if issubclass(kind, Enum):
        return kind(plain)
    if kind is datetime:
        return datetime.fromisoformat(plain)
    return _as_it_is(kind, plain)


def _build(kind: Any, plain: Any) -> object:
    return kind(**{name: _read(hint, plain[name]) for name, hint in _hints(kind).items()})


def _as_it_is(kind: type, plain: object) -> object:
    if type(plain) is not kind and not (kind is float and type(plain) is int):
        raise ValueError(f"not a {kind.__name__}: {plain!r}")
    return plain


def _without_none(kind: Any) -> Any:
    return next(arm for arm in typing.get_args(kind) if arm is not type(None))


@lru_cache(maxsize=16)
def _hints(kind: type) -> Mapping[str, Any]:
    return typing.get_type_hints(kind)
