"""What is held of every pair at once, in bytes and not in objects: an outcome takes one, an id its letters and four.

A million ids of 16 letters are 20 MB here, and 73 MB as a list of strings.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import pyarrow as pa

from realigner.records import Outcome

_CHUNK = 1000
_NAMES = [str(outcome) for outcome in sorted(Outcome)]
_CODES = {name: code for code, name in enumerate(_NAMES)}
_IS_CONFLICT = np.array([Outcome(name).is_conflict for name in _NAMES])


class _Column(Sequence[str]):
    """Reads like a list of strings, and equals one that holds the same."""

    @abstractmethod
    def _at(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        found = range(len(self))[place]
        return self._at(found) if isinstance(found, int) else [self._at(i) for i in found]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == each for mine, each in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class Outcomes(_Column):
    """The outcomes of many pairs, in their order."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._codes = array("b")
        self.extend(names)

    def extend(self, names: Iterable[str]) -> None:
        """Add the next pairs'."""
        self._codes.extend(names._codes if isinstance(names, Outcomes) else map(_code, names))

    def are(self, name: str) -> np.ndarray:
        """Say of each pair whether this is its outcome."""
        found: np.ndarray = np.asarray(self._codes) == _code(name)
        return found

    def are_conflicts(self) -> np.ndarray:
        """Say of each pair whether it is a conflict."""
        found: np.ndarray = _IS_CONFLICT[np.asarray(self._codes)]
        return found

    def counts(self) -> dict[str, int]:
        """Return the outcomes that occur, by name, and how many pairs have each."""
        found = np.bincount(np.asarray(self._codes), minlength=len(_NAMES)).tolist()
        return {name: count for name, count in zip(_NAMES, found, strict=True) if count}

    def __len__(self) -> int:
        return len(self._codes)

    def __iter__(self) -> Iterator[str]:
        return map(_NAMES.__getitem__, self._codes)

    def _at(self, place: int) -> str:
        return _NAMES[self._codes[place]]


def _code(name: str) -> int:
    found = _CODES.get(name)
    return _CODES[Outcome(name)] if found is None else found  # which refuses an unknown name


class Ids(_Column):
    """The ids of many pairs, in their order."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._closed: list[pa.StringArray] = []
        self._open: list[str] = []
        self.extend(ids)

    def extend(self, ids: Iterable[str]) -> None:
        """Add the next pairs'."""
        for id_ in ids:
            self._open.append(id_)
            if len(self._open) == _CHUNK:
                self._closed.append(pa.array(self._open, type=pa.string()))
                self._open = []

    def __len__(self) -> int:
        return len(self._closed) * _CHUNK + len(self._open)

    def __iter__(self) -> Iterator[str]:
        for chunk in self._closed:
            yield from chunk.to_pylist()
        yield from self._open

    def _at(self, place: int) -> str:
        chunk, inside = divmod(place, _CHUNK)
        return self._open[inside] if chunk == len(self._closed) else str(self._closed[chunk][inside].as_py())
