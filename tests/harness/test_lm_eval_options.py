"""Options of lm-eval are honoured or refused by name, and the page that says so cannot rot."""

import inspect
import json
import re
import sys
from pathlib import Path

import pytest
from lm_eval._cli.harness import HarnessCLI
from lm_eval.models.huggingface import HFLM
from steered import PROMPTS, ask, hf_lm, likelihoods, make_arms, replies, steer, steered_lm, tiny_pair
from tiny import save_tiny
from transformers import GenerationConfig, T5Config

from steer_bench.harness.command import run_lm_eval
from steer_bench.harness.hf_options import HONOURED, REFUSED
from steer_bench.harness.model import SteeredLM
from steer_bench.harness.options import read_options
from steer_bench.harness.settings import reply_settings

PAGE = Path(__file__).parents[2] / "docs" / "lm-eval-options.md"


def rows(heading):
    part = PAGE.read_text().split(f"## {heading}")[1].split("\n## ")[0]
    return {name.lstrip("-"): text for name, text in re.findall(r"^\| `([\w-]+)` \| (.*) \|$", part, re.MULTILINE)}


def test_the_page_has_every_argument_of_hf_and_says_what_the_code_does():
    known = set(inspect.signature(HFLM.__init__).parameters) - {"self", "kwargs"}
    page = rows("Arguments of the model")
    assert set(page) == known == HONOURED | REFUSED.keys()
    assert {name for name, text in page.items() if text.startswith("refused")} == REFUSED.keys()


def test_the_page_has_every_flag_of_the_command():
    parser = HarnessCLI()._subparsers.choices["run"]
    flags = {action.dest for action in parser._actions} - {"help"}
    assert set(rows("Flags of the command")) == flags


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"truncation": True}, "truncation=True"),
        ({"mixed_precision_dtype": "bfloat16"}, "mixed_precision_dtype=bfloat16"),
        ({"think_end_token": 7}, "think_end_token=7"),
        ({"think_end_token": "7"}, "think_end_token='7'"),
        ({"think_end_token": "<eos>"}, "special token"),
        ({"dtype": "bfloat16"}, "dtype=bfloat16: the model is loaded already"),
        ({"peft": "somewhere"}, "peft=somewhere"),
        ({"backend": "seq2seq"}, "encoder-decoder"),
        ({"weights": "no"}, "weights='no'"),
        ({"factor": 0.3}, "factor=0.3: give arm"),
        ({"damage": 1.3}, "damage=1.3: give arm"),
        ({"concept": "sea"}, "concept=sea: give arm"),
        ({"source": "other"}, "source=other: give arm"),
        ({"arm": "native", "concept": "sea"}, "arm=native: give factor"),
        ({"arms": None, "positions": "all"}, "positions=all: give arms"),
        ({"arms": None, "strength": "raw"}, "strength=raw: give arms"),
        ({"arms": None, "layer": 1}, "layer=1: give arms"),
        ({"arms": None, "arm": "native", "factor": 1.0}, "arm=native: give arms"),
    ],
)
def test_an_argument_that_would_be_ignored_is_refused_by_name(options, said):
    model, tokenizer = tiny_pair("llama")
    with pytest.raises(ValueError, match=re.escape(said)):
        steered_lm(model, tokenizer, **{"arms": make_arms(), **options})


def test_an_encoder_decoder_model_is_refused_before_it_is_loaded(tmp_path):
    tiny_pair("llama")[1].save_pretrained(tmp_path)
    T5Config(d_model=8, num_layers=1, architectures=["T5ForConditionalGeneration"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="encoder-decoder"):
        SteeredLM(str(tmp_path), device="cpu")


def test_the_text_behind_the_end_of_thoughts_is_the_reply_of_hf():
    model, tokenizer = tiny_pair("llama")
    whole = replies(steered_lm(model, tokenizer), [(prompt,) for prompt in PROMPTS], max_gen_toks=12)
    end = max((text[3:5] for text in whole), key=len)
    mine = replies(
        steered_lm(model, tokenizer, think_end_token=end), [(prompt,) for prompt in PROMPTS], max_gen_toks=12
    )
    theirs = replies(hf_lm(model, tokenizer, think_end_token=end), [(prompt,) for prompt in PROMPTS], max_gen_toks=12)
    assert mine == theirs
    assert mine != whole


@pytest.mark.parametrize(
    "given",
    [
        {"max_length": 30},
        {"min_length": 3},
        {"num_return_sequences": 2},
        {"eos_token_id": 5},
        {"use_cache": False},
        {"until": [""]},
        {"until": ["a", ""]},
        {"until": [3]},
        {"max_gen_toks": 4, "max_new_tokens": 9},
        {"do_sample": True, "temperature": 0.7, "num_beams": 3},
        {"temperature": 0.7, "eta_cutoff": 0.1},
        {"do_sample": True, "penalty_alpha": 0.6},
    ],
)
def test_a_generation_argument_that_cannot_be_honoured_is_refused_by_name(given):
    with pytest.raises(ValueError, match="generation argument.*(" + "|".join(given) + ")"):
        reply_settings(given, GenerationConfig(), eos="<eos>", max_gen_toks=8)


@pytest.mark.parametrize(
    ("given", "config", "drawn"),
    [
        ({"do_sample": True}, {}, {"temperature": 1.0}),
        ({"do_sample": True}, {"temperature": 0.5, "top_k": 7, "top_p": 0.9}, {"temperature": 0.5, "top_k": 7, "top_p": 0.9}),
        ({"temperature": 0.7}, {"temperature": 0.5, "top_k": 7}, {"temperature": 0.7, "top_k": 7}),
        ({"do_sample": True, "top_k": 0}, {"top_k": 7}, {"temperature": 1.0}),
        ({"do_sample": True, "typical_p": 0.4, "epsilon_cutoff": 0.01}, {}, {"temperature": 1.0, "typical_p": 0.4, "epsilon_cutoff": 0.01}),
        ({"do_sample": True, "typical_p": 1.0}, {}, {"temperature": 1.0}),
        ({}, {"temperature": 0.5, "do_sample": True}, None),
        ({"do_sample": False, "temperature": 0.7}, {"top_k": 7}, None),
    ],
)  # fmt: skip
def test_sampling_is_what_the_request_says_and_then_the_models_own_settings(given, config, drawn):
    found = reply_settings(given, GenerationConfig(**config), eos="<eos>", max_gen_toks=8)
    assert (json.loads(found.sampling) if found.sampling else None) == drawn


@pytest.mark.parametrize("given", [{"typical_p": 0.01}, {"epsilon_cutoff": 0.9}, {"top_k": 1}])
def test_a_cut_that_leaves_the_likeliest_token_gives_its_reply(given):
    model, tokenizer = tiny_pair("llama", seed=3)
    lm = steered_lm(model, tokenizer)
    jobs = [(prompt,) for prompt in PROMPTS]
    cut = replies(lm, jobs, do_sample=True, temperature=1.5, **given)
    free = replies(lm, jobs, do_sample=True, temperature=1.5)
    assert cut != free
    if given != {"typical_p": 0.01}:
        assert cut == replies(lm, jobs)


def test_an_end_of_text_that_decodes_to_nothing_stops_no_text():
    assert reply_settings({"until": ["\n"]}, None, eos="", max_gen_toks=8).until == ("\n",)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("pair", [("Tell me", ""), ("", ""), ("Tell me", "word " * 600), ("", "word " * 600)])
def test_a_request_with_nothing_or_too_much_to_score_is_refused_steered_or_not(family, pair):
    lm = steered_lm(*tiny_pair(family), make_arms(), max_length=64)
    for extra in ((), (steer(),)):
        with pytest.raises(ValueError, match="log-likelihood of"):
            likelihoods(lm, [(*pair, *extra)])
    with pytest.raises(ValueError, match="log-likelihood of"):
        lm.scorer.score([pair])


def test_a_context_of_white_space_needs_a_token_of_its_own():
    with pytest.raises(ValueError, match="behind 0"):
        likelihoods(steered_lm(*tiny_pair("llama")), [("  ", "The sea")])


def test_the_longest_continuation_that_the_model_reads_is_scored_as_hf_does():
    model, tokenizer = tiny_pair("llama")
    text = tokenizer.decode(tokenizer("The sea was grey that morning, and the boats " * 20).input_ids[:64])
    assert len(tokenizer(text).input_ids) == 64
    pairs = [("", text), ("She put", text[:60])]
    assert likelihoods(steered_lm(model, tokenizer, max_length=64), pairs) == likelihoods(
        hf_lm(model, tokenizer, max_length=64), pairs
    )


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_context_and_a_continuation_that_melt_into_one_token_are_encoded_apart(family):
    model, tokenizer = tiny_pair(family)
    lm = steered_lm(model, tokenizer)
    tokens = [tokenizer.decode([i]) for i in range(259, len(tokenizer))]
    melting = [
        t for t in tokens if len(t) > 2 and t.isalpha() and len(tokenizer(t, add_special_tokens=False).input_ids) == 1
    ]
    melting = [t for t in melting if len(tokenizer(t[:-1], add_special_tokens=False).input_ids) == 1][:3]
    assert len(melting) == 3
    for token in melting:
        before, behind = token[:-1], token[-1]
        ids = tokenizer(behind, add_special_tokens=False).input_ids
        (found,) = lm._loglikelihood_tokens([((before, behind), lm.tok_encode(before), ids)])
        assert likelihoods(lm, [(before, behind)])[0] == pytest.approx(found)
        assert found[0] < 0
        assert lm.scorer.split(before, behind)[1] == ids


def test_log_likelihoods_are_refused_while_a_model_thinks():
    lm = steered_lm(*tiny_pair("llama"), enable_thinking=True, think_end_token="</think>")
    with pytest.raises(ValueError, match="enable_thinking"):
        lm.loglikelihood([ask("loglikelihood", "The sea", " was")])


@pytest.mark.parametrize("key", ["max_concept", "maxprompts", "temprature", "onlyarms", "factorss", "n_sample"])
def test_a_misspelt_option_of_a_task_is_refused(key):
    with pytest.raises(ValueError, match="did you mean"):
        read_options("specificity", {"pretrained": "m", "batch_size": 3, "factor": 0.2, "arm": "native", key: 1})


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run lm-eval's command with a task folder of the user's; its own 15,000 YAMLs left out."""
    import lm_eval.tasks

    near = lm_eval.tasks.TaskManager

    class Near(near):
        def __init__(self, **options):
            super().__init__(**options, include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", Near)
    monkeypatch.setattr(sys, "argv", ["x"])
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "mine.yaml").write_text("task: mine\ndataset_path: json\noutput_type: loglikelihood\n")

    def run(*arguments):
        run_lm_eval([argument.replace("MINE", str(mine)) for argument in arguments])
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("include", [[], ["--include_path", "MINE"], ["--include_path=MINE"]])
def test_ls_and_validate_know_our_tasks_and_those_of_the_users_folder(command, include):
    assert "concept_likelihood" in command("ls", "tasks", *include)
    names = "concept_likelihood,mine" if include else "concept_likelihood"
    assert "All tasks found" in command("validate", "--tasks", names, *include)


def test_a_folder_that_is_not_there_is_refused(command):
    with pytest.raises(ValueError, match="no such folder"):
        command("ls", "tasks", "--include_path", "MINE/none")


def test_arms_made_for_other_weights_are_refused_before_the_model_is_loaded(tmp_path):
    from steer_bench.models.load import revision
    from steer_bench.vectors.arms import ArmsCard

    path = save_tiny(tmp_path / "m", *tiny_pair("llama"))
    made = make_arms(card=ArmsCard(revision=revision(path)))
    SteeredLM(path, arms=made, device="cpu").steerer.remove()
    save_tiny(tmp_path / "m", *tiny_pair("llama", seed=5))
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "other.safetensors")  # loading would fail
    with pytest.raises(ValueError, match="made for revision sha256"):
        SteeredLM(path, arms=made, device="cpu")
