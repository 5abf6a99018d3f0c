"""The synthetic run that the tests of the report share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from report_run import write_run

from realigner.report import plots, render_report


class Blank:
    """Axes that take everything and draw nothing."""

    markup = ""

    def __getattr__(self, name: str) -> Blank:
        return self

    def __getitem__(self, name: str) -> Blank:
        return self

    def __call__(self, *_: object, **__: object) -> Blank:
        return self


@contextmanager
def nothing(*_: object, **__: object) -> Iterator[Blank]:
    """Take the place of `plots.drawing`."""
    yield Blank()


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing: for tests whose claim is not about pictures, which take most of the time."""
    monkeypatch.setattr(plots, "drawing", nothing)


@pytest.fixture(scope="session")
def plain_page(run_dir: Path) -> str:
    """The page of the finished run without its pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "drawing", nothing)
        return render_report(run_dir)


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that improved. Tests that change it copy it first."""
    return write_run(tmp_path_factory.mktemp("runs") / "clinic")
