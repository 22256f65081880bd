"""How a stage tells what it is doing: it emits events, and the command line (or nobody) shows them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    """One sign of life of a stage.

    Attributes:
        stage: name of the stage, such as ``"train"``.
        message: a line worth keeping; empty for a mere step of progress.
        step: how many of ``total`` are done.
        total: how many there are in all; 0 where unknown.
        unit: what is counted, such as ``"image"``.
        figures: values to show beside the bar, such as ``{"loss": 0.41}``.
    """

    stage: str
    message: str = ""
    step: int = 0
    total: int = 0
    unit: str = "step"
    figures: Mapping[str, float] = field(default_factory=dict)


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing: the default of every function that takes ``on_event``."""
