/* The state of the page, and its text behind the # of the address. */
"use strict";

const FREE = "1/n"; // a limit that depends on the number of classes
const START = { classes: 10, p: 0.3, axis: "linear", truth: [0.6, 0.3, 0.1], noise: 0, gap: 4 };
const FIRST_WEIGHT = 0.1; // of a penalty
const LIMITS = {
  classes: [2, 1000],
  p: [1e-12, 1 - 1e-12],
  noise: [0, 2 / 3],
  gap: [0, 40],
  weight: [-100, 100],
};

function entryOf(kind, name) {
  return CATALOGUE[kind].find((entry) => entry.name === name);
}

function defaultsOf(entry) {
  return Object.fromEntries(entry.settings.map((setting) => [setting.name, setting.default]));
}

/** Return smallest and largest value of a setting; a floor of the loss must also fit three classes. */
function limitsOf(setting, kind, classes) {
  if (setting.end !== FREE) return [setting.least, setting.most];
  return [setting.least, 1 / (kind === "losses" ? Math.max(classes, CORNERS) : classes)];
}

function between(value, [least, most], fallback) {
  const number = typeof value === "string" && value.trim() === "" ? NaN : Number(value);
  return Number.isFinite(number) ? Math.min(Math.max(number, least), most) : fallback;
}

function validSettings(kind, name, given, classes) {
  const made = {};
  for (const setting of entryOf(kind, name).settings) {
    const value = given[setting.name];
    if (setting.choices) made[setting.name] = setting.choices.includes(value) ? value : setting.default;
    else {
      const limits = limitsOf(setting, kind, classes);
      made[setting.name] = between(value, limits, between(setting.default, limits));
    }
  }
  return made;
}

function validTruth(given) {
  const numbers = given.map((each) => between(each, [0, 1], NaN));
  const total = sum(numbers);
  if (numbers.length !== CORNERS || !(total > 0)) return [...START.truth];
  return Math.abs(total - 1) < 1e-12 ? numbers : numbers.map((each) => each / total);
}

/** Return a state with every value within its limits; what is missing or wrong is as at the start. */
function valid(given) {
  const known = (kind, name, fallback) => (name && entryOf(kind, name) ? name : fallback);
  const classes = Math.round(between(given.classes, LIMITS.classes, START.classes));
  const loss = known("losses", given.loss, "GammaCrossEntropy");
  const penalty = known("penalties", given.penalty, "");
  const map = known("maps", given.map, "Floored");
  return {
    loss,
    settings: validSettings("losses", loss, given.settings ?? {}, classes),
    penalty,
    penaltyWeight: penalty ? between(given.penaltyWeight, LIMITS.weight, FIRST_WEIGHT) : FIRST_WEIGHT,
    penaltySettings: penalty ? validSettings("penalties", penalty, given.penaltySettings ?? {}, classes) : {},
    classes,
    p: between(given.p, LIMITS.p, START.p),
    axis: given.axis === "odds" ? "odds" : "linear",
    truth: validTruth(given.truth ?? START.truth),
    noise: between(given.noise, LIMITS.noise, START.noise),
    map,
    mapSettings: validSettings("maps", map, given.mapSettings ?? {}, classes),
    gap: between(given.gap, LIMITS.gap, START.gap),
    beside: given.beside ? textOf(objectiveOf(stateOf(given.beside)), classes) : "",
  };
}

/** Return the objective of a state, as the formulas take it. */
function objectiveOf(state) {
  const { loss, settings, penalty, penaltySettings, penaltyWeight } = state;
  return { loss, settings, penalty: penalty || null, penaltySettings, penaltyWeight };
}

/** Return the objective of the dashed line: cross entropy, unless another one was kept. */
function besideOf(state) {
  return state.beside ? objectiveOf(stateOf(state.beside)) : objectiveOf(valid({ loss: "CrossEntropy" }));
}

function settingsText(pairs, prefix, kind, name, settings, classes) {
  const plain = validSettings(kind, name, {}, classes);
  for (const [setting, value] of Object.entries(settings)) {
    if (value !== plain[setting]) pairs.push([`${prefix}.${setting}`, value]);
  }
}

/** Return the text of an objective; its floors are limited by the number of classes. */
function textOf(objective, classes) {
  const pairs = [["loss", objective.loss]];
  if (classes !== START.classes) pairs.push(["classes", classes]);
  settingsText(pairs, "loss", "losses", objective.loss, objective.settings, classes);
  if (objective.penalty) {
    pairs.push(["penalty", objective.penalty], ["penalty.weight", objective.penaltyWeight]);
    settingsText(pairs, "penalty", "penalties", objective.penalty, objective.penaltySettings, classes);
  }
  return String(new URLSearchParams(pairs));
}

/** Return the text of a state: the objective and the map by name, and what differs from the start. */
function hashOf(state) {
  const pairs = [...new URLSearchParams(textOf(objectiveOf(state), state.classes))];
  for (const name of ["p", "axis", "noise", "gap"]) {
    if (state[name] !== START[name]) pairs.push([name, state[name]]);
  }
  if (state.truth.some((prob, k) => prob !== START.truth[k])) pairs.push(["truth", state.truth.join(",")]);
  pairs.push(["map", state.map]);
  settingsText(pairs, "map", "maps", state.map, state.mapSettings, state.classes);
  if (state.beside) pairs.push(["beside", state.beside]);
  return String(new URLSearchParams(pairs)).replaceAll("%2C", ",");
}

/** Return the state of a text, with or without #. */
function stateOf(text) {
  const pairs = new URLSearchParams(text.replace(/^#/, ""));
  const settings = (prefix) =>
    Object.fromEntries(
      [...pairs]
        .filter(([key]) => key.startsWith(`${prefix}.`))
        .map(([key, value]) => [key.slice(prefix.length + 1), value]),
    );
  const get = (name) => pairs.get(name) ?? undefined;
  return valid({
    loss: get("loss"),
    settings: settings("loss"),
    penalty: get("penalty"),
    penaltySettings: settings("penalty"),
    penaltyWeight: get("penalty.weight"),
    classes: get("classes"),
    p: get("p"),
    axis: get("axis"),
    noise: get("noise"),
    gap: get("gap"),
    truth: get("truth")?.split(","),
    map: get("map"),
    mapSettings: settings("map"),
    beside: get("beside"),
  });
}
