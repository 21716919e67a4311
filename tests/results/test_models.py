"""Models in a results store: complete or absent, on a disk and on an object store."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from orca_ray.errors import UserError
from orca_ray.results.folder import open_folder
from orca_ray.results.models import StoredModels

from .test_s3 import server, uri  # noqa: F401 (fixtures)

KEY, OTHER = "0123456789abcdef0123", "fedcba98765432100123"


def folder(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, content in {"config.json": "{}", "model.safetensors": "w", **files}.items():
        (path / name).write_text(content)
    return path


@pytest.fixture
def models(tmp_path: Path) -> StoredModels:
    (tmp_path / "results").mkdir()
    return StoredModels(tmp_path / "results")


def check(models: StoredModels, tmp_path: Path) -> None:
    """What every store must do."""
    assert not models.has(KEY)
    models.add(KEY, folder(tmp_path / "first", notes="old"))
    models.add(OTHER, folder(tmp_path / "other"))
    models.add(KEY, folder(tmp_path / "second"))
    assert models.has(KEY)
    assert models.read(KEY, "model.safetensors") == b"w"
    assert models.read(KEY, "notes") is None, "nothing of an earlier model remains"
    models.write(KEY, "README.md", b"card")
    assert models.read(KEY, "README.md") == b"card"
    models.remove(KEY)
    models.remove(KEY)
    assert not models.has(KEY)
    assert models.has(OTHER)


def test_a_local_store(models: StoredModels, tmp_path: Path) -> None:
    store = tmp_path / "results"
    check(models, tmp_path)
    assert [path.name for path in (store / "models").iterdir()] == [OTHER]
    assert models.place(OTHER) == f"{store}/models/{OTHER}"


def test_a_model_is_fetched_in_place_of_another_and_other_files_stay(models: StoredModels, tmp_path: Path) -> None:
    models.add(KEY, folder(tmp_path / "first", **{"model.safetensors": "new"}))
    out = folder(tmp_path / "out", **{"predictions.parquet": "mine"})
    models.fetch(KEY, out)
    found = {path.name: path.read_text() for path in out.iterdir()}
    assert found == {"config.json": "{}", "model.safetensors": "new", "predictions.parquet": "mine"}


@pytest.mark.slow
def test_an_object_store(uri: str, tmp_path: Path) -> None:  # noqa: F811
    models = StoredModels(uri)
    check(models, tmp_path)
    assert open_folder(uri).names(f"models/{KEY}", hidden=True) == []
    assert "secret" not in models.place(KEY)
    assert models.place(KEY).endswith(f"/models/{KEY}")


def test_an_interrupted_upload_is_no_model(
    models: StoredModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.add(KEY, folder(tmp_path / "first"))
    before_the_configuration = [mock.DEFAULT, UserError("no network")]
    upload = mock.Mock(wraps=models._folder.upload, side_effect=before_the_configuration)
    monkeypatch.setattr(models._folder, "upload", upload)
    with pytest.raises(UserError, match="no network"):
        models.add(KEY, folder(tmp_path / "second"))
    assert not models.has(KEY), "a mixture of two models is none"


def test_models_leave_room_for_records(models: StoredModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**31))
    with pytest.raises(UserError, match="use --keep-models best or none"):
        models.add(KEY, folder(tmp_path / "first"))
    assert not models.has(KEY)
