"""llama.cpp's ``llama-server``: 503 on every route while it loads, then 200; the ``model`` of a request is ignored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from reconciler.backends._base import VocabularyBackend
from reconciler.backends._flags import OPTIONS, Given
from reconciler.backends._reading import QUIET
from reconciler.backends._reading_help import read_help
from reconciler.backends._vocabulary import Syntax, Vocabulary
from reconciler.backends._wrappers import Program
from reconciler.core.contracts import OptionProblem, OptionSource, OptionTable
from reconciler.core.spec import BackendsSpec, InstanceSpec

ROUTER = ("models_dir", "models_preset")
"""Options of a server that can be a router of several models: it is one when it is given no model."""
SOURCES = ("model", "model_url", "docker_repo", "hf_repo", *ROUTER)
"""Options that say where a model is; a preset (``gpt_oss_20b_default``) does too."""
_PRESET = re.compile(r".*_(?:default|spec)")


class LlamaCpp(VocabularyBackend):
    """``backend_type: llama_cpp``."""

    kind = "llama_cpp"
    parse_routes = ("llama-cpp", "llama_cpp")
    key_variables = ("LLAMA_API_KEY",)
    model_keys = ("alias", "model", "hf_repo", "docker_repo", "model_url", "models_dir")
    program = Program(
        plain="llama-server",
        names=frozenset({"llama-server-cuda", "llama-server-vulkan"}),
        modules={},
        images=re.compile(r"(?:^|/)llama\.cpp:server[\w.-]*$"),
        modal_images=re.compile(r"(?:^|/)llama\.cpp:full[\w.-]*$"),
        modes=("--server", "-s"),
        variables=("LLAMA_API_KEY",),
        example="llama-server -m MODEL.gguf -c 8192",
    )
    refused: Mapping[str, str] = {
        "api_prefix": "leave it out: llamactl asks /health and /v1 without a prefix",
        **dict.fromkeys(
            ("ssl_key_file", "ssl_cert_file"),
            "leave it out: the server listens on loopback only; put TLS in front of llamactl",
        ),
    }

    def default_executable(self, backends: BackendsSpec) -> tuple[str, str]:
        """``backends.llama_executable``."""
        return backends.llama_executable, "backends.llama_executable"

    @property
    def option_source(self) -> OptionSource:
        """Its help text; the version needs a run of its own. A build for GPUs looks for them first, so it is shown none."""
        return OptionSource(arguments=("--help",), version_arguments=("--version",), environment=QUIET, timeout=60.0)

    def read_options(self, output: str) -> OptionTable:
        """The table in its help text; Rejected when it lists no options."""
        return read_help(output, backend=self.kind, program="llama-server", syntax=Syntax.LLAMA)

    def own_rules(
        self,
        vocabulary: Vocabulary,
        spec: InstanceSpec,
        *,
        given: Mapping[str, Given],
        environment: Mapping[str, str | None],
    ) -> Iterator[OptionProblem]:
        """Without a source of models the server is a router, from the version on that is one, and does not start before."""
        options = [option for option in vocabulary if option.name in SOURCES or _is_preset(option.name)]
        flags = {flag for option in options for flag in option.flags}
        variables = {option.env for option in options if option.env is not None}
        if (
            not any(given[option.name].value not in ("", False) for option in options if option.name in given)
            and flags.isdisjoint(word.partition("=")[0] for word in spec.extra_args)
            and variables.isdisjoint(name for name, value in environment.items() if value)
        ):
            routes = any(option.name in ROUTER for option in options)
            yield OptionProblem(
                path=(OPTIONS,),
                message="without a model llama-server runs as a router and loads what requests name"
                if routes
                else "a llama_cpp instance needs a model",
                hint="add model: FILE.gguf or hf_repo: USER/MODEL" + (", or models_dir: FOLDER" if routes else ""),
                warning=routes,
            )


def _is_preset(name: str) -> bool:
    return _PRESET.fullmatch(name) is not None and name != "spec_default"


BACKEND = LlamaCpp()
