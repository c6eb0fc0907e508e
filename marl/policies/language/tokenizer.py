"""Tokenizers made on the spot: the words of a compact grammar, or byte pairs learned from example texts.

A chat is spelt as a mark of the speaker and the text; what the model says ends with an end mark. A conversation's ids
therefore only ever grow, which keeps sampled ids and later prompts consistent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from marl.envs.chat import SPEAKERS, Message
from marl.errors import UserError
from marl.policies.language.base import Request

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, UNKNOWN, END = "<pad>", "<unk>", "<|end|>"
MARKS = {speaker: f"<|{speaker}|>" for speaker in SPEAKERS}
SPECIAL = (PAD, UNKNOWN, END, *MARKS.values())

#: The same spelling as a chat template of ``transformers``.
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _library() -> Any:
    # Imported here: it belongs to an extra.
    try:
        import tokenizers
    except ImportError:
        raise UserError("language models need the extra 'llm': pip install 'marl-platform[llm]'") from None
    return tokenizers


def word_tokenizer(words: Iterable[str]) -> Tokenizer:
    """One token per word; words that are not in the list are unknown."""
    library = _library()
    known = dict.fromkeys([*SPECIAL, *words])
    tokenizer: Tokenizer = library.Tokenizer(
        library.models.WordLevel({w: i for i, w in enumerate(known)}, unk_token=UNKNOWN)
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def byte_tokenizer(corpus: Sequence[str], size: int) -> Tokenizer:
    """Byte pairs (any text can be spelt) learned from a corpus.

    Words with digits, which names of things and numbers are, stay apart; everything else may merge, so that the fixed
    parts of a call in JSON, and of instructions, become a few tokens.
    """
    library = _library()
    tokenizer: Tokenizer = library.Tokenizer(library.models.BPE(unk_token=None))
    pre = library.pre_tokenizers
    tokenizer.pre_tokenizer = pre.Sequence(
        [pre.Split(library.Regex(r"\w*\d\w*"), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


class ChatTokenizer:
    """Spells chats in ids. ``tokenizer`` must know the marks."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.size: int = tokenizer.get_vocab_size()
        ids = tokenizer.get_vocab()
        self.end, self.pad = ids[END], ids[PAD]
        self._marks = {speaker: ids[mark] for speaker, mark in MARKS.items()}
        self._words = type(tokenizer.model).__name__ == "WordLevel"
        self._word = {number: word for word, number in ids.items()}
        self._special = {ids[mark] for mark in SPECIAL if mark != UNKNOWN}
        # Chats repeat themselves: most texts have been spelt before.
        self._spelt = lru_cache(maxsize=65_536)(self._spell)
        self._read = lru_cache(maxsize=65_536)(self._decode)

    @classmethod
    def loads(cls, text: str) -> ChatTokenizer:
        """From what ``dumps`` gave."""
        return cls(_library().Tokenizer.from_str(text))

    def dumps(self) -> str:
        return self.tokenizer.to_str()

    def text_ids(self, text: str) -> tuple[int, ...]:
        """The ids of a text without any mark."""
        return self._spelt(text)

    def said(self, text: str) -> list[int]:
        """The ids of a turn that says ``text``, its end mark included."""
        return [*self._spelt(text), self.end]

    def hear(self, request: Request) -> None:
        """Bring the transcript of a request up to date (``Speller``)."""
        transcript, messages = request.transcript, request.turn.messages
        transcript.hear(self.prompt(messages[transcript.read :]))
        # The world repeats what is said now as a message: it will be in the ids already.
        transcript.read = len(messages) + 1

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids of messages, and the mark after which the model speaks."""
        ids: list[int] = []
        for message in messages:
            ids.append(self._marks[message["role"]])
            ids += self._spelt(message["content"])
            if message["role"] == "assistant":
                ids.append(self.end)
        ids.append(self._marks["assistant"])
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """What ids say; marks are left out."""
        return self._read(tuple(ids))

    def _spell(self, text: str) -> tuple[int, ...]:
        # A text must not be able to spell the marks: they are special tokens, which plain encoding would recognise.
        for mark in SPECIAL:
            text = text.replace(mark, " ") if mark in text else text
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _decode(self, ids: tuple[int, ...]) -> str:
        if self._words:
            return " ".join(self._word[i] for i in ids if i not in self._special)
        return self.tokenizer.decode([i for i in ids if i not in self._special])
