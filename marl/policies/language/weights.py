"""A folder of weights, loaded whole or not at all."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from marl.errors import UserError
from marl.files import read_text

#: Of a chat template.
_MAX_TEMPLATE = 1_000_000
#: A chat template for models that have none: speakers by name, a line each, the model's turns ended by its end mark.
PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] + '\n\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ 'Assistant:\n' + m['content'] + eos_token + '\n' }}"
    "{% else %}{{ 'User:\n' + m['content'] + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)


def libraries(adapters: bool) -> tuple[Any, Any]:
    """``transformers``, and ``peft`` if adapters are asked for."""
    # Imported here: they belong to an extra, and take seconds.
    try:
        transformers = importlib.import_module("transformers")
        peft = importlib.import_module("peft") if adapters else None
    except ImportError:
        raise UserError("policies of kind 'hf' need the extra 'llm': pip install 'marl-platform[llm]'") from None
    return transformers, peft


def load_folder(folder: Path, dtype: str, template: str | None = None) -> tuple[Any, Any]:
    """Model and tokenizer of a local folder; nothing is ever downloaded.

    Args:
        folder: with ``config.json``, weights and tokenizer.
        dtype: the name of torch's type that the weights are to have.
        template: a file with a chat template in the place of the tokenizer's own, or ``plain``; None: its own.

    Raises:
        UserError: the folder holds no model, or cannot be read; tensors of the model are not in it, it has others, or
            some of another shape: ``transformers`` would fill those that are missing with random numbers.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model: it has no config.json; name a folder of downloaded weights")
    transformers, _ = libraries(adapters=False)
    try:
        with _silent(transformers):
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                dtype=getattr(torch, dtype),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report too, with all the others
            )
        # A tokenizer.json says everything; the class that a model's kind suggests may read it differently.
        fast = (folder / "tokenizer.json").is_file()
        kind = transformers.PreTrainedTokenizerFast if fast else transformers.AutoTokenizer
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"the model in {folder} cannot be loaded: {str(error).splitlines()[0]}") from None
    _refuse_other_tensors(folder, type(model).__name__, report)
    if template is not None:
        tokenizer.chat_template = PLAIN_TEMPLATE if template == "plain" else read_text(Path(template), _MAX_TEMPLATE)
    if tokenizer.chat_template is None:
        raise UserError(
            f"the tokenizer in {folder} has no chat template: name one by algorithm.policy.template=FILE.jinja, or "
            "'plain'"
        )
    if not isinstance(tokenizer.chat_template, str):
        raise UserError(f"the tokenizer in {folder} has several chat templates: name one by algorithm.policy.template")
    return model, tokenizer


def with_adapters(model: Any, adapters: Sequence[str], rank: int, seed: int) -> Any:
    """The model with an adapter of each name on all its linear layers; they begin as the identity.

    Args:
        model: of ``transformers``.
        adapters: their names inside the model.
        rank: of all of them.
        seed: of their first weights.

    Raises:
        UserError: ``peft`` cannot adapt such a model.
    """
    _, peft = libraries(adapters=True)
    options = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules="all-linear"
    )
    kind = type(model).__name__
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = peft.get_peft_model(model, options, adapter_name=adapters[0])
            for adapter in adapters[1:]:
                model.add_adapter(adapter, options)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{kind} takes no adapters: {reason} Set lora_rank=null to train all its weights") from None
    return model


@contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Keep the library from printing a bar, and its own table of tensors that do not fit: they are an error here."""
    logging = transformers.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _refuse_other_tensors(folder: Path, kind: str, report: dict[str, Any]) -> None:
    faults = [f"'{name}' is missing" for name in sorted(report["missing_keys"])]
    faults += [f"'{name}' is surplus" for name in sorted(report["unexpected_keys"])]
    faults += [
        f"'{name}' has the shape {tuple(there)}, not {tuple(wanted)}"
        for name, there, wanted in sorted(report["mismatched_keys"])
    ]
    if faults:
        more = f" ({len(faults)} such tensors)" if len(faults) > 1 else ""
        raise UserError(
            f"the weights in {folder} are not those of the {kind} in its config.json: {faults[0]}{more}; take config "
            f"and weights from one and the same model"
        )
