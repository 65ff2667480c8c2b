// The front: every complete trial, seed net and baselines; filters dim it.

const spots = { x: [], y: [], drawn: [], height: 0, width: 0 };
const zoom = { on: false };

function frontScales(width, height) {
  const { x, y } = DATA.axes;
  const drawn = ALL.filter(isDrawn);
  const wanted = zoom.on ? drawn.filter((i) => FRONT.has(i)) : drawn;
  const xs = wanted.map((i) => value(i, x.measure) / x.factor);
  const ys = wanted.map((i) => value(i, y.measure) / y.factor);
  if (y.test !== null) ys.push(...DATA.front.map((i) => value(i, y.test)).filter((v) => v !== null).map((v) => v / y.factor));
  const log = x.ticks.length > 0;
  let [low, high] = extent(xs, 0.04);
  if (log) {
    const least = Math.min(...xs);
    const most = Math.max(...xs);
    [low, high] = [least / (most / least) ** 0.04, most * (most / least) ** 0.04];
  }
  const [bottom, top] = extent(ys, 0.06);
  return {
    drawn,
    x: { title: x.title, at: scale(low, high, MARGIN.left, width - MARGIN.right, log), ticks: (log ? x.ticks : niceTicks(low, high, 6)).filter((t) => t >= low && t <= high) },
    y: { title: y.title, at: scale(bottom, top, height - MARGIN.bottom, MARGIN.top, false), ticks: niceTicks(bottom, top, 6) },
  };
}

function cloud(indices, kind) {
  const path = indices.map((i) => mark("circle", spots.x[i], spots.y[i], 2.8)).join("");
  return s("path", { class: kind, d: path, "data-count": indices.length });
}

function frontPoint(i) {
  const [kind, colour, size] = styleOf(i);
  const rest = [...SHOWN].filter((m) => value(i, m) !== null).map((m) => `${titled(MEASURES[m])} ${written(value(i, m), MEASURES[m])}`);
  const dim = state.kept[i] ? "" : " dim";
  return s(
    "g",
    {
      class: `point${dim}`,
      role: "button",
      tabindex: 0,
      "data-point": i,
      "aria-pressed": chosen.first === i ? "true" : "false",
      "aria-label": `${named(i)}, ${standing(i)}: ${rest.join(", ")}`,
      on: {
        focus: () => showTip(i),
        blur: hideTip,
        keydown: (event) => {
          if (event.key === "Enter" || event.key === " ") {
            event.preventDefault();
            pick(i, event.shiftKey);
          }
        },
      },
    },
    s("circle", { class: "ring", cx: spots.x[i], cy: spots.y[i], r: 11 }),
    s("path", { d: mark(kind, spots.x[i], spots.y[i], size), fill: colour, stroke: "#1f2328", "stroke-width": 0.7 }),
  );
}

function pick(i, second) {
  choose(second ? chosen.first : i, second ? i : chosen.second);
  // The picture was drawn anew: who came by keyboard goes on where they were.
  document.querySelector(`#front-plot [data-point="${i}"]`)?.focus({ preventScroll: true });
}

function outline(svg) {
  const { x, y } = DATA.axes;
  const sense = y.maximize ? 1 : -1;
  const along = [...DATA.front].sort((i, j) => spots.x[i] - spots.x[j]);
  let best = -Infinity;
  let path = "";
  for (const i of x.maximize ? along.reverse() : along) {
    const height = sense * value(i, y.measure);
    if (height <= best) continue;
    best = height;
    path += path === "" ? `M${spots.x[i]} ${spots.y[i]}` : `H${spots.x[i]}V${spots.y[i]}`;
  }
  svg.append(s("path", { class: "outline", d: path || "M0 0" }));
}

function frontLabels(group) {
  const up = DATA.axes.y.maximize ? -8 : 17;
  const right = DATA.axes.x.maximize;
  const taken = [];
  for (const i of DATA.front) {
    const [left, top] = [spots.x[i], spots.y[i] + up];
    if (taken.some(([x, y]) => Math.abs(x - left) < 22 && Math.abs(y - top) < 13)) continue;
    taken.push([left, top]);
    group.append(s("text", { class: "label", x: left + (right ? 6 : -6), y: top, "text-anchor": right ? "start" : "end", "aria-hidden": "true" }, `${POINTS.names[i]}`));
  }
}

function ring(i, second) {
  if (i === null || spots.x[i] === undefined) return null;
  return s("circle", { class: `choice${second ? " second" : ""}`, cx: spots.x[i], cy: spots.y[i], r: second ? 12 : 9 });
}

function drawFront() {
  if (DATA.axes === null) {
    return place("front-plot", h("p", {}, "There is no picture of one objective, or before the first trial: see the tables."));
  }
  const width = Math.max(document.getElementById("front-plot").clientWidth, 300);
  const height = Math.min(Math.max(width * 0.62, 270), 470);
  const { drawn, x, y } = frontScales(width, height);
  Object.assign(spots, { x: [], y: [], drawn, width, height });
  for (const i of drawn) {
    spots.x[i] = x.at(value(i, DATA.axes.x.measure) / DATA.axes.x.factor);
    spots.y[i] = y.at(value(i, DATA.axes.y.measure) / DATA.axes.y.factor);
  }
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `Front of ${DATA.name}: ${y.title} over ${x.title}`, on: pointing });
  axes(svg, width, height, x, y);
  const clip = s("clipPath", { id: "frame" }, s("rect", { x: MARGIN.left - 8, y: 0, width: width - MARGIN.left + 8, height: height - MARGIN.bottom + 8 }));
  const inner = s("g", { "clip-path": "url(#frame)" });
  svg.append(clip, inner);
  const behind = drawn.filter((i) => !FRONT.has(i) && !BESIDE.includes(i));
  for (const [kind, own] of [["trial", behind.filter((i) => POINTS.feasible[i])], ["infeasible", behind.filter((i) => !POINTS.feasible[i])]]) {
    inner.append(cloud(own.filter((i) => !state.kept[i]), `${kind} faint`), cloud(own.filter((i) => state.kept[i]), `${kind} kept`));
  }
  outline(inner);
  const test = DATA.axes.y.test;
  const tested = test === null ? [] : DATA.front.filter((i) => value(i, test) !== null);
  for (const i of tested) {
    inner.append(s("path", { class: "test", d: mark("up", spots.x[i], y.at(value(i, test) / DATA.axes.y.factor), 4), fill: "none", stroke: "#007a5a", "stroke-width": 1.3 }));
  }
  inner.append(...BESIDE.filter(isDrawn).map(frontPoint), ...DATA.front.map(frontPoint));
  frontLabels(inner);
  inner.append(...[ring(chosen.second, true), ring(chosen.first, false)].filter(Boolean));
  place("front-plot", svg);
  return frontLegend(behind, tested);
}

function legendMark(kind, fill, stroke) {
  return s("svg", { viewBox: "-9 -9 18 18", "aria-hidden": "true" }, s("path", { d: mark(kind, 0, 0, kind === "star" ? 4.5 : 4.5), fill, stroke }));
}

function frontLegend(behind, tested) {
  const entries = [
    ["circle", "#0072b2", "#1f2328", "front", FRONT.size],
    ["up", "none", "#007a5a", "front, on test data", tested.length],
    ["circle", "#b3b3b3", "none", "behind it", behind.filter((i) => POINTS.feasible[i]).length],
    ["circle", "none", "#7f7f7f", "passes a limit", behind.filter((i) => !POINTS.feasible[i]).length],
    ["star", "#d55e00", "#1f2328", "seed net (float)", BESIDE.filter((i) => POINTS.names[i] === "seed" && isDrawn(i)).length],
    ...FAMILY_NAMES.map((family, k) => {
      const [colour, kind] = FAMILIES[k % FAMILIES.length];
      return [kind, colour, "#1f2328", family, BESIDE.filter((i) => POINTS.families[i] === family && isDrawn(i)).length];
    }),
  ];
  place("front-legend", entries.filter((entry) => entry[4] > 0).map(([kind, fill, stroke, text, count]) => h("li", {}, legendMark(kind, fill, stroke), `${text} (${counted(count)})`)));
}

// -- under the pointer --------------------------------------------------------------------------------

function nearest(event) {
  const box = event.currentTarget.getBoundingClientRect();
  const x = ((event.clientX - box.left) * spots.width) / box.width;
  const y = ((event.clientY - box.top) * spots.height) / box.height;
  let found = null;
  let least = 18 ** 2;
  for (const i of spots.drawn) {
    // Of two that lie together the one of the front is meant.
    const far = (spots.x[i] - x) ** 2 + (spots.y[i] - y) ** 2 - (FRONT.has(i) ? 9 : 0) + (state.kept[i] ? 0 : 60);
    if (far < least) [found, least] = [i, far];
  }
  return found;
}

const pointing = {
  pointermove: (event) => {
    const i = nearest(event);
    if (i === null) hideTip();
    else showTip(i);
  },
  pointerleave: () => hideTip(),
  click: (event) => {
    const i = nearest(event);
    if (i !== null) pick(i, event.shiftKey);
  },
};

function showTip(i) {
  const tip = document.getElementById("tip");
  if (tip.dataset.point !== `${i}`) {
    const lines = SHOWN.filter((m) => value(i, m) !== null).map((m) => h("div", {}, `${titled(MEASURES[m])}: ${written(value(i, m), MEASURES[m])}`));
    tip.replaceChildren(h("strong", {}, `${named(i)}, ${standing(i)}`), ...[planOf(i) === "" ? null : h("div", {}, planOf(i)), ...lines, sketch(i, 220, 46)].filter(Boolean));
    tip.dataset.point = `${i}`;
  }
  tip.hidden = false;
  const box = document.querySelector("#front-plot svg").getBoundingClientRect();
  const left = box.left + window.scrollX + (spots.x[i] * box.width) / spots.width;
  const top = box.top + window.scrollY + (spots.y[i] * box.height) / spots.height;
  const room = document.documentElement.clientWidth + window.scrollX - 6;
  const turn = left + 16 + tip.offsetWidth > room ? Math.max(left - 16 - tip.offsetWidth, 4) : left + 16;
  tip.style.left = `${Math.max(Math.min(turn, room - tip.offsetWidth), 4)}px`;
  tip.style.top = `${top + 14}px`;
}

function hideTip() {
  document.getElementById("tip").hidden = true;
}
