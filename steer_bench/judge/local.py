"""A judge that runs here: a Hugging Face causal language model, read at the one token where the rating stands.

    questions -> prompts ending in "Rating: [[" -> [model] -> expected value over "0", "1", "2"

No text is written, so there is no explanation and nothing to parse; ratings are fractions of the scale.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

from steer_bench.judge.judgement import READING, Judgement, Keep, Question, digest, holds_rating
from steer_bench.judge.prompts import RATING_ONLY, VERSION, FormatGuard, messages, seen
from steer_bench.models.load import check_model, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OPENINGS = ("Rating: [[", "Rating: ", "Rating:")
"""What the model's reply begins with; the first after which "0", "1" and "2" are one token each."""
MIN_MASS = 0.1
"""Least probability of the three rating tokens together; below it the model is not answering in the format."""
_DIGITS = 4


class LocalJudge:
    """Rates by the expected value of the rating token under a causal language model (as G-Eval does, Liu et al. 2023)."""

    def __init__(
        self,
        model: PreTrainedModel | str,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        batch_size: int = 8,
        device: str = "",
        dtype: str = "auto",
        name: str = "",
    ) -> None:
        """`model`: an offline model, a Hugging Face name, a folder, or a loaded model with its `tokenizer`."""
        if not isinstance(model, str) and tokenizer is None:
            raise ValueError("judge.model: a loaded model needs its tokenizer beside it")
        known_as = model if isinstance(model, str) else str(getattr(model, "name_or_path", "")) or "loaded"
        self.model_name = name or known_as
        self.name = f"local {self.model_name}"
        self.batch_size, self.device, self.dtype = batch_size, device, dtype
        self.usage = None
        self._given = None if isinstance(model, str) or tokenizer is None else (model, tokenizer)
        self._guard = FormatGuard()

    def fingerprint(self) -> str:
        """Hash the model's name and the prompts."""
        return digest(["local", VERSION, READING, RATING_ONLY, self.model_name, self.dtype, MIN_MASS])

    def key(self, question: Question) -> str:
        """See Judge."""
        return digest([self.fingerprint(), seen(question)])

    def probe(self) -> None:
        """Raise ValueError where there is no such model; load nothing."""
        try:
            if self._given is None:
                check_model(self.model_name)
        except ValueError as error:
            raise ValueError(f"judge.model: {error}") from error

    def answer(self, questions: Sequence[Question], keep: Keep) -> list[Judgement]:
        """See Judge. Raises JudgeError when the model does not answer in the format."""
        from tqdm.auto import tqdm

        prompts = [self._prompt_ids(question) for question in questions]
        judgements: list[Judgement] = [Judgement(reason="truncated")] * len(questions)
        context = int(getattr(self._loaded[0].config, "max_position_embeddings", None) or 1_000_000)
        fitting = [i for i, prompt in enumerate(prompts) if len(prompt) <= context]
        fitting.sort(key=lambda i: (-len(prompts[i]), i))  # longest first: memory runs out at once or not at all
        done = len(questions) - len(fitting)
        with tqdm(total=len(questions), desc="judging", unit="rating", disable=None, initial=done) as bar:
            for start in range(0, len(fitting), self.batch_size):
                batch = fitting[start : start + self.batch_size]
                for i, probabilities in zip(batch, self._probabilities([prompts[i] for i in batch]), strict=True):
                    judgements[i] = _judgement(questions[i], probabilities)
                    if not judgements[i].reason:
                        keep(questions[i], judgements[i])
                    self._guard.note(judgements[i].reason, *judgements[i].raw[questions[i].aspect])
                bar.update(len(batch))
        return judgements

    def _probabilities(self, prompts: Sequence[list[int]]) -> list[list[float]]:
        """Return the probabilities of "0", "1" and "2" as the next token of each prompt, (n_prompts, 3)."""
        import torch

        model, tokenizer = self._loaded
        width = max(len(prompt) for prompt in prompts)
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        ids = torch.full((len(prompts), width), padding, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):  # left padding: every prompt ends at the last position
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(dim=-1) - 1).clamp(min=0)}
        accepted = inspect.signature(model.forward).parameters
        extra = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        kept = {key: value.to(model.device) for key, value in inputs.items() if key in accepted}
        try:
            with torch.inference_mode():
                logits = model(**kept, **extra).logits[:, -1].float()
        except torch.OutOfMemoryError:
            if len(prompts) == 1:
                raise
            half = len(prompts) // 2
            return self._probabilities(prompts[:half]) + self._probabilities(prompts[half:])
        return logits.softmax(dim=-1)[:, self._opening_and_ids[1]].tolist()

    def _prompt_ids(self, question: Question) -> list[int]:
        (_, tokenizer), (opening, _) = self._loaded, self._opening_and_ids
        conversation = messages(question, RATING_ONLY)
        joined = "\n\n".join(one["content"] for one in conversation)
        if getattr(tokenizer, "chat_template", None):
            template = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)
            try:
                text = template(conversation)
            except Exception:  # templates without a system role raise their own error
                text = template([{"role": "user", "content": joined}])
            return list(tokenizer(f"{text}{opening}", add_special_tokens=False)["input_ids"])
        return list(tokenizer(f"{joined}\n\n{opening}")["input_ids"])

    @cached_property
    def _opening_and_ids(self) -> tuple[str, list[int]]:
        """Return the first opening after which each rating is one token, and those tokens."""
        _, tokenizer = self._loaded
        for opening in OPENINGS:
            start = tokenizer(opening, add_special_tokens=False)["input_ids"]
            ids = [tokenizer(opening + rating, add_special_tokens=False)["input_ids"] for rating in "012"]
            if all(one[:-1] == start for one in ids) and len({one[-1] for one in ids}) == 3:
                return opening, [one[-1] for one in ids]
        raise ValueError(
            f"judge.model: the tokenizer of {self.model_name} has no token of its own for 0, 1 and 2; take another model"
        )

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        if self._given is not None:
            return self._given
        self.probe()
        try:
            loaded = load_model(self.model_name, dtype=self.dtype, device=self.device or None)
        except (OSError, ValueError) as error:
            first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"judge.model: {self.model_name} cannot be loaded ({first_line})") from error
        return loaded.model, loaded.tokenizer


def _judgement(question: Question, probabilities: Sequence[float]) -> Judgement:
    flags = ("rating_in_reply",) if holds_rating(question.case.reply) else ()
    raw = {question.aspect: (" ".join(f"{rating}: {p:.4f}" for rating, p in enumerate(probabilities)),)}
    mass = sum(probabilities)
    if not mass >= MIN_MASS:  # NaN is not
        return Judgement(reason="parse", raw=raw, flags=flags)
    expected = round(sum(rating * p for rating, p in enumerate(probabilities)) / mass, _DIGITS)
    return Judgement({question.aspect: expected}, raw=raw, flags=flags)
