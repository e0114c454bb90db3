"""Methods for a minimum probability: whether they keep it in every step, and their returns, on three tasks.

python examples/floors.py    a table for each of FrozenLake, CliffWalking and Taxi; six minutes on one core

Needs pip install 'equipoise[compare,rl]'. Each policy is a table of logits, trained by an actor-critic, many
runs at once. In each run every policy begins alike and has the same random numbers to draw by.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium
import pandas as pd
import torch
from paired import interval, shown
from torch import Tensor

from equipoise.distributions import MapCategorical
from equipoise.losses.base import Loss
from equipoise.maps import Clipped, ClippedLogits, Floored, Map, Projected, Softmax
from equipoise.penalties import Entropy, LogitRange

TASKS = {"FrozenLake-v1": 100, "CliffWalking-v1": 200, "Taxi-v4": 200}  # and steps until an episode is cut
FLOOR, LANES, LENGTH, DISCOUNT, TRACE, RATE = 0.02, 32, 32, 0.99, 0.95, 0.1
SHARE, SMALLEST, RETURN, LIKELIEST = "below the floor in %", "smallest", "return", "by its likeliest action"


def policies(actions: int) -> dict[str, tuple[Map, Loss | None]]:
    """Return a map and a penalty for each method, set to FLOOR for a number of actions."""
    hinge = LogitRange.for_floor(FLOOR, actions)
    half = (hinge.width or 0.0) / 2
    return {
        "softmax": (Softmax(), None),
        "Floored": (Floored(FLOOR), None),
        "Projected": (Projected(FLOOR), None),
        "Clipped, at f / (1 - (n - 1) f)": (Clipped(FLOOR / (1 - (actions - 1) * FLOOR)), None),
        "ClippedLogits": (ClippedLogits(-half, half), None),
        "Clipped, at f": (Clipped(FLOOR), None),
        **{f"{weight} LogitRange": (Softmax(), weight * hinge) for weight in (0.01, 0.1, 1.0)},
        **{f"-{weight} Entropy": (Softmax(), -weight * Entropy()) for weight in (0.01, 0.1)},
    }


class Task:
    """A gymnasium task, as tensors of the transitions of each state and action."""

    def __init__(self, name: str) -> None:
        inner: Any = gymnasium.make(name).unwrapped
        self.limit, self.start = TASKS[name], torch.tensor(inner.initial_state_distrib).float()
        self.states, self.actions = int(inner.observation_space.n), int(inner.action_space.n)
        most = max(len(inner.P[s][a]) for s in range(self.states) for a in range(self.actions))
        ends = torch.zeros(self.states, self.actions, most, 4)
        for s in range(self.states):
            for a in range(self.actions):
                for k, (prob, *rest) in enumerate(inner.P[s][a]):
                    ends[s, a, k] = torch.tensor([prob, *map(float, rest)])
        self.prob, self.next, self.reward, self.over = ends[..., 0].cumsum(-1), *ends[..., 1:].unbind(-1)

    def begin(self, shape: torch.Size) -> Tensor:
        """Return first states."""
        return self.start.multinomial(shape.numel(), replacement=True).view(shape)

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next states, the rewards, and whether the episodes are over."""
        drawn = torch.rand(state.shape)[..., None] > self.prob[state, action]
        at = state, action, drawn[..., :-1].sum(-1)
        return self.next[at].long(), self.reward[at], self.over[at].bool()


class Lanes:
    """Episodes that run side by side, one in each lane, and the returns of those that ended."""

    def __init__(self, task: Task, runs: int) -> None:
        self.task, self.state = task, task.begin(torch.Size([runs, LANES]))
        self.age, self.sum = torch.zeros(runs, LANES), torch.zeros(runs, LANES)
        self.total, self.ended = torch.zeros(runs), torch.zeros(runs)

    def act(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Take a step; return the state it led to, the reward, and whether the episode is over or is cut."""
        after, reward, over = self.task.step(self.state, action)
        self.age, self.sum = self.age + 1, self.sum + reward
        cut = self.age >= self.task.limit
        ended = (over | cut).float()
        self.total, self.ended = self.total + (ended * self.sum).sum(1), self.ended + ended.sum(1)
        self.age, self.sum = self.age * (1 - ended), self.sum * (1 - ended)
        self.state = torch.where(ended.bool(), self.task.begin(after.shape), after)
        return after, reward, over, cut

    def mean(self) -> Tensor:
        """Return the mean return of each run's ended episodes."""
        return self.total / self.ended.clamp(min=1)


def trained(task: Task, name: str, runs: int, updates: int) -> pd.DataFrame:
    """Train many runs of one policy; return the results of each."""
    torch.manual_seed(0)
    shape, penalty = policies(task.actions)[name]
    logits = torch.zeros(runs, task.states, task.actions, requires_grad=True)
    optimiser, lanes = torch.optim.Adam([logits], lr=RATE), Lanes(task, runs)
    values, each = torch.zeros(runs, task.states), torch.arange(runs)[:, None]
    below, smallest = torch.zeros(runs), torch.ones(runs)
    for update in range(updates):
        if update == updates * 3 // 4:  # the last quarter counts
            lanes.total, lanes.ended = torch.zeros(runs), torch.zeros(runs)
        steps, probs = [], []
        with torch.no_grad():
            for _ in range(LENGTH):
                state = lanes.state
                policy = MapCategorical(shape, logits=logits[each, state], validate_args=False)
                action = policy.sample()
                steps.append((state, action, *lanes.act(action)))
                probs.append(policy.probs)
            state, action, after, reward, over, cut = map(torch.stack, zip(*steps, strict=True))
            acted = torch.stack(probs)
            below += (acted < FLOOR * (1 - 1e-6)).float().mean((0, 2, 3)) / updates
            smallest = smallest.minimum(acted.amin((0, 2, 3)))
            ahead = reward + DISCOUNT * ~over * values[each, after]
            advantage, later = ahead - values[each, state], torch.zeros(runs, LANES)
            for k in reversed(range(LENGTH)):
                later = advantage[k] + DISCOUNT * TRACE * ~(over[k] | cut[k]) * later
                advantage[k] = later
            visits = torch.stack((torch.ones_like(advantage), advantage))
            at = (each * task.states + state).flatten()
            count, error = torch.zeros(2, values.numel()).index_add(1, at, visits.flatten(1))
            values += 0.5 * (error / count.clamp(min=1)).view_as(values)
            advantage = (advantage - advantage.mean((0, 2), True)) / (
                advantage.std((0, 2), keepdim=True) + 1e-6
            )
        seen = logits[each, state]
        policy = MapCategorical(shape, logits=seen, validate_args=False)
        loss = -(advantage * policy.log_prob(action)).sum()
        if penalty is not None:
            loss = loss + penalty(seen.flatten(0, 2), reduction="sum")
        optimiser.zero_grad()
        (loss / (LENGTH * LANES)).backward()
        optimiser.step()
    by_likeliest = Lanes(task, runs)
    for _ in range(2 * task.limit):
        by_likeliest.act(logits.detach()[each, by_likeliest.state].argmax(-1))
    reached = {SHARE: 100 * below, SMALLEST: smallest, RETURN: lanes.mean(), LIKELIEST: by_likeliest.mean()}
    return pd.DataFrame(
        {"policy": name, "run": range(runs), **{key: of.tolist() for key, of in reached.items()}}
    )


def table(found: pd.DataFrame) -> str:
    """Return shares, smallest probabilities and mean returns with paired differences from softmax."""
    heads = ["policy", SHARE, SMALLEST, RETURN, LIKELIEST]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, group in found.groupby("policy", sort=False):
        cells = [f"{group[SHARE].mean():.2g}", f"{group[SMALLEST].min():.2g}"]
        for column in (RETURN, LIKELIEST):
            plain = found.loc[found.policy == "softmax", column]
            less = "" if name == "softmax" else " " + shown(interval(group[column], plain), 2)
            cells.append(f"{group[column].mean():.2f}{less}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    """Train every policy on every task and print a table for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--updates", type=int, default=500)
    given = parser.parse_args(argv)
    found = {}
    for name in given.tasks:
        task = Task(name)
        parts = [trained(task, policy, given.runs, given.updates) for policy in policies(task.actions)]
        found[name] = pd.concat(parts)
        print(
            f"{name}, {task.actions} actions, floor {FLOOR}, {given.runs} runs\n\n{table(found[name])}\n",
            flush=True,
        )
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
