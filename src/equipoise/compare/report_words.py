"""What was done and how it was judged, as the report says it at its end."""

from typing import TYPE_CHECKING

from equipoise.compare.sentences import deciding, noise_words, splits_words, worthwhile

if TYPE_CHECKING:
    from equipoise.compare.results import Result

__all__ = ["settings_words", "statistics_words"]

MOST_CLASSES_SHOWN = 24
_ROLES = {"test": "Test rows", "clean": "Clean labels", "group": "Groups", "time": "Times"}
_STOPS = {
    "calibrated": "the smallest calibrated NLL",
    "own": "the smallest value of the objective itself",
    "accuracy": "the highest accuracy",
    "nll": "the smallest raw NLL",
}


def settings_words(result: "Result") -> list[tuple[str, str]]:
    """Return what was done, as terms and descriptions."""
    plan, settings, training = result.plan, result.plan.settings, result.plan.settings.training
    dataset, parts = plan.conditions.dataset, plan.conditions.splits[0]
    shown = ", ".join(dataset.classes[:MOST_CLASSES_SHOWN])
    more = len(dataset.classes) - MOST_CLASSES_SHOWN
    model = "linear" if training.model == "linear" else f"one hidden layer of {training.width} (mlp)"
    stop = (
        f"the epoch of {_STOPS[training.stop]} on the validation rows is kept, training ends after "
        f"{training.patience} epochs without a better one"
        if training.stop in _STOPS
        else "the last epoch is kept (--stop none)"
    )
    lines = [
        ("Data", f"{dataset.name}: {len(dataset.labels)} rows, {dataset.features.shape[1]} columns"),
        *(("Note", note) for note in dataset.notes),
        ("Classes", f"{len(dataset.classes)}: {shown}" + (f" and {more} more" if more > 0 else "")),
        (
            "Splits",
            f"{splits_words(result)}; in each {len(parts.train)} rows to train, {len(parts.validation)} to "
            f"choose epoch, calibration and setting, {len(parts.test)} to test",
        ),
        ("Label noise", noise_words(result)),
        (
            "Training",
            f"{model}; at most {training.epochs} epochs, batches of {training.batch_size}, AdamW with "
            f"learning rate {training.lr:g} and weight decay {training.weight_decay:g}",
        ),
        ("Epoch", stop),
        (
            "Tuning",
            f"{settings.tune} settings of each objective, the baseline's included, chosen on validation rows"
            if settings.tune
            else "none: one setting of each objective",
        ),
        (
            "Pairing",
            "in each split every objective has the same rows, flipped labels, initial weights and order of "
            "batches",
        ),
        ("Trials", f"{result.trials}, of which {result.reused} were there from before"),
    ]
    if training.class_weight:
        lines.append(("Class weights", f"{training.class_weight}, for every objective"))
    for name, said in _ROLES.items():
        if value := getattr(settings, name):
            lines.append((said, f"{value} (--{name})"))
    if plan.costs_from == "costs":
        lines.append(("Costs", f"from {settings.costs}, indexed [true, predicted]"))
    if plan.costs_from == "similarity":
        lines.append(
            (
                "Costs",
                f"made from {settings.similarity}: how much less alike the predicted class is than the "
                "true one, similarity[true, true] - similarity[true, predicted]",
            )
        )
    return lines


def statistics_words(result: "Result") -> list[str]:
    """Return how candidates were judged, a sentence without its full stop each."""
    measures = deciding(result)
    count = (len(result.outcomes) - 1) * len(measures)
    names = " and ".join(measure.title for measure in measures)
    if result.plan.one_test:
        how = (
            "intervals are paired bootstrap intervals over the test rows, scores averaged over trainings; "
            "they speak of these test rows only"
        )
    else:
        how = (
            "differences are paired by split; their variance is corrected for training sets that overlap "
            "(Nadeau and Bengio 2003)"
        )
    least = [
        f"{100 * worthwhile(result, m.name):g} points of {m.title}"
        if m.percent
        else f"{worthwhile(result, m.name):.3g} of {m.title}"
        for m in measures
        if worthwhile(result, m.name)
    ]
    return [
        f"Deciding measures are {names}; the others are there to be read",
        how,
        f"the {count} intervals of the deciding measures hold together at 95 %: each is at 1 - 0.05 / "
        f"{count}, and so are those of the other measures, in which nothing is called",
        "better: all of the interval is on the good side of 0 and the mean is at least the smallest "
        "difference worth having; equal: all of it is inside that difference; worse: the mirror of better; "
        "undecided: the rest, which is not the same as no difference",
        *([f"smallest difference worth having (--worthwhile): {', '.join(least)}"] if least else []),
        f"the winner is better in a deciding measure and worse in none, and best in "
        f"{measures[-1].title} among these",
    ]
