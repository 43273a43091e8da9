"""Passages of concepts and neutral paragraphs: prompts, what is kept, and the files of subjects and topics."""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steer_bench import shipped
from steer_bench.concepts.generate.cleaning import clean, keyword_overlap
from steer_bench.concepts.generate.writers import Writer
from steer_bench.files import check_id

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
    "a small mistake and its consequence",
    "how it was done in the old days",
    "the first thing a beginner learns",
    "one busy morning",
    "a tool or an object that matters",
    "the sounds and smells of it",
    "two people who disagree",
    "what happens at the very end of the day",
    "a fact few people know",
    "a plan for next year",
    "an expert at work",
    "a child who asks questions",
)
NARRATORS = ("in the third person", "in the first person", "as an old man remembers it", "as a young woman tells it")
OPENINGS = (
    "Begin with a name.",
    "Begin with a place.",
    "Begin in the middle.",
    "Begin with a number.",
    "Begin plainly.",
)


def generate_concepts(
    writer: Writer,
    descriptions: Mapping[str, str],
    *,
    n_positives: int,
    n_negatives: int,
    subjects: Sequence[str] | None = None,
    genre: str = "text",
    seed: int = 0,
    words: tuple[int, int] = (25, 60),
    keeps_concept: Callable[[str, str], bool] = keyword_overlap,
    max_new_tokens: int = 110,
    temperature: float = 0.9,
    batch_size: int = 32,
    tries: int = 8,
    counts: Counter[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Lines for `load_concepts`: the genre's shared negatives, then a line for each concept (id -> description).

    A positive that misses its concept is dropped ("missed"), as is a negative that shows one of them ("shows a concept"), both
    by `keeps_concept(text, description)`. `counts` collects what was kept and dropped, by reason. ValueError if
    `tries` prompts a text do not give enough.
    """
    counts = Counter() if counts is None else counts
    plain = load_subjects() if subjects is None else list(subjects)
    for name in descriptions:
        check_id(name)

    def passages(name: str, topics: Sequence[str], n: int, refuse: Callable[[str], str]) -> list[str]:
        prompts = _concept_prompts(topics, words, f"{seed}-{name}")
        return list(
            _collect(
                writer,
                prompts,
                n,
                refuse,
                words=words,
                what=name,
                seed=_seed(seed, name),
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                batch_size=batch_size,
                tries=tries,
                counts=counts,
                taken=taken,
            )
        )

    def shows(text: str) -> str:
        return "shows a concept" if any(keeps_concept(text, concept) for concept in descriptions.values()) else ""

    taken: set[str] = set()
    yield {"genre": genre, "negatives": passages("negatives", plain, n_negatives, shows)}
    for name, description in descriptions.items():

        def misses(text: str, description: str = description) -> str:
            return "" if keeps_concept(text, description) else "missed"

        positives = passages(name, [description], n_positives, misses)
        yield {"id": name, "description": description, "genre": genre, "positives": positives}


def generate_neutral(
    writer: Writer,
    n: int,
    seed: int,
    subjects: Sequence[str] | None = None,
    *,
    avoid: Collection[str] | None = None,
    prefix: str = "neutral",
    words: tuple[int, int] = (60, 90),
    max_new_tokens: int = 115,
    temperature: float = 0.8,
    batch_size: int = 48,
    tries: int = 8,
    counts: Counter[str] | None = None,
) -> Iterator[dict[str, str]]:
    """`n` lines {"id", "text"} for `load_texts`: paragraphs about plain `subjects` without any of the words to `avoid`.

    Without `subjects` and `avoid`, the shipped ones: 300 everyday subjects, and words of the shipped concepts.
    """
    plain = load_subjects() if subjects is None else list(subjects)
    shunned = frozenset().union(*load_topics().values()) if avoid is None else frozenset(avoid)
    check_id(f"{prefix}-001")

    def topical(text: str) -> str:
        return "topic" if shunned & set(re.findall(r"[a-z]+", text.lower())) else ""

    texts = _collect(
        writer,
        _neutral_prompts(plain, seed),
        n,
        topical,
        words=words,
        what=prefix,
        seed=_seed(seed, prefix),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        batch_size=batch_size,
        tries=tries,
        counts=Counter() if counts is None else counts,
        taken=set(),
    )
    for i, text in enumerate(texts, start=1):
        yield {"id": f"{prefix}-{i:03d}", "text": text}


def _collect(
    writer: Writer,
    prompts: Iterator[str],
    n: int,
    refuse: Callable[[str], str],
    *,
    words: tuple[int, int],
    what: str,
    seed: int,
    max_new_tokens: int,
    temperature: float,
    batch_size: int,
    tries: int,
    counts: Counter[str],
    taken: set[str],
) -> Iterator[str]:
    """Cleaned texts until there are `n`; `taken` holds the openings that may not come again."""
    if n < 1:
        raise ValueError(f"{what}: {n} texts asked for; ask for at least 1")
    own: Counter[str] = Counter()
    asked = 0
    while own["kept"] < n:
        if asked >= n * tries + batch_size:
            dropped = ", ".join(f"{reason} {count}" for reason, count in own.most_common() if reason != "kept")
            raise ValueError(
                f"{what}: only {own['kept']} of {n} texts after {asked} prompts (dropped: {dropped}); "
                "use a larger model, ask for less, or reword the description"
            )
        batch = [next(prompts) for _ in range(batch_size)]
        replies = writer.write(batch, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed + asked)
        asked += len(batch)
        for reply in replies:
            text, reason = clean(reply, words=words)
            opening = " ".join(text.lower().split()[:6])
            reason = reason or ("duplicate" if opening in taken else refuse(text))
            own[reason or "kept"] += 1
            counts[reason or "kept"] += 1
            if not reason:
                taken.add(opening)
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
    """Every subject once before one comes again, each time in another form."""
    order = random.Random(seed).sample(list(subjects), len(subjects))  # noqa: S311
    turn = 0
    while True:
        for i, subject in enumerate(order):
            yield FORMS[(i + turn) % len(FORMS)].format(subject)
        turn += 1


def _seed(seed: int, name: str) -> int:
    return random.Random(f"{seed}-{name}").randrange(2**31)  # noqa: S311


def load_subjects(path: str | Path | None = None) -> list[str]:
    """Subjects, one a line; without a path the shipped 300."""
    place = Path(path) if path is not None else shipped("tasks") / "data" / "subjects.txt"
    subjects = [line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not subjects:
        raise ValueError(f"{place}: no subject in it; give one a line")
    return subjects


def load_topics(path: str | Path | None = None) -> dict[str, frozenset[str]]:
    """Words by topic, "topic: word word ..." a line; without a path those of the shipped concepts."""
    place = Path(path) if path is not None else shipped("tasks") / "data" / "topics.txt"
    topics = {}
    for number, line in enumerate(place.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            topic, colon, words = line.partition(":")
            if not (colon and words.split()):
                raise ValueError(f'{place}, line {number}: no words; write "topic: word word ..."')
            topics[topic.strip()] = frozenset(words.lower().split())
    return topics


def save_lines(lines: Iterable[Mapping[str, Any]], path: str | Path) -> int:
    """Write JSON Lines as they come to PATH.part, renamed to PATH at the end; the number of lines."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    count = 0
    with part.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            count += 1
    part.replace(path)
    return count
