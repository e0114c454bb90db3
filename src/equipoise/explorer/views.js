/* The sections of the page: what each shows of a state and its numbers. */
"use strict";

const byId = (id) => document.getElementById(id);
const ODDS_TICKS = [
  [1e-6, "1e\u22126"],
  [1e-3, "0.001"],
  [0.5, "0.5"],
  [0.999, "0.999"],
  [1 - 1e-6, "1\u22121e\u22126"],
];
const EVEN_TICKS = [0, 0.25, 0.5, 0.75, 1].map((p) => [p, String(p)]);
const BELOW = " The table below has the curve.";
const SMALLEST_SHOWN = -9; // power of ten at the foot of the chart of small probabilities

function putText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function showEntry(prefix, entry) {
  putText(`${prefix}-sentence`, entry?.sentence ?? "");
  putFormula(byId(`${prefix}-formula`), entry?.formula ?? "");
  putText(`${prefix}-note`, entry?.note ?? "");
}

function showObjective(state) {
  const [loss, penalty] = [
    entryOf("losses", state.loss),
    state.penalty && entryOf("penalties", state.penalty),
  ];
  showEntry("loss", loss);
  showEntry("penalty", penalty || null);
  putText("proper", properText(state));
  const sources = [loss, penalty].filter((entry) => entry && entry.source).map((entry) => entry.source);
  putText("source", `Source: ${sources.join("; ")}`);
  const beside = objectiveName(besideOf(state));
  putText("beside-text", `${beside}.`);
  for (const each of document.querySelectorAll(".beside-name"))
    each.textContent = state.beside ? beside : "cross entropy";
  byId("unkeep").hidden = !state.beside;
}

function showRow(state, found) {
  putText("row-value", shown(found.row.value));
  putText("row-gradient", shown(found.row.gradient));
  putText("row-next", shown(found.row.next));
  putText("row-weight", shown(found.row.weight));
  for (const radio of document.querySelectorAll('input[name="axis"]'))
    radio.checked = radio.value === state.axis;
  const objective = objectiveOf(state);
  const own = curvesOf(objective, state);
  const beside = curvesOf(besideOf(state), state);
  const odds = state.axis === "odds";
  const xTicks = odds ? ODDS_TICKS.map(([p, text]) => [placeOf(p, "odds"), text]) : EVEN_TICKS;
  const seen = { value: [0], gradient: [0, -1], weight: [0, 1] };
  const names = {
    value: "Loss",
    gradient: "Gradient by the label's logit",
    weight: "Weight against cross entropy",
  };
  for (const [key, must] of Object.entries(seen)) {
    const inSight = (point) => key !== "weight" || point.p < 0.95; // near 1 cross entropy no longer pulls
    byId(`chart-${key}`).draw({
      lines: [
        ["beside", beside],
        ["this", own],
      ].map(([kind, curve]) => ({ kind, points: curve.map((point) => [point.place, point[key]]) })),
      xTicks,
      limits: limitsOfValues(
        [...own, ...beside].filter(inSight).map((point) => point[key]),
        [...must, found.row[key]].filter((value) => Math.abs(value) < 20),
      ),
      cursor: [placeOf(state.p, state.axis), found.row[key]],
      label: `${names[key]} over p: ${shown(found.row[key])} at p = ${shownProb(state.p)}.${BELOW}`,
    });
  }
  const rows = () =>
    own
      .filter((_, k) => k % 8 === 0)
      .map((point, k) => [
        shownProb(point.p),
        ...["value", "gradient", "weight"].flatMap((key) => [shown(point[key]), shown(beside[8 * k][key])]),
      ]);
  const other = state.beside ? "dashed line" : "cross entropy";
  const heads = ["p", ...["loss", "gradient", "weight"].flatMap((each) => [each, `${each}, ${other}`])];
  whenOpen("row-details", () =>
    putTable(byId("row-table"), "Loss, gradient and weight over p", heads, rows()),
  );
}

function showThree(state, found) {
  const objective = objectiveOf(state);
  const rows = distributionRows(state, found);
  putText("three-text", [optimumText(state, found), readOutText(state, found)].filter(Boolean).join(" "));
  putText("gamma-text", gammaText(state, found));
  byId("use-gamma").hidden = !hasGamma(state);
  putTable(
    byId("three-table"),
    "Distributions",
    ["Distribution", ...CLASS_NAMES],
    rows.map(({ what, code, probs }) => {
      const name = document.createElement("span");
      name.append(what);
      if (code)
        name.append(
          document.createElement("br"),
          Object.assign(document.createElement("code"), { textContent: code }),
        );
      return [name, ...probs.map((prob) => prob.toFixed(4))];
    }),
  );
  const read = state.noise > 0 && found.readOut.truth ? found.readOut.truth : null;
  byId("simplex").draw({
    truth: state.truth,
    labels: state.noise > 0 ? found.labels : null,
    optimum: found.optimum.probs,
    read,
    points: triangle(potential(objective), found.labels, GRID),
    label: `Truth: ${distributionText(state.truth)}. Optimum: ${distributionText(found.optimum.probs)}.`,
  });
  showLegend({
    truth: "truth (drag it)",
    labels: state.noise > 0 && "labels with noise",
    optimum: "optimum",
    read: read && "truth, read out",
  });
}

function showLegend(marks) {
  byId("simplex-legend").replaceChildren(
    ...Object.entries(marks)
      .filter(([, text]) => text)
      .map(([name, text]) => {
        const item = document.createElement("li");
        const key = svgNode("svg", { viewBox: "-10 -10 20 20", class: "key shape", "aria-hidden": "true" });
        key.append(MARKS[name]());
        item.append(key, text);
        return item;
      }),
  );
}

/** Draw the curve that takes longest, once the sliders rest. */
function showConfidence(state) {
  const [own, beside] = [objectiveOf(state), besideOf(state)].map((each) => confidenceOf(each, state.noise));
  const place = (prob) => (prob - 1 / 3) * 1.5;
  byId("chart-confidence").draw({
    lines: [
      {
        kind: "equal",
        points: [
          [0, 1 / 3],
          [1, 1],
        ],
      },
      { kind: "beside", points: beside.map(({ prob, optimum }) => [place(prob), optimum]) },
      { kind: "this", points: own.map(({ prob, optimum }) => [place(prob), optimum]) },
    ],
    xTicks: [
      [0, "1/3"],
      [place(0.5), "0.5"],
      [place(0.75), "0.75"],
      [1, "1"],
    ],
    limits: [-0.03, 1.03],
    cursor: null,
    label: "Optimum's probability of A over the true one. The table below has the curve.",
  });
  const rows = own.map(({ prob, optimum }, k) => [
    shown(prob),
    shown(Number(optimum.toFixed(6))),
    shown(Number(beside[k].optimum.toFixed(6))),
  ]);
  const heads = ["true probability of A", "this objective", state.beside ? "dashed line" : "cross entropy"];
  whenOpen("three-details", () => putTable(byId("three-curve"), "Optimum's probability of A", heads, rows));
}

function showMap(state, found) {
  showEntry("map", entryOf("maps", state.map));
  const { first, other, minProb } = found.map;
  putText("map-first", shownProb(first));
  putText("map-other", shown(other));
  putText("map-least", minProb > 0 ? shown(minProb) : "0: nothing is guaranteed");
  const curve = mapCurvesOf(state);
  const far = curve[curve.length - 1].gap;
  const xTicks = [0, 5, 10, 15, 20].map((gap) => [gap / far, String(gap)]);
  const small = (prob) => (prob > 0 ? Math.max(Math.log10(prob), SMALLEST_SHOWN - 1) : SMALLEST_SHOWN - 1);
  const rest = (prob) => (1 - prob) / (state.classes - 1);
  const cursor = state.gap / far;
  byId("chart-first").draw({
    lines: [
      { kind: "beside", points: curve.map((point) => [point.gap / far, point.plain]) },
      { kind: "this", points: curve.map((point) => [point.gap / far, point.first]) },
    ],
    xTicks,
    limits: [-0.03, 1.03],
    cursor: cursor <= 1 ? [cursor, first] : null,
    label: `Largest probability over the gap: ${shownProb(first)} at ${shown(state.gap)}.${BELOW}`,
  });
  byId("chart-other").draw({
    lines: [
      { kind: "beside", points: curve.map((point) => [point.gap / far, small(rest(point.plain))]) },
      { kind: "this", points: curve.map((point) => [point.gap / far, small(point.other)]) },
      ...(minProb > 0
        ? [
            {
              kind: "equal",
              points: [
                [0, small(minProb)],
                [1, small(minProb)],
              ],
            },
          ]
        : []),
    ],
    xTicks,
    limits: [SMALLEST_SHOWN - 0.2, 0.3],
    yTicks: [0, -3, -6, -9].map((power) => [power, power ? `1e\u2212${-power}` : "1"]),
    cursor: cursor <= 1 ? [cursor, small(other)] : null,
    label: `Probability of each other class over the gap: ${shown(other)} at ${shown(state.gap)}.${BELOW}`,
  });
  const rows = curve
    .filter((_, k) => k % 4 === 0)
    .map((point) => [shown(point.gap), shownProb(point.first), shown(point.other), shownProb(point.plain)]);
  whenOpen("map-details", () =>
    putTable(
      byId("map-table"),
      "Probabilities over the gap",
      ["gap", "largest", "each other", "softmax, largest"],
      rows,
    ),
  );
}

/** Call now if the details are open, and whenever they are opened. */
function whenOpen(id, call) {
  const details = byId(id);
  details.ontoggle = () => details.open && call();
  if (details.open) call();
}
