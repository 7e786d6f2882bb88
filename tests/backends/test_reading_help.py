"""What a help text in llama-server's manner says of its options, in whatever layout; what it does not say stays open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.backends._reading_help import read_help
from reconciler.backends._vocabulary import from_table
from reconciler.core.errors import Rejected
from reconciler.core.options import RUNS_APART, OptionTable

PORT = "--port PORT                             port to listen (default: 8080)\n"


def read(text: str) -> OptionTable:
    """The table of a help text to which a port was added."""
    return read_help(text + PORT, backend="fake", program="fake-server", syntax="llama")


def only(text: str) -> dict[str, Any]:
    """The one option of a text beside the port, without its name, group and help."""
    options: Any = read(text)["options"]
    assert [one["name"] for one in options[1:]] == ["port"]
    return {key: value for key, value in options[0].items() if key not in ("name", "group", "help")}


LAYOUTS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    (
        "-c,    --ctx-size N                     size (default: 0, 0 = from\n"
        "                                        model)\n"
        "                                        (env: X_CTX)\n",
        {"flags": ["-c", "--ctx-size"], "kind": "value", "type": "int", "default": 0, "env": "X_CTX"},
    ),
    (
        "--spec-draft-p-min, --draft-p-min P     probability (default: 0.75)\n",
        {"flags": ["--spec-draft-p-min", "--draft-p-min"], "kind": "value", "type": "float", "default": 0.75},
    ),
    (
        "--a-very-long-flag, -avlf, --another-very-long-one N\n                                        how (default: -1)\n",
        {
            "flags": ["--a-very-long-flag", "-avlf", "--another-very-long-one"],
            "kind": "value",
            "type": "int",
            "default": -1,
        },
    ),
    ("--rope-scale N   factor\n", {"flags": ["--rope-scale"], "kind": "value", "type": "any"}),
    (
        "-tb, --threads-batch N   threads (default:\n     same as --threads)\n",
        {"flags": ["-tb", "--threads-batch"], "kind": "value", "type": "any"},
    ),
    (
        "-ngl, --gpu-layers N   max. number, either an exact number, 'auto', or 'all' (default: auto)\n",
        {
            "flags": ["-ngl", "--gpu-layers"],
            "kind": "value",
            "type": "int",
            "words": ["auto", "all"],
            "default": "auto",
        },
    ),
    (
        "-fa, --flash-attn [on|off|auto]       use ('on', 'off', or 'auto', default: 'auto')\n",
        {
            "flags": ["-fa", "--flash-attn"],
            "kind": "value",
            "type": "str",
            "choices": ["on", "off", "auto"],
            "default": "auto",
        },
    ),
    (
        "-sm, --split-mode {none,layer}\n    how, one of:\n    - none: one\n    - layer (default): split\n",
        {"flags": ["-sm", "--split-mode"], "kind": "value", "type": "str", "choices": ["none", "layer"]},
    ),
    (
        "--cpu-strict <0|1>                      strict (default: 0)\n",
        {"flags": ["--cpu-strict"], "kind": "value", "type": "int", "choices": [0, 1], "default": 0},
    ),
    (
        "--poll <0...100>                        level (0 - no polling, default: 50)\n",
        {"flags": ["--poll"], "kind": "value", "type": "int", "default": 50},
    ),
    (
        "-ctk,  --cache-type-k TYPE     type\n   allowed values: f32, q8_0,\n   iq4_nl\n   (default: f16)\n",
        {"flags": ["-ctk", "--cache-type-k"], "kind": "value", "type": "str", "choices": ["f32", "q8_0", "iq4_nl"]},
    ),
    (
        "-lm, --load-mode MODE   mode (default: auto)\n    - auto: whichever\n    - mmap+mlock: both\n    \n    (env: X_LM)\n",
        {
            "flags": ["-lm", "--load-mode"],
            "kind": "value",
            "type": "str",
            "choices": ["auto", "mmap+mlock"],
            "default": "auto",
            "env": "X_LM",
        },
    ),
    (
        "--reasoning-format FORMAT   one of:\n    - none: a\n    - deepseek: b\n    (default: auto)\n",
        {"flags": ["--reasoning-format"], "kind": "value", "type": "str", "default": "auto"},
    ),
    (
        "-lv, --verbosity N   Values:\n     - 0: generic\n     - 1: error\n    (default: 3)\n",
        {"flags": ["-lv", "--verbosity"], "kind": "value", "type": "int", "default": 3},
    ),
    ("--swa-full      full cache (default: false)\n", {"flags": ["--swa-full"], "kind": "switch", "default": False}),
    ("--metrics\n      a page\n", {"flags": ["--metrics"], "kind": "switch", "default": False}),
    ("--no-host                 bypass\n", {"flags": ["--no-host"], "kind": "switch", "default": False}),
    (
        "-kvo, --kv-offload, -nkvo, --no-kv-offload\n           whether (default: enabled)\n",
        {
            "flags": ["-kvo", "--kv-offload"],
            "kind": "switch",
            "default": True,
            "negative": ["--no-kv-offload", "-nkvo"],
        },
    ),
    (
        "--repack, -nr, --no-repack     whether (default: enabled, on a CPU)\n",
        {"flags": ["--repack"], "kind": "switch", "default": True, "negative": ["--no-repack", "-nr"]},
    ),
    (
        "--cache, -ca, -nca, --no-cache     whether (default: disabled)\n",
        {"flags": ["--cache", "-ca"], "kind": "switch", "default": False, "negative": ["--no-cache", "-nca"]},
    ),
    ("--tabbed N\tsize (default: 4)\n", {"flags": ["--tabbed"], "kind": "value", "type": "int", "default": 4}),
    (
        "--mmproj-auto, --no-mmproj, --no-mmproj-auto\n                     whether (default: enabled if able)\n",
        {"flags": ["--mmproj-auto"], "kind": "switch", "negative": ["--no-mmproj", "--no-mmproj-auto"]},
    ),
    (
        "-ts, --tensor-split N0,N1,N2,...   shares\n",
        {"flags": ["-ts", "--tensor-split"], "kind": "comma", "type": "any"},
    ),
    (
        "-dev,  --device <dev1,dev2,..>          devices (none = don't offload)\n",
        {"flags": ["-dev", "--device"], "kind": "comma", "type": "str"},
    ),
    (
        "-ot, --override-tensor <tensor name pattern>=<buffer type>,...\n        which\n",
        {"flags": ["-ot", "--override-tensor"], "kind": "comma", "type": "str"},
    ),
    (
        "--spec-type none,draft-simple,ngram-mod\n      kinds (default:\n      none)\n",
        {
            "flags": ["--spec-type"],
            "kind": "comma",
            "type": "str",
            "choices": ["none", "draft-simple", "ngram-mod"],
            "default": "none",
        },
    ),
    (
        "--cors-methods METHODS     comma-separated (default: GET, POST)\n",
        {"flags": ["--cors-methods"], "kind": "comma", "type": "str"},
    ),
    (
        "--control-vector-layer-range START END\n        range\n",
        {"flags": ["--control-vector-layer-range"], "kind": "tuple", "type": "any", "count": 2},
    ),
    ("--ui-config JSON   settings\n", {"flags": ["--ui-config"], "kind": "value", "type": "json"}),
    (
        "--kwargs STRING   must be a valid\n     json object string, e.g. '{}'\n",
        {"flags": ["--kwargs"], "kind": "value", "type": "json"},
    ),
    (
        "-hf, --hf-repo <user>/<model>[:quant]   a\n     repository (default: unused)\n",
        {"flags": ["-hf", "--hf-repo"], "kind": "value", "type": "str"},
    ),
    (
        "--host HOST    address (default: 127.0.0.1)\n",
        {"flags": ["--host"], "kind": "value", "type": "str", "default": "127.0.0.1"},
    ),
    ("--path PATH                             static files (default: )\n", {"flags": ["--path"], "kind": "value"}),
    (
        "-dt, --defrag-thold N    threshold (DEPRECATED)\n",
        {"flags": ["-dt", "--defrag-thold"], "kind": "value", "type": "any", "deprecated": True},
    ),
    (
        "--draft N        the argument has been removed. use --spec-draft-n-max\n    or --spec-ngram-mod-n-max\n",
        {
            "flags": ["--draft"],
            "kind": "value",
            "type": "any",
            "removed": "use --spec-draft-n-max or --spec-ngram-mod-n-max",
        },
    ),
    ("--gone N        the argument has been removed.\n", {"removed": "remove it"}),
    (
        "-h, --help, --usage       print usage and exit\n",
        {"flags": ["-h", "--help", "--usage"], "kind": "switch", "exits": True},
    ),
    ("--list-devices     print list of devices and exit\n", {"exits": True}),
    (
        "\x1b[1m--temp N\x1b[0m      temperature (default: 0.80)\r\n",
        {"flags": ["--temp"], "type": "float", "default": 0.8},
    ),
)


@pytest.mark.parametrize(("text", "expected"), LAYOUTS, ids=[text.split(" ")[0].strip() for text, _ in LAYOUTS])
def test_every_layout_of_an_option_is_read(text: str, expected: Mapping[str, Any]) -> None:
    option = only(text)
    assert {key: option.get(key) for key in expected} == expected
    quiet = {"kind", "type", "flags", "default", *expected}
    assert set(option) <= quiet, "nothing is claimed that the text does not say"


def test_groups_versions_helps_and_noise() -> None:
    text = (
        "ggml_cuda_init: found 2 devices\nload_backend: loaded\n----- common params -----\n\n"
        "--metrics          tell all [(more info)](https://example.org/x)\n                   (env: X_M)\n\n\n"
        "----- sampling params -----\n\n"
        "--temp N           how bold\n"
    )
    table = read_help(
        text + PORT + RUNS_APART + "version: 4567 (abc)\nbuilt with care\n-ffast is no option here\n",
        backend="fake",
        program="fake-server",
        syntax="llama",
    )
    assert table["version"] == "4567 (abc)"
    metrics, temp = from_table(table)["metrics"], from_table(table)["temp"]
    assert (metrics.group, temp.group) == ("common", "sampling")
    assert (metrics.help, metrics.env) == ("tell all", "X_M")
    assert from_table(read("")).version == "of an unknown version"


@pytest.mark.parametrize(
    "text", ["", "error while loading shared libraries: libcuda.so.1", "usage: x [-h]\n\n  -h  help"]
)
def test_a_text_without_options_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(Rejected) as caught:
        read_help(text, backend="fake", program="fake-server", syntax="llama")
    assert "cannot read the options of fake-server" in str(caught.value)
    assert "with --help, by hand" in str(caught.value.problems[0].hint)


def test_another_programs_help_is_refused() -> None:
    with pytest.raises(Rejected, match="no --port, so it is no server"):
        read_help("-l, --long      list in long form\n", backend="fake", program="fake-server", syntax="llama")


words = st.sampled_from(
    ["--a", "-b,", "--no-a", "N", "(default:", "1)", "(env:", "{a,b}", "---", " ", "\n", "   ", "-"]
)


@given(st.lists(words | st.text(max_size=6)).map("".join))
def test_any_text_is_a_table_or_refused(text: str) -> None:
    from_table(read(text + "\n"))
