"""A small judge: runs every program of a directory, trusts none, and says how each one did.

    python examples/01_judge.py [DIRECTORY]

The problem: add the integers on standard input. What a submission may use is written down once, in
`LIMITS`; everything else that keeps it in is what `pycontainer.run` does by default.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs

import pycontainer

SUBMISSIONS = Path(__file__).parent / "submissions"
CASES = (
    (b"1 2 3\n", b"6"),
    (b"5000000000 -1\n", b"4999999999"),
    (b"\n", b"0"),
)
LIMITS = pycontainer.Spec(
    memory="64M",
    pids=16,
    cpu_time=0.5,
    wall_time=1.5,
    output="1M",
    tmp_size="8M",
    shm_size="1M",
)
# A compiler is a program that strangers feed: it gets limits as well, only wider ones.
COMPILER_LIMITS = pycontainer.Spec(memory="512M", pids=16, cpu_time=5, wall_time=10, output="8M")
COMPILE = ["sh", "-c", "cc -O1 -x c -o /tmp/program - && cat /tmp/program"]
COMMANDS = {
    ".py": ["python3", "/box/program"],
    ".sh": ["sh", "/box/program"],
    ".c": ["/box/program"],
}


@attrs.frozen(kw_only=True)
class Verdict:
    """How one submission did. Times in seconds, sizes in bytes: the worst of its runs."""

    submission: str
    verdict: str
    wall_time: float = 0.0
    cpu_time: float = 0.0
    peak_memory: int = 0
    note: str = ""


def judge(submission: Path) -> Verdict:
    """Compile it if need be, then run it on every case until one goes wrong."""
    program = submission.read_bytes()
    if submission.suffix == ".c":
        compiled = pycontainer.run(
            COMPILE, input=program, capture_output=True, spec=COMPILER_LIMITS
        )
        if outcome(compiled) != "OK":
            return make_verdict(submission, "COMPILE_ERROR", [compiled])
        program = compiled.stdout
    with tempfile.TemporaryDirectory() as box:
        place_program(Path(box), program)
        runs: list[pycontainer.CompletedProcess] = []
        verdict = "OK"
        for given, expected in CASES:
            runs.append(run_inside(box, COMMANDS[submission.suffix], given))
            verdict = outcome(runs[-1], expected)
            if verdict != "OK":
                break
    return make_verdict(submission, verdict, runs)


def place_program(box: Path, program: bytes) -> None:
    # Inside it runs as a user who is nobody out here: others must be able to read it.
    box.chmod(0o755)
    (box / "program").write_bytes(program)
    (box / "program").chmod(0o755)


def run_inside(box: str, command: list[str], given: bytes) -> pycontainer.CompletedProcess:
    mounts = [pycontainer.Mount(box, "/box")]  # read-only, as nothing else was said
    return pycontainer.run(command, input=given, capture_output=True, spec=LIMITS, mounts=mounts)


def outcome(result: pycontainer.CompletedProcess, expected: bytes | None = None) -> str:
    """One word: the limit that ended it, or what is to be said of its answer."""
    if result.exit_reason is not pycontainer.ExitReason.EXITED:
        return result.exit_reason.name
    if result.returncode != 0:
        return "RUNTIME_ERROR"
    if expected is not None and result.stdout.strip() != expected:
        return "WRONG"
    return "OK"


def make_verdict(
    submission: Path, verdict: str, runs: list[pycontainer.CompletedProcess]
) -> Verdict:
    return Verdict(
        submission=submission.name,
        verdict=verdict,
        wall_time=max(run.usage.wall_time for run in runs),
        cpu_time=max(run.usage.cpu_time for run in runs),
        peak_memory=max(run.usage.peak_memory or 0 for run in runs),
        note=make_note(runs[-1]),
    )


def make_note(result: pycontainer.CompletedProcess) -> str:
    if result.usage.pids_refused:
        return f"{result.usage.pids_refused} forks refused"
    lines = result.stderr.decode(errors="replace").splitlines()
    unsafe_note = lines[-1] if lines else ""
    # It comes from inside and goes to a terminal: no escape sequences, no endless lines.
    return "".join(char if char.isprintable() else "?" for char in unsafe_note)[:60]


def table(verdicts: list[Verdict]) -> Iterator[str]:
    yield f"{'submission':18}{'verdict':15}{'wall':>8}{'cpu':>8}{'memory':>10}  note"
    for each in verdicts:
        yield (
            f"{each.submission:18}{each.verdict:15}{each.wall_time:6.2f} s{each.cpu_time:6.2f} s"
            f"{each.peak_memory / 2**20:6.1f} MiB  {each.note}"
        ).rstrip()


def main(directory: Path) -> None:
    found = sorted(path for path in directory.iterdir() if path.suffix in COMMANDS)
    print("\n".join(table([judge(path) for path in found])))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else SUBMISSIONS)
    except pycontainer.UnsupportedError as error:
        # A limit that this machine cannot hold; the text says how it could.
        sys.exit(str(error))
