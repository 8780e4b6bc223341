"""IAM's decision about one call, as a function: policy documents, an action, a resource, what is known of the call.

moto compares the Resource of a policy with "*" for all of EC2 and SSM, so that a policy for certain instances grants
nothing there, and passes over every Condition. Policies that grant as little as ours do cannot be tested by that, so the
decision is made here.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any

Context = Mapping[str, str | list[str]]


class Decision(Enum):
    ALLOWED = "allowed"
    DENIED = "explicitly denied"
    NOT_ALLOWED = "not allowed"


class Unsupported(ValueError):
    """A policy uses what this evaluation does not know. Silence would make a test pass for the wrong reason."""


def decide(documents: Iterable[str], action: str, resource: str, context: Context) -> Decision:
    """An explicit deny wins over everything; what nobody allows is not allowed."""
    decision = Decision.NOT_ALLOWED
    for statement in (each for document in documents for each in _statements(document)):
        if _covers(statement, action, resource, context):
            if statement["Effect"] == "Deny":
                return Decision.DENIED
            decision = Decision.ALLOWED
    return decision


def trusts(trust_policy: str, service: str) -> bool:
    """May this service assume the role that has this trust policy?"""
    return any(
        statement["Effect"] == "Allow"
        and any(_matches(pattern, "sts:AssumeRole", ignore_case=True) for pattern in _list(statement.get("Action")))
        and service in _list((statement.get("Principal") or {}).get("Service"))
        for statement in _statements(trust_policy)
    )


@lru_cache(maxsize=256)
def _statements(document: str) -> list[dict[str, Any]]:
    return _list(json.loads(document)["Statement"])


def _covers(statement: dict[str, Any], action: str, resource: str, context: Context) -> bool:
    return (
        _element(statement, "Action", lambda pattern: _matches(pattern, action, ignore_case=True))
        and _element(statement, "Resource", lambda pattern: _matches(_filled(pattern, context), resource))
        and all(
            _condition(operator, key, [_filled(str(value), context) for value in _list(values)], context)
            for operator, tests in statement.get("Condition", {}).items()
            for key, values in tests.items()
        )
    )


def _element(statement: dict[str, Any], name: str, matches: Callable[[str], bool]) -> bool:
    if f"Not{name}" in statement:
        return not any(matches(pattern) for pattern in _list(statement[f"Not{name}"]))
    return any(matches(pattern) for pattern in _list(statement[name]))


def _condition(operator: str, key: str, wanted: list[str], context: Context) -> bool:
    quantifier, _, plain = operator.rpartition(":")
    optional = plain.endswith("IfExists")
    plain = plain.removesuffix("IfExists")
    found = _lookup(context, key)
    if plain == "Null":
        return (found is None) == (wanted[0].lower() == "true")
    if plain not in COMPARISONS:
        raise Unsupported(f"the condition operator {operator} is not supported by the emulator")
    test, negated = COMPARISONS[plain]
    if found is None:
        return optional or negated or quantifier == "ForAllValues"
    if quantifier == "ForAllValues":
        return all(_passes(test, negated, value, wanted) for value in found)
    return any(_passes(test, negated, value, wanted) for value in found)


def _passes(test: Callable[[str, str], bool], negated: bool, value: str, wanted: list[str]) -> bool:
    return any(test(pattern, value) for pattern in wanted) != negated


def _lookup(context: Context, key: str) -> list[str] | None:
    """Keys ignore case, but for the tag's name after the slash."""
    prefix, slash, tag = key.partition("/")
    for known, value in context.items():
        known_prefix, known_slash, known_tag = known.partition("/")
        if (known_prefix.lower(), known_slash, known_tag) == (prefix.lower(), slash, tag):
            return _list(value)
    return None


def _filled(text: str, context: Context) -> str:
    """Puts in what `${aws:…}` stands for; one that is unknown is left, and so matches nothing."""

    def value(match: re.Match[str]) -> str:
        if match[1] in ("*", "?", "$"):
            return match[1]
        found = _lookup(context, match[1])
        return found[0] if found else match[0]

    return re.sub(r"\$\{([^}]+)\}", value, text) if "${" in text else text


def _matches(pattern: str, text: str, ignore_case: bool = False) -> bool:
    return _pattern(pattern, ignore_case).fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _pattern(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    parts = (".*" if part == "*" else "." if part == "?" else re.escape(part) for part in re.split(r"([*?])", pattern))
    return re.compile("".join(parts), re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _same(pattern: str, value: str) -> bool:
    return pattern == value


def _same_ignoring_case(pattern: str, value: str) -> bool:
    return pattern.lower() == value.lower()


def _like(pattern: str, value: str) -> bool:
    return _matches(pattern, value)


# The test, and whether the operator asks for its opposite.
COMPARISONS: dict[str, tuple[Callable[[str, str], bool], bool]] = {
    "StringEquals": (_same, False),
    "StringNotEquals": (_same, True),
    "StringEqualsIgnoreCase": (_same_ignoring_case, False),
    "StringNotEqualsIgnoreCase": (_same_ignoring_case, True),
    "StringLike": (_like, False),
    "StringNotLike": (_like, True),
    "ArnEquals": (_like, False),
    "ArnNotEquals": (_like, True),
    "ArnLike": (_like, False),
    "ArnNotLike": (_like, True),
    "Bool": (_same_ignoring_case, False),
    "NumericEquals": (lambda a, b: float(b) == float(a), False),
    "NumericNotEquals": (lambda a, b: float(b) == float(a), True),
    "NumericLessThan": (lambda a, b: float(b) < float(a), False),
    "NumericLessThanEquals": (lambda a, b: float(b) <= float(a), False),
    "NumericGreaterThan": (lambda a, b: float(b) > float(a), False),
    "NumericGreaterThanEquals": (lambda a, b: float(b) >= float(a), False),
}
