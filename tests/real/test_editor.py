"""The schema in a real editor's back end: the YAML language server, driven as an editor drives it, with the modeline that users write."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.backends import discover
from reconciler.backends._vocabulary import load
from reconciler.config.schema import SCHEMA_PATH, schema_text
from tests.config.agreement import good_value
from tests.real.conftest import absent
from tests.real.install import product
from tests.real.lsp import LanguageServer, Message

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
SETTINGS = {"yaml": {"validate": True, "completion": True, "hover": True, "schemaStore": {"enable": False}}}
"""The defaults of the editors' extension, without the catalogue that it would fetch from the net."""
SLOWEST_COMPLETION_S = 1.0
"""A person who types waits no longer; 5 to 20 ms were measured for vLLM's nearly 600 names, the schema having 450 KB."""
VLLM = "instances:\n  a:\n    backend_type: vllm\n    backend_options:\n      model: m\n      |\n"


class Editor:
    """One window after another, each with a text of its own under the modeline."""

    def __init__(self, server: LanguageServer, folder: Path, schema: Path) -> None:
        self._server = server
        self._folder = folder
        self.head = f"# yaml-language-server: $schema={schema}\n"
        self._windows = 0

    def _open(self, text: str) -> tuple[Path, list[Message]]:
        self._windows += 1
        file = self._folder / f"llamactl-{self._windows}.yaml"
        return file, self._server.open(file, text)

    def seconds_to_offer(self, text: str) -> float:
        """How long the server takes to say what it offers at the `|`, once it has read the text."""
        place = self._cursor(text)
        began = time.monotonic()
        assert len(self._server.complete(*place)) > 500
        return time.monotonic() - began

    def complaints(self, text: str) -> list[tuple[int, int, str]]:
        """Line and column (from 1, the modeline left out) and message of everything that is underlined."""
        _, found = self._open(self.head + text)
        starts = [(one["range"]["start"], one["message"]) for one in found]
        return sorted((start["line"], start["character"] + 1, message) for start, message in starts)

    def offered(self, text: str) -> dict[str, str]:
        """What is offered at the `|`: label to what would be inserted. Nothing may be offered twice."""
        file, line, column = self._cursor(text)
        items = self._server.complete(file, line, column)
        labels = [item["label"] for item in items]
        assert sorted(labels) == sorted(set(labels)), "something is offered twice"
        return {item["label"]: item["insertText"] for item in items}

    def hover(self, text: str) -> str:
        """What is shown for the word at the `|`."""
        return self._server.hover(*self._cursor(text))

    def _cursor(self, text: str) -> tuple[Path, int, int]:
        before, _, after = (self.head + text).partition("|")
        file, _ = self._open(before + after)
        return file, before.count("\n"), len(before) - before.rfind("\n") - 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, real_cache: Path) -> Iterator[LanguageServer]:
    """The language server itself."""
    node = product(real_cache, "yaml_language_server", "node")
    program = product(real_cache, "yaml_language_server", "server")
    if node is None or program is None:
        absent("yaml_language_server", real_cache)
    assert node is not None
    assert program is not None
    folder = tmp_path_factory.mktemp("editor")
    with LanguageServer([node, program, "--stdio"], folder=folder, settings=SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def editor(server: LanguageServer, tmp_path_factory: pytest.TempPathFactory) -> Editor:
    """An editor whose files point at the schema that this code generates, on disk."""
    folder = tmp_path_factory.mktemp("files")
    schema = folder / "llamactl.schema.json"
    schema.write_text(schema_text(discover()), encoding="utf-8")
    return Editor(server, folder, schema)


@pytest.mark.parametrize("example", EXAMPLES, ids=[str(path.relative_to(ROOT)) for path in EXAMPLES])
def test_a_right_file_has_no_complaint(example: Path, editor: Editor) -> None:
    assert editor.complaints(example.read_text()) == []


def test_the_committed_schema_serves_a_file_that_names_it_by_a_relative_path(server: LanguageServer) -> None:
    file = ROOT / "examples" / "not-saved.yaml"
    found = server.open(file, f"# yaml-language-server: $schema=../{SCHEMA_PATH}\nintances: {{}}\n")
    assert [one["message"] for one in found] == ["Property intances is not allowed."]


def test_the_options_of_the_chosen_backend_are_offered_in_both_spellings_and_no_others(editor: Editor) -> None:
    offered = editor.offered(VLLM)
    assert {"gpu_memory_utilization", "gpu-memory-utilization", "max_model_len", "dtype"} <= offered.keys()
    assert "model" not in offered, "it stands there already"
    foreign = {option.name for option in load("llama_cpp")} - {key for one in load("vllm") for key in one.keys}
    assert len(foreign) > 100
    assert foreign & offered.keys() == set()
    other = editor.offered(VLLM.replace("vllm", "llama_cpp"))
    assert {"ctx_size", "ctx-size"} <= other.keys()
    assert "gpu_memory_utilization" not in other


def test_options_are_offered_below_an_empty_mapping_and_for_a_kind_from_defaults(editor: Editor) -> None:
    assert "dtype" in editor.offered(VLLM.replace("      model: m\n", ""))
    inherited = "defaults: {backend_type: mlx_lm}\ninstances:\n  a:\n    backend_options:\n      model: m\n      |\n"
    assert "adapter_path" in editor.offered(inherited)
    assert "dtype" not in editor.offered(inherited)
    assert "dtype" in editor.offered("defaults:\n  backend_type: vllm\n  backend_options:\n    model: m\n    |\n")


def test_completion_is_quick(editor: Editor) -> None:
    assert editor.seconds_to_offer(VLLM) < SLOWEST_COMPLETION_S


def test_the_settings_of_an_instance_are_offered_and_insert_no_more_than_their_name(editor: Editor) -> None:
    offered = editor.offered("instances:\n  a:\n    backend_type: vllm\n    |\n")
    assert {"backend_options", "state", "aliases", "restart", "idle_timeout", "environment"} <= offered.keys()
    assert "backend_type" not in offered
    assert "server" not in offered
    assert offered["backend_options"].strip() == "backend_options:"
    assert offered["restart"].strip() == "restart:"
    top = editor.offered("|\n")
    assert top.keys() == {"server", "auth", "backends", "defaults", "instances"}
    assert top["instances"].strip() == "instances:"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (VLLM.replace("      |", "      dtype: |"), {"auto", "half", "bfloat16"}),
        (VLLM.replace("      |", "      kv-cache-dtype: |"), {"auto", "fp8"}),
        ("instances:\n  a:\n    backend_type: |\n", {"vllm", "llama_cpp", "mlx_lm", "simulator", "custom", "external"}),
        ("instances:\n  a:\n    backend_type: vllm\n    state: |\n", {"running", "on_demand"}),
        (
            "instances:\n  a:\n    backend_type: vllm\n    restart:\n      policy: |\n",
            {"always", "on_failure", "never"},
        ),
    ],
)
def test_the_choices_of_a_value_are_offered(text: str, values: set[str], editor: Editor) -> None:
    assert values <= editor.offered(text).keys()


def test_hovering_shows_what_an_option_and_a_setting_are(editor: Editor) -> None:
    option = load("vllm")["gpu_memory_utilization"]
    shown = editor.hover(VLLM.replace("      |", "      gpu-mem|ory-utilization: 0.5"))
    assert option.help[1:] in shown
    assert "--gpu-memory-utilization" in shown
    assert "first request" in editor.hover("instances:\n  a:\n    backend_type: vllm\n    sta|te: running\n")


@pytest.mark.parametrize(
    ("text", "line", "column", "word"),
    [
        (VLLM.replace("|", "gpu_memory_utilisation: 0.5"), 6, 7, "gpu_memory_utilisation"),
        (VLLM.replace("|", "gpu-memory-utilization: much"), 6, 31, "--gpu-memory-utilization takes a number"),
        (VLLM.replace("|", "dtype: half16"), 6, 14, '"bfloat16"'),
        (VLLM.replace("|", "ctx_size: 5"), 6, 7, "ctx_size"),
        (VLLM.replace("      |", "    stat: running"), 6, 5, "stat"),
        (VLLM.replace("      |", "    replicas: many"), 6, 15, "whole number from 1 to 64"),
        (VLLM.replace("      |", "    idle_timeout: 5"), 6, 19, "90s, 10m or 1h"),
        (VLLM.replace("      |", "    restart: {polcy: always}"), 6, 15, "polcy"),
        (VLLM.replace("      |", "    environment: {A=B: c}"), 6, 19, "name of a variable"),
        (VLLM.replace("vllm", "vlm").replace("      |\n", ""), 3, 19, '"vllm"'),
        ("instances:\n  a/b: {backend_type: simulator}\n", 2, 3, "letters, digits"),
        ("instances:\n  a: {}\n", 2, 3, "backend_type"),
        ("defaults: {backend_type: vllm, backend_options: {dtyp: auto}}\ninstances:\n", 1, 50, "dtyp"),
        ("sever: {}\n", 1, 1, "sever"),
    ],
)
def test_a_mistake_is_underlined_where_it_is_and_nowhere_else(
    text: str, line: int, column: int, word: str, editor: Editor
) -> None:
    found = editor.complaints(text)
    assert [(one[0], one[1]) for one in found] == [(line, column)]
    assert word in found[0][2]


def test_variables_macros_and_anchors_are_not_underlined(editor: Editor) -> None:
    text = """\
x-base: &base
  x-anything: [1]
  state: on_demand
  replicas: ${N:-2}
defaults: {idle_timeout: "${IDLE:-30m}"}
instances:
  a:
    <<: *base
    backend_type: vllm
    enabled: ${ON:-true}
    backend_options:
      model: ${MODEL}
      tensor-parallel-size: ${TP:-2}
      dtype: ${DTYPE:-auto}
      trust_remote_code: ${TRUST:-false}
      x-note: why
      speculative-config.model: small
"""
    assert editor.complaints(text) == []


def test_a_deprecated_option_is_named_as_such_and_no_longer_offered(editor: Editor) -> None:
    old = next(option for option in load("llama_cpp") if option.deprecated and not option.removed)
    text = VLLM.replace("vllm", "llama_cpp")
    found = editor.complaints(text.replace("|", f"{old.name}: {json.dumps(good_value(old))}"))
    assert [(line, column) for line, column, _ in found] == [(6, 7)]
    assert "deprecated" in found[0][2]
    assert old.name not in editor.offered(text)
