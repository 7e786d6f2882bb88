"""llama-swap's file: what becomes of every setting, and that none is dropped in silence."""

from __future__ import annotations

import hashlib
import json

import pytest

from reconciler.config._parse import parse
from reconciler.config._tree import plain
from reconciler.core.errors import Rejected
from reconciler.core.spec import InstanceState
from tests.config.importers.kit import SECRET, Import, accounts_for, bring, tables, with_key

EVERYTHING = """\
healthCheckTimeout: 240
globalTTL: 600
unloadTimeout: 7
logLevel: debug
logTimeFormat: rfc3339
logToStdout: both
metricsMaxInMemory: 50
captureBuffer: 1
startPort: 9100
sendLoadingState: true
includeAliasesInList: true
store: { path: /var/lib/swap.sqlite }
ui: { activity: { session_id: [X-Session] } }
performance: { disabled: true, every: 10s }
upstream: { ignorePaths: ['.*[.]js$'] }
selectors: { auto: { models: [mistral, phi] } }
apiKeys: [SECRET, "${env.SWAP_KEY}"]
macros:
  dir: /srv/${env.POOL}/gguf
  server: |
    llama-server
    --port ${PORT}
  small: ${server} --ctx-size ${ctx}
  ctx: 2048
profiles:
  night: { description: quiet, pins: { big: mistral } }
models:
  mistral:
    macros: { ctx: 32768, heat: 0.30 }
    cmd: |
      # the server of ${nothing}
      ${small} \\
      --model ${dir}/mistral.gguf
      --temp ${heat}
    name: Mistral for ${MODEL_ID}
    description: general
    env: ["CUDA_VISIBLE_DEVICES=1", "PLAIN=a${env.POOL}b"]
    aliases: [chat, { id: gpt-x, name: GPT X, unlisted: true }]
    checkEndpoint: /health
    ttl: -1
    unloadTimeout: 0
    useModelName: mistral-real
    filters:
      stripParams: "temperature, top_k"
      setParams: { top_p: 0.5 }
      setParamsByID: { "${MODEL_ID}:fast": { effort: low } }
    metadata: { port: "${PORT}", nested: { a: [1, { b: 2 }] }, since: 2024-05-01 }
    capabilities: { in: [text], tools: true }
    concurrencyLimit: 2
    sendLoadingState: true
    unlisted: true
    timeouts: { connect: 5, responseHeader: 9 }
  phi:
    cmd: /opt/llama-server-b6123 --port ${PORT} -m phi.gguf
    cmdStop: kill -TERM ${PID}
    ttl: 0
  speech:
    cmd: /opt/tts/serve --listen 127.0.0.1:7007 --voice 'a;b $HOME'
    proxy: http://127.0.0.1:7007
    checkEndpoint: /ready
    useModelName: tts-1
    ttl: 30
groups:
  large: { swap: true, exclusive: true, members: [mistral, phi] }
  always: { swap: false, exclusive: false, persistent: true, members: [speech] }
matrix:
  vars: { m: mistral, p: phi }
  evict_costs: { m: 5 }
  sets: { both: "m & p" }
routing:
  router:
    use: group
    settings:
      groups: { odd: { members: [phi] } }
      matrix: { vars: { m: mistral }, sets: { one: m } }
  scheduler: { use: fifo, settings: { fifo: { priority: { phi: 1 } } } }
hooks: { on_startup: { preload: [speech, ghost] } }
peers:
  elsewhere:
    proxy: https://models.example/api
    apiKey: ${env.PEER_KEY}
    models: [org/large, small]
    timeouts: { connect: 3 }
    filters: { stripParams: top_k }
  locked: { proxy: http://10.0.0.9:8080, apiKey: SECRET, models: [hidden] }
""".replace("SECRET", SECRET)
ENVIRON = {"SWAP_KEY": "k" * 40, "POOL": "tank"}


@pytest.fixture(scope="module")
def everything() -> Import:
    """The file above, imported."""
    return bring("llama-swap", EVERYTHING, ENVIRON, "config.yaml")


def one(body: str, **top: str) -> Import:
    """A file with one model ``m``."""
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    return bring(
        "llama-swap", "".join(f"{key}: {value}\n" for key, value in top.items()) + f"models:\n  m:\n{indented}"
    )


def test_a_command_becomes_the_options_of_its_server(everything: Import) -> None:
    spec = everything["mistral"]
    assert spec.backend_type == "llama_cpp"
    assert spec.backend_options == {"ctx_size": 32768, "model": "/srv/tank/gguf/mistral.gguf", "temp": 0.3}
    assert "/srv/${POOL}/gguf/mistral.gguf" in everything.text, "a variable of the environment stays one"


def test_settings_of_a_model_are_carried_over(everything: Import) -> None:
    spec = everything["mistral"]
    assert spec.state is InstanceState.ON_DEMAND
    assert (spec.idle_timeout, spec.start_timeout, spec.stop.grace) == (600.0, 240.0, 7.0)
    assert spec.environment == {"CUDA_VISIBLE_DEVICES": "1", "PLAIN": "atankb"}
    assert spec.aliases == ("chat", "gpt-x", "mistral:fast")
    assert spec.labels == {"name": "Mistral for mistral", "description": "general"}


def test_a_ttl_of_0_is_none_and_a_build_of_a_known_server_is_known(everything: Import) -> None:
    spec = everything["phi"]
    assert (spec.backend_type, spec.executable, spec.idle_timeout) == ("llama_cpp", "/opt/llama-server-b6123", None)
    assert "models.phi.cmd" in everything.whats(), "what was taken for what is said"


def test_an_unknown_server_runs_as_it_did_on_the_port_it_is_given(everything: Import) -> None:
    spec = everything["speech"]
    assert spec.backend_type == "custom"
    assert spec.backend_options == {
        "command": ["/opt/tts/serve", "--listen", "127.0.0.1:{port}", "--voice", "a;b $HOME"],
        "health_path": "/ready",
        "model": "tts-1",
    }
    assert spec.state is InstanceState.RUNNING, "it is preloaded"
    assert spec.idle_timeout is None
    assert "preload" in everything.loss("models.speech.ttl").why


def test_a_fixed_port_that_cannot_be_given_up_is_pinned() -> None:
    found = one("cmd: ./serve -c conf.ini\nproxy: http://localhost:7007")
    assert found["m"].port == 7007
    assert "models.m.proxy" not in found.whats()


def test_a_peer_becomes_one_external_instance_for_each_of_its_models(everything: Import) -> None:
    spec = everything["org-large"]
    assert spec.backend_type == "external"
    assert spec.aliases == ("org/large", "elsewhere/org/large")
    assert spec.backend_options == {
        "url": "https://models.example/api",
        "model": "org/large",
        "api_key": {"env": "PEER_KEY"},
    }
    assert "api_key" not in everything["hidden"].backend_options
    assert "peers.locked.apiKey" in everything.whats()


def test_keys_open_what_they_opened_and_do_not_stand_there_in_clear(everything: Import) -> None:
    digests = {key.digest for key in everything.fleet.inference_keys}
    assert digests == {hashlib.sha256(key.encode()).digest() for key in (SECRET, ENVIRON["SWAP_KEY"])}
    assert SECRET not in everything.text
    assert SECRET not in everything.said()


def test_ports_begin_where_they_began(everything: Import) -> None:
    assert everything.fleet.server.ports() == (9100, 9999)


@pytest.mark.parametrize(
    "what",
    [
        *("logLevel", "logTimeFormat", "logToStdout", "metricsMaxInMemory", "captureBuffer", "sendLoadingState"),
        *("includeAliasesInList", "store", "ui", "performance", "upstream", "selectors", "profiles.night"),
        *("groups.large", "groups.always", "matrix.sets.both", "matrix.vars", "matrix.evict_costs"),
        *("routing.router.use", "routing.router.settings.groups.odd", "routing.router.settings.matrix.sets.one"),
        *(
            "routing.scheduler",
            "hooks.on_startup.preload: 'ghost'",
            "peers.elsewhere.timeouts",
            "peers.elsewhere.filters",
        ),
        *("models.mistral.filters.stripParams", "models.mistral.filters.setParams", "models.mistral.useModelName"),
        *(
            "models.mistral.filters.setParamsByID.${MODEL_ID}:fast",
            "models.mistral.metadata",
            "models.mistral.timeouts",
        ),
        *("models.mistral.capabilities", "models.mistral.concurrencyLimit", "models.mistral.sendLoadingState"),
        *("models.mistral.unlisted", "models.mistral.aliases[1].name", "models.mistral.aliases[1].unlisted"),
        *("models.mistral.name", "models.phi.cmdStop", "models.speech.ttl"),
    ],
)
def test_what_has_no_counterpart_is_reported_with_its_line(everything: Import, what: str) -> None:
    loss = everything.loss(what)
    lines = EVERYTHING.splitlines()
    key = what.partition(":")[0].rsplit(".", 1)[-1].rstrip("]").partition("[")[0]
    assert loss.line is not None
    assert loss.why
    assert key.strip("'$") in lines[loss.line - 1] or (key in what and "setParamsByID" in lines[loss.line - 1])


def test_groups_say_exactly_what_is_lost(everything: Import) -> None:
    assert "mistral, phi run one at a time; running one ends every other group" in everything.loss("groups.large").why
    assert "speech run together; no other group may end them" in everything.loss("groups.always").why


def test_one_model_at_a_time_is_told_where_the_file_does_not_say_it() -> None:
    two = "models: {a: {cmd: llama-server -m a.gguf}, b: {cmd: llama-server -m b.gguf}}"
    assert "one model at a time" in bring("llama-swap", two).loss("models").why
    assert bring("llama-swap", "models: {a: {cmd: llama-server -m /a.gguf}}").lost == ()


def test_no_key_anywhere_in_the_file_can_be_dropped_in_silence() -> None:
    root = parse(EVERYTHING.encode(), name="x").root
    data = plain(root)
    silent = []
    for path, _ in tables(root):
        if path[-1:] in (("macros",), ("models",), ("peers",), ("profiles",)):
            continue  # any key there is a name, and has a meaning
        text = json.dumps(with_key(data, path, "zzz"))
        if not accounts_for(bring("llama-swap", text, ENVIRON), path, "zzz"):
            silent.append(path)
    assert silent == []


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("cmd: ${gone} -m x.gguf", "macro ${gone} is not defined"),
        ("cmd: ''", "empty"),
        ('cmd: "llama-server -m \'x"', "No closing quotation"),
        ("name: no command", "without a command"),
        ("cmd: [llama-server]", "a text was expected"),
    ],
)
def test_a_model_whose_command_cannot_be_read_is_reported_and_the_rest_goes_on(body: str, why: str) -> None:
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    found = bring("llama-swap", f"models:\n  good: {{ cmd: llama-server -m g.gguf }}\n  m:\n    ttl: 5\n{indented}")
    assert set(found.fleet.instances) == {"good"}
    assert any(why in loss.why for loss in found.lost if loss.what == "models.m.cmd")
    assert "models.m.ttl" in found.whats()


def test_a_known_server_whose_command_is_wrong_is_kept_as_it_is_and_said() -> None:
    found = one("cmd: llama-server --port ${PORT} -m /a.gguf --ctx-size")
    assert found["m"].backend_type == "custom"
    assert "wants a value" in found.loss("models.m.cmd").why


def test_a_container_of_a_known_server_is_understood_and_one_of_an_unknown_runs_as_it_is() -> None:
    known = one("cmd: docker run --rm -p ${PORT}:8000 vllm/vllm-openai:v0.10.0 --model Q/q\ncmdStop: docker stop x")
    assert (known["m"].backend_type, known["m"].backend_options) == ("vllm", {"model": "Q/q"})
    other = one("cmd: docker run --rm --name ${MODEL_ID} -p ${PORT}:8880 tts/image:1")
    assert other["m"].backend_options["command"] == [
        *("docker", "run", "--rm", "--name", "m", "-p", "{port}:8880", "tts/image:1")
    ]


def test_macros_that_contain_each_other_are_refused_and_do_not_hang() -> None:
    found = bring("llama-swap", "macros: {a: '${b}${b}', b: '${a}${a}'}\nmodels: {m: {cmd: 'llama-server ${a}'}}")
    assert found.fleet.instances == {}
    assert "macros" in found.loss("models.m.cmd").why


def test_a_secret_becomes_a_variable_and_is_neither_written_nor_told() -> None:
    found = bring(
        "llama-swap",
        f"""models:
  a: {{ cmd: llama-server -m /a.gguf --api-key {SECRET}, env: ["HF_TOKEN={SECRET}", "{SECRET}", "LLAMA_API_KEY=x", "A=b"] }}
  b: {{ cmd: "llama-server -m /a.gguf --hf-token {SECRET}", env: ["HF_TOKEN=other", "MY_API_KEY="] }}
""",
        {"HF_TOKEN": "set"},
    )
    assert "HF_TOKEN: ${HF_TOKEN}" in found.text
    assert found["a"].environment == {"HF_TOKEN": "set", "A": "b"}
    assert found["b"].environment == {"HF_TOKEN": "set", "MY_API_KEY": ""}
    assert SECRET not in found.text + found.said()
    assert "key of its own" in found.loss("models.a.env: LLAMA_API_KEY").why
    assert any("another value" in one.why for one in found.lost if one.what == "models.b.env: HF_TOKEN")


def test_keys_from_variables_do_not_depend_on_what_is_set_here() -> None:
    text = "models: {m: {cmd: llama-server -m /a.gguf}}\napiKeys:\n- ${env.ONE}\n- [no]\n- ${env.TWO}\n"
    found = bring("llama-swap", text)
    assert "- env: ONE\n    - env: TWO\n" in found.text
    assert found.loss("apiKeys: item 2").line == 4
    assert bring("llama-swap", text, {"ONE": "k" * 40}).text == found.text


def test_a_model_of_a_peer_is_reached_by_its_full_name_and_the_same_at_two_is_reported() -> None:
    found = bring(
        "llama-swap",
        """models: { mine: { cmd: llama-server -m /a.gguf, aliases: [also] } }
peers:
  p1: { proxy: "http://10.0.0.1", models: [x, y, mine] }
  p2:
    proxy: http://10.0.0.2
    models: [x, also]
  tail: { proxy: "tailcat://abc", models: [z] }
""",
    )
    by_alias = {
        alias: spec.backend_options.get("url") for spec in found.fleet.instances.values() for alias in spec.aliases
    }
    assert by_alias == {
        **dict.fromkeys(("p1/x", "p1/y", "p1/mine"), "http://10.0.0.1"),
        **dict.fromkeys(("p2/x", "p2/also"), "http://10.0.0.2"),
        "also": None,
    }
    assert "y" in found.fleet.instances
    assert not {"x", "z"} & set(found.fleet.instances)
    assert "p1 and p2 both have it" in found.loss("peers.p1.models: x").why
    assert found.loss("peers.p2.models: x").line == 6
    assert "the model mine of this file" in found.loss("peers.p2.models: also").why
    assert "http" in found.loss("peers.tail.proxy").why


def test_a_model_that_is_left_out_is_said_to_be_and_nothing_of_it_to_be_kept() -> None:
    found = one("cmd: ghcr.io/some/image\nname: N\nunlisted: true")
    assert [loss.what for loss in found.lost] == ["models.m"]
    assert "left out" in found.loss("models.m").why
    unread = one("cmd: ${gone}\nname: N")
    assert "left out" in unread.loss("models.m.cmd").why
    assert "left out" in unread.loss("models.m.name").why


def test_a_macro_that_nothing_uses_is_reported() -> None:
    text = "macros: {a: '1', b: '${a}', c: x}\nmodels: {m: {macros: {d: 2, e: 3}, cmd: 'llama-server -m /${b}${e}'}}"
    unused = {loss.what for loss in bring("llama-swap", text).lost if "macro" in loss.why}
    assert unused == {"macros.c", "models.m.macros.d"}


def test_what_llama_swap_reads_otherwise_is_read_as_it_does() -> None:
    found = one(
        "cmd: llama-server -m models/a.gguf\nconcurrencyLimit: 0", healthCheckTimeout="5", profiles="{p: [m, n]}"
    )
    assert found["m"].start_timeout == 15
    assert "15 seconds" in found.loss("healthCheckTimeout").why
    assert "m, n run together" in found.loss("profiles.p").why
    assert "to 10" in found.loss("models.m.concurrencyLimit").why
    assert "models/a.gguf is looked for" in found.loss("models.m.cmd").why
    assert one("cmd: llama-server -m /a.gguf --chat-template-file /t.jinja -hf a/b.gguf:Q4").lost == ()


def test_an_empty_file_is_told_what_a_file_of_llama_swap_has() -> None:
    for text in ("", "# nothing\n", "logLevel: info"):
        with pytest.raises(Rejected) as refused:
            bring("llama-swap", text)
        problem = refused.value.problems[0]
        assert "models:" in (problem.hint or "")
        assert "instances" not in f"{problem.message} {problem.hint}"


@pytest.mark.parametrize("text", ["services: {}", "[1, 2]", "just words", "", "\0\1\2", "models: {a: 1", "a: 1\na: 2"])
def test_what_is_no_file_of_llama_swap_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(Rejected) as refused:
        bring("llama-swap", text, name="config.yaml")
    problem = refused.value.problems[0]
    assert problem.file == "config.yaml"
    assert problem.line is not None


def test_a_bomb_is_refused_by_the_guard() -> None:
    levels = "".join(f"x{level}: &x{level} [{', '.join([f'*x{level - 1}'] * 9)}]\n" for level in range(1, 12))
    with pytest.raises(Rejected, match=r"expand|alias"):
        bring("llama-swap", f"x0: &x0 [a]\n{levels}models: {{}}")
