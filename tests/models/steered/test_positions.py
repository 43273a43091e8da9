"""Which positions are steered: those that vectors are read from, so never position 0."""

import pytest
from steered import make_arms, tiny_pair

from steer_bench.models.load import Loaded
from steer_bench.models.steered.model import SteeredModel
from steer_bench.models.steered.scorer import Scorer
from steer_bench.models.steered.steering import Steering, VectorBank

STEERING = Steering("native", "", "sea", 0.5)


@pytest.fixture(params=["llama", "gemma3"])
def loaded(request):
    """A model whose tokenizer adds no BOS, and one whose tokenizer does."""
    model, tokenizer = tiny_pair(request.param)
    return Loaded("tiny", model, tokenizer)


def scores(loaded, positions, contexts):
    scorer = Scorer(SteeredModel(loaded, VectorBank(make_arms()), positions=positions))
    rows = [scorer.row(context, [9], how) for context in contexts for how in (Steering(), STEERING)]
    found = [score.log_likelihood for score in scorer.score_rows(rows, quiet=True)]
    scorer.steered.close()
    return list(zip(found[::2], found[1::2], strict=True))


@pytest.mark.parametrize("positions", ["text", "generated"])
def test_position_0_is_not_steered_whether_it_holds_a_bos_or_not(loaded, positions):
    bos = loaded.tokenizer.bos_token_id or 0
    one, other, longer = scores(loaded, positions, [[7], [bos], [7, 8]])
    assert one[0] == pytest.approx(one[1], abs=1e-5)  # all that predicts the token is position 0
    assert other[0] == pytest.approx(other[1], abs=1e-5)
    assert abs(longer[0] - longer[1]) > 1e-3


def test_all_positions_are_steered_where_that_is_asked_for(loaded):
    one, longer = scores(loaded, "all", [[7], [7, 8]])
    assert abs(one[0] - one[1]) > 1e-3
    assert abs(longer[0] - longer[1]) > 1e-3
