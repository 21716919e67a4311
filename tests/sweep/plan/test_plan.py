"""Bodies and alignment sources that a machine lacks."""

import re
from functools import partial
from pathlib import Path

import pytest

from orca_ray.alignment.source import Source
from orca_ray.errors import UserError
from orca_ray.methods.recipe import NO_BODY
from orca_ray.sweep.plan.loading import load_spec, parse_spec
from orca_ray.sweep.plan.plan import Absent, absent, build_plan, resolve, with_sources
from orca_ray.sweep.plan.searches import SearchPlan, plan_searches
from orca_ray.sweep.plan.spec import Overrides
from orca_ray.sweep.run.driver import run_sweep, staging_requests
from orca_ray.sweep.search import Search
from orca_ray.sweep.worker.staging_items import StagingRequest

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
    asked = Overrides(tasks=["ecg", "cifar100"], methods=["orca"], protocol="paper", trials=1)
    assert absent(searches("nasbench360", asked)) == [
        Absent("bodies", (SWIN, "roberta-base"), f"orca-sweep bodies --fetch {SWIN} roberta-base"),
        Absent("alignment sources", ("cifar10", "conll2003"), "orca-sweep data fetch cifar10 conll2003"),
    ]
    assert not (tmp_path / "home").exists()


def test_what_is_in_a_cache_is_not_absent(tmp_path: Path, nothing_here: Path) -> None:
    kept = nothing_here / "models--roberta-base"
    (kept / "snapshots" / "abc").mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    asked = Overrides(tasks=["ecg"], methods=["orca"], protocol="paper", trials=1)
    (kept / "snapshots" / "abc" / "config.json").write_text("{}")
    assert [each.names for each in absent(searches("nasbench360", asked))] == [("roberta-base",), ("conll2003",)]
    (kept / "snapshots" / "abc" / "model.safetensors").write_text("weights")
    source = tmp_path / "home" / "raw" / "conll2003" / "train.txt"
    source.parent.mkdir(parents=True)
    source.write_text("words")
    assert absent(searches("nasbench360", asked)) == []


def test_a_method_that_uses_no_body_lacks_and_fetches_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orca_ray.tasks.task.Task.fetch", lambda *_, **__: None)
    monkeypatch.setattr("orca_ray.models.weights.check_body", lambda *_, **__: pytest.fail("a body was asked for"))
    for body in (None, "a-body-that-no-hub-has"):
        asked = searches("nasbench360", Overrides(tasks=["ecg", "cifar100"], methods=["cnn"], body=body))
        assert absent(asked) == []
        assert [each.trial({}, 1, "confirm").body for each in resolve(asked, pytest.fail)] == [NO_BODY, NO_BODY]
    both = searches("nasbench360", Overrides(tasks=["ecg"], methods=["cnn", "nft"]))
    assert [each.names for each in absent(both)] == [("roberta-base",)], "a method that does not align needs no source"
    (missing,) = absent(searches("nasbench360", Overrides(tasks=["ecg"], methods=["nft"], body="./nothere")))
    assert "./nothere" in str(missing)


@pytest.mark.parametrize("config", ["{", '{"model_type": "no such type"}'])
def test_a_body_that_cannot_be_read_is_found_by_the_plan_and_before_anything_is_fetched(
    tmp_path: Path, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = tmp_path / "body"
    body.mkdir()
    (body / "config.json").write_text(config)
    spec = load_spec("pocket", overrides=Overrides(tasks=["wdbc"], methods=["nft"], body=str(body), trials=1))
    monkeypatch.setattr("orca_ray.tasks.task.Task.fetch", lambda *_, **__: pytest.fail("data were fetched"))
    results = str(tmp_path / "results")
    for start in (partial(build_plan, spec, None), partial(run_sweep, spec, results, executor="inline")):
        with pytest.raises(UserError, match=re.escape(str(body))):
            start()
    assert not (tmp_path / "results").exists()


def test_a_request_names_all_that_the_trials_of_a_task_read() -> None:
    asked = resolve(searches("pocket", Overrides(tasks=["wdbc", "digits"], methods=["orca", "nft"])), pytest.fail)
    wdbc, digits = staging_requests(asked, {"pocket/wdbc", "pocket/digits"})
    assert (wdbc.task, wdbc.bodies, wdbc.sources) == ("pocket/wdbc", ("minilm-l6:layers=4",), ("prose",))
    assert (digits.task, digits.bodies, digits.sources) == ("pocket/digits", ("vit-s14:layers=4",), ("photographs",))
    trials = [each.trial({}, 1, "confirm") for each in asked]
    assert {each.hyperparameters.get("align.source") for each in trials} == {"photographs", "prose", None}
    assert {each.replaced_source for each in trials} == {""}
    requests = [StagingRequest.of_trial(trial) for trial in trials if trial.task == "pocket/wdbc"]
    assert [(each.bodies, each.sources) for each in requests] == [(wdbc.bodies, ("prose",)), (wdbc.bodies, ())]
    (joint,) = resolve(searches("pocket", Overrides(tasks=["wdbc"], methods=["joint"])), pytest.fail)
    request = StagingRequest.of_trial(joint.trial({"align.epochs": 0}, 1, "confirm"))
    assert request.sources == ("prose",), "a method without align epochs may read its source, too"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages can be fetched, and files cannot."""

    def refuse(source: Source, *_: object, **__: object) -> None:
        if source.file is not None and not source.present():
            raise UserError("no network")

    monkeypatch.setattr(Source, "fetch", refuse)
    monkeypatch.setattr("orca_ray.tasks.task.Task.fetch", lambda *_, **__: None)
    monkeypatch.setattr("orca_ray.models.packaged.fetch_body", lambda *_: None)


def test_a_substitute_is_in_key_and_notes_until_the_papers_source_is_here(tmp_path: Path, no_network: None) -> None:
    asked = Overrides(tasks=["ecg"], methods=["orca"], body="minilm-l6:layers=1", trials=1)
    messages: list[str] = []
    (substitute,) = resolve(searches("nasbench360", asked), messages.append)
    assert messages == ["source conll2003 cannot be fetched: prose stands in for it"]
    trial = substitute.trial({}, 1, "confirm")
    assert (trial.hyperparameters["align.source"], trial.replaced_source) == ("prose", "conll2003")
    assert substitute.trial({"align.source": "imagenet200"}, 1, "confirm").replaced_source == ""
    assert [each.names for each in absent([substitute])] == [("minilm-l6",), ("conll2003",)]
    source = tmp_path / "home" / "raw" / "conll2003" / "train.txt"
    source.parent.mkdir(parents=True)
    source.write_text("words")
    (paper,) = resolve(searches("nasbench360", asked), messages.append)
    assert len(messages) == 1
    again = paper.trial({}, 1, "confirm")
    assert (again.hyperparameters["align.source"], again.replaced_source) == ("conll2003", "")
    assert again.key != trial.key


def test_what_a_sweep_file_sets_wins(no_network: None) -> None:
    text = "name: own\nbenchmark: pocket\nmethods: [orca]\n\n{}"

    def chosen(more: str, body: str | None = None, tasks: str = "wdbc, digits") -> list[object]:
        asked = Overrides(body=body, tasks=tasks.split(", "))
        spec = parse_spec(text.format(more), overrides=asked)
        plans = with_sources(plan_searches(spec, dict.fromkeys(spec.tasks, ""), gpus=False))
        assert all(Search(plan).take() for plan in plans)
        return [plan.trial({}, 1, "confirm").hyperparameters["align.source"] for plan in plans]

    assert chosen("sources: {image: imagenet200}") == ["prose", "imagenet200"]
    assert chosen("sources: {image: imagenet200}", body="minilm-l6") == ["prose", "prose"]
    own = "sources: {{image: imagenet200}}\nper_task: {{pocket/digits: {{settings: {{align.source: {}}}}}}}"
    assert chosen(own.format("cifar10")) == ["prose", "cifar10"]
    searched = "space: {align.source: {choice: ['', imagenet200]}}\nbudgets: {full: {search_trials: 2}}"
    assert chosen(searched, tasks="digits") == ["photographs"]
    with pytest.raises(UserError, match="pocket/digits with orca: source 'prose' does not suit image bodies: use cif"):
        chosen(own.format("prose"))
    with pytest.raises(UserError, match=r"sweep.yaml:5: .*'prose' does not suit image bodies: use cifar10"):
        chosen("sources: {image: prose}")
    with pytest.raises(UserError, match=r"unknown source 'prise'\. Did you mean 'prose'"):
        chosen("sources: {sequence: prise}")
