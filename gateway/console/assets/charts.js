// Two small charts in SVG: a sparkline under a number, and lines over time with a scale. No library.

const NS = "http://www.w3.org/2000/svg";
export const LENGTH = 120; // points: two minutes

const element = (name, attributes) => {
  const made = document.createElementNS(NS, name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  return made;
};

// A bounded history of values; null is a gap.
export class History {
  values = [];
  add(value) { this.values.push(value); if (this.values.length > LENGTH) this.values.shift(); }
  most() { return this.values.reduce((most, value) => Math.max(most, value ?? 0), 0); }
}

// The path of a history in a box: newest at the right edge, the scale from 0 to `most`.
function path(history, width, height, most, closed) {
  const step = width / (LENGTH - 1), offset = LENGTH - history.values.length;
  let drawn = "", started = null, last = 0;
  history.values.forEach((value, at) => {
    if (value === null || value === undefined) return;
    const x = ((at + offset) * step).toFixed(1), y = (height - (most ? value / most : 0) * height).toFixed(1);
    drawn += `${started === null ? "M" : "L"}${x} ${y}`;
    started ??= x;
    last = x;
  });
  return drawn && closed ? `${drawn}L${last} ${height}L${started} ${height}Z` : drawn;
}

export class Spark {
  constructor(parent) {
    this.history = new History();
    this.svg = element("svg", { class: "spark", viewBox: "0 0 240 34", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.area = element("path", { class: "area one" });
    this.line = element("path", { class: "line one" });
    this.svg.append(this.area, this.line);
    parent.append(this.svg);
  }
  add(value) {
    this.history.add(value);
    const most = this.history.most() * 1.12;
    this.line.setAttribute("d", path(this.history, 240, 33, most, false));
    this.area.setAttribute("d", path(this.history, 240, 34, most, true));
  }
}

const NICE = [1, 2, 2.5, 5, 10];
export function niceCeiling(value) {
  if (!(value > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * NICE.find((step) => step * unit >= value * 0.999);
}

export class Lines {
  constructor(parent, names, format) {
    this.format = format;
    this.histories = names.map(() => new History());
    this.svg = element("svg", { role: "img", "aria-label": "Messages per second over the last two minutes" });
    this.rules = [0, 0.5, 1].map(() => element("line", { class: "rule" }));
    this.ticks = [0, 0.5, 1].map(() => element("text", { class: "tick", "text-anchor": "end" }));
    this.plot = element("svg", { preserveAspectRatio: "none" });
    this.areas = names.map((name) => element("path", { class: `area ${name}` }));
    this.lines = names.map((name) => element("path", { class: `line ${name}` }));
    this.plot.append(...this.areas, ...this.lines);
    this.svg.append(...this.rules, ...this.ticks, this.plot);
    parent.append(this.svg);
    new ResizeObserver(() => this.draw()).observe(parent);
  }
  add(values) {
    values.forEach((value, at) => this.histories[at].add(value));
    this.draw();
  }
  draw() {
    const box = this.svg.getBoundingClientRect(), left = 52, top = 6, bottom = 6;
    const width = Math.max(10, box.width - left), height = Math.max(10, box.height - top - bottom);
    const most = niceCeiling(Math.max(...this.histories.map((history) => history.most())));
    [0, 0.5, 1].forEach((share, at) => {
      const y = top + height * (1 - share);
      for (const [name, value] of Object.entries({ x1: left, x2: left + width, y1: y, y2: y })) this.rules[at].setAttribute(name, value);
      this.ticks[at].setAttribute("x", left - 8);
      this.ticks[at].setAttribute("y", y + 3.5);
      this.ticks[at].textContent = this.format(most * share);
    });
    for (const [name, value] of Object.entries({ x: left, y: top, width, height, viewBox: `0 0 ${width} ${height}` })) this.plot.setAttribute(name, value);
    this.histories.forEach((history, at) => {
      this.lines[at].setAttribute("d", path(history, width, height, most, false));
      this.areas[at].setAttribute("d", path(history, width, height, most, true));
    });
  }
}
