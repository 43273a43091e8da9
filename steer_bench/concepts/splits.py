"""Splits: which concepts fit the maps, choose options or are tested, and which texts make a vector.

Decided by the texts and a seed alone: the same on every machine, in whatever order the concepts come.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from steer_bench.concepts.concept import Concept, short, text_key
from steer_bench.files import digest
from steer_bench.names import hint

SPLITS = ("fit", "select", "test")
NEAR_DUPLICATE = 0.6
"""Token-set Jaccard of two descriptions from which on they count as one concept for splitting."""

_STOPWORDS = frozenset(
    "a about an and are as at by for from in into is it its of on or related such that the their to with reference "  # noqa: SIM905
    "references specific text texts".split()
)


@dataclass(frozen=True)
class Splits:
    """Concept ids: `fit` for maps, `select` for their options, `test` touched once. No id stands twice."""

    fit: tuple[str, ...]
    select: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for name in SPLITS:
            for concept in getattr(self, name):
                if concept in seen:
                    raise ValueError(
                        f"concept {concept!r} is in split {name!r} and in split {seen[concept]!r}; leave it in one"
                        if seen[concept] != name
                        else f"concept {concept!r} is twice in split {name!r}; leave it in once"
                    )
                seen[concept] = name

    @property
    def hash(self) -> str:
        """16 hex digits of the three sets, whatever the order within a split."""
        return digest(sorted(self.fit), sorted(self.select), sorted(self.test))


def _words(description: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W_]+", description.lower())) - _STOPWORDS


def _rank(texts: Iterable[str], *label: object) -> list[str]:
    """Return `texts` in an order that depends on `label` and each text alone, so that adding texts reorders none."""
    prefix = "\0".join(map(str, label))
    return sorted(texts, key=lambda text: (hashlib.sha256(f"{prefix}\0{text}".encode()).digest(), text))


def split_concepts(
    concepts: Sequence[Concept],
    *,
    fit: int | float | None = None,
    select: int | float | None = None,
    test: int | float | None = None,
    seed: int = 0,
    pinned: Mapping[str, Sequence[str]] | None = None,
    kin: Iterable[tuple[str, str]] = (),
) -> Splits:
    """Split concepts into sets of the given sizes, alike in genres, with near-duplicates together.

    An int counts concepts, a float is a share; what no split asks for stays unused. `pinned` gives ids by split, {"fit": [...],
    ...}; they count into its size, and a size left out is exactly what is pinned. Near-duplicates (`near_duplicates`, `kin`)
    are never torn apart, except where `pinned` itself does so by description alone: then their unpinned kin stays unused. The
    same concepts and seed give the same splits, in whatever order the concepts come. Raises ValueError where they do not fit.
    """
    pinned = dict(pinned or {})
    if unknown := [name for name in pinned if name not in SPLITS]:
        raise ValueError(f"pinned split {unknown[0]!r} is unknown; splits are fit, select and test")
    fixed = Splits(*(tuple(pinned.get(name, ())) for name in SPLITS))
    check_splits(fixed, concepts)
    home = {concept: name for name in SPLITS for concept in getattr(fixed, name)}
    asked = {"fit": fit, "select": select, "test": test}
    sizes = _sizes(asked, Counter(home.values()), len(concepts))
    genres = {concept.id: concept.genre for concept in concepts}
    share = {(s, g): sizes[s] * n / len(concepts) for s in sizes for g, n in Counter(genres.values()).items()}

    placed: dict[str, list[str]] = {name: list(getattr(fixed, name)) for name in SPLITS} | {"unused": []}
    free: list[list[str]] = []
    for group in near_duplicates(concepts, kin):
        homes = {home[concept] for concept in group if concept in home}
        loose = [concept for concept in group if concept not in home]
        if not homes:
            free.append(loose)
        else:
            placed[homes.pop() if len(homes) == 1 else "unused"] += loose
    elastic = [name for name in SPLITS if isinstance(asked[name], float)]
    for name in SPLITS:
        if len(placed[name]) > sizes[name] and name not in elastic:
            raise ValueError(
                f"split {name!r} is to have {sizes[name]} concepts but holds {len(placed[name])} with the near-duplicates "
                f"of its pinned ones ({', '.join(placed[name][:4])}, ...); ask for more or pin those elsewhere"
            )
    order = {name: i for i, name in enumerate(_rank([group[0] for group in free], "split", seed))}
    for group in sorted(free, key=lambda group: (-len(group), order[group[0]])):
        room = {name: sizes[name] - len(placed[name]) for name in sizes}
        fitting = [name for name in sizes if room[name] >= len(group)] or elastic
        if not fitting:
            raise ValueError(
                f"the near-duplicate concepts {', '.join(group[:4])} ({len(group)} of them) fit into no split of "
                f"{sizes['fit']}, {sizes['select']} and {sizes['test']}; ask for other sizes or give shares"
            )
        genre = genres[group[0]]

        def lacking(name: str, genre: str = genre) -> float:
            return share[name, genre] - sum(genres[concept] == genre for concept in placed[name])

        best = max(fitting, key=lambda name: (lacking(name), room[name]))
        placed[best] += group
    for name in SPLITS:
        if len(placed[name]) < sizes[name] and name not in elastic:
            raise ValueError(
                f"split {name!r} is to have {sizes[name]} concepts but only {len(placed[name])} are left for it, since "
                "near-duplicates are kept together; ask for less or give shares"
            )
    splits = Splits(*(tuple(sorted(placed[name])) for name in SPLITS))
    check_splits(splits, concepts)
    return splits


def fold_concepts(
    concepts: Sequence[Concept],
    folds: int,
    *,
    select: int | float | Sequence[str] = 0,
    seed: int = 0,
    kin: Iterable[tuple[str, str]] = (),
) -> list[Splits]:
    """Divide concepts into parts, by the rules of `split_concepts`, and return a fold for each: it tests one part and fits on the others.

    What `select` asks for (a size or ids) is in no part. Raises ValueError where a part stays empty.
    """
    known = {concept.id for concept in concepts}
    kin = [pair for pair in kin if known.issuperset(pair)]
    wanted = {"select": select} if isinstance(select, int | float) else {"pinned": {"select": select}}
    chosen = split_concepts(concepts, **wanted, seed=seed, kin=kin).select
    rest, parts = [concept for concept in concepts if concept.id not in chosen], []
    for left in range(folds, 0, -1):
        inside = {concept.id for concept in rest}
        pairs = [pair for pair in kin if inside.issuperset(pair)]
        one = split_concepts(rest, fit=1 - 1 / left, test=1 / left, seed=seed, kin=pairs)
        parts.append(one.test)
        rest = [concept for concept in rest if concept.id in one.fit]
    if not all(parts):
        raise ValueError(
            f"{folds} folds of {sum(map(len, parts))} concepts leave a fold without one, since near-duplicates are kept together; "
            "ask for fewer folds or give more concepts"
        )
    found = []
    for part in parts:
        others = sorted(key for other in parts if other is not part for key in other)
        found.append(Splits(tuple(others), chosen, part))
        check_splits(found[-1], concepts)
    return found


def _sizes(asked: Mapping[str, int | float | None], pinned: Mapping[str, int], n: int) -> dict[str, int]:
    """Return sizes by split, "unused" included; shares are rounded by largest remainder, so shares of 1 use all concepts."""
    sizes: dict[str, int] = {}
    shares: dict[str, float] = {}
    for name, value in asked.items():
        if value is None:
            sizes[name] = pinned.get(name, 0)
        elif (
            isinstance(value, bool) or not math.isfinite(value) or value < 0 or (isinstance(value, float) and value > 1)
        ):
            raise ValueError(
                f"split {name!r} is {value!r}; give a number of concepts or a share of them from 0.0 to 1.0"
            )
        elif isinstance(value, float):
            shares[name] = value * n
            sizes[name] = math.floor(value * n + 1e-9)
        else:
            sizes[name] = value
    spare = min(round(sum(shares.values())) - sum(sizes[name] for name in shares), n - sum(sizes.values()))
    for name in sorted(shares, key=lambda name: sizes[name] - shares[name])[: max(spare, 0)]:
        sizes[name] += 1
    if sum(sizes.values()) > n:
        wanted = " + ".join(f"{name} {asked[name]}" for name in asked)
        raise ValueError(f"{wanted} is more than the {n} concepts there are; ask for less or give more concepts")
    return {name: sizes[name] for name in asked} | {"unused": n - sum(sizes.values())}


def near_duplicates(concepts: Sequence[Concept], kin: Iterable[tuple[str, str]] = ()) -> list[list[str]]:
    """Group ids so that near-duplicates stand together, in sorted order; single concepts are groups of one.

    Two concepts are near-duplicates if their descriptions' sets of words (lower case, without stop words) have a Jaccard
    index of at least NEAR_DUPLICATE, if they share a positive text, or if they are a pair of `kin`. Groups are the connected
    components of that.
    """
    from scipy.cluster.hierarchy import DisjointSet  # half a second, which only near-duplicates need

    groups = DisjointSet(concept.id for concept in concepts)
    for pair in kin:
        groups.merge(*pair)
    owner: dict[str, str] = {}
    for concept in concepts:
        for text in concept.positives:
            groups.merge(concept.id, owner.setdefault(text_key(text), concept.id))
    words = {concept.id: _words(concept.description) for concept in concepts}
    commonness = Counter(word for own in words.values() for word in own)
    index: dict[str, list[str]] = {}
    for name, own in words.items():
        # Sets of Jaccard >= t share a word among their rarest |own| - ceil(t |own|) + 1 (prefix filter, Chaudhuri 2006).
        rarest = sorted(own, key=lambda word: (commonness[word], word))
        prefix = rarest[: len(own) - math.ceil(NEAR_DUPLICATE * len(own)) + 1]
        for other in {other for word in prefix for other in index.get(word, ())}:
            if len(own & words[other]) >= NEAR_DUPLICATE * len(own | words[other]):
                groups.merge(name, other)
        for word in prefix:
            index.setdefault(word, []).append(name)
    return sorted(sorted(group) for group in groups.subsets())


def check_splits(splits: Splits, concepts: Sequence[Concept]) -> None:
    """Raise ValueError if a split names an unknown concept, or a positive text stands in concepts of two splits."""
    known = {concept.id: concept for concept in concepts}
    if len(known) < len(concepts):
        twice = Counter(concept.id for concept in concepts).most_common(1)[0][0]
        raise ValueError(f"the concept id {twice!r} stands for two concepts; rename one of them")
    seen: dict[str, tuple[str, str]] = {}
    for split in SPLITS:
        for name in getattr(splits, split):
            if name not in known:
                raise ValueError(f"split {split!r} names the concept {name!r}, which is not there; {hint(name, known)}")
            for i, text in enumerate(known[name].positives):
                where = f"positives[{i}] of {name!r} (split {split!r})"
                before, other = seen.setdefault(text_key(text), (where, split))
                if other != split:
                    raise ValueError(
                        f"the text {short(text)} is {before} and {where}; put the two concepts into one split"
                    )


def held_out(concept: Concept, n: int, seed: int) -> tuple[Concept, Concept]:
    """Return (texts for the vector, `n` held-out texts of each side): disjoint, in the file's order.

    Which texts are held out depends on the seed and each text alone, so negatives shared by a genre are held out alike
    in all its concepts.
    """
    if n < 1:
        raise ValueError(f"held-out texts: {n}; ask for at least 1")
    for side in ("positives", "negatives"):
        if (have := len(getattr(concept, side))) <= n:
            raise ValueError(
                f"concept {concept.id!r} has {have} {side}, so {n} cannot be held out with one left over; "
                "hold out fewer or give more texts"
            )

    held, kept = _divide(concept, slice(n), "held out", seed)
    return kept, held


def halves(concept: Concept, seed: int = 0) -> tuple[Concept, Concept]:
    """Return two disjoint halves of each side, for the source's and the target's vector; an odd text goes to the first."""
    for side in ("positives", "negatives"):
        if len(getattr(concept, side)) < 2:
            raise ValueError(f"concept {concept.id!r} has one text in {side}, so no two halves; give more texts")

    return _divide(concept, slice(None, None, 2), "half", seed)


def _divide(concept: Concept, part: slice, label: str, seed: int) -> tuple[Concept, Concept]:
    """Return (the texts in `part` of each side's ranked texts, the others), in the file's order."""

    def texts(side: tuple[str, ...], chosen: bool) -> tuple[str, ...]:
        ranked = set(_rank(side, label, seed)[part])
        return tuple(text for text in side if (text in ranked) == chosen)

    first, second = (
        replace(concept, positives=texts(concept.positives, chosen), negatives=texts(concept.negatives, chosen))
        for chosen in (True, False)
    )
    return first, second
