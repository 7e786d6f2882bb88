"""What is printed loads: names, refused settings, variables, and everything that a draft may hold."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from reconciler import app
from reconciler.config import load
from reconciler.config.importers import discover
from reconciler.config.importers.contract import Draft, Imported, Lost
from reconciler.config.importers.names import instance_name
from reconciler.config.importers.write import Written, merged, write
from reconciler.config.schema import EDITOR_HINT
from reconciler.core.spec import NAME_PATTERN, Fleet


def fleet_of(text: str | bytes, **environ: str) -> Fleet:
    """The loader's own reading."""
    data = text.encode() if isinstance(text, str) else text
    return load.load_text(data, name="printed", backends=app._backends(), environ=environ)


def written(*drafts: Draft, sections: dict[str, dict[str, JsonValue]] | None = None, **environ: str) -> Written:
    """These drafts as a file."""
    return write(
        Imported(drafts=drafts, sections=sections or {}),
        kind="test",
        origin="there",
        load=lambda text, variables: fleet_of(text, **variables),
        environ=environ,
    )


def draft(name: str, /, **settings: JsonValue) -> Draft:
    """A simulated instance."""
    body: dict[str, JsonValue] = {"backend_type": "simulator", "backend_options": {"model": "x"}, **settings}
    return Draft(name=name, body=body, line=3)


def test_importers_are_found_by_their_folder() -> None:
    found = discover()
    assert {"llama-swap", "preset-ini", "llamactl-json"} <= set(found)
    assert all(kind == one.kind and one.help for kind, one in found.items())


@given(st.lists(st.text(max_size=80), max_size=12))
def test_names_are_always_valid_and_differ_in_more_than_case(raws: list[str]) -> None:
    taken: set[str] = set()
    names = [instance_name(raw, taken) for raw in raws]
    assert all(re.fullmatch(NAME_PATTERN, name) for name in names)
    assert len({name.lower() for name in names}) == len(names)


def test_a_valid_name_is_kept() -> None:
    assert instance_name("Qwen2.5-7B_q4", set()) == "Qwen2.5-7B_q4"


def test_names_that_differ_in_case_only_are_both_kept_reachable() -> None:
    made = written(draft("Qwen"), draft("qwen"), draft("a/b:c"), draft("§"))
    fleet = fleet_of(made.text)
    assert list(fleet.instances) == ["Qwen", "qwen-2", "a-b-c", "model"]
    assert [spec.aliases for spec in fleet.instances.values()] == [(), ("qwen",), ("a/b:c",), ("§",)]
    assert len(made.lost) == 3


def test_a_setting_that_the_loader_refuses_goes_and_its_instance_stays() -> None:
    made = written(
        draft("a", aliases=["b", "fine", "fine"], port=99999, labels={"n": 3}, nonsense=True),
        draft("b.c", backend_options={"model": "x", "no-such": 1, "load-seconds": "soon"}),
    )
    fleet = fleet_of(made.text)
    assert fleet.instances["a"].aliases == ("b", "fine")
    assert fleet.instances["b.c"].backend_options == {"model": "x"}
    assert {one.what for one in made.lost} == {
        *("a: aliases[2]", "a: port", "a: labels.n", "a: nonsense"),
        *("b.c: backend_options.no-such", "b.c: backend_options.load-seconds"),
    }
    assert all(one.line == 3 and one.why for one in made.lost)


def test_more_refusals_than_the_loader_lists_at_once_are_all_taken_out() -> None:
    many: dict[str, JsonValue] = {f"no-such-{at}": at for at in range(450)}
    made = written(draft("a", backend_options={"model": "x", **many}))
    assert fleet_of(made.text).instances["a"].backend_options == {"model": "x"}
    assert len(made.lost) == 450


def test_an_instance_that_cannot_do_without_it_goes_as_a_whole() -> None:
    made = written(Draft(name="gone", body={"backend_type": "custom", "backend_options": {}}), draft("kept"))
    assert list(fleet_of(made.text).instances) == ["kept"]
    assert [one.what for one in made.lost] == ["gone"]
    assert "instances: {}" in written(Draft(name="x", body={})).text


def test_a_refused_flag_goes_with_its_values_and_nothing_else() -> None:
    words: JsonValue = ["--load-mode", "mlock", "--draft-max", "16", "--foo", "-1", "--draft-min=2", "-v"]
    body: dict[str, JsonValue] = {"backend_type": "llama_cpp", "backend_options": {"model": "/a"}, "extra_args": words}
    made = written(Draft(name="m", body=body, line=1, lines={("extra_args", "--draft-max"): 7}))
    assert fleet_of(made.text).instances["m"].extra_args == ("--load-mode", "mlock", "--foo", "-1", "-v")
    assert [(one.what, one.line) for one in made.lost] == [
        ("m: extra_args --draft-min", 1),
        ("m: extra_args --draft-max", 7),
    ]


def test_of_an_instance_that_cannot_stay_only_that_is_said() -> None:
    body: dict[str, JsonValue] = {"backend_type": "custom", "backend_options": {"command": ["image/only"]}}
    lost = (
        Lost(what="models.a b.name", why="kept as a label", line=4),
        Lost(what="models.a bc.name", why="kept as a label", line=9),
    )
    drafts = (Draft(name="a b", body=body, line=3, where="models.a b"), draft("kept"))
    made = write(
        Imported(drafts=drafts, lost=lost),
        kind="test",
        origin="there",
        load=lambda text, variables: fleet_of(text, **variables),
        environ={},
    )
    assert list(made.instances) == ["kept"]
    assert [(one.what, one.line) for one in made.lost] == [("models.a b", 3), ("models.a bc.name", 9)]
    assert made.lost[0].why.startswith("it was left out: the command does not say where the port goes")


def test_a_new_name_says_why_it_is_new() -> None:
    why = {one.what: one.why for one in written(draft("m1"), draft("M1"), draft("a b")).lost}
    assert "another instance has this name" in why["the name 'M1'"]
    assert "letters" in why["the name 'a b'"]


def test_keys_from_variables_stay_whether_or_not_they_are_set_here() -> None:
    auth: dict[str, JsonValue] = {"inference_keys": [{"env": "ONE"}, {"env": "TWO"}]}
    made = written(draft("a"), sections={"auth": auth})
    assert made.unset == ("ONE", "TWO")
    assert made.text == written(draft("a"), sections={"auth": auth}, ONE="k" * 40, TWO="l" * 40).text


def test_a_section_that_is_refused_goes() -> None:
    made = written(draft("a"), sections={"server": {"port_range": "1-99999999"}, "backends": {"nothing": 1}})
    assert fleet_of(made.text).server.port_range == "8100-8999"
    assert len(made.lost) == 2


def test_a_variable_that_is_not_set_here_stays_and_is_named() -> None:
    made = written(draft("a", environment={"X": "${NOT_SET}/x", "Y": "$${LITERAL}"}))
    assert [one.what for one in made.lost] == ["${NOT_SET}"]
    assert made.unset == ("NOT_SET",)
    assert fleet_of(made.text, NOT_SET="v").instances["a"].environment == {"X": "v/x", "Y": "${LITERAL}"}
    assert written(draft("a", environment={"X": "${SET}"}), SET="v").lost == ()


def test_the_file_says_where_it_comes_from() -> None:
    assert written(draft("a")).text.startswith(f"{EDITOR_HINT}# Made by `llamactl import test` from there.\n")


def test_several_files_are_one_and_each_loss_names_its_own() -> None:
    parts = [(name, Imported(drafts=(draft("same"),), sections={})) for name in ("one.json", "two.json")]
    both = merged(parts)
    made = written(*both.drafts)
    assert [one.file for one in made.lost] == ["two.json"]
    assert set(made.instances) == {"same", "same-2"}


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_SETTINGS = st.sampled_from(
    ["aliases", "environment", "labels", "port", "restart", "state", "stop", "extra_args", "x-a"]
)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.text(max_size=10), st.dictionaries(_SETTINGS, _VALUES, max_size=3)), max_size=3))
def test_whatever_a_draft_holds_what_is_printed_loads(drafts: list[tuple[str, dict[str, JsonValue]]]) -> None:
    made = written(*(draft(name, **body) for name, body in drafts))
    environ = {one.what[2:-1]: "1" for one in made.lost if one.what.startswith("${")}
    assert set(fleet_of(made.text, **environ).instances) == set(made.instances)
