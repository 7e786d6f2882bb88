"""The three real programs tell their own options through the command line, and files and schemas go by what they told.

One at a time (one xdist group): an import of vLLM fills two cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.daemons import Daemon
from tests.real.conftest import Declare
from tests.real.servers import LLAMA_CPP, MLX_LM, SERVERS, VLLM, RealServer, fleet_text
from tests.test_readme import blocks

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real"), pytest.mark.timeout(600)]

READ_S = 300.0
"""Deadline of a command that reads, seconds: vLLM with cold files took 40."""
AT_LEAST = {"llama_cpp": 250, "mlx_lm": 25, "vllm": 300}
"""Options of the versions that the installer pins: 255, 27 and 317."""


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.component)
def test_a_program_tells_its_options_once(server: RealServer, declare: Declare, daemon: Daemon) -> None:
    program = declare("one", server).executable
    words = ("vocabulary", server.backend_type.replace("_", "-"), "--executable", str(program))
    first = daemon.run(*words, deadline_s=READ_S)
    assert first.code == 0, first.text
    assert f"reading the options of {program}" in first.err
    again = daemon.run(*words, "-o", "json")
    assert again.code == 0, again.text
    assert "from the cache" in again.err
    assert "reading" not in again.err
    table = json.loads(again.out)
    assert len(table["options"]) >= AT_LEAST[server.backend_type]
    assert {"host", "port", "model"} <= {option["name"] for option in table["options"]}
    assert sum(bool(option.get("help")) for option in table["options"]) > len(table["options"]) // 2
    assert "the same as in the packaged" in again.err, (
        "the packaged table is that of the version that the tests install"
    )


def test_probe_accepts_what_the_programs_know_and_places_what_they_do_not(declare: Declare, daemon: Daemon) -> None:
    instances = tuple(declare(server.component, server) for server in SERVERS)
    daemon.file.write_text(fleet_text(port=daemon.port, instances=instances))
    good = daemon.run("validate", "--probe", "-o", "json", str(daemon.file), deadline_s=READ_S)
    assert good.code == 0, good.text
    used = {one["backend_type"]: one["program"] for one in json.loads(good.out)["files"][0]["installed"]}
    assert used == {one.server.backend_type: str(one.executable) for one in instances}
    lines = daemon.file.read_text().splitlines()
    wrong = [at for at, line in enumerate(lines, 1) if "max_model_len" in line or "ctx_size" in line]
    spoiled = "\n".join(lines).replace("max_model_len", "max_modle_len").replace("ctx_size", "contextsize")
    daemon.file.write_text(spoiled + "\n")
    bad = daemon.run("validate", "--probe", str(daemon.file), deadline_s=READ_S)
    assert bad.code == 65
    assert "reading" not in bad.err, "they were read before"
    assert len(wrong) == 2
    for line in wrong:
        assert f"{daemon.file}:{line}:7: error:" in bad.out
    assert "did you mean max_model_len?" in bad.out


HELP = {
    "vllm": ("gpu_memory_utilization", "memory"),
    "llama_cpp": ("ctx-size", "context"),
    "mlx_lm": ("max_tokens", "tokens"),
}
"""A known option of each, and a word of what the program itself says of it."""


def test_the_schema_of_what_is_installed_holds_the_programs_own_words(
    declare: Declare, daemon: Daemon, tmp_path: Path
) -> None:
    instances = tuple(declare(server.component, server) for server in (LLAMA_CPP, MLX_LM, VLLM))
    daemon.file.write_text(fleet_text(port=daemon.port, instances=instances))
    target = tmp_path / "schema.json"
    done = daemon.run("schema", "--installed", "-f", str(daemon.file), "-o", str(target), deadline_s=READ_S)
    assert done.code == 0, done.text
    schema = json.loads(target.read_text())
    jsonschema.validators.validator_for(schema).check_schema(schema)
    tables = {
        one.server.backend_type: json.loads(
            daemon.run("vocabulary", one.server.backend_type, "-f", str(daemon.file), "-o", "json").out
        )
        for one in instances
    }
    for kind, (name, word) in HELP.items():
        options = {option["name"]: option["help"] for option in tables[kind]["options"] if option.get("help")}
        own = options[name.replace("-", "_")]
        assert word in own.lower()
        described = schema["$defs"][f"options.{kind}"]["properties"][name]["description"]
        assert own[:40].lower() in described.lower(), f"{described!r} does not hold {own!r}"
    document = {
        "instances": {
            one.name: {"backend_type": one.server.backend_type, "backend_options": {"model": "m", **one.server.options}}
            for one in instances
        }
    }
    jsonschema.validate(document, schema)
    document["instances"]["vllm"]["backend_options"] = {"model": "m", "max_modle_len": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_the_readme_reads_an_installed_version_as_it_says(declare: Declare, daemon: Daemon) -> None:
    """Its plain test leaves these lines out, because they want a real vLLM."""
    program = declare("one", VLLM).executable
    shown = [block.text for block in blocks() if block.tag == "text" and "llamactl vocabulary vllm" in block.text]
    assert len(shown) == 1
    daemon.file.write_text(next(block.text for block in blocks() if block.tag == "yaml"))
    environment = daemon.environment()
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shown[0]],
        cwd=daemon.folder,
        env={**environment, "LLAMACTL_VLLM_EXECUTABLE": str(program)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=READ_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gpu-memory-utilization" in done.stdout
    assert "llamactl.yaml: valid, 1 instance" in done.stdout
    assert json.loads((daemon.folder / "llamactl.schema.json").read_text())["$comment"].startswith(
        "Options of vllm serve"
    )
