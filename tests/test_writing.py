"""What is said when a file cannot be written."""

import errno

import pytest

from opefo_trl.writing import how_to_write


def raised_from(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "free some space"),
        (OSError(errno.EFBIG, "File too large"), "free some space"),
        (PermissionError(errno.EACCES, "Permission denied"), "make the folder writable"),
        (OSError(errno.EROFS, "Read-only file system"), "make the folder writable"),
        # as safetensors and torch say it
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "free some space"),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0: file write"), "free some space"),
        (RuntimeError("basic_ios::clear: iostream error"), "free some space"),
        (raised_from(RuntimeError("save failed"), OSError(errno.ENOSPC, "No space left")), "free some space"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), None),
        (ConnectionRefusedError(errno.EACCES, "refused"), None),
        (ConnectionError("hub unreachable"), None),
        (RuntimeError("Connection reset (os error 104)"), None),
        (KeyError("optimizer"), None),
    ],
    ids=str,
)
def test_how_to_write(error, advice):
    assert how_to_write(error) == advice
