"""Objects of a user's own modules, named ``module:object`` on the command line and in configurations.

Importing a module runs its code, so a module is imported only if the user named it: on the command line, in a call from
Python, or with ``trust``. A file that came from elsewhere, such as the configuration of somebody's run, cannot have
code run by naming it, nor a server contacted.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from marl.errors import UserError, nearest

Kind = TypeVar("Kind")

#: ``package.module:object`` within a word; what stands after a slash or a dot is part of a file's name.
_REFERENCE = re.compile(r"(?<![\w./-])([A-Za-z_]\w*(?:\.\w+)*):[A-Za-z_]")
_URL = re.compile(r"https?://[^\s'\",\]}]+")
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})

#: Top-level packages, and the hosts of servers, that the user named.
_packages: set[str] = set()
_hosts: set[str] = set()
#: Programs that files may have started.
_programs: set[str] = set()


def is_reference(name: str) -> bool:
    """Whether a name means an object of a module rather than something registered."""
    return ":" in name


def trust(*names: str) -> None:
    """Let files name these modules (their whole packages), servers (by address) and programs from now on."""
    _programs.update(names)
    for name in names:
        host = urlsplit(name).hostname if _URL.match(name) else None
        if host is not None:
            _hosts.add(host)
        else:
            _packages.add(name.partition(":")[0].partition(".")[0])


def trust_named_in(words: Iterable[str]) -> None:
    """Trust what the user named in these words: each ``module:object`` and each address of a server."""
    for word in words:
        modules = [match[1] for match in _REFERENCE.finditer(_URL.sub("", word))]
        trust(*_URL.findall(word), *(name for name in modules if not name.endswith((".yaml", ".yml"))))


def file_hint(name: str) -> str:
    """The end of an error sentence about an unknown name, where a module of the present folder has that name."""
    if not name.isidentifier() or not Path(f"{name}.py").is_file():
        return ""
    return f"; what {name}.py holds is named {name}:OBJECT, such as {name}:SCENARIO"


def check_server(url: str, place: str) -> None:
    """Raise ``UserError`` unless a server that a file names is on this machine or was named by the user."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if host not in _HERE and host not in _hosts:
        raise UserError(f"{place} names the server {url[:80]!r}: if it is to be contacted, add --trust {url[:80]!r}")


def check_program(program: str, place: str) -> None:
    """Raise ``UserError`` unless a program that a file would have started was named by the user."""
    if program not in _programs:
        raise UserError(f"{place} starts the program {program[:80]!r}: to let it, add --trust {program[:80]!r}")


def check_code(texts: Iterable[str], place: str) -> None:
    """Raise ``UserError`` unless the user named every module that texts of a file name as ``module:object``."""
    for text in texts:
        for match in _REFERENCE.finditer(_URL.sub("", text)):
            package = match[1].partition(".")[0]
            if package not in _packages:
                raise UserError(
                    f"{place} names the code '{text[:80]}' and you did not: if it is to be run, add --trust {package}"
                )


def load_reference(reference: str, kind: type[Kind]) -> Kind:
    """The object ``module:object``; modules beside the present folder are found too.

    Raises ``UserError`` if the module was not named by the user, if the module or the object does not exist, or if it
    is not of the kind asked for. Errors inside the module's own code are not hidden.
    """
    module_name, _, attribute = reference.partition(":")
    package = module_name.partition(".")[0]
    # Taking a declared object out of a module that is loaded already runs nothing; a function would be run later.
    harmless = module_name in sys.modules and kind is not object
    if package not in _packages and not harmless:
        raise UserError(
            f"'{reference[:80]}' is code that a file names and you did not: if it is to be run, add --trust {package}"
        )
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
    if found is None:
        fitting = [
            name
            for name, value in vars(module).items()
            if isinstance(value, kind)
            and name[0] != "_"
            # Of any kind is all that stands in the module; what it imported is not meant.
            and (kind is not object or getattr(value, "__module__", None) == module_name)
        ]
        kinds = "" if kind is object else f": define a {kind.__name__} of that name"
        raise UserError(f"module '{module_name}' has no '{attribute}'{nearest(attribute, fitting) or kinds}")
    if not isinstance(found, kind):
        raise UserError(f"'{attribute}' in module '{module_name}' is not a {kind.__name__}: define one and name it")
    return found
