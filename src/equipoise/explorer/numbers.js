/* Functions of floating-point numbers that lose no digits in either tail, and the row of logits all formulas
 * read. The names are those of equipoise.statistics.functions. */
"use strict";

const SMALLEST = 1e-15; // stands for a probability of 0 where its logarithm is needed

function logSumExp(values) {
  const top = Math.max(...values);
  if (top === -Infinity) return top;
  let total = 0;
  for (const value of values) total += Math.exp(value - top);
  return top + Math.log(total);
}

function sigmoid(odds) {
  if (odds >= 0) return 1 / (1 + Math.exp(-odds));
  const small = Math.exp(odds);
  return small / (1 + small);
}

/** Return log(1 + e^odds). */
function softplus(odds) {
  return Math.max(odds, 0) + Math.log1p(Math.exp(-Math.abs(odds)));
}

function logSigmoid(odds) {
  return -softplus(-odds);
}

/** Return log(e^one + e^two). */
function logAdd(one, two) {
  const top = Math.max(one, two);
  return top === -Infinity ? top : top + Math.log1p(Math.exp(-Math.abs(one - two)));
}

/** Return log(low + gain p) for p = sigmoid(odds), without a subtraction; rest is 1 - low - gain. */
function logAffineSigmoid(odds, low, gain, rest) {
  const complement = rest + gain * sigmoid(-odds);
  if (complement < 0.5) return Math.log1p(-complement);
  return logAdd(Math.log(low), Math.log(gain) + logSigmoid(odds));
}

function softmax(logits) {
  const total = logSumExp(logits);
  return logits.map((logit) => Math.exp(logit - total));
}

function oddsOf(prob) {
  return Math.log(prob) - Math.log1p(-prob);
}

/** Return the row of a target: its log odds, its probability, and 1 minus that, each to the last digit.
 *
 * others: softmax over the wrong classes, 0 for the target; logProbs and probs: of all classes.
 */
function rowOf(logits, target) {
  const count = logits.length;
  let top = -Infinity;
  for (let k = 0; k < count; k += 1) if (k !== target && logits[k] > top) top = logits[k];
  const others = new Array(count);
  let total = 0;
  for (let k = 0; k < count; k += 1) total += others[k] = k === target ? 0 : Math.exp(logits[k] - top);
  const rest = top + Math.log(total);
  const odds = logits[target] - rest;
  const [prob, miss, logMiss] = [sigmoid(odds), sigmoid(-odds), logSigmoid(-odds)];
  const [probs, logProbs] = [new Array(count), new Array(count)];
  for (let k = 0; k < count; k += 1) {
    others[k] /= total;
    probs[k] = k === target ? prob : miss * others[k];
    logProbs[k] = k === target ? logSigmoid(odds) : logMiss + logits[k] - rest;
  }
  return {
    logits,
    target,
    count,
    odds,
    prob,
    miss,
    others,
    probs,
    logProbs,
    lse: logits[target] + softplus(-odds),
  };
}

/** Return logits of a row whose target, class 0, has a probability; the other classes share the rest. */
function evenLogits(prob, count) {
  const logits = new Array(count).fill(0);
  logits[0] = oddsOf(prob) + Math.log(count - 1);
  return logits;
}

function sum(values) {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
