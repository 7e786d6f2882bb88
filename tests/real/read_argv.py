"""Reads argvs with a real server's own argparse: one JSON line in, one out. Run by the server's interpreter, standard library only.

``read_argv.py vllm`` or ``read_argv.py mlx_lm``. A line asks ``{"argv": [...], "flags": {flag: null or text}}``; the answer has
``values``, what the namespace holds for each of these flags, the ``model``, and ``others``, the entries that changed besides; or
``error``, the parser's words. Config objects are not plain data: for a flag with a text the answer says whether its value equals
what the option's own converter makes of that text. With ``configure`` vLLM goes on to its whole configuration, whose complaint
is an ``error`` too.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import io
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

READY = "ready: "


class Caught(Exception):
    """Carries a parser out of a program that builds it and uses it at once."""


def vllm() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser, list[str]]:
    """The whole program's parser, that of ``serve``, and the words before the arguments."""
    cli = importlib.import_module("vllm.entrypoints.cli.serve")
    parser = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser(description="vLLM CLI")
    serve = cli.ServeSubcommand().subparser_init(parser.add_subparsers(required=False, dest="subparser"))
    return parser, serve, ["serve"]


def configured(found: argparse.Namespace) -> None:
    """Go on as ``vllm serve`` does, up to the whole configuration of the engine; raises what vLLM raises."""
    importlib.import_module("vllm.entrypoints.launchers.cli_args").validate_parsed_serve_args(found)
    found.model = found.model_tag
    importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs.from_cli_args(found).create_engine_config()


def mlx_lm() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser, list[str]]:
    """The parser that ``main`` of the server builds, caught where it is used."""
    server = importlib.import_module("mlx_lm.server")
    found: list[argparse.ArgumentParser] = []

    def catch(self: argparse.ArgumentParser, *_: object) -> None:
        found.append(self)
        raise Caught

    original = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = catch  # type: ignore[assignment,method-assign]  # to catch it
    try:
        server.main()
    except Caught:
        return found[0], found[0], []
    finally:
        argparse.ArgumentParser.parse_args = original  # type: ignore[method-assign]  # put back
    raise SystemExit("main of mlx_lm.server built no parser")


def plain(value: Any) -> Any:
    """The value as JSON data; what is none becomes its class and its fields."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__name__, **{key: plain(item) for key, item in vars(value).items()}}
    return {"class": type(value).__name__, "text": str(value)}


def told(config: object) -> str:
    """A config object's text without the random names that some give themselves."""
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", repr(config))


def answers(parser: argparse.ArgumentParser, inner: argparse.ArgumentParser, before: list[str]) -> Iterator[str]:
    """One answer for each line of standard input."""
    defaults = vars(parser.parse_args([*before]))
    for line in sys.stdin:
        asked = json.loads(line)
        heard = io.StringIO()
        try:
            with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(heard):
                space = parser.parse_args([*before, *asked["argv"]])
                found = vars(space)
                if asked.get("configure"):
                    configured(space)
        except (SystemExit, ValueError, TypeError, ArithmeticError) as error:
            yield json.dumps({"error": f"{error!r}: {heard.getvalue()[-300:]}"[:600]})
            continue
        values = {}
        expected = {inner._option_string_actions[flag].dest for flag in asked["flags"]}
        for flag, text in asked["flags"].items():
            action: Any = inner._option_string_actions[flag]
            value = found[action.dest]
            if text is None:
                values[flag] = plain(value)
            else:
                values[flag] = told(value) == told(action.type(text))
        others = [name for name, value in found.items() if name not in expected and value != defaults.get(name)]
        yield json.dumps(
            {"values": values, "model": found.get("model_tag"), "others": sorted({*others} - {"model_tag"})}
        )


def main() -> None:
    """Say that the parser is ready, with its options' flags and names, then answer until the input ends."""
    out = sys.stdout
    sys.stdout = sys.stderr  # whatever a server prints while it is imported is not an answer
    kind = sys.argv.pop()
    parser, inner, before = {"vllm": vllm, "mlx_lm": mlx_lm}[kind]()
    dests = {flag: action.dest for flag, action in inner._option_string_actions.items()}
    out.write(READY + json.dumps(dests) + "\n")
    out.flush()
    for answer in answers(parser, inner, before):
        out.write(answer + "\n")
        out.flush()


if __name__ == "__main__":
    main()
