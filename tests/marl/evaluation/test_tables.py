"""Tables: what they show, in which order, and how numbers are cut."""

import io
import math
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from marl.envs.batched import Metric
from marl.errors import UserError
from marl.evaluation.report import write_report
from marl.evaluation.results import Pair, Results, Row
from marl.evaluation.tables import NOTE, number, show, tables_of, to_markdown, to_text

SMALL, LARGE = {"map": "maze", "agents": 8}, {"map": "maze", "agents": 16}


def results() -> Results:
    rows, paired = [], []
    for instances, base in ((SMALL, 1.0), (LARGE, 2.0)):
        for policy, lead in (("mine", 0.5), ("pibt", 0.0)):
            value = base + lead
            rows += [
                Row(policy, instances, "throughput", value, value - 0.03, value + 0.03, 16, 0.1234),
                Row(policy, instances, "throughput_iqm", value, value - 0.03, value + 0.03, 16, 0.1234),
                Row(policy, instances, "latency_steps", 30 - 10 * lead, 20, 30, 16, 0.1234),
                Row(policy, instances, "makespan", math.nan, math.nan, math.nan, 0, 0.1234),
            ]
        paired += [
            Pair("mine", "pibt", instances, "throughput", 0.5, 0.44, 0.56, 16),
            Pair("mine", "pibt", instances, "throughput_iqm", 0.5, 0.44, 0.56, 16),
            Pair("mine", "pibt", instances, "latency_steps", -5.0, -12.0, 2.0, 16),
            Pair("mine", "pibt", instances, "makespan", math.nan, math.nan, math.nan, 0),
        ]
    metrics = {
        "throughput": Metric("1/step", "higher"),
        "latency_steps": Metric("step", "lower"),
        "makespan": Metric("step", "lower"),
    }
    return Results("grid", "throughput", metrics, tuple(rows), tuple(paired))


def test_one_table_of_figures_and_one_of_differences_per_set():
    titles = [table.title for table in tables_of(results())]
    assert titles == [
        "grid: map maze, agents 8 (16 episodes)",
        "paired difference to mine: map maze, agents 8",
        "grid: map maze, agents 16 (16 episodes)",
        "paired difference to mine: map maze, agents 16",
    ]


def test_figures_lead_with_the_primary_metric_and_mark_the_best():
    table = tables_of(results())[0]
    assert table.header == ("policy", "throughput", "throughput_iqm", "latency_steps", "ms/step")
    mine, pibt = table.rows
    assert [cell.text for cell in mine] == ["mine", "1.500 ± 0.030", "1.500", "25.0", "0.12"]
    assert [cell.mark for cell in mine] == ["", "good", "good", "good", ""]
    assert not any(cell.mark for cell in pibt)


def test_differences_follow_the_reference():
    _, to_mine, *_ = tables_of(results())
    _, to_pibt, *_ = tables_of(results(), "pibt")
    assert [cell.text for cell in to_mine.rows[0]] == ["pibt", "throughput", "-0.500", "[-0.560, -0.440]", "16"]
    assert [cell.text for cell in to_pibt.rows[0]] == ["mine", "throughput", "+0.500", "[0.440, 0.560]", "16"]
    assert (to_mine.rows[0][2].mark, to_pibt.rows[0][2].mark) == ("bad", "good")
    assert [cell.text for cell in to_pibt.rows[1]] == ["mine", "latency_steps", "-5.0", "[-12.0, 2.0]", "16"]
    assert to_pibt.rows[1][2].mark == ""


def test_less_of_a_cost_is_for_the_better_and_equal_metrics_are_left_out():
    base = results()
    metrics = {**base.metrics, "collisions": Metric("1", "lower")}
    pairs = (
        Pair("mine", "pibt", SMALL, "throughput", 0.0, 0.0, 0.0, 16),
        Pair("mine", "pibt", SMALL, "collisions", 0.0, 0.0, 0.0, 16),
        Pair("mine", "pibt", SMALL, "latency_steps", -5.0, -6.0, -4.0, 16),
    )
    rows = tuple(row for row in base.rows if row.instances == SMALL)
    _, differences = tables_of(Results("grid", "throughput", metrics, rows, pairs), "pibt")
    assert [(row[1].text, row[2].mark) for row in differences.rows] == [("throughput", ""), ("latency_steps", "good")]


def test_an_unknown_reference_is_a_sentence_with_the_nearest():
    with pytest.raises(UserError, match=r"'pibb' was not evaluated; did you mean 'pibt'\?"):
        tables_of(results(), "pibb")


def test_a_single_episode_shows_no_interval():
    row = Row("mine", SMALL, "throughput", 1.25, 1.25, 1.25, 1, 0.5)
    one = Results("grid", "throughput", {"throughput": Metric("1/step", "higher")}, (row,), ())
    (table,) = tables_of(one)
    assert table.title.endswith("(1 episode)")
    assert [cell.text for cell in table.rows[0]] == ["mine", "1.250", "0.50"]


def test_plain_text_is_aligned_and_used_when_not_on_a_terminal():
    file = io.StringIO()
    show(results(), Console(file=file, width=40))
    text = file.getvalue()
    assert text == to_text(results()) + "\n"
    header, rule, first = text.splitlines()[1:4]
    assert len(header) == len(rule) == len(first)
    assert first.index("1.500 ± 0.030") + len("1.500 ± 0.030") == header.index("throughput") + len("throughput")
    assert "\x1b" not in text


def test_a_terminal_gets_boxes():
    file = io.StringIO()
    show(results(), Console(file=file, width=100, force_terminal=True))
    assert "╭" in file.getvalue()
    assert "\x1b" in file.getvalue()


def test_markdown_escapes_names_and_sets_off_the_best():
    text = to_markdown(results(), "pibt")
    assert "| policy | throughput | throughput\\_iqm | latency\\_steps | ms/step |" in text
    assert "| mine | **1.500 ± 0.030** | **1.500** | **25.0** | 0.12 |" in text
    assert "| mine | throughput | **+0.500** | **[0.440, 0.560]** | 16 |" in text


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (1.23456, 0.0, "1.235"),
        (1.23456, 0.031, "1.235"),
        (1.23456, 0.31, "1.23"),
        (1234.56, 31.0, "1235"),
        (0.000123449, 0.0, "0.0001234"),
        (-5.0, 0.0, "-5.000"),
        (0.0, 0.0, "0"),
        (0.0, 0.02, "0.000"),
        (-0.0001, 0.02, "0.000"),
        (math.nan, 0.1, "-"),
        (3e12, 0.0, "3e+12"),
    ],
)
def test_numbers_have_as_many_digits_as_their_spread_allows(value, spread, text):
    assert number(value, spread) == text


def test_a_metric_that_only_one_policy_has_is_blank_for_the_others():
    found = results()
    own = [Row("pibt", instances, "corrected", 0.25, 0.2, 0.3, 16, 0.1) for instances in (SMALL, LARGE)]
    metrics = {**found.metrics, "corrected": Metric("share", "lower")}
    figures, differences = tables_of(Results("grid", "throughput", metrics, (*found.rows, *own), found.paired))[:2]
    column = figures.header.index("corrected")
    assert [row[column].text for row in figures.rows] == ["-", "0.250"]
    assert "corrected" not in {row[1].text for row in differences.rows}


@pytest.mark.parametrize(("low", "high", "n"), [(math.nan, math.nan, 0), (2.0, 2.0, 1), (math.nan, math.nan, 16)])
def test_no_interval_is_made_of_nothing(low, high, n):
    """No value, a single one, or figures made elsewhere: in all forms a figure stands alone or is a dash."""
    value = 2.0 if n else math.nan
    rows = [Row(policy, SMALL, "throughput", value, low, high, n, 0.1) for policy in ("mine", "pibt")]
    pairs = [Pair("mine", "pibt", SMALL, "throughput", value, low, high, n)]
    found = Results("grid", "throughput", {"throughput": Metric("1/step", "higher")}, tuple(rows), tuple(pairs))
    figures, differences = tables_of(found)
    assert [row[1].text for row in figures.rows] == [number(value)] * 2
    assert [row[3].text for row in differences.rows] == ["-"]
    for text in (to_text(found), to_markdown(found), page_of(found)):
        body = text.replace(NOTE, "")
        assert "±" not in body and "nan" not in body.lower()
    assert [row["ci_low"] for row in found.to_json()["rows"]] == [None if math.isnan(low) else low] * 2


def page_of(found: Results) -> str:
    with tempfile.TemporaryDirectory() as folder:
        write_report(Path(folder) / "report.html", title="t", summary={}, results=found)
        return (Path(folder) / "report.html").read_text("utf-8")
