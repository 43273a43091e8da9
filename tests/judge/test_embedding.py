"""The embedding judge, the check and the local judge. Run: python -m pytest tests/judge/test_embedding.py"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from fakes.word_embedder import WordEmbedder

from steer_bench.judge.check import check_judge, shuffle_words
from steer_bench.judge.embedding import (
    INSTRUCTION_QUANTILES,
    UNSTEERED_PERPLEXITY,
    EmbeddingJudge,
    Reference,
    Scale,
    concept_scale,
    fluency_rating,
)
from steer_bench.judge.judgement import Case, rate_by_aspect
from steer_bench.judge.ratings import rate_recorded
from steer_bench.records import Records

AXBENCH = Path(__file__).parents[3] / "shared" / "axbench"
SHIPPED = Path(__file__).parents[2] / "tasks" / "data" / "concepts.jsonl"
REFERENCE = Reference(
    "sea",
    positives=("sea ship", "sea wave", "ship wave"),
    negatives=("walk talk", "talk bread", "bread house"),
)
YARDSTICK = (("walk house", "walk house", 8.0), ("law court", "law judge", 12.0))


@pytest.fixture
def judge(tmp_path: Path) -> EmbeddingJudge:
    made = EmbeddingJudge(tmp_path, {"sea": REFERENCE}, yardstick=YARDSTICK)
    made.embedder = WordEmbedder()  # type: ignore[assignment]
    return made


def case(reply: str, *, instruction: str = "walk house", perplexity: float | None = 10.0) -> Case:
    return Case("sea", "sea", instruction, reply, perplexity)


def test_concept_goes_from_0_for_the_negatives_to_2_for_the_positives(judge: EmbeddingJudge) -> None:
    full, half, none = rate_by_aspect(judge, [case("sea ship wave"), case("sea walk"), case("walk talk bread")])
    assert full.ratings["concept"] == 2.0
    assert 0.0 < half.ratings["concept"] < 2.0
    assert none.ratings["concept"] == 0.0


def test_concept_scale_leaves_each_reference_out_of_its_own_centroid() -> None:
    rows = np.eye(4, dtype=np.float32)
    positives, negatives, description = rows[:2], rows[2:], np.zeros(4, dtype=np.float32)
    # all: (0.5, 0.5, -0.5, -0.5), norm 1. The first positive left out: (0, 1, -0.5, -0.5), so its own score is 0
    direction, scale = concept_scale(positives, negatives, description)
    np.testing.assert_allclose(direction, [0.5, 0.5, -0.5, -0.5])
    assert scale == Scale(0.0, 0.0)


def test_instruction_goes_from_0_for_another_prompts_reply_to_2_for_the_own(judge: EmbeddingJudge) -> None:
    own, other = rate_by_aspect(judge, [case("walk house"), case("law judge")])
    assert own.ratings["instruction"] == 2.0
    assert other.ratings["instruction"] == 0.0
    # matched: cos = 1 and 0.5, median 0.75; mismatched: 0
    assert judge.calibration().instruction == {"zero": 0.0, "two": 0.75}


@pytest.mark.parametrize(
    ("perplexity", "rating"), [(1.0, 2.0), (10.0, 2.0), (10 * 10**0.5, 1.5), (100.0, 1.0), (1000.0, 0.0), (1e9, 0.0)]
)
def test_fluency_is_linear_in_log_perplexity_from_the_unsteered_median_to_100_times_it(
    perplexity: float, rating: float
) -> None:
    assert fluency_rating(perplexity, 10.0, 1.0) == pytest.approx(rating)


def test_a_loop_is_not_fluent_however_likely_the_target_finds_it(judge: EmbeddingJudge) -> None:
    [looping] = rate_by_aspect(judge, [case("sea " * 50, perplexity=1.1)])
    assert looping.ratings["fluency"] == 0.0
    assert looping.score == 0.0


@pytest.mark.parametrize(
    ("reply", "perplexity", "reason"),
    [
        ("sea", None, "no_perplexity"),
        ("sea", math.nan, "no_perplexity"),
        ("sea", math.inf, "no_perplexity"),
        ("sea", 0.0, "no_perplexity"),
    ],
)
def test_what_cannot_be_measured_is_unscored(
    judge: EmbeddingJudge, reply: str, perplexity: float | None, reason: str
) -> None:
    [judgement] = rate_by_aspect(judge, [case(reply, perplexity=perplexity)])
    assert (judgement.reason, judgement.score) == (reason, None)


@pytest.mark.parametrize("reply", ["", " \n"])
def test_an_empty_reply_has_nothing_of_any_aspect(judge: EmbeddingJudge, reply: str) -> None:
    [judgement] = rate_by_aspect(judge, [case(reply, perplexity=None)])
    assert (judgement.score, judgement.flags) == (0.0, ("empty_reply",))


def test_calibration_holds_every_threshold(judge: EmbeddingJudge) -> None:
    calibration = judge.calibration()
    assert calibration.instruction == {"zero": 0.0, "two": 0.75}
    assert (calibration.description_weight, calibration.perplexity_span, calibration.distinct_2_span) == (
        0.25,
        100.0,
        (0.1, 0.5),
    )
    assert (calibration.unsteered_perplexity, calibration.yardstick) == (10.0, 2)
    assert calibration.concepts["sea"]["zero"] < calibration.concepts["sea"]["two"]


def test_the_fingerprint_changes_with_references_and_yardstick(judge: EmbeddingJudge) -> None:
    def made(reference: Reference, *marks: tuple[str, str, float | None]) -> str:
        return EmbeddingJudge(judge.model_path, {"sea": reference}, yardstick=marks).fingerprint()

    assert made(REFERENCE, *YARDSTICK) == made(REFERENCE, *reversed(YARDSTICK)) == judge.fingerprint()
    others = (
        made(REFERENCE, YARDSTICK[0], ("law court", "sea ship", 12.0)),
        made(REFERENCE, YARDSTICK[0], ("law court", "law judge", 12.5)),
        made(REFERENCE),
        made(replace(REFERENCE, negatives=("law", "oath")), *YARDSTICK),
    )
    assert len({judge.fingerprint(), *others}) == 5


def test_its_judgements_can_be_stored(judge: EmbeddingJudge, tmp_path: Path) -> None:
    replies = [case("sea ship"), case("walk", perplexity=None), case("law")]
    with Records(tmp_path / "r.sqlite") as store:
        first = rate_recorded(judge, replies, store)
        assert rate_recorded(judge, replies, store) == first == rate_by_aspect(judge, replies)


@pytest.mark.parametrize(
    ("reference", "words"),
    [(replace(REFERENCE, positives=("one",)), "1 positive"), (replace(REFERENCE, negatives=()), "0 negative")],
)
def test_too_few_references_are_refused(reference: Reference, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"'sea'.*{words}"):
        EmbeddingJudge(tmp_path, {"sea": reference})


def test_a_concept_without_references_is_refused_by_name(judge: EmbeddingJudge) -> None:
    with pytest.raises(ValueError, match="no reference texts of war"):
        rate_by_aspect(judge, [Case("war", "war", "p", "reply", 3.0)])


@pytest.mark.parametrize(
    "marks", [(), (("same", "a", 5.0), ("same", "b", 6.0)), (("walk", "sea", 5.0), ("law", " ", 6.0))]
)
def test_without_two_instructions_in_the_yardstick_the_scales_are_those_of_the_references(
    marks: tuple[tuple[str, str, float], ...], tmp_path: Path
) -> None:
    plain = EmbeddingJudge(tmp_path, {"sea": REFERENCE}, yardstick=marks)
    plain.embedder = WordEmbedder()  # type: ignore[assignment]
    found = plain.calibration()
    assert (found.yardstick, found.unsteered_perplexity) == (0, UNSTEERED_PERPLEXITY)
    assert tuple(found.instruction.values()) == INSTRUCTION_QUANTILES
    words = WordEmbedder()
    texts = REFERENCE.positives, REFERENCE.negatives, ["sea"]
    positives, negatives, described = (words.embed(some) for some in texts)
    assert found.concepts["sea"]["zero"] == pytest.approx(
        concept_scale(positives, negatives, described[0])[1].zero, abs=1e-6
    )


# --- the check ---


@dataclass(frozen=True)
class Concept:
    id: str
    description: str
    genre: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]


def test_check_measures_each_aspect_and_the_unscored_share(judge: EmbeddingJudge) -> None:
    concepts = [
        Concept("sea", "sea", "text", ("sea ship wave", "ship sea"), ("walk talk", "bread house")),
    ]
    pairs = [("walk house", "walk house talk"), ("law court", "law judge"), ("sea ship", "sea wave")]
    rows = {row.aspect: row for row in check_judge(judge, concepts, pairs=pairs)}  # type: ignore[arg-type]
    assert rows["concept"].auroc == 1.0
    assert rows["concept"].n == 4
    assert rows["instruction"].auroc == 1.0
    assert (rows["fluency"].auroc, rows["fluency"].unscored, rows["fluency"].reasons) == (
        None,
        1.0,
        {"no_perplexity": 8},
    )


def test_check_measures_fluency_by_the_perplexities_given(judge: EmbeddingJudge) -> None:
    texts = ("sea and ship and one long wave", "a ship at sea with sail")
    concepts = [Concept("sea", "sea", "text", texts, ("walk the house and talk", "one bread for the house"))]
    known = set(concepts[0].positives + concepts[0].negatives)
    rows = check_judge(judge, concepts, perplexity=lambda some: [90.0 if text in known else 600.0 for text in some])  # type: ignore[arg-type]
    assert [row.auroc for row in rows if row.aspect == "fluency"] == [1.0]


def test_check_rows_by_genre_where_there_are_several(judge: EmbeddingJudge) -> None:
    sea = Concept("sea", "sea", "text", ("sea ship wave",), ("walk talk",))
    rows = check_judge(judge, [sea, replace(sea, genre="code", positives=("bread",), negatives=("sea",))])  # type: ignore[arg-type]
    found = {row.group: row.auroc for row in rows if row.aspect == "concept"}
    assert found["text"] == 1.0
    assert found["code"] == 0.0


def test_shuffled_words_are_the_same_words() -> None:
    text = "the sea is calm today and so am I"
    shuffled = shuffle_words(text, random.Random(0))
    assert shuffled != text
    assert sorted(shuffled.split()) == sorted(text.split())


# --- the real embeddings ---


def axbench_concepts() -> list[Concept]:
    import pandas as pd

    concepts = []
    for folder in sorted((AXBENCH / "concept10").iterdir()):
        rows = pd.read_parquet(folder / "train_data.parquet")
        for concept_id in range(10):
            own = rows[rows.concept_id == concept_id]
            genre = own.concept_genre.iloc[0]
            negatives = rows[(rows.concept_id == -1) & (rows.concept_genre == genre)].output
            name = f"{folder.name}-{concept_id}"
            concepts.append(Concept(name, own.output_concept.iloc[0], genre, tuple(own.output), tuple(negatives)))
    return concepts


def real_rows(concepts: Sequence[Concept]) -> dict[str, float | None]:
    import torch

    torch.set_num_threads(1)
    references = {
        one.id: Reference(one.description, tuple(one.positives[::2]), tuple(one.negatives[::2])) for one in concepts
    }
    held_out = [replace(one, positives=one.positives[1::2], negatives=one.negatives[1::2]) for one in concepts]
    judge = EmbeddingJudge("minilm-l6-v2", references)
    assert judge.name == "embedding (all-MiniLM-L6-v2): a proxy"
    return {row.group: row.auroc for row in check_judge(judge, held_out) if row.aspect == "concept"}


@pytest.mark.real
@pytest.mark.slow
def test_concept_auroc_on_axbench() -> None:
    if not AXBENCH.is_dir():
        pytest.skip("the AxBench data files are not beside this checkout")
    found = real_rows(axbench_concepts())
    print(found)
    assert found["all"] is not None
    assert found["text"] is not None
    assert found["all"] >= 0.88
    assert found["text"] >= 0.93


@pytest.mark.real
@pytest.mark.slow
def test_concept_auroc_on_the_shipped_concepts() -> None:
    from steer_bench.concepts.load import load_concepts

    concepts = [one for one in load_concepts(SHIPPED) if one.kind == "topic"]
    found = real_rows(concepts)  # type: ignore[arg-type]
    print(found)
    assert found["all"] is not None
    assert found["all"] >= 0.95


@pytest.mark.real
def test_an_embedding_does_not_depend_on_the_batch_it_is_in() -> None:
    import torch

    torch.set_num_threads(1)
    texts = ["The sea.", "A much longer text about courts and the law, which pads the short one. " * 5, "Bread"]
    together = EmbeddingJudge().embedder.embed(texts)
    alone = EmbeddingJudge(batch_size=1).embedder.embed(texts)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)


@pytest.mark.real
def test_concepts_said_in_other_words_are_alike_by_their_embeddings() -> None:
    from steer_bench.concepts.concept import Concept
    from steer_bench.concepts.splits import near_duplicates
    from steer_bench.experiment.data import alike_descriptions

    said = {"film": "references to video and multimedia content", "movie": "mentions of films and multimedia"}
    said |= {
        "rent": "references to rental services",
        "hire": "mentions of renting equipment",
        "anger": "anger",
        "joy": "joy",
    }
    concepts = [Concept(key, words, "text", (f"{key} text",), ("other",)) for key, words in said.items()]
    assert near_duplicates(concepts) == [[key] for key in sorted(said)]  # no two share 0.6 of their words
    assert alike_descriptions(concepts, 0.65) == [("film", "movie"), ("rent", "hire")]
    assert near_duplicates(concepts, alike_descriptions(concepts, 0.65)) == [
        ["anger"],
        ["film", "movie"],
        ["hire", "rent"],
        ["joy"],
    ]
