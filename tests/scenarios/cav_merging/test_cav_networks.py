import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from marl.errors import UserError
from scenarios.cav_merging.config import CavConfig
from scenarios.cav_merging.sumo.networks import NETWORKS, build_network, find_network, read_network, shipped_networks
from scenarios.cav_merging.world import CavMerging

MERGE = find_network("merge")


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = MERGE.read_text()
    assert old in text
    path = tmp_path / "changed.net.xml"
    path.write_text(text.replace(old, new))
    return path


def test_every_shipped_network_has_the_geometry_it_was_built_from():
    for name, geometry in NETWORKS.items():
        read = read_network(find_network(name)).geometry
        assert (read.merge_start, read.merge_end, read.road_end) == (
            geometry.merge_start,
            geometry.merge_end,
            geometry.road_end,
        )
        assert (read.speed_limit, read.main_lanes, read.ramp_start) == (geometry.speed_limit, geometry.main_lanes, 0.0)
    assert set(shipped_networks()) == set(NETWORKS)


def test_lanes_are_mapped_onto_one_axis():
    network = read_network(find_network("merge_two_lanes"))
    assert network.lanes["ramp_0"] == (0, 0.0)
    assert network.lanes["merge_0"] == (0, 320.0)
    assert network.lanes["merge_2"] == (2, 320.0)
    assert network.lanes["after_1"] == (2, 420.0)
    assert network.place(0, 100.0) == ("ramp", 0, 0.0)
    assert network.place(2, 330.0) == ("merge", 2, 320.0)
    assert network.place(1, 500.0) == ("after", 0, 420.0)


def test_shipped_networks_name_no_machine_and_no_date():
    for path in shipped_networks().values():
        assert "<!--" not in path.read_text()


def test_netconvert_rebuilds_the_shipped_network(tmp_path, needs_sumo):
    for name, geometry in NETWORKS.items():
        target = tmp_path / f"{name}.net.xml"
        build_network(geometry, target)
        assert target.read_text() == find_network(name).read_text()


def test_lanes_between_edges_count_towards_the_length(tmp_path):
    text = MERGE.read_text()
    internal = '<edge id=":m_0" function="internal"><lane id=":m_0_0" index="0" speed="30" length="7.50"/></edge>'
    text = text.replace('<edge id="main"', internal + '<edge id="main"')
    text = text.replace(
        '<connection from="main" to="merge" fromLane="0" toLane="1"',
        '<connection from="main" to="merge" fromLane="0" toLane="1" via=":m_0_0"',
    )
    path = tmp_path / "internal.net.xml"
    path.write_text(text)
    network = read_network(path)
    assert network.geometry.merge_start == 327.5
    assert network.geometry.ramp_start == 7.5
    assert network.lanes[":m_0_0"] == (1, 320.0)
    assert network.lanes["merge_1"] == (1, 327.5)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("</net>", "", "cannot be read as XML"),
        ('<lane id="ramp_0" index="0"', '<lane id="ramp_0" index="zero"', "without a readable"),
        ('<connection from="main"', '<connection from="elsewhere"', r"no lane of 'main' \(main\) leads to 'merge'"),
        (
            '<connection from="merge"',
            '<connection from="elsewhere"',
            r"does not lead from 'merge' \(merge\) to 'after'",
        ),
    ],
)
def test_a_network_that_is_no_merge_is_refused_in_one_sentence(tmp_path, old, new, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        read_network(changed(tmp_path, old, new))
    assert "\n" not in str(caught.value)


def test_missing_file_name_and_role():
    with pytest.raises(UserError, match=r"nowhere\.net\.xml cannot be read"):
        read_network(Path("nowhere.net.xml"))
    with pytest.raises(UserError, match="did you mean 'merge'"):
        find_network("merg")
    with pytest.raises(UserError, match="names no 'merge' edge"):
        read_network(MERGE, {"ramp": "ramp", "main": "main"})
    with pytest.raises(UserError, match=r"no edge 'off' \(after\); it has after, main, merge, ramp"):
        read_network(MERGE, {"ramp": "ramp", "main": "main", "merge": "merge", "after": "off"})


def test_without_sumo_one_sentence_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"marl-platform\[sumo\]"):
        build_network(NETWORKS["merge"], tmp_path / "merge.net.xml")


def test_the_ramp_has_a_limit_of_its_own(tmp_path, needs_sumo):
    geometry = replace(NETWORKS["merge"], ramp_limit=22.2)
    path = tmp_path / "slow.net.xml"
    build_network(geometry, path)
    read = read_network(path)
    assert (read.geometry.ramp_limit, read.geometry.speed_limit) == (22.2, 30.0)
    assert read.left_out == ()


def test_what_the_twin_leaves_out_is_named(tmp_path, caplog):
    text = MERGE.read_text()
    start = text.index('<lane id="after_0"')
    text = text[:start] + text[start:].replace('speed="30.00"', 'speed="22.00"', 1)
    text = text.replace('<connection from="main" to="merge"', '<connection tl="meter" from="main" to="merge"')
    path = tmp_path / "odd.net.xml"
    path.write_text(text)
    limits, light = read_network(path).left_out
    assert "30 m/s on 'main'" in limits and "22 m/s on 'after'" in limits and "meter" in light
    CavMerging(CavConfig(net=str(path)), 1)
    assert "the twin leaves out limits of 30 m/s on 'main'" in caplog.text
    caplog.clear()
    CavMerging(CavConfig(net="merge"), 1)
    assert not caplog.text


def test_files_may_be_compressed(tmp_path):
    path = tmp_path / "merge.net.xml.gz"
    path.write_bytes(gzip.compress(MERGE.read_bytes()))
    assert find_network(str(path)) == path
    assert read_network(path).geometry == read_network(MERGE).geometry


def test_another_file_is_named_for_what_it_is(tmp_path):
    path = tmp_path / "my.xml"
    with pytest.raises(UserError, match="file with the root <cars>, not a network"):
        path.write_text("<cars/>")
        read_network(find_network(str(path)))
