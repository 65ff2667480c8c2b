// One point as a card, two side by side, baselines, other costs, and where all this comes from.

function pointButton(i) {
  const button = h("button", { type: "button" }, named(i));
  button.addEventListener("click", () => choose(i));
  return button;
}

function drawCard() {
  const i = chosen.first;
  if (i === null) return place("card", h("p", {}, "No point is there to be chosen."));
  const rows = SHOWN.filter((m) => value(i, m) !== null).map((m) => h("tr", {}, h("th", { scope: "row" }, titled(MEASURES[m])), h("td", {}, written(value(i, m), MEASURES[m]))));
  const epochs = POINTS.epochs[i];
  const compare = h("button", { type: "button", id: "compare-with" }, "Compare others with it");
  compare.addEventListener("click", () => choose(i, i));
  const plan = planOf(i);
  return place(
    "card",
    h("h3", {}, named(i)),
    h("p", { class: "soft" }, [standing(i), plan].filter(Boolean).join(" · ")),
    sketch(i, 290, 74),
    h("table", {}, h("tbody", {}, rows)),
    epochs ? h("p", { class: "small soft" }, `${counted(epochs[0])} epochs trained, ${counted(epochs[1])} taken from the store`) : null,
    h("p", { class: "controls" }, compare),
  );
}

// -- two points -----------------------------------------------------------------------------------------

function pointSelect(which, text) {
  const listed = [...new Set([...BESIDE, ...DATA.front, chosen.first, chosen.second])].filter((i) => i !== null);
  const options = listed.map((i) => h("option", { value: i, selected: chosen[which] === i }, `${named(i)}${FRONT.has(i) ? ", front" : ""}`));
  const select = h("select", { "data-which": which }, options);
  select.addEventListener("change", () => {
    chosen[which] = Number(select.value);
    choose(chosen.first, chosen.second);
    document.querySelector(`[data-which="${which}"]`).focus();
  });
  return h("label", {}, text, select);
}

function difference(a, b) {
  if (a === null || b === null) return "";
  if (a === b) return "same";
  const share = b === 0 ? "" : ` (${a > b ? "+" : "−"}${Math.abs((100 * (a - b)) / b).toPrecision(3)} %)`;
  return `${a > b ? "+" : "−"}${counted(Number(Math.abs(a - b).toPrecision(4)))}${share}`;
}

function measureRow(m) {
  const measure = MEASURES[m];
  const [a, b] = [value(chosen.first, m), value(chosen.second, m)];
  if (a === null && b === null) return null;
  const better = a === null || b === null || a === b ? 0 : (a > b) === measure.maximize ? 1 : 2;
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, titled(measure)),
    h("td", { class: better === 1 ? "better" : "" }, written(a, measure)),
    h("td", { class: better === 2 ? "better" : "" }, written(b, measure)),
    h("td", {}, difference(a, b)),
  );
}

function wordRow(name, a, b) {
  return h("tr", { class: a === b ? "" : "differs" }, h("th", { scope: "row" }, name), h("td", {}, `${a ?? ""}`), h("td", {}, `${b ?? ""}`), h("td", {}, a === b ? "same" : ""));
}

function layerText(layer) {
  if (!layer) return "not there";
  const taps = tapsText(layer);
  return `${layer.outputs} of ${layer.seedOutputs}: ${bitsText(layer)}${taps ? `; taps ${taps}` : ""}${layer.xBits ? `; input ${layer.xBits} bit` : ""}`;
}

function layerPairs() {
  const [first, second] = [layersOf(chosen.first), layersOf(chosen.second)].map((layers) => new Map(layers.map((layer) => [layer.name, layer])));
  return [...new Set([...first.keys(), ...second.keys()])].map((name) => {
    const [a, b] = [first.get(name), second.get(name)];
    const same = layerText(a) === layerText(b);
    const cell = (layer) => h("td", { class: "text pair" }, layer ? bar(layer) : null, h("span", { class: "small" }, layerText(layer)));
    return h("tr", { class: same ? "" : "differs" }, h("th", { scope: "row" }, name), cell(a), cell(b));
  });
}

function drawCompare() {
  const { first, second } = chosen;
  if (first === null || second === null) {
    place("compare-controls");
    return place("compare-body", h("p", {}, "There are no two points to compare."));
  }
  place("compare-controls", pointSelect("first", "first"), pointSelect("second", "second"));
  const heads = ["", named(first), named(second)];
  const params = Object.entries(POINTS.params).filter(([, column]) => column[first] !== null || column[second] !== null);
  const epochs = [first, second].map((i) => POINTS.epochs[i]?.[0] ?? null);
  const pairs = layerPairs();
  return place(
    "compare-body",
    h("div", { class: "columns" },
      table({ label: "Values and costs; the better one in bold", heads: ["measure", ...heads.slice(1), "difference"], rows: [...MEASURES.keys()].map(measureRow) }),
      table({ label: "Plans", heads: ["setting", ...heads.slice(1), ""], rows: [...params.map(([name, column]) => wordRow(name, column[first], column[second])), wordRow("epochs trained", ...epochs)] })),
    pairs.length === 0 ? null : table({ label: "Layers; ≠ marks those that differ", heads: ["layer", heading(named(first), "text"), heading(named(second), "text")], rows: pairs, kind: "layers" }),
  );
}

// -- baselines ------------------------------------------------------------------------------------------

// What the front needs to be at least as good as `i`, as a share of what `i` costs.
function share(i) {
  if (DATA.axes === null || DATA.axes.x.maximize) return "";
  const { x, y } = DATA.axes;
  const sense = y.maximize ? 1 : -1;
  const as = DATA.front.filter((k) => sense * value(k, y.measure) >= sense * value(i, y.measure)).map((k) => value(k, x.measure));
  if (as.length === 0) return "no point is as good";
  return `${((100 * Math.min(...as)) / value(i, x.measure)).toPrecision(3)} %`;
}

function drawBaselines() {
  if (BESIDE.length + DATA.untrained.length === 0) return place("baselines-body", h("p", {}, "There are none yet: the seed net is trained first by plinio-sweep run."));
  const rows = BESIDE.map((i) => h("tr", { "data-baseline": i }, h("th", { scope: "row" }, pointButton(i)), h("td", { class: "text" }, POINTS.names[i] === "seed" ? "" : POINTS.families[i]), SHOWN.map((m) => h("td", {}, written(value(i, m), MEASURES[m]))), h("td", {}, isDrawn(i) ? share(i) : "")));
  for (const [name, family, reason] of DATA.untrained) rows.push(h("tr", { class: "off" }, h("th", { scope: "row" }, name), h("td", { class: "text" }, family), h("td", { class: "text", colspan: SHOWN.length + 1 }, reason === "" ? "not trained yet" : `failed: ${reason}`)));
  return place("baselines-body", table({ label: "What the front has to beat, trained as the trials are", heads: ["baseline", heading("family", "text"), ...SHOWN.map((m) => titled(MEASURES[m])), "a point of the front as good costs"], rows }));
}

// -- under other costs ----------------------------------------------------------------------------------

function drawHardware() {
  const { models, rows, remarks, remark } = DATA.hardware;
  const told = remark === "" ? [] : [h("p", {}, remark)];
  if (rows.length === 0) return place("hardware-body", told.length ? told : h("p", {}, "No stored net was counted."));
  const letter = (k) => String.fromCharCode(97 + (k % 26)) + (k < 26 ? "" : `${Math.floor(k / 26)}`);
  const cell = ([own, k]) => h("td", {}, own === null ? "can't be counted" : counted(own), k === null ? null : h("sup", {}, ` ${letter(k)}`));
  const body = rows.map(([i, cells]) => h("tr", { "data-hardware": i }, h("th", { scope: "row" }, pointButton(i)), cells.map(cell)));
  const notes = remarks.map((text, k) => h("li", {}, `${letter(k)}: ${text}`));
  return place("hardware-body", h("p", { class: "soft" }, "The stored nets counted anew under every cost model: what they would cost elsewhere, nothing trained."), told, table({ label: "Seed net and front under every cost model", heads: ["point", ...models.map(([name, unit]) => `${name.replaceAll("_", " ")} [${unit}]`)], rows: body }), h("ul", { class: "lines small" }, notes));
}

// -- where it comes from --------------------------------------------------------------------------------

function drawOrigin() {
  const limits = DATA.limits.map(([name, sense, bound]) => `${name} ${sense} ${counted(bound)}`).join(", ");
  const rows = [...DATA.environment, ...(limits ? [["limits", limits]] : [])];
  place(
    "origin-body",
    h("dl", {}, rows.flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)])),
    DATA.commands.flatMap(([what, words]) => [h("p", {}, what), h("pre", { tabindex: 0, role: "region", "aria-label": what }, words)]),
    DATA.lines.length ? [h("h3", {}, "What went otherwise than planned"), h("ul", { class: "lines" }, DATA.lines.map((line) => h("li", {}, line)))] : null,
  );
}
