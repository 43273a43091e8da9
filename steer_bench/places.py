"""YAML read strictly, with the line of every key: for errors that say where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

MOST_NODES = 100_000
"""Of one file, aliases followed: a few lines of nested aliases would otherwise fill the memory."""


class _NoDuplicateKeys(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys silently; here it is an error."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
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


class Places:
    """Where each key of a YAML file stands."""

    def __init__(self, path: Path, root: yaml.Node | None, content: Any = None) -> None:
        self.path, self.content = path, content
        self._lines: dict[tuple[str, ...], int] = {}
        if root is not None:
            self._note((), root)

    def _note(self, at: tuple[str, ...], node: yaml.Node) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                place = (*at, str(key.value))
                self._lines.setdefault(place, key.start_mark.line + 1)
                self._note(place, value)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                place = (*at, str(index))
                self._lines.setdefault(place, value.start_mark.line + 1)
                self._note(place, value)

    def of(self, loc: Sequence[object]) -> str:
        """`FILE:LINE` of a key, or of the nearest one above it that is there; `FILE` for the whole."""
        words = tuple(map(str, loc))
        while words and words not in self._lines:
            words = words[:-1]
        return f"{self.path}:{self._lines[words]}" if words else str(self.path)


def read_places(path: Path) -> tuple[Any, Places]:
    """YAML by the safe loader, duplicate keys refused, and where its keys stand. Raises ValueError naming the file."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=_NoDuplicateKeys)
        for count, _ in enumerate(_nodes(root)):
            if count > MOST_NODES:
                raise ValueError(f"more than {MOST_NODES} entries, or an alias within itself")
        content = yaml.load(text, Loader=_NoDuplicateKeys)  # noqa: S506 (a SafeLoader)
        return content, Places(path, root, content)
    except RecursionError:
        raise ValueError(f"{path}: not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        # PyYAML's own constructors raise any of these on odd dates, tags and numbers
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise ValueError(f"{path}: can not be read ({error.strerror}); check the path") from error


def read_yaml(path: Path) -> Any:
    """YAML by the safe loader, duplicate keys refused. Raises ValueError naming the file."""
    return read_places(path)[0]


def _nodes(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Every node as often as it is reached, so that aliases count."""
    waiting = [root] if root is not None else []
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                waiting += [key, value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
