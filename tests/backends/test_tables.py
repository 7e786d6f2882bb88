"""The packaged tables and notes, and how the two meet a table of another version."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest

from reconciler.backends._flags import unknown_key
from reconciler.backends._merge import NO_NOTES, is_later, merged
from reconciler.backends._reading import as_text
from reconciler.backends._vocabulary import from_table, load

READ = {"vllm": 300, "llama_cpp": 250, "mlx_lm": 25}
"""Backends whose tables are read from programs, with the least number of options."""
KINDS = sorted([*READ, "simulator"])


def file(name: str) -> dict[str, Any]:
    """A packaged file."""
    text = (resources.files("reconciler.backends") / "vocabulary" / name).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def older(kind: str, *, version: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The packaged table as if read from another version, without some options."""
    table = file(f"{kind}.json")
    return {
        **table,
        "version": version,
        "options": [option for option in table["options"] if option["name"] not in without],
    }


@pytest.mark.parametrize("kind", sorted(READ))
def test_a_packaged_table_holds_what_was_read_and_nothing_else(kind: str) -> None:
    table = file(f"{kind}.json")
    assert len(table["options"]) >= READ[kind]
    assert list(table) == ["backend", "version", "program", "syntax", "options"]
    assert not any("help" in option for option in table["options"]), "programs' own help texts are not packaged"
    text = (resources.files("reconciler.backends") / "vocabulary" / f"{kind}.json").read_text(encoding="utf-8")
    assert text == as_text(table), "written by hand? it is generated"


@pytest.mark.parametrize("kind", sorted(READ))
def test_every_note_is_about_something_that_is_there_and_takes_effect(kind: str) -> None:
    table, notes = file(f"{kind}.json"), file(f"{kind}.notes.json")
    names = {option["name"] for option in table["options"]}
    assert set(notes["options"]) <= names
    whole = {option["name"]: option for option in merged(table, notes)["options"]}
    for name, note in notes["options"].items():
        assert {key: whole[name].get(key) for key in note} == note, f"{name}: a part of the note is left out"
        told = next(option for option in table["options"] if option["name"] == name)
        assert not {key for key in note if told.get(key) == note[key]}, f"{name}: the program says so itself"
    assert set(notes["gone"]) == set(merged(table, notes)["gone"]), "a flag that is there cannot be gone"
    assert len(merged(table, notes)["rules"]) == len(notes["rules"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_the_packaged_version_is_the_packaged_vocabulary(kind: str) -> None:
    read, ours = from_table(older(kind, version=load(kind).version)), load(kind)
    assert read.options == ours.options
    assert read.rules == ours.rules
    assert read.gone == ours.gone


def test_what_a_later_version_dropped_is_gone_in_its_name() -> None:
    table = older("vllm", version="0.33.0", without=("swap_policy", "enable_prefix_caching", "log_config_file"))
    vocabulary = from_table(table)
    problem = unknown_key(vocabulary, "enable_prefix_caching")
    assert problem.message == "vllm serve 0.33.0 no longer has enable_prefix_caching"
    assert problem.hint == "remove it"
    assert vocabulary.gone_flag("--no-enable-prefix-caching") is not None
    assert load("vllm").gone_flag("--enable-prefix-caching") is None


def test_what_an_earlier_version_lacks_is_not_called_dropped() -> None:
    vocabulary = from_table(older("vllm", version="0.9.1", without=("kv_offloading_size",)))
    gone = vocabulary.gone_flag("--kv-offloading-size")
    assert gone is not None
    assert gone.later
    assert "vllm serve 0.32.0 has it" in gone.hint


def test_the_notes_know_a_replacement_better() -> None:
    table = older("llama_cpp", version="9.0.0")
    assert from_table(table).gone["--mlock"].hint == "use load_mode: mlock"
    assert from_table(table).gone["--mlock"].becomes == {"load_mode": "mlock"}
    without = from_table(older("llama_cpp", version="9.0.0", without=("load_mode",)))
    assert without.gone["--mlock"].becomes == {}, "it cannot become what is not there"


def test_a_flag_that_a_version_has_is_not_gone() -> None:
    table = older("llama_cpp", version="0.1.0")
    table["options"].append({"name": "mlock", "flags": ["--mlock"], "kind": "switch", "type": "bool"})
    vocabulary = from_table(table)
    assert vocabulary.gone_flag("--mlock") is None
    assert vocabulary.by_flag("--mlock") is not None


def test_a_spelling_that_moved_to_another_option_is_not_gone() -> None:
    table = older("llama_cpp", version="9.0.0")
    for option in table["options"]:
        if option["name"] == "predict":
            option.update(name="n_predict", flags=["-n", "--n-predict"])
    gone = from_table(table).gone
    assert "--n-predict" not in gone
    assert gone["--predict"].hint == "remove it"


def test_a_dropped_spelling_names_the_option_that_stays() -> None:
    table = older("llama_cpp", version="9.0.0")
    for option in table["options"]:
        option["flags"] = [flag for flag in option["flags"] if flag != "--n-gpu-layers"]
    assert from_table(table).gone["--n-gpu-layers"].hint == "use gpu_layers"


def test_rules_about_missing_options_are_left_out() -> None:
    names = {rule.option for rule in load("vllm").rules}
    assert "enable_log_outputs" in names
    found = from_table(older("vllm", version="0.40.0", without=("enable_log_requests",)))
    assert "enable_log_outputs" not in {rule.option for rule in found.rules}


NOTE = {
    "minimum": 0,
    "maximum": 9,
    "pattern": "x",
    "words": ["auto"],
    "repeat": True,
    "text": True,
    "removed": "use y",
    "type": "int",
    "kind": "append",
    "help": "what it is",
}


@pytest.mark.parametrize(
    ("form", "left"),
    [
        ({"kind": "switch", "type": "bool"}, {"help"}),
        ({"kind": "value", "type": "json"}, {"help", "kind", "text"}),
        ({"kind": "list", "type": "float"}, {"help", "minimum", "maximum", "pattern", "words"}),
        ({"kind": "value", "type": "any"}, {"help", "kind", "type", "minimum", "maximum", "pattern", "words"}),
        ({"kind": "value", "type": "int", "removed": "x"}, {"help", "kind", "type", "removed", "minimum", "maximum"}),
    ],
)
def test_a_note_sharpens_and_never_contradicts(form: dict[str, str], left: set[str]) -> None:
    entry = {"name": "x", "flags": ["--x"], **form}
    table = {"backend": "b", "version": "1", "program": "b", "syntax": "argparse", "options": [entry]}
    whole = merged(table, {**NO_NOTES, "options": {"x": NOTE, "absent": NOTE}})["options"]
    assert len(whole) == 1
    assert left <= {key for key in NOTE if whole[0].get(key) == NOTE[key]}
    for key in NOTE.keys() - left - {"pattern", "words"}:
        assert whole[0].get(key) == form.get(key), key


def test_versions_are_compared_by_their_numbers() -> None:
    assert is_later("0.32.0", "0.9.2")
    assert is_later("b4600 (abc)", "b4599")
    assert not is_later("0.32.0", "0.32.0")
    assert not is_later("0.32.0", "of an unknown version")
