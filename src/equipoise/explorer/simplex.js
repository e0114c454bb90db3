/* <simplex-plot>: the expected loss over the distributions of three classes, with truth, labels and
 * optimum. */
"use strict";

const GRID = 40;
const SHADES = 10;
const NUDGE = 0.01;

/** Return the shapes of the marks, around 0. */
const MARKS = {
  truth: () => svgNode("circle", { r: 9, class: "truth" }),
  labels: () => svgNode("rect", { x: -6, y: -6, width: 12, height: 12, class: "labels" }),
  optimum: () => svgNode("path", { d: "M0 -9L8 6H-8Z", class: "optimum" }),
  read: () => {
    const group = svgNode("g");
    for (const kind of ["read", "read top"])
      group.append(svgNode("path", { d: "M-6 -6L6 6M-6 6L6 -6", class: kind }));
    return group;
  },
};

class SimplexPlot extends HTMLElement {
  connectedCallback() {
    this.canvas = document.createElement("canvas");
    this.svg = svgNode("svg");
    this.replaceChildren(this.canvas, this.svg);
    this.handle = svgNode("g", {
      tabindex: 0,
      role: "slider",
      "aria-label": "Truth: probability of A",
      "aria-valuemin": 0,
      "aria-valuemax": 1,
    });
    this.handle.append(svgNode("circle", { r: 22, fill: "transparent" }), MARKS.truth());
    this.handle.addEventListener("keydown", (event) => this.key(event));
    this.svg.addEventListener("pointerdown", (event) => {
      this.svg.setPointerCapture(event.pointerId);
      this.handle.focus({ preventScroll: true });
      this.call(this.probsAt(event), false);
      event.preventDefault();
    });
    this.svg.addEventListener("pointermove", (event) => {
      if (this.svg.hasPointerCapture(event.pointerId)) this.call(this.probsAt(event), false);
    });
    this.svg.addEventListener("pointerup", (event) => this.call(this.probsAt(event), true));
    new ResizeObserver(() => this.data && this.draw(this.data)).observe(this);
    matchMedia("(prefers-color-scheme: dark)").addEventListener(
      "change",
      () => this.data && this.draw(this.data),
    );
  }

  /** Return the place of a distribution: A at the top, B at the left, C at the right. */
  at([a, b, c]) {
    const { left, top, side, height } = this.box;
    return [left + side * (c + a / 2), top + height * (1 - a)];
  }

  probsAt(event) {
    const { left, top, side, height } = this.box;
    const frame = this.svg.getBoundingClientRect();
    const a = 1 - (event.clientY - frame.top - top) / height;
    const c = (event.clientX - frame.left - left) / side - a / 2;
    return this.nearest([a, 1 - a - c, c]);
  }

  nearest(probs) {
    const [a, b] = sparsemax(probs).map((prob) => Math.round(prob * 1000) / 1000);
    return [a, b, Math.max(Number((1 - a - b).toFixed(3)), 0)];
  }

  key(event) {
    const size = event.shiftKey ? 5 * NUDGE : NUDGE;
    const ways = {
      ArrowUp: [1, -0.5, -0.5],
      ArrowDown: [-1, 0.5, 0.5],
      ArrowLeft: [0, 1, -1],
      ArrowRight: [0, -1, 1],
    };
    const ends = { Home: [0, 0.5, 0.5], End: [1, 0, 0] };
    if (!(event.key in ways) && !(event.key in ends)) return;
    event.preventDefault();
    const moved = (ways[event.key] ?? []).map((way, k) => this.data.truth[k] + size * way);
    this.call(ends[event.key] ?? this.nearest(moved), true);
  }

  /** Draw { truth, labels, optimum, read, points, label }; labels and read may be null. */
  draw(data) {
    this.data = data;
    const width = Math.max(this.clientWidth, 200);
    const side = width - 68;
    this.box = { left: 34, top: 30, side, height: (side * Math.sqrt(3)) / 2 };
    const height = Math.round(this.box.height + 62);
    const { svg } = this;
    for (const [key, value] of Object.entries({ viewBox: `0 0 ${width} ${height}`, width, height }))
      svg.setAttribute(key, value);
    const focused = document.activeElement === this.handle;
    svg.replaceChildren();
    const corners = [
      [1, 0, 0],
      [0, 1, 0],
      [0, 0, 1],
    ].map((corner) => this.at(corner));
    svg.append(
      svgNode("path", { class: "frame", d: `M${corners.map((each) => each.join(" ")).join("L")}Z` }),
    );
    corners.forEach(([x, y], k) => {
      const anchor = ["middle", "start", "end"][k];
      const [dx, dy] = [
        [0, -12],
        [-24, 22],
        [24, 22],
      ][k];
      svg.append(
        svgNode("text", { x: x + dx, y: y + dy, "text-anchor": anchor }, `certainly ${CLASS_NAMES[k]}`),
      );
    });
    const stops = [data.truth, data.labels, data.optimum]
      .filter(Boolean)
      .map((probs) => this.at(probs).join(" "));
    svg.append(svgNode("path", { class: "path", d: `M${stops.join("L")}` }));
    this.put(this.handle, data.truth); // below the others, which may lie on it and are smaller
    for (const name of ["optimum", "labels", "read"]) if (data[name]) this.put(MARKS[name](), data[name]);
    this.handle.setAttribute("aria-valuenow", data.truth[0]);
    this.handle.setAttribute("aria-valuetext", distributionText(data.truth));
    this.description ??= svgNode("desc");
    this.description.textContent = data.label;
    svg.prepend(this.description);
    if (focused) this.handle.focus({ preventScroll: true });
    this.shade(width, height);
  }

  put(mark, probs) {
    const [x, y] = this.at(probs);
    mark.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
    if (mark !== this.handle) mark.style.pointerEvents = "none";
    this.svg.append(mark);
  }

  /** Fill the triangle: each shade has a tenth of the points of the grid, the lowest loss is darkest. */
  shade(width, height) {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const { canvas, box } = this;
    [canvas.width, canvas.height] = [width, height].map((each) => Math.round(each * ratio));
    Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    const ordered = this.data.points.map((point) => point.value).sort((one, two) => one - two);
    const levels = Array.from(
      { length: SHADES - 1 },
      (_, k) => ordered[Math.floor(((k + 1) / SHADES) * ordered.length)],
    );
    const flat = ordered[ordered.length - 1] - ordered[0] < 1e-12;
    const [red, green, blue] = getComputedStyle(this).getPropertyValue("--cell").split(",").map(Number);
    const first = (i) => i * (GRID + 1) - (i * (i - 1)) / 2; // place of (i, 0) among the points
    const value = (i, k) => this.data.points[first(i) + k].value;
    const image = new ImageData(canvas.width, canvas.height);
    for (let py = 0; py < canvas.height; py += 1) {
      for (let px = 0; px < canvas.width; px += 1) {
        const a = (1 - ((py + 0.5) / ratio - box.top) / box.height) * GRID;
        const c = (((px + 0.5) / ratio - box.left) / box.side) * GRID - a / 2;
        const b = GRID - a - c;
        if (a < 0 || b < 0 || c < 0) continue;
        const [i, k] = [Math.min(Math.floor(a), GRID - 1), Math.min(Math.floor(b), GRID - 1)];
        const [u, v] = [a - i, b - k];
        let loss;
        if (i + k >= GRID) loss = value(Math.round(a), GRID - Math.round(a));
        else if (u + v <= 1) loss = value(i, k) * (1 - u - v) + value(i + 1, k) * u + value(i, k + 1) * v;
        else if (i + k + 2 > GRID) loss = value(i + 1, k) * 0.5 + value(i, k + 1) * 0.5;
        else loss = value(i + 1, k + 1) * (u + v - 1) + value(i + 1, k) * (1 - v) + value(i, k + 1) * (1 - u);
        let shade = 0;
        while (shade < levels.length && loss > levels[shade]) shade += 1;
        image.data.set(
          [red, green, blue, flat ? 40 : Math.round(200 * (1 - shade / (SHADES - 1)) ** 1.3)],
          4 * (py * canvas.width + px),
        );
      }
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
}
customElements.define("simplex-plot", SimplexPlot);
