"""How our resources and arguments are written in YAML: a schema made of their fields, and the values made of that.

A field takes what its type says, a template of Dagster (`{{ ... }}`), or, where it is a text or a whole number, the
name of an environment variable as run config has it: `{env: NAME}`. That is read when a run begins, and never shown.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, ForwardRef, Literal, Union, get_args, get_origin

from dagster import Config, EnvVar, Model, ResolutionContext
from pydantic import BaseModel, Field, create_model

from dagster_slurm.errors import ConfigurationError
from dagster_slurm.resources.environments import (
    ContainerEnvironment,
    Environment,
    ModuleEnvironment,
    NoEnvironment,
    PixiEnvironment,
    UvEnvironment,
)
from dagster_slurm.resources.launchers import ComputeLauncher
from dagster_slurm.resources.parallel_launchers import LAUNCHERS
from dagster_slurm.text import as_written

_KIND = "type"
_TEMPLATE = re.compile(r"\{[{%]")
KINDS: Mapping[type[Any], Mapping[str, type[Any]]] = {
    ComputeLauncher: LAUNCHERS,
    Environment: {
        "container": ContainerEnvironment,
        "module": ModuleEnvironment,
        "none": NoEnvironment,
        "pixi": PixiEnvironment,
        "uv": UvEnvironment,
    },
}
"""What a base class stands for in YAML, by the word that is its `type` there; one of a user's own is a template."""


class Variable(Model):
    """The value of an environment variable, read when a run begins."""

    env: str = Field(description="Its name.")


_models: dict[tuple[type[Any], str], type[BaseModel]] = {}


def model_of(resource: type[Any], kind: str = "") -> type[BaseModel]:
    """The schema of a resource.

    Args:
        resource: Its class.
        kind: The word that tells it from others of its base class; empty where there is nothing to tell.
    """
    found = _models.get((resource, kind))
    if found is None:
        name = f"{resource.__name__}Model"
        fields: dict[str, Any] = {_KIND: (Literal[kind], Field(description="Which kind."))} if kind else {}
        for field, info in resource.model_fields.items():
            default = ... if info.is_required() else None
            fields[field] = (written(info.annotation, resource), Field(default=default, description=info.description))
        found = create_model(name, __base__=Model, __doc__=inspect.getdoc(resource), **fields)
        # A jump host has the type of the host that it leads to.
        found.model_rebuild(_types_namespace={name: found})
        _models[resource, kind] = found
    return found


def written(hint: Any, inside: type[Any] | None = None) -> Any:
    """The type that a field has in YAML.

    Args:
        hint: The one that it has in Python.
        inside: The resource whose field it is.
    """
    parts = tuple(_members(hint))
    variable = (Variable,) if {str, int} & set(parts) else ()
    return Union[tuple(_written(part, inside) for part in parts) + (str,) + variable]  # noqa: RUF005, UP007 - Python 3.10


def _members(hint: Any) -> Iterator[Any]:
    """What a type is one of."""
    if get_origin(hint) is Annotated:
        yield from _members(get_args(hint)[0])
    elif get_origin(hint) in (Union, UnionType):
        for each in get_args(hint):
            yield from _members(each)
    else:
        yield hint


def _written(hint: Any, inside: Any) -> Any:
    if not (inspect.isclass(hint) and issubclass(hint, Config)):
        return hint
    if hint is inside:
        return ForwardRef(f"{hint.__name__}Model")
    if hint in KINDS:
        models = tuple(model_of(found, kind) for kind, found in KINDS[hint].items())
        return Annotated[Union[models], Field(discriminator=_KIND)]  # noqa: UP007 - made of a tuple
    return model_of(hint)


def values_in(context: ResolutionContext, model: Any) -> Any:
    """What was written, with its templates resolved; of a mapping, the fields that were written.

    A text without a template stays one: as a template, Dagster would make a number of "30".
    """
    if isinstance(model, BaseModel):
        model = model.model_dump(exclude_unset=True)
    if isinstance(model, Mapping):
        return {name: values_in(context.at_path(name), each) for name, each in model.items()}
    if isinstance(model, list | tuple):
        return [values_in(context.at_path(number), each) for number, each in enumerate(model)]
    return context.resolve_value(model) if isinstance(model, str) and _TEMPLATE.search(model) else model


def made(hint: Any, value: Any) -> Any:
    """What a value that was written stands for.

    Args:
        hint: The type of the field in Python.
        value: What was written, or what a template has made of it.

    Raises:
        pydantic.ValidationError: A resource does not take it.
        ConfigurationError: A kind is none that there is.
    """
    parts = set(_members(hint))
    if not isinstance(value, Mapping):
        return value
    resource = next((each for each in parts if inspect.isclass(each) and issubclass(each, Config)), None)
    if resource is not None:
        return _made_resource(resource, value)
    if set(value) == {"env"} and {str, int} & parts:
        return EnvVar(value["env"]) if str in parts else EnvVar.int(value["env"])
    return value


def _made_resource(resource: type[Any], value: Mapping[str, Any]) -> Any:
    fields = dict(value)
    if resource in KINDS:
        kind = fields.pop(_KIND, None)
        if kind not in KINDS[resource]:
            known = ", ".join(KINDS[resource])
            raise ConfigurationError(
                f"There is no {resource.__name__} of the type {as_written(kind)}", hint=f"There are {known}."
            )
        resource = KINDS[resource][kind]
    hints = {name: info.annotation for name, info in resource.model_fields.items()}
    return resource(**{name: made(hints.get(name), each) for name, each in fields.items()})
