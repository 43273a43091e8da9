"""Twins: the same logits, and activations that are exactly Q times the model's."""

import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_gemma2, tiny_gemma3, tiny_llama, tiny_qwen2, tiny_qwen3, tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
)

from steer_bench.experiment.calibration.twins import random_permutation, random_rotation, rotated_twin, save_twin
from steer_bench.models.blocks import decoder_layers
from steer_bench.models.load import Loaded, load_model
from steer_bench.models.offline import OFFLINE_MODELS, cache_folder

BUILDERS = {
    "llama": tiny_llama,
    "llama tied": lambda: tiny_llama(tie_word_embeddings=True),
    "llama biases": lambda: tiny_llama(attention_bias=True, mlp_bias=True),
    "gemma3": tiny_gemma3,
    "gemma2": tiny_gemma2,
    "qwen2": tiny_qwen2,
    "qwen3": tiny_qwen3,
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _ids(vocab_size: int, n: int = 40) -> torch.Tensor:
    return torch.randint(3, vocab_size, (2, n), generator=torch.Generator().manual_seed(5))


def _residual(model, ids: torch.Tensor) -> list[torch.Tensor]:
    """Output of every decoder block."""
    seen: list[torch.Tensor] = []
    keep = lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)  # noqa: E731
    handles = [block.register_forward_hook(keep) for block in decoder_layers(model)]
    with torch.inference_mode():
        seen.append(model.get_input_embeddings()(ids))
        model(ids)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("make_q", [random_rotation, random_permutation])
@pytest.mark.parametrize("kind", BUILDERS)
def test_the_twin_has_the_same_logits_and_rotated_activations(kind, make_q):
    model = BUILDERS[kind]()
    q = make_q(32, seed=1)
    twin, ids = rotated_twin(model, q), _ids(512)
    with torch.inference_mode():
        logits, others = model(ids).logits, twin(ids).logits
    assert logits.std() > 0.05  # the model does compute something
    torch.testing.assert_close(others, logits, atol=1e-4, rtol=0)
    for mine, its in zip(_residual(model, ids), _residual(twin, ids), strict=True):
        torch.testing.assert_close(its, mine @ q.T.float(), atol=1e-4 * float(mine.abs().max()), rtol=1e-4)
        assert (its - mine).norm() > 0.5 * mine.norm()


@pytest.mark.parametrize("kind", ["llama tied", "gemma3"])
def test_the_model_itself_is_left_as_it_was(kind):
    model = BUILDERS[kind]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    twin = rotated_twin(model, random_rotation(32))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.config.tie_word_embeddings
    assert not twin.config.tie_word_embeddings
    assert twin.lm_head.weight is not twin.get_input_embeddings().weight


def test_the_twin_generates_the_same_text():
    model = tiny_gemma3()
    twin, ids = rotated_twin(model, random_rotation(32)), _ids(512, 8)[:1]
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(twin.generate(ids, **options), model.generate(ids, **options))


def test_a_rotation_is_orthogonal_and_belongs_to_its_seed():
    q = random_rotation(24, seed=3)
    torch.testing.assert_close(q @ q.T, torch.eye(24, dtype=torch.float64))
    assert torch.equal(q, random_rotation(24, seed=3))
    assert not torch.equal(q, random_rotation(24, seed=4))


def test_a_permutation_leaves_no_coordinate_in_place():
    q = random_permutation(24, seed=3)
    assert set(q.unique().tolist()) == {0, 1}
    assert torch.equal(q @ q.T, torch.eye(24, dtype=torch.float64))
    assert float(q.diagonal().sum()) == 0


def _shape() -> dict:
    return {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def test_an_unknown_architecture_is_refused():
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4))
    neox = GPTNeoXForCausalLM(GPTNeoXConfig(**_shape(), intermediate_size=64))
    olmo = Olmo2ForCausalLM(Olmo2Config(**_shape(), intermediate_size=64))
    for model, name in ((gpt2, "GPT2LMHeadModel"), (neox, "GPTNeoXForCausalLM"), (olmo, "Olmo2ForCausalLM")):
        with pytest.raises(ValueError, match=f"{name}.*no twin of it"):
            rotated_twin(model, random_rotation(32))


def test_a_part_that_is_not_rotated_is_refused():
    class Gated(torch.nn.Module):
        """An MLP whose output is scaled coordinate by coordinate."""

        def __init__(self, mlp):
            super().__init__()
            self.mlp, self.scale = mlp, torch.nn.Parameter(torch.linspace(0.5, 1.5, 32))

        def forward(self, hidden):
            return self.mlp(hidden) * self.scale

    model = tiny_llama()
    model.model.layers[1].mlp = Gated(model.model.layers[1].mlp)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM has parts that a twin does not know, .*: no twin of it"):
        rotated_twin(model, random_rotation(32))
    model = tiny_llama()
    model.model.layers[0].self_attn.register_forward_hook(lambda module, given, out: (out[0] + 0.1, *out[1:]))
    with pytest.raises(ValueError, match="a twin does not know"):
        rotated_twin(model, random_rotation(32))


def test_a_norm_that_takes_off_the_mean_is_refused():
    model = tiny_llama()
    model.model.layers[1].input_layernorm = torch.nn.LayerNorm(32, bias=False)
    with pytest.raises(ValueError, match="LayerNorm is not an RMSNorm"):
        rotated_twin(model, random_rotation(32))


def test_a_matrix_that_is_not_orthogonal_is_refused():
    model = tiny_llama()
    with pytest.raises(ValueError, match=r"not an orthogonal \(32, 32\) matrix"):
        rotated_twin(model, 2 * torch.eye(32))
    with pytest.raises(ValueError, match=r"shape \(16, 16\)"):
        rotated_twin(model, torch.eye(16))


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_the_offline_models_have_twins(name):
    if not (cache_folder() / "models" / name / "config.json").is_file():
        pytest.importorskip(OFFLINE_MODELS[name].module, reason=f"needs {OFFLINE_MODELS[name].install}")
    loaded = load_model(name, dtype="float32", device="cpu")
    data = Path(__file__).parents[3] / "tasks" / "data" / "neutral.jsonl"
    text = json.loads(data.read_text().splitlines()[0])["text"]
    ids = torch.tensor([loaded.tokenizer(text).input_ids])
    twin = rotated_twin(loaded.model, random_rotation(loaded.model.config.hidden_size))
    with torch.inference_mode():
        torch.testing.assert_close(twin(ids).logits, loaded.model(ids).logits, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["llama tied", "gemma3", "gemma2", "qwen3"])
def test_a_saved_twin_is_loaded_as_any_model_is(kind, tmp_path):
    model = BUILDERS[kind]()
    name = save_twin(Loaded("one", model, tiny_tokenizer()), random_rotation(32), tmp_path / "twin")
    twin, ids = load_model(name, dtype="float32", device="cpu").model, _ids(512)
    with torch.inference_mode():
        torch.testing.assert_close(twin(ids).logits, model(ids).logits, atol=1e-4, rtol=0)
    assert isinstance(twin, type(model))
    plain = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(plain(ids).logits, model.double()(ids).logits, atol=1e-5, rtol=0)
    before = (tmp_path / "twin" / "model.safetensors").stat().st_mtime_ns
    assert save_twin(Loaded("one", model, tiny_tokenizer()), random_rotation(32), tmp_path / "twin") == name
    assert (tmp_path / "twin" / "model.safetensors").stat().st_mtime_ns == before
