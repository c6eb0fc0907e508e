"""Reading what comes from elsewhere: plain files of bounded size, XML without declarations, errors of one line."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from marl.errors import UserError
from marl.files import read_limited, read_text
from marl.training.run_folder import read_provenance
from marl.training.tracking import read_metrics
from marl.xml_io import MAX_DEPTH, read_xml
from marl.yaml_io import MAX_BYTES, parse_yaml, read_yaml


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    """Opening a pipe that nobody writes to would wait for ever, and /dev/zero never ends."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, reason in [(pipe, "not a plain file"), (Path("/dev/zero"), "not a plain file"), (tmp_path, "directory")]:
        for read in (read_yaml, read_xml, read_metrics, lambda path: read_limited(path, 10)):
            with pytest.raises(UserError, match=reason):
                read(path)
    for path, reason in [(tmp_path / "none", "No such file"), (Path("a\0b"), "null")]:
        with pytest.raises(UserError, match=reason):
            read_limited(path, 10)


def test_size_and_encoding(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    assert read_limited(path, 5) == b"12345"
    with pytest.raises(UserError, match="larger than 4 bytes"):
        read_limited(path, 4)
    path.write_bytes(b"\xef\xbb\xbfab\xff")
    with pytest.raises(UserError, match="byte 2 is not UTF-8"):
        read_text(path, 100)
    path.write_bytes(b"\xef\xbb\xbfab")
    assert read_text(path, 100) == "ab"


BOMB = "<!DOCTYPE a [<!ENTITY b 'bbbb'>" + "".join(f"<!ENTITY c{i} '{'&b;' * 9}'>" for i in range(9)) + "]><a>&c8;</a>"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "line 1: a document type declaration is not allowed"),
        ("<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>", "declaration is not allowed"),
        ("\n<!DOCTYPE a SYSTEM 'http://127.0.0.1:9/x.dtd'><a/>", "line 2: a document type declaration"),
        ("<a>&b;</a>", "cannot be read as XML: undefined entity"),
        ("<a>" * (MAX_DEPTH + 1), "nested too deeply"),
        ("<?xml version='1.0' encoding='x-none'?><a/>", "cannot be read as XML"),
        ("<a", "cannot be read as XML"),
        ("", "cannot be read as XML"),
    ],
)
def test_hostile_xml_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "n.net.xml"
    for encoding in ("utf-8", "utf-16"):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(UserError) as error:
            read_xml(path)
        if encoding == "utf-8":
            assert reason in str(error.value)
        assert str(path) in str(error.value)


def test_xml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "n.xml"
    path.write_text("<net><edge id='a'><lane index='0'/></edge><!-- c --><edge id='b'>&lt;</edge></net>")
    root = read_xml(path)
    assert [edge.get("id") for edge in root.iter("edge")] == ["a", "b"]
    assert root[1].text == "<"
    with pytest.raises(UserError, match="larger than 10 bytes"):
        read_xml(path, max_bytes=10)


def test_compressed_xml_is_read_within_the_same_limit(tmp_path: Path) -> None:
    path = tmp_path / "n.net.xml.gz"
    path.write_bytes(gzip.compress(b"<net><edge id='a'/></net>"))
    assert read_xml(path).find("edge").get("id") == "a"
    path.write_bytes(gzip.compress(b"<net>" + b" " * 1_000_000))
    with pytest.raises(UserError, match="larger than 100,000 bytes when unpacked"):
        read_xml(path, max_bytes=100_000)
    path.write_bytes(gzip.compress(b"<net><edge id='a'/></net>")[:-10])
    with pytest.raises(UserError, match="ends in the middle"):
        read_xml(path)
    path.write_bytes(b"\x1f\x8bno archive at all")
    with pytest.raises(UserError, match="cannot be unpacked"):
        read_xml(path)


@pytest.mark.parametrize("pattern", ["[", "{a: ", "- ", "? ", "{"])
def test_deeply_nested_yaml_is_refused_before_it_costs_time(pattern: str) -> None:
    """PyYAML's scanner would take minutes: its time grows with the brackets that are open."""
    with pytest.raises(UserError, match="nested too deeply"):
        parse_yaml((pattern * MAX_BYTES)[:MAX_BYTES], "x")


@pytest.mark.parametrize("text", ["[1]", "{", '{"starts": 3}', "[" * 100_000, "\xff"])
def test_a_damaged_provenance_is_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "provenance.json").write_text(text, encoding="latin-1")
    assert read_provenance(tmp_path)["starts"] == []


def test_an_error_is_one_short_line_without_control_characters() -> None:
    text = str(UserError("map \x1b[2J'a\nb' " + "x" * 10_000 + ", use another"))
    assert "\n" not in text and "\x1b" not in text and len(text) < 900
    assert text.startswith("map ") and text.endswith(", use another")
