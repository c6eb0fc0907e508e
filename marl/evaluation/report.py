"""A report as one HTML page: no network, no files beside it, readable in light and dark and on a telephone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from marl.errors import UserError
from marl.evaluation.charts import Curve, svg
from marl.evaluation.results import Results
from marl.evaluation.tables import NOTE, Table, tables_of

#: The browser itself then refuses whatever would need the network.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write_report(
    path: Path,
    *,
    title: str,
    summary: Mapping[str, Any],
    curves: Sequence[Curve] = (),
    results: Results | None = None,
    animation: str | Mapping[str, str] | None = None,
    reference: str | None = None,
    headline: Table | None = None,
    reading: Sequence[str] = (),
) -> None:
    """Write the page.

    Args:
        summary: what the reader sees first; a value that is a mapping becomes a folded section of its own, such as
            "configuration" or "provenance".
        animation: an HTML fragment of a scenario's ``Recorder``, put in as it is, or several by title, which stand
            side by side; everything else is escaped. It comes first.
        reference: the policy that the others are compared with; None is the first.
        headline: one table of what matters, with ``reading`` as sentences below it; all others are then folded
            away.

    Raises ``UserError`` if the file cannot be written.
    """
    parts = [f"<header><h1>{escape(title)}</h1>{_cards(summary)}</header>"]
    if animation is not None:
        parts.append(_section("Episode", _side_by_side(animation)))
    if curves:
        parts.append(_section("Learning", f"<div class=charts>{''.join(svg(curve) for curve in curves)}</div>"))
    if results is not None:
        parts += _evaluation(results, reference, headline, reading)
    elif headline is not None:
        parts.append(_section("What matters", _table(headline)))
    parts += [_details(name, value) for name, value in summary.items() if isinstance(value, Mapping)]
    try:
        path.write_text(_page(title, parts), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def _evaluation(
    results: Results, reference: str | None, headline: Table | None, reading: Sequence[str]
) -> Iterator[str]:
    """The section of all figures; folded away behind what matters, if that is told."""
    tables = "".join(_table(table) for table in tables_of(results, reference))
    scaling = _scaling(results)
    chart = f"<div class=charts>{svg(scaling)}</div>" if scaling else ""
    figures = f"{chart}{tables}<p class=note>{escape(NOTE)}</p>"
    if headline is None:
        yield _section("Evaluation", figures)
        return
    told = "".join(f"<p class=note>{escape(sentence)}</p>" for sentence in reading)
    yield _section("What matters", _table(headline) + told)
    yield f"<details><summary>all figures</summary>{figures}</details>"


def _page(title: str, parts: Sequence[str]) -> str:
    """The parts as a document that needs nothing beside it."""
    style = files("marl.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def _side_by_side(animation: str | Mapping[str, str]) -> str:
    if isinstance(animation, str):
        return animation
    shown = "".join(f"<div><h3>{escape(title)}</h3>{fragment}</div>" for title, fragment in animation.items())
    return f"<div class=charts>{shown}</div>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _scaling(results: Results) -> Curve | None:
    """The primary metric against the one number in which the sets of instances differ, such as agents, if it is so."""
    sets = [instances for instances, _, _ in results.by_instances()]
    differing = [key for key in sets[0] if len({str(instances.get(key)) for instances in sets}) > 1]
    if len(differing) != 1 or not all(isinstance(instances.get(differing[0]), int | float) for instances in sets):
        return None
    (key,) = differing
    runs = {}
    for policy in results.policies:
        rows = [row for row in results.rows if (row.policy, row.metric) == (policy, results.primary_metric)]
        points = np.array(sorted((float(row.instances[key]), row.mean) for row in rows))
        runs[policy] = [(points[:, 0], points[:, 1])]
    return Curve(f"{results.primary_metric} by {key}", key, results.primary_metric, runs)


def _cards(summary: Mapping[str, Any]) -> str:
    cards = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(_text(value))}</dd></div>"
        for name, value in summary.items()
        if not isinstance(value, Mapping)
    )
    return f"<dl class=cards>{cards}</dl>" if cards else ""


def _details(name: str, values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(key)}</th><td>{escape(_text(value))}</td></tr>" for key, value in _flattened(values)
    )
    return (
        f"<details><summary>{escape(name)}</summary><div class=scroll><table class=plain>{rows}</table></div></details>"
    )


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def _table(table: Table) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"

    head = line([escape(name).replace("_", "_<wbr>") for name in table.header], "th")
    body = "".join(
        line(
            [f"<b class={cell.mark}>{escape(cell.text)}</b>" if cell.mark else escape(cell.text) for cell in row], "td"
        )
        for row in table.rows
    )
    return (
        f"<h3>{escape(table.title)}</h3><div class=scroll>"
        f"<table class=text{table.text_columns}><thead>{head}</thead><tbody>{body}</tbody></table></div>"
    )
