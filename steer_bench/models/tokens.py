"""Tokens: texts as token ids, and the character that each token ends at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer_bench.models.load import Loaded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_TOKENS = 512
"""Longer texts are cut: concept passages and neutral paragraphs are far shorter."""
TEXTS_AT_ONCE = 1000
"""Texts given to the tokenizer in one call: what it says of them takes many times the memory of what is kept."""
UNBOUNDED = 10**12
"""A tokenizer without a length says a larger number."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenised text."""

    ids: Sequence[int]
    ends: Sequence[int]
    """Characters of the text that each token has read to the end; 0 for one that ends within a character, and for a BOS."""


def tokenize(loaded: Loaded, texts: Sequence[str]) -> list[Tokens]:
    """Return token ids with exactly one leading BOS (or none, as the tokenizer has it), and end offsets."""
    return list(tokenized(loaded, texts))


def tokenized(loaded: Loaded, texts: Sequence[str]) -> Iterator[Tokens]:
    """Yield what `tokenize` returns, a text at a time: end offsets take many times the memory of ids."""
    bos = loaded.tokenizer.bos_token_id
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        part = list(texts[start : start + TEXTS_AT_ONCE])
        batch = loaded.tokenizer(part, return_offsets_mapping=True, truncation=True, max_length=MAX_TOKENS)
        for ids, offsets in zip(batch.input_ids, batch.offset_mapping, strict=True):
            doubled = int(bos is not None and ids[:2] == [bos, bos])  # the text itself begins with one
            yield Tokens(tuple(ids[doubled:]), ends_of(offsets[doubled:]))


def ends_of(offsets: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Return the end of each token; 0 where the next token starts before it, and so goes on with the same character.

    Tokenizers give every byte of one emoji the emoji's offsets, and a space put in front of a text its first character's.

    >>> ends_of([(0, 0), (0, 1), (0, 2), (2, 3), (2, 3)])
    (0, 0, 2, 0, 3)
    """
    following = [*offsets[1:], (0, 0)]  # (0, 0) is a special token: it reads nothing
    return tuple(
        0 if start < end and last > 0 else end for (_, end), (start, last) in zip(offsets, following, strict=True)
    )


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text with exactly one BOS where the tokenizer uses one, also when the text already begins with it."""
    has_bos = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    return list(tokenizer(text, add_special_tokens=not has_bos).input_ids)


def instruction_ids(tokenizer: PreTrainedTokenizerBase, instruction: str) -> list[int]:
    """Return an instruction as the model reads it: through its chat template, or followed by a blank line where it has none."""
    if not tokenizer.chat_template:
        return list(tokenizer(instruction + "\n\n").input_ids)
    chat = [{"role": "user", "content": instruction}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def context_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many tokens a model reads, as its config says, else its tokenizer, else 2048."""
    config = model.config.get_text_config(decoder=True)
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        found = getattr(config, name, None)
        if found:
            return int(found)
    return int(tokenizer.model_max_length) if tokenizer.model_max_length < UNBOUNDED else 2048
