"""Checking values against a model, with one sentence for an error."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from algd.config.values import check_value, leaves, shortened
from algd.errors import UsageError

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


def validated(model: type[BaseModel], values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The values as the model converts them.

    Args:
        model: what is allowed.
        values: by the model's keys.
        prefix: the dotted key of their group; "" for none.

    Raises:
        UsageError: the first that is wrong, with its key, its value and what is allowed.
    """
    for key, value in leaves(values, prefix):
        check_value(key, value)
    try:
        result = model.model_validate(dict(values)).model_dump()
    except ValidationError as error:
        first, *others = error.errors()
        # A location ends with the branch's name where a union was tried; no key is spelled like that.
        branch = not isinstance(first["loc"][-1], int) and first["loc"][-1] not in values and len(first["loc"]) > 1
        outer = first["loc"][:-1]
        in_union = [e for e in others if branch and e["loc"][:len(outer)] == outer]
        location = outer if in_union else first["loc"]
        key = ".".join(str(part) for part in (prefix, *location) if part != "")
        if first["type"] == "extra_forbidden":
            fields = model.model_fields
            for part in first["loc"][:-1]:
                fields = getattr(fields[str(part)].annotation, "model_fields", {})
            raise UsageError(f"{key}={shortened(first['input'])}: there is no such key; "
                             f"allowed are {', '.join(sorted(fields))}") from error
        if first["type"] == "missing":
            raise UsageError(f"{key} is missing") from error
        allowed = " or ".join(dict.fromkeys(_allowed(e, model) for e in (first, *in_union)))
        raise UsageError(f"{key}={shortened(first['input'])}: it should {allowed}") from error
    for name, value in result.items():
        _refuse_truth(values.get(name), value, f"{prefix}.{name}" if prefix else name)
    return result


def _allowed(error: Any, model: type[BaseModel]) -> str:
    """What pydantic requires of a value, to be read after "it should"."""
    kind, context = error["type"], error.get("ctx", {})
    many = f"{context.get('min_length')} item{'s' * (context.get('min_length') != 1)}"
    if kind == "model_type":
        field = model.model_fields[error["loc"][0]].annotation
        return f"be a group of the keys {', '.join(getattr(field, 'model_fields', ()))}"
    special = {"int_parsing_size": "be a valid integer, and a smaller one", "too_short": f"have at least {many}",
               "string_too_short": "not be empty", "sequence_str": "be a list", "list_type": "be a list",
               "dict_type": "be a group of keys", "bool_parsing": "be true or false", "bool_type": "be true or false",
               "callable_type": "be a group of keys with a _target_", "string_type": "be a text"}
    if kind in special:
        return special[kind]
    text = re.sub(r"^(Value error, )?(Input )?(should )?", "", error["msg"])
    return text if error["msg"].startswith(("Input should", "Value error, should")) else f"suit: {text}"


def _refuse_truth(given: Any, result: Any, key: str) -> None:
    """Refuse true and false where they were converted to a number."""
    if isinstance(given, bool) and not isinstance(result, bool):
        raise UsageError(f"{key}={given!r}: a number is needed, not true or false")
    if isinstance(given, Sequence) and isinstance(result, list | tuple) and not isinstance(given, str):
        for index, (one, other) in enumerate(zip(given, result, strict=False)):
            _refuse_truth(one, other, f"{key}.{index}")
    elif isinstance(given, Mapping) and isinstance(result, Mapping):
        for name in given:
            _refuse_truth(given[name], result.get(name), f"{key}.{name}")
