"""What `launch.json` tells, read for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """Which piece of work an attempt is.

    Args:
        origin_run_id: The run in which it was first asked for; empty if not known, as everything here.
        run_id: The run that began this attempt.
        step_key: The step.
        assets: The asset keys.
        partition_keys: The partition keys.
    """

    origin_run_id: str = ""
    run_id: str = ""
    step_key: str = ""
    assets: tuple[str, ...] = ()
    partition_keys: tuple[str, ...] = ()


def read_description(text: str) -> Description:
    """Read `launch.json`; what is missing there, or not of the kind that it should be, is left empty."""
    try:
        told = json.loads(text)
    except ValueError:
        return Description()
    if not isinstance(told, Mapping):
        return Description()
    return Description(
        _text(told.get("origin_run_id")),
        _text(told.get("run_id")),
        _text(told.get("step_key")),
        _texts(told.get("assets")),
        _texts(told.get("partition_keys")),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()
