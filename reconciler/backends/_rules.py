"""Rules between the options of one instance, as the vocabulary states them: each broken one becomes a problem at its option.

The rules are what a server itself enforces when it starts. Nothing is assumed where a value is not known: a number that the server
chooses by itself, a text that only it reads, an option that ``extra_args`` may set. Pure; knows no server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

from pydantic import JsonValue

from reconciler.backends._flags import OPTIONS, Given
from reconciler.backends._sizes import FACTORS, parts
from reconciler.backends._values import FALSE_TEXTS, TRUE_TEXTS, decode_json
from reconciler.backends._vocabulary import Kind, Option, Rule, Vocabulary
from reconciler.core.contracts import OptionProblem


def named(word: str) -> str:
    """The flag in a raw argument, with dashes: ``--max_model_len=5`` is ``--max-model-len``."""
    name = word.partition("=")[0]
    return "--" + name[2:].replace("_", "-") if name.startswith("--") else name


def number_of(option: Option, value: JsonValue) -> float | None:
    """The worth of a number as the server reads it, sizes included; None for words and what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if not isinstance(value, str):
        return value
    size = parts(value) if option.pattern is not None else None
    if size is not None:
        return float(size[0]) * FACTORS[size[1]]
    try:
        return float(value)
    except ValueError:
        return None


class Facts:
    """What is known of one instance's options: given, by default, or not at all."""

    def __init__(self, vocabulary: Vocabulary, given: Mapping[str, Given], extra_args: Sequence[str]) -> None:
        self.vocabulary = vocabulary
        self.given = given
        self._raw = {hit[1].name for word in extra_args if (hit := vocabulary.meant(word)) is not None}

    def raw(self, name: str) -> bool:
        """Whether ``extra_args`` speak of it, so that nothing is known of its value."""
        return self.vocabulary[name.partition(".")[0]].name in self._raw

    def value(self, name: str) -> JsonValue:
        """An option's value, or that of a key within a JSON option (``a.b``): as given, else the server's default."""
        base, *path = name.split(".")
        option = self.vocabulary[base]
        value = self.given[option.name].value if option.name in self.given else (None if path else option.default)
        if path and isinstance(value, str):
            value = decode_json(value)
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        if option.kind is Kind.SWITCH and isinstance(value, str):
            return True if value in TRUE_TEXTS else False if value in FALSE_TEXTS else value
        return value

    def on(self, name: str) -> bool:
        """Given, and neither off nor empty."""
        option, value = self.vocabulary[name.partition(".")[0]], self.value(name)
        nothing = value == "" and option.kind is not Kind.LIST  # a list of one empty text is a list
        off = value is None or value is False or nothing  # and 0 is a value like any other
        return not off and option.name in self.given

    def number(self, name: str) -> float | None:
        """The worth of a number; None where it is not known."""
        return None if self.raw(name) else number_of(self.vocabulary[name], self.value(name))

    def key(self, name: str) -> str | None:
        """The option's key as the user wrote it; None when it is not given."""
        option = self.vocabulary[name.partition(".")[0]]
        return self.given[option.name].key if option.name in self.given else None


def broken(
    vocabulary: Vocabulary, given: Mapping[str, Given], extra_args: Sequence[str], *, wrong: Set[str] = frozenset()
) -> Iterator[OptionProblem]:
    """Every rule that these options break; silent about rules that speak of the ``wrong`` ones, whose values mean nothing."""
    facts = Facts(vocabulary, given, extra_args)
    for rule in vocabulary.rules:
        spoken = {
            name.partition(".")[0]
            for name in (rule.option, *rule.needs, rule.conflicts, rule.other, *rule.when)
            if name
        }
        if not wrong.isdisjoint(spoken):
            continue
        if not _applies(rule, facts) or not _violated(rule, facts):
            continue
        others = [name for name in (rule.conflicts, rule.other) if name is not None]
        key = next((found for name in (rule.option, *others) if (found := facts.key(name)) is not None), None)
        if key is not None:
            yield OptionProblem(
                path=(OPTIONS, key),
                message=_said(rule, rule.message, facts),
                hint=_said(rule, rule.hint, facts),
                warning=rule.warning,
            )


def _applies(rule: Rule, facts: Facts) -> bool:
    for name, wanted in rule.when.items():
        among = wanted if isinstance(wanted, list) else [wanted]
        if facts.raw(name) or not any(_same(facts.value(name), one) for one in among):
            return False
    return True


def _same(value: JsonValue, wanted: JsonValue) -> bool:
    """Equal as the server reads them: ``"1"`` is 1, and 1 is not true."""
    return isinstance(value, bool) is isinstance(wanted, bool) and str(value) == str(wanted)


def _violated(rule: Rule, facts: Facts) -> bool:
    if rule.needs:
        return facts.on(rule.option) and not any(facts.on(name) or facts.raw(name) for name in rule.needs)
    if rule.conflicts is not None:
        return facts.on(rule.option) and facts.on(rule.conflicts)
    if rule.values:
        value = facts.value(rule.option)
        return value is not None and not facts.raw(rule.option) and value not in rule.values
    if rule.other is None:
        return False
    one, other = facts.number(rule.option), facts.number(rule.other)
    if one is None or other is None or other <= 0:  # 0 and less are words for "you choose" where they are allowed
        return False
    match rule.compare:
        case "at_most":
            return one > other
        case "below":
            return one >= other
        case "multiple_of":
            return one % other != 0
        case None:
            return False


def _said(rule: Rule, text: str, facts: Facts) -> str:
    """The text with the numbers at hand in place of ``{value}`` and ``{other}``."""
    other = facts.value(rule.other) if rule.other is not None else None
    return text.replace("{value}", str(facts.value(rule.option))).replace("{other}", str(other))


VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""Variables that list the GPUs a process may use, separated by commas."""


def visible_devices(environment: Mapping[str, str | None]) -> tuple[str, int] | None:
    """The declared variable that shows the fewest GPUs, and how many; None where none is declared, or it shows none at all."""
    found = []
    for variable in VISIBLE:
        text = environment.get(variable)
        listed = [part.strip() for part in (text or "").split(",")]
        if text and "${" not in text and all(listed) and "-1" not in listed:
            found.append((len(listed), variable))
    return (min(found)[1], min(found)[0]) if found else None
