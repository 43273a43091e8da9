"""Vector files: what was saved comes back to the bit, and anything else is refused by the file's name."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from steer_bench.vectors.arms import Arm, ArmEntry, Arms, ArmsCard
from steer_bench.vectors.store import VectorCard, VectorStore, unit
from steer_bench.vectors.tensor_file import load_card, load_tensors, save_tensors

WIDTH = 6


def _row(*key: object, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng([hash(part) % 1000 for part in key]).normal(size=width).astype(np.float32)


def store(**options) -> VectorStore:
    vectors = {"sea": _row(1), "law": _row(2), "Été_1.2-x": np.array([0, -0.0, 1e-45, 3.4e38, -1, 1 / 3], np.float32)}
    return VectorStore(**{"model": "owner/model", "layer": 3, "vectors": vectors, "scale": 0.1 + 0.2, **options})


def arms(**options) -> Arms:
    linear = Arm("linear", source="a/b"), Arm("linear", source="c")
    keys = [(Arm("native"), "sea"), (Arm("native"), "law"), (linear[0], "sea"), (linear[1], "sea")]
    vectors = {arm: _row(i) for i, arm in enumerate(keys)}
    return Arms(**{"target": "owner/model", "layer": 3, "scale": 12.5, "vectors": vectors, **options})


@pytest.fixture
def file(tmp_path) -> Path:
    store().save(tmp_path / "vectors.safetensors")
    return tmp_path / "vectors.safetensors"


# ------------------------------------------------------------------------------------------------ there and back


def test_a_store_comes_back_to_the_bit(file):
    back = VectorStore.load(file)
    assert (back.model, back.layer, back.scale, back.d_model) == ("owner/model", 3, 0.1 + 0.2, WIDTH)
    assert back.vectors.keys() == store().vectors.keys()
    for concept, vector in store().vectors.items():
        assert back.vectors[concept].dtype == np.float32
        assert back.vectors[concept].tobytes() == vector.tobytes()  # -0.0 and a subnormal number too


def test_an_arms_file_comes_back_to_the_bit_with_its_card(tmp_path):
    fits = [{"arm": "linear", "source": "a/b", "r2": 0.25, "n": 7}]
    arms(card=ArmsCard.model_validate({"revision": "abc", "fits": fits})).save(
        tmp_path / "deep" / "er" / "arms.safetensors"
    )
    back = Arms.load(str(tmp_path / "deep" / "er" / "arms.safetensors"))
    assert (back.target, back.layer, back.scale, back.d_model) == ("owner/model", 3, 12.5, WIDTH)
    assert back.vectors.keys() == arms().vectors.keys()
    assert all(back.vectors[arm].tobytes() == vector.tobytes() for arm, vector in arms().vectors.items())
    assert (back.card.revision, back.card.to_json()["fits"]) == ("abc", fits)


def test_the_card_is_read_without_the_tensors_and_holds_what_identifies_them(file):
    card = load_card(file)
    assert {key: card[key] for key in ("kind", "model", "layer", "d_model")} == {
        "kind": "vectors", "model": "owner/model", "layer": 3, "d_model": WIDTH,
    }  # fmt: skip
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    file.write_bytes(file.read_bytes()[:header])
    assert load_card(file) == card
    with pytest.raises(ValueError, match="damaged safetensors"):
        load_tensors(file)


def test_the_file_is_plain_safetensors(file):
    foreign = load_file(file)
    assert {name: array.tobytes() for name, array in foreign.items()} == {
        name: array.tobytes() for name, array in store().vectors.items()
    }


def test_the_same_store_gives_the_same_bytes_whatever_the_order_of_its_concepts(tmp_path):
    reordered = dict(reversed(store().vectors.items()))
    store(card=VectorCard(b=1, a=2)).save(tmp_path / "1")
    store(vectors=reordered, card=VectorCard(a=2, b=1)).save(tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert list(load_tensors(tmp_path / "1")[0]) == sorted(reordered)


def test_keys_of_a_card_that_are_numbers_come_back_as_texts(tmp_path):
    save_tensors(tmp_path / "f", {"x": np.ones(1)}, {"tokens": {10: 1, 9: 2}})
    assert load_card(tmp_path / "f")["tokens"] == {"10": 1, "9": 2}


# ------------------------------------------------------------------------------------------------ saving


def test_saving_twice_replaces_and_never_adds(file):
    store(vectors={"only": _row(9)}).save(file)
    assert list(VectorStore.load(file).vectors) == ["only"]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_save_that_fails_leaves_the_old_file_as_it_was_and_nothing_beside_it(file, monkeypatch):
    before = file.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        store(vectors={"only": _row(9)}).save(file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39])  # float32 ends at 3.4e38
def test_a_number_that_float32_can_not_hold_is_never_saved(tmp_path, value):
    with pytest.raises(ValueError, match="f: tensor 'x' is not finite"):
        save_tensors(tmp_path / "f", {"x": np.array([1.0, value])}, {})
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ corruption


def _refused(path: Path, load=VectorStore.load) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        load(path)
    return str(error.value)


def test_a_file_truncated_anywhere_is_refused(file):
    data = file.read_bytes()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        _refused(file)


@pytest.mark.parametrize("mask", [0x01, 0xFF])
def test_a_file_with_any_one_byte_changed_is_refused(file, mask):
    store(scale=12.5).save(file)  # every digit counts: 0.30000000000000005 is the same number as ...04
    data = file.read_bytes()
    assert len(data) < 2000
    for place in range(len(data)):
        file.write_bytes(data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :])
        _refused(file)


def test_bytes_after_the_end_are_refused(file):
    file.write_bytes(file.read_bytes() + b"\0")
    _refused(file)


def test_an_edited_card_is_refused_even_where_only_the_card_is_read(file):
    data = file.read_bytes()
    edited = data.replace(b'\\"layer\\": 3', b'\\"layer\\": 4')
    assert edited != data
    file.write_bytes(edited)
    assert "card is not the one that was saved" in _refused(file)
    _refused(file, load_card)


def test_a_nan_in_the_data_is_refused_by_the_tensor_s_name(file):
    data = bytearray(file.read_bytes())
    data[-4:] = np.float32(math.nan).tobytes()
    file.write_bytes(data)
    assert "NaN or Inf" in _refused(file)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 64,
        b"model: x\n",
        b"PK\x03\x04" + b"\0" * 100,
        b"\x80\x04\x95",
        b"GGUF\x03\0\0\0" + b"\0" * 40,
    ],
)
def test_what_is_no_safetensors_file_is_refused_and_convert_is_named(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    assert "steer-bench convert" in _refused(tmp_path / "f")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"steer_bench": "3"}, {"steer_bench": '{"card": 1}'}])
def test_safetensors_of_others_are_refused_and_convert_is_named(tmp_path, metadata):
    save_file({"sea": _row(1)}, tmp_path / "f", metadata=metadata)
    assert "steer-bench convert" in _refused(tmp_path / "f")


def test_a_missing_file_is_refused_with_what_makes_it(tmp_path):
    assert "steer-bench run" in _refused(tmp_path / "no")
    assert "steer-bench run" in _refused(tmp_path)  # a folder


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_refused(tmp_path, content, with_header):
    (tmp_path / "f").write_bytes((len(content) // 2).to_bytes(8, "little") * with_header + content)
    _refused(tmp_path / "f")
    _refused(tmp_path / "f", Arms.load)
    _refused(tmp_path / "f", load_card)


def test_a_file_of_another_kind_is_refused_by_what_it_holds(file, tmp_path):
    arms().save(tmp_path / "arms")
    save_tensors(tmp_path / "map", {"weight": np.ones((2, 2))}, {"kind": "map"})
    assert "holds arms tensors, not the vectors of a model" in _refused(tmp_path / "arms")
    assert "holds vectors tensors, not the arms of a target" in _refused(file, Arms.load)
    assert "holds map tensors" in _refused(tmp_path / "map", Arms.load)
    save_tensors(tmp_path / "none", {}, {"kind": "arms"})
    _refused(tmp_path / "none", Arms.load)


def test_an_arms_file_of_the_older_form_is_refused_by_name_with_what_makes_it_again(tmp_path):
    card = {
        "kind": "arms",
        "target": "t",
        "layer": 1,
        "scale": 1.0,
        "d_model": WIDTH,
        "entries": [["native", "", ["sea"]]],
    }
    save_tensors(tmp_path / "f", {"native||sea": _row(1)}, card)
    assert "made by an older steer-bench; steer-bench fit RUN makes it again" in _refused(tmp_path / "f", Arms.load)
    assert "made by an older steer-bench" in _refused(tmp_path / "f", ArmsCard.read)


def test_an_arms_file_keeps_what_each_arm_is_and_two_arms_of_one_name_are_refused(tmp_path):
    seeds = [Arm("random", "1"), Arm("random", "12")]
    card = ArmsCard(arms=tuple(ArmEntry.of(arm, "control", "random", ["sea"]) for arm in seeds))
    Arms("t", 1, 1.0, {(arm, "sea"): _row(arm.variant) for arm in seeds}, card).save(tmp_path / "f")
    back = Arms.load(tmp_path / "f")
    assert back.entries == card.arms
    assert back.find("random-12", "", "sea").tobytes() == _row("12").tobytes()
    same = {(Arm("a-b"), "sea"): _row(1), (Arm("a", "b"), "sea"): _row(2)}
    with pytest.raises(ValueError, match=r"two arms are called 'a-b\|\|sea'"):
        Arms("t", 1, 1.0, same).save(tmp_path / "g")


def test_a_vector_of_another_width_in_an_arms_file_is_refused(tmp_path):
    card = {"kind": "arms", "target": "t", "layer": 1, "scale": 1.0, "d_model": WIDTH, "arms": []}
    save_tensors(tmp_path / "f", {"native||sea": _row(1), "linear|a|sea": _row(2, width=4)}, card)
    message = _refused(tmp_path / "f", Arms.load)
    assert "'linear|a|sea' has shape (4,), the target's d_model is 6" in message
    assert "steer-bench fit" in message


@pytest.mark.parametrize("shape", [(4,), (1, WIDTH)])
def test_a_store_takes_vectors_of_one_width_only(shape):
    with pytest.raises(ValueError, match="vector 'law' of owner/model"):
        store(vectors={"sea": _row(1), "law": np.ones(shape, np.float32)})


# ------------------------------------------------------------------------------------------------ finding an arm


def test_find_gives_the_vector_of_an_arm():
    assert arms().find("linear", "a/b", "sea").tobytes() == _row(2).tobytes()
    assert arms().find("native", "", "law").tobytes() == _row(1).tobytes()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("linaer", "a/b", "sea"), "unknown arm 'linaer' in the arms of owner/model; did you mean 'linear'?"),
        (("mlp", "a/b", "sea"), "unknown arm 'mlp' in the arms of owner/model; there are: 'linear', 'native'"),
        (
            ("linear", "a/d", "sea"),
            "unknown source of arm 'linear' 'a/d' in the arms of owner/model; did you mean 'a/b'?",
        ),
        (("linear", "", "sea"), "there are: 'a/b', 'c'"),
        (("native", "a/b", "sea"), "there are: ''"),
        (("native", "", "lav"), "unknown concept 'lav' in the arms of owner/model; did you mean 'law'?"),
        (("linear", "c", "law"), "there are: 'sea'"),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest_or_all_that_is(given, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        arms().find(*given)


def test_unit():
    assert np.linalg.norm(unit(np.array([1e-30, 1e-30], np.float32))) == pytest.approx(1)
    np.testing.assert_allclose(unit(np.array([0, 2, 0], np.float32)), [0, 1, 0])
    with pytest.raises(ValueError, match="no direction"):
        unit(np.zeros(3, np.float32))
