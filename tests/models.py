"""A fake model server that speaks OpenAI's protocol, and the path of hermes-agent.

`.ci/run` installs hermes-agent into `.venv-hermes`; HERMES_AGENT_BIN names another place.
"""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERMES = Path(
    os.environ.get("HERMES_AGENT_BIN")
    or Path(__file__).parents[1] / ".venv-hermes" / "bin" / "hermes"
)


class Model:
    """A model server on loopback with a preset answer; it records each question."""

    def __init__(self) -> None:
        self.answer = "hello from the model"
        self.status = 200
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        model = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Print nothing."""

            def do_GET(self) -> None:
                self.reply(b'{"data": []}')

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if "messages" not in body:
                    self.reply(b"{}", status=404)
                    return
                model.asked.append(body)
                model.keys.append(str(self.headers.get("Authorization")))
                model.gate.wait(60)
                if model.status != 200:
                    error = {"error": {"message": "Incorrect API key provided", "code": "bad_key"}}
                    self.reply(json.dumps(error).encode(), status=model.status)
                elif body.get("stream"):
                    self.reply(streamed(model.answer), kind="text/event-stream")
                else:
                    self.reply(whole(model.answer))

            def reply(
                self, content: bytes, *, status: int = 200, kind: str = "application/json"
            ) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def prompt(self) -> str:
        """Return the user's part of the last question."""
        content = [m["content"] for m in self.asked[-1]["messages"] if m["role"] == "user"][-1]
        return content if isinstance(content, str) else str(content)

    def close(self) -> None:
        """Stop the server."""
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


_USAGE = {"prompt_tokens": 700, "completion_tokens": 50, "total_tokens": 750}


def whole(answer: str) -> bytes:
    """Return an answer as one JSON response."""
    message = {"role": "assistant", "content": answer}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps(
        {"id": "x", "object": "chat.completion", "created": 1, "model": "stub",
         "choices": [choice], "usage": _USAGE}
    ).encode()  # fmt: skip


def streamed(answer: str) -> bytes:
    """Return an answer as a stream of events."""
    deltas: list[tuple[dict[str, str], str | None]] = [
        ({"role": "assistant", "content": answer}, None),
        ({}, "stop"),
    ]
    chunks = [
        {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "stub",
         "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
         **({"usage": _USAGE} if reason else {})}
        for delta, reason in deltas
    ]  # fmt: skip
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


def configure(home: Path, model: Model) -> None:
    """Write a config that points the agents of a Hermes home at this model."""
    settings = {"default": "stub-model", "provider": "custom", "base_url": model.url}
    (home / "config.yaml").write_text(
        json.dumps({"model": {**settings, "api_key": "stub-key"}}), encoding="utf-8"
    )
