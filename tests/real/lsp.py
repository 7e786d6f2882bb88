"""A small client of the language server protocol over a child's stdin and stdout: what an editor does, without the editor.

It knows the protocol and nothing of YAML or of our schema. Answers are plain data; whoever asks picks what it needs.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

ANSWER_S = 60.0
"""Longest wait for one answer, seconds; the first one includes reading the schema (under 2 s on two cores)."""
ENDING_S = 10.0
Message = dict[str, Any]


class LanguageServer:
    """One running server; use as a context manager."""

    def __init__(self, argv: Sequence[str | Path], *, folder: Path, settings: Mapping[str, object]) -> None:
        """``settings`` answer the server's questions by section, as an editor's settings would."""
        self._settings = settings
        self._process = subprocess.Popen(
            [str(word) for word in argv],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._inbox: queue.Queue[Message | None] = queue.Queue()
        self._last_id = 0
        self._diagnostics: dict[str, list[Message]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._request(
            "initialize",
            {
                "processId": None,
                "rootUri": folder.as_uri(),
                "workspaceFolders": [{"uri": folder.as_uri(), "name": folder.name}],
                "capabilities": {
                    "textDocument": {
                        "completion": {"completionItem": {"snippetSupport": True, "documentationFormat": ["markdown"]}},
                        "hover": {"contentFormat": ["markdown"]},
                        "publishDiagnostics": {"relatedInformation": True},
                    },
                    "workspace": {"configuration": True, "workspaceFolders": True},
                },
            },
        )
        self._send({"method": "initialized", "params": {}})
        self._send({"method": "workspace/didChangeConfiguration", "params": {"settings": dict(settings)}})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server: asked first, killed when it does not."""
        process = self._process
        try:
            self._request("shutdown", None)
            self._send({"method": "exit"})
            process.wait(ENDING_S)
        except (OSError, TimeoutError, subprocess.TimeoutExpired):
            process.kill()
            process.wait(ENDING_S)
        self._reader.join(ENDING_S)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def open(self, file: Path, text: str) -> list[Message]:
        """Show the server a document that need not be in its file; what it complains about, once it has looked.

        A name can be used once: the server keeps what it read under it.
        """
        uri = file.as_uri()
        assert uri not in self._diagnostics, f"{file.name} was opened before"
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._send({"method": "textDocument/didOpen", "params": {"textDocument": document}})
        while uri not in self._diagnostics:
            self._handle(self._next(f"diagnostics of {file.name}"))
        return self._diagnostics[uri]

    def complete(self, file: Path, line: int, column: int) -> list[Message]:
        """What is offered at a place (both from 0)."""
        answer = self._request("textDocument/completion", _at(file, line, column))
        items: list[Message] = answer["items"] if isinstance(answer, dict) else (answer or [])
        return items

    def hover(self, file: Path, line: int, column: int) -> str:
        """What is shown for the text at a place; empty for nothing."""
        answer = self._request("textDocument/hover", _at(file, line, column))
        contents = answer["contents"] if answer else ""
        return str(contents["value"] if isinstance(contents, dict) else contents)

    def _request(self, method: str, params: object) -> Any:
        self._last_id += 1
        self._send({"id": self._last_id, "method": method, "params": params})
        while True:
            message = self._next(method)
            if message.get("id") == self._last_id and "method" not in message:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message.get("result")
            self._handle(message)

    def _handle(self, message: Message) -> None:
        """Notifications are noted; questions of the server are answered."""
        method, params = message.get("method"), message.get("params", {})
        if method == "textDocument/publishDiagnostics":
            self._diagnostics[params["uri"]] = params["diagnostics"]
        elif method == "workspace/configuration":
            wanted = [self._settings.get(item.get("section", ""), {}) for item in params["items"]]
            self._send({"id": message["id"], "result": wanted})
        elif "id" in message and method is not None:
            self._send({"id": message["id"], "result": None})

    def _next(self, what: str) -> Message:
        try:
            message = self._inbox.get(timeout=ANSWER_S)
        except queue.Empty:
            raise TimeoutError(f"the language server gave no answer to {what} in {ANSWER_S:.0f} s") from None
        if message is None:
            raise OSError(f"the language server ended with {self._process.poll()} while asked for {what}")
        return message

    def _send(self, message: Message) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        stream = self._process.stdin
        assert stream is not None
        stream.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        stream.flush()

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        while (message := _message(stream)) is not None:
            self._inbox.put(message)
        self._inbox.put(None)


def _message(stream: IO[bytes]) -> Message | None:
    """The next message, or None at the end."""
    length = 0
    while line := stream.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    body = stream.read(length) if length else b""
    message: Message | None = json.loads(body) if body else None
    return message


def _at(file: Path, line: int, column: int) -> Message:
    return {"textDocument": {"uri": file.as_uri()}, "position": {"line": line, "character": column}}
