// How the time was spent: hypervolume along it, phases, and who did what when.

const PHASE_COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f", "#000000"];

function timeUnit(seconds) {
  if (seconds < 300) return [1, "s"];
  return seconds < 18000 ? [60, "min"] : [3600, "h"];
}

function hypervolumeCharts() {
  const { seconds, epochs, hypervolume } = DATA.course;
  if (hypervolume.length === 0) return h("p", {}, "There is no hypervolume yet: it needs the seed net and a complete trial.");
  const last = seconds.at(-1) || 1;
  const [factor, unit] = timeUnit(last);
  const end = hypervolume.at(-1).toPrecision(3);
  const charts = [stepChart({ label: `Hypervolume against time, ${end} after ${lasting(last)}`, points: seconds.map((at, k) => [at / factor, hypervolume[k]]), title: `time since the first worker began [${unit}]`, last: last / factor })];
  if (epochs.every((own) => own !== null)) {
    const ordered = epochs.map((at, k) => [at, hypervolume[k]]);
    charts.push(stepChart({ label: `Hypervolume against epochs, ${end} after ${counted(epochs.at(-1))}`, points: ordered, title: "epochs trained by then, baselines included", last: epochs.at(-1) || 1 }));
  }
  return h("div", { class: "columns" }, charts);
}

function phaseTable() {
  const { phases } = DATA.course;
  const most = Math.max(...phases.map(([, trained, reused]) => trained + reused), 1e-9);
  const rows = phases.map(([name, trained, reused, trainedEpochs, reusedEpochs, numTrained, numReused]) => {
    const box = h("div", { class: "share-box", role: "img", "aria-label": `${lasting(trained)} trained, ${lasting(reused)} taken from the store` });
    for (const [kind, own] of [["trained", trained], ["reused", reused]]) {
      const part = h("span", { class: kind });
      part.style.width = `${(100 * own) / most}%`;
      box.append(part);
    }
    return h("tr", { "data-phase": name }, h("th", { scope: "row" }, name), h("td", {}, box), h("td", {}, counted(numTrained)), h("td", {}, counted(trainedEpochs)), h("td", {}, lasting(trained)), h("td", {}, counted(numReused)), h("td", {}, counted(reusedEpochs)));
  });
  const legend = h("ul", { class: "legend" }, h("li", {}, h("span", { class: "swatch trained" }), "trained"), h("li", {}, h("span", { class: "swatch reused" }), "taken from the store"));
  return [legend, table({ label: "Phases by kind, baselines included", heads: ["phase", heading("time", "text"), "times trained", "epochs trained", "took", "times from the store", "epochs saved"], rows })];
}

function timeline() {
  const { spans, workers, phases } = DATA.course;
  const count = spans.begin.length;
  const last = spans.begin.reduce((most, begin, k) => Math.max(most, begin + spans.seconds[k]), 1e-9);
  const [factor, unit] = timeUnit(last);
  const width = document.getElementById("time-body").clientWidth;
  const lane = 24;
  const left = 86;
  const height = workers.length * lane + 46;
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Timeline of ${counted(count)} phases by ${workers.length} workers over ${lasting(last)}` });
  const at = scale(0, last, left, width - 10);
  for (const tick of niceTicks(0, last / factor, width / 90)) {
    const x = at(tick * factor);
    svg.append(s("line", { class: "grid", x1: x, x2: x, y1: 4, y2: height - 40 }), s("text", { class: "tick", x, y: height - 24, "text-anchor": "middle" }, counted(tick)));
  }
  workers.forEach((name, k) => svg.append(s("text", { x: left - 8, y: k * lane + 18, "text-anchor": "end" }, name)));
  svg.append(s("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }, `time since the first worker began [${unit}]`));
  // One path a phase: thousands of spans are drawn at once.
  const paths = phases.map(() => ["", ""]);
  for (let k = 0; k < count; k += 1) {
    const top = spans.worker[k] * lane + 6 + (spans.reused[k] ? 5 : 0);
    const long = Math.max(at(spans.begin[k] + spans.seconds[k]) - at(spans.begin[k]), 0.8);
    paths[spans.phase[k]][spans.reused[k]] += `M${at(spans.begin[k]).toFixed(1)} ${top}h${long.toFixed(1)}v${spans.reused[k] ? 6 : 16}h${(-long).toFixed(1)}z`;
  }
  paths.forEach(([trained, reused], k) => {
    const fill = PHASE_COLOURS[k % PHASE_COLOURS.length];
    if (trained) svg.append(s("path", { d: trained, fill, stroke: "#fff", "stroke-width": 0.4 }));
    if (reused) svg.append(s("path", { d: reused, fill, stroke: "#1f2328", "stroke-width": 0.6 }));
  });
  const entries = phases.map(([name], k) => h("li", {}, legendMark("square", PHASE_COLOURS[k % PHASE_COLOURS.length], "#1f2328"), name));
  return [h("h3", {}, "Who did what when"), h("ul", { class: "legend" }, entries, h("li", {}, "low and framed: taken from the store")), h("div", { class: "plot", id: "timeline" }, svg)];
}

function drawCourse() {
  const known = DATA.course.spans.begin.length > 0;
  place("time-body", hypervolumeCharts(), ...(known ? [h("h3", {}, "Phases"), ...phaseTable(), ...timeline()] : [h("p", {}, "An earlier version made these trials: it did not write down their phases.")]));
}
