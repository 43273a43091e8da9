"""Passages of concepts and neutral paragraphs: prompts, what is kept, and the files of subjects and topics."""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from steer_bench import shipped
from steer_bench.concepts.generate.cleaning import clean, keyword_overlap
from steer_bench.concepts.generate.writers import Writer
from steer_bench.files import check_id, written_whole

FORMS = (
    "Write 200 words about {}.",
    "Tell a quiet story of 200 words in which somebody comes across {}.",
    "Explain at length to a newcomer how people in a small town deal with {}.",
    "Write the opening page of a plain, factual article about {}.",
    "Write a long, friendly letter in which an old man tells his niece about {}.",
    "Describe in 200 words, in the third person, what a careful observer notices about {}.",
    "Write a local newspaper report of 200 words about {}.",
    "Write 200 words in which a practical woman gives advice about {}.",
    "Write 200 words about how {} used to be fifty years ago.",
    "Write 200 words on what can go wrong with {}, and what to do about it.",
)
"""Neutral paragraphs: more words are asked for than are kept, since small models stop early."""

KINDS = ("passage", "short scene", "diary entry", "piece of advice", "news report", "letter to a friend", "explanation")
ANGLES = (
    "a small mistake and its consequence", "how it was done in the old days", "the first thing a beginner learns",
    "one busy morning", "a tool or an object that matters", "the sounds and smells of it", "two people who disagree",
    "what happens at the very end of the day", "a fact few people know", "a plan for next year", "an expert at work",
    "a child who asks questions",
)  # fmt: skip
NARRATORS = ("in the third person", "in the first person", "as an old man remembers it", "as a young woman tells it")
OPENINGS = (
    "Begin with a name.", "Begin with a place.", "Begin in the middle.", "Begin with a number.", "Begin plainly.",
)  # fmt: skip


@dataclass(frozen=True)
class Writing:
    """How texts are asked for, and how long the kept ones are."""

    words: tuple[int, int]
    """Least and most words of a kept text."""
    max_new_tokens: int
    temperature: float
    batch_size: int
    seed: int = 0
    tries: int = 8
    """Prompts asked for each wanted text before giving up."""


PASSAGES = Writing(words=(25, 60), max_new_tokens=110, temperature=0.9, batch_size=32)
PARAGRAPHS = Writing(words=(60, 90), max_new_tokens=115, temperature=0.8, batch_size=48)


def generate_concepts(
    writer: Writer,
    descriptions: Mapping[str, str],
    *,
    n_positives: int,
    n_negatives: int,
    writing: Writing = PASSAGES,
    subjects: Sequence[str] | None = None,
    genre: str = "text",
    keeps_concept: Callable[[str, str], bool] = keyword_overlap,
    counts: Counter[str] | None = None,
) -> Iterator[dict[str, object]]:
    """Yield lines for `load_concepts`: the genre's shared negatives, then one line per concept (id -> description).

    A positive that misses its concept is dropped ("missed"), as is a negative that shows one of them ("shows a concept"), both
    by `keeps_concept(text, description)`. `counts` collects what was kept and dropped, by reason. Raises ValueError if
    `writing.tries` prompts per text do not give enough.
    """
    for name in descriptions:
        check_id(name)
    collector = _Collector(writer, writing, Counter() if counts is None else counts)

    def passages(name: str, topics: Sequence[str], n: int, refuse: Callable[[str], str]) -> list[str]:
        prompts = _concept_prompts(topics, writing.words, f"{writing.seed}-{name}")
        return list(collector.collect(name, prompts, n, refuse))

    def shows(text: str) -> str:
        return "shows a concept" if any(keeps_concept(text, concept) for concept in descriptions.values()) else ""

    plain = load_subjects() if subjects is None else list(subjects)
    yield {"genre": genre, "negatives": passages("negatives", plain, n_negatives, shows)}
    for name, description in descriptions.items():

        def misses(text: str, description: str = description) -> str:
            return "" if keeps_concept(text, description) else "missed"

        positives = passages(name, [description], n_positives, misses)
        yield {"id": name, "description": description, "genre": genre, "positives": positives}


def generate_neutral(
    writer: Writer,
    n: int,
    *,
    writing: Writing = PARAGRAPHS,
    subjects: Sequence[str] | None = None,
    avoid: Collection[str] | None = None,
    prefix: str = "neutral",
    counts: Counter[str] | None = None,
) -> Iterator[dict[str, str]]:
    """Yield `n` lines {"id", "text"} for `load_texts`: paragraphs about plain `subjects` without any of the words to `avoid`.

    Without `subjects` and `avoid`, the shipped ones: 300 everyday subjects, and words of the shipped concepts.
    """
    plain = load_subjects() if subjects is None else list(subjects)
    shunned = frozenset().union(*load_topics().values()) if avoid is None else frozenset(avoid)
    check_id(f"{prefix}-001")

    def topical(text: str) -> str:
        return "topic" if shunned & set(re.findall(r"[a-z]+", text.lower())) else ""

    collector = _Collector(writer, writing, Counter() if counts is None else counts)
    texts = collector.collect(prefix, _neutral_prompts(plain, writing.seed), n, topical)
    for i, text in enumerate(texts, start=1):
        yield {"id": f"{prefix}-{i:03d}", "text": text}


class _Collector:
    """Asks a writer until there are enough clean texts. No two texts of one collector open with the same words."""

    def __init__(self, writer: Writer, writing: Writing, counts: Counter[str]) -> None:
        self._writer, self._writing, self._counts = writer, writing, counts
        self._openings: set[str] = set()

    def collect(self, name: str, prompts: Iterator[str], n: int, refuse: Callable[[str], str]) -> Iterator[str]:
        """Yield `n` texts; `refuse` gives the reason why a clean text is dropped, or ""."""
        if n < 1:
            raise ValueError(f"{name}: {n} texts asked for; ask for at least 1")
        how = self._writing
        seed = random.Random(f"{how.seed}-{name}").randrange(2**31)  # noqa: S311
        own: Counter[str] = Counter()
        asked = 0
        while own["kept"] < n:
            if asked >= n * how.tries + how.batch_size:
                dropped = ", ".join(f"{reason} {count}" for reason, count in own.most_common() if reason != "kept")
                raise ValueError(
                    f"{name}: only {own['kept']} of {n} texts after {asked} prompts (dropped: {dropped}); "
                    "use a larger model, ask for less, or reword the description"
                )
            batch = list(islice(prompts, how.batch_size))
            replies = self._writer.write(
                batch, max_new_tokens=how.max_new_tokens, temperature=how.temperature, seed=seed + asked
            )
            asked += len(batch)
            for reply in replies:
                text, reason = clean(reply, words=how.words)
                opening = " ".join(text.lower().split()[:6])
                reason = reason or ("duplicate" if opening in self._openings else refuse(text))
                own[reason or "kept"] += 1
                self._counts[reason or "kept"] += 1
                if not reason:
                    self._openings.add(opening)
                    yield text
                    if own["kept"] == n:
                        return


def _concept_prompts(topics: Sequence[str], words: tuple[int, int], seed: str) -> Iterator[str]:
    choice = random.Random(seed)  # noqa: S311
    middle = sum(words) // 2
    while True:
        kind, angle, narrator, opening = (choice.choice(options) for options in (KINDS, ANGLES, NARRATORS, OPENINGS))
        yield (
            f"Write a {kind} of about {middle} words about {choice.choice(topics)}, {narrator}: {angle}. {opening} "
            "Plain prose in one paragraph, no title, no list."
        ).replace("Write a explanation", "Write an explanation")


def _neutral_prompts(subjects: Sequence[str], seed: int) -> Iterator[str]:
    """Yield a prompt on every subject before one comes again, each time in another form."""
    order = random.Random(seed).sample(list(subjects), len(subjects))  # noqa: S311
    turn = 0
    while True:
        for i, subject in enumerate(order):
            yield FORMS[(i + turn) % len(FORMS)].format(subject)
        turn += 1


def load_subjects(path: str | Path | None = None) -> list[str]:
    """Return the subjects of a file, one per line; without a path the shipped 300."""
    place = Path(path) if path is not None else shipped("tasks") / "data" / "subjects.txt"
    subjects = [line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not subjects:
        raise ValueError(f"{place}: no subject in it; give one per line")
    return subjects


def load_topics(path: str | Path | None = None) -> dict[str, frozenset[str]]:
    """Return words by topic from lines "topic: word word ..."; without a path those of the shipped concepts."""
    place = Path(path) if path is not None else shipped("tasks") / "data" / "topics.txt"
    topics = {}
    for number, line in enumerate(place.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            topic, colon, words = line.partition(":")
            if not (colon and words.split()):
                raise ValueError(f'{place}, line {number}: no words; write "topic: word word ..."')
            topics[topic.strip()] = frozenset(words.lower().split())
    return topics


def save_lines(lines: Iterable[Mapping[str, object]], path: str | Path) -> int:
    """Write JSON Lines, whole or not at all, and return how many."""
    count = 0
    with written_whole(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count
