"""Bringing inputs into a workspace under the names by which they find each other.

An image, its labels and its labelled area share a stem. Nothing is copied unless asked: files may be
many gigabytes, so links are made, to the files that belong to them (world files, masks, .dbf) too.
"""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

from pipeline.errors import SettingsError, SourceError
from pipeline.inputs import IMAGE_SUFFIXES, LABEL_SUFFIXES, named, sidecars
from pipeline.names import check_image_id, is_name
from pipeline.targets import Workspace


def add_input(
    workspace: Workspace,
    image: Path,
    labels: Path | None = None,
    area: Path | None = None,
    *,
    split: str | None = None,
    name: str | None = None,
    copy: bool = False,
) -> str:
    """Image id under which an image, and what is known of it, now lie in a workspace.

    Adding the same files again changes nothing.

    Args:
        workspace: which gets `input/<split>/{images,labels,areas}`.
        image: raster file.
        labels: vector file with the buildings drawn on the image; None where there are none.
        area: vector file with the ground on which the labels are complete; None for all of it.
        split: folder of `input`; None: where the image lies already, else `training` for an image with
            labels, `test` for one without.
        name: image id; None: the stem of the image's file.
        copy: copies the files instead of linking them.

    Raises:
        SourceError: a file is missing, of no known kind, or another one has its name; nothing is added then.
        SettingsError: the name is not an image id, the split is no folder's name, a link in its place leads
            out of the workspace, or its image lies in another split.
    """
    image_id = input_id(workspace, image, name)
    present = workspace.find_image(image_id)
    lies = present.parents[1].name if present else None
    if lies and split and split != lies:
        raise SettingsError(
            f"this image lies in input/{lies}",
            where="--split",
            found=split,
            remedy=f"Move it, and what belongs to it, to input/{split} first, or leave --split out.",
        )
    split = split or lies or ("training" if labels else "test")
    if not is_name(split):
        raise SettingsError(
            "not the name of a folder", where="--split", found=split, remedy="Letters, digits, . _ -"
        )
    given = {"images": None if present else image, "labels": labels, "areas": area}
    parts: dict[Path, Path] = {}
    for kind, path in given.items():
        if path is not None:
            folder = workspace.check_inside(workspace.root / "input" / split / kind)
            parts |= _parts(path, folder, image_id, IMAGE_SUFFIXES if kind == "images" else LABEL_SUFFIXES)
    with ExitStack() as undo:
        for target, part in parts.items():
            undo.callback(target.unlink, missing_ok=True)
            _bring(part, target, copy)
        undo.pop_all()
    return image_id


def input_id(workspace: Workspace, image: Path, name: str | None = None) -> str:
    """Image id that `add_input` gives an image; nothing is changed.

    Raises:
        SourceError: the file is missing, of no known kind, or another image has its name.
        SettingsError: the name is not an image id.
    """
    image_id = _image_id(image, name)
    present = workspace.find_image(image_id)
    if present and not _same(present, image):
        raise SourceError(
            "another image has this name already",
            where=present,
            found=str(image),
            remedy="Give this one another with --name.",
        )
    check_file(image, IMAGE_SUFFIXES)
    return image_id


def _image_id(image: Path, name: str | None) -> str:
    try:
        return check_image_id(name or image.stem)
    except SettingsError as error:
        remedy = "Give a name of letters, digits, . _ - with --name."
        raise SettingsError(error.what, where=image, found=name or image.stem, remedy=remedy) from error


def check_file(path: Path, suffixes: tuple[str, ...]) -> None:
    """Nothing, where there is a file of one of these kinds.

    Raises:
        SourceError: there is none, or one of another kind.
    """
    if not path.is_file():
        what = "a folder, not a file" if path.is_dir() else "no such file"
        raise SourceError(what, where=path, remedy="Check its path.")
    if path.suffix.lower() not in suffixes:
        raise SourceError(
            "not a kind of file that is looked for here",
            where=path,
            found=path.suffix,
            remedy=f"Save it as one of {', '.join(suffixes)}.",
        )


def _parts(path: Path, folder: Path, stem: str, suffixes: tuple[str, ...]) -> dict[Path, Path]:
    """A file and its sidecars by what they are called in a folder under another stem; none if they are there.

    Raises:
        SourceError: it is missing, of no known kind, or another one has its name.
    """
    check_file(path, suffixes)
    taken = named(folder, stem, suffixes) if folder.is_dir() else []
    if any(not _same(there, path) for there in taken):
        raise SourceError(
            "another file has this name already",
            where=taken[0],
            found=str(path),
            remedy="Remove that one first, or give the image another name with --name.",
        )
    parts = () if taken else (path, *sidecars(path))
    return {folder / (stem + part.name[len(path.stem) :]): part for part in parts}


def _bring(part: Path, target: Path, copy: bool) -> None:
    """Links or copies a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if copy:
        shutil.copy2(part, target)
    else:
        target.symlink_to(os.path.relpath(part.resolve(), target.parent.resolve()))


def _same(there: Path, path: Path) -> bool:
    """Whether a file of the workspace is that file, or a copy of it as it is now."""
    if not path.is_file():
        return False
    one, other = there.stat(), path.stat()
    alike = (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)
    return os.path.samestat(one, other) or alike
