/* Every loss and penalty of the explorer: value, and gradient by the logits. The one place of their
 * formulas.
 *
 * A loss gets its settings and a row. A loss of the target's log odds returns its value and weight: its
 * gradient is that of cross entropy times the weight. The others return value and gradient. */
"use strict";

/** Return value and gradient of a loss whose gradient is that of cross entropy times a weight. */
function weighted(row, value, weight) {
  const gradient = row.probs.map((prob, k) => weight * (k === row.target ? -row.miss : prob));
  return { value, gradient };
}

/** Return value and gradient, given the derivative by each probability minus that by the target's. */
function sloped(row, value, slopes) {
  const mean = sum(slopes.map((slope, k) => (k === row.target ? 0 : row.probs[k] * slope)));
  const gradient = slopes.map((slope, k) => row.probs[k] * ((k === row.target ? 0 : slope) - mean));
  return { value, gradient };
}

/** Return the loss of soft targets that give the wrong classes shares which sum to `shared`. */
function softTarget(row, shares, shared) {
  const losses = row.logProbs.map((logProb, k) => -logProb * (k === row.target ? 1 - shared : shares[k]));
  const gradient = row.probs.map((prob, k) => (k === row.target ? shared - row.miss : prob - shares[k]));
  return { value: sum(losses), gradient };
}

function gammaValue(gamma, odds) {
  if (gamma === 1) return sigmoid(-odds);
  return -logAffineSigmoid(odds, gamma, 1 - gamma, 0) / (1 - gamma);
}

/** Return p / (gamma + (1 - gamma) p). */
function gammaWeight(gamma, prob) {
  return gamma === 0 ? 1 : prob / (gamma + (1 - gamma) * prob);
}

const LOSSES = {
  CrossEntropy({ label_smoothing: smoothing }, row) {
    const share = smoothing / row.count;
    return softTarget(
      row,
      row.logits.map(() => share),
      share * (row.count - 1),
    );
  },

  FlooredCrossEntropy({ floor }, row) {
    const others = (row.count - 1) * floor;
    const gain = Math.max(1 - others - floor, 0);
    const weight = gain === 0 ? 0 : (gain * row.prob) / (floor + gain * row.prob);
    return weighted(row, -logAffineSigmoid(row.odds, floor, gain, others), weight);
  },

  Focal({ gamma }, row) {
    const cost = softplus(-row.odds); // -log p
    const factor = row.miss ** gamma;
    return weighted(row, factor * cost, factor * (1 + (gamma * row.prob * cost) / row.miss));
  },

  Poly({ epsilon }, row) {
    return weighted(row, softplus(-row.odds) + epsilon * row.miss, 1 + epsilon * row.prob);
  },

  Brier(settings, row) {
    const spread = sum(row.others.map((other) => other * other));
    const slopes = row.probs.map((prob) => 2 * (prob + row.miss));
    return sloped(row, row.miss * row.miss * (1 + spread), slopes);
  },

  GammaCrossEntropy({ gamma, min_weight: least }, row) {
    const weight = gammaWeight(gamma, row.prob);
    if (weight >= least) return weighted(row, gammaValue(gamma, row.odds), weight);
    // The log odds at which the weight is `least`.
    const start = Math.log(gamma) + Math.log(least) - Math.log1p(-least);
    const below = least * (logSigmoid(start) - logSigmoid(row.odds));
    return weighted(row, gammaValue(gamma, start) + below, least);
  },

  Reweighted({ weight: kind, gamma, min_weight: least }, row) {
    const weight = kind === "DFTWeight" ? row.prob : Math.max(gammaWeight(gamma, row.prob), least);
    return weighted(row, weight * softplus(-row.odds), weight);
  },

  GeneralizedCrossEntropy({ q }, row) {
    const logProb = logSigmoid(row.odds);
    return weighted(row, q === 0 ? -logProb : -Math.expm1(q * logProb) / q, Math.exp(q * logProb));
  },

  SymmetricCrossEntropy({ alpha, beta, log_zero: logZero }, row) {
    const value = alpha * softplus(-row.odds) - beta * logZero * row.miss;
    return weighted(row, value, alpha - beta * logZero * row.prob);
  },

  SimilarityCrossEntropy(settings, row) {
    const { row: shares, shared } = similarityRow(settings, row.target, row.count);
    return softTarget(row, shares, shared);
  },

  PairwiseCrossEntropy(settings, row) {
    const weights = costsRow(settings, row.target, row.count);
    const gaps = row.logits.map((logit) => logit - row.logits[row.target]);
    const gradient = gaps.map((gap, k) => weights[k] * sigmoid(gap));
    gradient[row.target] = -sum(gradient.filter((_, k) => k !== row.target));
    return { value: sum(gaps.map((gap, k) => weights[k] * softplus(gap))), gradient };
  },

  ExpectedCost(settings, row) {
    const costs = costsRow(settings, row.target, row.count);
    return sloped(row, sum(costs.map((cost, k) => cost * row.probs[k])), costs);
  },

  SoftmaxMargin(settings, row) {
    const costs = costsRow(settings, row.target, row.count);
    const shifted = rowOf(
      row.logits.map((logit, k) => logit + costs[k]),
      row.target,
    );
    return weighted(shifted, softplus(-shifted.odds), 1);
  },

  RankedProbabilityScore(settings, row) {
    const { probs, target, count } = row;
    const apart = new Array(count).fill(0); // cumulative probability minus that of the label
    for (let k = 0, total = 0; k < target; k += 1) apart[k] = total += probs[k];
    for (let k = count - 2, total = 0; k >= target; k -= 1) apart[k] = -(total += probs[k + 1]);
    const slopes = new Array(count).fill(0);
    for (let k = target - 1, total = 0; k >= 0; k -= 1) slopes[k] = 2 * (total += apart[k]);
    for (let k = target + 1, total = 0; k < count; k += 1) slopes[k] = -2 * (total += apart[k - 1]);
    return sloped(row, sum(apart.map((each) => each * each)), slopes);
  },

  HierarchicalCrossEntropy({ alpha }, row) {
    const leaves = (node) => (Array.isArray(node) ? node.flatMap(leaves) : [node]);
    const gradient = new Array(row.count).fill(0);
    let value = 0;
    let node = treeOf(row.count);
    for (let depth = 1; Array.isArray(node); depth += 1) {
      const branch = node.find((child) => leaves(child).includes(row.target));
      const inside = leaves(branch);
      const outside = node.filter((child) => child !== branch).flatMap(leaves);
      const within = logSumExp(inside.map((k) => row.logits[k]));
      const without = logSumExp(outside.map((k) => row.logits[k]));
      const factor = Math.exp(-alpha * depth);
      const slope = factor * sigmoid(without - within);
      value += factor * softplus(without - within);
      for (const k of inside) gradient[k] -= slope * Math.exp(row.logits[k] - within);
      for (const k of outside) gradient[k] += slope * Math.exp(row.logits[k] - without);
      node = branch;
    }
    return { value, gradient };
  },
};

const PENALTIES = {
  Entropy(settings, row) {
    const value = -sum(row.probs.map((prob, k) => (prob === 0 ? 0 : prob * row.logProbs[k])));
    const gradient = row.probs.map((prob, k) => (prob === 0 ? 0 : -prob * (row.logProbs[k] + value)));
    return { value, gradient };
  },

  Gini(settings, row) {
    const spread = sum(row.others.map((other) => other * other));
    const slopes = row.probs.map((prob) => 2 * (row.prob - prob));
    return sloped(row, row.miss * (1 + row.prob) - row.miss * row.miss * spread, slopes);
  },

  Decisiveness(settings, row) {
    const power = Math.LN2 / Math.log(row.count);
    const terms = row.logProbs.map(
      (logProb) => power * Math.exp(power * logProb) * (1 - 2 * Math.exp(power * logProb)),
    );
    const others = sum(terms.filter((_, k) => k !== row.target));
    const total = others + terms[row.target];
    const gradient = terms.map((term, k) =>
      k === row.target ? row.miss * term - row.prob * others : term - row.probs[k] * total,
    );
    const value = sum(
      row.logProbs.map((logProb) => -Math.exp(power * logProb) * Math.expm1(power * logProb)),
    );
    return { value, gradient };
  },

  LogitRange({ width }, row) {
    const [largest, smallest] = [Math.max(...row.logits), Math.min(...row.logits)];
    const excess = largest - smallest - width;
    if (!(excess > 0)) return { value: 0, gradient: row.logits.map(() => 0) };
    const share = (extreme) => 1 / row.logits.filter((logit) => logit === extreme).length;
    const [up, down] = [share(largest), share(smallest)];
    const gradient = row.logits.map(
      (logit) => (logit === largest ? up : 0) - (logit === smallest ? down : 0),
    );
    return { value: excess, gradient };
  },

  ZLoss(settings, row) {
    return { value: row.lse * row.lse, gradient: row.probs.map((prob) => 2 * row.lse * prob) };
  },
};

/** Return value, gradient by the logits, and weight of an objective for a row of logits.
 *
 * objective: { loss, settings, penalty, penaltySettings, penaltyWeight }; penalty is null if there is none.
 * The weight is the derivative by the target's logit divided by that of cross entropy.
 */
function evaluate(objective, logits, target) {
  const row = rowOf(logits, target);
  let { value, gradient } = LOSSES[objective.loss](objective.settings, row);
  if (objective.penalty) {
    const added = PENALTIES[objective.penalty](objective.penaltySettings, row);
    value += objective.penaltyWeight * added.value;
    gradient = gradient.map((each, k) => each + objective.penaltyWeight * added.gradient[k]);
  }
  return { value, gradient, weight: -gradient[target] / row.miss };
}

/** Return the objective that training makes small by way of the probabilities.
 *
 * Of a reweighted loss it is the integral of the gradient. ZLoss is left out: at any probabilities the logits
 * have a level at which it is 0. */
function potential(objective) {
  const penalty = objective.penalty === "ZLoss" ? null : objective.penalty;
  if (objective.loss !== "Reweighted") return { ...objective, penalty };
  const { weight, gamma, min_weight: least } = objective.settings;
  const settings = weight === "DFTWeight" ? { gamma: 1, min_weight: 0 } : { gamma, min_weight: least };
  return { ...objective, loss: "GammaCrossEntropy", settings, penalty };
}
