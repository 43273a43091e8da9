"""Generated texts: what is asked for, what is kept of the replies, and the shipped neutral paragraphs."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug import Request, Response

from steer_bench import shipped
from steer_bench.concepts.generate.cleaning import clean, keyword_overlap, loops, stem
from steer_bench.concepts.generate.passages import (
    PARAGRAPHS,
    PASSAGES,
    generate_concepts,
    generate_neutral,
    load_subjects,
    load_topics,
    save_lines,
)
from steer_bench.concepts.generate.writers import OpenAIWriter
from steer_bench.concepts.load import load_concepts, load_texts

DATA = shipped("tasks") / "data"
SHORT = replace(PARAGRAPHS, words=(25, 60), batch_size=5, seed=3)


class FakeWriter:
    """Writes ten distinct words a sentence about what the prompt is about; keeps what it was asked."""

    def __init__(self, topic: str | None = None) -> None:
        self.topic = topic
        self.prompts: list[str] = []
        self.seeds: list[int] = []

    def write(self, prompts: Sequence[str], *, max_new_tokens: int, temperature: float, seed: int) -> list[str]:
        self.seeds.append(seed)
        replies = []
        for prompt in prompts:
            number = len(self.prompts)
            self.prompts.append(prompt)
            about = re.search(r"about \d+ words about ([^,]+),", prompt)
            topic = self.topic or (about[1] if about else "nothing")
            sentences = [
                " ".join(["Item", *(f"w{number}x{i}y{j}" for j in range(8)), topic if i < 2 else "it"]) + "."
                for i in range(4)
            ]
            replies.append(" ".join(sentences) + " And then the")
        return replies


# ------------------------------------------------------------------------------------------------ cleaning


BODY = "Gulls cried over the quay while men mended nets. Nobody spoke until the lamp was lit."


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (BODY, BODY),
        (BODY + " The boat was", BODY),
        ("Sure! Here is a passage:\n\n" + BODY, BODY),
        ("Here's a short scene about gulls: " + BODY, BODY),
        ("Certainly!\n" + BODY, BODY),
        ("# Gulls\n\n" + BODY, BODY),
        ("The Gulls of Home\n\n" + BODY, BODY),
        ("Dear Anna,\n\n" + BODY, BODY),
        (BODY.replace("Gulls", "**Gulls**").replace("while men ", "while _men_ "), BODY),
        (BODY + "\n\n1. Buy nets.\n2. Sell fish.", BODY),
        (BODY + " Let me know if you want more.", BODY),
        (f'"{BODY}"', BODY),
        (BODY.replace("the quay", "Dr. Moor\u2019s quay \u2013"), BODY.replace("the quay", "Dr. Moor's quay -")),
    ],
)
def test_clean_keeps_the_whole_sentences_of_a_reply(reply, text):
    assert clean(reply, words=(10, 30)) == (text, "")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("As an AI language model, I have no nets. " + BODY, "refusal"),
        ("I'm sorry, but that can not be done. " + BODY, "refusal"),
        ("I cannot write about gulls. " + BODY, "refusal"),
        ("Gulls cried.", "short"),
        ("Gulls cried over the quay while men mended nets and nobody spoke until", "short"),
        ("```\n" + BODY + "\n```", "layout"),
        ("- Gulls cried.\n- Men mended nets.", "layout"),
        ("This passage of 60 words is about gulls. " + BODY, "chat"),
        (BODY.replace("Gulls", "M\u00f6wen"), "ascii"),
        (BODY.replace("Nobody", '"Nobody'), "broken"),
        (BODY[0].lower() + BODY[1:], "broken"),
        (BODY + " " + BODY, "loop"),
    ],
)
def test_clean_drops_what_is_no_passage_and_says_why(reply, reason):
    assert clean(reply, words=(10, 40)) == ("", reason)


def test_clean_cuts_to_whole_sentences_within_the_limit():
    assert clean(BODY, words=(5, 10)).text == "Gulls cried over the quay while men mended nets."  # 9 words, then 16


@settings(deadline=None, max_examples=examples(100))
@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from(["Sure!", "A b c.", "\n", '"', "- x", "**", "1.", "Here is:"])).map(" ".join)
)
def test_clean_gives_ascii_whole_sentences_or_a_reason_for_any_reply(reply):
    text, reason = clean(reply, words=(2, 20))
    assert bool(text) != bool(reason)
    if text:
        assert text.isascii()
        assert 2 <= len(text.split()) <= 20
        assert re.search(r"[.!?][\"')]*$", text)
        assert "\n" not in text


@pytest.mark.parametrize(
    "text",
    [
        "He sat down. He sat down.",
        "It is a luxury and luxury hotel by the road.",
        "They are made to help you and they are made to help you and so they are.",
    ],
)
def test_loops_are_found(text):
    assert loops(text)
    assert not loops(BODY)


def test_keyword_overlap_looks_past_endings():
    assert stem("cooking") == stem("cooks") == stem("Cooked") == "cook"
    assert keyword_overlap("She cooked for six.", "cooking food in a kitchen")
    assert not keyword_overlap("He sat in a car with the dog.", "cooking food in a kitchen")


# ------------------------------------------------------------------------------------------------ concepts


def test_generated_lines_load_as_concepts_with_shared_negatives(tmp_path):
    writer, counts = FakeWriter(), Counter()
    descriptions = {"sea": "the sea", "chess": "chess, the board game"}
    lines = generate_concepts(
        writer,
        descriptions,
        n_positives=5,
        n_negatives=7,
        genre="passage",
        counts=counts,
        writing=replace(PASSAGES, batch_size=4),
    )
    assert save_lines(lines, tmp_path / "c.jsonl") == 3
    concepts = load_concepts(tmp_path / "c.jsonl")
    assert [(c.id, c.genre, len(c.positives), len(c.negatives)) for c in concepts] == [
        ("sea", "passage", 5, 7),
        ("chess", "passage", 5, 7),
    ]
    assert concepts[0].negatives == concepts[1].negatives
    assert all("sea" in text for text in concepts[0].positives)
    assert not any(keyword_overlap(text, d) for text in concepts[0].negatives for d in descriptions.values())
    assert counts["kept"] == 5 + 5 + 7
    assert [file.name for file in tmp_path.iterdir()] == ["c.jsonl"]


def test_lines_that_end_in_an_error_leave_the_file_that_stood_there(tmp_path):
    (tmp_path / "n.jsonl").write_text("before")
    with pytest.raises(ValueError, match="only 0 of 2"):
        save_lines(generate_neutral(FakeWriter("horse"), 2, subjects=["mugs"], writing=SHORT), tmp_path / "n.jsonl")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"n.jsonl": "before"}


def test_prompts_are_varied_and_the_concept_is_in_those_of_the_positives_alone():
    writer = FakeWriter()
    list(
        generate_concepts(
            writer, {"sea": "the sea"}, n_positives=40, n_negatives=40, writing=replace(PASSAGES, batch_size=40)
        )
    )
    positive = [prompt for prompt in writer.prompts if "about the sea," in prompt]
    assert len(set(positive)) > 0.9 * len(positive)
    assert len(positive) == 40
    assert not any("the sea" in prompt for prompt in writer.prompts[: -len(positive)])


def test_passages_that_miss_the_concept_are_dropped_and_counted():
    counts = Counter()
    lines = generate_concepts(
        FakeWriter(),
        {"sea": "the sea"},
        n_positives=6,
        n_negatives=1,
        writing=replace(PASSAGES, batch_size=4),
        keeps_concept=lambda text, concept: "sea" in text and int(re.search(r"w(\d+)x", text)[1]) % 2 == 0,
        counts=counts,
    )
    assert len(list(lines)[1]["positives"]) == 6
    assert counts["missed"] >= 5


def test_negatives_that_show_a_concept_are_dropped():
    with pytest.raises(ValueError, match=r"negatives: only 0 of 2 texts after .* prompts \(dropped: shows a concept"):
        list(generate_concepts(FakeWriter("sea"), {"sea": "the sea"}, n_positives=2, n_negatives=2))


def test_too_few_passages_are_an_error_with_the_reasons():
    with pytest.raises(
        ValueError, match=r"sea: only 0 of 3 texts after 30 prompts \(dropped: missed 30\); use a larger"
    ):
        list(
            generate_concepts(
                FakeWriter("rock"),
                {"sea": "the sea"},
                n_positives=3,
                n_negatives=1,
                writing=replace(PASSAGES, batch_size=6),
            )
        )


def test_a_concept_id_that_can_be_no_file_name_is_refused_before_anything_is_written():
    writer = FakeWriter()
    with pytest.raises(ValueError, match="cannot be a file name"):
        next(generate_concepts(writer, {"../sea": "the sea"}, n_positives=1, n_negatives=1))
    assert writer.prompts == []


# ------------------------------------------------------------------------------------------------ neutral


def test_neutral_lines_load_as_texts_and_are_the_same_again(tmp_path):
    lines = list(generate_neutral(FakeWriter(), 12, subjects=["mugs", "gates", "rugs"], prefix="map", writing=SHORT))
    assert [line["id"] for line in lines][::11] == ["map-001", "map-012"]
    save_lines(lines, tmp_path / "n.jsonl")
    assert load_texts(tmp_path / "n.jsonl") == [line["text"] for line in lines]
    again = generate_neutral(FakeWriter(), 12, subjects=["mugs", "gates", "rugs"], prefix="map", writing=SHORT)
    assert list(again) == lines


def test_every_subject_comes_once_before_one_comes_again_in_another_form():
    writer = FakeWriter()
    subjects = [f"thing {i}x" for i in range(10)]
    list(generate_neutral(writer, 20, subjects=subjects, writing=replace(SHORT, seed=0, batch_size=10)))
    named = [next(s for s in subjects if s in prompt) for prompt in writer.prompts]
    assert Counter(named[:10]) == Counter(named[10:20]) == Counter(subjects)
    assert len(set(writer.prompts)) == 20
    assert len(set(writer.seeds)) == len(writer.seeds)


def test_paragraphs_with_a_word_to_avoid_are_dropped_and_counted():
    counts = Counter()
    with pytest.raises(ValueError, match="dropped: topic 28"):
        list(
            generate_neutral(
                FakeWriter("horse"), 2, subjects=["mugs"], writing=replace(SHORT, seed=0, batch_size=7), counts=counts
            )
        )
    assert counts == {"topic": 28}  # asked in sevens until 2 * 8 + 7 are reached


def test_the_same_opening_is_kept_once():
    class Parrot(FakeWriter):
        def write(self, prompts: Sequence[str], **options: object) -> list[str]:
            return [BODY] * len(prompts)

    counts = Counter()
    with pytest.raises(ValueError, match="only 1 of 2"):
        list(
            generate_neutral(
                Parrot(),
                2,
                subjects=["mugs"],
                avoid=(),
                writing=replace(SHORT, words=(5, 60), batch_size=4),
                counts=counts,
            )
        )
    assert counts["kept"] == 1
    assert set(counts) == {"kept", "duplicate"}


# ------------------------------------------------------------------------------------------------ writers


@pytest.fixture(scope="module")
def tiny():
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    torch.manual_seed(0)
    vocabulary = {word: i for i, word in enumerate(["<unk>", "</s>", "user", "says", *(f"t{i}" for i in range(60))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=1,
        bos_token_id=None,
        initializer_range=0.8,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


OPTIONS = {"max_new_tokens": 8, "temperature": 1.0, "seed": 4}


def test_openai_writer_asks_for_each_prompt_and_keeps_their_order(httpserver, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    asked = []

    def reply(request: Request) -> Response:
        body = json.loads(request.data)
        asked.append((body["seed"], body["max_tokens"], body["temperature"], request.headers["Authorization"]))
        content = body["messages"][0]["content"]
        message = {"role": "assistant", "content": None if content == "filtered" else content.upper()}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return Response(json.dumps(answer), content_type="application/json")

    httpserver.expect_request("/v1/chat/completions").respond_with_handler(reply)
    writer = OpenAIWriter(httpserver.url_for("/v1"), "m", concurrency=2)
    assert writer.write(["a", "filtered", "c"], max_new_tokens=9, temperature=0.5, seed=7) == ["A", "", "C"]
    assert sorted(asked) == [(7 + i, 9, 0.5, "Bearer sk-secret") for i in range(3)]


def test_openai_writer_that_fails_names_the_endpoint_in_one_line_and_never_the_key(httpserver, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    error = {"error": {"message": "no such key:\nsk-secret", "code": 401}}
    httpserver.expect_request("/v1/chat/completions").respond_with_json(error, status=401)
    writer = OpenAIWriter(httpserver.url_for("/v1"), "m", retries=0)
    with pytest.raises(ValueError, match="did not write with model 'm'") as caught:
        writer.write(["a"], max_new_tokens=9, temperature=0.5, seed=7)
    assert httpserver.url_for("/v1") in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_importing_generate_loads_no_heavy_package():
    code = (
        "import sys, steer_bench.concepts.generate.passages; "
        "print([m for m in ('torch', 'openai', 'datasets', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------ shipped data


def test_there_are_300_subjects_outside_the_shipped_concepts_topics():
    subjects = load_subjects()
    shunned = frozenset().union(*load_topics().values())
    assert len(subjects) == len(set(subjects)) == 300
    assert [s for s in subjects if shunned & set(re.findall(r"[a-z]+", s.lower()))] == []


def test_the_neutral_paragraphs_for_maps_are_clean_many_and_on_no_topic():
    texts = load_texts(DATA / "neutral_map.jsonl")
    shunned = frozenset().union(*load_topics().values())
    assert sum(len(text.split()) for text in texts) >= 25_000  # so more than 20,000 tokens in any tokenizer
    assert [text for text in texts if clean(text, words=(60, 90)) != (text, "")] == []
    assert [text for text in texts if shunned & set(re.findall(r"[a-z]+", text.lower()))] == []
    assert len({" ".join(text.split()[:6]) for text in texts}) == len(texts)


def test_faulty_subject_and_topic_files_are_refused(tmp_path):
    (tmp_path / "s.txt").write_text("\n")
    with pytest.raises(ValueError, match="no subject in it"):
        load_subjects(tmp_path / "s.txt")
    (tmp_path / "t.txt").write_text("sea: ocean\ncooking\n")
    with pytest.raises(ValueError, match=r"t\.txt, line 2: no words"):
        load_topics(tmp_path / "t.txt")


def test_the_words_to_avoid_cover_every_shipped_concept():
    assert {concept.id for concept in load_concepts(DATA / "concepts.jsonl")} <= set(load_topics())
