"""Exploration with floors, entropy bonuses and hinges, on a bandit that changes, and PPO with a floor.

Prints gradients and two tables, writes all numbers and a picture. Needs pip install 'equipoise[compare,rl]'.
"""

import argparse
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from joblib import Parallel, delayed
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from equipoise.compare.statistics import compare_paired
from equipoise.distributions import MapCategorical
from equipoise.integrations.stable_baselines3 import MapActorCriticPolicy
from equipoise.maps import Clipped, ClippedLogits, Floored, Softmax
from equipoise.penalties import Entropy, LogitRange

ARMS, FLOOR = 10, 0.01
BOUND = ClippedLogits(-2.35, 2.35)  # as wide as the hinge
POLICIES = {
    "softmax": (Softmax(), None),
    "floor": (Floored(FLOOR), None),
    "clip": (Clipped(FLOOR), None),
    "bound": (BOUND, None),
    "entropy 0.02": (Softmax(), -0.02 * Entropy()),
    "entropy 0.05": (Softmax(), -0.05 * Entropy()),
    "entropy 0.1": (Softmax(), -0.1 * Entropy()),
    "narrow hinge": (Softmax(), LogitRange.for_floor(FLOOR, ARMS)),
    "hinge": (Softmax(), LogitRange.for_floor(FLOOR / 10, ARMS)),
    "floor + hinge": (Floored(FLOOR), LogitRange.for_floor(FLOOR / 10, ARMS)),
    "bound + hinge": (BOUND, LogitRange(low=BOUND.low, high=BOUND.high)),
}
PLAYERS = {"PPO": ("MlpPolicy", None), "PPO with a floor": (MapActorCriticPolicy, {"map": Floored(0.05)})}
LEARNING: Any = {"learning_rate": 3e-3, "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98}
DRAWN = ["softmax", "floor", "entropy 0.1", "hinge", "floor + hinge"]
MEANS, EXTREMES = {"found in %": 0, "before": 3, "after": 3}, ["smallest probability", "largest 1/p"]


def bandit(name: str, runs: int, steps: int, hinge: float) -> tuple[pd.DataFrame, torch.Tensor]:
    """Run REINFORCE on many bandits at once; return the results of each, and mean traces (2, steps)."""
    torch.set_num_threads(1)
    torch.manual_seed(0)  # the same bandits, noise and draws of `sample` for every policy
    (shape, penalty), weight = POLICIES[name], hinge if "hinge" in name else 1.0
    means, log = torch.rand(runs, ARMS) / 2, torch.zeros(4, steps, runs)
    worst = means.argmin(1, keepdim=True)
    logits, usual = torch.zeros(runs, ARMS, requires_grad=True), torch.zeros(runs)
    optimiser = torch.optim.SGD([logits], lr=0.2)
    for step in range(steps):
        if step == steps // 2:
            means.scatter_(1, worst, 1.0)
        policy = MapCategorical(shape, logits=logits, validate_args=False)
        arm = policy.sample()
        mean, probs = means.gather(1, arm[:, None])[:, 0], policy.probs.detach()
        log[:2, step] = torch.stack((mean, probs.amin(1)))
        log[2:, step] = probs.gather(1, torch.cat((arm[:, None], worst), 1)).T
        surprise = mean + 0.1 * torch.randn(runs) - usual
        usual += 0.05 * surprise
        loss = -(surprise * policy.log_prob(arm)).sum()
        optimiser.zero_grad()
        (loss + weight * penalty(logits, reduction="sum") if penalty else loss).backward()
        optimiser.step()
    halves = log[0, : steps // 2].mean(0), log[0, steps // 2 :].mean(0)
    found = 100 * (logits.argmax(1) == worst[:, 0]), *halves, log[1].amin(0), 1 / log[2].amin(0)
    frame = pd.DataFrame(torch.stack(found, 1).numpy(), columns=[*MEANS, *EXTREMES])
    return frame.assign(policy=name, seed=range(runs)), torch.stack((log[0].mean(1), log[3].median(1).values))


def noting(made: Any, seen: list[float], action_logits: torch.Tensor) -> Any:
    """Return the distribution of the policy, and record its smallest probability."""
    shown = made(action_logits)
    seen.append(shown.distribution.probs.min().item())
    return shown


def cartpole(name: str, seed: int, steps: int) -> pd.DataFrame:
    """Train PPO for half of the steps, save it, load it, and train the loaded policy for the other half."""
    torch.set_num_threads(1)
    (kind, kwargs), env, seen, saved = PLAYERS[name], make_vec_env("CartPole-v1", 8, seed=seed), [], BytesIO()
    model = PPO(kind, env, policy_kwargs=kwargs, seed=seed, device="cpu", **LEARNING)
    for half in range(2):
        model = PPO.load(saved, env, device="cpu") if half else model
        shown: Any = model.policy.action_dist  # all that the policy does goes through it, acting and training
        shown.proba_distribution = partial(noting, shown.proba_distribution, seen)
        model.learn(steps // 2, reset_num_timesteps=not half).save(saved)
    last = pd.Series([episode["r"] for episode in model.ep_info_buffer or []])[-20:].mean()
    found = pd.DataFrame([[last, min(seen), 1 / min(seen)]], columns=["return", *EXTREMES])
    return found.assign(policy=name, seed=seed, steps=model.num_timesteps, looks=len(seen))


def table(found: pd.DataFrame, means: dict[str, int]) -> str:
    """Return means, paired differences from the first policy (no two runs share data), and extremes."""
    lines = {name: f"| {name} |" for name in found.policy.unique()}
    for column, k in means.items():
        plain, *others = found.pivot_table(column, "seed", "policy")[list(lines)].T.to_numpy()
        compared = [None, *compare_paired(others, plain, "higher")]
        for name, values, d in zip(lines, [plain, *others], compared, strict=True):
            change = f" {d.mean:+.{k}f} ({d.low:.{k}f} to {d.high:.{k}f}) {d.call}" if d else ""
            lines[name] += f" {values.mean():.{k}f}{change} |"
    for name, group in found.groupby("policy"):
        lines[name] += f" {group[EXTREMES[0]].min():.3g} | {group[EXTREMES[1]].max():.0f} |"
    head = f"| {' | '.join(['policy', *means, *EXTREMES])} |\n|{' --- |' * (len(means) + 3)}\n"
    return head + "\n".join(lines.values())


def main(argv: list[str] | None = None) -> None:
    """Run the bandits and CartPole, print what they reached, draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    sizes = {"runs": 100, "steps": 8000, "hinge": 0.1, "ppo-seeds": 8, "ppo-steps": 12288, "jobs": 2}
    for option, value in {**sizes, "out": Path("exploration")}.items():
        parser.add_argument(f"--{option}", type=type(value), default=value)
    given = parser.parse_args(argv)
    jobs = [delayed(bandit)(name, given.runs, given.steps, given.hinge) for name in POLICIES]
    jobs += [delayed(cartpole)(p, seed, given.ppo_steps) for p in PLAYERS for seed in range(given.ppo_seeds)]
    done: list[Any] = list(Parallel(n_jobs=given.jobs)(jobs))
    bandits, traces = zip(*done[: len(POLICIES)], strict=True)
    found, played = pd.concat(bandits), pd.concat(done[len(POLICIES) :])
    given.out.mkdir(parents=True, exist_ok=True)
    pd.concat([found, played]).to_csv(given.out / "exploration.csv", index=False)
    print("At logits (60, 0, 0, 0) the logit of the second action is pulled up by")
    logits = torch.tensor([60.0, 0.0, 0.0, 0.0], requires_grad=True)
    pulls: dict[Any, torch.Tensor] = {map: map.log_probs(logits)[1] for map in (Softmax(), Floored(0.05))}
    pulls |= {loss: -loss(logits[None]) for loss in (-0.1 * Entropy(), 0.1 * LogitRange(width=4.0))}
    for what, pull in pulls.items():
        taken = f" when it is taken, of probability {pull.exp():.2g}" if hasattr(what, "probs") else ""
        print(f"- {what}: {torch.autograd.grad(pull, logits)[0][1]:.2g}{taken}")
    print(f"\n{table(found, MEANS)}\n\n{table(played, {'return': 0})}")
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "exploration", "font.size": 9}):
        figure, both = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
        each, label = -(-given.steps // 120), f"step; at {given.steps // 2} the worst arm becomes the best"
        for name in DRAWN:
            for axes, trace in zip(both, traces[list(POLICIES).index(name)], strict=True):
                mean = trace.unfold(0, each, each).mean(1)
                axes.plot([each * (k + 0.5) for k in range(len(mean))], mean, label=name)
        both[0].set(xlabel=label, ylabel="reward, mean over runs")
        both[1].set(xlabel=label, ylabel="probability of that arm, median over runs", yscale="log")
        both[0].legend()
        figure.savefig(given.out / "exploration.svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
