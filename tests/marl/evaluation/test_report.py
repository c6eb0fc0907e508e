"""The report: complete, self-contained and safe against what is in names."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from marl.envs.batched import Metric
from marl.errors import UserError
from marl.evaluation.charts import Curve
from marl.evaluation.report import write_report
from marl.evaluation.results import Pair, Results, Row
from marl.evaluation.tables import Cell, Table

VOID = {"meta", "wbr", "br", "input", "img"}
EVIL = "<script>alert(1)</script>&\"'"


class Balanced(HTMLParser):
    """Fails at the first end tag that closes the wrong element."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def evil_results() -> Results:
    instances = {"map": EVIL}
    rows = tuple(Row(policy, instances, "score", 1.0, 0.5, 1.5, 4, 0.1) for policy in (EVIL, "b"))
    pair = Pair(EVIL, "b", instances, "score", 0.0, -0.1, 0.1, 4)
    return Results(EVIL, "score", {"score": Metric("1", "higher")}, rows, (pair,))


def write(path, **changes):
    curve = Curve("Throughput", "agent-steps", "goals per step", {"mappo": [(np.arange(3.0), np.arange(3.0))]})
    write_report(
        path,
        **{
            "title": "A run",
            "summary": {"seeds": 3, "share": 0.5, "exact": True, "configuration": {"world": {"agents": 8}}},
            "curves": [curve],
            "animation": "<p id=episode>moves</p>",
            **changes,
        },
    )
    return path.read_text(encoding="utf-8")


def test_the_page_holds_all_its_parts(tmp_path):
    page = write(tmp_path / "report.html", results=evil_results())
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == ["Episode", "Learning", "Evaluation"]
    assert "<p id=episode>moves</p>" in page
    assert "<dt>seeds</dt><dd>3</dd>" in page
    assert "<dt>exact</dt><dd>yes</dd>" in page
    assert "<th>world.agents</th><td>8</td>" in page
    assert "<td>1.00 ± 0.50</td>" in page


def test_a_headline_stands_before_all_other_figures_and_episodes_side_by_side(tmp_path):
    headline = Table("episodes", ("policy", "score"), ((Cell("a"), Cell("1", "good")),))
    page = write(
        tmp_path / "report.html",
        results=evil_results(),
        headline=headline,
        reading=["One <b>sentence</b>."],
        animation={"learned": "<p id=one>x</p>", "rule": "<p id=two>y</p>"},
    )
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert re.findall("<h2>(.*?)</h2>", page) == ["Episode", "Learning", "What matters"]
    assert "<h3>learned</h3><p id=one>x</p>" in page
    assert "<p class=note>One &lt;b&gt;sentence&lt;/b&gt;.</p>" in page
    assert page.index("What matters") < page.index("<summary>all figures</summary>") < page.index("1.00 ± 0.50")


def test_the_page_needs_nothing_from_outside(tmp_path):
    page = write(tmp_path / "report.html")
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|@import|<link|\bsrc=|\bhref=|url\(", page)


def test_parts_that_are_not_there_leave_no_heading(tmp_path):
    page = write(tmp_path / "report.html", curves=[], animation=None, summary={})
    assert "<h2>" not in page
    assert "<details>" not in page


def test_everything_but_the_animation_is_escaped(tmp_path):
    curve = Curve(EVIL, EVIL, EVIL, {EVIL: [(np.arange(3.0), np.arange(3.0))]}, {EVIL: 1.0})
    summary = {EVIL: EVIL, "more" + EVIL: {EVIL: EVIL}}
    page = write(
        tmp_path / "report.html",
        title=EVIL,
        summary=summary,
        curves=[curve],
        results=evil_results(),
        animation=None,
    )
    parser = Balanced()
    parser.feed(page)
    assert "script" not in parser.seen
    assert "alert(1)" in page


def test_sets_that_differ_in_one_number_are_drawn_against_it(tmp_path):
    def with_sets(*sets):
        rows = tuple(Row(p, each, "score", 1.0, 0.5, 1.5, 4, 0.1) for each in sets for p in ("a", "b"))
        found = Results("tiny", "score", {"score": Metric("1", "higher")}, rows, ())
        return write(tmp_path / "report.html", results=found, curves=[])

    assert with_sets({"map": "m", "agents": 64}, {"map": "m", "agents": 32}).count('class="line') == 2
    assert "<svg" not in with_sets({"map": "m", "agents": 64}, {"map": "n", "agents": 32})
    assert "<svg" not in with_sets({"map": "m", "agents": 64}, {"map": "n", "agents": 64})
    assert "<svg" not in with_sets({"map": "m", "agents": 64})


def test_a_path_that_cannot_be_written_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "missing" / "report.html")
