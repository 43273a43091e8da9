"""Vectors of other tools: read bit for bit, written bit for bit, and what is wrong with a file said in one line.

Files in tests/files were made with repeng 0.4.0 and steering-vectors 0.12.2 themselves; vector n of both is cos(n * [0 … 7]).
"""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from steer_bench.models.steered.steering import Steering, VectorBank
from steer_bench.vectors.arms import Arm, ArmEntry, Arms, ArmsCard
from steer_bench.vectors.convert import FORMATS, convert, read_vectors, write_vectors
from steer_bench.vectors.formats.vector_file import LAYER_CONVENTION, VectorFile, steered
from steer_bench.vectors.store import VectorCard, VectorStore
from steer_bench.vectors.summary import describe, render
from steer_bench.vectors.tensor_file import save_tensors

torch.set_num_threads(1)

FILES = Path(__file__).parents[1] / "files"
AXBENCH = Path(__file__).parents[3] / "shared" / "axbench"
ONE_STEERING = [name for name, format in FORMATS.items() if format.layers]
MANY = [name for name in FORMATS if name not in ONE_STEERING]
NAMES = {name: "v" + format.suffixes[0] for name, format in FORMATS.items()}


def file_of(*ids: str, **changes) -> VectorFile:
    """Numbers that show any rounding: subnormal, -0, the largest and odd last bits."""
    matrix = np.random.default_rng(len(ids)).normal(size=(len(ids), 6)).astype(np.float32)
    matrix[0, :4] = [1e-42, -0.0, np.finfo(np.float32).max, np.nextafter(np.float32(1), np.float32(2))]
    keys = {
        "model": "owner/model",
        "layer": 3,
        "ids": ids,
        "matrix": matrix,
        "card": {"scale": 7.25, "method": "made up"},
    }
    return VectorFile(**{**keys, **changes})


def arms_file(path: Path) -> Path:
    rng = np.random.default_rng(0)
    linear = Arm("linear", source="m/one"), Arm("linear", source="m/two")
    keys = [(Arm("native"), "a"), (Arm("native"), "b"), (linear[0], "a"), (linear[1], "a")]
    vectors = {key: rng.normal(size=6).astype(np.float32) for key in keys}
    card = {"revision": "r1", "fits": [{"arm": "linear", "source": "m/two", "r2": 0.5}]}
    Arms("owner/model", 3, 113.7, vectors, ArmsCard.model_validate(card)).save(path)
    return path


def store_file(path: Path) -> Path:
    vectors = {"a": np.array([3, 4, 0], np.float32), "b": np.array([0, 1, 0], np.float32)}
    VectorStore("owner/model", 3, vectors, 10.0, VectorCard(revision="r1", texts={"a": "h1", "b": "h2"})).save(path)
    return path


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype == np.float32 and one.shape == other.shape and one.tobytes() == other.tobytes()


class TestRoundTrips:
    @pytest.mark.parametrize("format", MANY)
    def test_many_vectors_come_back_bit_for_bit(self, format, tmp_path):
        written = file_of("a", "b", "c-1.x")
        path = write_vectors(tmp_path / NAMES[format], format, written)
        for read in (read_vectors(path, format), read_vectors(path)):
            assert read.ids == written.ids
            assert same_bits(read.matrix, written.matrix)
            assert (read.model, read.layer, read.scale) == ("owner/model", 3, 7.25)

    @pytest.mark.parametrize("format", ONE_STEERING)
    def test_one_vector_comes_back_bit_for_bit(self, format, tmp_path):
        written = file_of("happy")
        path = write_vectors(tmp_path / NAMES[format], format, written)
        read = read_vectors(path, format, allow_pickle=True)
        assert (read.model, read.layer, read.ids) == ("owner/model", 3, ("happy",))
        assert same_bits(read.matrix, written.matrix)

    @pytest.mark.parametrize("format", FORMATS)
    def test_the_card_travels_and_says_what_is_unknown(self, format, tmp_path):
        path = write_vectors(tmp_path / NAMES[format], format, file_of("happy", card={"scale": 1.0, "revision": "abc"}))
        card = read_vectors(path, format, allow_pickle=True).card
        assert card["revision"] == "abc"
        assert card["positions"] == card["template"] == card["method"] == "unknown"
        assert card["norm"] == "as made"
        assert card["layer_convention"] == LAYER_CONVENTION
        assert card["read_from"] == [
            {"file": path.name, "format": format, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        ]

    @pytest.mark.parametrize("format", sorted(set(FORMATS) - {"steer-bench", "arms"}))
    def test_the_same_vectors_give_the_same_bytes(self, format, tmp_path):
        files = [write_vectors(tmp_path / place / NAMES[format], format, file_of("a")) for place in "xy"]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert not [path.name for path in (tmp_path / "x").iterdir() if "part" in path.name]

    def test_through_every_format_of_one_steering_the_vector_stays_the_same(self, tmp_path):
        start = convert(
            arms_file(tmp_path / "arms.safetensors"), "gguf", tmp_path / "0.gguf", arm="native", concept="a", factor=0.4
        )
        first = read_vectors(start)
        chain = [
            ("lm-eval", "1.pt"),
            ("steering-vectors", "2.pt"),
            ("npy", "3.npy"),
            ("pt", "4.pt"),
            ("gguf", "5.gguf"),
        ]
        for to, name in chain:
            start = convert(start, to, tmp_path / name, allow_pickle=True)
        last = read_vectors(start)
        assert same_bits(first.matrix, last.matrix)
        assert (last.model, last.layer, last.ids, last.card["revision"]) == ("owner/model", 3, ("a",), "r1")
        assert [step["format"] for step in last.card["read_from"]] == [
            "arms", "gguf", "lm-eval", "steering-vectors", "npy", "pt", "gguf",
        ]  # fmt: skip


class TestSteering:
    @pytest.mark.parametrize("factor", [1.0, 0.4, -0.30000000000000004, 3.7])
    @pytest.mark.parametrize("format", ONE_STEERING)
    def test_what_is_written_is_bit_for_bit_what_the_vector_bank_adds(self, format, factor, tmp_path):
        arms = arms_file(tmp_path / "arms.safetensors")
        added = VectorBank(Arms.load(arms)).vector(Steering("linear", "m/two", "a", factor)).numpy()
        out = convert(
            arms, format, tmp_path / NAMES[format], arm="linear", source_model="m/two", concept="a", factor=factor
        )
        read = read_vectors(out, format, allow_pickle=True)
        assert same_bits(read.matrix[0], added)
        assert read.scale is None, "S is in the vector already"
        assert read.card["fits"] == [{"arm": "linear", "source": "m/two", "r2": 0.5}]

    def test_lm_eval_steered_adds_the_same_tensor_after_the_same_block(self, tmp_path):
        from lm_eval.models.hf_steered import SteeredModel

        arms = arms_file(tmp_path / "arms.safetensors")
        out = convert(arms, "lm-eval", tmp_path / "v.pt", arm="native", concept="b", factor=0.3)
        config = LlamaConfig(
            vocab_size=512, hidden_size=6, intermediate_size=8, num_hidden_layers=4, num_attention_heads=1,
            num_key_value_heads=1, head_dim=6,
        )  # fmt: skip
        lm = SteeredModel(LlamaForCausalLM(config), str(out), device="cpu", tokenizer=tiny_tokenizer(bos=True))
        (hook_point,) = lm.hook_to_steer
        assert hook_point == "layers.3"
        added = VectorBank(Arms.load(arms)).vector(Steering("native", "", "b", 0.3))
        assert torch.equal(lm.hook_to_steer[hook_point](torch.zeros(1, 2, 6)), added.expand(1, 2, 6))

    def test_the_lm_eval_file_is_the_one_lm_eval_documents(self, tmp_path):
        write_vectors(tmp_path / "v.pt", "lm-eval", file_of("a"))
        entry = torch.load(tmp_path / "v.pt", weights_only=True)["layers.3"]
        assert entry.pop("steer_bench")
        vector = entry.pop("steering_vector")
        assert vector.dtype == torch.float32
        assert entry == {"steering_coefficient": 1.0, "action": "add", "bias": None, "head_index": None}

    def test_without_a_scale_the_factor_multiplies_the_vector_as_it_is(self):
        one = steered(file_of("a", matrix=np.array([[3, 4]], np.float32), card={}), None, 0.5)
        assert one.matrix.tolist() == [[1.5, 2.0]]

    def test_with_a_scale_the_factor_multiplies_it_and_the_unit_vector(self):
        one = steered(file_of("a", matrix=np.array([[3, 4]], np.float32), card={"scale": 10.0}), "a", 0.5)
        assert one.matrix.tolist() == [[3.0, 4.0]]
        assert one.card["norm"] == "factor 0.5 x S 10.0 x unit vector"

    @pytest.mark.parametrize("factor", [0.0, float("nan"), float("inf")])
    def test_a_factor_that_steers_nothing_is_refused(self, factor):
        with pytest.raises(ValueError, match="steers nothing"):
            steered(file_of("a"), None, factor)

    def test_a_zero_vector_is_refused_by_name(self, tmp_path):
        save = file_of("a", "b", matrix=np.array([[1, 0], [0, 0]], np.float32))
        path = write_vectors(tmp_path / "v.npy", "npy", save)
        with pytest.raises(ValueError, match=r"v\.npy: vector 'b': a zero vector"):
            convert(path, "gguf", tmp_path / "v.gguf", concept="b")

    def test_the_card_of_one_vector_speaks_of_that_vector_only(self, tmp_path):
        out = convert(store_file(tmp_path / "s.safetensors"), "gguf", tmp_path / "v.gguf", concept="b")
        assert read_vectors(out).card["texts"] == {"b": "h2"}


class TestControlVectors:
    def test_a_file_of_repeng_is_read_bit_for_bit(self):
        made = json.loads((FILES / "repeng-0.4.0.json").read_text())
        for layer, vector in made["vectors"].items():
            read = read_vectors(FILES / "repeng-0.4.0.gguf", layer=int(layer), model="m")
            assert same_bits(read.matrix[0], np.array(vector, np.float32))
            assert (read.layer, read.ids, read.card["model_hint"]) == (int(layer), ("repeng-0.4.0",), "llama")
            assert read.card["layers_in_file"] == [1, 2, 3]

    def test_direction_n_added_to_the_output_of_block_n_gives_the_logits_of_repeng(self):
        made = json.loads((FILES / "repeng-0.4.0.json").read_text())
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=8,
                hidden_size=8,
                intermediate_size=16,
                num_hidden_layers=4,
                num_attention_heads=2,
                num_key_value_heads=2,
            )
        ).eval()
        with torch.no_grad():
            for i, weight in enumerate(model.parameters()):
                numbers = torch.sin(torch.arange(weight.numel(), dtype=torch.float64) * (i + 1) + i)
                weight.copy_(numbers.float().reshape(weight.shape) * 0.5)
        read = read_vectors(FILES / "repeng-0.4.0.gguf", layer=made["layer"])
        vector = torch.from_numpy(read.matrix[0])

        def last_logits() -> list[float]:
            with torch.no_grad():
                return model(torch.tensor([made["tokens"]])).logits[0, -1].tolist()

        assert last_logits() == pytest.approx(made["plain"], abs=1e-4)
        hook = model.model.layers[read.layer].register_forward_hook(lambda _module, _args, output: output + vector)
        assert last_logits() == pytest.approx(made["steered"], abs=1e-4)
        hook.remove()

    def test_what_is_written_has_the_fields_that_repeng_and_llama_cpp_read(self, tmp_path):
        from gguf import GGMLQuantizationType, GGUFReader

        reader = GGUFReader(write_vectors(tmp_path / "v.gguf", "gguf", file_of("a", card={"model_hint": "gemma2"})))
        contents = {key: field.contents() for key, field in reader.fields.items()}
        assert contents["general.architecture"] == "controlvector"
        assert contents["controlvector.model_hint"] == "gemma2"
        assert contents["controlvector.layer_count"] == 1
        assert [(t.name, t.tensor_type) for t in reader.tensors] == [("direction.3", GGMLQuantizationType.F32)]

    def test_block_0_which_llama_cpp_cannot_steer_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"v\.gguf: llama\.cpp never steers block 0"):
            write_vectors(tmp_path / "v.gguf", "gguf", file_of("a", layer=0))
        assert list(tmp_path.iterdir()) == []

    def test_several_layers_have_to_be_chosen_from(self):
        with pytest.raises(ValueError, match=r"repeng-0\.4\.0\.gguf: holds 3 layers; choose one \(--layer\): 1, 2, 3"):
            read_vectors(FILES / "repeng-0.4.0.gguf")
        with pytest.raises(ValueError, match=r"holds no layer 7; there are: 1, 2, 3"):
            read_vectors(FILES / "repeng-0.4.0.gguf", layer=7)

    def test_a_gguf_file_that_is_a_model_is_refused(self, tmp_path):
        from gguf import GGUFWriter

        writer = GGUFWriter(tmp_path / "m.gguf", "llama")
        writer.add_tensor("output.weight", np.zeros((2, 2), np.float32))
        for step in (
            writer.write_header_to_file,
            writer.write_kv_data_to_file,
            writer.write_tensors_to_file,
            writer.close,
        ):
            step()
        with pytest.raises(ValueError, match=r"m\.gguf: a GGUF file of architecture 'llama', not a control vector"):
            read_vectors(tmp_path / "m.gguf")


class TestPickles:
    @pytest.mark.parametrize("name", ["steering_vectors-0.12.2.pt", "steering_vectors-0.12.2.pkl"])
    def test_files_of_the_steering_vectors_package_are_read_on_request_only(self, name):
        with pytest.raises(ValueError, match=rf"{name}: .*pickle"):
            read_vectors(FILES / name, layer=2)
        read = read_vectors(FILES / name, layer=2, allow_pickle=True)
        assert same_bits(read.matrix[0], np.cos(np.arange(8) * 2).astype(np.float32))
        assert "steering_vectors" not in sys.modules

    def test_the_package_itself_would_load_what_is_written(self, tmp_path):
        """In a process where the class stands under the package's name, as the real package has it."""
        path = write_vectors(tmp_path / "v.pt", "steering-vectors", file_of("a"))
        package = tmp_path / "steering_vectors"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "steering_vector.py").write_text(
            "from dataclasses import dataclass\n@dataclass\nclass SteeringVector:\n    layer_activations: dict\n    layer_type: str\n"
        )
        code = "import sys, torch; v = torch.load(sys.argv[1], weights_only=False); print(v.layer_type, v.layer_activations[3].tolist())"
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], cwd=tmp_path, capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
        assert done.stdout.strip() == f"decoder_block {file_of('a').matrix[0].tolist()}"

    def test_other_layer_types_are_refused(self, tmp_path):
        pickled = (FILES / "steering_vectors-0.12.2.pkl").read_bytes().replace(b"decoder_block", b"self_attn_out")
        (tmp_path / "v.pkl").write_bytes(pickled)
        with pytest.raises(ValueError, match=r"v\.pkl: steers layer_type 'self_attn_out'"):
            read_vectors(tmp_path / "v.pkl", layer=2, allow_pickle=True)

    @pytest.mark.parametrize("allow_pickle", [False, True])
    @pytest.mark.parametrize("format", [None, *FORMATS])
    @pytest.mark.parametrize("how", ["torch", "pickle", "numpy", "inside"])
    def test_code_in_a_file_never_runs(self, how, format, allow_pickle, tmp_path):
        marker, name = tmp_path / "marker", "evil_weight.pt"

        class Evil:
            def __reduce__(self):
                return os.system, (f"touch {marker}",)

        evil = tmp_path / name
        if how == "torch":
            torch.save(Evil(), evil)
        elif how == "pickle":
            evil.write_bytes(b"\x80\x04" + pickle.dumps(Evil())[2:])
        elif how == "numpy":
            with evil.open("wb") as file:
                np.save(file, np.array([Evil()], dtype=object), allow_pickle=True)
        else:  # beside the name of the class that is allowed
            torch.save({"steering_vectors.steering_vector": Evil()}, evil)
        shutil.copy(evil, tmp_path / "evil_bias.pt")
        with pytest.raises(ValueError, match="evil_"):
            read_vectors(evil, format, allow_pickle=allow_pickle)
        with pytest.raises(ValueError, match="evil_"):
            describe(evil, format=format, allow_pickle=allow_pickle)
        assert not marker.exists()


class TestAxBench:
    def weights(self, folder: Path, matrix: torch.Tensor, lines: list[dict]) -> Path:
        folder.mkdir(exist_ok=True)
        torch.save(matrix, folder / "DiffMean_weight.pt")
        torch.save(torch.zeros(len(matrix)), folder / "DiffMean_bias.pt")
        (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder / "DiffMean_weight.pt"

    def test_published_vectors_are_read_exactly_and_named_as_our_concepts_are(self, tmp_path):
        file, metadata = (
            AXBENCH / "vectors/gemma-2-2b-it-l10/DiffMean_weight.pt",
            AXBENCH / "concept10/prod_2b_l10_v1/metadata.jsonl",
        )
        if not file.is_file():
            pytest.skip(f"the published AxBench vectors are not at {AXBENCH}")
        read = read_vectors(file, ids=metadata, model="google/gemma-2-2b-it", layer=10)
        assert read.ids == tuple(f"prod_2b_l10_v1-{row}" for row in range(10))
        assert (read.matrix.shape, read.card["norm"]) == ((10, 2304), "unit")
        back = write_vectors(tmp_path / "DiffMean_weight.pt", "axbench", read)
        assert torch.equal(torch.load(back, weights_only=True).bfloat16(), torch.load(file, weights_only=True))
        assert same_bits(read_vectors(back).matrix, read.matrix)

    def test_bfloat16_weights_become_the_same_numbers_in_float32(self, tmp_path):
        weight = torch.randn(2, 5).bfloat16()
        read = read_vectors(self.weights(tmp_path / "set", weight, [{"concept_id": 0}, {"concept_id": 1}]))
        assert torch.equal(torch.from_numpy(read.matrix), weight.float())
        assert (read.model, read.layer) == ("", None)

    @pytest.mark.parametrize(
        ("lines", "rows"),
        [
            ([2, 0, 1], {0: "set-0", 1: "set-1", 2: "set-2"}),  # out of order
            ([3, 1], {1: "set-1", 3: "set-3"}),  # filtered
            ([0], {0: "set-0"}),
            ([4, 3, 2, 1, 0], {i: f"set-{i}" for i in range(5)}),
        ],
    )
    def test_a_row_is_the_concept_of_that_concept_id(self, lines, rows, tmp_path):
        path = self.weights(tmp_path / "set", torch.eye(5), [{"concept_id": number} for number in lines])
        read = read_vectors(path)
        assert dict(zip(read.matrix.argmax(axis=1).tolist(), read.ids, strict=True)) == rows
        assert read.card.get("rows_left_out", 0) == 5 - len(lines)

    def test_a_concept_id_beyond_the_rows_is_refused(self, tmp_path):
        path = self.weights(tmp_path / "set", torch.eye(2), [{"concept_id": 4}, {"concept_id": 2}])
        with pytest.raises(ValueError, match=r"names concept_id 4, and DiffMean_weight\.pt holds 2 rows"):
            read_vectors(path)

    @pytest.mark.parametrize(
        ("folder", "first"),
        [
            ("prod_2b_l10_v1/generate", "prod_2b_l10_v1-0"),
            ("prod_2b_l20_v1/train", "prod_2b_l20_v1-0"),
            ("mine", "mine-0"),
        ],
    )
    def test_a_folder_that_every_set_has_gives_no_name(self, folder, first, tmp_path):
        (tmp_path / folder).parent.mkdir(exist_ok=True)
        assert read_vectors(self.weights(tmp_path / folder, torch.eye(1), [{"concept_id": 0}])).ids == (first,)

    def test_biases_are_kept(self, tmp_path):
        path = self.weights(tmp_path / "set", torch.eye(2), [{"concept_id": 0}, {"concept_id": 1}])
        torch.save(torch.tensor([0.5, -1.25]), path.with_name("DiffMean_bias.pt"))
        back = write_vectors(tmp_path / "back" / "DiffMean_weight.pt", "axbench", read_vectors(path))
        assert torch.load(back.with_name("DiffMean_bias.pt"), weights_only=True).tolist() == [0.5, -1.25]

    def test_a_concept_that_stands_twice_is_refused_with_both_lines(self, tmp_path):
        path = self.weights(tmp_path / "set", torch.eye(3), [{"concept_id": 7}, {"concept_id": 1}, {"concept_id": 7}])
        with pytest.raises(ValueError, match=r"metadata\.jsonl, line 3: concept_id .*7"):
            read_vectors(path)

    def test_a_missing_bias_or_metadata_is_said(self, tmp_path):
        path = self.weights(tmp_path / "set", torch.eye(2), [{"concept_id": 0}, {"concept_id": 1}])
        path.with_name("metadata.jsonl").unlink()
        with pytest.raises(ValueError, match=r"metadata\.jsonl: no such file.*--ids"):
            read_vectors(path)
        path.with_name("DiffMean_bias.pt").unlink()
        with pytest.raises(ValueError, match=r"DiffMean_bias\.pt: missing"):
            read_vectors(path)

    def test_metadata_of_other_vectors_is_not_overwritten(self, tmp_path):
        (tmp_path / "metadata.jsonl").write_text('{"concept_id": 0}\n')
        with pytest.raises(ValueError, match=r"metadata\.jsonl: names other vectors"):
            write_vectors(tmp_path / "DiffMean_weight.pt", "axbench", file_of("a"))
        assert [path.name for path in tmp_path.iterdir()] == ["metadata.jsonl"]


class TestPlain:
    def test_ids_come_from_the_text_file_that_is_given(self, tmp_path):
        np.save(tmp_path / "v.npy", np.eye(2))
        (tmp_path / "names.txt").write_bytes("\ufeffone\r\ntwo\r\n".encode())
        read = read_vectors(tmp_path / "v.npy", ids=tmp_path / "names.txt", model="m", layer=1)
        assert (read.ids, read.matrix.tolist(), read.model, read.layer) == (("one", "two"), [[1, 0], [0, 1]], "m", 1)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a\n", "names 1 vectors, v.npy holds 2"),
            ("a\na\n", "line 2: 'a' stands in line 1 already"),
            ("a\n\nb\n", "line 2: empty"),
        ],
    )
    def test_ids_that_do_not_fit_are_refused(self, text, said, tmp_path):
        np.save(tmp_path / "v.npy", np.eye(2))
        (tmp_path / "v.ids.txt").write_text(text)
        with pytest.raises(ValueError, match=said):
            read_vectors(tmp_path / "v.npy")

    def test_a_matrix_without_ids_says_how_to_give_them(self, tmp_path):
        np.save(tmp_path / "v.npy", np.eye(2))
        with pytest.raises(ValueError, match=r"v\.npy: 2 vectors without ids; .*--ids"):
            read_vectors(tmp_path / "v.npy")

    def test_a_mapping_of_tensors_has_its_ids_itself(self, tmp_path):
        torch.save({"b": torch.ones(3), "a": torch.zeros(3).half()}, tmp_path / "v.pt")
        read = read_vectors(tmp_path / "v.pt")
        assert (read.ids, read.matrix.tolist()) == (("b", "a"), [[1, 1, 1], [0, 0, 0]])

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
    def test_numbers_that_float32_cannot_hold_are_refused(self, value, tmp_path):
        np.save(tmp_path / "v.npy", np.array([1.0, value]))
        with pytest.raises(ValueError, match=r"v\.npy: vector 'v' holds NaN or Inf"):
            read_vectors(tmp_path / "v.npy")

    def test_a_card_of_another_file_is_refused(self, tmp_path):
        path = write_vectors(tmp_path / "v.npy", "npy", file_of("a", "b"))
        np.save(path, np.eye(2))
        with pytest.raises(ValueError, match=r"v\.npy\.card\.json: the card of another v\.npy"):
            read_vectors(path)

    def test_a_file_that_claims_more_than_it_holds_is_refused(self, tmp_path):
        torch.save(torch.zeros(1).expand(1 << 40), tmp_path / "v.pt")
        with pytest.raises(ValueError, match=r"v\.pt: .*more than the file can hold"):
            read_vectors(tmp_path / "v.pt")


class TestLmEvalFiles:
    def entry(self, **changes) -> dict:
        return {"steering_vector": torch.tensor([1.5, 3.0]), "steering_coefficient": 2.0, "action": "add", **changes}

    def test_the_coefficient_is_multiplied_in(self, tmp_path):
        torch.save({"h.4": self.entry()}, tmp_path / "v.pt")
        read = read_vectors(tmp_path / "v.pt", concept="joy")
        assert (read.layer, read.ids, read.matrix.tolist()) == (4, ("joy",), [[3.0, 6.0]])
        assert (read.card["hook_point"], read.card["positions_steered"]) == ("h", "all")

    @pytest.mark.parametrize(
        ("hook_point", "changes", "said"),
        [
            ("layers.4", {"action": "clamp"}, "does more than add"),
            ("layers.4", {"bias": torch.ones(2)}, "does more than add"),
            ("layers.4", {"head_index": 1}, "does more than add"),
            ("layers.4.mlp", {}, "'layers.4.mlp' is no decoder block"),
            ("layers.4", {"steering_coefficient": "two"}, "not a finite number"),
            ("layers.4", {"steering_vector": [1.0]}, "not a tensor"),
        ],
    )
    def test_what_is_no_steering_vector_is_refused(self, hook_point, changes, said, tmp_path):
        torch.save({hook_point: self.entry(**changes)}, tmp_path / "v.pt")
        with pytest.raises(ValueError, match=rf"v\.pt: .*{said}"):
            read_vectors(tmp_path / "v.pt")


class TestArms:
    def test_imported_vectors_are_an_arm_like_any_other(self, tmp_path):
        npy = tmp_path / "v.npy"
        np.save(npy, np.array([[3.0, 4.0, 0.0], [0.0, 2.0, 0.0]]))
        (tmp_path / "v.ids.txt").write_text("a\nb\n")
        like = store_file(tmp_path / "store.safetensors")
        out = convert(
            npy, "arms", tmp_path / "arms.safetensors", model="owner/model", layer=3, like=like, arm="published"
        )
        arms = Arms.load(out)
        assert (arms.target, arms.layer, arms.scale) == ("owner/model", 3, 10.0)
        assert VectorBank(arms).vector(Steering("published", "", "a", 0.5)).tolist() == pytest.approx([3, 4, 0])
        assert arms.entries == (ArmEntry(adapter="published", method="imported", concepts=("a", "b")),)

    def test_imported_vectors_are_vectors_of_a_model_to_transfer(self, tmp_path):
        out = convert(
            FILES / "repeng-0.4.0.gguf",
            "steer-bench",
            tmp_path / "v.safetensors",
            model="m",
            layer=2,
            scale=5.0,
            concept="joy",
        )
        store = VectorStore.load(out)
        assert (store.model, store.layer, store.scale, list(store.vectors)) == ("m", 2, 5.0, ["joy"])

    def test_the_scale_of_a_file_of_another_model_layer_or_width_is_refused(self, tmp_path):
        like = store_file(tmp_path / "store.safetensors")
        vectors = file_of("a", matrix=np.ones((1, 3), np.float32), card={})
        npy, out = tmp_path / "v.npy", tmp_path / "arms.safetensors"
        assert Arms.load(convert(write_vectors(npy, "npy", vectors), "arms", out, like=like)).scale == 10.0
        for other in (
            replace(vectors, model="m"),
            replace(vectors, layer=4),
            replace(vectors, matrix=np.ones((1, 2), np.float32)),
        ):
            with pytest.raises(
                ValueError, match=r"store\.safetensors: is of owner/model, layer 3, d_model 3; the vectors are of"
            ):
                convert(write_vectors(npy, "npy", other), "arms", out, like=like)

    def test_an_unknown_scale_model_or_layer_says_what_to_give(self, tmp_path):
        for changes, said in (({"card": {}}, "--scale"), ({"model": ""}, "--model"), ({"layer": None}, "--layer")):
            for format in ("arms", "steer-bench"):
                with pytest.raises(ValueError, match=rf"v\.safetensors: .*{said}"):
                    write_vectors(tmp_path / "v.safetensors", format, file_of("a", **changes))

    @pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), True])
    def test_a_scale_that_cannot_be_one_is_refused(self, scale, tmp_path):
        path = write_vectors(tmp_path / "v.npy", "npy", file_of("a"))
        with pytest.raises(ValueError, match="cannot be S"):
            convert(path, "arms", tmp_path / "arms.safetensors", scale=scale)

    @pytest.mark.parametrize("format", ["arms", "steer-bench"])
    def test_an_id_that_cannot_be_a_file_name_is_refused(self, format, tmp_path):
        with pytest.raises(ValueError, match=r"'\.\./a'"):
            write_vectors(tmp_path / "v.safetensors", format, file_of("../a"))

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({}, r"name one of its arms \(--arm\): linear, native"),
            ({"arm": "linea"}, "unknown arm 'linea'; did you mean 'linear'"),
            ({"arm": "linear"}, r"several sources, name one \(--source\): m/one, m/two"),
            ({"arm": "linear", "source_model": "m/tow"}, "did you mean 'm/two'"),
            ({"arm": "native", "model": "other"}, "is of owner/model, layer 3"),
        ],
    )
    def test_the_arm_has_to_be_one_that_is_there(self, options, said, tmp_path):
        with pytest.raises(ValueError, match=rf"arms\.safetensors: .*{said}"):
            read_vectors(arms_file(tmp_path / "arms.safetensors"), **options)


class TestErrors:
    @pytest.mark.parametrize(
        ("to", "name", "options", "said"),
        [
            ("ggfu", "v.gguf", {}, "unknown format 'ggfu'; did you mean 'gguf'"),
            ("gguf", "v.bin", {}, r"v\.bin: a file of format gguf has to end in \.gguf"),
            ("gguf", "v.gguf", {}, r"s\.safetensors: 2 vectors, and the format holds one; .*--concept\): a, b"),
            ("gguf", "v.gguf", {"concept": "A"}, r"s\.safetensors: unknown id 'A'; there are: 'a', 'b'"),
            ("gguf", "v.gguf", {"ids": Path("x.txt")}, "leave out the ids"),
            ("npy", "v.npy", {"factor": 2.0}, "leave out the factor"),
            ("npy", "v.npy", {"arm": "native"}, "no arms; leave out the arm"),
            ("npy", "v.npy", {"scale": 1.0, "like": Path("x")}, "give one of them"),
            ("steer-bench", "s.safetensors", {}, "is the source itself"),
        ],
    )
    def test_convert_says_what_is_wrong_and_how_to_go_on(self, to, name, options, said, tmp_path):
        source = store_file(tmp_path / "s.safetensors")
        with pytest.raises(ValueError, match=said) as caught:
            convert(source, to, tmp_path / name, **options)
        assert "\n" not in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]

    def test_a_missing_file_is_said_to_be_missing(self, tmp_path):
        for format in (None, *FORMATS):
            with pytest.raises(ValueError, match=r"nothing_weight\.pt: no such file"):
                read_vectors(tmp_path / "nothing_weight.pt", format)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"ids": ("a", "a")}, "'a' stands twice"),
            ({"ids": ("a",)}, "1 ids for 2 vectors"),
            ({"ids": ("a", "b\nc")}, "not one line"),
            ({"ids": ("a", " ")}, "empty"),
            ({"matrix": np.zeros((2, 3))}, "float64"),
            ({"matrix": np.zeros((0, 3), np.float32)}, "n, d_model"),
            ({"layer": -1}, "count from 0"),
        ],
    )
    def test_a_vector_file_that_makes_no_sense_is_refused(self, changes, said):
        with pytest.raises(ValueError, match=said):
            file_of("a", "b", **changes)

    @settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        start=st.sampled_from(
            [
                b"",
                b"GGUF\x03\0\0\0",
                b"\x93NUMPY\x01\0",
                b"PK\x03\x04",
                b"\x80\x02",
                b"\x80\x04\x95",
                b"\x10\0\0\0\0\0\0\0{",
            ]
        ),
        noise=st.binary(max_size=80),
    )
    def test_random_bytes_are_a_value_error_that_names_the_file(self, start, noise, tmp_path):
        path = tmp_path / "noise_weight.pt"
        path.write_bytes(start + noise)
        shutil.copy(path, tmp_path / "noise_bias.pt")
        for format in (None, *FORMATS):
            with pytest.raises(ValueError, match="noise_") as caught:
                read_vectors(path, format, allow_pickle=True)
            assert "\n" not in str(caught.value)

    @settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    @pytest.mark.parametrize("format", FORMATS)
    def test_a_damaged_file_is_read_or_a_value_error(self, format, data, tmp_path):
        path = tmp_path / NAMES[format]
        if not path.is_file():
            write_vectors(path, format, file_of("a"))
            (tmp_path / "whole").write_bytes(path.read_bytes())
        whole = bytearray((tmp_path / "whole").read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(whole[: data.draw(st.integers(len(whole) // 2, len(whole)))])
        with contextlib.suppress(ValueError):
            read_vectors(path, format, allow_pickle=True)


class TestInspect:
    def test_norms_cosines_duplicates_and_zeros_are_those_of_the_vectors(self, tmp_path):
        matrix = np.array([[3, 4, 0], [6, 8, 0.01], [0, 0, 2], [0, 0, 0]], np.float32)
        summary = describe(write_vectors(tmp_path / "v.npy", "npy", file_of("a", "b", "c", "zero", matrix=matrix)))
        assert [(entry.id, round(entry.norm, 3)) for entry in summary.entries] == [
            ("a", 5),
            ("b", 10),
            ("c", 2),
            ("zero", 0),
        ]
        assert [(pair.first, pair.second) for pair in summary.duplicates] == [("a", "b")]
        assert (summary.zeros, summary.n_duplicates, summary.cosines.pairs) == (("zero",), 1, 3)
        assert summary.cosines.lowest == 0
        assert summary.cosines.mean == pytest.approx((1 + 0.001) / 3, abs=1e-5)
        assert (summary.model, summary.layer, summary.card["method"]) == ("owner/model", 3, "made up")

    def test_blocks_of_many_vectors_give_the_cosines_of_all_pairs(self, tmp_path):
        matrix = np.random.default_rng(0).normal(size=(2100, 3)).astype(np.float32)
        np.save(tmp_path / "v.npy", matrix)
        summary = describe(tmp_path / "v.npy")
        units = matrix.astype(np.float64) / np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
        values = (units @ units.T)[np.triu_indices(2100, 1)]
        assert summary.cosines.pairs == len(values)
        assert (summary.cosines.lowest, summary.cosines.mean, summary.cosines.highest) == pytest.approx(
            (values.min(), values.mean(), values.max()), abs=1e-9
        )
        assert summary.n_duplicates == (values > 0.999).sum()
        assert len(summary.duplicates) == 1000
        assert summary.entries[7].id == "row 7"

    def test_arms_are_listed_by_arm_source_and_concept(self, tmp_path):
        summary = describe(arms_file(tmp_path / "arms.safetensors"))
        assert [entry.id for entry in summary.entries] == ["linear|m/one|a", "linear|m/two|a", "native||a", "native||b"]
        assert (summary.format, summary.model, summary.layer) == ("arms", "owner/model", 3)

    def test_layers_are_listed(self):
        summary = describe(FILES / "repeng-0.4.0.gguf")
        assert [entry.id for entry in summary.entries] == ["layer 1", "layer 2", "layer 3"]
        assert summary.layer is None

    def test_the_tensors_of_a_map_are_listed_with_their_shapes(self, tmp_path):
        save_tensors(
            tmp_path / "m.safetensors",
            {"W": np.ones((2, 8)), "b": np.ones(3)},
            {"kind": "map", "source": "s", "target": "t"},
        )
        summary = describe(tmp_path / "m.safetensors")
        assert [(entry.id, entry.norm, entry.shape) for entry in summary.entries] == [
            ("W", 4.0, (2, 8)), ("b", pytest.approx(3**0.5), (3,)),
        ]  # fmt: skip
        assert (summary.format, summary.model, summary.cosines) == ("map", "t", None)
        assert "map" in render(summary)

    @pytest.mark.parametrize("format", FORMATS)
    def test_every_format_is_rendered_with_ids_norms_and_provenance(self, format, tmp_path):
        path = write_vectors(tmp_path / NAMES[format], format, file_of("happy", matrix=np.array([[3, 4]], np.float32)))
        lines = render(describe(path, allow_pickle=True)).splitlines()
        assert any(line.split()[:2] == ["model", "owner/model"] for line in lines)
        assert any("happy" in line and line.split()[-1] == "5" for line in lines)
        assert any(line.split() == ["method", "made", "up"] for line in lines)

    def test_long_lists_are_cut_and_counted(self):
        np_ids = tuple(f"v{row}" for row in range(30))
        matrix = np.ones((30, 2), np.float32)
        text = render(_described(np_ids, matrix), most=5)
        assert "… 25 more" in text
        assert "435 pairs with cosine > 0.999" in text
        assert "… 430 more" in text


def _described(ids, matrix):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return describe(write_vectors(Path(folder) / "v.npy", "npy", file_of(*ids, matrix=matrix)))


def test_the_package_and_the_formats_without_tensors_import_no_torch():
    code = (
        "import sys, steer_bench.vectors.convert as c; from pathlib import Path; "
        f"c.read_vectors(Path({str(FILES / 'repeng-0.4.0.gguf')!r}), layer=1); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
