"""Tables of an evaluation: for a terminal, as plain text and as Markdown. The HTML form is in ``report``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table as RichTable
from rich.text import Text

from marl.envs.batched import Metric
from marl.errors import UserError, nearest
from marl.evaluation.results import Pair, Results, Row

NOTE = "±: 95 % bootstrap interval; ms/step: CPU time to decide for all agents of one world step"

Form = Literal["text", "markdown", "latex"]

_STYLES = {"": "", "good": "bold green", "bad": "red"}


@dataclass(frozen=True)
class Cell:
    """mark: good for the best of a column or a difference surely for the better, bad for one surely for the worse."""

    text: str
    mark: Literal["", "good", "bad"] = ""


@dataclass(frozen=True)
class Table:
    """A table in no particular form: the first ``text_columns`` hold text, the others numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    text_columns: int = 1


def tables_of(results: Results, reference: str | None = None) -> list[Table]:
    """Per set of instances, the table of figures and, with two policies or more, that of differences to ``reference``.

    Args:
        reference: the policy to compare with; None is the first.

    Raises ``UserError`` if it was not evaluated.
    """
    policies = results.policies
    if reference is not None and reference not in policies:
        raise UserError(f"reference policy '{reference}' was not evaluated{nearest(reference, policies)}")
    tables = []
    for instances, rows, pairs in results.by_instances():
        tables.append(_figures(results, instances, rows))
        if len(policies) > 1:
            tables.append(_differences(results, reference or policies[0], instances, pairs))
    return tables


def show(results: Results, console: Console, reference: str | None = None, form: Form = "text") -> None:
    """Print all tables; without box characters and colours if the console is not a terminal.

    Args:
        results: of an evaluation.
        console: where to.
        reference: the policy that others are compared with; None is the first.
        form: text is for a terminal, the others are for other programs.
    """
    if form != "text":
        text = "\n\n".join(written(table, form) for table in tables_of(results, reference))
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    if not console.is_terminal:
        console.print(to_text(results, reference), markup=False, highlight=False, soft_wrap=True)
        return
    for table in tables_of(results, reference):
        show_table(table, console)
    console.print(Text(NOTE, "dim"))


def show_table(table: Table, console: Console) -> None:
    """Print one table; as aligned plain text if the console is not a terminal."""
    if not console.is_terminal:
        console.print(_aligned(table), markup=False, highlight=False, soft_wrap=True)
        return
    rich_table = RichTable(title=Text(table.title, "bold"), title_justify="left", box=box.ROUNDED)
    for index, name in enumerate(table.header):
        # Spaces let long names of metrics break over lines.
        justify: JustifyMethod = "left" if index < table.text_columns else "right"
        rich_table.add_column(Text(name.replace("_", " ")), justify=justify)
    for row in table.rows:
        rich_table.add_row(*(Text(cell.text, _STYLES[cell.mark]) for cell in row))
    console.print(rich_table)


def to_text(results: Results, reference: str | None = None) -> str:
    """Aligned columns of plain characters."""
    return "\n\n".join([*map(_aligned, tables_of(results, reference)), NOTE])


def _aligned(table: Table) -> str:
    lines = [table.header, *(tuple(cell.text for cell in row) for row in table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    aligned = [
        "  ".join(
            text.ljust(width) if i < table.text_columns else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([table.title, aligned[0], rule, *aligned[1:]])


def to_markdown(results: Results, reference: str | None = None) -> str:
    """GitHub tables; what stands out is bold."""
    return "\n\n".join([*map(_markdown, tables_of(results, reference)), NOTE]) + "\n"


def written(table: Table, form: Form) -> str:
    """One table as aligned text, as a GitHub table, or as a LaTeX table that needs the package booktabs."""
    return {"text": _aligned, "markdown": _markdown, "latex": _latex}[form](table)


def _markdown(table: Table) -> str:
    lines = [
        _markdown_line([_escaped(name) for name in table.header]),
        _markdown_line(["---" if i < table.text_columns else "---:" for i in range(len(table.header))]),
    ]
    for row in table.rows:
        lines.append(_markdown_line([f"**{_escaped(c.text)}**" if c.mark else _escaped(c.text) for c in row]))
    return f"**{_escaped(table.title)}**\n\n" + "\n".join(lines)


def _latex(table: Table) -> str:
    columns = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    rows = [[rf"\textbf{{{_tex(cell.text)}}}" if cell.mark else _tex(cell.text) for cell in row] for row in table.rows]
    lines = [" & ".join(row) + r" \\" for row in ([_tex(name) for name in table.header], *rows)]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_tex(table.title)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def number(value: float, spread: float = 0.0) -> str:
    """``value`` with as many decimals as two digits of ``spread`` have, or with four significant digits."""
    if math.isnan(value):
        return "-"
    if value == 0 and not spread > 0:
        return "0"
    scale = spread if spread > 0 else abs(value) / 100
    if math.isinf(value) or not 1e-7 < scale < 1e7:
        return f"{value:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(scale)))
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0 makes -0.0 into 0.0


def with_interval(row: Row, shown: bool = True) -> str:
    """``mean ± half``; the mean alone where no interval can be told, or none is to be ``shown``; a dash for neither."""
    half = (row.ci_high - row.ci_low) / 2
    known = row.n > 1 and math.isfinite(half)
    text = number(row.mean, half if known else 0.0)
    return f"{text} ± {number(half, half)}" if shown and known else text


def describe(instances: Mapping[str, Any]) -> str:
    """``map warehouse, agents 128``."""
    return ", ".join(f"{key} {value}" for key, value in instances.items() if value is not None)


def _figures(results: Results, instances: Mapping[str, Any], rows: Sequence[Row]) -> Table:
    by_policy: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_policy.setdefault(row.policy, {})[row.metric] = row
    defined = {row.metric for row in rows if row.n > 0} | {results.primary_metric}
    # Policies may have metrics of their own, such as how often they were corrected.
    names = [name for name in dict.fromkeys(name for own in by_policy.values() for name in own) if name in defined]
    best = {name: _best([row for row in rows if row.metric == name], _metric(results, name)) for name in names}
    body = []
    for policy, of_policy in by_policy.items():
        cells = [Cell(policy)]
        for name in names:
            if name not in of_policy:
                cells.append(Cell(number(math.nan)))
                continue
            row = of_policy[name]
            text = with_interval(row, name == results.primary_metric)
            cells.append(Cell(text, "good" if row.mean == best[name] else ""))
        body.append((*cells, Cell(number(ms := next(iter(of_policy.values())).ms_per_step, ms))))
    episodes = max(row.n for row in rows)
    title = f"{results.scenario}: {describe(instances)} ({episodes} episode{'s' * (episodes != 1)})"
    return Table(title, ("policy", *names, "ms/step"), tuple(body))


def _differences(results: Results, reference: str, instances: Mapping[str, Any], pairs: Sequence[Pair]) -> Table:
    """One line per policy and metric of which more or less is better; metrics in which nobody differs are left out."""
    differing = {pair.metric for pair in pairs if pair.n > 0 and (pair.ci_low, pair.ci_high) != (0, 0)}
    shown = {name for name, metric in results.metrics.items() if name in differing and metric.better != "neither"}
    shown.add(results.primary_metric)
    names = [name for name in dict.fromkeys(pair.metric for pair in pairs) if name in shown]
    compared = {(pair.metric, frozenset((pair.a, pair.b))) for pair in pairs}
    body = []
    for policy in results.policies:
        for name in names:
            if (name, frozenset((policy, reference))) in compared:
                pair = results.difference(policy, reference, name, instances)
                body.append((Cell(policy), *_difference(pair, results.metrics[name])))
    title = f"paired difference to {reference}: {describe(instances)}"
    return Table(title, ("policy", "metric", "difference", "95 % interval", "n"), tuple(body), text_columns=2)


def _difference(pair: Pair, metric: Metric) -> list[Cell]:
    half = (pair.ci_high - pair.ci_low) / 2 if pair.n > 1 else 0.0
    value = ("+" if pair.difference > 0 else "") + number(pair.difference, half)
    if pair.n < 2 or not math.isfinite(half):
        return [Cell(pair.metric), Cell(value), Cell(number(math.nan)), Cell(str(pair.n))]
    mark: Literal["", "good", "bad"] = ""
    if metric.better != "neither" and (pair.ci_low > 0 or pair.ci_high < 0):
        mark = "good" if (pair.difference > 0) == (metric.better == "higher") else "bad"
    interval = f"[{number(pair.ci_low, half)}, {number(pair.ci_high, half)}]"
    return [Cell(pair.metric), Cell(value, mark), Cell(interval, mark), Cell(str(pair.n))]


def _metric(results: Results, name: str) -> Metric:
    return results.metrics[name if name in results.metrics else name.removesuffix("_iqm")]


def _best(rows: Sequence[Row], metric: Metric) -> float | None:
    """The best mean of a column; None if there is no better and worse, or nothing to choose from."""
    means = [row.mean for row in rows if row.n > 0]
    if metric.better == "neither" or len(set(means)) < 2:
        return None
    return max(means) if metric.better == "higher" else min(means)


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


#: What is special in LaTeX, and how it is written.
_TEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
)


def _tex(text: str) -> str:
    return text.translate(_TEX)


def _escaped(text: str) -> str:
    for character in "\\|*_<>`":
        text = text.replace(character, "\\" + character)
    return text
