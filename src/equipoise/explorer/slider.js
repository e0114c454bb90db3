/* <number-slider>: a slider with a box for the exact number beside it. */
"use strict";

const PLACES = 1000; // steps of a slider whose scale is not even

/** Settings of one: id, label, text, unit scales; `change(value, committed)` is called as it moves. */
class NumberSlider extends HTMLElement {
  setup({ id, label, text = "", limits, start, end, step, change, toPlace = null, fromPlace = null }) {
    Object.assign(this, { limits, toPlace, fromPlace, change });
    const line = document.createElement("div");
    line.className = "line";
    const heading = document.createElement("label");
    heading.htmlFor = `${id}-range`;
    heading.textContent = label;
    this.range = document.createElement("input");
    Object.assign(this.range, { type: "range", id: `${id}-range` });
    Object.assign(this.range, toPlace ? { min: 0, max: PLACES, step: 1 } : { min: start, max: end, step });
    this.box = document.createElement("input");
    Object.assign(this.box, { type: "number", id: `${id}-box`, step: "any", inputMode: "decimal" });
    this.box.setAttribute("aria-label", `${label}, exact number`);
    line.append(heading, this.range, this.box);
    this.append(line);
    if (text) {
      const small = document.createElement("span");
      Object.assign(small, { className: "text", id: `${id}-text`, textContent: text });
      this.range.setAttribute("aria-describedby", small.id);
      this.append(small);
    }
    this.step = step;
    this.range.addEventListener("input", () => this.change(this.slid(), false));
    this.range.addEventListener("change", () => this.change(this.slid(), true));
    this.box.addEventListener("change", () => this.typed());
    this.box.addEventListener("keydown", (event) => this.arrow(event));
    return this;
  }

  slid() {
    const place = Number(this.range.value);
    return this.fromPlace ? this.fromPlace(place / PLACES) : place;
  }

  typed() {
    const value = this.box.value.trim() === "" ? NaN : Number(this.box.value);
    if (Number.isFinite(value)) this.change(Math.min(Math.max(value, this.limits[0]), this.limits[1]), true);
    else this.show(this.value);
  }

  /** Arrows in the box move by the step of the slider, also where the box has no steps of its own. */
  arrow(event) {
    const way = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!way || this.toPlace) return;
    event.preventDefault();
    const next = Number((this.value + way * this.step).toPrecision(12));
    this.change(Math.min(Math.max(next, this.limits[0]), this.limits[1]), true);
  }

  /** Show a value; with limits, these are new. */
  show(value, limits = this.limits, end = null) {
    Object.assign(this, { value, limits });
    if (end !== null) Object.assign(this.range, { max: end, step: (this.step = end / 100) });
    [this.box.min, this.box.max] = limits;
    this.range.value = this.toPlace ? Math.round(this.toPlace(value) * PLACES) : value;
    this.range.setAttribute("aria-valuetext", shown(value));
    if (this.box.value === "" || Number(this.box.value) !== value) this.box.value = String(value);
  }
}
customElements.define("number-slider", NumberSlider);

/** Return a select of words with a label, for a setting with choices. */
function choiceOf({ id, label, text, choices, value, change }) {
  const block = document.createElement("div");
  block.className = "choice";
  const heading = document.createElement("label");
  Object.assign(heading, { htmlFor: id, textContent: label });
  const select = document.createElement("select");
  select.id = id;
  select.append(...choices.map((each) => new Option(each, each)));
  select.value = value;
  select.addEventListener("change", () => change(select.value, true));
  const small = document.createElement("span");
  Object.assign(small, { className: "text", id: `${id}-text`, textContent: text });
  select.setAttribute("aria-describedby", small.id);
  block.append(heading, select, small);
  block.show = (next) => {
    select.value = next;
  };
  return block;
}
