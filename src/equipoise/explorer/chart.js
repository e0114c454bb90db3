/* <line-chart>: lines over one axis, drawn as SVG in the width that there is. */
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function svgNode(name, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  return node;
}

/** Return about `count` round numbers within limits. */
function ticksOf([low, high], count = 4) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) ticks.push(k * step);
  return ticks;
}

/** Return limits of the values which leave out the ends that run away, and contain what must be seen. */
function limitsOfValues(values, seen) {
  const finite = values.filter(Number.isFinite).sort((one, two) => one - two);
  const at = (share) => finite[Math.round(share * (finite.length - 1))];
  let [low, high] = [Math.min(at(0.03), ...seen), Math.max(at(0.97), ...seen)];
  const [inner, outer] = [at(0.1), at(0.9)];
  if (finite[0] > inner - 2 * (outer - inner)) low = Math.min(low, finite[0]);
  if (finite[finite.length - 1] < outer + 2 * (outer - inner))
    high = Math.max(high, finite[finite.length - 1]);
  if (high - low < 1e-9) [low, high] = [low - 0.5, high + 0.5];
  const margin = 0.04 * (high - low);
  return [low - margin, high + margin];
}

let charts = 0;

class LineChart extends HTMLElement {
  connectedCallback() {
    this.clip = `clip-${(charts += 1)}`;
    new ResizeObserver(() => this.data && this.draw(this.data)).observe(this);
  }

  /** Let the pointer choose a place on the axis, from 0 to 1: call(place, committed). */
  movable(call) {
    this.classList.add("movable");
    const place = (event) => {
      const box = this.getBoundingClientRect();
      const { left, right } = this.margins;
      return Math.min(Math.max((event.clientX - box.left - left) / (box.width - left - right), 0), 1);
    };
    this.addEventListener("pointerdown", (event) => {
      this.setPointerCapture(event.pointerId);
      call(place(event), false);
    });
    this.addEventListener(
      "pointermove",
      (event) => this.hasPointerCapture(event.pointerId) && call(place(event), false),
    );
    this.addEventListener("pointerup", (event) => call(place(event), true));
  }

  /** Draw lines: { lines: [{ kind, points: [[place, value]] }], xTicks: [[place, text]], limits, yTicks,
   * cursor, label }.
   *
   * place is from 0 to 1; cursor is [place, value] or null; yTicks is null for round numbers. */
  draw(data) {
    this.data = data;
    const width = Math.max(this.clientWidth, 200);
    const height = Math.round(Math.min(Math.max(width * 0.62, 150), 230));
    this.margins = { left: 48, right: 12, top: 8, bottom: 24 };
    const { left, right, top, bottom } = this.margins;
    const [low, high] = data.limits;
    const x = (place) => left + place * (width - left - right);
    const y = (value) =>
      top +
      ((high - Math.min(Math.max(value, low - (high - low)), high + (high - low))) / (high - low)) *
        (height - top - bottom);
    const svg = svgNode("svg", {
      viewBox: `0 0 ${width} ${height}`,
      height,
      role: "img",
      "aria-label": data.label,
    });
    const clip = svgNode("clipPath", { id: this.clip });
    clip.append(
      svgNode("rect", {
        x: left,
        y: top - 2,
        width: width - left - right,
        height: height - top - bottom + 4,
      }),
    );
    svg.append(clip);
    for (const [value, text] of data.yTicks ??
      ticksOf(data.limits).map((tick) => [tick, shown(Number(tick.toPrecision(6)))])) {
      const kind = value === 0 && !data.yTicks ? "zero" : "gridline";
      svg.append(svgNode("path", { class: kind, d: `M${left} ${y(value)}H${width - right}` }));
      svg.append(svgNode("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text));
    }
    for (const [place, text] of data.xTicks) {
      svg.append(svgNode("path", { class: "gridline", d: `M${x(place)} ${height - bottom}v4` }));
      const anchor = place < 0.02 ? "start" : place > 0.98 ? "end" : "middle";
      svg.append(svgNode("text", { x: x(place), y: height - 7, "text-anchor": anchor }, text));
    }
    const inner = svgNode("g", { "clip-path": `url(#${this.clip})` });
    for (const { kind, points } of data.lines) {
      const kept = points.filter(([, value]) => Number.isFinite(value));
      const d = kept
        .map(([place, value], k) => `${k ? "L" : "M"}${x(place).toFixed(1)} ${y(value).toFixed(1)}`)
        .join("");
      if (d) inner.append(svgNode("path", { class: `series ${kind}`, d }));
    }
    if (data.cursor) {
      const [place, value] = data.cursor;
      inner.append(svgNode("path", { class: "cursor", d: `M${x(place)} ${top}V${height - bottom}` }));
      if (Number.isFinite(value))
        inner.append(svgNode("circle", { class: "dot", cx: x(place), cy: y(value), r: 5 }));
    }
    svg.append(inner);
    this.replaceChildren(svg);
  }
}
customElements.define("line-chart", LineChart);

/** Put a table with a heading row into an element. */
function putTable(element, caption, heads, rows) {
  const table = element.tagName === "TABLE" ? element : document.createElement("table");
  const cells = (row, tag) =>
    row.map((each, k) => {
      const cell = document.createElement(k === 0 ? "th" : tag);
      cell.scope = tag === "th" ? "col" : "row";
      if (tag === "td" && k > 0) cell.removeAttribute("scope");
      cell.append(each);
      return cell;
    });
  const line = (row, tag) => {
    const made = document.createElement("tr");
    made.append(...cells(row, tag));
    return made;
  };
  const [head, body, title] = ["thead", "tbody", "caption"].map((tag) => document.createElement(tag));
  Object.assign(title, { textContent: caption, className: "hidden" });
  head.append(line(heads, "th"));
  body.append(...rows.map((row) => line(row, "td")));
  table.replaceChildren(title, head, body);
  if (table !== element) element.replaceChildren(table);
}
