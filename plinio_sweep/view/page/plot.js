// Axes, marks and lines of all pictures.

const MARGIN = { left: 58, right: 16, top: 12, bottom: 42 };

function scale(low, high, from, to, log) {
  const map = log ? Math.log : (v) => v;
  const span = map(high) - map(low) || 1;
  return (v) => from + ((to - from) * (map(v) - map(low))) / span;
}

function niceTicks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((f) => f * power).find((f) => f >= rough);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) {
    ticks.push(Number((k * step).toPrecision(12)));
  }
  return ticks;
}

function extent(values, margin) {
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const room = (high - low || Math.abs(high) || 1) * margin;
  return [low - room, high + room];
}

// The axes of a picture: grid, ticks that don't touch each other, and titles.
function axes(svg, width, height, x, y) {
  const bottom = height - MARGIN.bottom;
  let last = -Infinity;
  for (const tick of x.ticks) {
    const at = x.at(tick);
    svg.append(s("line", { class: "grid", x1: at, x2: at, y1: MARGIN.top, y2: bottom }));
    const label = counted(tick);
    if (at - last < 12 + 7 * label.length) continue;
    last = at;
    svg.append(s("text", { class: "tick", x: at, y: bottom + 17, "text-anchor": "middle" }, label));
  }
  for (const tick of y.ticks) {
    const at = y.at(tick);
    svg.append(s("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }));
    const label = { class: "tick", x: MARGIN.left - 7, y: at + 4, "text-anchor": "end" };
    svg.append(s("text", label, counted(tick)));
  }
  svg.append(s("path", { class: "axis", fill: "none", d: `M${MARGIN.left} ${MARGIN.top}V${bottom}H${width - MARGIN.right}` }));
  const middle = (MARGIN.left + width - MARGIN.right) / 2;
  svg.append(s("text", { x: middle, y: height - 6, "text-anchor": "middle" }, x.title));
  const turned = `translate(13 ${(MARGIN.top + bottom) / 2}) rotate(-90)`;
  svg.append(s("text", { transform: turned, "text-anchor": "middle" }, y.title));
}

const OUTLINES = {
  square: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
  diamond: [[0, -1.35], [1.35, 0], [0, 1.35], [-1.35, 0]],
  down: [[-1.2, -1], [1.2, -1], [0, 1.2]],
  up: [[-1.2, 1], [1.2, 1], [0, -1.2]],
  cross: [[-1.2, -0.8], [-0.8, -1.2], [0, -0.4], [0.8, -1.2], [1.2, -0.8], [0.4, 0], [1.2, 0.8], [0.8, 1.2], [0, 0.4], [-0.8, 1.2], [-1.2, 0.8], [-0.4, 0]],
  plus: [[-0.4, -1.3], [0.4, -1.3], [0.4, -0.4], [1.3, -0.4], [1.3, 0.4], [0.4, 0.4], [0.4, 1.3], [-0.4, 1.3], [-0.4, 0.4], [-1.3, 0.4], [-1.3, -0.4], [-0.4, -0.4]],
  pentagon: [0, 1, 2, 3, 4].map((k) => [1.25 * Math.sin(k * 0.4 * Math.PI), -1.25 * Math.cos(k * 0.4 * Math.PI)]),
  star: [...Array(10).keys()].map((k) => {
    const reach = k % 2 ? 0.75 : 1.9;
    return [reach * Math.sin(k * 0.2 * Math.PI), -reach * Math.cos(k * 0.2 * Math.PI)];
  }),
};

function mark(kind, x, y, size) {
  if (kind === "circle") {
    return `M${(x - size).toFixed(1)} ${y.toFixed(1)}a${size} ${size} 0 1 0 ${2 * size} 0a${size} ${size} 0 1 0 ${-2 * size} 0z`;
  }
  const corners = OUTLINES[kind].map(([a, b]) => `${(x + a * size).toFixed(1)} ${(y + b * size).toFixed(1)}`);
  return `M${corners.join("L")}z`;
}

const FAMILIES = [["#e69f00", "square"], ["#cc79a7", "diamond"], ["#56b4e9", "down"], ["#000000", "cross"], ["#009e73", "plus"], ["#d55e00", "pentagon"]];
const FAMILY_NAMES = [...new Set(BESIDE.filter((i) => POINTS.names[i] !== "seed").map((i) => POINTS.families[i]))].sort();

// Shape, colour and size of what is drawn by itself.
function styleOf(i) {
  if (POINTS.names[i] === "seed") return ["star", "#d55e00", 6];
  if (FRONT.has(i)) return ["circle", "#0072b2", 5];
  const [colour, kind] = FAMILIES[FAMILY_NAMES.indexOf(POINTS.families[i]) % FAMILIES.length];
  return [kind, colour, 4.5];
}

function stepChart({ label, points, title, last }) {
  const width = Math.min(document.getElementById("time-body").clientWidth, 590);
  const height = 250;
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const top = extent(points.map((p) => p[1]), 0.08)[1];
  const x = scale(0, last, MARGIN.left, width - MARGIN.right);
  const y = scale(0, top, height - MARGIN.bottom, MARGIN.top);
  axes(svg, width, height, { at: x, ticks: niceTicks(0, last, 6), title }, { at: y, ticks: niceTicks(0, top, 5), title: "hypervolume" });
  let path = `M${x(0)} ${y(0)}`;
  for (const [at, height] of points) path += `H${x(at).toFixed(1)}V${y(height).toFixed(1)}`;
  svg.append(s("path", { class: "outline", d: `${path}H${x(last)}` }));
  return h("div", { class: "plot" }, svg);
}
