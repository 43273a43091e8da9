"""JSON Lines, read strictly: every error names the file and the line."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from steer_bench.concepts.concept import check_text, short, text_key
from steer_bench.files import check_id, parse_json
from steer_bench.names import hint


class Record(NamedTuple):
    """One JSON object of a file."""

    place: str
    """"FILE, line N"."""
    value: dict[str, object]


def read_unique(path: Path, keys: tuple[str, ...], text: str) -> list[tuple[str, dict[str, str]]]:
    """Read (place, fields) of objects with exactly the given string keys. Raises ValueError for an id or `text` given twice."""
    rows = []
    ids, texts = SeenAt("id"), SeenAt(text)
    for place, value in read_lines(path):
        check_keys(place, value, keys)
        fields = {key: string(place, value, key) for key in keys}
        with at(place):
            check_id(fields["id"])
            check_text(fields[text], text)
        ids.add(fields["id"], place, key=fields["id"].lower())
        texts.add(fields[text], place, key=text_key(fields[text]))
        rows.append((place, fields))
    if not rows:
        raise ValueError(f"{path}: no line in it; give one JSON object with {', '.join(keys)} per line")
    return rows


@contextmanager
def at(place: str) -> Iterator[None]:
    """Put a place in front of a ValueError raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


class SeenAt:
    """Remembers where each value was first seen, and refuses it the second time, naming both places."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.first: dict[object, tuple[str, str]] = {}

    def add(self, value: str, place: str, *, key: object) -> None:
        """Note `value` as seen at `place`; values of one `key` count as the same."""
        before, where = self.first.setdefault(key, (value, place))
        if where == place:
            return
        if before == value:
            raise ValueError(f"{place}: {self.name} {short(value)} is already used in {where}; rename or remove one")
        raise ValueError(
            f"{place}: {self.name} {short(value)} is nearly the same as {short(before)} in {where}; rename one"
        )


def read_lines(path: Path) -> Iterator[Record]:
    """Yield the JSON objects of a file, one per line; blank lines are skipped."""
    for number, line in enumerate(_decode(path).split("\n"), start=1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{place}: not JSON ({error}); give one JSON object per line") from None
        if not isinstance(value, dict):
            raise ValueError(f"{place}: a {type_name(value)} instead of an object {{...}}")
        yield Record(place, value)


def _decode(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        ) from None


def type_name(value: object) -> str:
    """Return JSON's word for the type of `value`."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def check_keys(place: str, value: Mapping[str, object], known: Sequence[str], required: Sequence[str] = ()) -> None:
    """Raise ValueError for a key that is not `known`, or a `required` one (all known if none is named) that is missing."""
    for key in value:
        if key not in known:
            raise ValueError(f"{place}: unknown key {short(key)}; {hint(key, known)}")
    for key in required or known:
        if key not in value:
            raise ValueError(f"{place}: the key {key!r} is missing")


def string(place: str, value: Mapping[str, object], key: str) -> str:
    """Return `value[key]`. Raises ValueError if it is not a string."""
    return _string(place, key, value[key])


def strings(place: str, value: Mapping[str, object], key: str) -> tuple[str, ...]:
    """Return `value[key]`. Raises ValueError if it is not a list of strings."""
    found = value[key]
    if not isinstance(found, list):
        raise ValueError(f"{place}: {key} is a {type_name(found)}; it has to be a list of strings")
    return tuple(_string(place, f"{key}[{i}]", text) for i, text in enumerate(found))


def _string(place: str, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place}: {name} is a {type_name(value)}; it has to be a string")
    return value
