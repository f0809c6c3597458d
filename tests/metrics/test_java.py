"""METEOR is pycocoevalcap's; a Java program that is missing, fails, hangs or talks nonsense is a reason, not a fault."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from showtell.metrics import Protocol, bootstrap, compare, evaluate
from showtell.metrics import java as javas
from showtell.metrics.java import JavaScore, Skipped, meteor, score_meteor, spice
from showtell.metrics.significance import _resampled

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
PROTOCOL = Protocol("made up", "test", 1, "5", "PTB", "none", "0")


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder on the path for a `java` of our own, and programs' files that are there."""
    for name, jar in (("meteor", "meteor-1.5.jar"), ("spice", "spice-1.0.jar")):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / jar).touch()
    monkeypatch.setenv("PATH", str(tmp_path / "bin") + os.pathsep + os.environ["PATH"])
    (tmp_path / "bin").mkdir()
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    return tmp_path


def write_java(programs: Path, body: str) -> None:
    path = programs / "bin" / "java"
    path.write_text(f"#!{sys.executable}\nimport sys, time, json, os\n{body}\n")
    path.chmod(0o755)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_meteor_is_pycocoevalcaps() -> None:
    module: Any = pytest.importorskip("pycocoevalcap.meteor.meteor", reason="needs pycocoevalcap (the extra 'java')")
    if shutil.which("java") is None:
        pytest.skip("needs java")
    candidates, references = GOLDEN["candidates"], GOLDEN["references"]
    found = meteor(candidates, references)
    assert isinstance(found, JavaScore)
    corpus, each = module.Meteor().compute_score(
        dict(enumerate(references)), {i: [c] for i, c in enumerate(candidates)}
    )
    assert (found.corpus, found.each) == (corpus, each)
    assert found.tallies is not None
    assert score_meteor(found.tallies).tolist() == pytest.approx(each, abs=1e-12)
    assert float(score_meteor(found.tallies.sum(0))) == pytest.approx(corpus, abs=1e-12)
    assert abs(corpus - np.mean(each)) > 1e-4  # so a mean would not have done


def test_meteor_has_intervals_and_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def made_up(candidates: list[str], references: list[list[str]]) -> JavaScore:
        draw = np.random.default_rng(len(candidates[0]))
        tallies = draw.integers(1, 6, size=(len(candidates), 23)).astype(float)
        tallies[:, 0:2] += 40
        return JavaScore(float(score_meteor(tallies.sum(0))), score_meteor(tallies).tolist(), tallies)

    monkeypatch.setitem(javas.METRICS, "meteor", made_up)
    references = GOLDEN["references"]
    first = evaluate(GOLDEN["candidates"], references, protocol=PROTOCOL, more=["meteor"])
    second = evaluate([row[0] for row in references], references, protocol=PROTOCOL, more=["meteor"])
    interval = bootstrap(first)["meteor"]
    assert interval.low < interval.score < interval.high
    drawn = _resampled([first.parts], 5, seed=3)[0]
    counts = np.random.default_rng(3).multinomial(
        len(references), np.full(len(references), 1 / len(references)), size=5
    )
    tallies = next(part.sums for part in first.parts if part.names == ("meteor",))
    for row, times in zip(drawn, counts, strict=True):
        assert row[-1] == pytest.approx(float(score_meteor(np.repeat(tallies, times, axis=0).sum(0))))
    found = compare(first, second)
    assert found["meteor"].difference == pytest.approx(second.scores["meteor"] - first.scores["meteor"])
    without = evaluate(GOLDEN["candidates"], references, protocol=PROTOCOL)
    compared = compare(without, second)
    assert list(compared) == [name for name in found if name != "meteor"]
    for name, value in compared.items():
        assert astuple(value) == pytest.approx(astuple(found[name]), abs=1e-9)


def test_no_extra_and_no_java_are_reasons(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(programs / "bin"))
    assert meteor(["a"], [["a"]]) == Skipped(
        "METEOR was skipped: there is no 'java' on the path; install a Java runtime (8 or later)"
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for found in (meteor(["a"], [["a"]]), spice(["a"], [["a"]])):
        assert isinstance(found, Skipped)
        assert "pip install 'showtell[java]'" in found.reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit('Error: Unsupported class version')", "Unsupported class version"),
        ("sys.exit(3)", "exit code 3"),
        ("print('nonsense', flush=True); sys.stdin.read()", "no answer"),
        ("sys.stdout.close(); time.sleep(60)", "no answer"),
        ("time.sleep(60)", "waiting for too long"),
    ],
)
def test_a_program_that_does_not_answer_is_ended(
    programs: Path, monkeypatch: pytest.MonkeyPatch, body: str, reason: str
) -> None:
    monkeypatch.setitem(javas._SECONDS, "meteor", (1.0, 0.0))
    pid = programs / "pid"
    write_java(programs, f"open({str(pid)!r}, 'w').write(str(os.getpid()))\n{body}")
    started = time.monotonic()
    found = meteor(["a dog"] * 3, [["a cat", "a dog"]] * 3)
    assert isinstance(found, Skipped)
    assert reason in found.reason
    assert time.monotonic() - started < 30
    assert not pid.exists() or not alive(int(pid.read_text()))


def test_much_is_written_while_nothing_is_read(programs: Path) -> None:
    """More than a pipe holds, in both directions: neither side waits for the other."""
    counts = " ".join(["1.0"] * 23)
    write_java(
        programs,
        "lines = 0\nfor line in sys.stdin:\n"
        f"    if line.startswith('SCORE'): print({counts!r}, flush=True); lines += 1\n"
        "    else: [print(0.5, flush=True) for _ in range(lines + 1)]\n",
    )
    found = meteor(["a dog runs " * 20] * 2000, [["a cat " * 50]] * 2000)
    assert isinstance(found, JavaScore), found
    assert (found.corpus, len(found.each)) == (0.5, 2000)


def test_an_interruption_leaves_no_program_behind(programs: Path) -> None:
    pid = programs / "pid"
    write_java(programs, f"open({str(pid)!r}, 'w').write(str(os.getpid()))\nprint('1', flush=True)\ntime.sleep(60)")

    def interrupted() -> None:
        with javas._program(("java",), programs, seconds=30) as (_, read):
            read()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not alive(int(pid.read_text()))


def test_spice_is_read_or_skipped(programs: Path) -> None:
    write_java(programs, "")
    found = spice(["a dog"], [["a cat"]])
    assert isinstance(found, Skipped)
    assert "fetch them once" in found.reason
    (programs / "spice" / "lib" / javas._MODELS).touch()
    write_java(
        programs,
        "asked = json.load(open(sys.argv[sys.argv.index('spice-1.0.jar') + 1]))\n"
        "answer = [{'image_id': e['image_id'], 'scores': {'All': {'f': e['image_id'] / 4}}} for e in reversed(asked)]\n"
        "json.dump(answer, open(sys.argv[sys.argv.index('-out') + 1], 'w'))\n",
    )
    assert spice(["a", "b", "c"], [["x"]] * 3) == JavaScore(0.25, [0.0, 0.25, 0.5])
    write_java(programs, "sys.exit('java.lang.reflect.InaccessibleObjectException: no')")
    found = spice(["a"], [["x"]])
    assert isinstance(found, Skipped)
    assert "InaccessibleObjectException" in found.reason
