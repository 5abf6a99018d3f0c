"""Writing that is either finished or absent, and the identity of what was written."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from realigner.errors import DiskError

TEMPORARY = ".tmp-"
"""Prefix of everything unfinished. A prefix, so that writers that look at the suffix still see it."""

DESCRIPTION = "README.md"
"""In a directory: words about its content (a model card), not part of it."""

_WHOLE = 64 * 2**20
_SAMPLES, _SAMPLE_BYTES = 32, 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` on success and vanishes on any failure."""
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def writing_directory(path: Path) -> Iterator[Path]:
    """As `writing`, for a directory: yields an empty one. An earlier `path` is kept until the new one is whole."""
    temporary = path.with_name(TEMPORARY + path.name)
    old = path.with_name(f"{TEMPORARY}old-{path.name}")
    remove(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in _files(temporary):
            _sync(file)
        if path.exists():
            path.replace(old)
        temporary.replace(path)
    except BaseException:
        remove(temporary)
        raise
    _sync(path.parent)
    remove(old)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file or a directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of a directory's content; -1 if there is nothing."""
    if not path.exists():
        return -1
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in _content(path))


def hash_of(path: Path) -> str:
    """Return the identity of a file's content, or of a directory's, as `method:hex digits`.

    Up to 64 MiB the whole file is hashed (`sha256`); a larger one by its size and 32 pieces of 1 MiB spread
    evenly from its start to its end (`sampled-sha256`), which takes a fraction of a second at any size.
    """
    if path.is_file():
        return _hash_file(path)
    digest = hashlib.sha256()
    methods = set()
    for file in _content(path):
        method, _, value = _hash_file(file).partition(":")
        methods.add(method)
        digest.update(f"{file.relative_to(path).as_posix()}\0{value}\0".encode())
    return f"{max(methods, default='sha256')}:{digest.hexdigest()}"


def check_room(path: Path, needed: int, what: str) -> None:
    """Refuse to start when the disk that holds `path` has fewer than `needed` bytes free.

    Raises:
        DiskError: with what is needed and what there is.
    """
    free = free_bytes(path)
    if free < needed:
        raise DiskError(
            f"{what} needs about {readable(needed)} at {path}",
            f"only {readable(free)} are free there",
            "Free some room, or choose an `output` on another disk",
        )


def free_bytes(path: Path) -> int:
    """Return the bytes a user may still write on the disk where `path` is or would be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def readable(count: int) -> str:
    """Return a number of bytes for people: `3.2 GiB`."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def is_disk_full(error: BaseException) -> bool:
    """Say whether an error, or one behind it, means that the disk is full.

    Native writers (safetensors, torch) wrap the system's error in a type of their own, without its number.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        if any(sign in str(seen) for sign in ("No space left on device", "StorageFull", "os error 28")):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _hash_file(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        digest = hashlib.sha256(size.to_bytes(8, "big"))
        for index in range(_SAMPLES):
            file.seek((size - _SAMPLE_BYTES) * index // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return f"sampled-sha256:{digest.hexdigest()}"


def _content(directory: Path) -> list[Path]:
    """Return what counts as a directory's content: all but its README.md, which may be written or edited later."""
    return [path for path in _files(directory) if path != directory / DESCRIPTION]


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _sync(path: Path) -> None:
    """Force a file, or a directory's list of names, to the disk: ENOSPC may show only here."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
