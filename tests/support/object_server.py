"""An S3 server on this machine (moto's), whose answers can be made to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class ObjectServer:
    """Serves `bucket`; `requests` are those that came, as (method, key).

    A fault is called with (method, key) and returns None to let the request through, else (status, headers, body);
    `cut` tells how many bytes of a good answer to leave out.
    """

    bucket = "bucket"

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_: object) -> None:
                pass

        self._app = DomainDispatcherApplication(create_backend_app)
        self.requests: list[tuple[str, str]] = []
        self.fault: Callable[[str, str], tuple[str, bytes] | None] = lambda method, key: None
        self.cut: Callable[[str, str], bool] = lambda method, key: False
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.endpoint = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.options: dict[str, Any] = {
            "key": "someone",
            "secret": "something",
            "endpoint_url": self.endpoint,
            "config_kwargs": {"retries": {"max_attempts": 1}},
        }

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which clients of S3 find this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path.startswith("/moto-api"):
            return self._app(environ, start_response)
        key = path.removeprefix(f"/{self.bucket}").removeprefix("/")
        self.requests.append((method, key))
        refusal = self.fault(method, key)
        if refusal is not None:
            status, code = refusal
            body = f"<Error><Code>{code}</Code><Message>made up</Message></Error>".encode()
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [] if method == "HEAD" else [body]
        answer = self._app(environ, start_response)
        if self.cut(method, key):
            content = b"".join(answer)
            return [content[: len(content) // 2]]  # of the length that the headers say
        return answer

    def gets(self, ending: str = "") -> list[str]:
        """Keys of the objects that were read, each as often as it was."""
        return [key for method, key in self.requests if method == "GET" and key.endswith(ending) and key]

    def url(self, name: str) -> str:
        return f"s3://{self.bucket}/{name}"

    def files(self) -> Any:
        """An fsspec file system of one's own."""
        import s3fs

        return s3fs.S3FileSystem(**self.options)

    def upload(self, directory: Path, name: str) -> str:
        """Copy a directory recursively, as `aws s3 cp --recursive` does, and return its URL."""
        files = self.files()
        for file in sorted(directory.rglob("*")):
            if file.is_file():
                files.pipe_file(f"{self.bucket}/{name}/{file.relative_to(directory)}", file.read_bytes())
        return self.url(name)

    def reset(self) -> None:
        """Have an empty bucket and no faults."""
        import requests

        self.fault, self.cut = (lambda method, key: None), (lambda method, key: False)
        requests.post(f"{self.endpoint}/moto-api/reset", timeout=30).raise_for_status()
        requests.put(f"{self.endpoint}/{self.bucket}", timeout=30).raise_for_status()
        self.files().invalidate_cache()
        self.requests.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def serving() -> Iterator[ObjectServer]:
    """Serve an empty bucket; skips the test where moto is not installed."""
    for name in ("moto.server", "s3fs", "flask"):
        pytest.importorskip(name, reason="needs moto[server] and s3fs")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # of a server before, where its address is not among the options
    server = ObjectServer()
    try:
        server.reset()
        yield server
    finally:
        server.close()
