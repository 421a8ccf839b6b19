"""One training at a time in a folder."""

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
    Take a folder for this process, and give it back at the end of the block.

    The kernel gives the folder back when the process ends, whatever ends it. On a file system that several machines
    share this works as far as its `flock` does: NFS from version 4 on, Lustre with the mount option `flock`.

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
