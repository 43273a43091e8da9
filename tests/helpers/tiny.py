"""Models and tokenizers small enough for tests: random weights, built from a config, nothing downloaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB = 512


def tiny_tokenizer(texts: Sequence[str] = (), *, vocab_size: int = VOCAB, bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE (any text encodes and decodes, with offsets), trained on `texts`; <bos> is put first if asked for.

    Ids 0, 1, 2 are <pad>, <bos>, <eos>; the length is at most `vocab_size`, and at least 259 (three specials, 256 bytes).
    """
    specials = ["<pad>", "<bos>", "<eos>"]
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in specials],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(texts), trainer)
    if bos:
        tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
        )
    named = {"pad_token": "<pad>", "eos_token": "<eos>", **({"bos_token": "<bos>"} if bos else {})}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, model_max_length=512, **named
    )


def tiny_llama(d_model: int = 32, *, n_layers: int = 4, vocab_size: int = VOCAB, seed: int = 0, **options: Any) -> Any:
    """A Llama with random weights, in float32."""
    config = LlamaConfig(**_shape(d_model, n_layers, vocab_size), **options)
    return _built(LlamaForCausalLM, config, seed)


def tiny_gemma3(d_model: int = 32, *, n_layers: int = 4, vocab_size: int = VOCAB, seed: int = 0, **options: Any) -> Any:
    """A Gemma 3 with random weights: norms before and after attention and MLP, sliding and full attention in turn."""
    kinds = ["full_attention" if i % 2 else "sliding_attention" for i in range(n_layers)]
    own = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16, "layer_types": kinds}
    config = Gemma3TextConfig(**_shape(d_model, n_layers, vocab_size), **{**own, **options})
    return _built(Gemma3ForCausalLM, config, seed)


def tiny_gemma2(d_model: int = 32, *, n_layers: int = 4, vocab_size: int = VOCAB, seed: int = 0, **options: Any) -> Any:
    """A Gemma 2 with random weights: as Gemma 3, with capped logits and without query and key norms."""
    own = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16, "attn_implementation": "eager"}
    config = Gemma2Config(**_shape(d_model, n_layers, vocab_size), **{**own, **options})
    return _built(Gemma2ForCausalLM, config, seed)


def tiny_qwen2(d_model: int = 32, *, n_layers: int = 4, vocab_size: int = VOCAB, seed: int = 0, **options: Any) -> Any:
    """A Qwen 2 with random weights: biases in the query, key and value projections."""
    config = Qwen2Config(**_shape(d_model, n_layers, vocab_size), **options)
    return _built(Qwen2ForCausalLM, config, seed)


def tiny_qwen3(d_model: int = 32, *, n_layers: int = 4, vocab_size: int = VOCAB, seed: int = 0, **options: Any) -> Any:
    """A Qwen 3 with random weights: norms on queries and keys."""
    config = Qwen3Config(**_shape(d_model, n_layers, vocab_size), **{"head_dim": 16, **options})
    return _built(Qwen3ForCausalLM, config, seed)


def taught(
    model: Any, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, steps: int = 60, seed: int = 0
) -> Any:
    """The model after a few steps on the texts: what disturbs it then makes texts less likely, so that arms reach levels of damage."""
    rows = [(tokenizer(text).input_ids + [2] * 32)[:32] for text in texts]
    ids = torch.tensor(rows)
    model.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    random = torch.Generator().manual_seed(seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same model whatever the machine's threads
    for _ in range(steps):
        batch = ids[torch.randint(len(ids), (8,), generator=random)]
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    torch.set_num_threads(threads)
    return model.eval().requires_grad_(False)


def save_tiny(folder: Path, model: Any, tokenizer: PreTrainedTokenizerFast) -> str:
    """Save both into `folder`; the path is a `pretrained` for from_pretrained, load_model and lm-eval."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _shape(d_model: int, n_layers: int, vocab_size: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size, "hidden_size": d_model, "intermediate_size": 2 * d_model,
        "num_hidden_layers": n_layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip


def _built(cls: Any, config: Any, seed: int) -> Any:
    """A model whose norm gains and biases are random too: a fresh model's are all equal and would hide faults."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cls(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if re.search(r"norm\.weight$", name):
                    parameter.add_(0.3 * torch.randn_like(parameter))
                elif name.endswith("bias"):
                    parameter.add_(0.1 * torch.randn_like(parameter))
                elif not name.endswith("embed_tokens.weight") and "lm_head" not in name:
                    parameter.mul_(4)  # the initial 0.02 makes blocks that hardly do anything
    return model.float().eval().requires_grad_(False)


def train_tiny(model: Any, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, steps: int = 150) -> Any:
    """The model after some steps on texts, enough to know which words go together; changed in place."""
    ids = [torch.tensor(tokenizer(text, truncation=True, max_length=64).input_ids) for text in texts]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=0)
    labels = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-100)
    optimizer = torch.optim.AdamW(model.requires_grad_(True).parameters(), lr=3e-3)
    shuffle = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        for _ in range(steps):
            batch = torch.randint(len(ids), (8,), generator=shuffle)
            optimizer.zero_grad()
            model(
                input_ids=padded[batch], attention_mask=(labels[batch] >= 0).long(), labels=labels[batch]
            ).loss.backward()
            optimizer.step()
    return model.eval().requires_grad_(False)
