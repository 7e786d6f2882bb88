"""Whatever the file holds, it is read or refused quickly, in flat memory, with one kind of error that names the place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reconciler.config._parse import parse
from reconciler.config._tree import plain
from reconciler.core.errors import Rejected
from tests.config.corpus import CASES
from tests.config.fakes import fleet, problems

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("config-corpus")  # one worker, so that the program runs once


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.config.corpus"], cwd=ROOT, capture_output=True, timeout=90, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("name", CASES)
def test_an_odd_file_is_taken_or_refused_as_promised(name: str, measured: dict[str, Any]) -> None:
    case, result = CASES[name], measured["results"][name]
    if case.code is None:
        assert result["problems"] == []
        assert result["value"] == case.value
    else:
        assert result["problems"], "it was accepted"
        code, line, column, message, hint = result["problems"][0]
        assert code == case.code
        assert case.says in f"{message} ({hint})"
        assert line >= 1
        assert column >= 1
        if case.place is not None:
            assert (line, column) == case.place
    assert result["seconds"] < case.seconds * 2  # twice: the CPU's clock is shared with other tests


def test_all_of_it_together_takes_less_than_100_mb(measured: dict[str, Any]) -> None:
    assert 0 < measured["grown"] < 100 * 1024 * 1024


def test_a_refused_yaml_1_1_file_leaves_no_trace_in_the_next_one() -> None:
    with pytest.raises(Rejected):
        parse(b"%YAML 1.1\n---\na: yes\n", name="old")
    assert plain(parse(b"a: yes\nb: 010\n", name="new").root) == {"a": "yes", "b": 10}


def test_both_places_of_a_duplicate_are_shown() -> None:
    found = problems("instances:\n  a: {backend_type: fake, backend_options: {model: m}}\n  a: {}\n")
    assert [(p.line, p.column, p.also) for p in found] == [(3, 3, (("f.yaml", 2, 3),))]


def test_several_unreadable_values_are_told_at_once() -> None:
    text = "instances:\n  a:\n    backend_type: fake\n    labels:\n      x: 2024-01-01\n      y: .inf\n      z: !t v\n"
    assert [problem.line for problem in problems(text)] == [2, 5, 6, 7]


def test_an_unreadable_value_is_told_once_and_not_again_for_its_type() -> None:
    text = "instances:\n  a:\n    backend_type: fake\n    backend_options: {model: m}\n    replicas: .inf\n"
    assert len(problems(text)) == 1


def test_merge_keys_and_anchors_work_as_macros() -> None:
    text = """
x-base: &base
  backend_type: fake
  environment: {A: "1", B: "2"}
instances:
  a:
    <<: *base
    backend_options: {model: m}
  b:
    <<: [{environment: {B: "3"}}, *base]
    backend_options: {model: m}
    x-note: anything at all
"""
    loaded = fleet(text)
    assert loaded.instances["a"].environment == {"A": "1", "B": "2"}
    assert loaded.instances["b"].environment == {"B": "3"}
    assert set(loaded.instances) == {"a", "b"}


def test_a_file_of_a_thousand_mistakes_is_refused_within_bounds() -> None:
    found = problems("".join(f"key{number}: 1\n" for number in range(5000)))
    assert len(found) < 250
    assert "rest is not shown" in found[-1].message
