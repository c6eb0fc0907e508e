"""Environment factories by name. Free of torch, for worker processes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from marl.errors import UserError, nearest


def import_factory(spec: str) -> Callable[..., Any]:
    """The object that ``MODULE:FACTORY`` names; ``UserError`` if there is none."""
    module_name, _, path = spec.partition(":")
    if not module_name or not path:
        raise UserError(
            f"'{spec}' does not name a factory: write MODULE:FACTORY, such as my_package.world:parallel_env"
        )
    try:
        target: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"module '{module_name}' cannot be imported: {error}") from error
    for part in path.split("."):
        if not hasattr(target, part):
            names = [name for name in dir(target) if not name.startswith("_")]
            raise UserError(f"'{part}' is not in '{module_name}'{nearest(part, names)}")
        target = getattr(target, part)
    if not callable(target):
        raise UserError(f"'{spec}' is not callable: it has to be a function or class that makes an environment")
    factory: Callable[..., Any] = target
    return factory
