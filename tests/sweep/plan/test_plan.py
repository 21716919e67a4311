"""A plan: costs, and bodies and alignment sources that a machine lacks."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from orca_ray.alignment.source import Source
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.methods.recipe import NO_BODY
from orca_ray.process import NodeResources
from orca_ray.sweep.executors.inline import InlineExecutor
from orca_ray.sweep.plan import cost as costs
from orca_ray.sweep.plan.cost import (
    GPU_STEP_SECONDS,
    SWIN_SLOWNESS,
    Rate,
    TaskCost,
    forward_flops,
    task_costs,
)
from orca_ray.sweep.plan.loading import load_spec, parse_spec
from orca_ray.sweep.plan.requirements import (
    Absent,
    absent,
    resolve,
    with_fingerprints,
    with_sources,
)
from orca_ray.sweep.plan.searches import SearchPlan, plan_searches
from orca_ray.sweep.plan.spec import Overrides
from orca_ray.sweep.run.driver import run_sweep, staging_requests
from orca_ray.sweep.run.preview import build_plan
from orca_ray.sweep.search import Search
from orca_ray.sweep.worker.staging_items import StagingRequest
from orca_ray.tasks.registry import get_task

SWIN = "microsoft/swin-base-patch4-window7-224-in22k"


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, of the hub's client, too; returns that one."""
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def searches(benchmark: str, overrides: Overrides) -> list[SearchPlan]:
    spec = load_spec(benchmark, overrides=overrides)
    return plan_searches(spec, dict.fromkeys(spec.tasks, ""), gpus=True)


def test_the_papers_recipe_lacks_its_bodies_and_sources(tmp_path: Path) -> None:
    asked = Overrides(
        tasks=["ecg", "cifar100"], methods=["orca"], protocol="paper", trials=1
    )
    assert absent(searches("nasbench360", asked)) == [
        Absent(
            "bodies",
            (SWIN, "roberta-base"),
            f"orca-sweep bodies --fetch {SWIN} roberta-base",
        ),
        Absent(
            "alignment sources",
            ("cifar10", "conll2003"),
            "orca-sweep data fetch cifar10 conll2003",
        ),
    ]
    assert not (tmp_path / "home").exists()


def test_what_is_in_a_cache_is_not_absent(tmp_path: Path, nothing_here: Path) -> None:
    kept = nothing_here / "models--roberta-base"
    (kept / "snapshots" / "abc").mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    asked = Overrides(tasks=["ecg"], methods=["orca"], protocol="paper", trials=1)
    (kept / "snapshots" / "abc" / "config.json").write_text("{}")
    assert [each.names for each in absent(searches("nasbench360", asked))] == [
        ("roberta-base",),
        ("conll2003",),
    ]
    (kept / "snapshots" / "abc" / "model.safetensors").write_text("weights")
    source = tmp_path / "home" / "raw" / "conll2003" / "train.txt"
    source.parent.mkdir(parents=True)
    source.write_text("words")
    assert absent(searches("nasbench360", asked)) == []


def test_a_method_that_uses_no_body_lacks_and_fetches_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orca_ray.tasks.task.Task.fetch", lambda *_, **__: None)
    monkeypatch.setattr(
        "orca_ray.models.weights.check_body",
        lambda *_, **__: pytest.fail("a body was asked for"),
    )
    for body in (None, "a-body-that-no-hub-has"):
        asked = searches(
            "nasbench360",
            Overrides(tasks=["ecg", "cifar100"], methods=["cnn"], body=body),
        )
        assert absent(asked) == []
        assert [
            each.trial({}, 1, "confirm").body for each in resolve(asked, pytest.fail)
        ] == [NO_BODY, NO_BODY]
    both = searches("nasbench360", Overrides(tasks=["ecg"], methods=["cnn", "nft"]))
    assert [each.names for each in absent(both)] == [("roberta-base",)], (
        "a method that does not align needs no source"
    )
    (missing,) = absent(
        searches(
            "nasbench360", Overrides(tasks=["ecg"], methods=["nft"], body="./nothere")
        )
    )
    assert "./nothere" in str(missing)


@pytest.mark.parametrize("config", ["{", '{"model_type": "no such type"}'])
def test_a_body_that_cannot_be_read_is_found_by_the_plan_and_before_anything_is_fetched(
    tmp_path: Path, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = tmp_path / "body"
    body.mkdir()
    (body / "config.json").write_text(config)
    spec = load_spec(
        "pocket",
        overrides=Overrides(tasks=["wdbc"], methods=["nft"], body=str(body), trials=1),
    )
    monkeypatch.setattr(
        "orca_ray.tasks.task.Task.fetch",
        lambda *_, **__: pytest.fail("data were fetched"),
    )
    results = str(tmp_path / "results")
    for start in (
        partial(build_plan, spec, None),
        partial(run_sweep, spec, results, executor=InlineExecutor()),
    ):
        with pytest.raises(UserError, match=re.escape(str(body))):
            start()
    assert not (tmp_path / "results").exists()


def test_a_request_names_all_that_the_trials_of_a_task_read() -> None:
    asked = resolve(
        searches(
            "pocket", Overrides(tasks=["wdbc", "digits"], methods=["orca", "nft"])
        ),
        pytest.fail,
    )
    wdbc, digits = staging_requests(asked, {"pocket/wdbc", "pocket/digits"})
    assert (wdbc.task, wdbc.bodies, wdbc.sources) == (
        "pocket/wdbc",
        ("minilm-l6:layers=4",),
        ("prose",),
    )
    assert (digits.task, digits.bodies, digits.sources) == (
        "pocket/digits",
        ("vit-s14:layers=4",),
        ("photographs",),
    )
    trials = [each.trial({}, 1, "confirm") for each in asked]
    assert {each.hyperparameters.get("align.source") for each in trials} == {
        "photographs",
        "prose",
        None,
    }
    assert {each.replaced_source for each in trials} == {""}
    requests = [
        StagingRequest.of_trial(trial)
        for trial in trials
        if trial.task == "pocket/wdbc"
    ]
    assert [(each.bodies, each.sources) for each in requests] == [
        (wdbc.bodies, ("prose",)),
        (wdbc.bodies, ()),
    ]
    (orca,) = resolve(
        searches("pocket", Overrides(tasks=["wdbc"], methods=["orca"])), pytest.fail
    )
    request = StagingRequest.of_trial(orca.trial({"align.epochs": 0}, 1, "confirm"))
    assert request.sources == ("prose",), (
        "a method without align epochs may read its source, too"
    )


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages can be fetched, and files cannot."""

    def refuse(source: Source, *_: object, **__: object) -> None:
        if source.file is not None and not source.present():
            raise UserError("no network")

    monkeypatch.setattr(Source, "fetch", refuse)
    monkeypatch.setattr("orca_ray.tasks.task.Task.fetch", lambda *_, **__: None)
    monkeypatch.setattr("orca_ray.models.packaged.fetch_body", lambda *_: None)


def test_a_substitute_is_in_key_and_notes_until_the_papers_source_is_here(
    tmp_path: Path, no_network: None
) -> None:
    asked = Overrides(
        tasks=["ecg"], methods=["orca"], body="minilm-l6:layers=1", trials=1
    )
    messages: list[str] = []
    (substitute,) = resolve(searches("nasbench360", asked), messages.append)
    assert messages == ["source conll2003 cannot be fetched: prose stands in for it"]
    trial = substitute.trial({}, 1, "confirm")
    assert (trial.hyperparameters["align.source"], trial.replaced_source) == (
        "prose",
        "conll2003",
    )
    assert (
        substitute.trial({"align.source": "photographs"}, 1, "confirm").replaced_source
        == ""
    )
    assert [each.names for each in absent([substitute])] == [
        ("minilm-l6",),
        ("conll2003",),
    ]
    source = tmp_path / "home" / "raw" / "conll2003" / "train.txt"
    source.parent.mkdir(parents=True)
    source.write_text("words")
    (paper,) = resolve(searches("nasbench360", asked), messages.append)
    assert len(messages) == 1
    again = paper.trial({}, 1, "confirm")
    assert (again.hyperparameters["align.source"], again.replaced_source) == (
        "conll2003",
        "",
    )
    assert again.key != trial.key


def test_what_a_sweep_file_sets_wins(no_network: None) -> None:
    text = "name: own\nbenchmark: pocket\nmethods: [orca]\n\n{}"

    def chosen(
        more: str, body: str | None = None, tasks: str = "wdbc, digits"
    ) -> list[object]:
        asked = Overrides(body=body, tasks=tasks.split(", "))
        spec = parse_spec(text.format(more), overrides=asked)
        plans = with_sources(
            plan_searches(spec, dict.fromkeys(spec.tasks, ""), gpus=False)
        )
        assert all(Search(plan).take() for plan in plans)
        return [
            plan.trial({}, 1, "confirm").hyperparameters["align.source"]
            for plan in plans
        ]

    assert chosen("sources: {image: cifar10}") == ["prose", "cifar10"]
    assert chosen("sources: {image: cifar10}", body="minilm-l6") == ["prose", "prose"]
    own = (
        "sources: {{image: photographs}}\nper_task: {{pocket/digits: {{settings:"
        " {{align.source: {}}}}}}}"
    )
    assert chosen(own.format("cifar10")) == ["prose", "cifar10"]
    searched = (
        "space: {align.source: {choice: ['', cifar10]}}\nbudgets: {full:"
        " {search_trials: 2}}"
    )
    assert chosen(searched, tasks="digits") == ["photographs"]
    with pytest.raises(
        UserError,
        match=(
            "pocket/digits with orca: source 'prose' does not suit image bodies:"
            " use cif"
        ),
    ):
        chosen(own.format("prose"))
    with pytest.raises(
        UserError,
        match=r"sweep.yaml:5: .*'prose' does not suit image bodies: use cifar10",
    ):
        chosen("sources: {image: prose}")
    with pytest.raises(
        UserError, match=r"unknown source 'prise'\. Did you mean 'prose'"
    ):
        chosen("sources: {sequence: prise}")


RATE = Rate("a device", 1e12)


def planned(task: str, method: str = "nft", **overrides: object) -> list[SearchPlan]:
    """Plan one method on one task of a shipped sweep, for a cluster with GPUs."""
    benchmark, _, name = task.partition("/")
    asked = Overrides(tasks=[name], methods=[method], **overrides)  # type: ignore[arg-type]
    spec = load_spec(benchmark, overrides=asked)
    return with_fingerprints(plan_searches(spec, gpus=True))


def cost_of(searches: list[SearchPlan], gpu: Rate = RATE) -> TaskCost:
    (cost,) = task_costs(searches, gpu)
    return cost


ECG = get_task("nasbench360/ecg").num_samples or (0, 0, 0)
"""Numbers of training, validation and test samples."""


def test_a_transformers_operations_are_two_a_multiplication() -> None:
    """RoBERTa-base on 50 tokens: 12 layers of 24 T W² + 4 T² W."""
    assert forward_flops("roberta-base", 50) == pytest.approx(
        12 * (24 * 50 * 768**2 + 4 * 50**2 * 768)
    )
    assert forward_flops("minilm-l6:layers=2", 10) == pytest.approx(
        2 * (24 * 10 * 384**2 + 4 * 10**2 * 384)
    )
    assert forward_flops(
        "microsoft/swin-base-patch4-window7-224-in22k", 196
    ) == pytest.approx(30.8e9)
    assert forward_flops("./a-body-of-ones-own", 10) is None


def test_hours_are_operations_by_the_rate() -> None:
    (cost,) = task_costs(planned("nasbench360/ecg"), RATE, Rate("a CPU", 1e10))
    train, validation, test = ECG
    forward = forward_flops("roberta-base", 50)
    assert forward is not None
    seconds = (
        (3 * 15 * (3 * train + validation) + 3 * test) * forward / 1e12
    )  # three seeds of 15 epochs
    assert (cost.gpu_hours, cost.cpu_hours) == pytest.approx(
        (seconds / 3600, 100 * seconds / 3600)
    )
    passes = (
        15 * (3 * (train + validation) + test) + test
    )  # trains on both, selects on test
    paper = cost_of(planned("nasbench360/ecg", protocol="paper", trials=1))
    assert paper.gpu_hours == pytest.approx(passes * forward / 1e12 / 3600)
    assert (cost.trials, cost.epochs, cost.state) == (3, 45, "missing")
    assert cost.prepared_bytes == pytest.approx(
        4e3 * (train + validation + test), rel=0.01
    )
    assert cost.raw_bytes > 1e8
    assert cost.prepared_bytes is not None
    assert cost.disk_bytes == cost.raw_bytes + cost.prepared_bytes


def test_a_method_without_a_body_has_operations_of_its_own() -> None:
    """Two blocks of two convolutions in each of three stages, on 1000, 500 and 250
    points, two a multiplication.
    """
    searches = planned("nasbench360/ecg", "cnn")
    train, validation, test = ECG
    forward = 2 * 4 * 3 * (64**2 * 1000 + 128**2 * 500 + 256**2 * 250)
    seconds = (3 * 200 * (3 * train + validation) + 3 * test) * forward / 1e12
    assert cost_of(searches).gpu_hours == pytest.approx(seconds / 3600)
    assert costs.trial_seconds(searches)["nasbench360/ecg", "cnn"] > 0


@pytest.mark.parametrize(
    ("task", "method", "rate", "seconds"),
    [  # batches of four series are 2000 steps an epoch, however fast the GPU
        (
            "pdebench/advection",
            "nft",
            Rate("a device", 1e18, GPU_STEP_SECONDS),
            200 * 2000 * GPU_STEP_SECONDS,
        ),
        (
            "nasbench360/cifar100",
            "nft",
            RATE,
            SWIN_SLOWNESS * (60 * (3 * 40_000 + 10_000) + 10_000) * 30.8e9 / 1e12,
        ),
    ],
)
def test_slow_steps_and_slow_bodies_count(
    task: str, method: str, rate: Rate, seconds: float
) -> None:
    assert cost_of(planned(task, method, trials=1), rate).gpu_hours == pytest.approx(
        seconds / 3600, rel=0.01
    )


def test_accumulated_gradients_are_fewer_steps() -> None:
    (plan,) = planned("pdebench/advection", trials=1)
    slow = Rate("a device", 1e18, 1.0)
    hours = []
    for accumulation in (1, 4):
        first = {
            **plan.first,
            "refine.batch_size": 5,
            "refine.accumulation": accumulation,
        }
        hours.append(cost_of([replace(plan, first=first)], slow).gpu_hours)
    assert hours == pytest.approx([200 * 1600 / 3600, 200 * 400 / 3600], rel=1e-3)


def test_a_fit_in_closed_form_is_one_epoch_without_optimiser_steps() -> None:
    cost = cost_of(planned("pocket/osuleaf", "minirocket"))
    assert (cost.trials, cost.epochs) == (3, 3)
    assert 0 < (cost.gpu_hours or 0) < 1e-3


def test_series_are_cut_into_patches_that_divide_them() -> None:
    expected = {
        "nasbench360/ecg": 50,
        "nasbench360/deepsea": 500,
        "pdebench/cfd_1d": 128,
    }
    assert {
        task: costs.tokens(get_task(task), planned(task)[0]) for task in expected
    } == expected


def test_what_is_missing_comes_by_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    make = "orca-sweep data generate"
    expected = {
        "nasbench360/satellite": (
            "orca-sweep data prepare nasbench360/satellite --raw DIR"
        ),
        "pdebench_generated/darcy": f"{make} pdebench/darcy --samples 1000",
        "pocket/mnist": "orca-sweep data fetch pocket/mnist",  # a package
        "nasbench360/ecg": "orca-sweep data fetch nasbench360/ecg",
    }
    for file in get_task("nasbench360/satellite").files:
        monkeypatch.setitem(
            file.__dict__, "urls", ()
        )  # nobody but the user can bring them
    found = {name: cost_of(planned(name)) for name in expected}
    assert {name: cost.command for name, cost in found.items()} == expected
    assert {cost.state for cost in found.values()} == {"missing"}


def test_raw_files_that_are_there_are_to_be_prepared_for_the_protocol() -> None:
    task = get_task("nasbench360/ecg")
    task.raw_directory.mkdir(parents=True)
    (task.raw_directory / task.files[0].path).write_bytes(b"records")
    for protocol, option in (("held-out", ""), ("paper", " --protocol paper")):
        cost = cost_of(planned(task.name, protocol=protocol))
        assert (cost.state, cost.command) == (
            "fetched",
            f"orca-sweep data prepare nasbench360/ecg{option}",
        )
        assert cost.disk_bytes == cost.prepared_bytes


def test_a_task_whose_size_only_the_data_tell_has_no_hours() -> None:
    cost = cost_of(planned("openml/61"))
    assert (cost.gpu_hours, cost.cpu_hours, cost.prepared_bytes) == (None, None, None)
    assert costs.trial_seconds(planned("openml/61")) == {}


def test_a_plan_fetches_and_prepares_nothing(tmp_path: Path) -> None:
    spec = load_spec("nasbench360", overrides=Overrides(tasks=["ecg"], methods=["nft"]))
    found = build_plan(spec, None, [NodeResources("gpu", 16.0, 1.0, 128.0)])
    assert [cost.task for cost in found.costs] == ["nasbench360/ecg"]
    assert (bool(found.gpu), bool(found.cpu), found.num_finished) == (True, False, 0)
    assert not (tmp_path / "home" / "raw").exists()
    assert not (tmp_path / "home" / "prepared").exists()


def test_aligning_costs_by_its_draws() -> None:
    (plan,) = planned("openml/61", "orca")
    epochs = int(plan.first["align.epochs"])
    source = int(plan.first["align.source_samples"])
    task = replace(get_task("openml/61"), target=Target("classes", size=3))
    drawn = min(120, 3 * int(plan.first["align.samples_per_class"]))
    assert costs.align_flops(task, plan, 120) == pytest.approx(
        epochs * (24 + 4 * 768) * drawn * source
    )


def test_expected_seconds_follow_samples_tokens_and_bodies() -> None:
    def seconds(method: str = "nft", **overrides: object) -> float:
        return costs.trial_seconds(
            planned("nasbench360/ecg", method, trials=1, **overrides)
        )["nasbench360/ecg", method]

    assert seconds("orca") > seconds() == seconds("scratch") > 0
    assert seconds(body="minilm-l6:layers=1") < seconds()
    assert seconds(body="./a-body-of-ones-own") == seconds(), "it counts as the paper's"
