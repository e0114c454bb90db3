/* The class matrices and the tree that losses get here: those of equipoise.costs for classes on a scale,
 * and for two groups, which are the first half of the classes (the larger, if they are odd) and the
 * second. */
"use strict";

function firstGroup(count) {
  return Math.ceil(count / 2);
}

function sameGroup(one, two, count) {
  return one < firstGroup(count) === two < firstGroup(count);
}

/** Return the target's row of costs or weights: costs.ordinal(count, power=) or costs.from_groups(...). */
function costsRow(settings, target, count) {
  return Array.from({ length: count }, (_, k) => {
    if (k === target) return 0;
    if (settings.matrix === "ordered") return Math.abs(k - target) ** settings.power;
    return sameGroup(k, target, count) ? settings.within : settings.between;
  });
}

/** Return the target's row of similarities, which sums to 1, and the sum without the diagonal. */
function similarityRow(settings, target, count) {
  let row;
  if (settings.matrix === "ordered") {
    const terms = Array.from({ length: count }, (_, k) => Math.exp(-settings.beta * Math.abs(k - target)));
    const total = sum(terms);
    row = terms.map((term) => term / total);
  } else {
    const size = target < firstGroup(count) ? firstGroup(count) : count - firstGroup(count);
    row = Array.from({ length: count }, (_, k) => {
      if (k === target) return 0;
      return sameGroup(k, target, count) ? settings.within / (size - 1) : settings.between / (count - size);
    });
  }
  row[target] = 0;
  const shared = sum(row);
  row[target] = 1 - shared;
  return { row, shared };
}

/** Return the tree of the classes as nested arrays: two groups, a class alone standing for itself. */
function treeOf(count) {
  const half = firstGroup(count);
  const groups = [
    [0, half],
    [half, count],
  ].map(([start, end]) =>
    end - start === 1 ? start : Array.from({ length: end - start }, (_, k) => start + k),
  );
  return groups;
}

/** Return the similarity that symmetric label noise is: a label is another one with probability noise. */
function noiseMatrix(noise, count) {
  return Array.from({ length: count }, (_, i) =>
    Array.from({ length: count }, (_, k) => (i === k ? 1 - noise : noise / (count - 1))),
  );
}

function times(probs, matrix) {
  return probs.map((_, k) => sum(probs.map((prob, y) => prob * matrix[y][k])));
}

/** Return the inverse of a matrix by Gauss-Jordan elimination, or null where it is singular. */
function inverse(matrix) {
  const size = matrix.length;
  const work = matrix.map((row, i) => [...row, ...row.map((_, k) => (i === k ? 1 : 0))]);
  for (let column = 0; column < size; column += 1) {
    let pivot = column;
    for (let i = column; i < size; i += 1)
      if (Math.abs(work[i][column]) > Math.abs(work[pivot][column])) pivot = i;
    if (work[pivot][column] === 0) return null;
    [work[column], work[pivot]] = [work[pivot], work[column]];
    work[column] = work[column].map((value) => value / work[column][column]);
    for (let i = 0; i < size; i += 1) {
      if (i === column) continue;
      const factor = work[i][column];
      work[i] = work[i].map((value, k) => value - factor * work[column][k]);
    }
  }
  return work.map((row) => row.slice(size));
}

/** Return costs.unmix(probs, similarity), or null where the similarity cannot be undone. */
function unmix(probs, similarity) {
  const undo = inverse(similarity);
  const size = (matrix) => Math.max(...matrix.map((row) => sum(row.map(Math.abs))));
  // unmix refuses a condition number of 1e6 in the 2-norm, which is at most three times this one
  if (undo === null || !(size(similarity) * size(undo) < 3e5)) return null;
  const found = times(probs, undo).map((prob) => Math.max(prob, 0));
  const total = sum(found);
  return found.map((prob) => prob / total);
}
