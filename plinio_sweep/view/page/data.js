// What the page knows, how it is written, and which points are chosen.

const DATA = JSON.parse(document.getElementById("data").textContent);
const POINTS = DATA.points;
const MEASURES = DATA.measures;
const COUNT = POINTS.names.length;
const FRONT = new Set(DATA.front);
const ALL = [...Array(COUNT).keys()];
const TRIALS = ALL.filter((i) => typeof POINTS.names[i] === "number");
const BESIDE = ALL.filter((i) => typeof POINTS.names[i] !== "number"); // seed net and baselines
const SHOWN = [...MEASURES.keys()].filter((m) => MEASURES[m].shown);

// -- elements: text never becomes markup --------------------------------------------------------

function built(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, action] of Object.entries(value)) node.addEventListener(event, action);
    } else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function h(tag, attributes = {}, ...children) {
  return built(document.createElement(tag), attributes, children);
}

function s(tag, attributes = {}, ...children) {
  return built(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function place(id, ...children) {
  document.getElementById(id).replaceChildren(...children.flat().filter(Boolean));
}

function table({ label, heads, rows, kind = "" }) {
  const head = h("tr", {}, heads.map((cell) => (cell instanceof Node ? cell : heading(cell))));
  const body = h("table", { class: kind }, h("caption", {}, label), h("thead", {}, head), h("tbody", {}, rows));
  // What may be wider than the screen is moved by arrow keys, too.
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, body);
}

function heading(text, kind = "") {
  return h("th", { scope: "col", class: kind }, text);
}

// -- words ----------------------------------------------------------------------------------------

function named(i) {
  const own = POINTS.names[i];
  if (typeof own === "number") return `trial ${own}`;
  return own === "seed" ? "seed net (float)" : own;
}

function value(i, m) {
  return POINTS.values[m][i];
}

function written(number, measure) {
  if (number === null || number === undefined) return "";
  if (measure.kind === "metric") return number.toPrecision(4);
  return counted(number);
}

function counted(number) {
  if (number !== 0 && Math.abs(number) < 1e-3) return number.toExponential(3);
  const digits = Number.isInteger(number) ? {} : { maximumSignificantDigits: 4 };
  return number.toLocaleString("en-US", digits);
}

function titled(measure) {
  const plain = measure.unit === "" || measure.unit === measure.title;
  return plain ? measure.title : `${measure.title} [${measure.unit}]`;
}

function lasting(seconds) {
  if (seconds === null) return "";
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : seconds.toFixed(0)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function stateOf(i) {
  return POINTS.states[POINTS.state[i]];
}

function isDrawn(i) {
  return stateOf(i) === "complete" && MEASURES.every((m, k) => !m.objective || value(i, k) !== null);
}

function standing(i) {
  if (BESIDE.includes(i)) return POINTS.names[i] === "seed" ? "as long as any trial" : POINTS.families[i];
  if (FRONT.has(i)) return "on the front";
  if (stateOf(i) !== "complete") return stateOf(i);
  return POINTS.feasible[i] ? "behind the front" : "passes a limit";
}

// -- what is chosen ---------------------------------------------------------------------------------

const listeners = [];
const chosen = { first: null, second: null };

function choose(first, second = chosen.second) {
  chosen.first = first;
  chosen.second = second;
  for (const listener of listeners) listener();
}
