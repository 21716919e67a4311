import time
from typing import Any

import pytest

from orca_ray.errors import UserError
from orca_ray.sweep.plan.loading import load_spec, parse_spec
from orca_ray.sweep.plan.spec import Overrides

MINIMAL = """\
name: mine
benchmark: pocket
methods: [nft, orca]
tasks: [pocket/digits, pocket/wdbc]
settings:
  refine.learning_rate: 1e-3
space:
  refine.learning_rate: {log_uniform: [1e-4, 1e-2]}
budgets:
  full: {search_trials: 2, confirm_seeds: [1, 2]}
"""
ORCA_ON_DIGITS = "pocket/digits:\n  per_method:\n   orca:\n    settings: {align.distance: otd}"


def refused(text: str, **options: Any) -> str:
    """Return the message about a sweep file, which must come soon, be short, and have no control characters."""
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        parse_spec(text, "mine.yaml", **options)
    assert time.monotonic() - started < 20  # a busy machine; each takes less than a second
    message = str(caught.value)
    assert len(message) < 2000
    assert all(line.isprintable() for line in message.split("\n"))
    return message


def test_the_minimal_file_is_understood() -> None:
    spec = parse_spec(MINIMAL)
    assert spec.sweep_id == "mine/full"
    assert spec.tasks == ("pocket/digits", "pocket/wdbc")
    assert spec.settings("pocket/digits", "nft") == {"refine.learning_rate": 1e-3}
    assert spec.search_trials("pocket/digits", "nft") == 2
    assert spec.confirm_seeds == (1, 2)


@pytest.mark.parametrize(
    ("old", "new", "line", "parts"),
    [
        ("[nft, orca]", "[nft, orka]", 3, ["unknown method 'orka'", "Did you mean 'orca'", "linear_probe"]),
        ("pocket/digits", "pocket/digit", 4, ["unknown task 'pocket/digit'", "Did you mean 'pocket/digits'"]),
        ("refine.learning_rate: 1e-3", "refine.learning_rat: 1e-3", 6, ["Did you mean 'refine.learning_rate'"]),
        ("refine.learning_rate: {", "refine.lr: {", 8, ["unknown hyper-parameter 'refine.lr'"]),
        ("[1e-4, 1e-2]", "[1e-2, 1e-4]", 8, ["is empty", "low < high"]),
        ("log_uniform:", "loguniform:", 8, ["unknown key 'loguniform'", "Did you mean 'log_uniform'"]),
        ("search_trials: 2", "search_trials: two", 10, ["valid integer", "'two'"]),
        ("name: mine", "name: a/b", 1, ["pattern"]),
        ("space:", "space: [", 9, ["not valid YAML"]),
        ("rate: 1e-3", "rate: 1e-3\n  align.distance: otd", 7, ["settings of pocket/digits with "]),
        ("budgets:", "per_task: {pocket/digits: {setings: {}}}\nbudgets:", 9, ["'setings'. Did you mean 'settings'"]),
        ("budgets:", f"per_task:\n {ORCA_ON_DIGITS}\nbudgets:", 13, ["settings of pocket/digits with orca: unknown "]),
        ("[1, 2]", "[1, 1]", 10, ["budgets.full.confirm_seeds: each seed once"]),
        ("rate: 1e-3", "rate: 1.0", 8, ["refine.learning_rate = 1.0", "log_uniform [0.0001, 0.01]"]),
    ],
)
def test_mistakes_are_named_with_their_line(old: str, new: str, line: int, parts: list[str]) -> None:
    assert old in MINIMAL
    message = refused(MINIMAL.replace(old, new, 1))
    assert message.startswith(f"mine.yaml:{line}:"), message
    for part in parts:
        assert part in message


def test_unknown_names_a_wrong_seed_and_an_empty_file() -> None:
    assert "unknown budget 'fulll'" in refused(MINIMAL, budget="fulll")
    assert "Did you mean 'pocket'" in refused(MINIMAL.replace("benchmark: pocket", "benchmark: pockett"))
    assert "unknown protocol 'papers'" in refused(MINIMAL, overrides=Overrides(protocol="papers"))
    assert "is a mapping" in refused("")
    assert "seed 0 is the search's own" in refused(MINIMAL.replace("[1, 2]", "[0, 1]"))
    assert "Did you mean 'vit-s14'" in refused(MINIMAL + "bodies: {image: vit-s15}\n")
    assert "--trials must be at least 1" in refused(MINIMAL, overrides=Overrides(trials=0))


def test_overrides() -> None:
    spec = parse_spec(MINIMAL, overrides=Overrides(tasks=["wdbc"], methods=["scratch"], trials=1))
    assert spec.tasks == ("pocket/wdbc",)
    assert spec.methods == ("scratch",)
    assert spec.search_trials("pocket/wdbc", "scratch") == 0
    assert spec.confirm_seeds == (1,)
    assert parse_spec(MINIMAL, overrides=Overrides(trials=7)).search_trials("pocket/wdbc", "nft") == 7
    assert parse_spec(MINIMAL, overrides=Overrides(seeds=5)).confirm_seeds == (1, 2, 3, 4, 5)
    assert parse_spec(MINIMAL, overrides=Overrides(body="minilm-l6")).body("pocket/digits", "nft") == "minilm-l6"
    with pytest.raises(UserError, match="Did you mean 'pocket/digits'"):
        parse_spec(MINIMAL, overrides=Overrides(tasks=["digts"]))
    with pytest.raises(UserError, match="Did you mean 'scratch'"):
        parse_spec(MINIMAL, overrides=Overrides(methods=["scrach"]))


def test_a_method_that_cannot_adapt_to_a_task_is_refused_before_anything_runs() -> None:
    overrides = Overrides(tasks=["wdbc", "darcy16"], methods=["nft", "gradient_boosting"])
    with pytest.raises(UserError, match=r"gradient_boosting cannot adapt to pocket/darcy16: .*--methods or --tasks"):
        load_spec("pocket", overrides=overrides)
    assert load_spec("pocket", overrides=Overrides(tasks=["wdbc"], methods=["gradient_boosting"]))


def test_a_deterministic_sweep_has_a_name_of_its_own() -> None:
    fixed = MINIMAL + "deterministic: true\n"
    assert not parse_spec(MINIMAL).deterministic
    for spec in (parse_spec(fixed), parse_spec(MINIMAL, overrides=Overrides(deterministic=True))):
        assert spec.deterministic
        assert spec.sweep_id == "mine/full-deterministic"
    both = Overrides(trials=2, deterministic=True)
    assert parse_spec(fixed, overrides=both).sweep_id == "mine/full-trials2-deterministic"
    assert refused(MINIMAL + "deterministic: perhaps\n").startswith("mine.yaml:11: deterministic: ")


def test_layers_later_ones_win() -> None:
    text = (
        MINIMAL
        + "per_task:\n  pocket/wdbc: {settings: {refine.epochs: 9}}\n"
        + "  pocket/mnist: {settings: {refine.epochs: 7}, per_method: {orca: {settings: {refine.epochs: 6}}}}\n"
        + "per_method:\n  orca: {settings: {refine.epochs: 8}}\n"
    )
    spec = parse_spec(text)
    assert spec.settings("pocket/wdbc", "orca")["refine.epochs"] == 9
    assert spec.settings("pocket/digits", "orca")["refine.epochs"] == 8
    assert "refine.epochs" not in spec.settings("pocket/digits", "nft")
    epochs = {method: spec.settings("pocket/mnist", method)["refine.epochs"] for method in ("orca", "nft")}
    assert epochs == {"orca": 6, "nft": 7}
