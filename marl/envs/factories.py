"""Environment factories by name. Free of torch, for worker processes."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium

from marl.errors import UserError, nearest


def import_factory(spec: str) -> Callable[..., Any]:
    """The callable that ``MODULE:FACTORY`` names; ``UserError`` if there is none."""
    target = import_object(spec)
    if not callable(target):
        raise UserError(f"'{spec}' is not callable: it has to be a function or class that makes an environment")
    made: Callable[..., Any] = target
    return made


def import_environment(spec: str) -> Callable[..., Any]:
    """What makes the environment that ``MODULE:FACTORY`` names, or ``MODULE:ID`` where the module registers the ID.

    Args:
        spec: a module, a colon, and a callable in it, or the name by which ``gymnasium.make`` knows an environment once
            the module is imported.

    Raises:
        UserError: there is neither.
    """
    try:
        return import_factory(spec)
    except UserError:
        name = spec.partition(":")[2]
        if name not in gymnasium.registry:
            raise
        return partial(gymnasium.make, name, disable_env_checker=True)


def import_object(spec: str) -> Any:
    """The object that ``MODULE:NAME`` names; ``UserError`` if there is none or its module cannot be imported.

    Args:
        spec: a module, a colon, and a name in it, which may have dots.
    """
    module_name, _, path = spec.partition(":")
    if not module_name or not path:
        raise UserError(
            f"'{spec}' does not name a factory: write MODULE:FACTORY, such as my_package.world:parallel_env"
        )
    try:
        target: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UserError(f"module '{module_name}' cannot be imported: {_told(error)}") from error
    for part in path.split("."):
        if not hasattr(target, part):
            names = [name for name in dir(target) if not name.startswith("_")]
            raise UserError(f"'{part}' is not in '{module_name}'{nearest(part, names)}")
        target = getattr(target, part)
    return target


def _told(error: BaseException) -> str:
    """An error of a module in one line, with its place; what is plainly missing without one."""
    if isinstance(error, ImportError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({Path(error.filename or '?').name}, line {error.lineno})"
    last = traceback.extract_tb(error.__traceback__)[-1]
    words = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {words} ({Path(last.filename).name}, line {last.lineno})"
