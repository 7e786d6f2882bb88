"""Values that a server reads as something else are read as the server reads them."""

from __future__ import annotations

import pytest

from reconciler.core.errors import Rejected
from tests.backends.samples import backend


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", "on"),
        ("true", "on"),
        ("enabled", "on"),
        ("0", "off"),
        ("false", "off"),
        ("disabled", "off"),
        ("-1", "auto"),
    ],
)
def test_llama_server_says_on_off_and_auto_in_several_words(text: str, value: str) -> None:
    parsed = backend("llama_cpp").parse(f"llama-server -m a.gguf -fa {text} --log-colors {text}")
    assert parsed.backend_options["flash_attn"] == value
    assert parsed.backend_options["log_colors"] == value
    assert not parsed.warnings


@pytest.mark.parametrize("rest", ["", " -ngl 5", " -cnv", " --no-such-flag"])
def test_a_bare_switch_of_older_builds_is_on_whatever_flag_follows(rest: str) -> None:
    parsed = backend("llama_cpp").parse(f"llama-server -m /a.gguf -fa{rest}")
    assert parsed.backend_options["flash_attn"] == "on"
    assert "read as on" in parsed.warnings[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("007", 7),
        ("-007", -7),
        ("+5", 5),
        ("1_000", 1000),
        ("٣", 3),
        ("1.5", 1.5),
        ("2k", 2000),
        ("_1", "_1"),
        ("1__0", "1__0"),
    ],
)
def test_a_dotted_value_is_the_whole_number_that_python_reads(text: str, value: object) -> None:
    parsed = backend("vllm").parse(f"vllm serve m --hf-overrides.a {text}")
    assert parsed.backend_options["hf_overrides"] == {"a": value}


def test_a_default_over_several_lines_is_refused_where_it_begins() -> None:
    with pytest.raises(Rejected, match="cannot work this shell expression out") as refused:
        backend("vllm").parse("vllm serve m -tp ${TP:-\n2} --seed x")
    assert (refused.value.problems[0].line, refused.value.problems[0].column) == (1, 18)
