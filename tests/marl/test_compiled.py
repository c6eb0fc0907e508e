"""Kernels kept on disk: found again as long as nothing changed that they were compiled from, and only so long."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from marl import compiled

REPO = Path(__file__).resolve().parents[2]


def run(code: str, folder: Path, store: Path, **environment: str) -> str:
    """What a new process prints that finds modules in ``folder`` first and keeps kernels in ``store``."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code)],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": f"{folder}{os.pathsep}{REPO}", "XDG_CACHE_HOME": str(store), "OMP_NUM_THREADS": "1"}
        | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


#: A package whose kernel takes a callee from one file and, through it, constants from two more.
PACKAGE = {
    "own/__init__.py": "",
    "own/kernel.py": """
        from marl.compiled import njit
        from own.callee import double

        @njit
        def kernel(x):
            return double(x)
        """,
    "own/callee.py": """
        from marl.compiled import njit
        from . import constants
        from .deep.more import (
            # A comment (with brackets).
            OFFSET,
        )

        FACTOR = constants.FACTOR

        @njit(inline="always")
        def double(x):
            return FACTOR * x + OFFSET
        """,
    "own/constants.py": "FACTOR = 2\n",
    "own/deep/__init__.py": "",
    "own/deep/more.py": "x = 1; from .. import \\\n    offsets\nOFFSET = offsets.OFFSET\n",
    "own/offsets.py": "OFFSET = 0\n",
    "own/unrelated.py": "WORD = 1\n",
}
CALL = """
    from own.kernel import kernel
    print(kernel(21), sum(kernel.stats.cache_hits.values()))
    """


CHANGES = [
    ("own/callee.py", "FACTOR * x", "3 * x", 63),
    ("own/constants.py", "2", "4", 84),
    ("own/offsets.py", "0", "1", 43),
    ("own/kernel.py", "double(x)", "double(x) + 7", 49),
]


def test_a_change_in_any_file_is_seen(tmp_path: Path) -> None:
    write(tmp_path, PACKAGE)
    store = tmp_path / "store"
    assert run(CALL, tmp_path, store) == "42 0"
    for file, before, after, value in CHANGES:
        text = (tmp_path / file).read_text()
        (tmp_path / file).write_text(text.replace(before, after))
        assert run(CALL, tmp_path, store) == f"{value} 0", file
        (tmp_path / file).write_text(text)
    # Everything is as it was, but for a file that the kernel does not import: found again.
    (tmp_path / "own/unrelated.py").write_text("WORD = 2\n")
    assert run(CALL, tmp_path, store) == "42 1"


def test_a_module_beside_a_single_file_is_followed(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "world.py": "from marl.compiled import njit\nimport laws\nG = laws.G\n\n@njit\ndef fall(t): return G * t\n",
            "laws.py": "G = 10\n",
        },
    )
    call = "from world import fall\nprint(fall(2))"
    assert run(call, tmp_path, tmp_path / "store") == "20"
    (tmp_path / "laws.py").write_text("G = 9\n")
    assert run(call, tmp_path, tmp_path / "store") == "18"


def test_the_mazes_follow_a_change_of_the_random_numbers(tmp_path: Path) -> None:
    """The fault that was found: another ``marl/seeding.py``, and the mazes of a seed stayed as they were."""
    for package in ("marl", "scenarios"):
        shutil.copytree(REPO / package, tmp_path / package, ignore=shutil.ignore_patterns("checkpoints", "__pycache__"))
    call = f"""
        import hashlib
        from scenarios.lifelong_mapf.maps import generators
        assert generators.__file__.startswith({str(tmp_path)!r})
        right, down = generators._passages(12, 12, 0.2, 5)
        print(hashlib.sha256(right.tobytes() + down.tobytes()).hexdigest())
        """
    first = run(call, tmp_path, tmp_path / "store")
    assert run(call, tmp_path, tmp_path / "store") == first
    seeding = tmp_path / "marl" / "seeding.py"
    text = seeding.read_text()
    assert "0xBF58476D1CE4E5B9" in text
    seeding.write_text(text.replace("0xBF58476D1CE4E5B9", "0xBF58476D1CE4E5BB"))
    changed = run(call, tmp_path, tmp_path / "store")
    assert changed != first
    assert changed == run(call, tmp_path, tmp_path / "empty")


def test_equal_sources_share_their_kernels_wherever_they_lie(tmp_path: Path) -> None:
    for place in ("here", "there/site-packages"):
        write(tmp_path / place, PACKAGE)
    assert run(CALL, tmp_path / "here", tmp_path / "store") == "42 0"
    there = tmp_path / "there/site-packages"
    (there / "own").chmod(0o500)
    assert run(CALL, there, tmp_path / "store") == "42 1"
    assert not list(tmp_path.glob("*/**/*.nbi")) or all("store" in str(file) for file in tmp_path.glob("**/*.nbi"))


def test_settings_that_shape_a_kernel_are_part_of_the_key(tmp_path: Path) -> None:
    write(tmp_path, PACKAGE)
    assert run(CALL, tmp_path, tmp_path / "store") == "42 0"
    assert run(CALL, tmp_path, tmp_path / "store", NUMBA_BOUNDSCHECK="1") == "42 0"
    assert run(CALL, tmp_path, tmp_path / "store") == "42 1"


def test_the_folder_that_the_user_chose_is_used(tmp_path: Path) -> None:
    write(tmp_path, PACKAGE)
    chosen = tmp_path / "chosen"
    assert run(CALL, tmp_path, tmp_path / "store", NUMBA_CACHE_DIR=str(chosen)) == "42 0"
    assert list(chosen.rglob("*.nbi")) and not list(tmp_path.glob("store/**/*.nbi"))
    (tmp_path / "own/constants.py").write_text("FACTOR = 3\n")
    assert run(CALL, tmp_path, tmp_path / "store", NUMBA_CACHE_DIR=str(chosen)) == "63 0"


def test_without_a_folder_to_write_in_kernels_still_run(tmp_path: Path) -> None:
    write(tmp_path, PACKAGE | {"blocked": "a file, not a folder"})
    blocked = str(tmp_path / "blocked")
    assert run(CALL, tmp_path, tmp_path / "blocked", TMPDIR=str(tmp_path)) == "42 0"
    assert list(tmp_path.glob("marl-kernels-*/**/*.nbi"))
    assert run(CALL, tmp_path, tmp_path / "blocked", NUMBA_CACHE_DIR=blocked) == "42 0"


def test_a_folder_that_others_may_write_in_is_not_trusted(tmp_path: Path) -> None:
    write(tmp_path, PACKAGE | {"blocked": "a file, not a folder"})
    (tmp_path / f"marl-kernels-{os.getuid()}").mkdir()
    (tmp_path / f"marl-kernels-{os.getuid()}").chmod(0o777)
    assert run(CALL, tmp_path, tmp_path / "blocked", TMPDIR=str(tmp_path)) == "42 0"
    assert not list(tmp_path.glob("marl-kernels-*/*"))


def test_a_damaged_file_is_compiled_again(tmp_path: Path) -> None:
    write(tmp_path, PACKAGE)
    store = tmp_path / "store"
    run(CALL, tmp_path, store)
    for pattern in ("*.nbi", "*.nbc"):
        for file in store.rglob(pattern):
            file.write_bytes(b"")
        assert run(CALL, tmp_path, store) == "42 0"


def test_two_processes_that_compile_two_signatures_keep_both(tmp_path: Path) -> None:
    """Without a lock one signature gets the code of the other: both are saved as number 1."""
    write(tmp_path, PACKAGE)
    # Each waits, between reading the index and writing, for longer than the other needs to write.
    slow = """
        import sys, time
        from numba.core.caching import IndexDataCacheFile
        load = IndexDataCacheFile._load_index
        def waits(self):
            found = load(self)
            if sys._getframe(1).f_code.co_name == "save":
                time.sleep(1.5)
            return found
        IndexDataCacheFile._load_index = waits
        from own.kernel import kernel
        print(kernel(%s))
        """
    children = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", textwrap.dedent(slow % argument)],
            env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPO}", "XDG_CACHE_HOME": str(tmp_path / "store")},
        )
        for argument in ("21", "21.5")
    ]
    assert [child.wait(timeout=120) for child in children] == [0, 0]
    both = "from own.kernel import kernel\nprint(kernel(21), kernel(21.5), sum(kernel.stats.cache_hits.values()))"
    assert run(both, tmp_path, tmp_path / "store") == "42 43.0 2"


def test_folders_that_nobody_uses_go(tmp_path: Path) -> None:
    now = time.time()
    ages = {f"own.kernel-{number:02}": number for number in range(1, 14)}
    ages |= {"other.module-1": 30.0, "other.module-2": 61.0, "own.kernel-recent": 0.5}
    for name, days in ages.items():
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (now - days * 86400, now - days * 86400))
    compiled._clear(tmp_path / "own.kernel-new")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"own.kernel-recent", "other.module-1", *(f"own.kernel-{number:02}" for number in range(1, 8))}


def test_every_import_of_the_platform_is_seen() -> None:
    """Text is searched instead of parsed, which takes a tenth of the time; nothing that parsing sees may be missed."""
    for package in ("marl", "scenarios", "scripts", "tests"):
        for file in (REPO / package).rglob("*.py"):
            seen = set(compiled._imported(file))
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    assert {alias.name for alias in node.names} <= seen, file
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    assert {f"{node.module}.{alias.name}" for alias in node.names if alias.name != "*"} <= seen, file


def test_no_kernel_uses_a_cache_that_goes_stale() -> None:
    for package in ("marl", "scenarios"):
        for file in (REPO / package).rglob("*.py"):
            if file != REPO / "marl/compiled.py":
                text = file.read_text()
                stale = re.search(r"from numba import .*jit|\bcache=True|@numba\.\w*jit", text)
                assert not stale, f"{file}: take njit from marl.compiled"
