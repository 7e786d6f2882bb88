"""The law of renderer and parser: what options mean survives argv, the quoted command line, and the file written from it.

Every option of every vocabulary, over values of its type with their corners. The default run draws few of each and always the
odd ones that are listed by hand; the slow run draws ten times as many.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable, Mapping

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import JsonValue

from reconciler.backends import discover
from reconciler.backends._argv import read_argv
from reconciler.backends._flags import render_options
from reconciler.backends._schema import value_schema
from reconciler.backends._vocabulary import Kind, Option, Type, Vocabulary, load
from reconciler.config.document import snippet
from reconciler.config.load import load_text
from tests.backends.samples import NO_BACKENDS, backend, errors, spec
from tests.backends.values import ODD_TEXTS, free, meaning

BACKENDS = ("vllm", "llama_cpp", "mlx_lm", "simulator")
PARSED = ("vllm", "llama_cpp", "mlx_lm")
EVERY_OPTION = [(name, option.name) for name in BACKENDS for option in load(name)]
QUICK, DEEP = 7, 70
"""Examples per option."""

Options = dict[str, JsonValue]
Law = Callable[[Vocabulary, Option, JsonValue], None]


def meanings(vocabulary: Vocabulary, options: Mapping[str, JsonValue]) -> dict[str, object]:
    """What a set of options tells the server, by canonical name."""
    told: dict[str, object] = {}
    for key, value in options.items():
        option = vocabulary.by_key(key)
        assert option is not None
        told[option.name] = meaning(option, value)
    return {name: what for name, what in told.items() if what is not None}


def back(vocabulary: Vocabulary, argv: tuple[str, ...]) -> Options:
    """The options that an argv says, all of its words understood."""
    reading = read_argv(vocabulary, argv)
    assert reading.extra == []
    return reading.options


def comes_back(vocabulary: Vocabulary, option: Option, value: JsonValue) -> None:
    """render, read, render: the same meaning, and the same argv."""
    argv = render_options(vocabulary, {option.name: value})
    again = back(vocabulary, argv)
    assert meanings(vocabulary, again) == meanings(vocabulary, {option.name: value})
    settled = render_options(vocabulary, again)
    assert settled == argv or _as_text(vocabulary, {option.name: value})
    assert back(vocabulary, settled) == again
    if argv == ():
        assert option.kind is Kind.SWITCH
        assert not option.negative, "only off may be said by saying nothing, and only where it is the default"


def allowed_and_comes_back(vocabulary: Vocabulary, option: Option, value: JsonValue) -> None:
    """The schema takes what the renderer takes, and it comes back."""
    comes_back(vocabulary, option, value)
    assert Draft202012Validator(value_schema(option)).is_valid(value)


def _as_text(vocabulary: Vocabulary, options: Mapping[str, JsonValue]) -> bool:
    """Whether JSON stands there as text, which is passed on with the writer's own blanks."""
    return any(isinstance(value, str) and vocabulary[name].type is Type.JSON for name, value in options.items())


def run(backend_kind: str, name: str, examples: int, law: Law) -> None:
    """Hold a law against so many drawn values of one option."""
    vocabulary = load(backend_kind)
    option = vocabulary[name]

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(free(option, vocabulary.syntax))
    def holds(value: JsonValue) -> None:
        law(vocabulary, option, value)

    holds()


@pytest.mark.parametrize(("kind", "name"), EVERY_OPTION)
def test_every_option_comes_back_from_argv_as_it_went_in(kind: str, name: str) -> None:
    run(kind, name, QUICK, allowed_and_comes_back)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), EVERY_OPTION)
def test_every_option_comes_back_over_many_values(kind: str, name: str) -> None:
    run(kind, name, DEEP, allowed_and_comes_back)


@pytest.mark.parametrize("kind", BACKENDS)
def test_every_text_option_takes_every_odd_text(kind: str) -> None:
    vocabulary = load(kind)
    for option in vocabulary:
        if option.type is not Type.STR or option.choices or option.kind is Kind.SWITCH:
            continue
        for text in ODD_TEXTS:
            if not _impossible(vocabulary, option, text):
                comes_back(vocabulary, option, [text] * option.count if option.kind is Kind.TUPLE else text)


def _impossible(vocabulary: Vocabulary, option: Option, text: str) -> bool:
    """Texts that no argv can carry to this option, which the checks refuse."""
    return text == "--" and vocabulary.syntax.value != "llama"


@pytest.mark.parametrize("kind", BACKENDS)
def test_false_is_said_or_is_the_default_or_is_refused(kind: str) -> None:
    vocabulary = load(kind)
    for option in vocabulary:
        if option.kind is not Kind.SWITCH:
            continue
        if option.negative:
            assert render_options(vocabulary, {option.name: False}) == (option.negative[0],)
            assert back(vocabulary, (option.negative[0],)) == {option.name: False}
        else:
            assert option.default is not True, "a default of true that cannot be switched off would need a refusal"
            assert render_options(vocabulary, {option.name: False}) == ()


@st.composite
def option_sets(draw: st.DrawFn, kinds: tuple[str, ...]) -> tuple[str, Options]:
    """Several options of one backend, each with a value."""
    kind = draw(st.sampled_from(kinds))
    vocabulary = load(kind)
    names = draw(st.lists(st.sampled_from([option.name for option in vocabulary]), unique=True, max_size=12))
    options = {name: draw(free(vocabulary[name], vocabulary.syntax)) for name in names}
    return kind, options


def sets_come_back(kind: str, options: Options, shuffled: Options) -> None:
    vocabulary = load(kind)
    argv = render_options(vocabulary, options)
    again = back(vocabulary, argv)
    assert meanings(vocabulary, again) == meanings(vocabulary, options)
    settled = render_options(vocabulary, again)
    assert settled == argv or _as_text(vocabulary, options)
    assert back(vocabulary, settled) == again
    assert render_options(vocabulary, shuffled) == argv, "the order of keys never shows"


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(option_sets(BACKENDS), st.randoms(use_true_random=False))
def test_sets_of_options_come_back_in_any_order(drawn: tuple[str, Options], chance: random.Random) -> None:
    sets_come_back(*drawn, _shuffled(drawn[1], chance))


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(option_sets(BACKENDS), st.randoms(use_true_random=False))
def test_many_sets_of_options_come_back_in_any_order(drawn: tuple[str, Options], chance: random.Random) -> None:
    sets_come_back(*drawn, _shuffled(drawn[1], chance))


def _shuffled(options: Options, chance: random.Random) -> Options:
    names = list(options)
    chance.shuffle(names)
    dashed = [name.replace("_", "-") if chance.random() < 0.5 else name for name in names]
    return {key: options[name] for key, name in zip(dashed, names, strict=True)}


def pasted(kind: str, options: Options) -> Options:
    """What of these a pasted command keeps: not the address, keys, what starts no server and what llamactl refuses."""
    refused = getattr(backend(kind), "refused", {})
    vocabulary = load(kind)
    kept = {}
    for name, value in options.items():
        option = vocabulary[name]
        if name not in ("host", "port", *refused) and not (option.secret or option.exits or option.removed):
            kept[name] = value
    return kept


def accompanied(vocabulary: Vocabulary, options: Options) -> Options:
    """With what the server's rules demand beside them, so that a file with these options is accepted."""
    for _ in range(3):
        for rule in vocabulary.rules:
            if rule.needs and options.get(rule.option) not in (None, False) and not set(rule.needs) & options.keys():
                needed = vocabulary[rule.needs[0]]
                value = True if needed.kind is Kind.SWITCH else 0 if needed.type is Type.INT else "x"
                options = {**options, needed.name: value}
    return options


def survives_the_file(kind: str, options: Options) -> None:
    """Options, argv, quoted command, parse, the file written from it, load, argv again: the law of a pasted command."""
    vocabulary = load(kind)
    wanted = accompanied(vocabulary, {"model": "org/m", **pasted(kind, options)})
    assume(not errors(backend(kind).check(spec(kind, wanted))))
    first = backend(kind).launch(spec(kind, wanted), NO_BACKENDS)
    assert first is not None
    command = shlex.join(first.argv)
    assume("\t" not in command)  # a tab within quotes is refused as the paste of a terminal's completion
    parsed = backend(kind).parse(command)
    assert parsed.extra_args == ()
    loaded = load_text(snippet("one", parsed.instance()).encode(), name="f.yaml", backends=discover(), environ={})
    again = loaded.instances["one"]
    assert meanings(vocabulary, again.backend_options) == meanings(vocabulary, wanted)
    second = backend(kind).launch(again, NO_BACKENDS)
    assert second is not None
    assert second.argv == first.argv or _as_text(vocabulary, wanted)
    assert backend(kind).parse(shlex.join(second.argv)) == parsed


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(option_sets(PARSED))
def test_a_quoted_command_survives_the_file_written_from_it(drawn: tuple[str, Options]) -> None:
    survives_the_file(*drawn)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [case for case in EVERY_OPTION if case[0] in PARSED])
def test_every_option_of_a_quoted_command_survives_the_file(kind: str, name: str) -> None:
    def law(_vocabulary: Vocabulary, option: Option, value: JsonValue) -> None:
        survives_the_file(kind, {option.name: value})

    run(kind, name, DEEP // 6, law)
