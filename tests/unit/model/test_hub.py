"""A name on the hub is asked for once, and refused with what the hub said."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

from realigner.errors import ModelError
from realigner.model.hub import refuse_unreachable
from realigner.recipe import ModelSettings

ANSWERS = {
    "some/model": (200, {"X-Repo-Commit": "0" * 40, "ETag": '"a"'}),
    "busy/model": (503, {}),
    "some/secret": (403, {"X-Error-Code": "GatedRepo"}),
}


class Hub(BaseHTTPRequestHandler):
    """Knows three models."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        name, _, _ = self.path.lstrip("/").partition("/resolve/")
        status, headers = ANSWERS.get(name, (404, {"X-Error-Code": "RepoNotFound"}))
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """A hub on this machine in the place of the real one; the paths that were asked for."""
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    _point_at(monkeypatch, server.server_address[1], tmp_path)
    yield Hub.asked
    server.shutdown()
    thread.join()
    server.server_close()


def _point_at(monkeypatch: pytest.MonkeyPatch, port: int, cache: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    template = f"http://127.0.0.1:{port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_a_model_that_the_hub_has_is_asked_for_once_at_its_revision(asked: list[str]) -> None:
    refuse_unreachable(ModelSettings(path="some/model", revision="v2"))
    assert asked == ["/some/model/resolve/v2/config.json"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nobody/nothing", "the hub does not give it (RepositoryNotFoundError"),
        ("some/secret", "the hub does not give it (GatedRepoError"),
        ("busy/model", "the hub does not give it (HfHubHTTPError"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_after_one_question(name: str, reason: str, asked: list[str]) -> None:
    with pytest.raises(ModelError) as error:
        refuse_unreachable(ModelSettings(path=name))
    assert str(error.value).startswith(f"model.path = '{name}': it is no directory here and not in the cache, and ")
    assert reason in error.value.rule
    assert error.value.remedy.startswith("Correct the path or the name")
    assert len(asked) == 1


def test_a_hub_that_is_not_there_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The network is asked again with pauses of 1 to 8 s where it is asked again; nothing here waits."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    _point_at(monkeypatch, 1, tmp_path)
    with pytest.raises(ModelError, match=r"model.path = 'some/model': .*the hub cannot be asked for it \(ConnectError"):
        refuse_unreachable(ModelSettings(path="some/model"))
    assert pauses == []


@pytest.mark.parametrize("name", ["../models/absent", "a/b/c"])
def test_what_can_be_no_name_is_refused_without_asking(name: str, asked: list[str]) -> None:
    with pytest.raises(ModelError, match="the hub cannot be asked for it"):
        refuse_unreachable(ModelSettings(path=name))
    assert asked == []


def test_what_lies_here_is_not_asked_for(asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "models--some--kept"
    (cached / "snapshots" / ("1" * 40)).mkdir(parents=True)
    (cached / "snapshots" / ("1" * 40) / "config.json").touch()
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("1" * 40)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    for path in (str(tmp_path), str(tmp_path / "missing"), "some/kept"):
        refuse_unreachable(ModelSettings(path=path))
    assert asked == []
