"""Error messages for files that cannot be written and servers that do not answer."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from .guards import RunStopped


# A disk that is full or over its quota, and a file that is larger than a limit allows
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TORCH_WRITER = ("PytorchStreamWriter failed", "iostream error")
NOT_WRITABLE = {errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR}


def how_to_write(error: BaseException | None) -> str | None:
    """
    Advice for an exception that reports, itself or through its cause, that a file could not be written. `None` for any
    other exception.

    Libraries in Rust and C++ do not raise `OSError`: safetensors puts the error number into its message, and torch's
    writer gives none.
    """
    if is_from_network(error):
        return None
    while error is not None:
        in_message = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else int(in_message[1]) if in_message else None
        if number in FULL or any(message in str(error) for message in TORCH_WRITER):
            return "free some space"
        if number in NOT_WRITABLE:
            return "make the folder writable"
        error = error.__cause__ or error.__context__
    return None


NETWORK_PACKAGES = ("huggingface_hub", "requests", "httpx", "urllib3")


def is_from_network(error: BaseException | None) -> bool:
    """Whether an exception, or one of its causes, comes from a server that does not answer."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith(NETWORK_PACKAGES):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def writing(failure: str, consequence: str) -> Iterator[None]:
    """Turn exceptions for which [`how_to_write`] has advice into a [`RunStopped`]. Others pass unchanged."""
    try:
        yield
    except Exception as error:
        if (advice := how_to_write(error)) is None:
            raise
        raise RunStopped(f"{failure} ({error}): {advice}{consequence}") from error
