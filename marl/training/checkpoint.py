"""Checkpoints without pickle: a folder of one safetensors file and one JSON manifest, written all or not at all.

A checkpoint holds a tree of dicts, lists and tuples whose leaves are tensors, integers, floats, text, booleans and
None; all of them come back exactly. The manifest says what the files must be (sizes, SHA-256, shapes, dtypes) and
carries a checksum of itself, so a file that is broken or made to harm is refused before anything of it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from marl.errors import UserError

FORMAT = "marl-checkpoint"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TENSORS = "tensors.safetensors"

#: Turns the manifest of a version into that of the next one, for checkpoints older than ``FORMAT_VERSION``.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

_MAX_MANIFEST_BYTES = 64 << 20
_MAX_HEADER_BYTES = 100 << 20  # what the safetensors format itself allows
_ASIDE = ".tmp-"

#: Dicts and lists of tensors, int, float, str, bool and None. Keys of dicts are text or integers.
Tree = Any


def save(folder: Path, tree: Tree, info: dict[str, Any]) -> None:
    """Write a checkpoint folder; it appears complete under its name or not at all, even if the power fails.

    Args:
        tree: what is saved; see the module.
        info: JSON data about it, such as counters.

    Raises ``UserError`` if the disk is full or may not be written to; what was there before stays as it was.
    """
    tensors: dict[str, Tensor] = {}
    body = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "info": info,
        "tree": _encode(tree, tensors),
        "tensors": {name: {"dtype": str(x.dtype), "shape": list(x.shape)} for name, x in tensors.items()},
    }
    data = safetensors.torch.save(tensors)
    body["files"] = {TENSORS: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    body["sha256"] = _checksum(body)
    aside = folder.parent / f"{_ASIDE}{folder.name}-{os.getpid()}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove(aside)
        aside.mkdir()
        _write(aside / TENSORS, data)
        _write(aside / MANIFEST, json.dumps(body, allow_nan=False).encode())
        _sync(aside)
        if folder.exists():
            _remove(folder)
        aside.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        _remove(aside)
        raise UserError(f"checkpoint {folder} cannot be written: {error.strerror or error}") from None


def load(folder: Path) -> tuple[Tree, dict[str, Any]]:
    """The tree and the info that ``save`` wrote; tensors are on the CPU.

    Raises ``UserError`` that names the fault if the checkpoint is missing, damaged, of a newer format, or not one.
    """
    manifest = _manifest(folder)
    with _refusing(folder, MANIFEST):
        size, digest = manifest["files"][TENSORS]["bytes"], manifest["files"][TENSORS]["sha256"]
        expected = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in manifest["tensors"].items()}
        info, tree = dict(manifest["info"]), manifest["tree"]
    tensors = _tensors(folder, size, digest)
    found = {name: (str(x.dtype), tuple(x.shape)) for name, x in tensors.items()}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            _refuse(
                folder, f"tensor '{name}' is {_described(found, name)}, its manifest says {_described(expected, name)}"
            )
    with _refusing(folder, MANIFEST):
        return _decode(tree, tensors), info


def broken_weight(tree: Tree) -> str | None:
    """The name of the first tensor with a NaN among what a run learned, or None: such weights decide nothing.

    tree: of a run: its policy, its critic, and what coordination modules learned are looked at.
    """
    algorithm = tree.get("algorithm", {}) if isinstance(tree, dict) else {}
    parts = {name: algorithm.get(name) for name in ("policy", "critic")} if isinstance(algorithm, dict) else {}
    modules = tree.get("modules") if isinstance(tree, dict) else None
    named = [pair for name, part in (parts | {"modules": modules}).items() for pair in _named_tensors(part, name)]
    return next((name for name, x in named if x.is_floating_point() and bool(x.isnan().any())), None)


def _named_tensors(node: Tree, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        yield name, node
    elif isinstance(node, dict):
        for key, branch in node.items():
            yield from _named_tensors(branch, f"{name}.{key}")


class CheckpointStore:
    """The checkpoints of one run: ``checkpoints/00001200`` after iteration 1200, the newest ``keep`` of them.

    One process at a time may save into a store (the run folder's lock sees to that).
    """

    def __init__(self, run_dir: Path, keep: int = 3):
        self.folder = run_dir / "checkpoints"
        self._keep = keep

    def steps(self) -> list[int]:
        """The steps that have a checkpoint folder, in order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal() and path.is_dir())

    def path(self, step: int) -> Path:
        return self.folder / f"{step:08d}"

    def save(self, step: int, tree: Tree, info: dict[str, Any] | None = None) -> Path:
        """Write the checkpoint of a step, then delete those that are no longer kept. Raises ``UserError``."""
        path = self.path(step)
        save(path, tree, {**(info or {}), "step": step})
        # Only steps before this one are counted and deleted: the folder just written is known to be good, while one
        # of a later step is a broken one that the run fell back from.
        with suppress(OSError):
            for old in [known for known in self.steps() if known < step][: -(self._keep - 1) or None]:
                _remove(self.path(old))
            for left in self.folder.glob(f"{_ASIDE}*"):
                _remove(left)
        return path

    def latest(self, report: Callable[[str], None]) -> tuple[Tree, dict[str, Any], Path]:
        """The newest checkpoint that loads and whose weights are numbers.

        Each broken one is named to ``report`` in one sentence and passed over.

        Raises ``UserError`` if none loads.
        """
        steps = self.steps()
        for step in reversed(steps):
            path = self.path(step)
            try:
                tree, info = load(path)
                if (name := broken_weight(tree)) is not None:
                    _refuse(path, f"its weights '{name}' hold NaN, from a run whose numbers were none")
            except UserError as error:
                report(f"{error}; the one before it is tried")
                continue
            return tree, info, path
        if steps:
            raise UserError(f"none of the {len(steps)} checkpoints in {self.folder} can be used: train anew")
        raise UserError(f"{self.folder} holds no checkpoint yet: train anew")


def _encode(node: Tree, tensors: dict[str, Tensor]) -> Any:
    """A tree as JSON: containers and floats become one-key dicts that name their kind, tensors are collected."""
    if node is None or isinstance(node, bool | str):
        return node
    if isinstance(node, int):
        return int(node)
    if isinstance(node, float):
        return {"float": float(node).hex()}
    if isinstance(node, Tensor):
        name = f"{len(tensors):06d}"
        # A copy of its own: safetensors refuses tensors that share memory, which views into one buffer do.
        tensors[name] = node.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(node, list | tuple):
        return {"list" if isinstance(node, list) else "tuple": [_encode(item, tensors) for item in node]}
    if isinstance(node, dict):
        wrong = next((key for key in node if not isinstance(key, str) and type(key) is not int), None)
        if wrong is not None:
            raise TypeError(f"a checkpoint's keys are text or integers, not {wrong!r}")
        return {"dict": [[key, _encode(value, tensors)] for key, value in node.items()]}
    raise TypeError(f"a checkpoint cannot hold a {type(node).__name__}")


def _decode(node: Any, tensors: dict[str, Tensor]) -> Tree:
    """The inverse of ``_encode``; ValueError, KeyError or TypeError if the manifest is not what ``save`` writes."""
    if node is None or isinstance(node, bool | str | int):
        return node
    ((kind, content),) = node.items()
    if kind == "float":
        return float.fromhex(content)
    if kind == "tensor":
        return tensors[content]
    if kind in ("list", "tuple"):
        items = [_decode(item, tensors) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return {_key(key): _decode(value, tensors) for key, value in content}
    raise ValueError(f"unknown kind {kind!r}")


def _key(key: Any) -> str | int:
    if isinstance(key, str) or type(key) is int:
        return key
    raise ValueError(f"unknown key {key!r}")


def _checksum(body: dict[str, Any]) -> str:
    rest = {key: value for key, value in body.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest, migrated to the present format."""
    data = _read(folder, MANIFEST, _MAX_MANIFEST_BYTES)
    with _refusing(folder, MANIFEST):
        body: dict[str, Any] = json.loads(data)
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise ValueError("not a marl checkpoint")
        version = body["format_version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"unknown format_version {version!r}")
        # A newer format may reckon its checksum in another way, so the version is judged first.
        if version > FORMAT_VERSION:
            raise UserError(f"checkpoint {folder} was made by a newer marl (format {version}): upgrade marl to read it")
        if body.get("sha256") != _checksum(body):
            raise ValueError("its checksum does not match")
        while version < FORMAT_VERSION:
            if version not in MIGRATIONS:
                raise UserError(f"checkpoint {folder} has format {version}, which this marl no longer reads")
            body = MIGRATIONS[version](body)
            version += 1
        foreign = sorted(set(body["files"]) - {TENSORS})
        if foreign:
            raise ValueError(f"it names a file that is no part of a checkpoint: {foreign[0]!r:.60}")
        return body


def _tensors(folder: Path, size: Any, digest: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint, after every check that does not need to understand them."""
    data = _read(folder, TENSORS, size if type(size) is int else 0)
    if len(data) != size:
        _refuse(folder, f"{TENSORS} has {len(data)} bytes, its manifest says {size!r:.40}")
    if hashlib.sha256(data).hexdigest() != digest:
        _refuse(folder, f"the checksum of {TENSORS} does not match")
    header = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header > min(len(data) - 8, _MAX_HEADER_BYTES):
        _refuse(folder, f"{TENSORS} is not a safetensors file: its header does not fit into it")
    try:
        return dict(safetensors.torch.load(data))
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        _refuse(folder, f"{TENSORS} is not a safetensors file: {' '.join(str(error).split())[:120]}")


def _described(tensors: dict[str, tuple[str, tuple[int, ...]]], name: str) -> str:
    if name not in tensors:
        return "missing"
    dtype, shape = tensors[name]
    return f"{dtype} {list(shape)}"[:80]


@contextmanager
def _refusing(folder: Path, name: str) -> Iterator[None]:
    """Turn whatever a hostile manifest provokes while it is picked apart into one sentence."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"it is malformed ({type(error).__name__})"
        _refuse(folder, f"{name}: {' '.join(reason.split())[:120]}")


def _refuse(folder: Path, reason: str) -> NoReturn:
    raise UserError(f"checkpoint {folder} is broken: {reason}") from None


def _read(folder: Path, name: str, limit: int) -> bytes:
    """The content of a file of the checkpoint, which must be a plain one of at most ``limit`` bytes."""
    path = folder / name
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            _refuse(folder, f"{name} is not a plain file")
        if status.st_size > limit:
            _refuse(folder, f"{name} has {status.st_size} bytes, at most {limit} are expected")
        return path.read_bytes()
    except OSError as error:
        _refuse(folder, f"{name} cannot be read ({error.strerror or error})")


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make a folder's own entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """Delete a folder, first taking its name away: a half-deleted one must not look like a checkpoint."""
    doomed = folder
    if not folder.name.startswith(_ASIDE):
        doomed = folder.with_name(f"{_ASIDE}old-{folder.name}-{os.getpid()}")
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
