/* The page: controls, the state they change, and its history. */
"use strict";

const REST = 120; // milliseconds without a change until slow curves are drawn and the change is announced
const MOMENT = 1500; // milliseconds within which moves of one control are one step of the history
let state = stateOf(location.hash);
let controls = {}; // the controls of settings, by "loss.gamma" and the like
let built = ""; // what they were built for
let resting = 0;

/** Change the state, draw it, and, where a change is complete, put it into the address. */
function change(changes, committed = true) {
  state = valid({ ...state, ...changes });
  render();
  if (committed) remember(document.activeElement?.id || Object.keys(changes).join());
}

let last = { what: "", time: -Infinity };

/** Put the state into the address: a new step of the history, unless the same control moved a moment ago. */
function remember(what) {
  const hash = hashOf(state);
  if (location.hash.slice(1) === hash) return;
  const time = performance.now();
  const goesOn = what === last.what && time - last.time < MOMENT;
  last = { what, time };
  if (goesOn) location.replace(`#${hash}`);
  else location.hash = hash;
}

/** Add a control for each setting of an entry. */
function addSettings(place, prefix, kind, name, key) {
  const parts = entryOf(kind, name).settings.map((setting) => {
    const id = `${prefix}-${setting.name}`;
    const set = (value, committed) => change({ [key]: { ...state[key], [setting.name]: value } }, committed);
    const common = { id, label: setting.name, text: setting.text, change: set };
    const control = setting.choices
      ? choiceOf({ ...common, choices: setting.choices, value: setting.default })
      : document.createElement("number-slider").setup({
          ...common,
          limits: [setting.least, setting.most],
          start: setting.start,
          end: setting.end === FREE ? 1 : setting.end,
          step: setting.step,
        });
    control.setting = setting;
    control.kind = kind;
    control.key = key;
    controls[`${prefix}.${setting.name}`] = control;
    return control;
  });
  place.append(...parts);
}

function weightSlider() {
  return document.createElement("number-slider").setup({
    id: "penalty-weight",
    label: "weight",
    text: "Positive adds the penalty, negative rewards it.",
    limits: LIMITS.weight,
    start: -1,
    end: 1,
    step: 0.01,
    change: (value, committed) => change({ penaltyWeight: value }, committed),
  });
}

/** Build the controls of settings anew where another loss, penalty or map was chosen. */
function build() {
  const now = [state.loss, state.penalty, state.map].join();
  if (now === built) return;
  built = now;
  controls = {};
  for (const id of ["loss-settings", "penalty-settings", "map-settings"]) byId(id).replaceChildren();
  addSettings(byId("loss-settings"), "loss", "losses", state.loss, "settings");
  if (state.penalty) {
    byId("penalty-settings").append((controls.weight = weightSlider()));
    addSettings(byId("penalty-settings"), "penalty", "penalties", state.penalty, "penaltySettings");
  }
  addSettings(byId("map-settings"), "map", "maps", state.map, "mapSettings");
  byId("map-settings").append(gapSlider);
}

function showControls() {
  for (const name of ["loss", "penalty", "map"]) byId(name).value = state[name];
  controls.weight?.show(state.penaltyWeight);
  for (const control of Object.values(controls)) {
    if (!control.setting) continue;
    const { setting, kind, key } = control;
    const value = state[key][setting.name];
    const limits = setting.choices ? null : limitsOf(setting, kind, state.classes);
    control.show(value, limits, setting.end === FREE ? limits[1] : null);
    control.hidden = setting.when.length > 0 && state[key][setting.when[0]] !== setting.when[1];
  }
  classesSlider.show(state.classes);
  pSlider.show(state.p);
  gapSlider.show(state.gap);
  noiseSlider.show(state.noise);
  truthSliders.forEach((slider, k) => slider.show(state.truth[k]));
}

function render() {
  const found = numbersOf(state);
  build();
  showControls();
  showObjective(state);
  showRow(state, found);
  showThree(state, found);
  showMap(state, found);
  putText("python", pythonOf(state, found));
  const probs = found.optimum.probs.map((prob, k) => `${CLASS_NAMES[k]} ${prob.toFixed(3)}`).join(" ");
  putText("brief", `loss ${shown(found.row.value)} · weight ${shown(found.row.weight)} · optimum ${probs}`);
  clearTimeout(resting);
  resting = setTimeout(() => {
    showConfidence(state);
    const { row, optimum, map } = found;
    putText(
      "status",
      `Loss ${shown(row.value)}, weight ${shown(row.weight)}. Optimum ${distributionText(optimum.probs)}. ` +
        `Largest probability of the map ${shownProb(map.first)}.`,
    );
  }, REST);
}

/** Return a probability with four digits, also near 1. */
function roundedProb(prob) {
  return prob < 0.5 ? Number(prob.toPrecision(4)) : 1 - Number((1 - prob).toPrecision(4));
}

/** Return the truth with a new probability of one class; the others keep their ratio. */
function withProb(truth, at, value) {
  const rest = 1 - truth[at];
  return truth.map((prob, k) =>
    k === at ? value : rest > 0 ? (prob / rest) * (1 - value) : (1 - value) / 2,
  );
}

const slider = (options) => document.createElement("number-slider").setup(options);
const CLASSES_SCALE = Math.log(LIMITS.classes[1] / LIMITS.classes[0]);
const classesSlider = slider({
  id: "classes",
  label: "n, number of classes",
  limits: LIMITS.classes,
  step: 1,
  toPlace: (value) => Math.log(value / LIMITS.classes[0]) / CLASSES_SCALE,
  fromPlace: (place) => Math.round(LIMITS.classes[0] * Math.exp(place * CLASSES_SCALE)),
  change: (value, committed) => change({ classes: value }, committed),
});
const pSlider = slider({
  id: "p",
  label: "p, probability of the label",
  limits: LIMITS.p,
  step: 0.001,
  toPlace: (value) => placeOf(value, state.axis),
  fromPlace: (place) => roundedProb(probAt(place, state.axis)),
  change: (value, committed) => change({ p: value }, committed),
});
const gapSlider = slider({
  id: "gap",
  label: "gap of the logits",
  limits: LIMITS.gap,
  start: 0,
  end: 20,
  step: 0.1,
  change: (value, committed) => change({ gap: value }, committed),
});
const noiseSlider = slider({
  id: "noise",
  label: "label noise",
  text: "Share of labels that are replaced by one of the other classes.",
  limits: LIMITS.noise,
  start: 0,
  end: 0.66,
  step: 0.01,
  change: (value, committed) => change({ noise: value }, committed),
});
const truthSliders = CLASS_NAMES.map((name, k) =>
  slider({
    id: `truth-${name}`,
    label: `truth: probability of ${name}`,
    limits: [0, 1],
    start: 0,
    end: 1,
    step: 0.01,
    change: (value, committed) => change({ truth: withProb(state.truth, k, value) }, committed),
  }),
);

/** Fill a chooser with the names of a kind of entries. */
function fill(id, kind, first = []) {
  byId(id).append(...first, ...CATALOGUE[kind].map((entry) => new Option(entry.name, entry.name)));
}

async function copy(text, what) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // files have no clipboard in some browsers
    const area = Object.assign(document.createElement("textarea"), { value: text, readOnly: true });
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
  }
  putText("copied", done ? `${what} copied.` : "The browser refuses to copy: select the text and copy it.");
}

function start() {
  fill("loss", "losses");
  fill("penalty", "penalties", [new Option("none", "")]);
  fill("map", "maps");
  byId("row-sliders").append(classesSlider, pSlider);
  byId("truth-sliders").append(...truthSliders, noiseSlider);
  byId("loss").addEventListener("change", (event) => change({ loss: event.target.value, settings: {} }));
  byId("penalty").addEventListener("change", (event) =>
    change({ penalty: event.target.value, penaltySettings: {} }),
  );
  byId("map").addEventListener("change", (event) => change({ map: event.target.value, mapSettings: {} }));
  for (const radio of document.querySelectorAll('input[name="axis"]')) {
    radio.addEventListener("change", () => change({ axis: radio.value }));
  }
  for (const id of ["chart-value", "chart-gradient", "chart-weight"]) {
    byId(id).movable((place, committed) => change({ p: roundedProb(probAt(place, state.axis)) }, committed));
  }
  for (const id of ["chart-first", "chart-other"]) {
    byId(id).movable((place, committed) => change({ gap: Math.round(place * 200) / 10 }, committed));
  }
  byId("simplex").call = (truth, committed) => change({ truth }, committed);
  byId("keep").addEventListener("click", () => change({ beside: textOf(objectiveOf(state), state.classes) }));
  byId("unkeep").addEventListener("click", () => {
    change({ beside: "" });
    byId("keep").focus();
  });
  byId("use-gamma").addEventListener("click", () => {
    change({
      loss: "GammaCrossEntropy",
      settings: { gamma: gammaOfNoise(state.noise, CORNERS) },
      penalty: "",
    });
  });
  byId("copy").addEventListener("click", () => copy(byId("python").textContent, "Python"));
  byId("copy-link").addEventListener("click", () =>
    copy(`${location.href.split("#")[0]}#${hashOf(state)}`, "Address"),
  );
  byId("to-python").addEventListener("click", (event) => {
    event.preventDefault(); // the part behind # is the state
    byId("python-title").scrollIntoView();
    byId("python-title").focus({ preventScroll: true });
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const [name, reason] of Object.entries(CATALOGUE.left_out)) {
    const item = document.createElement("li");
    item.append(Object.assign(document.createElement("code"), { textContent: name }), `: ${reason}.`);
    byId("left-out").append(item);
  }
  addEventListener("hashchange", () => {
    if (location.hash.slice(1) === hashOf(state)) return;
    state = stateOf(location.hash);
    render();
  });
  render();
}

start();
