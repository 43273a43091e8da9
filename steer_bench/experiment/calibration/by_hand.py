"""By hand: what the tool says of one concept, computed again by Hugging Face's own forward pass, one text at a time.

model, texts, arms file, rows -> [hidden states, a hook that adds the vector] -> checks
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from steer_bench.concepts.concept import cut
from steer_bench.experiment.calibration.checks import LOGITS, Check
from steer_bench.experiment.run import Run
from steer_bench.harness.protocol import Protocol
from steer_bench.models.blocks import BlockOutput, decoder_layers, states_of, with_states
from steer_bench.models.load import Loaded, model_path
from steer_bench.models.tokens import Tokens, encode, tokenize
from steer_bench.results.file import Results
from steer_bench.results.measures import LIKELIHOOD
from steer_bench.transfer.moments import shared_ends
from steer_bench.vectors.arms import Arms


class Plain:
    """A model without anything of ours around it."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float32) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(model_path(name), dtype=dtype)
        self.tokenizer = AutoTokenizer.from_pretrained(model_path(name))

    @torch.inference_mode()
    def mean(self, texts: Iterable[str], layer: int) -> Tensor:
        """Return the mean of a block's output over every token of the texts but the first of each, (d_model,) float64."""
        found = []
        for text in texts:
            ids = torch.tensor([encode(self.tokenizer, text)])
            found.append(self.model(ids, output_hidden_states=True).hidden_states[layer + 1][0, 1:].double())
        return torch.cat(found).mean(dim=0)

    @torch.inference_mode()
    def log_likelihood(self, text: str, layer: int, added: Tensor | None = None) -> tuple[float, int]:
        """Return the log-likelihood of a text after one BOS, and its tokens; `added` to all activations but the BOS's."""
        first = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id
        read = encode(self.tokenizer, text)
        ids = torch.tensor([read if read[0] == first else [first, *read]])

        def hook(block: object, given: object, output: BlockOutput) -> BlockOutput:
            states = states_of(output).clone()
            assert added is not None
            states[:, 1:] += added
            return with_states(output, states)

        handle = None if added is None else decoder_layers(self.model)[layer].register_forward_hook(hook)
        logits = self.model(ids).logits[0, :-1].double()
        if handle is not None:
            handle.remove()
        return float(logits.log_softmax(dim=-1).gather(1, ids[0, 1:, None]).sum()), ids.shape[1] - 1


def logit_difference(model: str, twin: str, texts: Iterable[str]) -> float:
    """Return the largest difference over the texts, of model and twin in float64 (on the CPU: not every device has it).

    In float32 rounding alone reaches 1e-3: the twin's massive dimensions are spread over all of its coordinates, and Gemma's
    are a thousand times the others. Norms and softmax of transformers compute in float32 all the same, which leaves 1e-4.
    """
    exact, other = (Plain(name, torch.float64) for name in (model, twin))
    ids = [torch.tensor([encode(exact.tokenizer, text)]) for text in texts]
    with torch.inference_mode():
        return max(float((other.model(each).logits - exact.model(each).logits).abs().max()) for each in ids)


def by_hand(model: str, run: Run, results: Results) -> Iterator[Check]:
    """Check the first concept's vector, the damage of its doses, and its first text under every arm at its dose."""
    plain, arms, protocol = Plain(model), Arms.load(run.folder.arms(model)), Protocol.load(run.folder.protocol)
    concept, layer = next(iter(protocol.concepts.values())), arms.layer
    whole = run.data.concepts[concept.id]
    sides = ((whole.positives, concept.positives), (whole.negatives, concept.negatives))
    shown, other = (plain.mean([text for text in texts if text not in held], layer) for texts, held in sides)
    native = next(vector for (arm, key), vector in arms.vectors.items() if (arm.name, key) == ("native", concept.id))
    apart = float(np.linalg.norm(native - (shown - other).numpy()) / np.linalg.norm(native))
    yield Check(
        "by hand: a vector from texts that are not held out",
        apart <= LOGITS,
        f"differs by {apart:.2g}",
        f"at most {LOGITS}",
    )
    item, words = f"{concept.id}-0", run.experiment.tasks[LIKELIHOOD].max_words
    text = cut(concept.positives[0], words)
    found = {(row.source, row.arm): row.value for row in results.rows.where(task=LIKELIHOOD, target=model, item=item)}
    values, damages = [], []
    unsteered = [plain.log_likelihood(one, layer) for one in protocol.calibration.values()]
    n_tokens = sum(n for _, n in unsteered)
    for dose in arms.card.doses:
        if dose.concept == concept.id and dose.factor is not None:
            vector = torch.from_numpy(arms.find(dose.arm, dose.source, dose.concept))
            added = dose.factor * arms.scale * vector / vector.norm()
            total, n = plain.log_likelihood(text, layer, added)
            values.append(abs(total / n - (found.get((dose.source, dose.arm)) or math.nan)))
            steered = sum(plain.log_likelihood(one, layer, added)[0] for one in protocol.calibration.values())
            lost = (sum(total for total, _ in unsteered) - steered) / n_tokens
            damages.append(abs(math.exp(lost) / (dose.damage or math.nan) - 1))
    for what, differences in (
        ("damage of doses, on texts set apart", damages),
        ("a text under each arm at its dose", values),
    ):
        most = float(np.max(differences)) if differences else math.nan
        yield Check(f"by hand: {what}", most <= LOGITS, f"{len(differences)} differ by {most:.2g}", f"at most {LOGITS}")


def pairs_have_read_the_same(loaded: Loaded, texts: Iterable[str]) -> Check:
    """Check that tokens of two tokenisations pair where they end at the same character, every third token being one with the next."""
    wrong = pairs = 0
    for tokens in tokenize(loaded, list(texts)):
        kept = [i for i in range(len(tokens.ids)) if i % 3 or i == 0]
        coarse = Tokens([tokens.ids[i] for i in kept], [tokens.ends[i] for i in kept])
        mine, its = shared_ends(tokens, coarse)
        pairs += len(mine)
        wrong += sum(tokens.ends[i] != coarse.ends[j] for i, j in zip(mine, its, strict=True))
    return Check(
        "pairs of two tokenisations have read the same text", 0 == wrong < pairs, f"{wrong} of {pairs} wrong", "0"
    )
