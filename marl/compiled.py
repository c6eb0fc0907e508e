"""Kernels compiled by numba and kept on disk, for as long as nothing that they were compiled from has changed.

numba's own ``cache=True`` looks at the file of the function that is called, and at no other: after a change of a callee
or of a constant in another file it goes on running the old arithmetic (seen with numba 0.68.1). ``njit`` here keeps a
module's kernels in a folder whose name is a hash of that module, of every module that it imports (directly or not, as
far as they belong to the platform or lie beside it), and of the versions, the processor and the settings that shape
machine code. So a stale kernel cannot be found, equal sources share their kernels wherever they lie (checkouts, an
installed wheel, worker processes), and a read-only installation is no obstacle.

The folders lie in ``NUMBA_CACHE_DIR`` if that is set, else in the user's cache folder (``~/.cache/marl/kernels``), else
in a folder of the user's own among the temporary files; if none of them can be written, kernels are compiled by each
process. Folders that nobody has used for long are removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from llvmlite import binding
from numba.core.caching import CompileResultCacheImpl, FunctionCache, UserProvidedCacheLocator

#: Folders of one module that stay in any case, and the days after which others go, unused.
_KEPT, _DAYS_SPARE, _DAYS_ANY = 8, 1, 60

#: Settings of numba that change what a kernel computes or how, and that its own caches do not look at.
_SETTINGS = (
    "CPU_NAME",
    "CPU_FEATURES",
    "OPT",
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
    "DISABLE_INTEL_SVML",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
)

#: The platform's own packages; a kernel's module may lie in any other.
_OWN = frozenset({"marl", "scenarios"})

#: An import statement at the beginning of a line or after another statement; text that looks like one does no harm.
_IMPORT = re.compile(
    r"(?:^|[;:])[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]*(\((?:[^)#]|#[^\n]*)*\)|(?:[^\n;\\]|\\\n)*)"
    r"|import[ \t]+((?:[^\n;\\]|\\\n)*))",
    re.MULTILINE,
)


def njit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """``numba.njit(cache=True, **options)`` whose cache also notices changes of other files.

    Args:
        function: the function to compile; without it, a decorator is returned.
        options: what ``numba.njit`` takes, without ``cache``.

    Own worlds may use it too: of the modules outside the platform it follows those of the same package, and single
    modules in the same folder.
    """
    if function is None:
        return lambda later: njit(later, **options)
    dispatcher = numba.njit(**options)(function)
    if hasattr(dispatcher, "_cache") and _folder(function) is not None:
        dispatcher._cache = _Cache(function)
    return dispatcher


class _Locator(UserProvidedCacheLocator):
    """Tells numba the folder, and the hash as the state of the sources."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        folder = _folder(function)
        assert folder is not None
        self._py_file, self._lineno, self._cache_path = file, function.__code__.co_firstlineno, str(folder)

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> _Locator:
        return cls(function, file)

    def get_source_stamp(self) -> str:
        return Path(self._cache_path).name

    def ensure_cache_path(self) -> None:
        folder = Path(self._cache_path)
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _clear(folder)


class _Results(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012  (numba's own attribute)


class _Cache(FunctionCache):
    """Saves under a lock, and never stops a run: what cannot be read is compiled again.

    numba reads the index of a function's cache, picks a free file name and writes both, without a lock: two processes
    that compile two signatures of a function at the same moment may leave one signature with the code of the other.
    """

    _impl_class = _Results

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            loaded = super()._load_overload(sig, target_context)
        except (OSError, EOFError, pickle.UnpicklingError):
            with contextlib.suppress(OSError):
                self.flush()
            return None
        if loaded is not None:
            _note_use(self.cache_path)
        return loaded

    def _save_overload(self, sig: Any, data: Any) -> None:
        # A full disk, a folder removed meanwhile: the kernel is compiled, which is what matters.
        with contextlib.suppress(OSError):
            self._impl.locator.ensure_cache_path()
            with (Path(self.cache_path) / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                super()._save_overload(sig, data)


@cache
def _note_use(folder: str) -> None:
    """The time of a folder is when a process last used it."""
    with contextlib.suppress(OSError):
        os.utime(folder)


def _clear(new: Path) -> None:
    """Remove folders beside ``new`` that were not used for long: of the same module soon, of others later."""
    now, module = time.time(), new.name.rpartition("-")[0]
    aged = []
    with contextlib.suppress(OSError):
        for folder in new.parent.iterdir():
            with contextlib.suppress(OSError):
                aged.append(((now - folder.stat().st_mtime) / 86400, folder))
    same = 0
    for days, folder in sorted(aged):
        same += (ours := folder.name.rpartition("-")[0] == module)
        if days > (_DAYS_SPARE if ours and same > _KEPT else _DAYS_ANY):
            shutil.rmtree(folder, ignore_errors=True)


def _folder(function: Callable[..., Any]) -> Path | None:
    """Where the kernels of a function's module are kept; None if it has no source or nothing can be written."""
    file = Path(function.__code__.co_filename)
    root = kept_in()
    if root is None or not file.is_file():
        return None
    name = function.__module__ if function.__module__ not in ("__main__", "__mp_main__") else file.stem
    return root / f"{name[-80:]}-{_digest(file.resolve(), name)}"


@cache
def kept_in() -> Path | None:
    """The folder of all kernels; None if there is none that this user can write."""
    chosen = _config("CACHE_DIR")
    if chosen:
        return Path(chosen).absolute() / "marl"
    with contextlib.suppress(OSError, RuntimeError):
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "marl" / "kernels"
        root.mkdir(parents=True, exist_ok=True)
        if os.access(root, os.W_OK | os.X_OK):
            return root
    # What is loaded is run: others may neither have made this folder nor write into it.
    root = Path(tempfile.gettempdir()) / f"marl-kernels-{os.getuid()}"
    with contextlib.suppress(OSError):
        root.mkdir(mode=0o700, exist_ok=True)
        state = root.lstat()
        if stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o077:
            return root
    return None


@cache
def _digest(file: Path, module: str) -> str:
    """A hash of a module's source, of what it imports, and of what else shapes its kernels."""
    top, depth = module.partition(".")[0], module.count(".") + (file.name == "__init__.py")
    root = file.parents[min(depth, len(file.parents) - 1)]
    # Beside an installed package lie the packages of others, which the versions stand for.
    names = _OWN | {top} if {"site-packages", "dist-packages"} & set(file.parts) else None
    seen: set[Path] = set()
    waiting = [file]
    while waiting:
        source = waiting.pop()
        if source not in seen:
            seen.add(source)
            waiting += (found for name in _imported(source) if (found := _source(name, names, root)))
    hasher = hashlib.sha256(f"{module} {_setting()}".encode())
    for content in sorted(hashlib.sha256(_read(source)).digest() for source in seen):
        hasher.update(content)
    return hasher.hexdigest()[:24]


def _config(name: str) -> Any:
    """A setting of numba; None in a version that lacks it."""
    return getattr(numba.config, name, None)


@cache
def _setting() -> str:
    """Versions, processor and settings."""
    versions = (sys.implementation.cache_tag, sys.version, numba.__version__, llvmlite.__version__, np.__version__)
    processor = (binding.get_process_triple(), binding.get_host_cpu_name())
    settings = [(name, _config(name)) for name in _SETTINGS]
    return f"{versions} {processor} {settings}"


@cache
def _source(name: str, names: frozenset[str] | None, root: Path) -> Path | None:
    """The file of a module, if it belongs to the platform or to the package or folder of the kernel."""
    first = name.partition(".")[0]
    if names is not None and first not in names:
        return None
    folder = Path(__file__).resolve().parents[1] if first in _OWN else root
    path = folder.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


@cache
def _imported(file: Path) -> tuple[str, ...]:
    """Names of everything a file imports: modules, and objects of modules, which may be modules as well."""
    found: list[str] = []
    for origin, objects, modules in _IMPORT.findall(_read(file).decode(errors="replace")):
        if origin:
            base = _absolute(origin, file)
            found += [base, *(f"{base}.{word}" for word in re.findall(r"\w+", objects))]
        else:
            found += re.findall(r"[\w.]+", modules)
    return tuple(dict.fromkeys(found))


def _absolute(origin: str, file: Path) -> str:
    """``origin`` of an import without leading dots; these stand for the package of the file and those around it."""
    dots = len(origin) - len(origin.lstrip("."))
    if not dots:
        return origin
    package = file.parent
    for _ in range(dots - 1):
        package = package.parent
    words = [origin.lstrip(".")] if origin.strip(".") else []
    while (package / "__init__.py").is_file():
        words.insert(0, package.name)
        package = package.parent
    return ".".join(words)


@cache
def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
