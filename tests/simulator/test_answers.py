"""What the simulator answers: OpenAI's shapes, deterministic words, each server's own errors, keys and side routes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulators import RunningSimulator, chat_body, running_simulator

SERVERS = ("vllm", "llama_cpp", "mlx_lm")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, RunningSimulator]]:
    with (
        running_simulator("vllm") as vllm,
        running_simulator("llama_cpp", "--metrics") as llama_cpp,
        running_simulator("mlx_lm") as mlx_lm,
    ):
        yield {"vllm": vllm, "llama_cpp": llama_cpp, "mlx_lm": mlx_lm}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, servers: dict[str, RunningSimulator]) -> RunningSimulator:
    return servers[request.param]


def test_an_answer_repeats_the_last_message_up_to_max_tokens(server: RunningSimulator) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one two three"}]
    answers = [
        server.request("POST", "/v1/chat/completions", {"messages": messages, "max_tokens": 5}) for _ in range(2)
    ]
    for answer in answers:
        assert answer.status == 200
        choice = answer.json()["choices"][0]
        assert choice["message"] == {"role": "assistant", "content": "one two three one two"}
        assert choice["finish_reason"] == "length"
        assert answer.json()["usage"] == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}


def test_max_completion_tokens_counts_too_and_the_default_is_sixteen(server: RunningSimulator) -> None:
    assert server.chat("a", max_completion_tokens=3).json()["usage"]["completion_tokens"] == 3
    assert server.chat("a").json()["usage"]["completion_tokens"] == 16


def test_text_parts_of_a_message_are_read(server: RunningSimulator) -> None:
    content = [
        {"type": "text", "text": "look at"},
        {"type": "image_url", "image_url": {"url": "data:,"}},
        {"type": "text", "text": "this"},
    ]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 3}
    answer = server.request("POST", "/v1/chat/completions", body)
    assert answer.json()["choices"][0]["message"]["content"] == "look at this"


def test_an_empty_message_is_still_answered(server: RunningSimulator) -> None:
    assert server.chat("", max_tokens=2).json()["choices"][0]["message"]["content"] == "... ..."


def test_a_stream_opens_with_the_role_and_ends_with_reason_usage_and_done(server: RunningSimulator) -> None:
    answer = server.chat("héllo wörld", stream=True, max_tokens=3, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text() == "héllo wörld héllo"
    first, *tokens, last, usage, end = answer.events()
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in tokens] == [None] * 3
    assert last["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert end == "[DONE]"
    assert {chunk["id"] for chunk in (first, *tokens, last, usage)} == {first["id"]}
    assert {chunk["object"] for chunk in (first, *tokens, last, usage)} == {"chat.completion.chunk"}


def test_a_stream_carries_no_usage_unless_asked(server: RunningSimulator) -> None:
    events = server.chat(stream=True, max_tokens=2).events()
    assert not any("usage" in event for event in events if isinstance(event, dict))
    assert len(events) == 5


def test_completions_answer_and_stream(server: RunningSimulator) -> None:
    whole = server.request("POST", "/v1/completions", {"prompt": "a b", "max_tokens": 3}).json()
    assert (whole["object"], whole["choices"][0]["text"]) == ("text_completion", "a b a")
    events = server.request("POST", "/v1/completions", {"prompt": "a b", "max_tokens": 3, "stream": True}).events()
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == "a b a"
    assert events[-1] == "[DONE]"


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp"])
def test_embeddings_depend_on_their_input_alone(kind: str, servers: dict[str, RunningSimulator]) -> None:
    answer = servers[kind].request("POST", "/v1/embeddings", {"input": ["same", "other", "same"]}).json()
    vectors = [entry["embedding"] for entry in answer["data"]]
    assert vectors[0] == vectors[2] != vectors[1]
    assert sum(value * value for value in vectors[0]) == pytest.approx(1)
    packed = servers[kind].request("POST", "/v1/embeddings", {"input": "same", "encoding_format": "base64"}).json()
    assert isinstance(packed["data"][0]["embedding"], str)


def test_transcriptions_read_a_form(servers: dict[str, RunningSimulator]) -> None:
    form = (
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n\x00\x01\x02\r\n--x--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = servers["vllm"].request("POST", "/v1/audio/transcriptions", form, headers=headers)
    assert answer.json() == {"text": "3 bytes of sound"}
    assert servers["vllm"].stats()["last"]["model"] == "tiny"


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"messages": []}', b'{"messages": [{"content": "a"}], "max_tokens": 0}']
)
def test_a_bad_request_is_400_with_a_message(server: RunningSimulator, body: bytes) -> None:
    answer = server.request("POST", "/v1/chat/completions", body)
    assert answer.status == 400
    error = answer.json()["error"]
    assert error if isinstance(error, str) else error["message"]


def test_models_are_listed_under_their_served_names(server: RunningSimulator) -> None:
    assert [entry["id"] for entry in server.get("/v1/models").json()["data"]] == ["tiny"]


def test_vllm_knows_only_its_own_names() -> None:
    with running_simulator("vllm", "serve", "org/model", "--served-model-name", "a", "b") as server:
        assert [entry["id"] for entry in server.get("/v1/models").json()["data"]] == ["a", "b"]
        assert server.chat(model="b", max_tokens=1).json()["model"] == "b"
        refused = server.chat(model="org/model")
        assert refused.status == 404
        assert refused.json()["error"] == {
            "message": "The model `org/model` does not exist.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }


def test_llama_server_takes_any_model_name(servers: dict[str, RunningSimulator]) -> None:
    assert servers["llama_cpp"].chat(model="whatever").status == 200


def test_mlx_refuses_what_it_would_have_to_fetch(servers: dict[str, RunningSimulator]) -> None:
    assert servers["mlx_lm"].chat(model="tiny").status == 200
    assert servers["mlx_lm"].chat(model="default_model").status == 200
    refused = servers["mlx_lm"].chat(model="org/other")
    assert refused.status == 404
    assert "hub" in refused.json()["error"]


def test_unknown_routes_are_404_in_each_servers_shape(servers: dict[str, RunningSimulator]) -> None:
    answers = {kind: server.get("/nowhere") for kind, server in servers.items()}
    assert {answer.status for answer in answers.values()} == {404}
    assert answers["vllm"].json() == {"detail": "Not Found"}
    assert answers["llama_cpp"].json()["error"]["type"] == "not_found_error"
    assert answers["mlx_lm"].body == b"Not Found"


def test_vllm_guards_v1_alone() -> None:
    with running_simulator("vllm", environment={"VLLM_API_KEY": "hush"}) as server:
        assert server.chat().status == 401
        assert server.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status == 401
        assert server.get("/v1/models", headers={"X-Api-Key": "hush"}).status == 401
        assert server.get("/v1/models", headers={"Authorization": "Bearer hush"}).status == 200
        assert server.get("/health").status == server.get("/metrics").status == server.get("/version").status == 200
        assert server.request("POST", "/tokenize", {"prompt": "a b"}).json()["count"] == 2
        assert server.stats()["requests"] == 0
        assert "hush" not in server.log()


def test_llama_server_guards_all_but_health_and_models() -> None:
    with running_simulator("llama_cpp", "--api-key", "hush,hush2", "--metrics") as server:
        assert server.chat().status == server.get("/metrics").status == server.get("/props").status == 401
        assert server.get("/health").status == server.get("/v1/models").status == 200
        assert server.get("/metrics", headers={"Authorization": "Bearer hush"}).status == 200
        assert server.get("/props", headers={"X-Api-Key": "hush2"}).status == 200
        assert server.get("/props", headers={"Authorization": "Bearer wrong"}).json()["error"]["code"] == 401


def test_mlx_has_no_keys() -> None:
    with running_simulator("mlx_lm", environment={"LLAMA_API_KEY": "hush"}) as server:
        assert server.chat().status == 200


def test_tokens_show_in_the_metrics(servers: dict[str, RunningSimulator]) -> None:
    for kind, name in [("vllm", "vllm:generation_tokens_total"), ("llama_cpp", "llamacpp:tokens_predicted_total")]:
        before = metric(servers[kind], name)
        servers[kind].chat(max_tokens=7)
        assert metric(servers[kind], name) == before + 7
    assert metric(servers["vllm"], "vllm:num_requests_running") == 0
    assert metric(servers["llama_cpp"], "llamacpp:requests_processing") == 0
    assert servers["mlx_lm"].get("/metrics").status == 404


def metric(server: RunningSimulator, name: str) -> float:
    lines = server.get("/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_llama_server_has_metrics_only_when_asked() -> None:
    with running_simulator("llama_cpp") as server:
        refused = server.get("/metrics")
        assert refused.status == 501
        assert "--metrics" in refused.json()["error"]["message"]


def test_words_become_token_numbers(servers: dict[str, RunningSimulator]) -> None:
    one = servers["vllm"].request("POST", "/tokenize", {"prompt": "a b a"}).json()["tokens"]
    two = servers["llama_cpp"].request("POST", "/tokenize", {"content": "a b a"}).json()["tokens"]
    assert one == two
    assert one[0] == one[2] != one[1]
    assert servers["mlx_lm"].request("POST", "/tokenize", {"prompt": "a"}).status == 404


def test_mlx_speaks_http_1_0_and_ends_streams_with_the_connection(servers: dict[str, RunningSimulator]) -> None:
    answer = servers["mlx_lm"].chat("a b c d", stream=True, max_tokens=2)
    assert answer.version == 10
    assert "transfer-encoding" not in answer.headers
    assert "content-length" not in answer.headers
    comments = [part for part in answer.body.decode().split("\n\n") if part.startswith(": keepalive")]
    assert comments[0] == ": keepalive 0/4"
    assert comments[-1] == ": keepalive 4/4"
    assert answer.body.startswith(b": keepalive")
    assert answer.text() == "a b"


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp"])
def test_the_others_speak_http_1_1_in_chunks(kind: str, servers: dict[str, RunningSimulator]) -> None:
    answer = servers[kind].chat(stream=True)
    assert answer.version == 11
    assert answer.headers["transfer-encoding"] == "chunked"
    assert b": keepalive" not in answer.body


def test_sleep_and_wake() -> None:
    environment = {"VLLM_SERVER_DEV_MODE": "1"}
    with running_simulator("vllm", "--enable-sleep-mode", environment=environment) as server:
        assert server.get("/is_sleeping").json() == {"is_sleeping": False}
        assert server.request("POST", "/sleep?level=2").status == 200
        assert server.get("/is_sleeping").json() == {"is_sleeping": True}
        assert server.get("/health").status == 200
        assert server.chat().status == 500
        assert server.request("POST", "/sleep?level=9").status == 400
        assert server.request("POST", "/wake_up").status == 200
        assert server.get("/is_sleeping").json() == {"is_sleeping": False}
        assert server.chat().status == 200


def test_there_are_no_sleep_routes_without_sleep_mode(servers: dict[str, RunningSimulator]) -> None:
    assert servers["vllm"].get("/is_sleeping").status == 404
    assert servers["vllm"].request("POST", "/sleep").status == 404


def test_a_large_body_sent_after_expect_100_is_read(servers: dict[str, RunningSimulator]) -> None:
    body = json.dumps(chat_body("word " * 300_000, max_tokens=1)).encode()
    answer = servers["vllm"].request("POST", "/v1/chat/completions", body, headers={"Expect": "100-continue"})
    assert answer.json()["usage"]["prompt_tokens"] == 300_000


def test_stats_and_the_call_log_show_what_arrived(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    log.write_text("kept\n")
    with running_simulator("vllm", "--call-log", str(log)) as server:
        body = b'{"model": "tiny",  "messages": [{"content": "a"}]}'
        server.request("POST", "/v1/chat/completions", body, headers={"X-Request-Id": "r1"})
        server.get("/v1/models")
        server.request("POST", "/v1/chat/completions", b"nonsense")
        stats = server.stats()
        assert (stats["pid"], stats["requests"], stats["in_flight"], stats["aborted"]) == (server.pid, 2, 0, 0)
        assert stats["last"]["model"] is None
    kept, first, second = log.read_text().splitlines()
    assert kept == "kept"
    record = json.loads(first)
    assert record["path"] == "/v1/chat/completions"
    assert record["model"] == "tiny"
    assert record["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert "x-request-id" in record["headers"]
    assert "r1" not in first
    assert json.loads(second)["body_sha256"] == hashlib.sha256(b"nonsense").hexdigest()


def test_stats_hold_the_headers_of_the_last_call(servers: dict[str, RunningSimulator]) -> None:
    servers["llama_cpp"].request("POST", "/v1/completions", {"prompt": "a"}, headers={"X-Trace": "t"})
    last = servers["llama_cpp"].stats()["last"]
    assert last["headers"]["x-trace"] == "t"
    assert last["path"] == "/v1/completions"


def test_padding_makes_chunks_large(servers: dict[str, RunningSimulator]) -> None:
    del servers
    with running_simulator("vllm", "--response-pad", "50000") as server:
        answer = server.chat("a", stream=True, max_tokens=20)
        assert len(answer.body) > 20 * 50_000
        assert answer.text() == " ".join("a" * 20)
        assert len(server.chat("a", max_tokens=1).body) > 50_000


def test_each_request_leaves_a_line_in_the_log(server: RunningSimulator) -> None:
    server.get("/health")
    server.chat()
    assert any("/health" in line and "200" in line for line in server.log().splitlines())
    assert any("/v1/chat/completions" in line and "200" in line for line in server.log().splitlines())
