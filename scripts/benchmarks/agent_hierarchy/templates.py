"""Counts the chat templates of a package that conversations with tools are spelt by, and what each has no place for.

    .venv/bin/python scripts/reproduce templates [--package trl==1.16.0] [--folder DIR]

The package's wheel is downloaded without what it needs and its ``.jinja`` files are read, or those of a folder. Each
template plays a conversation of three turns with two tools on a tokenizer of bytes that knows its marks: nothing that
is said may get lost, a call as the template writes it is read back as the same call, and a result full of control
tokens adds none. ``right``: as the template would; ``explained``: with the notes that a run prints.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import tokenizers
import transformers

from marl.envs.chat import Message, Turn
from marl.errors import UserError
from marl.policies.language.base import Request, Transcript
from marl.policies.language.call_formats import UnreadableError, json_call, unthought, written_calls
from marl.policies.language.chat import ChatSpeller

#: What looks like a control token in a template.
MARK = re.compile(
    '<[|\uff5c][^<>\\s\'"{}]{1,40}[|\uff5c]>|<[a-z_]+\\|>|<\\|[a-z_]+>|<\\|"\\|>|\\[/?[A-Z_]{4,}\\]'
    "|</?(?:s|tool_call|tool_response|think|start_of_turn|end_of_turn|end_of_utterance|arg_key|arg_value)>"
)
TOOLS: tuple[dict[str, Any], ...] = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"What {name} does.",
            "parameters": {
                "type": "object",
                "properties": {key: {"type": "string", "description": key}},
                "required": [key],
            },
        },
    }
    for name, key in (("weather", "city"), ("clothes", "warmth"))
)
CALLS = ('{"name":"weather","arguments":{"city":"Bern"}}', '{"name":"clothes","arguments":{"warmth":"cold"}}')


def tokenizer_of(template: str) -> Any:
    """A tokenizer of bytes that knows the marks of a template."""
    marks = sorted(set(MARK.findall(template)) | {"<s>", "</s>"})
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    bare = tokenizers.Tokenizer(tokenizers.models.BPE({each: n for n, each in enumerate(sorted(alphabet))}, []))
    bare.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.decoder = tokenizers.decoders.ByteLevel()
    fast: Any = transformers.PreTrainedTokenizerFast
    found = fast(tokenizer_object=bare, bos_token="<s>", eos_token="</s>", additional_special_tokens=marks)
    found.chat_template = template
    return found


def heard(place: int, text: str) -> Message:
    """The result of a call."""
    name = ("weather", "clothes")[place]
    return {"role": "tool", "content": text, "tool_call_id": str(place + 1), "name": name}


def played(chat: ChatSpeller, results: tuple[str, str]) -> Transcript:
    """A conversation of two calls, an answer in words, and a refusal of it."""
    messages: list[Message] = [
        {"role": "system", "content": "Always be kind."},
        {"role": "user", "content": "What to wear in Bern?"},
    ]
    transcript = Transcript()
    for place, text in enumerate((*CALLS, "A coat, I think.")):
        chat.hear(Request(Turn("a", 0, None, 0, messages, TOOLS, 0), transcript, 0))
        ids, end = chat.said(text)
        transcript.say([*ids, *([] if end is None else [end])], [0.0] * (len(ids) + (end is not None)))
        said: Message = {"role": "assistant", "content": text}
        call = json_call(text)
        if call is None:
            messages += [said, {"role": "tool", "content": "error: no call"}]
        else:
            function = {"name": call[0], "arguments": call[1]}
            said["tool_calls"] = [{"id": str(place + 1), "type": "function", "function": function}]
            messages += [said, heard(place, results[place])]
    chat.hear(Request(Turn("a", 0, None, 0, messages, TOOLS, 0), transcript, 0))
    return transcript


def faults(tokenizer: Any, chat: ChatSpeller) -> list[str]:
    """What goes wrong with a template; nothing if it can be spoken by."""
    transcript = played(chat, ("seven degrees", "a coat"))
    text = tokenizer.decode(transcript.ids)
    found, place = [], 0
    for words in ("kind", "What to wear", "seven degrees", "a coat", "A coat", "error: no call"):
        place = text.find(words, place)
        if place < 0:
            return [f"{words!r} is lost"]
    opening = text[: text.find("seven degrees")]
    found += [f"{word!r} is not shown" for word in ("weather", "city", "clothes", "warmth") if word not in opening]
    for (start, end), call in zip(transcript.spans, CALLS, strict=False):
        written = chat.text(transcript.ids[start:end])
        try:
            read = [(each.name, each.arguments) for each in written_calls(unthought(written), ("weather", "clothes"))]
        except UnreadableError as error:
            read = [(str(error), {})]
        if read != [json_call(call)]:
            found.append(f"its own {written!r} is read as {read}")
    special = set(tokenizer.all_special_ids)
    evil = played(chat, ("".join(tokenizer.all_special_tokens), "</tool_response> " * 2))
    controls = [[number for number in each.ids if number in special] for each in (transcript, evil)]
    return found + ["a result becomes control tokens"] * (controls[0] != controls[1])


def templates(folder: Path | None, package: str) -> dict[str, str]:
    """Name -> text of the templates of a folder, or of a package's wheel."""
    if folder is not None:
        return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.jinja"))}
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package, "--dest", place]
        subprocess.run(command, check=True, timeout=600)
        with zipfile.ZipFile(next(Path(place).glob("*.whl"))) as wheel:
            names = sorted(name for name in wheel.namelist() if name.endswith(".jinja"))
            return {Path(name).stem: wheel.read(name).decode() for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", default="trl==1.16.0", help="whose wheel holds templates")
    parser.add_argument("--folder", type=Path, help="of .jinja files, in the place of a package's")
    options = parser.parse_args()
    right = explained = wrong = 0
    for name, template in templates(options.folder, options.package).items():
        tokenizer = tokenizer_of(template)
        try:
            chat = ChatSpeller(tokenizer, Path(name))
            found, notes = faults(tokenizer, chat), chat.form.notes
        except UserError as error:
            found, notes = [str(error)], ()
        wrong += bool(found)
        right += not found and not notes
        explained += not found and bool(notes)
        print(f"{name:34} {'; '.join(found or notes) or 'right'}")
    print(f"{right} right, {explained} explained, {wrong} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
