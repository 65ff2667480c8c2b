// Nets layer by layer: what is left of the seed net, and at how many bits.

const SHADES = { 1: "#e8f1fa", 2: "#c6dff0", 3: "#9fc9e6", 4: "#6fadd8", 5: "#4f9acd", 6: "#2270ac", 7: "#135a94", 8: "#0a4a82", 16: "#43306b", 32: "#3a3a3a" };

function shade(bits) {
  if (SHADES[bits]) return SHADES[bits];
  return bits < 16 ? SHADES[8] : SHADES[16];
}

// Layers of point `i` as objects; of the seed net those of another one, whole.
function layersOf(i) {
  const nets = DATA.nets;
  const known = nets.shape[i] !== null && nets.shapes[nets.shape[i]].length > 0;
  if (!known && POINTS.names[i] !== "seed") return [];
  const shape = known ? nets.shapes[nets.shape[i]] : nets.shapes.find((own) => own.length > 0) || [];
  return shape.map(([name, seedInputs, seedOutputs, seedTaps], k) => {
    const whole = [seedInputs, seedOutputs, seedTaps, 1, null];
    const [inputs, outputs, taps, dilation, xBits, ...flat] = known ? nets.states[nets.state[i][k]] : whole;
    const bits = [];
    for (let at = 0; at < flat.length; at += 2) if (flat[at] > 0) bits.push([flat[at], flat[at + 1]]);
    if (flat.length === 0) bits.push([32, outputs]);
    const costs = Object.fromEntries(Object.entries(nets.costs).map(([key, column]) => [key, known ? column[i][k] : null]));
    return { name, op: nets.ops[name] || "", seedInputs, seedOutputs, seedTaps, inputs, outputs, taps, dilation, xBits, bits, costs };
  });
}

function bitsText(layer) {
  return layer.bits.map(([bits, count]) => `${count} ${bits === 32 ? "float" : `at ${bits} bit`}`).join(", ") || "none";
}

function meanBits(layer) {
  return layer.bits.reduce((sum, [bits, count]) => sum + bits * count, 0) / Math.max(layer.seedOutputs, 1);
}

function tapsText(layer) {
  if (!layer.seedTaps) return "";
  return `${layer.taps} of ${layer.seedTaps}${layer.dilation > 1 ? `, every ${layer.dilation}.` : ""}`;
}

function bar(layer) {
  const label = `${layer.outputs} of ${layer.seedOutputs} channels: ${bitsText(layer)}`;
  const box = h("div", { class: "bar-box", role: "img", "aria-label": label, title: label });
  for (const [bits, count] of layer.bits) {
    const share = (100 * count) / Math.max(layer.seedOutputs, 1);
    const part = h("span", { "aria-hidden": "true" }, share > 9 ? `${count}` : "");
    part.style.width = `${share}%`;
    part.style.background = shade(bits);
    part.style.color = bits >= 6 ? "#fff" : "#1f2328";
    box.append(part);
  }
  return box;
}

function layerTable(i) {
  const layers = layersOf(i);
  const taps = layers.some((layer) => layer.seedTaps);
  const costs = MEASURES.filter((m) => m.kind === "cost" && m.shown && layers.some((l) => l.costs[m.key] !== null && l.costs[m.key] !== undefined));
  const rows = layers.map((layer) =>
    h(
      "tr",
      {},
      h("th", { scope: "row", title: layer.op }, layer.name),
      h("td", { class: "bar" }, bar(layer)),
      h("td", {}, `${layer.outputs} of ${layer.seedOutputs}`),
      h("td", { class: "spare" }, `${layer.inputs} of ${layer.seedInputs}`),
      taps ? h("td", {}, tapsText(layer)) : null,
      h("td", { class: "spare" }, layer.xBits === null ? "float" : `${layer.xBits} bit`),
      costs.map((m) => h("td", { class: "spare" }, written(layer.costs[m.key], m))),
    ),
  );
  const heads = ["layer", heading("channels by bits of their weights", "text"), "kept", heading("inputs", "spare"), ...(taps ? ["taps"] : []), heading("input", "spare")];
  return table({
    label: `Searched layers of ${named(i)}, beside the seed net`,
    heads: [...heads, ...costs.map((m) => heading(titled(m), "spare"))],
    rows,
    kind: "layers",
  });
}

function bitLegend(layers) {
  const widths = [...new Set(layers.flatMap((layer) => layer.bits.map(([bits]) => bits)))].sort((a, b) => a - b);
  const entries = widths.map((bits) => {
    const swatch = h("span", { class: "swatch" });
    swatch.style.background = shade(bits);
    return h("li", {}, swatch, bits === 32 ? "float" : `${bits} bit`);
  });
  return h("ul", { class: "legend" }, entries, h("li", {}, h("span", { class: "swatch none" }), "pruned"));
}

// A column a layer: as high as its channels, hollow where they are pruned.
function sketch(i, width = 240, height = 64) {
  const layers = layersOf(i);
  if (layers.length === 0) return null;
  const most = Math.max(...layers.map((layer) => layer.seedOutputs));
  const step = Math.min(width / layers.length, 26);
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "sketch", role: "img", "aria-label": `Channels kept in ${layers.length} layers` });
  layers.forEach((layer, k) => {
    const tall = (v) => (height - 2) * Math.sqrt(v / most);
    const left = k * step + 1;
    const broad = Math.max(step - 3, 1);
    const whole = tall(layer.seedOutputs);
    svg.append(s("rect", { x: left, y: height - 1 - whole, width: broad, height: whole, fill: "#fff", stroke: "#8c959f", "stroke-width": 0.8 }));
    let under = 0;
    for (const [bits, count] of layer.bits) {
      const part = (tall(layer.outputs) * count) / Math.max(layer.outputs, 1);
      svg.append(s("rect", { x: left, y: height - 1 - under - part, width: broad, height: part, fill: shade(bits) }));
      under += part;
    }
  });
  return svg;
}

function drawLayers() {
  const i = chosen.first;
  if (i === null) return place("layers-body", h("p", {}, "No point is chosen."));
  const layers = layersOf(i);
  const missing = DATA.nets.missing[i];
  if (layers.length === 0) {
    const why = missing || (DATA.nets.shape[i] === null ? "It has no stored net." : "No layer of it was searched.");
    return place("layers-body", h("h3", {}, named(i)), h("p", {}, why));
  }
  return place("layers-body", h("h3", {}, `${named(i)}, ${standing(i)}`), bitLegend(layers), layerTable(i));
}
