"""Downloads that go on where they were broken off, and count only when they are whole.

A download grows in a hidden `.<name>.part` beside its target, with a note of which version of the
file it is. What is there is asked for no second time: `Range` names the rest, and `If-Range` makes the
server begin anew where the file has changed since. Only the whole file, of the size the server says
and the digest that is expected, gets the target's name. One process at a time holds the part: others
wait, and find the file there.

Source: RFC 9110, sections 13.1.5 (If-Range) and 14.2 (Range).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from pipeline.atomic import flush, wait_for
from pipeline.errors import SourceError

_CHUNK = 1 << 20
_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)

Progress = Callable[[int, int | None], None]
"""Told the bytes that are there, and all there will be where that is known."""


@dataclass(frozen=True)
class FetchRules:
    """How patiently files are fetched."""

    attempts: int = 5
    """Tries without a single new byte before a download is given up; at least 1."""
    first_wait_s: float = 1.0
    """Seconds before the second try; doubled before every further one."""
    timeout_s: float = 60.0
    """Seconds a server may be silent."""


class _BrokenOffError(Exception):
    """The connection failed in a way that may pass."""


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str = "",
    check: Callable[[Path], None] = lambda _part: None,
    rules: FetchRules = FetchRules(),
    progress: Progress = lambda _there, _size: None,
) -> int:
    """Size in bytes of the file at `url`, which then lies at `target`, whole.

    Args:
        url: http or https.
        target: where the file goes; its folder is made. What is there is replaced, but for what another
            process fetches meanwhile: that is waited for.
        sha256: digest the file must have, in hex; empty for any.
        check: looks at the whole file before it gets its name, and raises where it will not do.
        rules: how patiently.
        progress: told after every MiB.

    Raises:
        SourceError: the address answers with an error, stays broken, leaves no room on the disk, or
            gives a file of another digest.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with _holding(part, target) as missing:
        if missing:
            _download(url, part, rules, progress)
            _check_digest(url, part, sha256)
            check(part)
            flush(part)
            os.replace(part, target)
            _note(part).unlink(missing_ok=True)
            flush(target.parent)
    return target.stat().st_size


@contextmanager
def _holding(part: Path, target: Path) -> Iterator[bool]:
    """Holds the part, made where there is none; False where it became the target while it was waited for."""
    while True:
        with open(part, "ab") as held:
            wait_for(held.fileno())
            if _is(held, target):
                yield False
                return
            if not _is(held, part):
                continue
            try:
                yield True
            except BaseException:
                if not _size(part):
                    part.unlink(missing_ok=True)
                raise
            return


def _is(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is the one at `path`, and not moved or removed since."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _download(url: str, part: Path, rules: FetchRules, progress: Progress) -> None:
    """Returns when the part is the whole file; tries again as long as each try brings something."""
    while True:
        before = _size(part)
        patience = Retrying(
            stop=stop_after_attempt(rules.attempts),
            wait=wait_exponential(multiplier=rules.first_wait_s, max=60),
            retry=retry_if_exception_type(_BrokenOffError),
            reraise=True,
        )
        try:
            return patience(_go_on, url, part, rules.timeout_s, progress)
        except _BrokenOffError as error:
            if _size(part) <= before:
                raise SourceError(
                    f"the download broke off {rules.attempts} times after {_size(part):,} bytes: {error}",
                    where=url,
                    remedy="Run it again when the connection is better: it goes on where it stopped.",
                ) from error


def _go_on(url: str, part: Path, timeout_s: float, progress: Progress) -> None:
    """Fetches what is missing of the part."""
    there, version = _size(part), _read_version(part)
    headers = {"Range": f"bytes={there}-", "If-Range": version} if there and version else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=timeout_s
        ) as answer:
            _receive(answer, part, url, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing follows the part
            if error.headers.get("Content-Range") == f"bytes */{there}":
                return
            os.truncate(part, 0)
            raise _BrokenOffError("the server's file is not the one that was begun") from error
        if error.code in _TRANSIENT_STATUS:
            raise _BrokenOffError(f"the server answers {error.code} {error.reason}") from error
        raise SourceError(
            f"the server answers {error.code} {error.reason}",
            where=url,
            remedy="Check the address, or fetch the file another way and put it into input/.",
        ) from error
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise _BrokenOffError(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _receive(answer: HTTPResponse, part: Path, url: str, progress: Progress) -> None:
    """Writes an answer behind the part, or in its place where it begins anew."""
    there, size = _place(answer)
    if there not in (0, _size(part)):
        os.truncate(part, 0)
        raise _BrokenOffError("the server sends another part of the file than the one that was asked for")
    _check_room(part, url, size, there)
    if not there:
        _note(part).write_text(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")
    with open(part, "ab" if there else "wb") as file:
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            there += len(chunk)
            progress(there, size)
    if size is not None and there < size:
        raise _BrokenOffError(f"the server closed the connection {size - there:,} bytes early")
    if size is not None and (more := _size(part) - size) > 0:
        os.truncate(part, 0)
        raise _BrokenOffError(f"there are {more:,} bytes more than the server announced")


def _place(answer: HTTPResponse) -> tuple[int, int | None]:
    """Where in the file an answer begins, -1 where it does not say, and the size of the whole if known."""
    length = answer.headers.get("Content-Length")
    if answer.status != 206:
        return 0, int(length) if length else None
    told = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range") or "")
    if not told:
        return -1, None
    return int(told[1]), int(told[2]) + 1 if told[3] == "*" else int(told[3])


def _check_room(part: Path, url: str, size: int | None, there: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if size is not None and size - there > free:
        raise SourceError(
            f"{size - there:,} bytes are still to come, and the disk has room for {free:,}",
            where=part.parent,
            found=url,
            remedy="Make room, or read the image in place: leave it out of input/.",
        )


def _check_digest(url: str, part: Path, sha256: str) -> None:
    if not sha256:
        return
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        os.truncate(part, 0)
        _note(part).unlink(missing_ok=True)
        raise SourceError(
            f"not the file that was expected: its SHA-256 should be {sha256}",
            where=url,
            found=found,
            remedy="Fetch it again; if it stays so, the file or the catalogue has changed.",
        )


def _note(part: Path) -> Path:
    """Beside the part: the version of the file that it is of, an ETag or a date."""
    return part.with_name(f"{part.name}.version")


def _read_version(part: Path) -> str:
    version = _note(part).read_text() if _note(part).exists() else ""
    # A weak ETag promises the same meaning, not the same bytes.
    return "" if version.startswith("W/") else version


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
