"""Files built as the examples of llama-swap's documentation are, with names of our own: each is accounted for key by key, and loads.

Which examples there are: the shortest file, several models, a command over lines, a container, the file with everything, profiles of
old, speculative decoding, servers of other kinds, peers, groups, the matrix, selectors, and hooks.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from reconciler.config._parse import parse
from reconciler.config._tree import plain
from tests.config.importers.kit import Import, accounts_for, bring, tables, with_key

SHORTEST = "models: { first: { cmd: 'llama-server --port ${PORT} --model /srv/one.gguf' } }"
SEVERAL = """\
models:
  first:
    cmd: llama-server --port ${PORT} -m /srv/one.gguf
  second:
    cmd: llama-server --port ${PORT} -m /srv/two.gguf
  third:
    cmd: llama-server --port ${PORT} -m /srv/three.gguf
"""
OVER_LINES = """\
models:
  first:
    cmd: |  # a comment
      llama-server --port ${PORT} -m /srv/one.gguf
      --ctx-size 4096
      --jinja
      --cache-type-k q8_0
      --cache-type-v q8_0
"""
CONTAINER = """\
models:
  "CODE-V":
    name: "A coder in a container"
    cmdStop: docker stop coder-box
    cmd: |
      docker run --init --rm --name coder-box
        --runtime=nvidia --gpus '"device=0,1"'
        --shm-size=8g
        -v /srv/cache:/root/.cache
        -v /srv/models:/models -p ${PORT}:8000
        vllm/vllm-openai:v0.10.0
        --model "/models/org/coder-AWQ"
        --served-model-name "CODE-V"
        --enable-expert-parallel
        --swap-space 8
        --max-num-seqs 64
        --max-model-len 32768
        --max-seq-len-to-capture 32768
        --gpu-memory-utilization 0.8
        --tensor-parallel-size 2
        --trust-remote-code
"""
EVERYTHING = """\
healthCheckTimeout: 400
logLevel: warn
logTimeFormat: ""
logToStdout: "upstream"
metricsMaxInMemory: 10
captureBuffer: 2
ui: { activity: { session_id: ["X-Mine"] } }
performance: { enable: true, disabled: false, every: 9s }
startPort: 12001
sendLoadingState: true
includeAliasesInList: false
globalTTL: 0
unloadTimeout: 9
macros:
  "newest": >
    /srv/builds/llama-server-0a1b2c3d --port ${PORT}
  "ctx": 2048
  "with_ctx": "--ctx-size ${ctx}"
  "folder": "${env.ZZ_HOME}/gguf"
apiKeys:
  - "a-key-in-clear"
  - "${env.ZZ_KEY_A}"
  - "${env.ZZ_KEY_B}"
tailcat: { allow: ["nodekey:00ff"], models: [big, far/tiny], admin: false, debug: false }
upstream: { ignorePaths: ['.*[.](js|css)$', '^/ws$'] }
profiles:
  "work":
    description: "what is used at work"
    pins: { "code": "big", "paint": ~ }
models:
  "big":
    macros: { "ctx": 8192, "heat": 0.5 }
    cmd: |
      # ${newest} stands above
      ${newest}
      --model models/big.gguf
      --ctx-size ${ctx}
      --temperature ${heat}
    name: "big one"
    description: "thinks"
    env: ["CUDA_VISIBLE_DEVICES=0,1"]
    proxy: http://127.0.0.1:8888
    checkEndpoint: /ready
    ttl: 90
    unloadTimeout: 11
    compat: { ignoreWebsockets: true }
    useModelName: "org/big"
    filters:
      stripParams: "top_p, top_k"
      setParams: { temperature: 0.5, top_p: 0.8 }
      setParamsByID:
        "${MODEL_ID}": { chat_template_kwargs: { effort: some } }
        "${MODEL_ID}:more": { chat_template_kwargs: { effort: more } }
    aliases: ["known-as"]
    metadata: { port: "${PORT}", heat: "${heat}", list: [1, 1.5, "${MODEL_ID}"], deep: { a: "1", b: ["${heat}", false] } }
    concurrencyLimit: 0
    sendLoadingState: false
    timeouts: { connect: 3, keepalive: 0, responseHeader: 6, tlsHandshake: 2, idleConn: 9 }
    capabilities: { in: [text, image], out: [text], tools: true, reranker: false, context: 8192 }
  "hidden": { unlisted: true, cmd: some-other-server }
  "boxed":
    proxy: "http://127.0.0.1:${PORT}"
    cmd: |
      docker run --name ${MODEL_ID}
      --init --rm -p ${PORT}:8080 -v /srv/models:/models
      ghcr.io/ggml-org/llama.cpp:server
      --model '/models/boxed.gguf'
    cmdStop: docker stop ${MODEL_ID}
hooks: { on_startup: { profile: "work", preload: ["boxed"] } }
"""
OLD_PROFILE = """\
healthCheckTimeout: 200
logLevel: debug
logRequests: true
profiles: { pair: [coder, thinker] }
models:
  "coder":
    env: ["CUDA_VISIBLE_DEVICES=0"]
    aliases: [code]
    proxy: "http://127.0.0.1:8811"
    cmd: >
      /opt/llama-server --host 127.0.0.1 --port 8811 --flash-attn --slots
      --ctx-size 8000 --ctx-size-draft 8000 --model /srv/coder.gguf --model-draft /srv/draft.gguf
      -ngl 50 -ngld 50 --draft-max 8 --draft-min 2 --draft-p-min 0.3 --cache-type-k q8_0
  "thinker":
    proxy: "http://127.0.0.1:8812"
    cmd: >
      /opt/llama-server --host 127.0.0.1 --port 8812 --flash-attn --metrics --model /srv/thinker.gguf
      --samplers "top_k;min_p" --temp 0.5 --repeat-penalty 1.2 --dry-multiplier 0.4 --min-p 0.02 -ngl 50
"""
SPECULATIVE = """\
models:
  "quick":
    proxy: "http://127.0.0.1:8813"
    cmd: >
      /opt/builds/llama-server-ab12cd --host 127.0.0.1 --port 8813 --flash-attn --metrics --slots
      --split-mode row --model /srv/main.gguf -ngl 50 --ctx-size 9000 --model-draft /srv/draft.gguf -ngld 50
      --draft-max 8 --draft-min 2 --draft-p-min 0.3 --device CUDA0 --device-draft CUDA1 --tensor-split 0,1,1
"""
OTHER_KINDS = """\
logRequests: true
models:
  "fetched": { cmd: "llama-server -hf org/tiny-GGUF:Q4_K_M --port ${PORT}" }
  "ears":
    checkEndpoint: /v1/audio/
    cmd: >
      ears-server --port ${PORT} --m /srv/ears.bin --flash-attn --request-path /v1/audio --inference-path ""
  "tones": { checkEndpoint: /health, cmd: "tones_server --config /srv/tones.json --port ${PORT}" }
  "paint":
    checkEndpoint: /
    cmd: |
      /app/paint-server
      --listen-port 9999
      --diffusion-model /srv/paint.gguf
      --cfg-scale 1.0
      --steps 8
"""
PEERS = """\
peers:
  other-box:
    proxy: http://10.1.1.1
    models: [tiny, org/sub/model]
  third-box: { proxy: "http://10.1.1.2", models: [tiny] }
  by-token: { proxy: "tailcat://tcNOTHING", tailcatKey: /srv/client.json, models: [tiny] }
  rented:
    proxy: https://models.example/api
    apiKey: ${env.ZZ_RENTED}
    models: [lab/large, lab/small]
    timeouts: { connect: 3, keepalive: 3, responseHeader: 6, tlsHandshake: 1, idleConn: 9 }
    filters: { stripParams: "top_k", setParams: { provider: { data: "deny" } } }
selectors:
  nearest:
    strategy: spillover
    targets: [other-box/tiny, rented/lab/small]
    settings: { spillover: 2 }
    name: Nearest
    metadata: { purpose: chat }
"""
ROUTED = """\
models:
  m1: { cmd: "llama-server --port ${PORT} -m /srv/1.gguf" }
  m2: { cmd: "llama-server --port ${PORT} -m /srv/2.gguf" }
  m3: { cmd: "llama-server --port ${PORT} -m /srv/3.gguf" }
routing:
  router:
    use: matrix
    settings:
      groups:
        one: { swap: true, exclusive: true, members: [m1, m2] }
        ever: { persistent: true, swap: false, exclusive: false, members: [m3] }
      matrix:
        vars: { a: m1, b: m2 }
        evict_costs: { a: 3, m3: 2 }
        sets: { both: "(a | b) & m3", alone: m1 }
  scheduler: { use: fifo, settings: { fifo: { priority: { m1: 2, m2: 1 } } } }
"""
EXAMPLES = {
    "shortest": SHORTEST,
    "several": SEVERAL,
    "over lines": OVER_LINES,
    "container": CONTAINER,
    "everything": EVERYTHING,
    "old profile": OLD_PROFILE,
    "speculative": SPECULATIVE,
    "other kinds": OTHER_KINDS,
    "peers": PEERS,
    "routed": ROUTED,
}
INSTANCES = {
    "everything": {"big", "boxed"},
    "other kinds": {"fetched", "ears", "tones"},
    "peers": {"other-box-tiny", "org-sub-model", "third-box-tiny", "lab-large", "lab-small"},
}
"""Where they are not simply the models."""
CARRIED = {
    "healthCheckTimeout", "startPort", "globalTTL", "unloadTimeout", "apiKeys", "macros", "models", "hooks",
    "cmd", "env", "ttl", "aliases", "proxy", "apiKey", "on_startup", "preload", "peers", "routing", "router",
    "settings", "profiles", "groups", "matrix", "sets", "filters", "setParamsByID", "newest", "ctx", "heat",
}  # fmt: skip
"""Keys that are carried over, or only hold others."""
AS_HERE = {("models", "big", "sendLoadingState")}
"""Set to what llamactl does anyway."""


def below(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all keys, those within a list left out: a list is one value."""
    if not isinstance(data, dict):
        return []
    return [one for key, value in data.items() for one in ((*path, key), *below(value, (*path, key)))]


@pytest.fixture(params=sorted(EXAMPLES))
def example(request: pytest.FixtureRequest) -> str:
    """The name of one."""
    return str(request.param)


def test_it_loads_with_its_variables_set_and_has_every_model(example: str) -> None:
    found = bring("llama-swap", EXAMPLES[example])
    models = plain(parse(EXAMPLES[example].encode(), name="x").root)
    assert isinstance(models, dict)
    named = models.get("models")
    assert set(found.fleet.instances) == INSTANCES.get(example, set(named) if isinstance(named, dict) else set())


def test_each_of_its_keys_is_carried_over_or_reported_at_its_own_line(example: str) -> None:
    text = EXAMPLES[example]
    found = bring("llama-swap", text)
    for path in below(plain(parse(text.encode(), name="x").root)):
        is_name = path[-2:-1] in (("models",), ("peers",), ("profiles",), ("groups",))
        if path[-1] not in CARRIED and not is_name and path not in AS_HERE:
            assert is_reported(found, path), path
    lines = text.splitlines()
    assert all(loss.line is None or loss.line <= len(lines) for loss in found.lost)


def is_reported(found: Import, path: tuple[str | int, ...]) -> bool:
    """By its own path or one above it; a peer's models by the instances that they became."""
    whole = {loss.what for loss in found.lost}
    steps = [".".join(str(step) for step in path[:length]) for length in range(1, len(path) + 1)]
    if path[0] == "peers" and path[-1] == "models":
        return True
    return any(step in whole for step in steps)


def test_a_key_that_it_does_not_have_is_reported_wherever_it_stands(example: str) -> None:
    root = parse(EXAMPLES[example].encode(), name="x").root
    for path, _ in tables(root):
        if path[-1:] in (("macros",), ("models",), ("peers",), ("profiles",)):
            continue  # any key there is a name
        found = bring("llama-swap", json.dumps(with_key(plain(root), path, "zzz")))
        assert accounts_for(found, path, "zzz"), path


def test_a_model_that_cannot_be_started_here_is_said_to_be_left_out() -> None:
    found = bring("llama-swap", EVERYTHING)
    assert "left out" in found.loss("models.hidden").why
    assert not any(what.startswith("models.hidden.") for what in found.whats())
