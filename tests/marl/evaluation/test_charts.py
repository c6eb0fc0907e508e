"""Charts: axes, bands over seeds, and reading ``metrics.csv``."""

from xml.etree import ElementTree

import numpy as np
import pytest

from marl.errors import UserError
from marl.evaluation.charts import _BOTTOM, _LEFT, _RIGHT, _TOP, Curve, curve_from_csv, over_seeds, short, svg, ticks


def parsed(curve: Curve) -> ElementTree.Element:
    text = svg(curve)
    return ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])


def line(values, x=None):
    y = np.asarray(values, np.float64)
    return (np.arange(len(y), dtype=np.float64) if x is None else np.asarray(x, np.float64), y)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3.0, 7.0, [-2, 0, 2, 4, 6]),
        (0.0, 3.2e6, [0, 1e6, 2e6, 3e6]),
        (0.97, 1.03, [0.98, 1.0, 1.02]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_ticks_of_a_point_surround_it():
    assert min(ticks(5.0, 5.0)) < 5.0 < max(ticks(5.0, 5.0))
    assert len(ticks(0.0, 0.0)) > 1


def test_numbers_on_axes_are_short():
    assert [short(v, 5e5) for v in (0, 5e5, 1.5e6)] == ["0", "500k", "1.5M"]
    assert [short(v, 0.02) for v in (0.98, 1.0)] == ["0.98", "1.00"]


def test_mean_and_band_over_seeds_lie_on_the_common_stretch():
    x, mean, low, high = over_seeds([line([0, 2, 4, 6]), line([2, 4, 6], x=[1, 2, 3]), line([4, 4], x=[0, 3])])
    assert x.tolist() == [1, 2, 3]
    assert mean.tolist() == pytest.approx([(2 + 2 + 4) / 3, (4 + 4 + 4) / 3, (6 + 6 + 4) / 3])
    assert (low <= mean).all()
    assert (mean <= high).all()
    assert (low[1], high[1]) == (4, 4)
    assert (low[0], high[0]) == (2, 4)


def test_a_chart_has_a_line_per_seed_a_mean_a_band_and_levels():
    curve = Curve("t", "x", "y", {"mappo": [line([0, 1, 2]), line([1, 2, 3])]}, {"pibt": 2.5, "unknown": np.nan})
    classes = [path.get("class") for path in parsed(curve).iter("path")]
    assert classes.count("seed c0") == 2
    assert classes.count("line c0") == classes.count("band c0") == 1
    assert classes.count("level c1") == 1
    assert "level c2" not in classes
    assert "mappo (2 seeds)" in svg(curve)


def test_everything_drawn_lies_between_the_axes():
    curve = Curve("t", "x", "y", {"a": [line([-50, 3, 1e4])]}, {"far": -2e4})
    root = parsed(curve)
    width, height = map(float, root.get("viewBox").split()[2:])
    for path in root.iter("path"):
        numbers = [float(n) for n in path.get("d").replace("M", " ").replace("L", " ").replace("Z", "").split()]
        assert all(_LEFT <= x <= width - _RIGHT for x in numbers[::2])
        assert all(_TOP <= y <= height - _BOTTOM for y in numbers[1::2])


def test_flat_single_and_empty_curves_can_be_drawn():
    parsed(Curve("flat", "x", "y", {"a": [line([0, 0, 0])]}))
    parsed(Curve("point", "x", "y", {"a": [line([3])]}))
    assert "No data yet" in svg(Curve("empty", "x", "y", {"a": [line([])], "b": [line([np.nan])]}))


def test_long_lines_are_thinned_but_keep_their_end():
    curve = Curve("t", "x", "y", {"a": [line(np.r_[np.zeros(99_999), 1.0])]})
    (path,) = [path for path in parsed(curve).iter("path") if path.get("class") == "line c0"]
    points = path.get("d")[1:].split("L")
    assert len(points) == 300
    assert float(points[-1].split()[1]) < float(points[-2].split()[1])


def test_names_are_escaped():
    text = svg(Curve("<t>", "x&", "y<", {"<script>": [line([1, 2])]}, {"</svg>": 1.0}))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert text.count("</svg>") == 1


def test_columns_come_from_csv_without_empty_and_torn_cells(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("iteration,agent_steps,episode/throughput\n1,100,\n2,200,0.5\n3,300,nan\n4,400,0.75\n5,50")
    curve = curve_from_csv("t", {"mappo": [path]}, "episode/throughput", levels={"pibt": 1.0})
    ((x, y),) = curve.runs["mappo"]
    assert (x.tolist(), y.tolist()) == ([200, 400], [0.5, 0.75])
    assert curve.y_label == "episode/throughput"


def test_a_missing_column_or_file_is_a_sentence(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("agent_steps,reward\n1,2\n")
    with pytest.raises(UserError, match=r"no column 'rewards'; did you mean 'reward'\?"):
        curve_from_csv("t", {"a": [path]}, "rewards")
    with pytest.raises(UserError, match="cannot be read"):
        curve_from_csv("t", {"a": [tmp_path / "none.csv"]}, "reward")
