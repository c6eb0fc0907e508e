"""Checkpoints: exact round trips, atomic writing, fallback, hostile files, ``kill -9`` in the middle of a save."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.errors import UserError
from marl.training import checkpoint
from marl.training.checkpoint import FORMAT_VERSION, MANIFEST, TENSORS, CheckpointStore, load, save


def tree() -> dict[str, Any]:
    base = torch.arange(12, dtype=torch.float32)
    return {
        "weights": [base.reshape(3, 4).t(), base[2:5], torch.tensor(3.5), torch.zeros(0, 4)],
        "types": {"int": torch.tensor([-(2**63), 2**63 - 1]), "bool": torch.tensor([True]), "bf": base.bfloat16()},
        "moments": {0: {"step": 7}, 1: {"betas": (0.9, 0.999)}},
        "numbers": [2**80, -1, 0.1, float("inf"), float("-inf"), 5e-324, True, False, None, "ä\n"],
        "empty": {},
    }


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    else:
        assert a == b


def reports() -> tuple[list[str], Callable[[str], None]]:
    told: list[str] = []
    return told, told.append


def test_everything_comes_back_exactly(tmp_path: Path) -> None:
    save(tmp_path / "c", tree(), {"note": [1, 2]})
    again, info = load(tmp_path / "c")
    assert_same(again, tree())
    assert info == {"note": [1, 2]}
    again["weights"][0].add_(1)


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
            | st.tuples(inner, inner)
        ),
        max_leaves=8,
    )
)
def test_any_plain_tree_survives_json(value: Any) -> None:
    encoded = json.loads(json.dumps(checkpoint._encode(value, {})))
    assert_same(checkpoint._decode(encoded, {}), value)


def test_there_is_no_pickle_in_a_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "c", tree(), {})
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [MANIFEST, TENSORS]
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads((tmp_path / "c" / TENSORS).read_bytes())
    with pytest.raises(TypeError, match="cannot hold a object"):
        save(tmp_path / "d", {"x": object()}, {})
    assert not (tmp_path / "d").exists()


def test_the_newest_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (10, 20, 30, 40):
        path = store.save(step, {"step": step})
    assert path == tmp_path / "checkpoints" / "00000040"
    assert store.steps() == [30, 40]
    loaded, info, path = store.latest(pytest.fail)
    assert (loaded, info["step"], path.name) == ({"step": 40}, 40, "00000040")
    only = CheckpointStore(tmp_path, keep=1)
    only.save(50, {})
    assert only.steps() == [50]


def test_a_broken_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2, 3):
        store.save(step, {"step": step})
    (store.path(3) / TENSORS).write_bytes(b"junk")
    told, report = reports()
    assert store.latest(report)[0] == {"step": 2}
    assert len(told) == 1
    assert "00000003 is broken" in told[0]
    store.save(3, {"step": "again"})
    assert store.latest(pytest.fail)[0] == {"step": "again"}


def test_a_good_checkpoint_outlives_newer_broken_ones(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(5, {"step": 5})
    for step in (8, 9):
        shutil.copytree(store.path(5), store.path(step))
        (store.path(step) / MANIFEST).write_text("{")
    store.save(6, {"step": 6})
    told, report = reports()
    assert store.latest(report)[0] == {"step": 6}
    assert len(told) == 2


def test_no_usable_checkpoint_is_an_error(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        store.latest(pytest.fail)
    store.save(1, {})
    (store.path(1) / MANIFEST).unlink()
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        store.latest(lambda _: None)


def seal(folder: Path, change: Callable[[dict[str, Any]], Any], checksum: bool = True) -> None:
    """Alter a manifest as a forger would: with a checksum that matches."""
    body = json.loads((folder / MANIFEST).read_text())
    body = change(body) or body
    if checksum and isinstance(body, dict):
        body["sha256"] = checkpoint._checksum(body)
    (folder / MANIFEST).write_text(json.dumps(body))


def forge_tensors(folder: Path, data: bytes) -> None:
    """Replace the tensors and let the manifest agree."""
    (folder / TENSORS).write_bytes(data)
    digest = checkpoint.hashlib.sha256(data).hexdigest()
    seal(folder, lambda body: body["files"].update({TENSORS: {"bytes": len(data), "sha256": digest}}))


class Payload:
    """Leaves a mark if it is ever unpickled."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("pickle-was-run",))


def header(entries: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def flipped(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)


def linked(folder: Path) -> None:
    (folder / TENSORS).rename(folder.parent / "elsewhere")
    (folder / TENSORS).symlink_to(folder.parent / "elsewhere")


def deep(folder: Path) -> None:
    (folder / MANIFEST).write_text("[" * 100_000)


F32 = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}

HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated tensors": (lambda f: os.truncate(f / TENSORS, 20), "has 20 bytes, its manifest says"),
    "truncated manifest": (lambda f: os.truncate(f / MANIFEST, 30), "manifest.json"),
    "flipped bit in tensors": (lambda f: flipped(f, TENSORS), "the checksum of tensors.safetensors does not match"),
    "flipped bit in manifest": (lambda f: flipped(f, MANIFEST), "manifest.json"),
    "changed number": (lambda f: seal(f, lambda b: b["info"].update(step=9), checksum=False), "its checksum does not"),
    "longer tensors": (lambda f: (f / TENSORS).write_bytes(b"x" * 10_000), "at most"),
    "missing tensors": (lambda f: (f / TENSORS).unlink(), "cannot be read (No such file"),
    "pickle": (lambda f: forge_tensors(f, pickle.dumps(Payload())), "not a safetensors file"),
    "pickle manifest": (lambda f: (f / MANIFEST).write_bytes(pickle.dumps(Payload())), "manifest.json"),
    "huge header": (lambda f: forge_tensors(f, struct.pack("<Q", 2**62) + b"{}"), "header does not fit"),
    "negative header": (lambda f: forge_tensors(f, b"\xff" * 8 + b"{}"), "header does not fit"),
    "empty tensors": (lambda f: forge_tensors(f, b""), "header does not fit"),
    "header junk": (lambda f: forge_tensors(f, struct.pack("<Q", 2) + b"[]"), "not a safetensors file"),
    "offsets outside": (lambda f: forge_tensors(f, header({"000000": F32})), "not a safetensors file"),
    "wrong shape": (lambda f: forge_tensors(f, header({"000000": {**F32, "shape": [2, 2]}}, bytes(16))), "[2, 2]"),
    "absolute path": (lambda f: seal(f, lambda b: b["files"].update({"/etc/passwd": {}})), "names a file"),
    "path upwards": (lambda f: seal(f, lambda b: b["files"].update({"../x": {}})), "names a file"),
    "no files": (lambda f: seal(f, lambda b: b.update(files=None)), "malformed"),
    "huge size": (lambda f: seal(f, lambda b: b["files"][TENSORS].update(bytes=2**70)), "its manifest says"),
    "size text": (lambda f: seal(f, lambda b: b["files"][TENSORS].update(bytes="9")), "at most"),
    "dtype": (lambda f: seal(f, lambda b: b["tensors"]["000000"].update(dtype="torch.int8")), "is torch.float32 [4]"),
    "shape": (lambda f: seal(f, lambda b: b["tensors"]["000000"].update(shape=[2, 2])), "manifest says torch.float32"),
    "missing tensor": (lambda f: seal(f, lambda b: b["tensors"].update(x=b["tensors"]["000000"])), "'x' is missing"),
    "unknown tensor": (lambda f: seal(f, lambda b: b.update(tree={"tensor": "7"})), "malformed (KeyError)"),
    "unknown node": (lambda f: seal(f, lambda b: b.update(tree={"object": "os.system"})), "unknown kind 'object'"),
    "two kinds": (lambda f: seal(f, lambda b: b.update(tree={"a": 1, "b": 2})), "too many values"),
    "bad float": (lambda f: seal(f, lambda b: b.update(tree={"float": "x"})), "invalid hexadecimal"),
    "list as key": (lambda f: seal(f, lambda b: b.update(tree={"dict": [[["k"], 1]]})), "unknown key"),
    "other json": (lambda f: (f / MANIFEST).write_text("[1]"), "not a marl checkpoint"),
    "deep json": (deep, "malformed (RecursionError)"),
    "version 0": (lambda f: seal(f, lambda b: b.update(format_version=0)), "unknown format_version 0"),
    "version text": (lambda f: seal(f, lambda b: b.update(format_version="1")), "unknown format_version '1'"),
    "newer": (lambda f: seal(f, lambda b: b.update(format_version=99)), "was made by a newer marl (format 99)"),
    "link": (linked, "is not a plain file"),
    "folder as file": (lambda f: ((f / TENSORS).unlink(), (f / TENSORS).mkdir()), "is not a plain file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_checkpoints_are_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "c"
    save(folder, {"x": torch.zeros(4)}, {"step": 1})
    harm, reason = HOSTILE[name]
    harm(folder)
    with pytest.raises(UserError) as error:
        load(folder)
    assert reason in str(error.value)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "pickle-was-run").exists()


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, manifest: bool) -> None:
    folder = tmp_path_factory.mktemp("x") / "c"
    save(folder, {"x": torch.zeros(4)}, {})
    if manifest:
        (folder / MANIFEST).write_bytes(data)
    else:
        forge_tensors(folder, data)
    with pytest.raises(UserError):
        load(folder)


GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoint_format_1"


def test_a_checkpoint_of_format_1_is_read_for_ever() -> None:
    """Written once and kept: whatever the format becomes, this one has to load."""
    found, info = load(GOLDEN)
    assert info == {"step": 7, "agent_steps": 448}
    assert found["weights"]["layer.0"].tolist() == [[0.0, 1.5, -2.0], [3.0, 0.25, 5.0]]
    assert found["moments"] == [{"step": 3, "beta": 0.1}, (None, True, "\u00e4")]
    assert found["seen"].dtype == torch.int64 and found["seen"].tolist() == [2**40]


def test_an_older_format_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "c", {"old": 1}, {})
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", FORMAT_VERSION + 1)
    with pytest.raises(UserError, match="which this marl no longer reads"):
        load(tmp_path / "c")
    monkeypatch.setitem(
        checkpoint.MIGRATIONS, FORMAT_VERSION, lambda body: {**body, "tree": {"dict": [["new", body["tree"]]]}}
    )
    assert load(tmp_path / "c")[0] == {"new": {"old": 1}}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_failing_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {"x": torch.ones(3)})

    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        if call == "write":
            patch.setattr(checkpoint, "_write", fail)
        elif call == "fsync":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr(Path, "rename", fail)
        with pytest.raises(UserError, match=f"00000002 cannot be written: {os.strerror(code)}"):
            store.save(2, {"x": torch.ones(3)})
    assert [path.name for path in store.folder.iterdir()] == ["00000001"]
    assert store.latest(pytest.fail)[1] == {"step": 1}


def _save_beyond_file_size_limit(run: Path, queue: Any) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    try:
        CheckpointStore(run).save(2, {"x": torch.zeros(100_000)})
    except UserError as error:
        queue.put(str(error))


def test_a_disk_that_runs_full_while_writing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {"x": 1})
    fork = multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    process = fork.Process(target=_save_beyond_file_size_limit, args=(tmp_path, queue))
    process.start()
    process.join(20)
    assert "00000002 cannot be written: File too large" in queue.get()
    assert [path.name for path in store.folder.iterdir()] == ["00000001"]


def test_a_run_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        CheckpointStore(tmp_path / "run").save(1, {})


def _save_for_ever(run: Path, content: Any, saved: Any) -> None:
    store = CheckpointStore(run, keep=2)
    step = (store.steps() or [0])[-1]
    while True:
        step += 1
        store.save(step, {"content": content, "step": step})
        saved.send(step)


def test_kill_9_during_save_never_leaves_a_broken_newest(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    content = [torch.full((200,), float(i)) for i in range(20)]
    store = CheckpointStore(tmp_path, keep=2)
    chance = random.Random(0)
    for _ in range(12):
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=_save_for_ever, args=(tmp_path, content, sender))
        process.start()
        assert receiver.poll(100)
        began = time.perf_counter()
        first = receiver.recv()
        assert receiver.poll(100)
        # A random moment of the third save or the fourth, whatever the disk's speed.
        time.sleep(2 * chance.random() * (time.perf_counter() - began))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        told = first
        while receiver.poll():
            try:
                told = receiver.recv()
            except EOFError:
                break
        found, _, _ = store.latest(pytest.fail)
        assert told <= found["step"] <= told + 1
        assert_same(found["content"], content)
