"""Our own simulator as a backend: a program that acts like one of the three servers, with faults by flag.

It needs no GPU, no model and no network. The program itself is a package of its own, which this file never imports.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping

from pydantic import JsonValue

from reconciler.backends._base import OURS, VocabularyBackend
from reconciler.backends._flags import Given, render
from reconciler.backends._parse import no_command
from reconciler.backends._values import item_text
from reconciler.backends._vocabulary import Vocabulary
from reconciler.backends._wrappers import Program
from reconciler.backends.mlx_lm import judge_completion, one_token
from reconciler.core.contracts import ParsedCommand, Probe, Verdict
from reconciler.core.spec import BackendsSpec, InstanceSpec

MODULE = "reconciler.simulator"
DEFAULT_MODEL = "sim"
DEFAULT_PERSONALITY = "vllm"
_MODEL_WORDS: Mapping[str, tuple[str, ...]] = {"vllm": ("serve",), "llama_cpp": ("--model",), "mlx_lm": ("--model",)}
"""What stands before the model, by personality, as for the real servers."""


class Simulator(VocabularyBackend):
    """``backend_type: simulator``."""

    kind = "simulator"
    key_variables = ("VLLM_API_KEY", "LLAMA_API_KEY")
    """Both: each personality obeys the variable of the server that it acts, and mlx_lm knows none."""
    program = Program(plain="", names=frozenset(), modules={}, images=re.compile(r"(?!)"))

    def default_executable(self, backends: BackendsSpec) -> tuple[str, str]:
        """The Python that runs llamactl, so that the simulator is always the one of this version."""
        return f"{shlex.quote(sys.executable)} -m {MODULE}", "executable"

    def executable(self, spec: InstanceSpec | None, backends: BackendsSpec) -> tuple[str, ...] | None:
        """None: it is part of llamactl, whose own table is always the right one."""
        return None

    def arguments(
        self, vocabulary: Vocabulary, executable: tuple[str, ...], given: Mapping[str, Given]
    ) -> tuple[str, ...]:
        """``KIND serve MODEL`` or ``KIND --model MODEL``, and the faults."""
        personality = _text(given, "personality", DEFAULT_PERSONALITY)
        model = _text(given, "model", DEFAULT_MODEL)
        rest = render(vocabulary, given, leave=OURS | {"model", "personality"})
        return (personality, *_MODEL_WORDS[personality], model, *rest)

    def _chosen(self, spec: InstanceSpec, name: str, default: str) -> str:
        value: JsonValue = self.option(spec, name)
        return value if isinstance(value, str) and value else default

    def served_model(self, spec: InstanceSpec) -> str | None:
        """As for the server that it acts: llama-server takes any name."""
        if self._chosen(spec, "personality", DEFAULT_PERSONALITY) == "llama_cpp":
            return None
        return self._chosen(spec, "model", DEFAULT_MODEL)

    def readiness(self, spec: InstanceSpec) -> Probe:
        """As for the server that it acts: one token for mlx_lm, GET /health for the others."""
        if self._chosen(spec, "personality", DEFAULT_PERSONALITY) == "mlx_lm":
            return one_token(self._chosen(spec, "model", DEFAULT_MODEL))
        return Probe()

    def judge(self, status: int, body: bytes) -> Verdict:
        """As for mlx_lm; the health pages of the other two never answer with 4xx or ``unavailable``."""
        return judge_completion(status, body)

    def parse(self, command: str, backends: BackendsSpec | None = None) -> ParsedCommand:
        """Always Rejected: a simulator stands in for another server's command."""
        no_command(self.kind)


def _text(given: Mapping[str, Given], name: str, default: str) -> str:
    return item_text(given[name].option, given[name].value) if name in given else default


BACKEND = Simulator()
