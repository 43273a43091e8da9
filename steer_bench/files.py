"""Files: written whole, hashed, named safely; YAML read strictly, with the line of every key."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidatorFunctionWrapHandler, field_validator
from pydantic_core import PydanticCustomError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MOST_BYTES = 1 << 30
"""Largest JSON file that is read."""
MOST_NODES = 100_000
"""Most entries of one YAML file, aliases followed: a few lines of nested aliases would otherwise fill the memory."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError within the block name the path: that of a full disk, met in writing, names none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; at the end the file takes the place of `path`, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".write-", suffix=".tmp")
    os.close(handle)
    part = Path(name)
    try:
        with naming(path):
            yield part
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            part.chmod(0o644)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file whole, or leave the old one."""
    with written_whole(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, as hex."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(*parts: object) -> str:
    """Return 16 hex digits that change with any of the parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def safe_name(text: str) -> str:
    """Return `text` as a file name: "/" becomes "__". Raises ValueError for anything else that could leave the folder.

    >>> safe_name("google/gemma-2-2b")
    'google__gemma-2-2b'
    """
    name = text.replace("/", "__")
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{text!r} cannot be a file name; use 1 to 100 of A-Z a-z 0-9 . _ - (and /), starting with a letter or digit"
        )
    return name


def check_id(value: str) -> str:
    """Return `value` if it can be an id, and so a file name. Raises ValueError otherwise."""
    if not NAME.fullmatch(value):
        raise ValueError(
            f"id {value!r} cannot be a file name; use 1 to 100 of A-Z a-z 0-9 . _ -, starting with a letter or digit"
        )
    return value


def model_file_name(model: str) -> str:
    """Return a model's name as a file name; of a path its last part, with a hash of the whole, for two folders may end alike.

    >>> model_file_name("google/gemma-2-2b-it"), model_file_name("/models/tiny llama")
    ('google__gemma-2-2b-it', 'tiny-llama-32f4aaad')
    """
    if not model.startswith(("/", ".", "~")):
        return safe_name(model)
    last = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name).strip("._-")[:80] or "model"
    return f"{last}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def parse_json(text: str, *, finite: bool = True) -> Any:
    """Return the value of a JSON text, read strictly.

    Raises ValueError for a key given twice, too deep nesting, a number of thousands of digits, and where all has to be `finite` for
    NaN and infinity.
    """
    try:
        return json.loads(text, object_pairs_hook=_no_repeats, parse_constant=_no_constant if finite else None)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: str | Path, mend: str = "run the same command again", *, finite: bool = True) -> Any:
    """Read a JSON file as `parse_json` does. Raises ValueError naming the file, with `mend`, what to do about it."""
    try:
        if (size := Path(path).stat().st_size) > MOST_BYTES:
            raise ValueError(f"{size:,} bytes, more than {MOST_BYTES:,}")
        return parse_json(Path(path).read_text(encoding="utf-8-sig"), finite=finite)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); {mend}") from error


def _no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    for key, count in Counter(key for key, _ in pairs).items() if len(pairs) > len(dict(pairs)) else ():
        if count > 1:
            raise ValueError(f"key {key!r} stands {count} times")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class Checked(BaseModel):
    """What a file says: unknown keys are errors, and true is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _true_is_no_number(cls, given: object, make: ValidatorFunctionWrapHandler) -> object:
        made = make(given)
        if _holds_lost_bool(given, made):
            raise PydanticCustomError("bool_as_number", "true and false are not numbers")
        return made


def _holds_lost_bool(given: object, made: object) -> bool:
    """Tell whether true or false of what was given became a number, which pydantic makes of them."""
    if isinstance(given, bool):
        return isinstance(made, int | float) and not isinstance(made, bool)
    if isinstance(given, Mapping) and isinstance(made, Mapping):
        return any(_holds_lost_bool(value, made.get(key)) for key, value in given.items())
    if isinstance(given, list | tuple) and isinstance(made, list | tuple) and len(given) == len(made):
        return any(map(_holds_lost_bool, given, made))
    return False


class _NoDuplicateKeys(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys silently; here it is an error."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
    seen: dict[object, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ValueError(f"line {line}: a key has to be a plain word")
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise ValueError(f"line {line}: key {key!r} is given twice (first in line {seen[key]})")
        seen[key] = line
    return loader.construct_mapping(node, deep)


_NoDuplicateKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


class KeyLines:
    """Where each key of a YAML file stands."""

    def __init__(self, path: Path, root: yaml.Node | None, content: Any = None) -> None:
        self.path, self.content = path, content
        self._lines: dict[tuple[str, ...], int] = {}
        if root is not None:
            self._note((), root)

    def _note(self, at: tuple[str, ...], node: yaml.Node) -> None:
        for name, where, value in _entries(node):
            self._lines.setdefault((*at, name), where.start_mark.line + 1)
            self._note((*at, name), value)

    def of(self, loc: Sequence[object]) -> str:
        """Return `FILE:LINE` of a key, or of the nearest one above it that is there; `FILE` for the whole."""
        words = tuple(map(str, loc))
        while words and words not in self._lines:
            words = words[:-1]
        return f"{self.path}:{self._lines[words]}" if words else str(self.path)


def read_yaml_lines(path: Path) -> tuple[Any, KeyLines]:
    """Read YAML strictly and where its keys stand. Raises ValueError naming the file, and the line of a key given twice."""
    try:
        content, root = _yaml(path.read_text(encoding="utf-8"))
        return content, KeyLines(path, root, content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid YAML: {error or 'nested too deeply'}") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """Return the value of a YAML text, and its root. Raises ValueError, on one line, for whatever is wrong with it."""
    try:
        root = yaml.compose(text, Loader=_NoDuplicateKeys)
        for count, _ in enumerate(_nodes(root)):
            if count > MOST_NODES:
                raise ValueError(f"more than {MOST_NODES} entries, or an alias within itself")
        return yaml.load(text, Loader=_NoDuplicateKeys), root  # noqa: S506 (a SafeLoader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        # PyYAML's own constructors raise any of these on odd dates, tags and numbers
        raise ValueError(" ".join(str(error).split())) from error


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text, read as strictly as a file. Raises ValueError, on one line."""
    return _yaml(text)[0]


def read_yaml(path: Path) -> Any:
    """Read YAML by the safe loader. Raises ValueError naming the file, and the line of a key given twice."""
    return read_yaml_lines(path)[0]


def _entries(node: yaml.Node) -> list[tuple[str, yaml.Node, yaml.Node]]:
    """Return the name, the node that gives it and the value of every entry of a mapping or sequence."""
    if isinstance(node, yaml.MappingNode):
        return [(str(key.value), key, value) for key, value in node.value]
    if isinstance(node, yaml.SequenceNode):
        return [(str(index), value, value) for index, value in enumerate(node.value)]
    return []


def _nodes(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Yield every node as often as it is reached, so that aliases count."""
    waiting = [root] if root is not None else []
    while waiting:
        node = waiting.pop()
        yield node
        for _, where, value in _entries(node):
            waiting += [value] if where is value else [where, value]
