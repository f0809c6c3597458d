"""The metrics agree with people as much as the published ones do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "judgements.py"


@pytest.mark.slow
def test_correlation_with_the_experts_is_the_published_one(shared: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(shared / "data" / "flickr8k")], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bleu_4"] == pytest.approx(30.8, abs=0.1)
    assert found["rouge_l"] == pytest.approx(32.3, abs=0.1)
    assert found["cider"] == pytest.approx(43.9, abs=0.1)
    if "meteor" in found:  # with Java and the extra
        assert found["meteor"] == pytest.approx(41.8, abs=0.1)
