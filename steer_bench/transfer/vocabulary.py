"""Vocabulary: the words of two tokenizers, and the unembedding rows of those that both hold."""

from __future__ import annotations

from typing import Any

from steer_bench.models.blocks import norm_gain
from steer_bench.models.load import Loaded
from steer_bench.transfer.moments import MomentAccumulator, PairedMoments

CHUNK = 4096


def words(tokenizer: Any) -> dict[str, int]:
    """The text of each token -> its id, a leading space kept; special tokens, bytes and what holds no letter or digit are left out.

    A text that two tokens spell has the smaller id.
    """
    from tokenizers.decoders import ByteLevel

    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
    found: dict[str, int] = {}
    decode = ByteLevel().decode if any(token.startswith("\u0120") for token in vocabulary) else None
    for token, number in sorted(vocabulary.items(), key=lambda entry: entry[1]):
        if token in special or (token.startswith("<0x") and token.endswith(">")):
            continue
        text = decode([token]) if decode else token.replace("\u2581", " ")
        if "\ufffd" not in text and any(character.isalnum() for character in text):
            found.setdefault(text, number)
    return found


def shared_unembedding(source: Loaded, target: Loaded) -> tuple[PairedMoments, PairedMoments] | str:
    """Moments of the unembedding rows (with the final norm's gain) of the shared words, every tenth held out.

    Where a model has no such rows, or no word is shared, the reason in words.
    """
    import torch

    of_source, of_target = words(source.tokenizer), words(target.tokenizer)
    both = [word for word in of_source if word in of_target]
    if len(both) < 20:
        return f"the vocabularies share {len(both)} tokens"
    rows = []
    for loaded, ids in ((source, of_source), (target, of_target)):
        trunk, head = getattr(loaded.model, "model", None), loaded.model.get_output_embeddings()
        if head is None or trunk is None or not hasattr(trunk, "norm"):
            return f"{loaded.name} has no final norm and unembedding that steer-bench recognises"
        try:
            gain = norm_gain(trunk.norm)
        except ValueError as error:
            return str(error)
        rows.append((head.weight.detach(), torch.tensor([ids[word] for word in both], device=head.weight.device), gain))
    held = torch.arange(len(both)) % 10 == 9
    moments = []
    for part in (~held, held):
        accumulator = MomentAccumulator()
        for chunk in torch.nonzero(part)[:, 0].split(CHUNK):
            accumulator.add(*(weight[ids[chunk.to(ids.device)]].double() * gain for weight, ids, gain in rows))
        moments.append(accumulator.moments())
    return moments[0], moments[1]
