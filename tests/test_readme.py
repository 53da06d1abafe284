"""README.md tells the truth: examples run, defaults are the defaults, links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pycontainer
from pycontainer.spec import DEFAULTS
from tests.inside import own_bases
from tests.require import require

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
FIELDS = set(pycontainer.Spec.__annotations__) | {"env", "pass_fds", "timeout", "check", "cwd"}


@pytest.fixture(autouse=True)
def bases_of_this_test() -> Iterator[None]:
    with own_bases():
        yield


def test_each_kind_of_user_has_an_example() -> None:
    assert 3 == len(EXAMPLES)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs_as_it_stands(number: int) -> None:
    found = pycontainer.run(["true"]).not_enforced
    require("cgroup", "memory" not in found, "no memory controller may be used here")
    exec(compile(EXAMPLES[number], f"README.md, example {number}", "exec"), {})


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("memory", "1 GiB of memory"),
        ("pids", "256 processes"),
        ("output", "64 MiB of output"),
        ("file_size", "files of 1 GiB"),
        ("open_files", "1,024 open files"),
        ("tmp_size", "`/tmp` of 256 MiB"),
        ("shm_size", "`/dev/shm` of 64 MiB"),
    ],
)
def test_a_default_is_the_one_that_is_documented(field: str, text: str) -> None:
    assert text in README
    number, unit = re.findall(r"([\d,]+) (MiB|GiB)?", text + " ")[0]
    scale = {"MiB": 1 << 20, "GiB": 1 << 30, "": 1}[unit]
    assert DEFAULTS[field] == int(number.replace(",", "")) * scale


def test_every_keyword_that_is_named_exists() -> None:
    named = set(re.findall(r"`([a-z_]+)=", README))
    assert set() == named - FIELDS


@pytest.mark.parametrize("target", re.findall(r"\]\(([^):]+)\)", README))
def test_a_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).is_file()
