"""Whose turn it is to ask the cluster, and how often it may be asked. Pure: no clock, no I/O.

All processes of one user on one machine keep one such account for each kind of question.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar


@dataclass(frozen=True)
class Rules:
    """How often may be asked, over all who ask.

    Args:
        per_second: Questions a second in the long run.
        burst: How many may follow each other at once after a pause.
        patience_seconds: How long one who asks is waited for before somebody else does.
    """

    per_second: float = 1.0
    burst: float = 3.0
    patience_seconds: float = 10.0


@dataclass(frozen=True)
class Account:
    """Who asks now, and how many questions are left.

    Args:
        era: The clock by which its times are: of one boot of one machine.
        left: Questions that may be asked at once, as of `counted_at`.
        counted_at: Seconds since boot.
        asker: Who asks now.
        since: Since when, in seconds since boot.
    """

    era: str
    left: float
    counted_at: float
    asker: str | None = None
    since: float = 0.0

    @classmethod
    def opened(cls, era: str, now: float, rules: Rules) -> Account:
        """Nobody asks, and nothing has been asked."""
        return cls(era, rules.burst, now)

    def to_json(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))


def read_account(text: str, *, era: str, now: float, rules: Rules) -> Account:
    """The account of a file; a new one for what is torn, of another boot, or not of this clock."""
    try:
        values = json.loads(text)
        asker = values["asker"]
        read = Account(
            values["era"],
            float(values["left"]),
            float(values["counted_at"]),
            asker if isinstance(asker, str) else None,
            float(values["since"]),
        )
    except (ValueError, TypeError, KeyError):
        return Account.opened(era, now, rules)
    is_ours = read.era == era and read.counted_at <= now and read.since <= now and read.left <= rules.burst
    return read if is_ours else Account.opened(era, now, rules)


def is_taken(account: Account, *, now: float, rules: Rules, asker_lives: bool) -> bool:
    """Whether somebody asks who is to be waited for: neither dead nor silent for too long."""
    return account.asker is not None and asker_lives and now < account.since + rules.patience_seconds


def counted(account: Account, *, now: float, rules: Rules) -> Account:
    """The same, with the questions that have become free since."""
    left = account.left + max(0.0, now - account.counted_at) * rules.per_second
    return replace(account, left=min(rules.burst, left), counted_at=now)


def begun(account: Account, member: str, *, now: float, rules: Rules) -> Account | None:
    """The account once a member has begun to ask; None if that would be one question too many."""
    up_to_date = counted(account, now=now, rules=rules)
    if up_to_date.left < 1.0:
        return None
    return replace(up_to_date, left=up_to_date.left - 1.0, asker=member, since=now)


def ended(account: Account, member: str) -> Account:
    """The account once a member has done asking; the same if somebody else has taken over meanwhile."""
    return replace(account, asker=None) if account.asker == member else account


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
