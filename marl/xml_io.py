"""XML as simulators' files use it: elements and attributes, read within limits.

Refused are document type declarations: they hold nothing that a network needs, but entities, which can expand without
bound and name other files and servers. Simulators that read the same file later meet none either.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers import expat

from marl.errors import UserError
from marl.files import read_limited

#: A network of a large city; its elements take about ten times as much memory.
MAX_BYTES = 200_000_000
MAX_DEPTH = 100
_GZIP = b"\x1f\x8b"


def read_xml(path: Path, max_bytes: int = MAX_BYTES) -> Element:
    """The root element of an XML file, which may be compressed by gzip.

    Raises ``UserError`` that names the file and, where known, the line. ``max_bytes`` holds for both forms of the file.
    """
    parser = expat.ParserCreate()
    builder = TreeBuilder()
    depth = 0

    def refuse(*_: Any) -> None:
        raise UserError(f"{path}, line {parser.CurrentLineNumber}: a document type declaration is not allowed")

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise UserError(f"{path}, line {parser.CurrentLineNumber}: elements are nested too deeply")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    data = read_limited(path, max_bytes)
    if data.startswith(_GZIP):
        data = _unpacked(data, path, max_bytes)
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path} cannot be read as XML: {error}") from None


def _unpacked(data: bytes, path: Path, max_bytes: int) -> bytes:
    """What gzip packed, of which no more than the limit is ever unpacked."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = unpacker.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise UserError(f"{path} cannot be unpacked: {error}") from None
    if len(text) > max_bytes:
        raise UserError(f"{path} is larger than {max_bytes:,} bytes when unpacked, use a smaller file")
    if not unpacker.eof:
        raise UserError(f"{path} cannot be unpacked: it ends in the middle; copy it anew")
    return text
