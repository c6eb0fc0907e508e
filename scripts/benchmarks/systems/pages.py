"""The pages docs/systems, out of what the systems declare and of the figures of their checks."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from marl.systems.language.options import LanguageConfig
from marl.systems.mappo import MappoConfig
from marl.systems.registry import SYSTEMS
from marl.systems.system import System
from scripts.benchmarks import page
from scripts.benchmarks.runner import PAGES, REPO, read_figures
from scripts.benchmarks.systems.trials import COLUMNS, TRIALS

FOLDER = REPO / "docs" / "systems"
FIGURES = PAGES / "systems.json"
#: Rooms whose functions several recipes share.
_SHARED = ("marl.learning", "marl.rollout", "marl.policies", "marl.systems.language", "marl.systems.mappo")
_LETTERS = (
    "rho: probability of a token or action now over that when it was sampled · A: advantage · r, R: reward, return · "
    "V: value · H: entropy · g: the group that is compared, such as the rollouts of a question · mean_g, sd_g: in it · "
    "e: the clip · gamma, lambda: discount, trace · F: value of a set · delta: error of a value, or a bound where "
    "said · l: log-probability, ref: of the reference."
)


def source(system: System) -> Path:
    """The file of a recipe."""
    options = sys.modules[system.config.__module__].__file__ or ""
    for name, module in sorted(sys.modules.items()):
        if name.startswith("marl.systems.") and name != "marl.systems.registry" and system in vars(module).values():
            return Path(module.__file__ or options)
    return Path(options)


def shared(file: Path) -> list[str]:
    """What a recipe takes from rooms that others use too, as ``module.name``."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = [
        f"{node.module}.{name.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith(_SHARED)
        for name in node.names
    ]
    return sorted(name for name in found if not name.endswith(("Config", "language_system", ".Context", ".Advantages")))


def recipe_lines(file: Path) -> int:
    """Lines of code of a recipe: without blank ones, docstrings, comments, imports and what it declares of itself."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    counted: set[int] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            counted |= _code(node)
    return len(counted)


def _code(node: ast.AST) -> set[int]:
    """Numbers of the lines below a node that hold code."""
    texts = {
        line
        for part in ast.walk(node)
        if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)
        for line in range(part.lineno, (part.end_lineno or part.lineno) + 1)
    }
    lines = {
        line
        for part in ast.walk(node)
        if isinstance(part, ast.stmt | ast.expr | ast.arg)
        for line in range(part.lineno, (part.end_lineno or part.lineno) + 1)
    }
    return lines - texts


def settings(system: System) -> Iterator[tuple[str, str, str]]:
    """Options of its own, and those whose default it changes: (name, default, meaning)."""
    common: type[BaseModel] = LanguageConfig if system.kind == "language" else MappoConfig
    for name, field in system.config.model_fields.items():
        known = common.model_fields.get(name)
        if system.config is not common and (known is None or repr(known.default) != repr(field.default)):
            yield f"`algorithm.{name}`", f"`{field.get_default(call_default_factory=True)!r}`", field.description or ""
    for key, value in system.settings.items():
        yield f"`{key}`", f"`{value!r}`", "switched on by the system"


def lines_of(system: System, figures: dict[str, Any] | None) -> list[str]:
    """The page of a system. figures: of its check, as ``tables`` wrote them."""
    file = source(system)
    lines = [f"# {system.name}", "", f"{system.summary[0].upper()}{system.summary[1:]} ({system.paper}).", ""]
    if system.claim:
        lines += [f"**Claim.** {system.claim[0].upper()}{system.claim[1:]}", ""]
    if system.formula:
        lines += ["**Formula** ([letters](index.md)).", "", "```", *wrapped(system.formula), "```", ""]
    if system.check is not None:
        check = system.check
        lines += [
            f"**Check.** {check.figure[0].upper()}{check.figure[1:]}. Bound: {check.bound}. `{check.command}`",
            "",
        ]
        lines += [f"**Verdict: {check.verdict}.** {check.why[0].upper()}{check.why[1:]}.", ""]
    if figures:
        head = ["", *figures["columns"]]
        lines += [*page.table(head, figures["table"]), ""]
        lines += [*(f"- {text}" for text in figures.get("paired", [])), ""]
    own = list(settings(system))
    if own:
        lines += ["**Settings**, beside those that all share.", "", *page.table(("key", "default", "meaning"), own), ""]
    where = file.relative_to(REPO).as_posix()
    parts = ", ".join(f"`{name.rpartition('.')[2]}`" for name in shared(file)) or "nothing"
    return [*lines, f"**Recipe.** `{where}`, {recipe_lines(file)} lines of code. Shared parts: {parts}."]


def wrapped(text: str, width: int = 110) -> list[str]:
    """A text in lines of at most so many characters."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def index() -> list[str]:
    """The table of all systems."""
    rows = [
        (
            f"[{system.name}]({system.name}.md)",
            system.summary,
            system.paper,
            system.check.verdict if system.check else "",
        )
        for system in SYSTEMS.values()
    ]
    return [
        "# Systems",
        "",
        "Every published system is a short recipe of shared parts. Its claim is checked in miniature, and what came",
        "out is said whatever it is: *holds* if the bound of the check was met, *does not hold here* if it was",
        "measured and not met, *not decidable here* if no world here tells. Written by `scripts/reproduce systems`.",
        "",
        *page.table(("system", "what it does", "paper", "claim, here"), rows),
        "",
        "Critic-free systems side by side: [at equal generated tokens](equal_tokens.md).",
        "",
        f"Letters: {_LETTERS}",
    ]


def equal_tokens(figures: dict[str, Any]) -> list[str]:
    """The runs of words of all checks that are made in the same world, side by side."""
    rows: dict[str, list[str]] = {}
    columns: list[str] = []
    for name, trial in TRIALS.items():
        for number, (label, arm) in enumerate(trial.arms.items()):
            if name in figures and arm.preset == "words" and not any("world." in key for key in arm.settings):
                columns = list(COLUMNS)
                rows[label] = figures[name]["table"][number][1 : len(columns) + 1]
    return [
        "# Critic-free systems at equal generated tokens",
        "",
        "The world of words as its preset has it, after the same imitation of each seed; means and 95 % intervals over",
        "seeds. Written by `scripts/reproduce systems`. In the hierarchy: [its table](../benchmarks/hierarchy.md).",
        "",
        *page.table(["system", *columns], [[label, *cells] for label, cells in rows.items()]),
    ]


def pages() -> dict[str, list[str]]:
    """All pages by file name."""
    figures = read_figures(FIGURES, {"systems": {}})["systems"]
    found = {f"{name}.md": lines_of(system, figures.get(name)) for name, system in SYSTEMS.items()}
    return {"index.md": index(), "equal_tokens.md": equal_tokens(figures), **found}


def write() -> None:
    """Write all pages."""
    for name, lines in pages().items():
        page.write(FOLDER / name, lines)
