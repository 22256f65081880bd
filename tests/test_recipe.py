"""A recipe survives its TOML text exactly, and whatever it cannot mean is refused with the way to mend it."""

import dataclasses
import math
import typing
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecbam import recipe
from edgecbam.errors import InputError
from edgecbam.recipe import Recipe


def values(hint: Any, bounds: Any) -> st.SearchStrategy[Any]:
    """Whatever the type hint and the bounds of a field allow."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return configs(typing.cast(type, hint))
    if origin is Literal:
        return st.sampled_from(typing.get_args(hint))
    if origin is tuple:
        return st.lists(values(typing.get_args(hint)[0], bounds), max_size=4).map(tuple)
    if hint is bool:
        return st.booleans()
    if hint is str:
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    low, high = bounds.get("low", -math.inf), bounds.get("high", math.inf)
    if hint is float:
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    return st.integers(None if low == -math.inf else math.ceil(low), None if high == math.inf else math.floor(high))


def configs(cls: type) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{f.name: values(hints[f.name], f.metadata) for f in dataclasses.fields(cls)})


def consistent(drawn: Recipe) -> Recipe:
    """The drawn recipe with the three conditions that tie several values together, and a name for a folder."""
    widths = drawn.model.widths or (8,)
    blocks = (drawn.model.blocks * len(widths) or (1,) * len(widths))[: len(widths)]
    kernel = drawn.model.spatial_kernel | 1
    model = dataclasses.replace(drawn.model, widths=widths, blocks=blocks, spatial_kernel=kernel)
    benchmark = dataclasses.replace(drawn.benchmark, runtimes=drawn.benchmark.runtimes or ("litert",))
    name = "".join(character for character in drawn.name if character.isalnum()) or "custom"
    return dataclasses.replace(drawn, name=name, model=model, benchmark=benchmark)


recipes = configs(Recipe).map(consistent)


@settings(max_examples=60, deadline=None)
@given(recipes)
def test_every_recipe_survives_its_toml_text(drawn: Recipe) -> None:
    assert recipe.from_toml(recipe.to_toml(drawn)) == drawn


@settings(max_examples=30, deadline=None)
@given(recipes, recipes)
def test_digests_are_equal_exactly_for_equal_recipes(one: Recipe, other: Recipe) -> None:
    assert recipe.from_toml(recipe.to_toml(one)).digest() == one.digest()
    assert (one == other) == (one.digest() == other.digest())
    assert (one.model == other.model) == (one.digest("model") == other.digest("model"))


def test_every_shipped_recipe_loads_and_bears_its_own_name() -> None:
    assert recipe.DEFAULT_RECIPE in recipe.shipped()
    for name in recipe.shipped():
        assert recipe.load(name).name == name


def test_a_partial_file_takes_the_defaults_for_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[train]\nepochs = 3\nlearning_rate = 1\n')
    loaded = recipe.load(str(path))
    assert loaded == dataclasses.replace(
        Recipe(), name="mine", train=dataclasses.replace(Recipe().train, epochs=3, learning_rate=1.0)
    )
    assert isinstance(loaded.train.learning_rate, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trian]\nepochs = 3", "unknown key trian: did you mean train"),
        ("[train]\nepoch = 3", "unknown key train.epoch: did you mean train.epochs"),
        ("[train]\noptimizer = 'adamm'", "'adamm' is not known: did you mean adam"),
        ("[train]\noptimizer = 7", "train.optimizer = 7 is not known"),
        ("[train]\nepochs = 0", "train.epochs must lie between 1 and 100000, got 0"),
        ("[train]\nepochs = 2.0", "train.epochs must be of type int, got 2.0"),
        ("[train]\nepochs = '2'", "train.epochs must be of type int, got '2'"),
        ("[train]\nepochs = true", "train.epochs must be of type int, got True"),
        ("[train]\nlearning_rate = true", "train.learning_rate must be of type float, got True"),
        ("[train]\nlearning_rate = nan", "train.learning_rate must lie between"),
        ("[train]\nlearning_rate = inf", "train.learning_rate must lie between"),
        ("[train]\nlearning_rate = -inf", "train.learning_rate must lie between"),
        (f"[train]\nlearning_rate = 1{'0' * 400}", "train.learning_rate is too large"),
        (f"[train]\nepochs = {'1' * 5000}", "is not valid TOML"),
        ("[train]\nstaircase = 1", "train.staircase must be of type bool, got 1"),
        ("[data]\nmean = [128, nan]", "data.mean must lie between"),
        ("[data]\nmean = 128", "data.mean must be a list, got 128"),
        ("[data]\nstd = [0]", "data.std must lie between"),
        ("[data]\nsource = 5", "data.source must be of type str, got 5"),
        ("[model]\nwidths = [16, 32]\nblocks = [1]", "give one number of blocks for each width"),
        ("[model]\nspatial_kernel = 4", "model.spatial_kernel must be odd, got 4"),
        ("[benchmark]\nruntimes = []", "benchmark.runtimes is empty"),
        ("[export]\nonnx_opset = 19", "export.onnx_opset must lie between 13 and 18"),
        ("train = 3", "train must be a section, got 3"),
        ("[train\nepochs = 3", "is not valid TOML"),
        (f"a = {'[' * 100_000}", "is not valid TOML"),
    ],
)
def test_what_a_recipe_cannot_mean_is_refused_on_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        recipe.from_toml(text, "mine.toml")
    assert message in str(refused.value)
    assert str(refused.value).startswith("mine.toml")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("fashion_cbm", "did you mean fashion_cbam"), ("zzz", "known are "), ("x" * 5000, "no recipe")],
)
def test_an_unknown_recipe_is_refused_with_the_nearest_name(name: str, message: str) -> None:
    with pytest.raises(InputError, match="or give a TOML file") as refused:
        recipe.load(name)
    assert message in str(refused.value)


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read the recipe"):
        recipe.load(str(path))


@pytest.mark.parametrize(
    ("assignment", "section", "key", "value"),
    [
        ("train.epochs=5", "train", "epochs", 5),
        (" train.epochs = 5 ", "train", "epochs", 5),
        ("train.optimizer=adam", "train", "optimizer", "adam"),
        ('train.optimizer="adam"', "train", "optimizer", "adam"),
        ("train.learning_rate=1e-3", "train", "learning_rate", 1e-3),
        ("model.widths=[8, 16, 24]", "model", "widths", (8, 16, 24)),
        ("data.skip_bad=true", "data", "skip_bad", True),
        ("data.source=/a b/c=d", "data", "source", "/a b/c=d"),
    ],
)
def test_set_changes_one_value_and_leaves_the_rest(assignment: str, section: str, key: str, value: object) -> None:
    default = recipe.load(recipe.DEFAULT_RECIPE)
    expected = dataclasses.replace(default, **{section: dataclasses.replace(getattr(default, section), **{key: value})})
    assert recipe.load(recipe.DEFAULT_RECIPE, (assignment,)) == expected
    assert recipe.override(default, (assignment,)) == expected


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epochs", "is not of the form section.key=value"),
        ("=5", "is not of the form section.key=value"),
        ("train.epoch=5", "did you mean train.epochs"),
        ("train.epochs=five", "train.epochs must be of type int, got 'five'"),
        ("train=5", "train must be a section"),
        ("name.x=5", "name is a value, not a section"),
        ("train.epochs=nan", "train.epochs must be of type int, got nan"),
        ("train.momentum=nan", "train.momentum must lie between"),
    ],
)
def test_a_bad_set_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        recipe.load(recipe.DEFAULT_RECIPE, (assignment,))
    assert message in str(refused.value)


def test_the_last_of_two_assignments_wins() -> None:
    assert recipe.load(recipe.DEFAULT_RECIPE, ("train.epochs=5", "train.epochs=6")).train.epochs == 6


def test_a_digest_of_sections_ignores_the_others() -> None:
    one = recipe.load(recipe.DEFAULT_RECIPE)
    other = recipe.override(one, ("benchmark.threads=2",))
    assert one.digest("data", "model", "train") == other.digest("data", "model", "train")
    assert one.digest() != other.digest()


@pytest.mark.parametrize(
    "name",
    ["", " x", "x ", ".x", "..", "a/b", "../x", "/x", "a\\b", "C:x", "a\0b", "a\nb", "\x1b[31m", "\u202ex", "x" * 101],
)
def test_a_name_that_no_folder_should_have_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"name = .* must do as the name of a folder") as refused:
        recipe.from_table({"name": name})
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["x", "my_photos-2", "Fotos von Ödön", "猫", "x" * 100, "a.b"])
def test_other_names_are_taken(name: str) -> None:
    assert recipe.from_table({"name": name}).name == name
