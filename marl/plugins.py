"""Objects of a user's own modules, named ``module:object`` on the command line and in configurations."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TypeVar

from marl.errors import UserError

Kind = TypeVar("Kind")


def is_reference(name: str) -> bool:
    """Whether a name means an object of a module rather than something registered."""
    return ":" in name


def load_reference(reference: str, kind: type[Kind]) -> Kind:
    """The object ``module:object``; modules beside the present folder are found too.

    Raises ``UserError`` if the module or the object does not exist or is not of the kind asked for. Errors inside the
    module's own code are not hidden.
    """
    module_name, _, attribute = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise
        raise UserError(
            f"module '{module_name}' of '{reference}' was not found: run in its folder or install it"
        ) from None
    except (ValueError, TypeError):
        raise UserError(f"'{reference}' must have the form module:object") from None
    found = getattr(module, attribute, None)
    if not isinstance(found, kind):
        raise UserError(f"'{attribute}' in module '{module_name}' is not a {kind.__name__}: define one and name it")
    return found
