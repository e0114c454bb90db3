"""One training loop for every network that this package trains."""

from equipoise.training.loop import SCORES as SCORES
from equipoise.training.loop import STOPS as STOPS
from equipoise.training.loop import Options as Options
from equipoise.training.loop import Stop as Stop
from equipoise.training.loop import Trained as Trained
from equipoise.training.loop import Trainer as Trainer
from equipoise.training.loop import predict as predict
from equipoise.training.loop import train as train
from equipoise.training.networks import Alone as Alone
from equipoise.training.networks import Copies as Copies
from equipoise.training.networks import load as load
from equipoise.training.networks import separable as separable
from equipoise.training.rows import Rows as Rows
from equipoise.training.rows import Source as Source
