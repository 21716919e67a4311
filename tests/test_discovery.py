"""Objects that other packages add by entry points, and plug-ins that cannot be used."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from orca_ray.alignment.registry import distance_names, get_distance, get_source
from orca_ray.discovery import GROUPS, origin
from orca_ray.errors import UserError
from orca_ray.leaderboard.statistics import get_statistic
from orca_ray.methods.registry import all_methods, expand, get_method
from orca_ray.models.family import all_families, family_of
from orca_ray.tasks.metrics import get_metric
from orca_ray.tasks.registry import all_tasks, get_benchmark, get_task
from tests.plug_in_packages import EXAMPLE, installed, write_package

RECIPE = """
from orca_ray.methods.recipe import Recipe
def recipe(name): return Recipe(name=name, title="t", reference="nobody")
FIRST, SECOND, ORCA = recipe("first"), recipe("second"), recipe("orca")
BOTH, MIXED = (FIRST, SECOND), [FIRST, "second"]
"""


def example_module(module: str) -> dict[str, str]:
    """Return the text of a module of the example package by its name."""
    return {module: (EXAMPLE / "orca_ray_example" / f"{module}.py").read_text()}


def methods(**entries: str) -> Mapping[str, Mapping[str, str]]:
    return {
        "orca_ray.methods": {
            name: f"recipes_of_others:{value}" for name, value in entries.items()
        }
    }


def test_an_object_or_a_tuple_of_them(tmp_path: Path) -> None:
    shipped = list(all_methods())
    write_package(tmp_path, "others", methods(both="BOTH"), recipes_of_others=RECIPE)
    with installed(tmp_path):
        assert list(all_methods()) == [*shipped, "first", "second"]
        assert get_method("second").title == "t"
        assert expand(["field"])[-2:] == ["first", "second"]
        assert origin("method", "first") == "others 1.0"
        assert origin("method", "orca") == ""
    assert list(all_methods()) == shipped


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("ABSENT", r"cannot be imported \(AttributeError: .*'ABSENT'\)"),
        ("FIRST.title", "must be a Recipe, or a tuple of them, but it gives str"),
        ("MIXED", "must be a Recipe, or a tuple of them, but it gives str"),
    ],
)
def test_one_that_cannot_be_used_breaks_nothing_else(
    value: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_package(
        tmp_path, "bad", methods(broken=value, first="FIRST"), recipes_of_others=RECIPE
    )
    where = (
        rf"the entry point 'broken = recipes_of_others:{value}' in orca_ray.methods of"
        r" the package bad 1.0 "
    )
    with installed(tmp_path):
        assert (get_method("orca").name, get_method("first").name) == ("orca", "first")
        with pytest.raises(
            UserError, match=rf"^{where}{reason}: update or uninstall bad$"
        ):
            get_method("broken")
        with pytest.raises(
            UserError,
            match=(
                rf"unknown method 'ocra'\. Did you mean 'orca'\? .* Left out: {where}"
            ),
        ):
            get_method("ocra")
        with pytest.raises(UserError, match=where):
            expand(["orca", "broken"])
    assert [
        record.levelname for record in caplog.records if "left out" in record.message
    ] == ["WARNING"]


@pytest.mark.parametrize(
    "text", ["import absent_package", "raise SystemExit(0)", "1 +"]
)
def test_a_module_that_fails(text: str, tmp_path: Path) -> None:
    write_package(
        tmp_path,
        "bad",
        {GROUPS[kind]: {"broken": "failing:X"} for kind in GROUPS},
        failing=text,
    )
    with installed(tmp_path):
        for usable, look_up in (
            ("pocket/digits", get_task),
            ("error", get_metric),
            ("wins", get_statistic),
            ("prose", get_source),
            ("l2", get_distance),
        ):
            look_up(usable)
            with pytest.raises(
                UserError,
                match=r"'broken = failing:X' in orca_ray\.\w+ of the package bad 1\.0",
            ):
                look_up("broken")
        assert all_families()
        sizes = {"image_size": 1, "patch_size": 1, "depths": 1}
        unknown = type("Unknown", (), sizes)()
        with pytest.raises(
            UserError,
            match=r"as a body: supported are .* Left out: the entry point 'broken",
        ):
            family_of(unknown, "timm")


def test_a_name_that_two_packages_declare_is_nobodys(tmp_path: Path) -> None:
    write_package(
        tmp_path, "one", methods(first="FIRST", mine="ORCA"), recipes_of_others=RECIPE
    )
    write_package(tmp_path, "two", methods(another="FIRST", second="SECOND"))
    with installed(tmp_path):
        for name, owners in (
            ("first", r"the entry point .* package two 1\.0 and by .* one 1\.0"),
            ("orca", "orca-ray and by"),
        ):
            with pytest.raises(
                UserError,
                match=rf"the method '{name}' is declared by {owners}.*: rename one",
            ):
                get_method(name)
        assert get_method("second").name == "second"


def test_a_method_cannot_take_the_options_of_others(tmp_path: Path) -> None:
    text = RECIPE + (
        "from dataclasses import replace\n"
        "class RefineConfig: pass\n"
        "class LoraConfig: pass\n"
        'A = replace(FIRST, name="a", options=[RefineConfig])\n'
        'B = replace(FIRST, name="b", options=[LoraConfig])\n'
    )
    write_package(tmp_path, "bad", methods(a="A", b="B"), recipes_of_others=text)
    with installed(tmp_path):
        with pytest.raises(
            UserError,
            match=(
                r"declares the options refine\.\*, which exist: give RefineConfig"
                r" another"
            ),
        ):
            get_method("a")
        with pytest.raises(
            UserError,
            match=(
                r"declares the options lora\.\*, which exist: give LoraConfig another"
            ),
        ):
            get_method("b")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pocket/tones", r"but the benchmark 'pocket' is orca-ray's"),
        ("own/tones-0123ab", r"but 'own' is the benchmark of users' own data"),
    ],
)
@pytest.mark.usefixtures("empty_home")
def test_no_task_is_added_to_a_benchmark_of_others(
    name: str, reason: str, tmp_path: Path
) -> None:
    entries = {"tones": "tones:TASK", "other": "more:X"}
    more = (
        "from dataclasses import replace\n"
        "from tones import TASK\n"
        f"X = replace(TASK, name={name!r})\n"
    )
    write_package(
        tmp_path,
        "example",
        {"orca_ray.tasks": entries},
        more=more,
        **example_module("tones"),
    )
    with installed(tmp_path):
        assert [task.name for task in get_benchmark("example")] == ["example/tones"]
        assert name not in all_tasks()
        with pytest.raises(
            UserError, match=rf"unknown task '{name}'.* Left out: .*'{name}', {reason}"
        ):
            get_task(name)


def test_a_family_cannot_take_a_model_type_of_others(tmp_path: Path) -> None:
    text = (
        'from orca_ray.models.family import Family\nFAMILY = Family(name="mine",'
        ' modality="sequence", model_types=("new", "gpt2"), cut=None)\n'
    )
    write_package(
        tmp_path, "bad", {"orca_ray.body_families": {"mine": "mine:FAMILY"}}, mine=text
    )
    with installed(tmp_path):
        assert "mine" not in all_families()
        config = type("Config", (), {"model_type": "gpt2"})()
        assert family_of(config).name.startswith("decoders")


def test_a_distance_is_imported_when_it_is_used(tmp_path: Path) -> None:
    entries = dict.fromkeys(("coral", "other", "l2"), "coral:DISTANCE")
    write_package(
        tmp_path,
        "example",
        {"orca_ray.distances": entries},
        **example_module("coral"),
    )
    with installed(tmp_path):
        assert "coral" in distance_names()
        assert get_distance("coral").name == "coral"
        assert origin("distance", "coral") == "example 1.0"
        with pytest.raises(
            UserError,
            match=r"'other = coral:DISTANCE' .* with the name 'other', but it gives",
        ):
            get_distance("other")
        with pytest.raises(
            UserError,
            match=r"the distance 'l2' is declared by orca-ray and by the entry point",
        ):
            get_distance("l2")
        code = (
            "import sys; from orca_ray.alignment.registry import distance_names; from"
            " orca_ray.training import config\nconfig.AlignConfig(distance='coral');"
            " assert 'torch' not in sys.modules and 'coral' not in sys.modules"
        )
        path = f"{tmp_path}:{Path(__file__).parents[1]}"
        subprocess.run(
            [sys.executable, "-c", code], check=True, env={"PYTHONPATH": path}
        )
