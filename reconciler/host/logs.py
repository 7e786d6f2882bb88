"""The daemon's own log: one line per record on stderr, as text for people or as JSON for collectors; foreign text cannot break a line."""

from __future__ import annotations

import json
import logging
import sys
from typing import Literal

from reconciler.host.clock import rfc3339


class _JsonLines(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "at": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        instance = getattr(record, "instance", None)
        if instance is not None:
            fields["instance"] = instance
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=True)


class _Lines(logging.Formatter):
    """One line per record; control characters of foreign text are shown escaped."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        safe = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
        line = f"{rfc3339(record.created)} {record.levelname.lower():7} {safe}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def log_to_stderr(form: Literal["text", "json"]) -> None:
    """Send every record to stderr in one form; access lines of the HTTP library are left out."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if form == "json" else _Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("aiohttp.access", "watchfiles"):
        # one line per request, and one per file event: a log that lies in the watched folder would feed itself
        logging.getLogger(noisy).setLevel(logging.WARNING)
