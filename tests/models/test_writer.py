"""A model as a writer: a text depends on its prompt and the seed, on nothing else."""

import pytest
import torch
from steered import tiny_pair

from steer_bench.models.load import Loaded
from steer_bench.models.tokens import instruction_ids
from steer_bench.models.writer import ModelWriter

PROMPTS = ["Write of the sea, the boats and the wind", "Write", "Tell me of rice"]
OPTIONS = {"max_new_tokens": 8, "temperature": 1.0, "seed": 4}


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return Loaded("tiny", *tiny_pair("llama"))


def test_a_prompt_gets_a_reply_the_same_for_the_same_seed_whatever_the_batch(loaded):
    first = ModelWriter(loaded, batch_size=2).write(PROMPTS, **OPTIONS)
    assert len(set(first)) == 3
    assert ModelWriter(loaded).write(PROMPTS, **OPTIONS) == first
    assert [ModelWriter(loaded).write([prompt], **OPTIONS)[0] for prompt in PROMPTS] == first
    assert ModelWriter(loaded).write(PROMPTS, **OPTIONS | {"seed": 5}) != first


def test_the_callers_random_state_is_left_as_it_was(loaded):
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    ModelWriter(loaded).write(PROMPTS, **OPTIONS)
    assert torch.equal(torch.rand(3), expected)


def test_at_temperature_0_it_writes_greedily(loaded):
    options = OPTIONS | {"temperature": 0.0}
    ids = torch.tensor([instruction_ids(loaded.tokenizer, PROMPTS[0])])
    tokens = loaded.model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert ModelWriter(loaded).write(PROMPTS, **options)[0] == loaded.tokenizer.decode(tokens, skip_special_tokens=True)
    assert ModelWriter(loaded).write(PROMPTS, **options | {"seed": 5}) == ModelWriter(loaded).write(PROMPTS, **options)


def test_the_chat_template_is_used_where_there_is_one():
    tokenizer = tiny_pair("llama")[1]
    assert tokenizer.decode(instruction_ids(tokenizer, "the sea")) == "the sea\n\n"
    tokenizer.chat_template = "{% for m in messages %}user {{ m['content'] }} says {% endfor %}"
    assert tokenizer.decode(instruction_ids(tokenizer, "the sea")) == "user the sea says "


def test_a_batch_of_nothing_is_refused(loaded):
    with pytest.raises(ValueError, match="batch_size is 0; it has to be at least 1"):
        ModelWriter(loaded, batch_size=0)
