"""The registry and the GPUs of this machine as JSON, for readers that must not load what the registry needs.

python -c "from edgecbam.runtimes.survey import main; main()"
"""

import json
import sys
from dataclasses import asdict
from typing import Any

from edgecbam.runtimes import RUNTIMES, gpus


def survey() -> dict[str, Any]:
    """``runtimes``: the entries of the registry, with ``installed`` and ``version``; ``gpus``: what each API lists."""
    return {
        "runtimes": [
            {
                "name": runtime.name,
                "package": runtime.package,
                "extra": runtime.extra,
                "formats": list(runtime.formats),
                "devices": list(runtime.devices),
                "functional": runtime.functional,
                "installed": runtime.installed(),
                "version": runtime.version(),
            }
            for runtime in RUNTIMES.values()
        ],
        "gpus": [asdict(listing) for listing in gpus.listings()],
    }


def main() -> None:
    """Print it."""
    sys.stdout.write(json.dumps(survey()) + "\n")
