"""llama.cpp's presets: sections, defaults, spellings of one option, and what is no preset."""

from __future__ import annotations

import pytest

from reconciler.core.errors import Rejected
from reconciler.core.spec import InstanceState
from tests.config.importers.kit import SECRET, Import, bring

PRESETS = f"""\
version = 1
; what holds for all
[*]
c = 8192
n-gpu-layers = 99
jinja = true
LLAMA_ARG_BATCH = 512   # no option has that name
api-key = {SECRET}

[coder]
model = /srv/coder.gguf ; the file
ctx-size = 4096
LLAMA_ARG_THREADS = 6
load-on-startup = true
stop-timeout = 45
cont-batching = off
no-warmup = true
alias = code, default
samplers = top_k;top_p
made-up = 5
flash-attn = on

[ggml-org/tiny-GGUF:Q8_0]
jinja = 0
[nothing]
temp = 0.2
[coder2]
hf-repo = org/Coder-GGUF
version = 1
temp = 0.1
temp = 0.2
"""


@pytest.fixture(scope="module")
def presets() -> Import:
    """The file above, imported."""
    return bring("preset-ini", PRESETS, name="models.ini")


def test_a_section_is_an_instance_over_what_holds_for_all(presets: Import) -> None:
    spec = presets["coder"]
    assert spec.backend_type == "llama_cpp"
    assert spec.backend_options == {
        "ctx_size": 4096,
        "gpu_layers": 99,
        "jinja": True,
        "model": "/srv/coder.gguf",
        "threads": 6,
        "cont_batching": False,
        "warmup": False,
        "samplers": "top_k",
        "flash_attn": "on",
    }


def test_models_start_on_demand_unless_they_are_loaded_at_startup(presets: Import) -> None:
    assert presets["coder"].state is InstanceState.RUNNING
    assert presets["coder2"].state is InstanceState.ON_DEMAND
    assert presets["coder"].stop.grace == 45.0


def test_a_variable_that_is_no_option_by_another_name_stays_one(presets: Import) -> None:
    assert presets["coder"].environment == {"LLAMA_ARG_BATCH": "512"}


def test_aliases_are_names_for_requests(presets: Import) -> None:
    assert presets["coder"].aliases == ("code", "default")


def test_a_repository_as_a_name_is_the_model_and_stays_a_name(presets: Import) -> None:
    spec = presets["ggml-org-tiny-GGUF-Q8_0"]
    assert spec.backend_options["hf_repo"] == "ggml-org/tiny-GGUF:Q8_0"
    assert spec.backend_options["jinja"] is False
    assert spec.aliases == ("ggml-org/tiny-GGUF:Q8_0",)


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("api-key", 8),
        ("[coder] samplers", 19),
        ("made-up", 20),
        ("[ggml-org/tiny-GGUF:Q8_0]", 23),
        ("[nothing]", 25),
        ("[coder2] temp", 30),
        ("the router", None),
    ],
)
def test_what_is_lost_is_reported_once_with_its_line(presets: Import, what: str, line: int | None) -> None:
    assert presets.loss(what).line == line


def test_the_last_of_two_counts(presets: Import) -> None:
    assert presets["coder2"].backend_options["temp"] == 0.2


def test_every_key_is_either_in_the_instance_or_reported(presets: Import) -> None:
    for line in ["zzz = 1", "ctx-size = many", "jinja = perhaps", "ZZZ-TOP = 1", "stop-timeout = soon"]:
        found = bring("preset-ini", f"[m]\nmodel = a.gguf\n{line}\n")
        key = line.partition(" ")[0]
        assert any(key in loss.what or key.replace("-", "_") in loss.what for loss in found.lost), line
        assert found["m"].backend_options == {"model": "a.gguf"}, line


def test_a_key_that_the_server_has_not_is_said_to_be_left_out_and_only_near_names_are_suggested() -> None:
    found = bring(
        "preset-ini", "[m]\nmodel = /a.gguf\ndecision-seqs = 24\nn-gpu-layer = 8\nfoo = bar\nctx-size = many\n"
    )
    assert "extra_args" not in found.said()
    assert found["m"].extra_args == ()
    for key in ("decision-seqs", "n-gpu-layer", "foo"):
        assert "refuses a file of presets with it" in found.loss(key).why
    assert found.loss("n-gpu-layer").cure == "did you mean n-gpu-layers?"
    assert found.loss("foo").cure is None
    assert "whole number" in found.loss("ctx-size").why or "many" in found.loss("ctx-size").why


@pytest.mark.parametrize(("line", "mode"), [("no-mmap = on", "none"), ("mmap = off", "none"), ("mlock = 1", "mlock")])
def test_a_removed_switch_becomes_what_took_its_place(line: str, mode: str) -> None:
    assert bring("preset-ini", f"[m]\nmodel = /a.gguf\n{line}\n")["m"].backend_options["load_mode"] == mode


def test_no_secret_is_told(presets: Import) -> None:
    assert SECRET not in presets.said()
    assert SECRET not in presets.text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("# nothing\n", 1),
        ("[m]\nmodel a.gguf\n", 2),
        ("[m\nmodel = a\n", 1),
        ("[]\nmodel = a\n", 1),
        ("models:\n  a: 1\n", 1),
        ('{"a": 1}', 1),
        ("\0\0", 1),
        ("[m]\nmodel = a\x07b\n", 2),
    ],
)
def test_what_is_no_preset_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(Rejected) as refused:
        bring("preset-ini", text, name="models.ini")
    assert (refused.value.problems[0].file, refused.value.problems[0].line) == ("models.ini", line)
