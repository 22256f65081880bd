"""edgecbam: attention classifiers from training to the phone, with the proof beside the file.

Importing this package loads the standard library alone; every stage imports what it needs when it is called.
"""

from pathlib import Path

__version__ = "0.1.0"

_here = Path(__file__).parent
if not (_here / "export").is_dir():  # a checkout: export/ and benchmarks/ lie beside this folder
    __path__.append(str(_here.parent))
