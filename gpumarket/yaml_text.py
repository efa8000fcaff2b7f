"""
YAML as a job file means it: version 1.2 scalars, no aliases, no repeated keys, known lines.

YAML 1.1 turns `on`, `no`, `12:30` and `017` into things nobody wrote; here only JSON's scalars
are special. Aliases are refused because a few of them expand into gigabytes.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

Pointer = tuple[str | int, ...]
"""Where a value stands: keys and list indexes from the top."""

DEPTH_MAX = 32
"""Levels of lists and fields; a job file needs six."""

_PREFIX = "tag:yaml.org,2002:"
_SCALARS = (
    ("bool", r"^(true|false)$", "tf"),
    ("int", r"^[-+]?(0|[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"^[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$", "-+0123456789"),
    ("null", r"^(null|~|)$", ["n", "~", ""]),
)


class YamlMistake(Exception):
    """The text is not YAML as we take it; `line` counts from one."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line
        self.text = text


class _Loader(yaml.SafeLoader):
    """Composes nodes with our scalars and without aliases."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise YamlMistake(self._find_line(), "aliases (*name) are not used in job files")
        if self._depth == DEPTH_MAX:
            raise YamlMistake(
                self._find_line(), f"the file nests more than {DEPTH_MAX} levels deep"
            )
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def _find_line(self) -> int:
        loader: Any = self  # the stubs leave `peek_event` untyped
        line: int = loader.peek_event().start_mark.line
        return line + 1

    def construct_yaml_float(self, node: Any) -> float:
        return float(self.construct_scalar(node))


_Loader.yaml_implicit_resolvers = {}  # of our own: the class above has YAML 1.1's
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_PREFIX + _name, re.compile(_pattern), list(_first))
_Loader.add_constructor(_PREFIX + "float", _Loader.construct_yaml_float)


class YamlText:
    """
    A parsed document that remembers where each value stands.

    Raises `YamlMistake` for text that is not YAML, nests too deep, has aliases or repeats a key.
    """

    def __init__(self, text: str) -> None:
        loader = _Loader(text)
        try:
            self._root = loader.get_single_node()
            self.document: Any = (
                None if self._root is None else loader.construct_document(self._root)
            )
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise YamlMistake(
                1 if mark is None else mark.line + 1, error.problem or "not YAML"
            ) from error
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise YamlMistake(1, str(error).split("\n")[0]) from error
        finally:
            loader.dispose()
        if self._root is not None:
            _refuse_repeats(self._root)

    def find_line(self, pointer: Pointer) -> int:
        """Return the line of the value at `pointer`, or of the nearest thing above it."""
        node = self._root
        line = 1
        for step in pointer:
            if isinstance(node, yaml.MappingNode):
                pairs = [pair for pair in node.value if pair[0].value == str(step)]
                if not pairs:
                    return line
                line = pairs[0][0].start_mark.line + 1
                node = pairs[0][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                if not 0 <= step < len(node.value):
                    return line
                node = node.value[step]
                line = node.start_mark.line + 1
            else:
                return line
        return line


def _refuse_repeats(node: Any) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise YamlMistake(line, "a key must be plain text")
            if key.value in seen:
                raise YamlMistake(line, f"the field {key.value!r} appears twice")
            seen.add(key.value)
            _refuse_repeats(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeats(item)
