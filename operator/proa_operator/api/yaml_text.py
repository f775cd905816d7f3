"""YAML as kubectl reads it, so that a file means the same to `proa up` and to the API server."""

from __future__ import annotations

import re
from typing import Any

import yaml


class KubernetesLoader(yaml.SafeLoader):
    """PyYAML's safe loader without base-60 numbers (1:4 is text to kubectl) and with duplicate keys refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping with unique keys; raises MarkedYAMLError at the second use of one."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key.value, str):
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_INT = r"^[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$"
_FLOAT = r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+|\.(?:inf|Inf|INF|nan|NaN|NAN))$"
_WITHOUT_BASE_60 = {"tag:yaml.org,2002:int": re.compile(_INT), "tag:yaml.org,2002:float": re.compile(_FLOAT)}
KubernetesLoader.yaml_implicit_resolvers = {
    first: [(tag, _WITHOUT_BASE_60.get(tag, pattern)) for tag, pattern in resolvers]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def documents(text: str) -> list[Any]:
    """The YAML documents in `text` that are not empty. Raises yaml.YAMLError."""
    return [document for document in yaml.load_all(text, Loader=KubernetesLoader) if document is not None]
