"""Allows one training at a time in a folder."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


LOCK_FILE = ".lock"


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """
    Lock a folder for this process until the end of the block.

    The kernel releases the lock when the process ends, even if it is killed. On a file system that several machines
    share, the lock needs `flock` there: NFS 4 or later, or Lustre mounted with the option `flock`.

    Args:
        folder (`Path`):
            Existing folder.

    Raises:
        `ValueError`: if another process holds the folder.
    """
    with (folder / LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "Another process"
            raise ValueError(
                f"{holder} is training in `output_dir` {folder}: wait until it ends, or set another `output_dir`."
            ) from None
        file.truncate(0)
        file.write(f"Process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
