// What replicates from other seeds say: means with their intervals, and the loss against the seed net.

function spread(own, measure) {
  if (!own) return "";
  const half = own.high === null ? "?" : (own.high - own.mean).toPrecision(2);
  return `${written(own.mean, measure)} ±${half}`;
}

function rangeText(own, measure) {
  if (!own) return "";
  const [mean, low, high] = [own.mean, own.low, own.high].map((bound) => written(bound, measure));
  return low === high ? mean : `${mean} (${low} to ${high})`;
}

// The interval of one loss on an axis that all rows share, beside no loss and the margin, if any.
function whisker(loss, at, margin, label) {
  const height = 18;
  const svg = s("svg", { class: "whisker", viewBox: `0 0 150 ${height}`, width: 150, height, role: "img", "aria-label": label });
  if (margin !== null) {
    svg.append(s("rect", { class: "allowed", x: at(0), y: 0, width: Math.max(at(margin) - at(0), 0), height }));
    svg.append(s("line", { class: "margin", x1: at(margin), x2: at(margin), y1: 0, y2: height }));
  }
  svg.append(s("line", { class: "none", x1: at(0), x2: at(0), y1: 0, y2: height }));
  if (loss.low !== null) svg.append(s("line", { class: "interval", x1: at(loss.low), x2: at(loss.high), y1: height / 2, y2: height / 2 }));
  svg.append(s("path", { class: "mean", d: mark("circle", at(loss.mean), height / 2, 3.5) }));
  return svg;
}

function seedsTable(measure, costs) {
  const { nets, replicates, margin } = DATA.confirmed;
  const key = measure.key;
  const ends = nets.flatMap(({ losses }) => (losses[key] ? [losses[key].low, losses[key].high, losses[key].mean] : []));
  const [low, high] = extent([0, margin ?? 0, ...ends.filter((end) => end !== null)], 0.06);
  const at = scale(low, high, 4, 146);
  const rows = nets.map((net) => {
    const loss = net.losses[key];
    const words = loss ? [`loss ${spread(loss, measure)}`, loss.verdict].filter(Boolean).join(", ") : "";
    return h(
      "tr",
      { "data-seeds": net.point },
      h("th", { scope: "row" }, pointButton(net.point)),
      h("td", {}, `${net.seeds}/${replicates}`),
      h("td", {}, spread(net.metrics[key], measure)),
      h("td", {}, spread(loss, measure)),
      h("td", {}, loss ? whisker(loss, at, margin, words) : null),
      margin === null ? null : h("td", { class: "text" }, loss ? loss.verdict : ""),
      costs.map((cost) => h("td", {}, rangeText(net.costs[cost.key], cost))),
    );
  });
  const judged = margin === null ? ["loss beside 0"] : [`loss, 0 to ${margin} shaded`, heading(`within ${margin}`, "text")];
  const heads = ["net", "seeds", titled(measure), "loss", ...judged, ...costs.map(titled)];
  return table({ label: `${titled(measure)}, ${replicates} other seeds each`, heads, rows });
}

function drawSeeds() {
  const found = DATA.confirmed;
  if (found === null) return place("seeds-body", h("p", {}, "No net was trained again yet", DATA.front.length ? ["; ", h("a", { href: "#origin" }, "the commands below"), " tell how."] : "."));
  const known = (m) => found.nets.some((net) => net.costs[m.key]);
  const metrics = found.metrics.map(([key, title]) => ({ key, title, kind: "metric", unit: "" }));
  const costs = MEASURES.filter(known);
  const percent = Math.round(100 * found.level);
  const notes = [
    `Means of the other seeds alone, ± up to the ends of an interval of ${percent} % (Student t); costs: mean, least to most.`,
    "Loss: against the seed net's replicates, its interval by Welch" + (found.margin === null ? "; all that is stored counts, so nothing is judged by it." : `; "within" when all of it is at most ${found.margin}.`),
    ...found.reasons.map(([name, why]) => `Replicate ${name} failed: ${why}`),
  ];
  return place(
    "seeds-body",
    metrics.map((measure, k) => seedsTable(measure, k === 0 ? costs : [])),
    metrics.length === 0 ? h("p", {}, "No replicate has a result.") : null,
    h("ul", { class: "lines small" }, notes.map((text) => h("li", {}, text))),
  );
}
