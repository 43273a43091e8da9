"""No number that only looks right: NaN is shown, a broken hook stops the run, what changes a number changes its key, keys stay secret."""

import contextlib
import math
import sys
from pathlib import Path

import pytest
import torch
from fault_child import CANARY
from steered import PROMPTS, TEXTS, ask, likelihoods, make_arms, replies, rolling, steer, steered_lm, tiny_pair

import steer_bench.cli
from steer_bench.cli.faults import printable
from steer_bench.models.steered.selftest import SelfTestError
from steer_bench.models.steered.steering import Steerer
from steer_bench.vectors.arms import ArmsCard

PAIR = [(TEXTS[0][:12], TEXTS[0][12:], steer())]
OVERFLOW = 1e6
"""Times S = 4 and a unit vector: above 65,504, what float16 holds."""


def half(family, **options):
    """A tiny model in float16."""
    model, tokenizer = tiny_pair(family)
    return steered_lm(model.half(), tokenizer, make_arms(), **options)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_activations_that_overflow_give_invalid_samples_and_no_score(family):
    lm = half(family)
    huge = steer(factor=OVERFLOW)
    ((value, _),) = likelihoods(lm, [(*PAIR[0][:2], huge)])
    assert not math.isfinite(value)
    assert not math.isfinite(rolling(lm, [(TEXTS[0], huge)])[0])
    bad, good = replies(lm, [(PROMPTS[0], huge), (PROMPTS[0], steer())])
    assert (bad.invalid, good.invalid) == ("non_finite", "")  # one batch: only the row that overflowed
    sampled = replies(lm, [(PROMPTS[0], huge), (PROMPTS[0], steer())], do_sample=True, temperature=1.0)
    assert [reply.invalid for reply in sampled] == ["non_finite", ""]


def test_a_vector_whose_square_is_inf_in_float32_is_refused():
    """A norm over it would be 0: every token equally likely, a finite number that means nothing."""
    with pytest.raises(ValueError, match="smaller factor"):
        likelihoods(steered_lm(*tiny_pair("llama"), make_arms()), [(*PAIR[0][:2], steer(factor=1e20))])


def test_a_reply_whose_perplexity_is_no_number_is_invalid(monkeypatch):
    model, tokenizer = tiny_pair("llama")
    lm = steered_lm(model, tokenizer, make_arms())
    replies(lm, [(PROMPTS[1], steer())])  # the self-test, before numbers are broken
    whole = model.forward

    def broken_when_scored(*args, **kwargs):
        """Logits of one position are what a reply is picked from; of several, what its perplexity is made of."""
        out = whole(*args, **kwargs)
        return out if kwargs.get("logits_to_keep") == 1 else type(out)(logits=out.logits * math.nan)

    monkeypatch.setattr(model, "forward", broken_when_scored)
    settings = {"until": [], "max_gen_toks": 4, "do_sample": False}
    (reply,) = lm.generate_until([ask("generate_until", PROMPTS[0], settings, {**steer(), "perplexity": True})])
    assert reply.invalid == "non_finite"


def test_tasks_that_know_no_invalid_samples_are_stopped_instead_of_scored():
    lm = half("llama", arm="native", concept="sea", factor=OVERFLOW)
    for ask_it in (
        lambda: likelihoods(lm, [pair[:2] for pair in PAIR]),
        lambda: rolling(lm, [(TEXTS[0],)]),
        lambda: replies(lm, [(PROMPTS[0],)]),
    ):
        with pytest.raises(FloatingPointError, match="not finite"):
            ask_it()


BROKEN = {
    "twice": ("not once|steerings in one forward pass", lambda self, added: added * 2),
    "never": ("not the vector|changes no logit|steerings in one", lambda self, added: added * 0),
    "noise": ("factor 0 changes", lambda self, added: added + 1e-2),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_the_self_test_stops_a_run_whose_steering_is_not_what_it_says(fault, monkeypatch):
    said, change = BROKEN[fault]
    whole = Steerer.steering
    monkeypatch.setattr(Steerer, "steering", lambda self, rows, starts=None: whole(self, change(self, rows), starts))
    lm = steered_lm(*tiny_pair("llama"), make_arms())
    with pytest.raises(SelfTestError, match=said):
        likelihoods(lm, PAIR)
    assert not len(lm.records)


def test_the_self_test_finds_steering_that_stops_after_the_prompt_and_one_that_stays(monkeypatch):
    hook = Steerer._hook

    def only_prompts(self, module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        return hook(self, module, args, output) if hidden.shape[1] > 1 else None

    monkeypatch.setattr(Steerer, "_hook", only_prompts)
    with pytest.raises(SelfTestError, match=r"each decode step|KV cache"):
        likelihoods(steered_lm(*tiny_pair("llama"), make_arms()), PAIR)
    monkeypatch.setattr(Steerer, "_hook", hook)

    @contextlib.contextmanager
    def stays(self, rows, starts=None):
        self._added, self._starts = rows, starts
        yield

    monkeypatch.setattr(Steerer, "steering", stays)
    with pytest.raises(SelfTestError):
        likelihoods(steered_lm(*tiny_pair("llama"), make_arms()), PAIR)


def _changed(what):
    """(model, tokenizer, arms, options) with one thing changed."""
    model, tokenizer = tiny_pair("llama")
    arms, options = make_arms(), {}
    if what == "a weight":
        with torch.no_grad():
            model.model.layers[2].mlp.down_proj.weight[0, 0] += 1e-3
    elif what == "dtype":
        model = model.to(torch.bfloat16)
    elif what == "vector":
        arms = make_arms(seed=1)
    elif what == "layer":
        arms = make_arms(layer=2)
    elif what == "positions":
        options = {"positions": "generated"}
    elif what == "scale":
        arms = make_arms(scale=4.001)
    elif what == "chat template":
        tokenizer.chat_template = "{{ messages[0].content }}!"
    elif what == "generation config":
        model.generation_config.repetition_penalty = 1.3
    elif what == "length":
        options = {"max_length": 200}
    return model, tokenizer, arms, options


CHANGES = (
    "a weight",
    "dtype",
    "vector",
    "layer",
    "positions",
    "scale",
    "chat template",
    "generation config",
    "length",
    "lm_eval",
)


@pytest.mark.parametrize("what", [None, *CHANGES])
def test_what_changes_a_number_is_computed_again_and_nothing_else(what, tmp_path, monkeypatch):
    path, jobs = str(tmp_path / "records.sqlite"), [(PROMPTS[0], steer())]
    model, tokenizer, arms, options = _changed(None)
    first = steered_lm(model, tokenizer, arms, records=path)
    before = likelihoods(first, PAIR), replies(first, jobs)
    n = len(first.records)
    model, tokenizer, arms, options = _changed(what)
    if what == "lm_eval":
        monkeypatch.setattr("steer_bench.models.fingerprint.version", lambda name: "0.4.99")
    again = steered_lm(model, tokenizer, arms, records=path, batch_size=3, **options)
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    after = likelihoods(again, PAIR), replies(again, jobs)
    if what is None:  # another batch size is no other number
        assert (after, len(again.records), passes) == (before, n, [])
    else:
        assert len(again.records) == 2 * n
        assert passes


def test_out_of_memory_at_one_row_stops_and_keeps_what_was_done(tmp_path, monkeypatch):
    model, tokenizer = tiny_pair("llama")
    lm = steered_lm(model, tokenizer, records=str(tmp_path / "records.sqlite"), batch_size=1)
    whole, calls = model.forward, []

    def small(*args, **kwargs):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return whole(*args, **kwargs)

    monkeypatch.setattr(model, "forward", small)
    with pytest.raises(RuntimeError, match="allocate"):
        likelihoods(lm, [(text[:12], text[12:]) for text in TEXTS])
    assert len(lm.records) == 2


def test_no_key_of_the_environment_is_in_any_file_of_a_run(undisturbed):
    assert any(CANARY in str(call.headers) for call in undisturbed.judge.calls)  # the key was used
    files = [file for file in undisturbed.root.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert not [file for file in files if CANARY.encode() in file.read_bytes()]


def test_what_is_printed_holds_no_escape_sequence_and_no_key(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "very-secret-9")
    assert printable("a\x1b]0;own\x07b\x1b[2Jc\x9bd very-secret-9\n") == "abcd [key]\n"


def test_every_command_prints_through_what_strips_escape_sequences(monkeypatch, tmp_path, capsys):
    """But tasks-path, which prints a path of our own, and the line of an error, which is stripped where it is printed."""
    said = {
        file.name: file.read_text().count("typer.echo(") for file in Path(steer_bench.cli.__file__).parent.glob("*.py")
    }
    assert {name: n for name, n in said.items() if n} == {"__init__.py": 2, "app.py": 1, "lmeval.py": 1}
    path = tmp_path / "arms.safetensors"
    make_arms(card=ArmsCard(revision="\x1b]0;own\x07\x1b[2Jabc")).save(path)
    monkeypatch.setattr(sys, "argv", ["steer-bench", "inspect", str(path)])
    with pytest.raises(SystemExit) as left:
        steer_bench.cli.main()
    assert not left.value.code
    shown = capsys.readouterr().out
    assert "native" in shown
    assert "abc" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown
