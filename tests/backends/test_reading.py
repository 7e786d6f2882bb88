"""What is read from a program is what the program reads: small argparse parsers, dumped by a real child interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.backends._reading import LONGEST_HELP, as_text, clean_help, differences, packaged
from reconciler.backends._reading_argparse import MARK, read_argparse, source
from reconciler.backends._reading_help import read_help
from reconciler.core.errors import Rejected
from reconciler.core.options import OptionTable

FAKE = """
import argparse, enum, functools, json, pathlib, types, threading
sys.modules["fake"] = types.SimpleNamespace(__version__="1.2.3+cu128")


def build():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
{body}
    return parser


{before}
report("fake:__version__", build, ["fake"])
"""


def dump(*lines: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script with a parser made by these lines in a child interpreter."""
    text = FAKE.format(body="\n".join("    " + line for line in lines), before=before)
    command = [sys.executable, "-I", "-S", "-c", source(text)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def read(*lines: str, before: str = "") -> OptionTable:
    """The table of a parser made by these lines."""
    done = dump(*lines, before=before)
    return read_argparse(
        done.stdout + done.stderr,
        backend="fake",
        program="fake serve",
        syntax="argparse",
        positional={"model_tag": "model"},
    )


def by_name(table: OptionTable) -> dict[str, Mapping[str, Any]]:
    """The options by their names."""
    options: Any = table["options"]
    return {one["name"]: one for one in options}


EVERY: Mapping[str, Mapping[str, Any]] = {
    'parser.add_argument("-n", "--num", type=int, default=3)': {
        "flags": ["-n", "--num"],
        "kind": "value",
        "type": "int",
        "default": 3,
    },
    'parser.add_argument("--text")': {"kind": "value", "type": "str"},
    'parser.add_argument("--ratio", type=float, default=0.5)': {"kind": "value", "type": "float", "default": 0.5},
    'parser.add_argument("--file", type=pathlib.Path, default=pathlib.Path("/a"))': {
        "kind": "value",
        "type": "str",
        "default": "/a",
    },
    'parser.add_argument("--data", type=json.loads, default="{}")': {"kind": "value", "type": "json", "default": {}},
    'parser.add_argument("--on", action="store_true")': {"kind": "switch", "type": "bool", "default": False},
    'parser.add_argument("--never", action="store_false")': {"kind": "switch", "type": "bool", "default": False},
    'parser.add_argument("--loud", action="count")': {"kind": "switch", "type": "bool", "default": False},
    'parser.add_argument("--fast", action=argparse.BooleanOptionalAction, default=True)': {
        "flags": ["--fast"],
        "kind": "switch",
        "type": "bool",
        "negative": ["--no-fast"],
        "default": True,
    },
    'parser.add_argument("--no-cache", action="store_true")': {"kind": "switch", "type": "bool", "default": False},
    'parser.add_argument("--many", nargs="+", type=int)': {"kind": "list", "type": "int"},
    'parser.add_argument("--any-number", nargs="*")': {"kind": "list", "type": "str"},
    'parser.add_argument("--pair", nargs=2, type=float)': {"kind": "tuple", "count": 2, "type": "float"},
    'parser.add_argument("--maybe", nargs="?", const="yes")': {"kind": "value", "type": "str", "optional": True},
    'parser.add_argument("--again", action="append")': {"kind": "append", "type": "str"},
    'parser.add_argument("--listed", type=lambda text: text.split(","))': {"kind": "comma", "type": "any"},
    'parser.add_argument("--color", choices=["red", "blue"])': {
        "kind": "value",
        "type": "str",
        "choices": ["red", "blue"],
    },
    'parser.add_argument("--bits", type=int, choices=(4, 8))': {"kind": "value", "type": "int", "choices": [4, 8]},
    'parser.add_argument("--odd", type=lambda text: int(text, 0))': {"kind": "value", "type": "any"},
    'parser.add_argument("--part", type=functools.partial(int, base=10))': {"kind": "value", "type": "int"},
    'parser.add_argument("--with_underscore", type=int)': {
        "flags": ["--with_underscore"],
        "kind": "value",
        "type": "int",
    },
    'parser.add_argument("--called", dest="something_else")': {"kind": "value", "type": "str"},
    'parser.add_argument("--version", action="version", version="1")': {
        "kind": "switch",
        "type": "bool",
        "exits": True,
    },
}


def test_every_kind_of_argument_is_read_for_what_it_takes() -> None:
    table = read(*EVERY)
    found = by_name(table)
    for line, expected in EVERY.items():
        name = next(word.strip('"(),') for word in line.split() if '"--' in word).rpartition("--")[2]
        option = dict(found[name.strip('"').replace("-", "_")])
        assert option.pop("name")
        assert option.pop("group") == "Server"
        if "flags" not in expected:
            assert option.pop("flags") == ["--" + name.strip('"')]
        option.pop("help", None)
        assert option == expected, line
    assert found["help"]["exits"] is True
    assert (table["version"], table["program"], table["syntax"]) == ("1.2.3", "fake serve", "argparse")


def test_a_switch_and_its_opposite_are_one_option() -> None:
    found = by_name(
        read(
            'parser.add_argument("--log", dest="log", action="store_true", default=True)',
            'parser.add_argument("--no-log", "--quiet", dest="log", action="store_false")',
        )
    )
    assert found["log"] == {
        "name": "log",
        "flags": ["--log"],
        "kind": "switch",
        "type": "bool",
        "default": True,
        "negative": ["--no-log", "--quiet"],
        "group": "Server",
    }
    assert set(found) == {"help", "port", "log"}


@pytest.mark.parametrize(
    "default", ["object()", "float('inf')", "argparse.SUPPRESS", "lambda: 1", "{1: object()}", "b'x'"]
)
def test_a_default_that_is_no_data_is_left_out(default: str) -> None:
    assert "default" not in by_name(read(f'parser.add_argument("--odd", default={default})'))["odd"]


def test_enum_members_are_their_values() -> None:
    option = by_name(
        read(
            'Color = enum.Enum("Color", {"RED": "red", "BLUE": "blue"})',
            'parser.add_argument("--color", type=Color, choices=list(Color), default=Color.RED)',
        )
    )["color"]
    assert option["choices"] == ["red", "blue"]
    assert option["default"] == "red"


def test_a_container_that_cannot_be_listed_refuses_nothing() -> None:
    option = by_name(
        read(
            'Any = type("Any", (), {"__contains__": lambda self, value: True})',
            'parser.add_argument("--kind", choices=Any(), type=int, metavar="K")',
        )
    )["kind"]
    assert "choices" not in option


def test_none_among_the_choices_is_no_choice_but_an_absent_value() -> None:
    option = by_name(read('parser.add_argument("--level", choices=["a", None])'))["level"]
    assert option["choices"] == ["a"]
    assert option["nullable"] is True


def test_a_converter_within_others_is_found() -> None:
    option = by_name(
        read(
            "def parse_type(inner):",
            "    def _parse_type(text): return inner(text)",
            "    return _parse_type",
            "def optional_type(inner):",
            '    def _optional_type(text): return None if text == "" else parse_type(inner)(text)',
            "    return _optional_type",
            'parser.add_argument("--deep", type=optional_type(parse_type(json.loads)))',
        )
    )["deep"]
    assert (option["type"], option["nullable"]) == ("json", True)


def test_an_action_of_the_programs_own_takes_what_its_arity_says() -> None:
    found = by_name(
        read(
            "class DeprecatedThing(argparse.Action):",
            "    def __call__(self, *_): pass",
            'parser.add_argument("--own", action=DeprecatedThing, nargs="+", type=int)',
            'parser.add_argument("--flag", action=DeprecatedThing, nargs=0)',
        )
    )
    assert (found["own"]["kind"], found["own"]["type"], found["own"]["deprecated"]) == ("list", "int", True)
    assert found["flag"]["kind"] == "switch"


def test_help_is_filled_in_and_what_cannot_be_is_left_as_it_stands() -> None:
    found = by_name(
        read(
            'parser.add_argument("--a", default=7, help="at most\\n\\n  %(default)s  \\x1b[1mitems\\x1b[0m")',
            'parser.add_argument("--b", help="100% of %(nothing)s")',
            'parser.add_argument("--c", help=argparse.SUPPRESS)',
            'parser.add_argument("--d", help="word " * 200)',
        )
    )
    assert found["a"]["help"] == "at most 7 items"
    assert found["b"]["help"] == "100% of %(nothing)s"
    assert "help" not in found["c"], "a hidden option is still one"
    assert len(found["d"]["help"]) <= LONGEST_HELP
    assert found["d"]["help"].endswith("word…")


def test_a_positional_argument_is_the_bare_form_of_its_option() -> None:
    alone = by_name(read('parser.add_argument("model_tag", nargs="?")'))["model"]
    assert (alone["flags"], alone["positional"], "optional" in alone) == (["--model"], True, False)
    both = by_name(
        read('parser.add_argument("model_tag", nargs="?")', 'parser.add_argument("--model", default="tiny")')
    )
    assert both["model"]["positional"] is True
    assert both["model"]["default"] == "tiny"
    assert "model_tag" not in both


def test_noise_does_not_hide_the_answer_and_a_thread_does_not_hold_it_up() -> None:
    noise = (
        f"import atexit; print('{MARK}{{', end=''); sys.stderr.write('WARNING no GPU'); "
        "atexit.register(print, 'bye'); threading.Thread(target=threading.Event().wait).start(); os.write(1, b'raw')"
    )
    assert "port" in by_name(read(before=noise))


def test_what_is_printed_while_the_parser_is_built_goes_elsewhere() -> None:
    done = dump('print("INFO loading"); os.system("echo from a child")')
    assert done.stdout.strip().startswith(MARK), done.stdout
    assert len(done.stdout.strip().splitlines()) == 1
    assert "from a child" in done.stderr


def test_the_parser_of_a_main_is_caught_before_it_parses() -> None:
    text = """
import argparse, types
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    try:
        parser.parse_args()
    except Exception:
        pass
    raise SystemExit("must not get here")
sys.modules["fake"] = types.SimpleNamespace(__version__="4", main=main)
report("fake:__version__", lambda: caught("fake:main"), ["fake"])
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", source(text)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done
    assert set(by_name(read_argparse(done.stdout, backend="f", program="f", syntax="argparse"))) == {"help", "port"}


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("build = lambda: first('no_such_module:x', 'argparse:Nothing')", "ImportError: module 'argparse' has no"),
        ("def build(): raise SystemExit('needs libcuda.so')", "SystemExit: needs libcuda.so"),
        ("def build(): return 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_program_that_cannot_be_asked_says_why(before: str, reason: str) -> None:
    done = dump(before=before)
    assert done.returncode == 0, "the reason is the answer"
    with pytest.raises(Rejected) as caught:
        read_argparse(done.stdout, backend="fake", program="fake serve", syntax="argparse")
    assert f"cannot read the options of fake serve: it failed: {reason}" in str(caught.value)
    assert "with --help, by hand" in str(caught.value.problems[0].hint)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("", "did not tell them"),
        ("Segmentation fault", "it printed: Segmentation fault"),
        (MARK + '{"version": "1", "opt', "broke off"),
        (MARK + "[1]", "something else"),
        (MARK + '{"version": "1"}', "another form (KeyError"),
        (MARK + '{"version": "1", "options": [1]}', "another form (TypeError"),
        (MARK + '{"version": "1", "options": []}', "no --port"),
    ],
)
def test_garbage_is_refused_with_what_to_do(output: str, reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        read_argparse(output, backend="fake", program="fake serve", syntax="argparse")
    assert reason in str(caught.value)
    assert caught.value.problems[0].hint


@pytest.mark.parametrize("secret", ["hf_abcdefABCDEF1234567890", "sk-proj-abcdefabcdef", "password: swordfish9"])
def test_a_message_repeats_no_secret_that_a_program_printed(secret: str) -> None:
    word = secret.rpartition(" ")[2]
    for output in (f"logged in with {secret} today " * 20, MARK + "{" + f'"{secret} ' * 20, f"{secret}\n{'x ' * 95}"):
        for read_it in (read_help, read_argparse):
            with pytest.raises(Rejected) as caught:
                read_it(output, backend="fake", program="fake", syntax="argparse")
            assert word[4:] not in str(caught.value)
    with pytest.raises(Rejected) as caught:
        read_argparse(MARK + json.dumps({"error": f"no, {secret}"}), backend="fake", program="fake", syntax="argparse")
    assert word[4:] not in str(caught.value)


def test_a_message_repeats_the_end_of_what_a_program_printed() -> None:
    with pytest.raises(Rejected) as caught:
        read_argparse("first " + "between " * 500 + "last", backend="fake", program="fake", syntax="argparse")
    assert "between last" in str(caught.value)
    assert "first" not in str(caught.value)


def test_a_default_that_may_be_a_secret_is_no_part_of_a_table() -> None:
    options = by_name(read('parser.add_argument("--api-key", default="from-the-environment")'))
    assert "default" not in options["api_key"]


facts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["version", "options", "error"]), facts | st.lists(facts, max_size=2)))
def test_whatever_a_program_answers_is_a_table_or_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(Rejected):
        read_argparse(MARK + json.dumps(answer), backend="fake", program="fake", syntax="argparse")


def test_a_tables_file_has_one_line_for_each_option_and_no_help_of_the_program() -> None:
    table = read('parser.add_argument("--a", help="what a does")')
    text = as_text(packaged(table))
    assert json.loads(text) == packaged(table)
    assert "what a does" not in text
    assert sum('"name"' in line for line in text.splitlines()) == len(by_name(table))
    assert list(differences(packaged(table), table)) == []


def test_two_tables_are_told_apart_option_by_option() -> None:
    old, new = read('parser.add_argument("--a")'), read('parser.add_argument("--a", type=int)', before="")
    new = {**new, "version": "2", "options": [*by_name(new).values()][::-1]}
    assert sorted(differences(old, new)) == [
        "a: type: 'str' is packaged, 'int' was read",
        "the options stand in another order",
        "version: '1.2.3' is packaged, '2' was read",
    ]
    fewer = {**old, "options": [option for name, option in by_name(old).items() if name != "a"]}
    assert list(differences(old, fewer)) == ["a: packaged, and the program has none"]
    assert list(differences(fewer, old)) == ["a: not packaged"]


@given(st.text())
def test_help_is_always_one_printable_line(text: str) -> None:
    clean = clean_help(text)
    assert len(clean) <= LONGEST_HELP
    assert clean == "" or clean.isprintable()
