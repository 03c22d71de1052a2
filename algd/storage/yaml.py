"""Reading the YAML of a run's folder, which may be untrusted: plain values, of bounded size, depth and time."""

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

BYTES = 1_000_000
DEPTH = 50
FEW = 1000  # a text with fewer brackets, dashes and question marks cannot be nested deeply enough to crash the loader


# The pure Python reader takes eight times as long, most of the time of a table of many runs.
class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Dates are text, as for OmegaConf, which wrote the file."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}


def read_yaml(path: Path) -> Any:
    """The plain values of a YAML file, without tags that make objects, and without anchors and aliases.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such YAML. The message is one line.
    """
    if path.stat().st_size > BYTES:
        raise ValueError(f"it is larger than {BYTES} bytes")
    text = path.read_text(encoding="utf-8")
    try:
        # Aliases multiply, and the loader recurses in C, where too great a depth is not an exception.
        if re.search(r"[*&]\S", text) or sum(map(text.count, "[{-?")) > FEW:
            _check_shape(text)
        return yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error


def _check_shape(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it refers to another place in itself, *{event.anchor}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} deep")
