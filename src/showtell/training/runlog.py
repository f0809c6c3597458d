"""What a run records: one JSON line and one set of TensorBoard points per epoch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from showtell.metrics import Protocol, TextStatistics
from showtell.paths import write_whole
from showtell.training.trackers import Trackers


@dataclass(frozen=True)
class EpochReport:
    """One epoch: its place in the run, its cost, and how its captions score on the validation split (free running)."""

    epoch: int  # from 1, over all phases
    phase: int  # from 1
    train_loss: float | None  # nats per word, as trained: cross-entropy (with smoothing and regularisers) or divergence
    reward: float | None  # mean reward of the drawn captions; None, as the loss is not, unless self-critical
    lr: float
    scores: dict[str, float]
    protocol: Protocol | None  # what they were measured on; the main process knows it
    samples: list[str]
    statistics: TextStatistics  # of the validation captions
    seconds: float
    best: bool
    trains_encoder: bool

    def line(self) -> str:
        """One line for people."""
        s = self.scores
        bleu = " ".join(f"{s[f'bleu_{n}'] * 100:5.1f}" for n in range(1, 5))
        what = "CNN+LSTM" if self.trains_encoder else "LSTM"
        taught = f"loss {self.train_loss:8.3f}" if self.train_loss is not None else f"reward {self.reward:6.3f}"
        return (
            f"epoch {self.epoch:3d}  phase {self.phase} {what:8s}  {taught}  BLEU-1…4 {bleu}  "
            f"ROUGE-L {s['rouge_l'] * 100:5.1f}  CIDEr {s['cider'] * 100:6.1f}{' *' if self.best else '  '}  {self.seconds:5.0f} s"
        )

    def told(self) -> str:
        """What the captions are like, for people."""
        s = self.statistics
        return (
            f"{s.mean_length:.1f} words a caption, {s.vocabulary} different words, {100 * s.distinct:.0f} % of captions differ, "
            f"{100 * s.copies:.0f} % copy a training caption, {100 * s.unfinished:.1f} % end unfinished"
        )

    def to_json(self) -> str:
        """One line for programs."""
        protocol = None if self.protocol is None else self.protocol.to_dict()
        return json.dumps(asdict(self) | {"protocol": protocol}, ensure_ascii=False)


class RunLog:
    """`log.jsonl` and TensorBoard's events in a run's folder, and the recipe's trackers."""

    def __init__(self, folder: Path, *, keep_epochs: int, trackers: Trackers | None = None) -> None:
        """Opens the log and drops lines after epoch `keep_epochs`, which a resumed run trains again."""
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / "log.jsonl"
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        kept = [line for line in lines if (epoch := _epoch(line)) is not None and epoch <= keep_epochs]
        write_whole(self._path, "".join(line + "\n" for line in kept))
        self._trackers = trackers
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=keep_epochs + 1)

    def write(self, report: EpochReport) -> None:
        """Appends one epoch."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(report.to_json() + "\n")
        known = {"loss/train": report.train_loss, "reward/train": report.reward, "lr": report.lr}
        points = {name: value for name, value in known.items() if value is not None}
        points |= {f"val/{name}": value for name, value in report.scores.items()}
        for name, value in points.items():
            self._events.add_scalar(name, value, report.epoch)
        self._events.add_text("val/samples", "  \n".join(report.samples), report.epoch)
        self._events.flush()
        if self._trackers is not None:
            self._trackers.tell(points, epoch=report.epoch)

    def close(self) -> None:
        """Closes the event file, and the trackers."""
        self._events.close()
        if self._trackers is not None:
            self._trackers.close()


def _epoch(line: str) -> int | None:
    try:
        return int(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):  # a line cut off by a crash
        return None
