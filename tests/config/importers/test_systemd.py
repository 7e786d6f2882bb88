"""Obligations of `import systemd`: systemd's own rules of quoting, what the unit says about restarts and stops, everything else told."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.importers import _systemd_unit as unit
from reconciler.config.importers._words import Unsayable
from reconciler.core.errors import Rejected
from tests.config.importers.imported import SECRET, Result, imported, line_of, loads

UNIT = f"""\
# /etc/systemd/system/vllm@.service
[Unit]
Description=vLLM serving %i
After=network-online.target nvidia-persistenced.service
StartLimitIntervalSec=0

[Service]
Type=exec
User=llm
WorkingDirectory=/srv/llm
Environment="HF_HOME=/srv/hf cache" CUDA_VISIBLE_DEVICES=0,1
Environment=HF_TOKEN={SECRET} PORT=8000 'EXTRA=--max-num-seqs 64 --seed 7'
; another comment
ExecStart=/opt/vllm/bin/vllm serve Qwen/%i \\
    --port ${{PORT}} \\
# a comment between joined lines
    --served-model-name "my model" --hf-overrides '{{"a": "b c"}}' \\
    $EXTRA $VLLM_ARGS
Restart=on-failure
RestartSec=5
TimeoutStartSec=20min
TimeoutStopSec=1min 30s
KillSignal=SIGINT
KillMode=mixed
LimitNOFILE=65536
CPUAffinity=0-7
ProtectSystem=strict
StandardOutput=journal
FooBar=1

[Install]
WantedBy=multi-user.target

# /etc/systemd/system/vllm@.service.d/override.conf
[Service]
Environment=VLLM_LOGGING_LEVEL=DEBUG
"""


def of_service(body: str, *, name: str = "a.service", start: str = "/usr/bin/llama-server -m /m/x.gguf") -> Result:
    """A unit whose service has these lines behind its command."""
    return imported("systemd", f"[Service]\nExecStart={start}\n{body}\n", name=name)


@pytest.fixture(scope="module")
def vllm() -> Result:
    """The unit above, as an instance of its template."""
    return imported("systemd", UNIT, name="/etc/systemd/system/vllm@qwen.service")


def test_the_command_becomes_an_instance_called_as_the_unit(vllm: Result) -> None:
    body = vllm.instances["qwen"]
    assert body["backend_type"] == "vllm"
    assert body["executable"] == "/opt/vllm/bin/vllm"
    assert body["backend_options"] == {
        "model": "Qwen/qwen",
        "served_model_name": ["my model"],
        "hf_overrides": {"a": "b c"},
        "max_num_seqs": 64,
        "seed": 7,
    }
    assert body["working_directory"] == "/srv/llm"
    assert body["labels"] == {"description": "vLLM serving qwen"}


def test_restarts_and_stops_are_carried_over(vllm: Result) -> None:
    body = vllm.instances["qwen"]
    assert body["restart"] == {"policy": "on_failure", "initial_delay": "5s"}
    assert body["stop"] == {"grace": "90s", "signal": "SIGINT"}
    assert body["start_timeout"] == "1200s"


def test_variables_are_carried_over_and_secrets_are_not(vllm: Result) -> None:
    assert vllm.instances["qwen"]["environment"] == {
        "HF_HOME": "/srv/hf cache",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "HF_TOKEN": "${HF_TOKEN}",
        "PORT": "8000",
        "EXTRA": "--max-num-seqs 64 --seed 7",
        "VLLM_LOGGING_LEVEL": "DEBUG",
    }
    assert SECRET not in vllm.everything
    assert vllm.loss("Environment HF_TOKEN").line == line_of(UNIT, SECRET)


def test_the_result_loads(vllm: Result, tmp_path: Path) -> None:
    loads(vllm, {"HF_TOKEN": "x"}, tmp_path)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("After", "After="),
        ("User", "User="),
        ("ExecStart $VLLM_ARGS", "ExecStart="),
        ("LimitNOFILE", "LimitNOFILE="),
        ("CPUAffinity", "CPUAffinity="),
        ("ProtectSystem", "ProtectSystem="),
        ("StandardOutput", "StandardOutput="),
        ("FooBar", "FooBar="),
        ("WantedBy", "WantedBy="),
        ("TimeoutStartSec", "TimeoutStartSec="),
        ("--port was dropped", "ExecStart="),
    ],
)
def test_what_is_not_carried_over_is_told_with_its_line(vllm: Result, what: str, text: str) -> None:
    assert {lost.line for lost in vllm.losses(what)} == {line_of(UNIT, text)}


CARRIED = {
    "Type", "ExecStart", "Environment", "WorkingDirectory", "Restart", "RestartSec", "TimeoutStopSec", "KillSignal",
    "KillMode", "Description", "StartLimitIntervalSec",
}  # fmt: skip


def test_every_line_of_the_unit_is_carried_over_or_told(vllm: Result) -> None:
    told = {lost.line for lost in vllm.written.lost}
    for one in unit.settings(UNIT):
        assert isinstance(one, unit.Setting)
        assert one.key in CARRIED or one.line in told, one


def test_a_unit_that_says_nothing_about_restarts_is_not_restarted() -> None:
    assert of_service("").instances["a"]["restart"] == {"policy": "never"}


@pytest.mark.parametrize(
    ("lines", "restart"),
    [
        ("Restart=always", {"policy": "always"}),
        ("Restart=no", {"policy": "never"}),
        ("Restart=on-abnormal", {"policy": "on_failure"}),
        ("Restart=always\nRestartSec=10min", {"policy": "always", "initial_delay": "600s", "max_delay": "600s"}),
        ("Restart=always\nRestartSec=100ms", {"policy": "always", "initial_delay": "100ms"}),
        ("Restart=always\nStartLimitBurst=3", {"policy": "always", "max_restarts": 2}),
        ("Restart=always\nRestart=", {"policy": "never"}),
    ],
)
def test_restart_policies(lines: str, restart: dict[str, object]) -> None:
    assert of_service(lines).instances["a"]["restart"] == restart


@pytest.mark.parametrize(
    "line",
    [
        "Restart=on-success",
        "RestartSec=soon",
        "TimeoutStartSec=infinity",
        "TimeoutStopSec=0",
        "KillSignal=SIGHUP",
        "Environment=oops",
        "WorkingDirectory=/srv/%i",
        'Environment="open',
        "ExecStartPre=/bin/sleep 1",
        "ExecStop=/bin/kill $MAINPID",
        "Type=forking",
        "DynamicUser=yes",
        "MemoryMax=10G",
        "StateDirectory=x",
        "Unheard=of",
    ],
)
def test_a_setting_that_ours_has_not_is_told_and_costs_no_instance(line: str) -> None:
    result = of_service(line)
    assert list(result.instances) == ["a"]
    assert [lost.line for lost in result.losses(line.partition("=")[0])] == [3]


def test_a_drop_in_takes_back_what_was_said_before() -> None:
    result = of_service("[Service]\nExecStart=\nExecStart=/usr/bin/llama-server -m /m/other.gguf")
    assert result.instances["a"]["backend_options"]["model"] == "/m/other.gguf"


@pytest.mark.parametrize(
    ("start", "model"),
    [
        ("/usr/bin/llama-server -m '/m/a b.gguf'", "/m/a b.gguf"),
        ('/usr/bin/llama-server -m "/m/a\\x20b.gguf"', "/m/a b.gguf"),
        ("/usr/bin/llama-server -m /m/a\\sb.gguf", "/m/a b.gguf"),
        ("-/usr/bin/llama-server -m /m/x.gguf", "/m/x.gguf"),
        ("@/usr/bin/llama-server my-name -m /m/x.gguf", "/m/x.gguf"),
        ("/usr/bin/llama-server -m /m/100%%.gguf", "/m/100%.gguf"),
        ("/usr/bin/llama-server -m /m/$$x.gguf", "/m/$x.gguf"),
        ("/usr/bin/llama-server -m ${DIR}/x.gguf", "${DIR}/x.gguf"),
        (":/usr/bin/llama-server -m /m/${DIR}.gguf", "/m/$${DIR}.gguf"),
        ("/usr/bin/llama-server -m %h/x.gguf", "${HOME}/x.gguf"),
        ("/usr/bin/llama-server -m /m/%p-%N.gguf", "/m/a-a.gguf"),
        ("/usr/bin/llama-server -m %S/x.gguf", "/var/lib/x.gguf"),
        ("/bin/sh -c 'exec /usr/bin/llama-server -m /m/x.gguf'", "/m/x.gguf"),
        ("/usr/bin/env LLAMA_ARG_THREADS=4 /usr/bin/llama-server -m /m/x.gguf", "/m/x.gguf"),
        ("/usr/bin/numactl -N 0 /usr/bin/llama-server -m /m/x.gguf", "/m/x.gguf"),
    ],
)
def test_a_command_is_read_by_systemds_rules(start: str, model: str) -> None:
    result = of_service("", start=start)
    assert result.instances["a"]["backend_options"]["model"] == model


@pytest.mark.parametrize(
    "start",
    [
        "/usr/bin/llama-server -m /m/%i.gguf",
        "/usr/bin/llama-server -m /m/%H.gguf",
        "/usr/bin/llama-server -m '/m/x.gguf",
        "/bin/bash -c 'source venv/bin/activate && llama-server -m /m/x.gguf'",
        "/bin/bash /opt/start.sh",
        "/usr/bin/sudo -u llm /usr/bin/llama-server -m /m/x.gguf",
        "/usr/bin/llama-server -m /m/x.gguf ; /bin/true",
    ],
)
def test_a_command_that_cannot_be_known_is_told_and_not_guessed(start: str) -> None:
    result = of_service("", start=start)
    assert not result.instances
    lost = next(iter(result.losses("ExecStart")))
    assert lost.line == 2
    assert lost.cure


def test_a_program_that_no_backend_knows_runs_as_it_is() -> None:
    result = of_service("Restart=always", start="/opt/tgi/bin/text-generation-launcher --model-id org/m --port 3000")
    body = result.instances["a"]
    assert body["backend_type"] == "custom"
    assert body["backend_options"]["command"][:3] == ["/opt/tgi/bin/text-generation-launcher", "--model-id", "org/m"]
    assert body["restart"] == {"policy": "always"}
    assert result.losses("no server that llamactl knows")


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("--api-key hush-1234", ["--api-key", "${API_KEY}"]),
        ("--api-key=hush-1234", ["--api-key=${API_KEY}"]),
        ("--client-secret hush-1234", ["--client-secret", "${CLIENT_SECRET}"]),
        ("--url https://me:hush-1234@host/x", ["--url", "https://me:${PASSWORD}@host/x"]),
        ("--auth ${HUSH}", ["--auth", "${HUSH}"]),
        ("--tokens 12 --key-file /etc/key", ["--tokens", "12", "--key-file", "/etc/key"]),
    ],
)
def test_secrets_of_an_unknown_program_become_references(words: str, kept: list[str]) -> None:
    result = of_service("", start=f"/opt/own-server --port 3000 {words}")
    assert result.instances["a"]["backend_options"]["command"] == ["/opt/own-server", "--port", "3000", *kept]
    assert "hush-1234" not in result.everything
    assert not result.losses("stands in the file as it was given")


def test_a_second_command_is_told() -> None:
    result = of_service("ExecStart=/usr/bin/llama-server -m /m/y.gguf")
    assert [lost.line for lost in result.losses("an instance runs one command")] == [3]


def test_an_environment_file_of_this_host_is_read_and_its_secrets_are_not_said(tmp_path: Path) -> None:
    file = tmp_path / "llm.env"
    file.write_text(f"# vars\nHF_TOKEN='{SECRET}'\nARGS=\"-c 4096\"\nexport X=a\\ b\n; end\n")
    result = of_service(f"EnvironmentFile={file}", start="/usr/bin/llama-server -m /m/x.gguf $ARGS")
    body = result.instances["a"]
    assert body["backend_options"]["ctx_size"] == 4096
    assert body["environment"] == {"HF_TOKEN": "${HF_TOKEN}", "ARGS": "-c 4096", "X": "a b"}
    assert SECRET not in result.everything
    assert result.losses("a later change of the file changes nothing")


@pytest.mark.parametrize("path", ["/nowhere/llm.env", "-/nowhere/llm.env", "relative.env", "/dev/zero", "/etc"])
def test_an_environment_file_that_cannot_be_read_is_told(path: str) -> None:
    result = of_service(f"EnvironmentFile={path}")
    assert list(result.instances) == ["a"]
    assert [lost.line for lost in result.losses("EnvironmentFile")] == [3]


def test_a_pipe_in_the_place_of_an_environment_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert of_service(f"EnvironmentFile={tmp_path}/pipe").losses("cannot be read here")


def test_an_unset_variable_is_unset() -> None:
    assert of_service("UnsetEnvironment=A B").instances["a"]["environment"] == {"A": None, "B": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[Timer]\nOnCalendar=daily\n", "timer unit"),
        ("[Socket]\nListenStream=1\n[Install]\nWantedBy=x\n", "socket unit"),
        ("hello\n", "no systemd unit"),
        ("", "no systemd unit"),
    ],
)
def test_what_is_no_service_is_refused(text: str, message: str) -> None:
    with pytest.raises(Rejected, match=message) as refused:
        imported("systemd", text, name="x.unit")
    assert refused.value.problems[0].file == "x.unit"


def test_a_service_without_a_command_is_told() -> None:
    result = imported("systemd", "[Service]\nRestart=always\n", name="/etc/systemd/system/a.service.d/x.conf")
    assert not result.instances
    assert "import the whole unit" in str(result.loss("ExecStart").cure)


def test_a_unit_on_standard_input_is_called_as_its_model() -> None:
    assert list(of_service("", name="<stdin>").instances) == ["x"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1min 30s", 90),
        ("1m30s", 90),
        ("2 hours", 7200),
        ("500ms", 0.5),
        ("1.5h", 5400),
        ("infinity", None),
    ],
)
def test_a_time_span_is_read_as_systemd_does(text: str, seconds: float | None) -> None:
    assert unit.span(text) == seconds


@given(st.text(alphabet="ab1 .smhinfty-%${}\\\"'=x", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (
        unit.words,
        unit.span,
        unit.Names("a@b.service").expanded,
        lambda text: list(unit.file_assignments(text)),
    ):
        with contextlib.suppress(Unsayable):
            read(text)


@given(st.lists(st.text(alphabet="ab \"'\\$%;#é\t", max_size=8), max_size=5))
def test_quoted_words_come_back_as_they_were(words: list[str]) -> None:
    quoted = " ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words)
    assert unit.words(quoted) == tuple(words)
