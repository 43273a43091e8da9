"""Generation arguments of a request, as settings of our own loops: each is honoured, or refused by its name."""

from __future__ import annotations

import json
from collections.abc import Mapping

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from transformers import GenerationConfig

from steer_bench.models.steered.requests import ReplySettings
from steer_bench.models.steered.sampling import WARPERS

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
REFUSED = {
    "max_length": "it counts the padding of a batch; give max_gen_toks",
    "min_length": "it counts the padding of a batch; give min_new_tokens",
    "num_return_sequences": "a request has one reply; give the task repeats",
    **dict.fromkeys(("eos_token_id", "stop_strings"), "give until=[...]"),
    **dict.fromkeys(
        ("return_dict_in_generate", "pad_token_id", "use_cache", "logits_processor", "stopping_criteria", "streamer"),
        "steer_bench sets it itself",
    ),
}
"""Arguments of `generate` that no reply of ours can honour, and what to do instead."""
ONLY_GREEDY = ("num_beams", "eta_cutoff", "top_h", "penalty_alpha", "num_beam_groups")
"""Arguments that our sampling, which gives each row its own random numbers, cannot honour."""


def reply_settings(
    given: Mapping[str, object], config: GenerationConfig | None, *, eos: str, max_gen_toks: int
) -> ReplySettings:
    """Return a request's generation arguments as settings; what they leave open of sampling, the model's config says.

    eos: text of the end-of-text token; max_gen_toks: where no length is given. Raises ValueError for an argument that cannot
    be honoured.
    """
    for name, instead in REFUSED.items():
        if given.get(name) is not None:
            raise ValueError(f"generation argument {name}={given[name]!r}: {instead}")
    lengths = {name: given[name] for name in LENGTHS if given.get(name) is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"generation arguments {lengths}: they say the same; give one of them")
    kwargs: dict[str, object] = dict(normalize_gen_kwargs(dict(given), max_gen_toks))
    until = handle_stop_sequences(kwargs.pop("until", None), eos=None)
    if not all(isinstance(stop, str) and stop for stop in until):
        raise ValueError(f"generation argument until={until!r}: give texts that are not empty")
    stops = tuple(dict.fromkeys([*until, *([eos] if eos else [])]))
    n = int(kwargs.pop("max_gen_toks"))  # type: ignore[call-overload]
    asked, heat = kwargs.pop("do_sample", None), given.get("temperature")
    for name in WARPERS:
        kwargs.pop(name, None)
    if not asked or heat == 0:
        return ReplySettings(stops, n, json.dumps({**kwargs, "do_sample": False}, sort_keys=True))
    for name in ONLY_GREEDY:
        value = kwargs.pop(name, None) or getattr(config, name, None)
        if value not in (None, 0, 1):
            raise ValueError(f"generation argument {name}={value!r} cannot be had with sampling; give do_sample=False")
    chosen = {name: given[name] if name in given else getattr(config, name, None) for name in WARPERS}
    sampling = {name: value for name, value in chosen.items() if value and (name, value) != ("typical_p", 1.0)}
    drawn = json.dumps({"temperature": 1.0, **sampling}, sort_keys=True)
    return ReplySettings(stops, n, json.dumps({**kwargs, "do_sample": False}, sort_keys=True), drawn)
