"""Options of a command as dataclasses, so that several commands take the same ones."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

Command = TypeVar("Command", bound=Callable[..., None])


def with_options(**groups: type) -> Callable[[Command], Command]:
    """Gives a command the options of dataclasses, whose instances it takes by these names."""

    def decorate(command: Command) -> Command:
        def run(**values: Any) -> None:
            for name, group in groups.items():
                names = [field.name for field in dataclasses.fields(group)]
                values[name] = group(**{option: values.pop(option) for option in names})
            command(**values)

        declared = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [parameter for parameter in declared if parameter.name not in groups]
        for group in groups.values():
            hints = get_type_hints(group, include_extras=True)
            parameters += [
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=hints[field.name],
                )
                for field in dataclasses.fields(group)
            ]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run  # type: ignore[return-value]

    return decorate
