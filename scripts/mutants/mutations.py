"""What is made wrong: every place of the code that cosmic-ray knows a mutation of, and a sample of them.

Places are drawn, and of each one of its mutations, so that operators with a dozen replacements do not crowd out the
others. Type annotations are left alone, which nothing evaluates, and so is `@torch.no_grad`, which changes memory only.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Folders and files that are tried; everything that learning rests on.
SCOPE = ("marl/learning", "marl/systems", "marl/coordination", "marl/rollout/collector.py", "marl/policies/heads.py")


@dataclass(frozen=True)
class Mutant:
    """One change. path: of the file, relative to the repository. line: where it begins. before, after: what stands in
    the lines that it changes."""

    path: str
    line: int
    operator: str
    occurrence: int
    before: str
    after: str

    @property
    def name(self) -> str:
        """The same wherever the lines have moved to."""
        return f"{self.path}: {self.before} -> {self.after}"


def files_of(repo: Path, scope: Sequence[str] = SCOPE) -> list[Path]:
    """The Python files of a scope, in order."""
    found: list[Path] = []
    for name in scope:
        path = repo / name
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return found


def places(source: str) -> dict[tuple[int, int], list[tuple[str, int]]]:
    """(line, column) -> the mutations there, as (operator, number among those of the file)."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    tree, left_alone = get_ast(source), list(_left_alone(source))
    found: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for name in sorted(operator_names()):
        kind = get_operator(name)
        if kind.arguments():
            continue
        operator = kind()
        positions = (start for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node))
        for occurrence, start in enumerate(positions):
            if not any(begin <= start < end for begin, end in left_alone):
                found.setdefault(start, []).append((name, occurrence))
    return dict(sorted(found.items()))


def sample(repo: Path, count: int, seed: int, scope: Sequence[str] = SCOPE) -> list[Mutant]:
    """``count`` mutants of different places, those whose hash with the seed is least.

    What is drawn of a line depends on that line alone, so that a change elsewhere leaves most of a sample as it was.

    Args:
        repo: the repository's root.
        count: how many; all places if there are fewer.
        seed: of the choice.
        scope: folders and files, relative to ``repo``.
    """
    drawn: list[tuple[str, Path, str, int]] = []
    for path in files_of(repo, scope):
        source = path.read_text("utf-8")
        lines, seen = source.splitlines(), Counter[str]()
        for (line, column), operators in places(source).items():
            place = f"{path.relative_to(repo).as_posix()}:{lines[line - 1].strip()}:{column}"
            seen[place] += 1  # equal lines of a file are told apart by their order
            rank = hashlib.sha256(f"{seed}:{place}:{seen[place]}".encode()).hexdigest()
            drawn.append((rank, path, *operators[int(rank, 16) % len(operators)]))
    return [described(repo, path, operator, occurrence) for _, path, operator, occurrence in sorted(drawn)[:count]]


def mutated(source: str, operator: str, occurrence: int) -> str:
    """The source with one mutation applied."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    made: str | None = mutate_code(source, get_operator(operator)(), occurrence)
    assert made is not None, f"{operator} has no occurrence {occurrence}"
    return made


def described(repo: Path, path: Path, operator: str, occurrence: int) -> Mutant:
    """A mutant with the lines that it changes."""
    source = path.read_text("utf-8")
    old, new = source.splitlines(), mutated(source, operator, occurrence).splitlines()
    first = next(i for i, (a, b) in enumerate(zip([*old, ""], [*new, "\0"], strict=False)) if a != b)
    last = next(i for i, (a, b) in enumerate(zip(old[::-1], new[::-1], strict=False)) if a != b)
    before, after = old[first : len(old) - last], new[first : len(new) - last]
    return Mutant(
        path.relative_to(repo).as_posix(),
        first + 1,
        operator.removeprefix("core/"),
        occurrence,
        *(" ".join(" ".join(lines).split()) for lines in (before, after)),
    )


def statements(source: str) -> Iterator[tuple[int, int]]:
    """First and last line of every statement, inner ones after outer ones."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt):
            yield node.lineno, node.end_lineno or node.lineno


def _left_alone(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Spans of annotations and of decorators that change no result."""
    for node in ast.walk(ast.parse(source)):
        parts: list[Any] = []
        if isinstance(node, ast.arg | ast.AnnAssign):
            parts.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts.append(node.returns)
            parts += [one for one in node.decorator_list if ast.unparse(one) == "torch.no_grad()"]
        for part in parts:
            if part is not None:
                at = (part.lineno, part.col_offset - isinstance(part, ast.Call) * 1)
                yield at, (part.end_lineno, part.end_col_offset)
