/* The Python that makes the numbers on the screen. */
"use strict";

/** Return a number as Python writes a float. */
function pythonFloat(value) {
  const text = String(value);
  return /^-?\d+$/.test(text) ? `${text}.0` : text.replace("e+", "e");
}

function pythonList(values) {
  return `[${values.map(pythonFloat).join(", ")}]`;
}

function pythonRange(start, end) {
  return end - start === 1 ? String(start) : `tuple(range(${start}, ${end}))`;
}

/** Return the Python of the tree of the classes. */
function pythonTree(count) {
  const half = firstGroup(count);
  return `(${pythonRange(0, half)}, ${pythonRange(half, count)})`;
}

/** Return the Python of a class matrix, and note the builder that it needs. */
function pythonMatrix(settings, kind, count, needs) {
  if (settings.matrix === "ordered") {
    needs("costs", "ordinal");
    const option = kind === "similarity" ? "beta" : "power";
    return `ordinal(${count}, "${kind}", ${option}=${pythonFloat(settings[option])})`;
  }
  needs("costs", "from_groups");
  const half = firstGroup(count);
  const shares = `within=${pythonFloat(settings.within)}, between=${pythonFloat(settings.between)}`;
  return `from_groups([range(${half}), range(${half}, ${count})], "${kind}", ${shares})`;
}

const MATRIX_KINDS = {
  SimilarityCrossEntropy: "similarity",
  PairwiseCrossEntropy: "weights",
  ExpectedCost: "costs",
  SoftmaxMargin: "costs",
};

function pythonOptions(settings) {
  return Object.entries(settings)
    .map(
      ([name, value]) => `${name}=${typeof value === "number" ? pythonFloat(value) : JSON.stringify(value)}`,
    )
    .join(", ");
}

/** Return the Python of a loss for a number of classes, and note what it needs of which module. */
function pythonLoss(loss, settings, count, needs) {
  needs("losses", loss);
  if (loss in MATRIX_KINDS) return `${loss}(${pythonMatrix(settings, MATRIX_KINDS[loss], count, needs)})`;
  if (loss === "HierarchicalCrossEntropy") return `${loss}(${pythonTree(count)}, ${pythonOptions(settings)})`;
  if (loss === "Reweighted") {
    const { weight, ...options } = settings;
    needs("losses", weight);
    return `Reweighted(${weight}(${weight === "TaiLrWeight" ? pythonOptions(options) : ""}))`;
  }
  return `${loss}(${pythonOptions(settings)})`;
}

/** Return the Python of an objective: a loss, and a multiple of a penalty if there is one. */
function pythonObjective(objective, count, needs) {
  const text = pythonLoss(objective.loss, objective.settings, count, needs);
  if (!objective.penalty) return text;
  needs("penalties", objective.penalty);
  const weight = objective.penaltyWeight;
  const sign = weight < 0 || Object.is(weight, -0) ? "-" : "+";
  const penalty = `${objective.penalty}(${pythonOptions(objective.penaltySettings)})`;
  return `${text} ${sign} ${pythonFloat(Math.abs(weight))} * ${penalty}`;
}

function pythonMap(state, needs) {
  needs("maps", state.map);
  if (state.map === "StraightThrough") {
    needs("maps", "Softmax");
    return "StraightThrough(Softmax())";
  }
  return `${state.map}(${pythonOptions(state.mapSettings)})`;
}

function rowPython(state, objective, needs) {
  needs("losses", "CrossEntropy");
  return [
    `loss = ${pythonObjective(objective, state.classes, needs)}`,
    "",
    `# One row of ${state.classes} classes: class 0 is the target, the others share the rest.`,
    `n, p = ${state.classes}, ${pythonFloat(state.p)}`,
    "logits = torch.zeros(1, n, dtype=torch.float64)",
    "logits[0, 0] = math.log(p) - math.log1p(-p) + math.log(n - 1)",
    "logits.requires_grad_()",
    "target = torch.tensor([0])",
    "value = loss(logits, target)",
    "(gradient,) = torch.autograd.grad(value, logits)",
    "(plain,) = torch.autograd.grad(CrossEntropy()(logits, target), logits)",
    "weight = gradient[0, 0] / plain[0, 0]",
  ];
}

function readOutPython(state, found, needs) {
  if (!found.readOut.labels) return [];
  const names = { floored_probs: "label_noise", unmix: "costs", Floored: "maps" };
  const { how } = found.readOut;
  if (how) needs(names[how], how);
  const lines = {
    "": "labels_read = optimum",
    floored_probs: `labels_read = floored_probs(model, gamma=${pythonFloat(found.readOut.gamma)})`,
    Floored: `labels_read = Floored(${pythonOptions(state.settings)})(model)`,
    unmix: `labels_read = unmix(optimum, ${
      how === "unmix" ? pythonMatrix(state.settings, "similarity", CORNERS, needs) : ""
    })`,
  };
  if (!found.readOut.truth) return [lines[how]];
  needs("costs", "unmix");
  return [
    lines[how],
    "flips = torch.full((3, 3), noise / 2, dtype=torch.float64).fill_diagonal_(1 - noise)",
    "truth_read = unmix(labels_read, flips)",
  ];
}

function classesPython(state, objective, found, needs) {
  needs("label_noise", "convert");
  const pulled = { ...potential(objective), penalty: objective.penalty };
  const ofThree = pythonObjective(pulled, CORNERS, needs);
  const pulls = ofThree === pythonObjective(objective, state.classes, needs) ? "loss" : ofThree;
  return [
    "# Three classes: labels drawn from the truth, a share of them replaced by one of the other classes.",
    `expected_loss = ${pulls}${objective.loss === "Reweighted" ? "  # has the gradient of loss" : ""}`,
    `truth = torch.tensor(${pythonList(state.truth)}, dtype=torch.float64)`,
    `noise = ${pythonFloat(state.noise)}`,
    "labels = (1 - noise) * truth + noise / 2 * (1 - truth)",
    "# The optimum is the one that the page has found.",
    `optimum = torch.tensor(${pythonList(found.optimum.probs)}, dtype=torch.float64)`,
    "model = optimum.clamp(min=1e-15).log()  # logits",
    "expected = expected_loss(model[None], labels[None])",
    "gamma = convert(3, noise=noise).gamma",
    ...readOutPython(state, found, needs),
  ];
}

function mapPython(state, needs) {
  return [
    `# A map: one logit is ${state.gap} above the others.`,
    `gap = ${pythonFloat(state.gap)}`,
    `to_probs = ${pythonMap(state, needs)}`,
    "logits = torch.full((n,), -gap / 2, dtype=torch.float64)",
    "logits[0] = gap / 2",
    "probs = to_probs(logits)",
    "min_prob = to_probs.min_prob(n)",
  ];
}

/** Return the whole program of a state; numbersOf(state) are the values of its variables. */
function pythonOf(state, found) {
  const imports = {};
  const needs = (module, name) => (imports[module] ??= new Set()).add(name);
  const objective = objectiveOf(state);
  const parts = [
    rowPython(state, objective, needs),
    classesPython(state, objective, found, needs),
    mapPython(state, needs),
  ];
  const from = Object.keys(imports)
    .sort()
    .map((module) => `from equipoise.${module} import ${[...imports[module]].sort().join(", ")}`);
  return (
    [["import math", "", "import torch", ...from], ...parts].map((part) => part.join("\n")).join("\n\n") +
    "\n"
  );
}
