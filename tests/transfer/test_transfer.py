"""Transfer: every method on pairs whose right map is known, and what each refuses."""

import inspect
import json
import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from steered import tiny_pair
from tiny import tiny_gemma3, tiny_tokenizer

from steer_bench import shipped
from steer_bench.experiment.calibration.twins import random_rotation, rotated_twin
from steer_bench.models.activations import mean_activations, text_means
from steer_bench.models.blocks import norm_gain
from steer_bench.models.load import Loaded
from steer_bench.transfer.adapters import CONTROLS, TRANSFERS, load_adapter, load_adapters
from steer_bench.transfer.controls import CONTROL_VECTORS, control_arms
from steer_bench.transfer.fits import FITS, transfer
from steer_bench.transfer.maps import DirectionMap, LookupMap
from steer_bench.transfer.moments import MomentAccumulator
from steer_bench.transfer.pairs import Contrasts, ModelSide, Pair, check_unseen, false_pairs, r2
from steer_bench.transfer.relay import relay
from steer_bench.transfer.vocabulary import shared_unembedding, words
from steer_bench.vectors.arms import Arm

WIDTH, N = 12, 600
CONCEPTS = tuple(f"c{i}" for i in range(14))
FIT, TEST = CONCEPTS[:10], CONCEPTS[10:]


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(x: torch.Tensor, y: torch.Tensor):
    accumulator = MomentAccumulator()
    accumulator.add(x, y)
    return accumulator.moments()


def rotated_pair(q: torch.Tensor | None = None, *, fit: tuple[str, ...] = FIT, noise: float = 0.0) -> Pair:
    """Target = source times a rotation (rows: y = x q), in every kind of data a fit may read."""
    q = random_rotation(WIDTH, 3) if q is None else q
    x, held = normal(N, WIDTH, seed=0) + 2, normal(80, WIDTH, seed=1) + 2
    vectors = {key: normal(WIDTH, seed=20 + i) for i, key in enumerate(CONCEPTS)}
    differences = torch.cat([vectors[key] + 0.3 * normal(8, WIDTH, seed=50 + i) for i, key in enumerate(FIT)])
    numbers = torch.arange(len(FIT)).repeat_interleave(8)
    tokens, held_tokens = normal(400, WIDTH, seed=2), normal(50, WIDTH, seed=4)
    ends = normal(60, WIDTH, seed=5)
    added = noise * normal(N, WIDTH, seed=6)
    return Pair(
        ModelSide("a", vectors, fit, WIDTH), ModelSide("b", {key: v @ q for key, v in vectors.items()}, fit, WIDTH),
        moments(x, x @ q + added), moments(held, held @ q), (x.float(), (x @ q + added).float()),
        (held.float(), (held @ q).float()), 0, (ends, ends @ q), Contrasts(differences, differences @ q, numbers),
        (moments(tokens, tokens @ q), moments(held_tokens, held_tokens @ q)),
    )  # fmt: skip


def cosines(fitted, pair: Pair) -> list[float]:
    got = transfer(fitted.map, {key: pair.source.vectors[key] for key in TEST}, None)
    return [float(torch.cosine_similarity(got[key], pair.target.vectors[key], dim=0)) for key in TEST]


@pytest.mark.parametrize(
    ("method", "options", "least"),
    [
        ("ridge", {}, 0.999), ("low-rank", {"ranks": [WIDTH]}, 0.999), ("procrustes", {"ranks": [WIDTH]}, 0.999),
        ("contrast", {}, 0.998), ("contrast", {"shrink_to_linear": True}, 0.999), ("unembedding", {}, 0.999),
        ("anchors", {"strength": 1e-3}, 0.99), ("concept-ridge", {}, 0.6),
    ],
)  # fmt: skip
def test_a_rotation_is_found_by_every_method_that_can(method, options, least):
    pair = rotated_pair()
    for one in (pair, pair.swap()):
        fitted = FITS[method](one, **options)
        assert min(cosines(fitted, one)) > least
        assert fitted.report["r2"] > 0.3


@pytest.mark.parametrize("method", ["identity", "identity-random", "shuffled-ridge"])
def test_methods_that_know_nothing_find_nothing(method):
    assert abs(np.mean(cosines(FITS[method](rotated_pair()), rotated_pair()))) < 0.5
    assert FITS[method](rotated_pair()).report["r2"] < 0.1


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ridge", {}), ("low-rank", {"ranks": [WIDTH]}), ("procrustes", {"ranks": [WIDTH]}), ("concept-ridge", {}),
        ("anchors", {}),
    ],
)  # fmt: skip
def test_what_learns_from_pairs_finds_nothing_in_false_ones(method, options):
    pair = rotated_pair()
    fitted = FITS[f"shuffled-{method}"](pair, **options)
    assert abs(np.mean(cosines(fitted, pair))) < 0.5
    assert torch.equal(fitted.map.weight, FITS[method](false_pairs(pair), **options).map.weight)


def test_false_pairs_keep_no_pair_but_all_rows_and_leave_the_held_out_pairs_true():
    pair = rotated_pair()
    false = false_pairs(pair)
    for true, moved in zip((pair.train_samples, pair.anchors), (false.train_samples, false.anchors), strict=True):
        assert torch.equal(true[0], moved[0])
        assert not (true[1] == moved[1]).all(dim=1).any()
        assert torch.equal(true[1].sort(dim=0).values, moved[1].sort(dim=0).values)
    torch.testing.assert_close(false.train.target_target, pair.train.target_target, rtol=1e-5, atol=1e-4)
    assert (false.held_out, false.held_out_samples) == (pair.held_out, pair.held_out_samples)
    same = [key for key in CONCEPTS if torch.equal(false.target.vectors[key], pair.target.vectors[key])]
    assert same == list(TEST)


def test_ridge_is_the_closed_form_on_standardised_coordinates():
    pair = rotated_pair(noise=0.5)
    x, y = (side.double() for side in pair.train_samples)
    x, y = x - x.mean(0), y - y.mean(0)
    scale = x.pow(2).mean(0).sqrt()
    z = x / scale
    expected = torch.linalg.solve(z.T @ z + 0.1 * N * torch.eye(WIDTH, dtype=z.dtype), z.T @ y) / scale[:, None]
    fitted = FITS["ridge"](pair, strengths=[0.1])
    torch.testing.assert_close(fitted.map.weight, expected, rtol=1e-4, atol=1e-5)
    explained = 1 - (y - x @ expected).pow(2).sum(0) / y.pow(2).sum(0)
    assert r2(fitted.map.weight, pair.train) == pytest.approx(float(explained.mean()), abs=1e-6)


def test_contrast_shrunk_to_linear_goes_to_linear_as_the_strength_grows():
    pair = rotated_pair()
    linear = FITS["ridge"](pair).map.weight
    shrunk = FITS["contrast"](pair, strengths=[1e9], shrink_to_linear=True).map.weight
    torch.testing.assert_close(shrunk, linear, atol=1e-4, rtol=0)
    nothing = FITS["contrast"](pair, strengths=[1e9]).map.weight
    assert float(nothing.abs().max()) < 1e-6


def test_contrast_is_ridge_on_differences_without_intercept():
    pair = rotated_pair()
    data = pair.contrasts
    scale = data.source.pow(2).mean(0).sqrt()
    z = data.source / scale
    expected = torch.linalg.solve(z.T @ z + 0.5 * len(z) * torch.eye(WIDTH, dtype=z.dtype), z.T @ data.target)
    torch.testing.assert_close(FITS["contrast"](pair, strengths=[0.5]).map.weight, expected / scale[:, None])


def test_the_intercept_of_concept_ridge_is_the_mean_vector_and_reported():
    pair = rotated_pair()
    fitted = FITS["concept-ridge"](pair, strength=1e9, intercept=True)
    mean = torch.stack([pair.target.vectors[key] for key in FIT]).mean(0)
    got = transfer(fitted.map, {"c12": pair.source.vectors["c12"]}, None)["c12"]
    torch.testing.assert_close(got, mean, atol=1e-5, rtol=0)
    assert fitted.report["intercept_norm"] == pytest.approx(float(mean.norm()), rel=1e-4)
    assert "intercept_norm" not in FITS["concept-ridge"](pair).report


def test_nearest_concept_gives_the_targets_vector_of_the_nearest_neighbour():
    source = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    target = torch.tensor([[5.0], [6.0], [7.0]], dtype=torch.float64)
    lookup = LookupMap(source, target)
    assert [float(lookup.direction(torch.tensor(v))) for v in ([2.0, 0.1], [0.1, 2.0], [-3.0, -2.0])] == [5.0, 6.0, 7.0]
    pair = rotated_pair()
    near = FITS["nearest-concept"](pair).map
    assert torch.equal(near.direction(pair.source.vectors["c3"] * 1.01), pair.target.vectors["c3"])


def test_the_network_starts_as_linear_and_is_never_worse_on_held_out_documents():
    fitted = FITS["mlp"](rotated_pair(noise=0.2), hidden=8, max_epochs=3)
    assert fitted.report["held_out_loss"] <= fitted.report["linear_held_out_loss"]
    assert not isinstance(fitted.map, DirectionMap)
    with pytest.raises(ValueError, match="pushing samples"):
        transfer(fitted.map, {"c12": normal(WIDTH, seed=1)}, None)


@pytest.mark.parametrize(
    ("method", "change", "why"),
    [
        ("concept-ridge", {"fit": ("c0",)}, "at least 2 concepts in the fit split, there are 1"),
        ("contrast", {"fit": ("c0",)}, "at least 2 concepts"),
        ("nearest-concept", {"fit": ()}, "at least 2 concepts"),
    ],
)
def test_too_few_concepts_are_refused_with_the_number(method, change, why):
    with pytest.raises(ValueError, match=why):
        FITS[method](rotated_pair(**change))


def test_what_a_pair_lacks_is_refused_with_the_reason():
    from dataclasses import replace

    pair = rotated_pair()
    with pytest.raises(ValueError, match="share 3 tokens"):
        FITS["unembedding"](replace(pair, vocabulary="the vocabularies share 3 tokens"))
    with pytest.raises(ValueError, match="the ends of at least 2 documents"):
        FITS["anchors"](replace(pair, anchors=None))
    with pytest.raises(ValueError, match="above the narrower model's width"):
        FITS["procrustes"](pair, ranks=[64])


def test_a_map_fitted_on_a_tested_concept_is_refused():
    with pytest.raises(ValueError, match="fitted on the concept 'c1'"):
        check_unseen(["c0", "c1"], ["c1", "c2"])
    check_unseen(FIT, TEST)


# ------------------------------------------------------------------------------------------ arms without a source


def side(**changes) -> ModelSide:
    vectors = {key: normal(WIDTH, seed=i) for i, key in enumerate(CONCEPTS)}
    genres = {key: "text" if i % 2 else "code" for i, key in enumerate(CONCEPTS)}
    return ModelSide("b", vectors, FIT, WIDTH, **{"genres": genres, **changes})


def test_genre_mean_is_the_mean_over_fit_concepts_of_the_genre():
    one = side()
    expected = torch.stack([one.vectors[f"c{i}"] for i in (0, 2, 4, 6, 8)]).mean(0)
    torch.testing.assert_close(CONTROL_VECTORS["genre-mean"](one, ["c10"], 0)["c10"], expected)
    with pytest.raises(ValueError, match="genre 'math' in the fit split"):
        CONTROL_VECTORS["genre-mean"](side(genres={"c10": "math"}), ["c10"], 0)


def whose(one: ModelSide, arms: Mapping[Arm, Mapping[str, torch.Tensor]]) -> dict[str, list[str]]:
    """Concept -> the concepts whose vectors its arms have. Raises AssertionError for the right one's, and for one twice."""
    found = {}
    for key in next(iter(arms.values())):
        cosines = [
            {other: float(torch.cosine_similarity(made[key], one.vectors[other], dim=0)) for other in CONCEPTS}
            for made in arms.values()
        ]
        assert all(of[key] < 0.999 for of in cosines), f"the right concept's vector as that of a wrong one: {key}"
        found[key] = [max(of, key=lambda other: of[other]) for of in cosines]
        assert len(set(found[key])) == len(found[key]), f"one wrong concept twice: {key}"
    return found


def test_wrong_concepts_are_the_next_of_the_genre_and_then_of_any():
    adapter = load_adapter("wrong-concept")
    one, ids = (
        side(genres={key: "code" if key in ("c10", "c12") else "text" for key in CONCEPTS}),
        ["c10", "c11", "c12", "c13"],
    )
    assert list(control_arms(adapter, one, ids, 0)) == [Arm("wrong-concept", "0"), Arm("wrong-concept", "1")]
    assert whose(one, control_arms(adapter, one, ids, 0)) == {
        "c10": ["c12", "c11"], "c11": ["c13", "c12"], "c12": ["c10", "c13"], "c13": ["c11", "c10"],
    }  # fmt: skip
    alone = control_arms(load_adapter("wrong-concept", options={"n": 1}), one, ids[:2], 0)
    assert list(alone) == [Arm("wrong-concept")]
    assert whose(one, alone) == {"c10": ["c11"], "c11": ["c10"]}


def test_a_concept_that_is_alike_is_no_wrong_concept():
    vectors = {key: normal(WIDTH, seed=i) for i, key in enumerate(CONCEPTS)}
    vectors["c11"] = 3 * vectors["c10"] + 1e-3 * vectors["c12"]  # the same under another name
    one = ModelSide("b", vectors, FIT, WIDTH)
    arms = control_arms(load_adapter("wrong-concept"), one, ["c10", "c11", "c12", "c13"], 0)
    assert whose(one, arms)["c10"] == ["c12", "c13"]
    assert whose(one, arms)["c12"] in (["c13", "c10"], ["c13", "c11"])  # of the two that are one, once
    with pytest.raises(
        ValueError, match=r"needs 2 other test concepts whose vectors are not alike, and 'c10' has 1; .*n: 1"
    ):
        control_arms(load_adapter("wrong-concept"), one, ["c10", "c11", "c12"], 0)


def test_the_right_concepts_vector_as_a_wrong_one_is_seen():
    one = side()
    arms = control_arms(load_adapter("wrong-concept"), one, list(TEST), 0)
    whose(one, arms)
    leaked = {
        arm: {key: vector if key != "c11" else 0.5 * one.vectors["c11"] for key, vector in made.items()}
        for arm, made in arms.items()
    }
    with pytest.raises(AssertionError, match="the right concept's vector as that of a wrong one: c11"):
        whose(one, leaked)


def test_five_seeds_make_five_arms_of_independent_directions():
    arms = control_arms(load_adapter("random", options={"seeds": 5}), side(), TEST, 0)
    assert list(arms) == [Arm("random", str(i)) for i in range(1, 6)]
    rows = torch.stack([arms[arm]["c11"] for arm in arms])
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 0.9
    assert list(control_arms(load_adapter("random", options={"seeds": 1}), side(), TEST, 0)) == [Arm("random")]


def test_few_shot_makes_an_arm_of_each_n_that_there_is():
    few = {n: {key: normal(WIDTH, seed=n) for key in CONCEPTS} for n in (1, 4)}
    arms = control_arms(load_adapter("few-shot", options={"n": [4, 2, 1]}), side(few_shot=few), TEST, 0)
    assert [arm.name for arm in arms] == ["few-shot-1", "few-shot-4"]
    assert torch.equal(arms[Arm("few-shot", "4")]["c11"], few[4]["c11"])
    with pytest.raises(ValueError, match="few-shot"):
        control_arms(load_adapter("few-shot", options={"n": [2]}), side(few_shot=few), TEST, 0)


# ------------------------------------------------------------------------------------------ adapters


def test_every_shipped_adapter_loads_and_names_its_source_or_formula():
    files = sorted(shipped("adapters").glob("*.yaml"))
    assert len(files) >= 20
    for file in files:
        adapter = load_adapter(file.stem)
        assert adapter.name == file.stem
        assert len(adapter.about) > 30


def test_the_options_of_a_method_and_their_defaults_are_those_of_its_function():
    for method, function in {**FITS, "text-relay": relay}.items():
        given = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
        own = {name for name, default in given.items() if default is not inspect.Parameter.empty} - {"seed", "kept"}
        fields = TRANSFERS[method].model_fields
        assert set(fields) == own, method
        for name, field in fields.items():
            default = tuple(field.default) if isinstance(field.default, list) else field.default
            assert default == given[name], (method, name)
    assert set(TRANSFERS) == {*FITS, "text-relay"}
    assert set(CONTROLS) == {*CONTROL_VECTORS, "few-shot", "wrong-concept"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "tranfer"}, "unknown kind 'tranfer'; did you mean 'transfer'?"),
        ({"method": "rige"}, "unknown method 'rige'; did you mean 'ridge'?"),
        ({"abuot": "x"}, "unknown key 'abuot'; did you mean 'about'?"),
        ({"about": 3}, "key 'about' is missing or not a text"),
        ({"adapter": "a/b"}, "key 'adapter': id 'a/b'"),
        ({"options": [1]}, "options must be a mapping"),
        ({"options": {"strenghts": [1.0]}}, "unknown option of method 'ridge' 'strenghts'; did you mean 'strengths'?"),
        ({"options": {"strengths": 0.1}}, "option 'strengths' of method 'ridge': Input should be a valid list (found 0.1)"),
        ({"options": {"strengths": [0.1, True]}}, "option 'strengths' of method 'ridge': Input should be a valid number"),
        ({"method": "random", "options": {"seeds": "3"}}, "option 'seeds' of method 'random': Input should be a valid integer"),
        ({"method": "prompt", "options": {"topic": "{concept}"}}, "option 'rule' of method 'prompt' is a text with {instruction}"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_an_adapter_is_said_with_its_file_and_key(change, said, tmp_path):
    known = {"adapter": "own", "kind": "transfer", "method": "ridge", "about": "words", "options": {"strengths": [0.1]}}
    (tmp_path / "own.yaml").write_text(json.dumps(known))
    assert load_adapter(str(tmp_path / "own.yaml")).options == {"strengths": [0.1]}
    (tmp_path / "own.yaml").write_text(json.dumps({**known, **change}))
    with pytest.raises(ValueError, match=re.escape(f"own.yaml: {said}")):
        load_adapter("own.yaml", base=tmp_path)


def test_options_in_the_experiment_go_before_the_adapters_own():
    one, two = load_adapters(["linear", {"random": {"seeds": 2}}])
    assert (one.name, two.name, two.options) == ("linear", "random", {"seeds": 2})
    with pytest.raises(ValueError, match=r"did you mean 'seeds'"):
        load_adapters([{"random": {"seed": 2}}])
    with pytest.raises(ValueError, match="give its options as a mapping"):
        load_adapters([{"random": 2}])


# ------------------------------------------------------------------------------------------ vocabularies and texts


def test_shared_unembedding_of_a_twin_finds_the_rotation():
    texts = [" ".join(f"word{i} thing{i} sea{i} and{i}" for i in range(60))] * 3
    tokenizer = tiny_tokenizer(texts, vocab_size=512, bos=True)
    model = tiny_gemma3(24)
    q = random_rotation(24, 1)
    twin = rotated_twin(model, q)
    assert {"word", " sea"} & {word[:4] for word in words(tokenizer)}
    found = shared_unembedding(Loaded("twin", twin, tokenizer), Loaded("model", model, tokenizer))
    assert not isinstance(found, str)
    train, held = found
    assert train.n + held.n == len(words(tokenizer))
    rows = model.lm_head.weight.double() * norm_gain(model.model.norm)
    mean = rows[[number for i, number in enumerate(words(tokenizer).values()) if i % 10 != 9]].mean(0)
    torch.testing.assert_close(train.target_mean, mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(train.source_mean, mean @ q.T, atol=1e-4, rtol=1e-3)


def test_vocabularies_that_share_nothing_give_the_reason():
    one, two = tiny_pair("llama"), tiny_pair("llama")

    class Other:
        all_special_tokens: tuple[str, ...] = ()
        get_added_vocab = staticmethod(dict)
        get_vocab = staticmethod(lambda: {"\u2581zzz": 0, "<0x41>": 1})

    assert words(Other()) == {" zzz": 0}
    found = shared_unembedding(Loaded("a", one[0], one[1]), Loaded("b", two[0], Other()))
    assert found == "the vocabularies share 0 tokens"


def test_text_means_are_the_means_of_each_text_alone():
    model, tokenizer = tiny_pair("gemma3")
    loaded, texts = (
        Loaded("tiny", model, tokenizer),
        ["The sea was grey.", "Two cups of flour, an egg, and a pan.", "No."],
    )
    expected = mean_activations(loaded, 1, {text: [text] for text in texts})[""]
    means = text_means(loaded, 1, texts)
    for text, mean in zip(texts, means, strict=True):
        torch.testing.assert_close(mean.double(), expected[text].value, atol=1e-5, rtol=1e-5)
