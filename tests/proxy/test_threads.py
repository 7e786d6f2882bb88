"""Where a request's model is looked for: in a thread when the body is large, so that nobody else waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from reconciler.proxy import forward
from tests.proxy.upstreams import proxied

FORM = {"Content-Type": "multipart/form-data; boundary=B"}


def form(size: int) -> bytes:
    """A form with a file of so many bytes before the model."""
    file = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * size
    return file + b'\r\n--B\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n--B--\r\n'


@pytest.mark.parametrize(("size", "aside"), [(1000, False), (forward.BIG_BODY, True)])
@pytest.mark.parametrize("kind", ["form", "document"])
async def test_a_large_body_is_searched_in_a_thread(
    size: int, aside: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def watched(name: str) -> None:
        real: Callable[..., object] = getattr(forward, name)

        def found(*args: object) -> object:
            threads.append(threading.current_thread())
            return real(*args)

        monkeypatch.setattr(forward, name, found)

    watched("find_form_model")
    watched("find_json_model")
    body = form(size) if kind == "form" else b'{"pad": "' + b"x" * size + b'", "model": "tiny"}'
    headers = FORM if kind == "form" else {"Content-Type": "application/json"}
    async with proxied() as (backend, server):
        answer = await server.request("POST", "/v1/audio/transcriptions", body, headers=headers)
    assert answer.status == 200
    assert backend.seen[0].body == body
    assert [thread is threading.main_thread() for thread in threads] == [not aside]
