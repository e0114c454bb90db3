/* All numbers that the page shows for a state. Nothing else computes one. */
"use strict";

const CURVE_POINTS = 161;
const FAR_ODDS = 16; // log odds at both ends of that axis

/** Return the numbers beside the sliders: one row, three classes, a map. */
function numbersOf(state) {
  const objective = objectiveOf(state);
  const row = evaluate(objective, evenLogits(state.p, state.classes), 0);
  const labels = noisyLabels(state.truth, state.noise);
  const optimum = minimum(objective, labels);
  const map = MAPS[state.map];
  const mapped = map.probs(state.mapSettings, gapLogits(state.gap, state.classes));
  return {
    row: { value: row.value, gradient: row.gradient[0], next: row.gradient[1], weight: row.weight },
    labels,
    optimum,
    readOut: readOut(objective, optimum.probs, state.noise),
    gamma: gammaOfNoise(state.noise, CORNERS),
    map: {
      first: mapped[0],
      other: mapped[mapped.length - 1],
      minProb: map.minProb(state.mapSettings, state.classes),
    },
  };
}

/** Return the target probabilities at which curves are drawn, and their places on the axis from 0 to 1. */
function curvePlaces(axis) {
  return Array.from({ length: CURVE_POINTS }, (_, k) => {
    const place = k / (CURVE_POINTS - 1);
    const p =
      axis === "odds" ? sigmoid((2 * place - 1) * FAR_ODDS) : Math.min(Math.max(place, 5e-4), 1 - 5e-4);
    return { p, place };
  });
}

function placeOf(p, axis) {
  return axis === "odds" ? Math.min(Math.max((oddsOf(p) / FAR_ODDS + 1) / 2, 0), 1) : p;
}

function probAt(place, axis) {
  const p = axis === "odds" ? sigmoid((2 * place - 1) * FAR_ODDS) : place;
  return Math.min(Math.max(p, LIMITS.p[0]), LIMITS.p[1]);
}

/** Return loss, gradient and weight of an objective over the target's probability. */
function curvesOf(objective, state) {
  return curvePlaces(state.axis).map(({ p, place }) => {
    const { value, gradient, weight } = evaluate(objective, evenLogits(p, state.classes), 0);
    return { p, place, value, gradient: gradient[0], weight };
  });
}

/** Return the optimum's probability of class A over the true one, if the other two are as likely as each
 * other. */
function confidenceOf(objective, noise) {
  return Array.from({ length: 29 }, (_, k) => {
    const prob = 1 / 3 + (k / 28) * (2 / 3);
    const truth = [prob, (1 - prob) / 2, (1 - prob) / 2];
    return { prob, optimum: minimum(objective, noisyLabels(truth, noise), 12).probs[0] };
  });
}

/** Return a map's probabilities of the first class and of another, over the gap between their logits. */
function mapCurvesOf(state) {
  const map = MAPS[state.map];
  return Array.from({ length: 81 }, (_, k) => {
    const gap = k / 4;
    const probs = map.probs(state.mapSettings, gapLogits(gap, state.classes));
    const plain = softmax(gapLogits(gap, state.classes));
    return { gap, first: probs[0], other: probs[probs.length - 1], plain: plain[0] };
  });
}
