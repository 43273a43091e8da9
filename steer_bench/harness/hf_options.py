"""Arguments of lm-eval's `hf`, and what `steer_bench` makes of each: honoured, or refused by its name.

docs/lm-eval-options.md has the table for people; a test holds both against HFLM's signature and the command's parser.
"""

from __future__ import annotations

from collections.abc import Mapping

HONOURED = frozenset(
    (
        *(
            "pretrained",
            "backend",
            "revision",
            "subfolder",
            "tokenizer",
            "logits_cache",
            "max_length",
            "device",
            "dtype",
        ),
        *("softmax_dtype", "batch_size", "max_batch_size", "trust_remote_code", "use_fast_tokenizer", "add_bos_token"),
        *(
            "prefix_token_id",
            "parallelize",
            "max_memory_per_gpu",
            "max_cpu_memory",
            "offload_folder",
            "tp_plan",
            "peft",
        ),
        *("delta", "autogptq", "gptqmodel", "gguf_file", "think_end_token", "enable_thinking", "chat_template_args"),
    )
)
REFUSED = {
    "truncation": "prompts are cut on the left, to what the model reads",
    "mixed_precision_dtype": "load the model in that type: dtype=bfloat16",
}
"""Arguments that are refused unless they are off, and what to do instead."""
OF_LOADING = frozenset(
    (
        *(
            "revision",
            "subfolder",
            "dtype",
            "use_fast_tokenizer",
            "parallelize",
            "max_memory_per_gpu",
            "max_cpu_memory",
        ),
        *("offload_folder", "tp_plan", "peft", "delta", "autogptq", "gptqmodel"),
    )
)
"""Arguments that `hf` ignores where the model is an object, which is loaded already."""
OFF = (None, False, "")


def check_options(options: Mapping[str, object], *, loaded: bool) -> None:
    """Raise ValueError, naming it, for an argument that would be ignored. loaded: the model was given as an object."""
    for name, instead in REFUSED.items():
        if options.get(name) not in OFF:
            raise ValueError(f"{name}={options[name]}: {instead}")
    if loaded:
        for name in sorted(OF_LOADING & options.keys()):
            if options[name] not in OFF:
                raise ValueError(f"{name}={options[name]}: the model is loaded already; give its name to load it so")
    for name in ("alone", "weights", "keep_non_finite"):
        if not isinstance(options.get(name, False), bool):
            raise ValueError(f"{name}={options[name]!r}: give True or False")
    end = options.get("think_end_token")
    if end is not None and (not isinstance(end, str) or not end or end.isdigit()):
        raise ValueError(f"think_end_token={end!r}: give its text, such as </think>, not its number")


def check_steering_options(**given: object) -> None:
    """Raise ValueError for an argument about steering that would have no effect.

    >>> check_steering_options(arms=None, arm=None, factor=0.3)
    Traceback (most recent call last):
    ValueError: factor=0.3: give arms=FILE with it, the arms file of the target (RUN/arms/MODEL.safetensors)
    """
    defaults = {"positions": "text", "strength": "scaled"}
    said = {name: value for name, value in given.items() if value not in (None, 0, "", defaults.get(name))}
    for name, value in said.items():
        if "arms" not in said:
            raise ValueError(
                f"{name}={value}: give arms=FILE with it, the arms file of the target (RUN/arms/MODEL.safetensors)"
            )
        if name in ("source", "concept", "factor", "damage") and "arm" not in said:
            raise ValueError(f"{name}={value}: give arm=… with it; without an arm nothing is steered")
