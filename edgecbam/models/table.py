"""The table of networks in docs/models.md: ``python -m edgecbam.models.table docs/models.md`` renews it.

A row for the default recipe and one for each shipped recipe of another family: the network as built, at the recipe's
image size and with as many outputs as its data set has classes. The table stands between two comment lines, so that a
test can compare it with the code.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecbam import artifacts, recipe
from edgecbam.recipe import Recipe

from .cost import Cost
from .families import build

BEGIN = "<!-- begin of the table made by edgecbam.models.table -->"
END = "<!-- end of the table -->"
CLASSES = {"imagenet": 1000}  # any other data set of the recipes has ten, or is the user's own


def network(chosen: Recipe) -> Any:
    """The network of a recipe at its native size; 28x28x1 where the recipe leaves the size to the data."""
    data = chosen.data
    shape = (data.height or 28, data.width or 28, data.channels or 1)
    return build(chosen.model, shape, CLASSES.get(data.source, 10))


def networks() -> dict[str, Any]:
    """The networks that the table shows, by the names of their recipes."""
    shipped = {name: recipe.load(name) for name in recipe.shipped()}
    usual = shipped[recipe.DEFAULT_RECIPE].model.family
    return {
        name: network(chosen)
        for name, chosen in shipped.items()
        if name == recipe.DEFAULT_RECIPE or chosen.model.family != usual
    }


def trainable(layers: list[Any]) -> int:
    """Number of trainable parameters of the layers."""
    return sum(int(weight.shape.num_elements()) for layer in layers for weight in layer.trainable_weights)


def row(name: str, model: Any) -> str:
    """One line: recipe, family, input, outputs, trainable parameters, attention's share of them, MACs in millions."""
    attention = trainable([layer for layer in model.layers if "attention" in layer.name])
    size = "x".join(map(str, model.input_shape[1:]))
    return (
        f"| `{name}` | `{model.name}` | {size} | {model.output_shape[-1]} | {trainable(model.layers):,} | "
        f"{attention:,} | {Cost.of(model).macs / 1e6:,.1f} |"
    )


def block(shown: Mapping[str, Any]) -> str:
    """The table of networks, given by the names of their recipes, with its two comment lines."""
    head = [
        "| recipe | family | input | outputs | trainable parameters | of them attention | million MACs |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    return "\n".join([BEGIN, *head, *(row(name, model) for name, model in shown.items()), END])


def renew(document: str, table: str) -> str:
    """A document with the table between its comment lines; raises ValueError where it has no such lines."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document lacks the lines {BEGIN} and {END}")
    return head + table + tail


if __name__ == "__main__":
    path = Path(sys.argv[1])
    artifacts.write_whole(path, renew(path.read_text("utf-8"), block(networks())))
