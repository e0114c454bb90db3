/* Numbers and formulas as text, and the sentences about what is on the screen. */
"use strict";

const CLASS_NAMES = ["A", "B", "C"];

/** Return a number with about four digits. */
function shown(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e6)
    return value.toExponential(2).replace("e+", "e").replace("-", "\u2212").replace("e-", "e\u2212");
  return String(Number(value.toPrecision(4))).replace("-", "\u2212");
}

/** Return a probability; those near 1 as 1 minus something, so that they differ from 1. */
function shownProb(value) {
  return value > 0.9999 && value < 1 ? `1 \u2212 ${shown(1 - value)}` : shown(value);
}

/** Put a formula into an element: _ begins an index, ^ a power, braces hold several characters together. */
function putFormula(element, text) {
  element.replaceChildren();
  const part = /([_^])(?:\{((?:[^{}]|\{[^{}]*\})*)\}|(.))/gu;
  let end = 0;
  for (const found of text.matchAll(part)) {
    element.append(text.slice(end, found.index).replaceAll("-", "\u2212"));
    const inner = document.createElement(found[1] === "_" ? "sub" : "sup");
    putFormula(inner, found[2] ?? found[3]);
    element.append(inner);
    end = found.index + found[0].length;
  }
  element.append(text.slice(end).replace(/-(?=[^a-z]|log|stop)/g, "\u2212"));
}

function distributionText(probs) {
  return probs.map((prob, k) => `${CLASS_NAMES[k]} ${shown(Number(prob.toFixed(4)))}`).join(", ");
}

function largestDifference(one, two) {
  return Math.max(...one.map((each, k) => Math.abs(each - two[k])));
}

/** Return sentences on the optimum beside the labels and the truth. */
function optimumText(state, found) {
  const { probs, ties, endless } = found.optimum;
  if (ties === Infinity) return "The expected loss is the same everywhere: this objective pulls nowhere.";
  if (endless || (state.penalty === "ZLoss" && state.penaltyWeight < 0)) {
    return "There is no optimum: the loss falls without end as the logits drift.";
  }
  const [top, labelled] = [Math.max(...probs), Math.max(...found.labels)];
  const [own, theirs] = [top, labelled].map((prob) => shown(Number(prob.toFixed(4))));
  const beside = `${own} for the likeliest class, ${theirs} among the labels.`;
  let text;
  if (largestDifference(probs, found.labels) < 5e-5) text = "The optimum is the distribution of the labels.";
  else if (top > 1 - 1e-9) text = `The optimum is certain: ${beside}`;
  else if (Math.abs(top - labelled) < 5e-5)
    text = "The optimum is another distribution than that of the labels, as sure.";
  else text = `The optimum is ${top > labelled ? "surer" : "less sure"} than the labels: ${beside}`;
  if (ties > 1) text += ` ${ties} separate points are equally low; this is one of them.`;
  if (state.noise > 0) {
    const off = [found.labels, probs].map((each) =>
      shown(Number(largestDifference(each, state.truth).toFixed(4))),
    );
    text += ` The labels are off the truth by up to ${off[0]}, the optimum by up to ${off[1]}.`;
  }
  return text;
}

/** Return the rows of the table of distributions: what, how Python gets it, and the probabilities. */
function distributionRows(state, found) {
  const { labels, how, truth } = found.readOut;
  const rows = [{ what: "Truth", probs: state.truth }];
  if (state.noise > 0) rows.push({ what: "Labels: the truth and the noise", probs: found.labels });
  rows.push({ what: "Optimum: where training goes", probs: found.optimum.probs });
  if (labels && how) {
    const call = {
      floored_probs: "floored_probs(model, gamma)",
      Floored: "Floored(floor)(model)",
      unmix: "unmix(optimum, similarity)",
    };
    rows.push({ what: "Labels, read out of it", code: call[how], probs: labels });
  }
  if (truth && state.noise > 0) {
    rows.push({
      what: "Truth, read out of it",
      code: `unmix(${how ? "labels_read" : "optimum"}, flips)`,
      probs: truth,
    });
  }
  return rows;
}

function readOutText(state, found) {
  const { labels, truth } = found.readOut;
  if (!labels)
    return "The package has no function that undoes what this objective does to the probabilities.";
  if (largestDifference(labels, found.labels) > 1e-6) {
    return "The optimum lies at an edge of the triangle, from where the labels cannot be read out exactly.";
  }
  if (state.noise > 0 && !truth) return "At this noise a label says nothing, and nothing undoes it.";
  return "";
}

/** Return whether there is label noise that a gamma corrects for: at 2/3 a label says nothing. */
function hasGamma(state) {
  return state.noise > 0 && state.noise < LIMITS.noise[1] - 1e-6;
}

function gammaText(state, found) {
  if (!hasGamma(state)) return "";
  const gamma = `label_noise.convert(3, noise=noise).gamma = ${shown(found.gamma)}`;
  return `Gamma cross entropy with the gamma of this noise, ${gamma}, has the truth as its optimum.`;
}

/** Return whether an objective learns the true probabilities, in words. */
function properText(state) {
  const { loss, settings, penalty } = potential(objectiveOf(state));
  if (penalty && state.penaltyWeight !== 0) return "";
  return isProper(loss, settings)
    ? "Proper at these settings: on clean labels the model learns the true probabilities."
    : "Not proper at these settings: the optimum is not the true distribution, see below.";
}

/** Return a few words for an objective. */
function objectiveName(objective) {
  const numbers = Object.entries(objective.settings)
    .filter(
      ([name, value]) =>
        value !== entryOf("losses", objective.loss).settings.find((each) => each.name === name).default,
    )
    .map(([name, value]) => `${name} ${typeof value === "number" ? shown(value) : value}`);
  const loss = [objective.loss, ...(numbers.length ? [`(${numbers.join(", ")})`] : [])].join(" ");
  if (!objective.penalty) return loss;
  const weight = objective.penaltyWeight;
  return `${loss} ${weight < 0 ? "\u2212" : "+"} ${shown(Math.abs(weight))} ${objective.penalty}`;
}
