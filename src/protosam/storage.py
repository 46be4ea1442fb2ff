"""Writing files so that a reader sees the old one or the new one, never half of one.

Rules
-----
* A file is written beside its target under a temporary name, flushed to the disk and then renamed.
* Whatever the system refuses becomes a `StorageFailure` with a next step; the old file stays.
* It knows paths only, nothing of what is written.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protosam.errors import StorageFailure

_NEXT_STEPS = {
    errno.ENOSPC: "Free some space or choose another disk, then save again.",
    errno.EDQUOT: "Free some of your quota or choose another disk, then save again.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.EROFS: "Choose a folder that you may write to.",
    errno.ENOENT: "Make the folder first, or choose one that exists.",
    errno.ENOTDIR: "Choose a folder, not a file, to write into.",
    errno.EISDIR: "Choose a file name that is not a folder's.",
    errno.ENAMETOOLONG: "Choose a shorter file name.",
}


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Temporary path beside the target, renamed to it when the block ends without an error.

    The temporary name ends like the target's, so that writers which choose a format by the name
    choose the same one. After an error the temporary file is gone and the target is as it was.

    Parameters
    ----------
    target : Path
        The file to write; its folder must exist.

    Yields
    ------
    Path
        An empty file to be overwritten.

    Raises
    ------
    StorageFailure
        No space, no permission, no such folder, or any other refusal of the system.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=".", suffix=f".{target.name}", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _flush(temporary)
        temporary.chmod(_mode_for(target))
        temporary.replace(target)
    except OSError as error:
        raise storage_failure(target, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def storage_failure(target: Path, error: OSError) -> StorageFailure:
    """Error for a file that the system refused to write, in words a user can act on."""
    reason = error.strerror or str(error) or type(error).__name__
    return StorageFailure(
        f"{target} was not written: {reason}.",
        _NEXT_STEPS.get(error.errno or 0, "Choose another folder, then save again."),
    )


def _flush(path: Path) -> None:
    # Some file systems take the bytes and find out only here that there is no room for them.
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _mode_for(target: Path) -> int:
    """Permissions of the file to be replaced, or those that a new file would get."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
