"""Samples: the same after a round trip, thinned by a stated rule, and read from what lm-eval wrote."""

import json
from dataclasses import replace

import pytest
from synthetic_samples import HOSTILE, make_samples

from steer_bench.results.lmeval_samples import load_samples
from steer_bench.results.samples import (
    MAX_CHARACTERS,
    MAX_TEXT,
    Samples,
    cut,
    load_document,
    origin,
    sample_for_page,
    samples_beside,
    save_samples,
    to_document,
)


def test_a_round_trip_changes_nothing_and_writes_the_same_bytes(tmp_path):
    samples = make_samples(text=HOSTILE, n_concepts=2, n_prompts=2)
    rounded = replace(samples, samples=tuple(replace(s, value=s.value and round(s.value, 3)) for s in samples.samples))
    for name in ("a", "b"):
        save_samples(tmp_path / f"{name}.json", rounded)
    assert load_document(tmp_path / "a.json") == rounded
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_texts_that_repeat_are_written_once(tmp_path):
    document = to_document(make_samples(n_concepts=3, n_prompts=4))
    assert document["keys"]["arm"] == ["unsteered", "native", "linear", "identity", "random", "wrong-concept-0"]
    assert len(document["keys"]["prompt"]) == 4
    assert len(document["codes"]["prompt"]) == len(document["reply"]) == 3 * 4 * (1 + 5 * 3)


def test_few_samples_stay_all():
    samples = make_samples()
    assert sample_for_page([samples]) == [samples]
    assert samples.rule == ""


def test_many_samples_are_thinned_to_whole_prompts_evenly_over_concepts_and_the_rule_says_so():
    samples = make_samples(n_concepts=5, n_prompts=20)  # 16 replies a prompt
    (kept,) = sample_for_page([samples], limit=500)
    assert len(kept.samples) == 496  # 31 whole prompts of 16
    prompts: dict[str, set[str]] = {}
    for sample in kept.samples:
        prompts.setdefault(sample.concept, set()).add(sample.item)
    assert sorted(map(len, prompts.values())) == [6, 6, 6, 6, 7]
    assert kept.total == len(samples.samples) == 1600
    assert kept.rule.startswith("whole prompts with the replies of all arms")
    assert sample_for_page([samples], limit=500) == [kept]
    shuffled = replace(samples, samples=samples.samples[::-1])
    assert {s.group for s in sample_for_page([shuffled], limit=500)[0].samples} == {s.group for s in kept.samples}


def test_two_runs_share_the_room_and_text_counts_too():
    runs = [make_samples("a", n_prompts=20), make_samples("b", n_prompts=20, seed=1)]
    thinned = sample_for_page(runs, limit=320)
    assert [len(one.samples) for one in thinned] == [160, 160]
    size = sum(len(s.reply) + sum(map(len, s.words.values())) + 60 for s in runs[0].samples)
    (kept,) = sample_for_page([runs[0]], max_bytes=size // 2)
    assert 0.4 * 960 < len(kept.samples) <= 0.5 * 960 + 16


def test_long_texts_are_cut_and_say_by_how_much():
    assert cut("x" * (MAX_CHARACTERS + 7)).endswith("x… [7 more characters]")
    made = origin("d", "g", ["y" * (MAX_TEXT + 1), "b", "c", "d"], ["n"])
    assert made.texts == ("y" * MAX_TEXT + "… [1 more characters]", "b", "c")


def write_lm_eval(folder, rows, name="samples_concept_steering_2026-01-01T00-00-00.000000.jsonl"):
    """Lines as lm-eval writes them."""
    lines = []
    for row, reply in rows:
        doc = {key: row[key] for key in ("arm", "source", "concept", "factor", "item", "role")}
        sample = {
            "doc": {**doc, "text": "Say it."},
            "resps": [[reply]],
            "filtered_resps": [reply],
            "metrics": ["native"],
        }
        lines.append(json.dumps({**sample, "native": row}))
    (folder / name).write_text("\n".join(lines) + "\n")


ROW = {
    **{"task": "concept_steering", "target": "t", "source": "", "arm": "native", "concept": "sea", "factor": 0.4},
    **{"item": "p1", "role": "score", "value": None, "tokens": 3, "reason": "parse", "ratings": {"distinct_2": 1.0}},
}


def test_replies_come_from_lm_evals_samples_with_the_judges_words(tmp_path):
    from steer_bench.results.lmeval_samples import load_rows

    row = {**ROW, "words": {"concept": "I can not rate \ud800 this."}}
    write_lm_eval(tmp_path, [(row, "a reply"), ({**ROW, "factor": 0.2, "value": 1.0, "reason": ""}, "<b>")])
    first, second = load_samples(tmp_path)
    assert (first.factor, first.reply, first.value, first.words) == (0.2, "<b>", 1.0, {})
    assert (second.prompt, second.reply, second.value, second.reason) == ("Say it.", "a reply", None, "parse")
    assert second.words == {"concept": "I can not rate \ufffd this."}
    assert len(load_rows(tmp_path)) == 2  # the words are no part of a row
    likelihood = {**ROW, "task": "concept_likelihood", "role": "concept", "value": -2.0, "reason": ""}
    write_lm_eval(tmp_path, [(likelihood, "-2.0")], "samples_concept_likelihood_2026-01-01T00-00-00.000000.jsonl")
    assert len(load_samples(tmp_path)) == 2


def test_what_a_judge_wrote_is_kept_and_all_of_it_where_it_gave_no_rating():
    from steer_bench.judge.judgement import Judgement
    from steer_bench.judge.ratings import judge_words

    rated = Judgement({"concept": 1.0}, "", {"concept": "Yes."}, {"concept": ("Yes. Rating: [[1]]",)})
    assert judge_words(rated) == {"concept": "Yes."}
    failed = Judgement({}, "parse", {"fluency": "Good."}, {"concept": ("no", "still no"), "fluency": ("Good. [[2]]",)})
    assert judge_words(failed) == {"concept": "no\n\nstill no", "fluency": "Good."}
    assert judge_words(None) == {}


def test_samples_lie_beside_their_results(tmp_path):
    (tmp_path / "run").mkdir()
    samples = make_samples(n_concepts=1, n_prompts=1)
    save_samples(tmp_path / "run" / "samples.json", samples)
    save_samples(tmp_path / "samples" / "toy.json", samples)
    assert samples_beside(tmp_path / "run" / "results.json").run == "toy"
    assert samples_beside(tmp_path / "results" / "toy.json").run == "toy"
    assert samples_beside(tmp_path / "results" / "other.json") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "x"}, "has schema 'x'"),
        ({"version": 3}, "version 3"),
        ({"reply": []}, "not whole"),
        ({"codes": {}}, "not whole"),
        ({"concepts": {"c00": {}}}, "not whole"),
    ],
)
def test_a_foreign_or_broken_file_is_refused_by_name(tmp_path, change, message):
    document = to_document(make_samples(n_concepts=1, n_prompts=1)) | change
    (tmp_path / "samples.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"samples\.json.*{message}"):
        load_document(tmp_path / "samples.json")


def test_an_empty_run_has_an_empty_document():
    empty = Samples("toy", "none", (), {}, 0)
    assert to_document(empty)["reply"] == []
    assert sample_for_page([empty]) == [empty]
