/* Where training goes: the minimum of the expected loss over the distributions of three classes, and what
 * is read out of it. */
"use strict";

const CORNERS = 3;
const MOST_STEPS = 1000; // of a walk

/** Return logits with these probabilities, whose log-sum-exp is 0. */
function logitsOf(probs, smallest = SMALLEST) {
  return probs.map((prob) => Math.log(Math.max(prob, smallest)));
}

/** Return value and gradient by the logits of the expected loss of labels with a distribution. */
function expectedLoss(objective, labels, logits) {
  let value = 0;
  const gradient = logits.map(() => 0);
  labels.forEach((share, label) => {
    if (share === 0) return;
    const found = evaluate(objective, logits, label);
    value += share * found.value;
    found.gradient.forEach((each, k) => {
      gradient[k] += share * each;
    });
  });
  return { value, gradient };
}

/** Return the points of a triangular grid, with the expected loss at each. */
function triangle(objective, labels, steps) {
  const points = [];
  for (let i = 0; i <= steps; i += 1) {
    for (let k = 0; k <= steps - i; k += 1) {
      const probs = [i / steps, k / steps, (steps - i - k) / steps];
      points.push({ probs, value: expectedLoss(objective, labels, logitsOf(probs)).value });
    }
  }
  return points;
}

/** Move probability from one class to another, as far as there is some. */
function moved(probs, from, to, amount) {
  const most = Math.min(amount, probs[from]);
  const next = [...probs];
  next[from] = most === probs[from] ? 0 : probs[from] - most;
  next[to] += most;
  return next;
}

/** Multiply the probability of one class by e^amount, and divide by the sum. */
function tilted(probs, at, amount) {
  const next = probs.map((prob, k) => (k === at ? prob * Math.exp(amount) : prob));
  const total = sum(next);
  return next.map((prob) => prob / total);
}

/** Walk down from a point, with a larger step after each that leads down and a smaller one where none
 * does.
 *
 * Steps move probability between two classes, which reaches the edges, or, with `tilt`, move one logit: along
 * the kinks of a penalty on the range of the logits. */
function descend(value, start, step, last, tilt = false) {
  let { probs, value: lowest } = start;
  for (let [size, count] = [step, 0]; size > last && count < MOST_STEPS; count += 1) {
    let better = null;
    const attempt = (next) => {
      const found = value(next);
      if (found < lowest) [better, lowest] = [next, found];
    };
    for (let one = 0; one < CORNERS; one += 1) {
      if (probs[one] === 0) continue;
      if (tilt) [size, -size].forEach((amount) => attempt(tilted(probs, one, amount)));
      else for (let two = 0; two < CORNERS; two += 1) if (one !== two) attempt(moved(probs, one, two, size));
    }
    size = better === null ? size / 4 : Math.min(2 * size, step);
    probs = better ?? probs;
  }
  return { probs, value: lowest };
}

/** Return the point polished by Newton's method on the logits of the classes that have a probability.
 *
 * A walk compares values, which settles half of the digits; the gradient settles the others. `settled` says
 * whether it is nearly 0 at the end, which it is not at a kink. */
function polish(objective, labels, found) {
  const free = [0, 1, 2].filter((k) => found.probs[k] > 1e-9);
  if (free.length < 2) return { ...found, settled: true };
  const moving = free.slice(1);
  const at = (logits) => {
    const { gradient } = expectedLoss(objective, labels, logits);
    return moving.map((k) => gradient[k]);
  };
  const size = (vector) => Math.max(...vector.map(Math.abs));
  let logits = logitsOf(found.probs);
  let slope = at(logits);
  for (let step = 0; step < 20 && size(slope) > 1e-15; step += 1) {
    const width = 1e-4;
    const columns = moving.map((k) => {
      const [up, down] = [1, -1].map((sign) =>
        at(logits.map((each, j) => each + (j === k ? sign * width : 0))),
      );
      return up.map((each, j) => (each - down[j]) / (2 * width));
    });
    const undo = inverse(moving.map((_, j) => columns.map((column) => column[j])));
    if (undo === null) break;
    const change = undo.map((line) => -sum(line.map((each, j) => each * slope[j])));
    if (!(size(change) < 0.5)) break;
    const next = logits.map((each, k) => each + (moving.includes(k) ? change[moving.indexOf(k)] : 0));
    const left = at(next);
    if (!(size(left) < size(slope))) break;
    [logits, slope] = [next, left];
  }
  const exact = softmax(logits).map((prob, k) => (free.includes(k) ? prob : 0));
  const total = sum(exact);
  const probs = exact.map((prob) => prob / total);
  const value = expectedLoss(objective, labels, logitsOf(probs)).value;
  const settled = size(slope) < 1e-12 && value <= found.value + 1e-12;
  return value <= found.value + 1e-12 ? { probs, value, settled } : { ...found, settled };
}

/** Return the lowest point that walks from a start lead to. */
function settle(objective, labels, value, start, step) {
  let end = polish(objective, labels, descend(value, start, step, 1e-5));
  if (!end.settled) {
    end = descend(value, end, 0.05, 1e-12, true);
    end = polish(objective, labels, descend(value, end, 1e-3, 1e-12));
    if (!end.settled) return descend(value, end, 1e-4, 1e-12, true);
  }
  if (!end.probs.includes(0)) return end;
  const inside = descend(value, end, 1e-5, 1e-12); // a probability may be small, not 0
  return inside.value < end.value ? polish(objective, labels, inside) : end;
}

/** Return the minimum of the expected loss, and how many separate points are as low.
 *
 * endless says that the loss still falls where a probability is nearly 0: that there is no minimum.
 * The points of a grid that are lower than their neighbours are starts of a walk; the lowest end is kept. */
function minimum(objective, labels, steps = 18) {
  const target = potential(objective);
  const value = (probs) => expectedLoss(target, labels, logitsOf(probs)).value;
  const points = triangle(target, labels, steps);
  const apart = (one, two) => Math.max(...one.map((each, k) => Math.abs(each - two[k])));
  points.sort((one, two) => one.value - two.value);
  if (points[points.length - 1].value - points[0].value < 1e-12) {
    return { probs: [1 / 3, 1 / 3, 1 / 3], value: points[0].value, ties: Infinity, endless: false };
  }
  const near = 1.5 / steps;
  const starts = [];
  for (const point of points) {
    if (starts.length === 4) break;
    const lower = points.find((other) => apart(other.probs, point.probs) < near); // sorted: the lowest
    if (lower.value < point.value) continue;
    if (starts.every((start) => apart(start.probs, point.probs) > near)) starts.push(point);
  }
  const ends = starts.map((start) => settle(target, labels, value, start, 0.5 / steps));
  const lowest = ends.reduce((one, two) => (two.value < one.value - 1e-12 ? two : one));
  const equal = ends.filter((end) => end.value < lowest.value + 1e-9);
  const ties = equal.filter(
    (end, k) => equal.findIndex((other) => apart(other.probs, end.probs) < 1e-3) === k,
  );
  const endless =
    value(lowest.probs) < expectedLoss(target, labels, logitsOf(lowest.probs, 1e-9)).value - 1e-6;
  return { probs: lowest.probs, value: lowest.value, ties: ties.length, endless };
}

/** Return the distribution of labels of which a share is replaced by one of the other classes. */
function noisyLabels(truth, noise) {
  return truth.map((prob) => (1 - noise) * prob + (noise / (truth.length - 1)) * (1 - prob));
}

/** Return what the package reads out of a model at the optimum: estimates of the labels and of the truth.
 *
 * labels is null if the package has no read-out for the loss, truth also if the noise cannot be undone. `how`
 * is the name of the function that gives the labels. */
function readOut(objective, optimum, noise) {
  const { loss, settings, penalty } = potential(objective);
  let [labels, how] = [null, ""];
  if (penalty && objective.penaltyWeight !== 0) {
    labels = null; // no function undoes a sum
  } else if (isProper(loss, settings)) {
    labels = optimum;
  } else if (loss === "GammaCrossEntropy" && settings.min_weight === 0) {
    [labels, how] = [flooredProbs(optimum, settings.gamma), "floored_probs"];
  } else if (loss === "FlooredCrossEntropy") {
    [labels, how] = [MAPS.Floored.probs(settings, logitsOf(optimum)), "Floored"];
  } else if (loss === "SimilarityCrossEntropy") {
    const similarity = [0, 1, 2].map((target) => similarityRow(settings, target, CORNERS).row);
    [labels, how] = [unmix(optimum, similarity), "unmix"];
  }
  return {
    labels,
    how,
    gamma: settings.gamma ?? null,
    truth: labels && unmix(labels, noiseMatrix(noise, CORNERS)),
  };
}

/** Return whether the true probabilities minimise the expected loss, as the table of losses says. */
function isProper(loss, settings) {
  const zero = {
    CrossEntropy: "label_smoothing",
    FlooredCrossEntropy: "floor",
    Focal: "gamma",
    Poly: "epsilon",
    GeneralizedCrossEntropy: "q",
  };
  if (loss in zero) return settings[zero[loss]] === 0;
  if (loss === "GammaCrossEntropy") return settings.gamma === 0 || settings.min_weight === 1;
  if (loss === "SymmetricCrossEntropy") return settings.alpha > 0 && settings.beta * settings.log_zero === 0;
  return ["Brier", "RankedProbabilityScore", "HierarchicalCrossEntropy"].includes(loss);
}
