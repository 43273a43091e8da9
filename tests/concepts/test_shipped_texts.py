"""The shipped instructions and neutral texts: enough of them, and none that a vector, a map or another pool has seen."""

import json
import re
from pathlib import Path

from steer_bench.concepts.concept import text_key
from steer_bench.concepts.load import load_concepts, load_texts

DATA = Path(__file__).parents[2] / "tasks" / "data"
RUN = 8
"""Words in a row that two texts of different pools must not share."""
CONCEPTS = load_concepts(DATA / "concepts.jsonl")
CONCEPT_TEXTS = [text for concept in CONCEPTS for text in (*concept.positives, *concept.negatives)]
INSTRUCTIONS = [json.loads(line)["instruction"] for line in (DATA / "instructions.jsonl").read_text().splitlines()]
NEUTRAL = load_texts(DATA / "neutral.jsonl")
MAP_CORPUS = load_texts(DATA / "neutral_map.jsonl")


def runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[\w'-]+", text.lower())
    return {tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}


def test_there_are_texts_enough_for_items_of_every_concept_s_own():
    assert len({text_key(text).lower() for text in INSTRUCTIONS}) == len(INSTRUCTIONS) >= 150
    assert len({text_key(text).lower() for text in NEUTRAL}) == len(NEUTRAL) >= 180
    assert all(30 <= len(text.split()) <= 50 for text in NEUTRAL)


def test_the_map_corpus_the_concepts_and_the_neutral_texts_are_disjoint():
    pools = [{text_key(text) for text in pool} for pool in (CONCEPT_TEXTS, NEUTRAL, MAP_CORPUS, INSTRUCTIONS)]
    assert sum(map(len, pools)) == len(set().union(*pools))


def test_no_neutral_text_or_instruction_shares_a_passage_with_another_text():
    seen = {run for text in (*CONCEPT_TEXTS, *MAP_CORPUS) for run in runs(text)}
    for text in (*NEUTRAL, *INSTRUCTIONS):
        assert not runs(text) & seen, text
        seen |= runs(text)


def test_no_neutral_text_or_instruction_names_a_word_of_a_concept():
    telling = {word: concept.id for concept in CONCEPTS for word in re.findall(r"[a-z]{4,}", concept.description)}
    general = {
        "making",
        "hearing",
        "game",
        "board",
        "growing",
        "outer",
        "space",
        "sport",
        "kitchen",
        "personal",
        "buildings",
    }
    for text in (*NEUTRAL, *INSTRUCTIONS):
        assert not (set(re.findall(r"[a-z]+", text.lower())) & telling.keys()) - general, text
