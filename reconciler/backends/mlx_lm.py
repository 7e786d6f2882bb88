"""``mlx_lm.server``: ``/health`` is good before the model is loaded, so readiness is one generated token; it knows no keys.

Any ``model`` that a request names is loaded on the spot, from the hub if need be, so it is always rewritten to the instance's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from reconciler.backends._base import VocabularyBackend, health_verdict
from reconciler.backends._flags import OPTIONS, Given
from reconciler.backends._reading import QUIET
from reconciler.backends._reading_argparse import read_argparse, source
from reconciler.backends._vocabulary import Syntax, Vocabulary
from reconciler.backends._wrappers import Program
from reconciler.core.contracts import OptionProblem, OptionSource, OptionTable, Probe, Verdict
from reconciler.core.spec import BackendsSpec, InstanceSpec

READY_TIMEOUT = 60.0
"""Seconds for the one token: the answer comes only after the model is loaded. An unanswered question is asked again."""
DEFAULT_MODEL = "default_model"
"""The name that means the server's own ``--model`` (mlx_lm 0.32)."""


def one_token(model: str) -> Probe:
    """A completion of one token: it succeeds only when the model is loaded and generates."""
    body = {"model": model, "prompt": "a", "max_tokens": 1, "temperature": 0, "stream": False}
    return Probe(method="POST", path="/v1/completions", body=json.dumps(body).encode(), timeout=READY_TIMEOUT)


def judge_completion(status: int, body: bytes) -> Verdict:
    """A refusal of our own well-formed request is final: the model cannot be loaded or the generating thread is dead.

    mlx_lm says so with 404 and an error; behind its own health page with 503 and ``"status": "unavailable"``.
    """
    if 400 <= status < 500 and status not in (408, 425, 429):
        return Verdict.FAILED
    if status == 503 and _unavailable(body):
        return Verdict.FAILED
    return health_verdict(status)


def _unavailable(body: bytes) -> bool:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(answer, dict) and answer.get("status") == "unavailable"


class MlxLm(VocabularyBackend):
    """``backend_type: mlx_lm``."""

    kind = "mlx_lm"
    parse_routes = ("mlx", "mlx_lm", "mlx-lm")
    program = Program(
        plain="mlx_lm.server",
        names=frozenset(),
        modules={"mlx_lm.server": None, "mlx_lm": "server"},
        tails={"mlx_lm": "server"},
        images=re.compile(r"(?!)"),
        example="mlx_lm.server --model MODEL",
    )

    def default_executable(self, backends: BackendsSpec) -> tuple[str, str]:
        """``backends.mlx_lm_executable``."""
        return backends.mlx_lm_executable, "backends.mlx_lm_executable"

    @property
    def option_source(self) -> OptionSource:
        """Its argparse parser, caught in its own interpreter before it parses."""
        call = 'report("mlx_lm:__version__", lambda: caught("mlx_lm.server:main"), ["mlx_lm.server"])'
        return OptionSource(script=source(call), distribution="mlx-lm", environment=QUIET)

    def read_options(self, output: str) -> OptionTable:
        """The table in what the script printed; Rejected when it is not there."""
        return read_argparse(output, backend=self.kind, program="mlx_lm.server", syntax=Syntax.ARGPARSE)

    def own_rules(
        self,
        vocabulary: Vocabulary,
        spec: InstanceSpec,
        *,
        given: Mapping[str, Given],
        environment: Mapping[str, str | None],
    ) -> Iterator[OptionProblem]:
        """Without a model the server starts and has nothing to answer with."""
        raw = {hit[1].name for word in spec.extra_args if (hit := vocabulary.meant(word)) is not None}
        if "model" not in given and "model" not in raw:
            yield OptionProblem(
                path=(OPTIONS,),
                message="mlx_lm.server without a model never becomes ready",
                hint="add model: NAME or a folder",
                warning=True,
            )

    def served_model(self, spec: InstanceSpec) -> str | None:
        """Its own model: any other name would be loaded from the hub."""
        model = self.option(spec, "model")
        return model if isinstance(model, str) and model else DEFAULT_MODEL

    def readiness(self, spec: InstanceSpec) -> Probe:
        """One token from its own model."""
        return one_token(self.served_model(spec) or DEFAULT_MODEL)

    def judge(self, status: int, body: bytes) -> Verdict:
        """See :func:`judge_completion`."""
        return judge_completion(status, body)


BACKEND = MlxLm()
