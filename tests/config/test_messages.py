"""The mistakes that people make most often are told in words that lead to the cure, as the real backends and the reader word them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import reconciler
from reconciler.backends import discover
from reconciler.cli.root import SECTIONS
from reconciler.config.load import load_text
from reconciler.core.errors import Problem, Rejected

VLLM = "instances:\n  a: {backend_type: vllm, backend_options: {model: m, %s}}\n"


def refused(text: str) -> tuple[Problem, ...]:
    with pytest.raises(Rejected) as refusal:
        load_text(text.encode(), name="f.yaml", backends=discover(), environ={})
    return refusal.value.problems


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        (
            "instances:\n  a:\n   backend_type: vllm\n    backend_options:\n      model: m\n",
            (4, 5),
            "indented deeper than line 3",
            "3 spaces in place of 4",
        ),
        ("instances:\n  a:\n    # c\n    - b: 1\n\n        c: 2\n", (6, 9), "deeper than line 4", "6 spaces"),
        ("x: [", (1, 4), "this `[` is opened and never closed", "`]`"),
        ("x: {a: [1], b: {\n\n", (1, 16), "this `{` is opened and never closed", "`}`"),
        ("x: {a: 1\n", (1, 4), "this `{` is opened and never closed", "`}`"),
        ("x: ]\n", (1, 4), "a `]` that closes nothing", "remove it"),
        ("instances: [a]\n", (1, 12), "expected a mapping, found a list", "under its name"),
        ("instances:\n- a: 1\n", (2, 1), "expected a mapping, found a list", "under its name"),
        (
            "instances:\n  a: {backend_type: vllm, backend_options: [a]}\n",
            (2, 44),
            "expected a mapping, found a list",
            "`name: value` under backend_options",
        ),
        ("auth: {management_keys: [abc]}\n", (1, 26), "expected a mapping, found text", "{file: PATH}"),
        ("auth: {management_keys: abc}\n", (1, 25), "expected a list, found text", "a list of keys"),
        ("auth: {management_keys: [{sha256: zz}]}\n", (1, 35), "expected 64 hexadecimal digits", None),
        ("tempplate: &a 1\n", (1, 1), "unknown key `tempplate`", "x-… for anchors"),
        (VLLM % "trust-remote-code: yes", (2, 74), "takes true or false", "write true"),
        (VLLM % "trust-remote-code: off", (2, 74), "takes true or false", "write false"),
        (
            "instances:\n  a:\n    backend_type vllm\n    backend_options: {model: m}\n",
            (3, 5),
            "a key without its `:`",
            "write `backend_type: …`",
        ),
        ("x-b: &b {c: 1}\ninstances:\n  a: *nope\n", (3, 6), "*nope refers to an anchor", "define &nope"),
        (
            "instances:\n  a: {backend_type: vllm, extra_args: '--foo bar 5', backend_options: {model: m}}\n",
            (2, 39),
            "expected a list",
            "write [--foo, bar, '5']",
        ),
        (VLLM % "max-num-seqs: [1, 2]", (2, 69), "takes one value, not a list", None),
        (
            "instances:\n  a:\n    backend_type: vllm\n    backend_options:\n      model: m\n      max-num-seqs:\n        - 1\n",
            (6, 7),
            "takes one value, not a list",
            "write 1 without the brackets",
        ),
        (VLLM % "revision: 1.10", (2, 65), "takes text, not the number 1.10", 'put it in quotes: "1.10"'),
    ],
)
def test_a_common_mistake_is_named_with_its_cure(
    text: str, place: tuple[int, int], message: str, hint: str | None
) -> None:
    (problem,) = refused(text)
    assert (problem.line, problem.column) == place
    assert message in problem.message
    assert "node" not in problem.message
    assert (hint is None and problem.hint is None) or (hint is not None and hint in str(problem.hint))


def test_a_variable_that_is_not_set_is_told_once_and_hides_nothing_else() -> None:
    text = VLLM.replace("model: m, %s", "model: '${UNSET}', dtyp: 3") + "server: {port: '${UNSET}'}\n"
    assert [problem.message for problem in refused(text)] == [
        "the environment variable UNSET is not set",
        "vllm serve 0.32.0 has no option 'dtyp'",
        "the environment variable UNSET is not set",
    ]


def test_one_wrong_key_does_not_hide_what_is_wrong_with_the_others() -> None:
    text = (
        "auth:\n  management_keys: [{vlaue: x}, {env: NOPE}, {}]\n"
        "  inference_keys: [abc, {file: /no/such, instances: [nobody]}]\n"
    )
    assert [problem.path for problem in refused(text)] == [
        "auth.management_keys[0].vlaue",
        "auth.management_keys[1].env",
        "auth.management_keys[2]",
        "auth.inference_keys[0]",
        "auth.inference_keys[1].file",
        "auth.inference_keys[1].instances[0]",
    ]


def _texts() -> list[tuple[str, str]]:
    root = Path(reconciler.__file__).parent
    return [
        (str(file.relative_to(root)), node.value)
        for file in sorted(root.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_every_command_that_a_text_tells_people_to_run_exists() -> None:
    commands = {name for _, table in SECTIONS for name in table}
    named = [
        (file, match[1])
        for file, text in _texts()
        for match in re.finditer(r"(?:`+|\bwith )llamactl ([a-z][a-z-]*)", text)
    ]
    assert len(named) > 10
    assert [one for one in named if one[1] not in commands] == []
