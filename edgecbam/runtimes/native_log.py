"""What native libraries say on standard error: the only place where some of them tell which adapter they chose."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


class NativeLog:
    """``text`` is there once the block has ended."""

    text: str = ""

    def lines(self) -> list[str]:
        """The lines that hold something, stripped."""
        return [line.strip() for line in self.text.splitlines() if line.strip()]


@contextlib.contextmanager
def captured() -> Iterator[NativeLog]:
    """Collect what is written to file descriptor 2 inside the block; it goes on to where it would have gone after it.

    What a process writes that dies inside the block is lost.
    """
    log = NativeLog()
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield log
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            content = file.read()
            log.text = content.decode("utf-8", "replace")
            with contextlib.suppress(OSError), os.fdopen(os.dup(2), "wb") as error:
                error.write(content)
