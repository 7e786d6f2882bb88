"""Options to argv over a vocabulary: lossless, in the vocabulary's order, three-state, no shell. The way back is in ``_argv``.

Absent options emit nothing; any given value is emitted, ``0``, ``false`` and the empty text included. The order of keys in the
file never shows in argv, so that reordering a file costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from pydantic import JsonValue

from reconciler.backends._hints import for_a_list
from reconciler.backends._values import ValueProblem, accepts_text, decode_json, item_text, read_bool, shown
from reconciler.backends._vocabulary import Gone, Kind, Option, Syntax, Type, Vocabulary, owner
from reconciler.core.contracts import OptionProblem
from reconciler.core.spec import InstanceSpec

NEGATIVE_WHOLE = re.compile(r"-\d+")
"""The only dashed words that argparse surely takes for values in a list (vLLM reads ``-0.5`` there as a dotted flag)."""
OPTIONS = "backend_options"


@dataclass(frozen=True, slots=True)
class Given:
    """One option as the user gave it."""

    option: Option
    key: str
    """As written, for messages."""
    value: JsonValue


def resolve(
    vocabulary: Vocabulary, options: Mapping[str, JsonValue]
) -> tuple[Mapping[str, Given], Sequence[OptionProblem]]:
    """Each known option by canonical name, dotted keys merged into mappings; and what is wrong with the keys."""
    found: dict[str, Given] = {}
    dotted: list[tuple[Option, str, tuple[str, ...], JsonValue]] = []
    problems: list[OptionProblem] = []
    for key, value in options.items():
        if key.startswith("x-"):
            continue
        option = vocabulary.by_key(key)
        if option is not None:
            if option.name in found:
                problems.append(_twice(key, found[option.name].key))
            else:
                found[option.name] = Given(option, key, value)
            continue
        base, *rest = key.split(".")
        owner = vocabulary.by_key(base) if rest and vocabulary.syntax is Syntax.VLLM else None
        if owner is not None and owner.type is Type.JSON and owner.kind is Kind.VALUE and all(rest):
            dotted.append((owner, key, tuple(rest), value))
        else:
            problems.append(unknown_key(vocabulary, key))
    for owner, key, rest_of_key, value in dotted:
        problems.extend(_merge_dotted(found, owner, key, rest_of_key, value))
    return found, problems


def _merge_dotted(
    found: dict[str, Given], owner: Option, key: str, path: Sequence[str], value: JsonValue
) -> Iterable[OptionProblem]:
    held = found.get(owner.name)
    base = held.value if held is not None else {}
    if isinstance(base, str):
        base = decode_json(base)
    if held is not None and not isinstance(base, dict):
        yield OptionProblem(
            path=(OPTIONS, key), message=f"{key} adds to {held.key}, which is not a mapping", hint="use one of the two"
        )
        return
    merged = set_deep(base if isinstance(base, dict) else {}, path, value)
    if merged is None:
        yield _twice(key, held.key if held is not None else key)
        return
    found[owner.name] = Given(owner, held.key if held is not None else key, merged)


def set_deep(base: Mapping[str, JsonValue], path: Sequence[str], value: JsonValue) -> dict[str, JsonValue] | None:
    """A copy of ``base`` with ``value`` at ``path``; None when something else stands there. Mappings are merged."""
    first, *rest = path
    result = dict(base)
    if rest:
        inner = result.get(first, {})
        deeper = set_deep(inner, rest, value) if isinstance(inner, dict) else None
        if deeper is None:
            return None
        result[first] = deeper
        return result
    if first in result:
        return None
    result[first] = value
    return result


def _twice(key: str, earlier: str) -> OptionProblem:
    return OptionProblem(
        path=(OPTIONS, key),
        message=f"{key} and {earlier} are the same option" if key != earlier else f"{key} is given twice",
        hint="keep one of them",
        on_key=True,
    )


def unknown_key(vocabulary: Vocabulary, key: str) -> OptionProblem:
    """The problem with a key that the server does not have, with the nearest thing it does have."""
    path = (OPTIONS, key)
    gone = vocabulary.gone_flag(key)
    if gone is not None:
        return OptionProblem(
            path=path,
            message=lacks(vocabulary, key, gone),
            hint=gone.hint,
            on_key=True,
        )
    message = f"{vocabulary.program} {vocabulary.version} has no option {shown(key)}"
    said, hint = _cure(vocabulary, key)
    return OptionProblem(path=path, message=message + said, hint=hint, on_key=True)


def lacks(vocabulary: Vocabulary, name: str, gone: Gone) -> str:
    """That this version does not have a flag of another one."""
    program = f"{vocabulary.program} {vocabulary.version}"
    return f"{program} does not have {name} yet" if gone.later else f"{program} no longer has {name}"


def _cure(vocabulary: Vocabulary, key: str) -> tuple[str, str]:
    """What else the message says of an unknown key, and what to do."""
    plain = key.lstrip("-").replace("-", "_")
    negative = vocabulary.by_flag("--" + plain.replace("_", "-")) or vocabulary.by_flag(key)
    if negative is not None:
        option, positive = negative
        return "", f"write {option.name}" if positive else f"write {option.name}: false"
    if plain in InstanceSpec.model_fields:
        return f": {plain} is a setting of the instance", f"move {plain} up, beside {OPTIONS}"
    near = vocabulary.nearest_key(key)
    if near is not None and _typo(plain, near):
        return "", f"did you mean {near}?"
    if vocabulary.by_flag("-" + plain) is not None:
        return "", f"did you mean {near}?"
    whose = owner(plain, vocabulary.backend)
    foreign = vocabulary.foreign.get(plain) or (vocabulary.foreign.get(whose[1]) if whose is not None else None)
    if foreign is not None or whose is not None:
        return f", which is {whose[0]}'s" if whose is not None else "", foreign or "remove it"
    return "", f"did you mean {near}?" if near is not None else "extra_args passes raw arguments on"


def _typo(written: str, near: str) -> bool:
    """Whether two names are so like each other that nothing but a slip lies between them."""
    return SequenceMatcher(None, written.lower(), near.replace("-", "_")).ratio() > 0.92


def option_words(syntax: Syntax, option: Option, value: JsonValue) -> tuple[str, ...]:
    """The command line words of one option; raises ValueProblem for a value it cannot take."""
    match option.kind:
        case Kind.SWITCH:
            return _switch(option, value)
        case Kind.VALUE:
            if isinstance(value, list) and option.type is not Type.JSON:
                raise ValueProblem(f"{option.flag} takes one value, not a list", hint=for_a_list(option, value))
            return _glued(syntax, option.flag, item_text(option, value))
        case Kind.APPEND:
            texts = _items(option, value)
            return tuple(word for text in texts for word in _glued(syntax, option.flag, text))
        case Kind.COMMA:
            return _glued(syntax, option.flag, comma_text(option, value))
        case Kind.TUPLE:
            texts = _items(option, value)
            if len(texts) != option.count:
                raise ValueProblem(f"{option.flag} takes {option.count} values, not {len(texts)}")
            return (option.flag, *texts)
        case Kind.LIST:
            return _listed(option, _items(option, value))


def _ends_flags(flag: str, item: int | None = None) -> ValueProblem:
    """Python's argparse drops ``--`` wherever it stands, even behind ``=`` (3.11), and hands on an empty list."""
    return ValueProblem(f"{flag} cannot take the text --: argparse reads it as the end of all flags", item=item)


def _switch(option: Option, value: JsonValue) -> tuple[str, ...]:
    if read_bool(option, value):
        return (option.flag,)
    if option.negative:
        return (option.negative[0],)
    if option.default is True:
        raise ValueProblem(f"{option.flag} cannot be switched off: it is on by default and has no negative form")
    return ()


def _glued(syntax: Syntax, flag: str, text: str) -> tuple[str, ...]:
    """Flag and value; as one word where argparse would take the value for a flag."""
    if text == "--" and syntax is not Syntax.LLAMA:
        raise _ends_flags(flag)
    if text.startswith("-") and syntax is not Syntax.LLAMA:
        return (f"{flag}={text}",)
    return (flag, text)


def _items(option: Option, value: JsonValue) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueProblem(f"{option.flag} takes at least one value", hint="remove the line")
    texts = []
    for at, item in enumerate(values):
        try:
            texts.append(item_text(option, item))
        except ValueProblem as problem:
            problem.item = at if isinstance(value, list) else None
            raise
    return tuple(texts)


def _listed(option: Option, texts: tuple[str, ...]) -> tuple[str, ...]:
    if "--" in texts:
        raise _ends_flags(option.flag, texts.index("--"))
    if len(texts) == 1 and texts[0].startswith("-"):
        return (f"{option.flag}={texts[0]}",)
    for at, text in enumerate(texts):
        if text.startswith("-") and not NEGATIVE_WHOLE.fullmatch(text):
            raise ValueProblem(
                f"{option.flag} cannot take {shown(text, option)} in a list: it reads as a flag there", item=at
            )
    return (option.flag, *texts)


def comma_text(option: Option, value: JsonValue) -> str:
    """A comma list as its one word. Text is passed on as it stands, once its items are known to be good."""
    if isinstance(value, str):
        if '"' not in value:  # quoted items may hold commas; the server reads them itself
            for item in value.split(","):
                if not accepts_text(option, item):
                    item_text(option, item)
        return item_text(_as_text(option), value)
    texts = _items(option, value)
    for at, text in enumerate(texts):
        if "," in text:
            raise ValueProblem(
                f"{option.flag} cannot take {shown(text, option)} in a list: it is joined by commas", item=at
            )
    return ",".join(texts)


def _as_text(option: Option) -> Option:
    return Option(name=option.name, flags=option.flags, kind=option.kind, type=Type.STR, multiline=option.multiline)


def render(
    vocabulary: Vocabulary, given: Mapping[str, Given], *, leave: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """Argv of resolved options, in the vocabulary's order, without those in ``leave``; raises ValueProblem."""
    words: list[str] = []
    for option in vocabulary:
        if option.name in given and option.name not in leave:
            words.extend(option_words(vocabulary.syntax, option, given[option.name].value))
    return tuple(words)


def render_options(vocabulary: Vocabulary, options: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """Argv of options as written; raises ValueProblem for the first thing wrong with them.

    :func:`resolve` and :func:`render` in one, for who has no instance around the options: the tests of both ways and the real servers.
    """
    given, problems = resolve(vocabulary, options)
    if problems:
        raise ValueProblem(problems[0].message, hint=problems[0].hint)
    return render(vocabulary, given)
