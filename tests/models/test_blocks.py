"""Decoder blocks of models of every shape, and what is refused because its residual stream is not one vector per token."""

import pytest
import torch
import transformers
from steered import make_arms
from tiny import tiny_tokenizer

from steer_bench.models.activations import mean_activations
from steer_bench.models.blocks import d_model, decoder_layers
from steer_bench.models.load import Loaded
from steer_bench.models.steered.decoding import is_plain
from steer_bench.models.steered.generator import Generator
from steer_bench.models.steered.model import SteeredModel
from steer_bench.models.steered.requests import ReplySettings
from steer_bench.models.steered.steering import Steering, VectorBank

TINY = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64,
}  # fmt: skip
ENCODER_DECODERS = {
    "Bart": {"vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
             "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64},
    "T5": {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4},
}  # fmt: skip
HYBRIDS = {
    "Lfm2": {"layer_types": ["conv", "conv", "full_attention", "conv"], "block_multiple_of": 8},  # first block: no attention
    "Jamba": {"attn_layer_offset": 2, "attn_layer_period": 4, "num_experts": 2, "use_mamba_kernels": False, "mamba_d_state": 4,
              "mamba_dt_rank": 4},
    "Mamba": {"state_size": 4},
    "FalconMamba": {"state_size": 4},
}  # fmt: skip


def tiny(name: str, **changes):
    config = getattr(transformers, f"{name}Config")(**{**TINY, **changes})
    model = getattr(transformers, f"{name}ForCausalLM")
    torch.manual_seed(0)
    return model(config).eval()


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_an_encoder_decoder_model_is_refused_with_and_without_arms(name):
    config = getattr(transformers, f"{name}Config")(**ENCODER_DECODERS[name])
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    with pytest.raises(ValueError, match="is an encoder-decoder model; only decoders"):
        decoder_layers(model)
    with pytest.raises(ValueError, match="is an encoder-decoder model; only decoders"):
        SteeredModel(Loaded("tiny", model, tiny_tokenizer()))


@pytest.mark.parametrize("name", HYBRIDS)
def test_blocks_without_attention_are_blocks_too_and_their_means_are_those_of_the_hidden_states(name):
    model, tokenizer = tiny(name, **HYBRIDS[name]), tiny_tokenizer()
    model.resize_token_embeddings(len(tokenizer))
    blocks = decoder_layers(model)
    assert len(blocks) == 4
    assert d_model(model) == 32
    found = mean_activations(Loaded("tiny", model, tokenizer), 1, {"g": ["The sea was grey."]})[""]["g"]
    ids = tokenizer("The sea was grey.", return_tensors="pt").input_ids
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states
        states = hidden[1 if "Mamba" in name else 2][0, 1:]  # theirs leave out the embedding
    torch.testing.assert_close(found.value, states.double().mean(0), atol=1e-5, rtol=1e-5)
    assert not is_plain(model), "its cache holds more than keys and values"


def test_a_model_whose_blocks_give_several_streams_is_refused_before_any_vector():
    name = "Gemma3nText"
    if not hasattr(transformers, f"{name}Config"):
        pytest.skip("this transformers has no Gemma 3n")
    config = transformers.Gemma3nTextConfig(
        **{**TINY, "intermediate_size": [48] * 4, "vocab_size_per_layer_input": 99, "hidden_size_per_layer_input": 8,
           "layer_types": ["full_attention"] * 4, "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 4, "laurel_rank": 4}
    )  # fmt: skip
    model, tokenizer = transformers.Gemma3nForCausalLM(config).eval(), tiny_tokenizer()
    model.resize_token_embeddings(len(tokenizer))
    with pytest.raises(ValueError, match=r"gives \(4, .*its residual stream is not one vector per token"):
        mean_activations(Loaded("tiny", model, tokenizer), 1, {"g": ["The sea was grey.", "A dog."]})


@pytest.mark.parametrize("name", ["Lfm2", "Qwen3Next"])
def test_replies_of_a_hybrid_are_those_of_generate_row_by_row_steered_and_not(name):
    changes = HYBRIDS.get(name) or {
        "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
        "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "num_experts": 0, "mlp_only_layers": [0, 1, 2, 3], "decoder_sparse_step": 1,
    }  # fmt: skip
    model, tokenizer = tiny(name, **changes), tiny_tokenizer()
    model.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(12)
    generator = Generator(SteeredModel(Loaded("tiny", model, tokenizer), VectorBank(make_arms())))
    prompts, settings = ["The sea", "A dog"], ReplySettings((), 6)
    together = generator.generate(prompts * 2, settings, [Steering()] * 2 + [Steering("native", "", "sea", 0.5)] * 2)
    alone = [generator.generate([prompt], settings)[0].text for prompt in prompts]
    assert [reply.text for reply in together[:2]] == alone
    ids = tokenizer(prompts[0], return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    assert together[0].text == tokenizer.decode(written, skip_special_tokens=True)
    assert [reply.text for reply in together[2:]] != alone
