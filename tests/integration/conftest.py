"""A real OpenAI-compatible server that serves a real model, for every test here that needs one."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


@pytest.fixture(scope="session")
def story_model(shared_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the story model with a chat template, which a server of chats needs."""
    folder = tmp_path_factory.mktemp("served") / "stories260k"
    shutil.copytree(shared_path / "models" / "stories260k", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    return folder


@pytest.fixture(scope="session")
def story_server(story_model: Path) -> Iterator[str]:
    """The base URL of `transformers serve` with the story model."""
    pytest.importorskip("fastapi")
    pytest.importorskip("openai")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["serve", str(story_model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    transformers = Path(sys.executable).with_name("transformers")
    log = (story_model.parent / "serve.log").open("wb")
    process = subprocess.Popen([str(transformers), *command], stdout=log, stderr=log)
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail("the server did not come up")
