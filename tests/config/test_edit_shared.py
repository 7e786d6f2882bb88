"""Edits of what several instances share, and of what is inside one: the others keep their meaning, the rest its lines and comments."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from reconciler.config._tree import plain
from reconciler.config.document import parse, remove_instance, set_enabled, set_instance
from reconciler.core.errors import Rejected

Data = dict[str, JsonValue]


def instances(text: str) -> Data:
    document = parse(text.encode(), name="f")
    assert not document.problems
    data = plain(document.root)
    assert isinstance(data, dict)
    found = data["instances"]
    assert isinstance(found, dict)
    return found


INSIDE = """\
instances:
  a:  # the big one
    # chosen by hand
    backend_type: vllm
    backend_options:   # flags
      # two GPUs
      tensor_parallel_size: 2  # both

      # half
      gpu-memory-utilization: 0.50   # of each
      model: 'x'  # weights
      # max_model_len: 4096
    extra_args:
      # talkative
      - --verbose   # yes
      - --x
    environment: {A: "1", B: two}  # inline
  # b is next
  b: {x: 1}
"""


def test_a_new_body_changes_what_differs_and_keeps_every_other_line_and_comment() -> None:
    body: Data = {
        "backend_type": "vllm",
        "backend_options": {"gpu-memory-utilization": 0.5, "model": "y", "max_num_seqs": 8},
        "extra_args": ["--first", "--verbose", "--z"],
        "environment": {"A": "1", "C": "3"},
        "aliases": ["big"],
    }
    after = set_instance(INSIDE, "a", body)
    assert instances(after)["a"] == body
    assert after == INSIDE.replace("      # two GPUs\n      tensor_parallel_size: 2  # both\n", "").replace(
        "'x'  # weights\n", "'y'  # weights\n      max_num_seqs: 8\n"
    ).replace("      # talkative\n", "      - --first\n      # talkative\n").replace("- --x\n", "- --z\n").replace(
        '{A: "1", B: two}  # inline\n', '{A: "1", C: "3"}  # inline\n    aliases:\n      - big\n'
    )


OWNER = """\
x-common: &common
  backend_type: vllm  # for all
  replicas: 1
instances:
  a: &a
    backend_type: vllm
    environment: &env {T: x}
  b: *a
  c:
    <<: *common  # what all have
    environment: *env
  d: *common
"""


@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
@pytest.mark.parametrize("enabled", [True, False])
def test_switching_one_never_switches_those_that_share_its_text(name: str, enabled: bool) -> None:
    before = instances(OWNER)
    after = instances(set_enabled(OWNER.replace("replicas: 1", f"enabled: {str(not enabled).lower()}"), name, enabled))
    for other, value in instances(OWNER.replace("replicas: 1", f"enabled: {str(not enabled).lower()}")).items():
        if other != name:
            assert after[other] == value
    switched = after[name]
    assert isinstance(switched, dict)
    assert switched.get("enabled", True) is enabled
    assert list(before) == list(after)


def test_an_instance_by_alias_goes_on_sharing_what_did_not_change() -> None:
    assert set_enabled(OWNER, "d", False) == OWNER.replace(
        "  d: *common\n", "  d:\n    <<: *common\n    enabled: false\n"
    )


def test_the_owner_of_an_anchor_hands_it_to_the_first_who_uses_it() -> None:
    after = set_enabled(OWNER, "a", False)
    assert after == OWNER.replace("  a: &a\n", "  a:\n    enabled: false\n").replace(
        "  b: *a\n", "  b: &a\n    backend_type: vllm\n    environment: {T: x}\n"
    )


@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
def test_removing_the_owner_leaves_the_others_what_they_had(name: str) -> None:
    before = instances(OWNER)
    after = instances(remove_instance(OWNER, name))
    assert after == {key: value for key, value in before.items() if key != name}


def test_a_key_that_a_merge_brings_can_be_overruled_and_taken_away() -> None:
    text = "x-c: &c {replicas: 1, t: v}\ninstances:\n  a:\n    <<: *c  # shared\n    m: 1  # own\n"
    over = set_instance(text, "a", {"replicas": 2, "t": "v", "m": 1})
    assert over == text + "    replicas: 2\n"
    gone = set_instance(text, "a", {"t": "v", "m": 1})
    assert gone == "x-c: &c {replicas: 1, t: v}\ninstances:\n  a:\n    m: 1  # own\n    t: v\n"


def test_instances_that_are_an_alias_or_a_merge_are_edited_or_refused_never_guessed() -> None:
    aliased = "x-all: &all\n  a: {t: v}\ninstances: *all\n"
    after = set_enabled(aliased, "a", False)
    assert after.startswith("x-all: &all\n  a: {t: v}\n")
    assert instances(after) == {"a": {"t": "v", "enabled": False}}
    merged = "x-all: &all\n  a: {t: v}\n  b: {}\ninstances:\n  <<: *all\n"
    assert instances(set_enabled(merged, "a", False)) == {"a": {"t": "v", "enabled": False}, "b": {}}
    with pytest.raises(Rejected) as refused:
        remove_instance(merged, "a")
    assert (refused.value.problems[0].code, refused.value.problems[0].line) == ("CONFIG_NOT_EDITABLE", 5)


def test_a_refusal_names_the_place_and_what_stands_there() -> None:
    with pytest.raises(Rejected) as refused:
        set_enabled("server: {port: 1}\ninstances:\n  ok: {}\n  odd: [1]\n", "odd", False)
    problem = refused.value.problems[0]
    assert (problem.line, problem.column, problem.source) == (4, 3, "  odd: [1]")


def test_an_item_before_the_first_of_a_list_in_a_list_goes_behind_the_outer_dash() -> None:
    text = "instances:\n  a:\n    rows:\n      - - one\n        - two\n"
    after = set_instance(text, "a", {"rows": [["zero", "one", "two"]]})
    assert after == text.replace("- - one\n", "- - zero\n        - one\n")


def test_text_of_whole_lines_at_the_very_end_is_not_given_a_line_end_it_did_not_have() -> None:
    text = "instances:\n  a:\n    note: |\n      x"
    with pytest.raises(Rejected):
        set_instance(text, "b", {"t": "v"})
    assert instances(set_enabled(text, "a", False))["a"] == {"enabled": False, "note": "x"}


def test_text_of_whole_lines_that_comes_to_stand_last_keeps_its_line_end() -> None:
    text = "instances:\n  a:\n    note: |\n      x\n  b: {}"
    assert remove_instance(text, "b") == "instances:\n  a:\n    note: |\n      x\n"


def test_one_and_true_are_different_values() -> None:
    text = "instances:\n  a: {x: 1, y: 1.0, z: true}\n"
    assert set_instance(text, "a", {"x": True, "y": 1, "z": 1}) == "instances:\n  a: {x: true, y: 1, z: 1}\n"


MERGED = """\
x-base: &base
  backend_type: vllm
  replicas: 1
instances:
  a: &a  # the first
    <<: *base
    # weights
    backend_options: &options
      model: m   # by hand

      text: |
        two
        lines
  b: *a
  c: {<<: *a, replicas: 2}
  d: {backend_type: vllm, backend_options: *options}
"""


@pytest.mark.parametrize(
    "text",
    [
        MERGED,
        MERGED.replace("\n", "\r\n"),
        MERGED.replace("  b: *a\n", "  b:   # second\n    *a\n"),
        "x-base: &base {replicas: 1}\ninstances:\n  a: &a {<<: *base, t: v}\n  b: *a\n  c: {<<: *a, t: w}\n",
        "x-base: &base {replicas: 1}\ninstances: {a: &a {<<: *base, t: v}, b: *a, c: {<<: *a, t: w}}\n",
    ],
    ids=["block", "crlf", "below its key", "flow in block", "flow"],
)
@pytest.mark.parametrize("edit", ["stop", "remove", "set"])
def test_who_takes_an_anchor_over_goes_on_merging_what_it_merged(text: str, edit: str) -> None:
    before = instances(text)
    if edit == "stop":
        after = set_enabled(text, "a", False)
    elif edit == "remove":
        after = remove_instance(text, "a")
    else:
        after = set_instance(text, "a", {"backend_type": "w"})
    now = instances(after)
    assert {name: now[name] for name in now if name != "a"} == {name: before[name] for name in before if name != "a"}
    later = instances(after.replace("replicas: 1", "replicas: 7"))
    merged = later["b"]
    assert isinstance(merged, dict)
    assert merged["replicas"] == 7, "a later edit of the base reaches it"
    assert after.count("# by hand") == text.count("# by hand") * (2 if edit == "stop" else 1)
