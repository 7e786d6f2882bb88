"""vLLM (``vllm serve``): the model is its first argument, ``/health`` answers 200 with an empty body once it is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod

from reconciler.backends._base import OURS, VocabularyBackend
from reconciler.backends._docker import entrypoint, is_run
from reconciler.backends._flags import OPTIONS, Given, render
from reconciler.backends._reading import QUIET
from reconciler.backends._reading_argparse import read_argparse, source
from reconciler.backends._rules import Facts, named, visible_devices
from reconciler.backends._values import ValueProblem, item_text
from reconciler.backends._vocabulary import Syntax, Vocabulary
from reconciler.backends._wrappers import Program
from reconciler.core.contracts import OptionProblem, OptionSource, OptionTable
from reconciler.core.spec import BackendsSpec, InstanceSpec

SUBCOMMAND = "serve"
_PARSER = """
report(
    "vllm:__version__",
    lambda: first(
        "vllm.entrypoints.launchers.cli_args:make_arg_parser",  # 0.32
        "vllm.entrypoints.openai.cli_args:make_arg_parser",  # before
    )(first("vllm.utils.argparse_utils:FlexibleArgumentParser", "vllm.utils:FlexibleArgumentParser")(prog="vllm serve")),
    ["vllm", "serve", "--help"],  # vLLM collects its help texts only when it sees --help
)
"""
_API_SERVER = re.compile(r"(?:^|[./])api_server(?:\.py)?$")
_IMAGE = re.compile(r"(?:^|/)vllm[\w.-]*openai[\w.-]*(?:[:@].*)?$")
"""Images of the vLLM project; their entry point is the server itself."""
_MULTIPLIED = ("tensor_parallel_size", "pipeline_parallel_size", "prefill_context_parallel_size")
"""Sizes whose product is the number of processes, each with a GPU of its own, of one data parallel rank."""


def wants_subcommand(executable: tuple[str, ...]) -> bool:
    """Whether ``serve`` goes between executable and arguments: not when it is there already, and not for an entry point
    that is the server itself (``python -m vllm.entrypoints.openai.api_server``, the image vllm/vllm-openai)."""
    last = executable[-1]
    if last == SUBCOMMAND or _API_SERVER.search(last):
        return False
    return not (is_run(executable) and entrypoint(executable) is None and _IMAGE.search(last))


class Vllm(VocabularyBackend):
    """``backend_type: vllm``."""

    kind = "vllm"
    start_timeout = 1200.0
    parse_routes = ("vllm",)
    key_variables = ("VLLM_API_KEY",)
    model_keys = ("served_model_name", "model")
    program = Program(
        plain="vllm",
        names=frozenset(),
        modules={"vllm.entrypoints.cli.main": None, "vllm": None, "vllm.entrypoints.openai.api_server": None},
        subcommand=SUBCOMMAND,
        flat=_API_SERVER,
        images=_IMAGE,
        variables=("VLLM_API_KEY",),
        example="vllm serve MODEL --tensor-parallel-size 2",
    )
    refused: Mapping[str, str] = {
        "uds": "leave it out: llamactl talks to the server over a TCP port",
        "grpc": "leave it out: llamactl talks HTTP to the server",
        "headless": "leave it out: a worker without HTTP never becomes ready; backend_type custom can run one",
        **dict.fromkeys(
            ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers", "enable_ssl_refresh"),
            "leave it out: the server listens on loopback only; put TLS in front of llamactl",
        ),
    }

    def default_executable(self, backends: BackendsSpec) -> tuple[str, str]:
        """``backends.vllm_executable``."""
        return backends.vllm_executable, "backends.vllm_executable"

    @property
    def option_source(self) -> OptionSource:
        """Its argparse parser, built in its own interpreter; 0.32 takes 6 to 40 s for that, most of it imports."""
        return OptionSource(script=source(_PARSER), distribution="vllm", environment=QUIET)

    def read_options(self, output: str) -> OptionTable:
        """The table in what the script printed; Rejected when it is not there."""
        return read_argparse(
            output, backend=self.kind, program="vllm serve", syntax=Syntax.VLLM, positional={"model_tag": "model"}
        )

    def own_rules(
        self,
        vocabulary: Vocabulary,
        spec: InstanceSpec,
        *,
        given: Mapping[str, Given],
        environment: Mapping[str, str | None],
    ) -> Iterator[OptionProblem]:
        """A model is needed; it is a bare word, so it cannot begin with a dash."""
        model = given["model"].value if "model" in given else None
        if model == "" or ("model" not in given and not any(named(word) == "--model" for word in spec.extra_args)):
            path = (OPTIONS, given["model"].key) if "model" in given else (OPTIONS,)
            yield OptionProblem(path=path, message="a vllm instance needs a model", hint="add model: NAME or a folder")
        if isinstance(model, str) and model.startswith("-"):
            message = "a model name cannot begin with a dash: vLLM would read it as a flag"
            yield OptionProblem(
                path=(OPTIONS, given["model"].key), message=message, hint="write ./ before a folder's name"
            )
        yield from self._parallel(spec, given, environment=environment)
        if "config" in given:
            yield OptionProblem(
                path=(OPTIONS, given["config"].key),
                message="options in vLLM's own file are not checked, a change in it restarts nothing, and false is lost there",
                hint="write the options here",
                warning=True,
                on_key=True,
            )

    def _parallel(
        self, spec: InstanceSpec, given: Mapping[str, Given], *, environment: Mapping[str, str | None]
    ) -> Iterator[OptionProblem]:
        """Parallel sizes against the GPUs that the declared environment shows; silent where other hosts may have the rest."""
        facts = Facts(self.vocabulary, given, spec.extra_args)
        shown = visible_devices(environment)
        spread = facts.value("distributed_executor_backend") not in (None, "mp", "uni")
        if shown is None or spread or facts.number("nnodes") != 1 or facts.value("data_parallel_backend") != "mp":
            return
        alone = facts.on("data_parallel_rank") or facts.on("data_parallel_external_lb")
        local = 1.0 if alone else facts.number("data_parallel_size_local") or facts.number("data_parallel_size")
        sizes = {name: facts.number(name) for name in _MULTIPLIED}
        if local is None or any(size is None for size in sizes.values()):
            return
        factors = {**{name: int(size or 1) for name, size in sizes.items()}, "data_parallel_size": int(local)}
        wanted = prod(factors.values())
        key = next((found for name in factors if factors[name] > 1 and (found := facts.key(name)) is not None), None)
        if wanted > shown[1] and key is not None:
            product = " x ".join(f"{name} {size}" for name, size in factors.items() if size > 1)
            yield OptionProblem(
                path=(OPTIONS, key),
                message=f"{product} wants {wanted} GPUs, and {shown[0]} shows {shown[1]}",
                hint="show more of them, or lower the size",
            )

    def arguments(
        self, vocabulary: Vocabulary, executable: tuple[str, ...], given: Mapping[str, Given]
    ) -> tuple[str, ...]:
        """``serve MODEL`` and the options; ``--model`` where there is no subcommand to take a bare word."""
        rest = render(vocabulary, given, leave=OURS | {"model"})
        if "model" not in given:
            return (SUBCOMMAND, *rest) if wants_subcommand(executable) else rest
        model = item_text(given["model"].option, given["model"].value)
        if model.startswith("-"):
            raise ValueProblem("a model name cannot begin with a dash")
        if wants_subcommand(executable):
            return (SUBCOMMAND, model, *rest)
        return (model, *rest) if executable[-1] == SUBCOMMAND else ("--model", model, *rest)

    def served_model(self, spec: InstanceSpec) -> str | None:
        """The first served name, else the model: vLLM answers 404 to any other."""
        names = self.option(spec, "served_model_name")
        name = names[0] if isinstance(names, list) and names else names
        if isinstance(name, str) and name:
            return name
        model = self.option(spec, "model")
        return model if isinstance(model, str) else None


BACKEND = Vllm()
