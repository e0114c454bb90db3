/* Every map of the explorer: the probabilities of logits, and the smallest probability that it guarantees. */
"use strict";

function largestFirst(values) {
  return values.map((_, k) => k).sort((one, two) => values[two] - values[one] || one - two);
}

/** Return the projection of logits onto the simplex: sparsemax. */
function sparsemax(logits) {
  const ordered = largestFirst(logits).map((k) => logits[k]);
  let [total, threshold] = [0, 0];
  ordered.forEach((logit, k) => {
    total += logit;
    if (logit - (total - 1) / (k + 1) > 0) threshold = (total - 1) / (k + 1);
  });
  return logits.map((logit) => Math.max(logit - threshold, 0));
}

function entmax(logits, alpha) {
  const scaled = logits.map((logit) => (alpha - 1) * logit);
  const top = Math.max(...scaled);
  const power = 1 / (alpha - 1);
  const at = (threshold) => scaled.map((each) => Math.max(each - threshold, 0) ** power);
  let [low, high] = [top - 1, top];
  for (let step = 0; step < 80; step += 1) {
    const middle = (low + high) / 2;
    [low, high] = sum(at(middle)) > 1 ? [middle, high] : [low, middle];
  }
  const probs = at(low);
  const total = sum(probs);
  return probs.map((prob) => prob / total);
}

/** Return the projection of probabilities onto those of at least a floor, by water-filling. */
function project(probs, floor, metric) {
  const count = probs.length;
  const order = largestFirst(probs);
  let [total, size, kept, left] = [0, 1, probs[order[0]], 1];
  order.forEach((at, k) => {
    total += probs[at];
    const rest = Math.max(1 - (count - k - 1) * floor, 0); // probability of the k + 1 likeliest classes
    const lowest = metric === "kl" ? (rest / total) * probs[at] : probs[at] - (total - rest) / (k + 1);
    if (k === 0 || (lowest > floor && probs[at] > 0)) [size, kept, left] = [k + 1, total, rest];
  });
  const answer = new Array(count).fill(floor);
  for (const at of order.slice(0, size)) {
    const value = metric === "kl" ? (left / kept) * probs[at] : probs[at] - (kept - left) / size;
    answer[at] = Math.max(value, floor);
  }
  return answer;
}

/** Return 1 / (1 + (n - 1) e^width), the smallest probability of n logits with a range. */
function smallestOfRange(width, count) {
  return Math.exp(-width) / (Math.exp(-width) + count - 1);
}

const NOTHING = () => 0;

const MAPS = {
  Softmax: {
    probs({ temperature }, logits) {
      const top = Math.max(...logits);
      return softmax(logits.map((logit) => (logit - top) / temperature));
    },
    minProb: NOTHING,
  },
  Resoftmax: {
    probs: ({ alpha }, logits) => softmax(softmax(logits).map((prob) => alpha * prob)),
    minProb: ({ alpha }, count) => Math.exp(-alpha) / (1 + (count - 1) * Math.exp(-alpha)),
  },
  StraightThrough: {
    probs: (settings, logits) => logits.map((_, k) => (k === largestFirst(logits)[0] ? 1 : 0)),
    minProb: NOTHING,
  },
  Sparsemax: { probs: (settings, logits) => sparsemax(logits), minProb: NOTHING },
  Entmax: { probs: ({ alpha }, logits) => entmax(logits, alpha), minProb: NOTHING },
  Floored: {
    probs: ({ floor }, logits) =>
      softmax(logits).map((prob) => floor + Math.max(1 - logits.length * floor, 0) * prob),
    minProb: ({ floor }) => floor,
  },
  Clipped: {
    probs({ floor }, logits) {
      const clipped = softmax(logits).map((prob) => Math.max(prob, floor));
      const total = sum(clipped);
      return clipped.map((prob) => prob / total);
    },
    minProb: ({ floor }, count) => floor / (1 + (count - 1) * floor),
  },
  Projected: {
    probs: ({ floor, metric }, logits) => project(softmax(logits), floor, metric),
    minProb: ({ floor }) => floor,
  },
  ClippedLogits: {
    probs: ({ low, high }, logits) => softmax(logits.map((logit) => Math.min(Math.max(logit, low), high))),
    minProb: ({ low, high }, count) => smallestOfRange(high - low, count),
  },
  SoftCapped: {
    probs: ({ cap }, logits) => softmax(logits.map((logit) => cap * Math.tanh(logit / cap))),
    minProb: ({ cap }, count) => smallestOfRange(2 * cap, count),
  },
  LogitNorm: {
    probs({ temperature }, logits) {
      const least = Math.sqrt(Number.EPSILON);
      const largest = Math.max(...logits.map(Math.abs), least);
      const scaled = logits.map((logit) => logit / largest);
      const norm = Math.sqrt(Math.max(sum(scaled.map((each) => each * each)), 1));
      return softmax(scaled.map((each) => each / norm / temperature));
    },
    minProb: ({ temperature }, count) => smallestOfRange(Math.SQRT2 / temperature, count),
  },
};

/** Return logits of n classes of which the first is `gap` above the others, with 0 in the middle. */
function gapLogits(gap, count) {
  const logits = new Array(count).fill(-gap / 2);
  logits[0] = gap / 2;
  return logits;
}

/** Return label_noise.convert(count, noise=noise).gamma. */
function gammaOfNoise(noise, count) {
  const floor = Math.min(noise / (count - 1), 1 / count);
  return Math.min(floor / (1 - (count - 1) * floor), 1);
}

/** Return label_noise.floored_probs of a model with these probabilities. */
function flooredProbs(probs, gamma) {
  return probs.map((prob) => (gamma + (1 - gamma) * prob) / (1 + (probs.length - 1) * gamma));
}
