"""The int8 model for microcontrollers: as a C array, and what tflite-micro says of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgecbam import runtimes
from edgecbam.errors import EnvironmentFailure

BYTES_A_LINE = 20


def header(content: bytes, name: str, about: str) -> Iterator[str]:
    """The lines of a header for C and C++ that holds a file as the array ``name``, aligned as tflite-micro wants it."""
    guard = f"{name.upper()}_H"
    yield f"/* {about.replace('*/', '* /')} */"
    yield f"#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n"
    yield "#ifdef __cplusplus\nalignas(16)\n#else\n_Alignas(16)\n#endif"
    yield f"static const uint8_t {name}[{len(content)}] = {{"
    for start in range(0, len(content), BYTES_A_LINE):
        yield f"{','.join(map(str, content[start : start + BYTES_A_LINE]))},"
    yield f"}};\n\n#endif /* {guard} */"


def arena(path: Path) -> dict[str, Any]:
    """What tflite-micro's interpreter takes of its arena on this machine, or why that is not known.

    Returns:
        ``arena_bytes``, None with a ``reason`` where tflite-micro cannot run the file or is not installed.
    """
    runtime = runtimes.find("tflite_micro")
    if not runtime.installed():
        return {"arena_bytes": None, "reason": "tflite-micro is not installed: pip install 'edgecbam[micro]'"}
    try:
        session = runtime.open(path, threads=1)
    except EnvironmentFailure as error:  # among them CannotRun, which names the op that it lacks
        return {"arena_bytes": None, "reason": str(error)}
    try:
        return {"arena_bytes": session.placement()["arena_bytes"], "reason": None}
    finally:
        session.close()
