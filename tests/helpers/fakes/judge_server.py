"""A scripted OpenAI-compatible server on loopback: each call takes the next action, or the default one.

Actions are made by the functions below (`ok`, `status`, `delay`, `reset`, `html`, ...). Every request is recorded with its time,
headers and body.
"""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

Action = Callable[[Request, dict[str, Any]], Response]


def completion(content: Any, *, finish: str = "stop", refusal: str | None = None, choices: Any = ...) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "refusal": refusal}
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }
    if choices is not ...:
        body["choices"] = choices
    return body


def ok(content: Any = "It does.\nRating: [[2]]", **more: Any) -> Action:
    return lambda request, body: Response(json.dumps(completion(content, **more)), content_type="application/json")


def status(code: int, message: str = "no", *, error_code: str = "", headers: dict[str, str] | None = None) -> Action:
    text = json.dumps({"error": {"message": message, "type": error_code or "error", "code": error_code or None}})
    return lambda request, body: Response(text, status=code, headers=headers, content_type="application/json")


def raw(text: str, content_type: str = "application/json") -> Action:
    return lambda request, body: Response(text, content_type=content_type)


def html() -> Action:
    return raw("<html><body>It works! Rating: [[2]]</body></html>", "text/html")


def delay(seconds: float, then: Action) -> Action:
    def act(request: Request, body: dict[str, Any]) -> Response:
        time.sleep(seconds)
        return then(request, body)

    return act


def reset() -> Action:
    """Close the connection without a word."""

    def act(request: Request, body: dict[str, Any]) -> Response:
        connection = request.environ["werkzeug.socket"]
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        return Response("")

    return act


def kill(pid: int) -> Action:
    """SIGKILL one process and answer nobody."""

    def act(request: Request, body: dict[str, Any]) -> Response:
        os.kill(pid, signal.SIGKILL)
        return Response("")

    return act


def echo_key(request: Request, body: dict[str, Any]) -> Response:
    """Refuse, and say the key: what OpenAI's own 401 does."""
    key = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return status(401, f"Incorrect API key provided: {key}.")(request, body)


@dataclass(frozen=True)
class Call:
    time: float
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][-1]["content"])


@dataclass
class JudgeServer:
    server: HTTPServer
    default: Action = field(default_factory=ok)
    script: list[Action] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    most_in_flight: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight = 0
        self.server.expect_request("/v1/chat/completions", method="POST").respond_with_handler(self._respond)

    @property
    def base_url(self) -> str:
        return self.server.url_for("/v1")

    def then(self, *actions: Action) -> None:
        self.script.extend(actions)

    def gaps(self) -> list[float]:
        """Seconds between one call and the next."""
        times = [call.time for call in self.calls]
        return [later - earlier for earlier, later in pairwise(times)]

    def _respond(self, request: Request) -> Response:
        body = json.loads(request.get_data() or b"{}")
        with self._lock:
            self.calls.append(Call(time.monotonic(), dict(request.headers), body))
            action = self.script.pop(0) if self.script else self.default
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            return action(request, body)
        finally:
            with self._lock:
                self._in_flight -= 1


def every(n: int, special: Action, otherwise: Action) -> Action:
    """`special` for each n-th call."""
    count = iter(range(1, 1_000_000))
    lock = threading.Lock()

    def act(request: Request, body: dict[str, Any]) -> Response:
        with lock:
            special_now = next(count) % n == 0
        return (special if special_now else otherwise)(request, body)

    return act


def by_prompt(rules: Iterable[tuple[str, Action]], otherwise: Action) -> Action:
    """The action of the first rule whose text stands in the prompt."""
    rules = list(rules)

    def act(request: Request, body: dict[str, Any]) -> Response:
        prompt = body["messages"][-1]["content"]
        return next((action for text, action in rules if text in prompt), otherwise)(request, body)

    return act
