"""What pages say twice, or what the code also says, is said alike.

Commits exist, decisions that replace each other name each other, and numbers are those
of the code. What is said about GPUs says that no GPU was there.
"""

import re
import subprocess
from collections.abc import Iterator

import pytest

from orca_ray.cli.adapt import AdaptOptions
from orca_ray.cli.doctor import _times
from orca_ray.results import lease
from orca_ray.sweep.messages.settings import WorkerSettings
from orca_ray.sweep.run import sharing
from orca_ray.sweep.worker import checkpoints

from .pages import FENCE, PAGES, ROOT, name_of

TEXTS = {name_of(page): page.read_text() for page in PAGES}
DECISIONS = {
    name.removeprefix("docs/decisions/"): text
    for name, text in TEXTS.items()
    if re.match(r"docs/decisions/\d", name)
}


def git(*arguments: str) -> str:
    """Return the output of a command of git in the repository; "" if it fails."""
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


COMMIT = re.compile(r"(?<![@\w])[0-9a-f]{7,12}(?!\w)")
"""A hash, but not one of another repository, as in ``owner/name@hash``."""
OTHER_CODE = re.compile(r"published code is [^.]*\.")


def commits(text: str) -> Iterator[str]:
    """Yield the hashes of commits of this repository that a text names."""
    for word in COMMIT.findall(OTHER_CODE.sub("", text)):
        if re.search(r"[a-f]", word) and re.search(r"\d", word):
            yield word


def test_commits_that_pages_name_exist() -> None:
    if git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("the history is not here: a shallow clone, or none")
    named = {(name, word) for name, text in TEXTS.items() for word in commits(text)}
    missing = [
        f"{name}: {word}"
        for name, word in sorted(named)
        if not git("rev-parse", "--verify", "--quiet", f"{word}^{{commit}}")
    ]
    assert named
    assert missing == []


def linked_decisions(text: str, verb: str) -> set[str]:
    """Return the decisions that the sentences with ``verb`` link."""
    sentences = re.findall(rf"{verb}.*?\.(?=\s|$)(?!md)", text)
    return set(re.findall(r"\((\d{4}-[\w-]+\.md)\)", " ".join(sentences)))


def test_decisions_that_replace_each_other_name_each_other() -> None:
    superseded = {
        (new, old)
        for old, text in DECISIONS.items()
        for new in linked_decisions(text, "Superseded")
    }
    replacing = {
        (new, old)
        for new, text in DECISIONS.items()
        for old in linked_decisions(text, "Replaces")
    }
    assert superseded
    assert superseded == replacing
    assert all(old < new for new, old in superseded)


GPU = re.compile(r"\bGPUs?\b")
NOT_ABOUT_GPUS = re.compile(
    r"\b(no|without a|0|64 logical) GPUs?\b|\bGPU hours\b|\bGPU\s+build of torch"
)
"""Matches what is also true where no GPU is."""
CAVEAT = re.compile(
    r"not (\[)?checked on a GPU|[Nn]o (real )?GPU was|on no real (GPU|card)"
    r"|[Nn]othing in this section was \[checked on a GPU|No real GPU, SLURM"
)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in TEXTS
        if name.startswith("docs/") and not name.startswith("docs/commands/")
    ],
)
def test_a_page_that_speaks_of_gpus_says_that_none_was_there(name: str) -> None:
    """The pages of commands are their help."""
    text = re.sub(r"\s+", " ", FENCE.sub("", TEXTS[name]))
    if GPU.search(NOT_ABOUT_GPUS.sub("", text)):
        assert CAVEAT.search(text)


def test_defaults_of_the_slurm_script_are_those_of_its_page() -> None:
    script = (ROOT / "cluster/slurm.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script, re.MULTILINE))
    rows = re.findall(r"^\| `--([\w-]+)` \| ([^|]+) \|", TEXTS["docs/slurm.md"], re.M)
    documented = {name: default for name, default in rows if name in options}
    hours = int(options["time"].partition(":")[0])
    assert documented == {
        name: options[name]
        for name in ("nodes", "cpus-per-task", "gpus-per-node", "ntasks-per-node")
    } | {"time": f"{hours} hours"}


def test_space_and_memory_of_the_readme_are_above_what_the_tour_refuses() -> None:
    makefile = (ROOT / "Makefile").read_text()
    needed = {
        name: round(int(mebibytes) / 1000)
        for name, mebibytes in re.findall(r"^(NEEDED\w*) := (\d+)$", makefile, re.M)
    }
    tour = TEXTS["docs/start.md"]
    assert f"refused below {needed['NEEDED_MIB']} GB" in tour
    assert f"below {needed['NEEDED_WITH_CUDA_MIB']} GB a note" in tour
    asked = re.search(
        r"(\d+) GB of memory, (\d+) GB of disk \((\d+) without CUDA\)",
        TEXTS["README.md"],
    )
    assert asked is not None
    memory, disk, disk_without_cuda = map(int, asked.groups())
    assert disk > needed["NEEDED_WITH_CUDA_MIB"]
    assert disk_without_cuda > needed["NEEDED_MIB"]
    assert f"the README's {disk} GB ({disk_without_cuda} without CUDA)" in tour
    assert f"where the README asks for {memory} |" in tour


def test_numbers_of_seconds_and_bytes_are_those_of_the_code() -> None:
    checkpoint_age = f"{WorkerSettings.checkpoint_seconds:g} s old"
    for name in ("docs/resume.md", "docs/slurm.md"):
        assert checkpoint_age in re.sub(r"\s+", " ", TEXTS[name])
    assert f"after {sharing.EXPIRY_SECONDS:g} seconds" in TEXTS["docs/cluster.md"]
    gibibytes = checkpoints.FLOOR_BYTES / 2**30
    assert f"less than {gibibytes:g} GiB free" in TEXTS["docs/cluster.md"]
    live_state = TEXTS["docs/decisions/0016-live-state.md"]
    assert f"rewritten every {lease.RENEW_SECONDS:g} s" in live_state
    assert f"stands still for {lease.EXPIRY_SECONDS:g} s" in live_state


def test_the_time_of_examples_is_the_limit_that_they_set() -> None:
    examples = [*(ROOT / "examples").glob("*.py"), ROOT / "examples/notebook.ipynb"]
    texts = [example.read_text() for example in examples]
    limits = {
        limit for text in texts for limit in re.findall(r"minutes=([\d.]+)", text)
    }
    assert limits == {"1"}
    page = TEXTS["docs/own-data.md"]
    assert "`minutes=1`: they train for a minute" in page
    assert not any("less than a minute" in text for text in [*texts, page])


def test_doctor_names_the_default_time_of_adapt() -> None:
    assert f"adapt {AdaptOptions.minutes:g} minutes" in _times()
