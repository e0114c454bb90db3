"""A Lightning run on digits with wrong labels, in which gamma rises with the steps.

600 rows to train, a share of them with a wrong label; the others, with true labels, to test. Prints the log
of the monitor, and the accuracies of this run and of plain cross entropy with the same initial weights.
"""

import argparse
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from equipoise import Objective
from equipoise.integrations.lightning import ConfidenceMonitor, ScheduleCallback
from equipoise.losses import CrossEntropy, GammaCrossEntropy
from equipoise.schedules import Linear

ROWS = 600  # to train
BATCH = 64


class Classifier(LightningModule):
    """A network with one hidden layer, and the objective it is trained with."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        self.model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        del batch_idx
        inputs, target = batch
        return self.objective(self.model(inputs), target)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def run(objective: Objective, noise: float, epochs: int, seed: int) -> tuple[float, pd.DataFrame]:
    """Return the accuracy on true labels, and the log."""
    digits: Any = load_digits()
    inputs = torch.tensor(digits.data / 16, dtype=torch.float32)
    rows, test = train_test_split(range(len(inputs)), train_size=ROWS, random_state=seed)
    target = torch.tensor(digits.target)
    seed_everything(seed, verbose=False)
    wrong = torch.rand(ROWS) < noise
    labels = torch.where(wrong, (target[rows] + torch.randint(1, 10, (ROWS,))) % 10, target[rows])
    module = Classifier(objective)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=CSVLogger(folder, name="", version=""),
            callbacks=[ScheduleCallback(), ConfidenceMonitor()],
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        batches = DataLoader(TensorDataset(inputs[rows], labels), batch_size=BATCH, shuffle=True)
        trainer.fit(module, batches)
        log = pd.read_csv(Path(folder) / "metrics.csv")
    with torch.no_grad():
        right = module.model(inputs[test]).argmax(1) == target[test]
    return right.float().mean().item(), log


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train both, print the log and the accuracies, and return these."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--noise", type=float, default=0.4)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    steps = given.epochs * -(-ROWS // BATCH)
    rising = Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0.0, 0.8, steps=steps)})
    found = {}
    for name, objective in (("cross entropy", Objective(CrossEntropy())), ("gamma rises", rising)):
        found[name], log = run(objective, given.noise, given.epochs, given.seed)
    shown = log[[name for name in log if name.startswith("objective/")]]
    print(shown.iloc[:: max(1, len(shown) // 10)].round(3).to_string(index=False))
    for name, accuracy in found.items():
        print(f"{name}: {accuracy:.1%} of true labels")
    return found


if __name__ == "__main__":
    main()
