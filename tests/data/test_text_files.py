from collections.abc import Callable
from pathlib import Path

import pytest

from orca_ray.data.readers import read_csv, read_json, read_lines
from orca_ray.data.wav import read_wav
from orca_ray.errors import UserError


def test_csv_gives_the_columns(tmp_path: Path) -> None:
    (tmp_path / "tr.csv").write_text('\ufefffiles,labels,ext\na.wav,"Bark,Dog",1\n\nb.wav,,2\n', encoding="utf-8")
    found = read_csv(tmp_path / "tr.csv", ["labels", "files"])
    assert found == {"labels": ["Bark,Dog", ""], "files": ["a.wav", "b.wav"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"", "expected column 'files' once in the header, found 0: an empty file"),
        (b"file,labels\n", "expected column 'files' once in the header, found 0: file, labels"),
        (b"files,files\n1,2\n", "expected column 'files' once in the header, found 2"),
        (b"files,labels\n", "expected rows below the header, found none"),
        (b"files,labels\na,b\nc\n", r"line 3: expected 2 values \(files, labels\), found 1"),
        (b'files,labels\na,"b\n', "expected a comma-separated table"),
        (b"files,labels\na,\xff\n", "expected text in UTF-8, found byte 0xff"),
        (b"files,labels\na,\0\n", "found a zero byte"),
    ],
)
def test_bad_csv(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tr.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"tr\.csv.*{message}|{message}.*tr\.csv"):
        read_csv(tmp_path / "tr.csv", ["files"])


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "deepcov.lst"
    path.write_bytes(b"1abc \r\n\n2xyz")
    assert read_lines(path) == ["1abc", "2xyz"]
    for content, message in [(b" \n", "found an empty file"), (b"\x80\x04", "in UTF-8"), (b"a\0b", "a zero byte")]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"deepcov\.lst.*{message}"):
            read_lines(path)
    with pytest.raises(UserError, match="cannot read"):
        read_lines(tmp_path / "absent.lst")


@pytest.mark.parametrize("read", [read_lines, read_json, lambda path: read_wav(path, 22050)])
def test_a_file_beyond_the_limit_is_not_read(read: Callable[[Path], object], tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(UserError, match=r"sparse: expected at most [\d,]+ bytes, found 1,099,511,627,776"):
        read(tmp_path / "sparse")


@pytest.mark.parametrize("content", ["[" * 60_000, '{"a": ' + "9" * 5000 + "}", "[1]", "\0"])
def test_bad_json(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json: expected (a )?JSON") as caught:
        read_json(tmp_path / "x.json")
    assert len(str(caught.value)) < 500 + len(str(tmp_path))
