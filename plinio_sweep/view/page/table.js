// The table of all trials: filters, order, pages. What a filter leaves out is dimmed in the front.

const PAGE = 50;
const state = {
  kept: new Uint8Array(COUNT).fill(1),
  bounds: new Map(), // by measure
  order: "",
  frontOnly: false,
  sort: null, // key of a column
  down: false,
  page: 0,
};
const PREFIXES = { "": 1, k: 1e3, K: 1e3, M: 1e6, G: 1e9 };

function parsedBound(text) {
  const found = /^\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*([kKMG]?)(i?)B?\s*$/.exec(text);
  if (!found) return NaN;
  const prefix = PREFIXES[found[2]];
  return Number(found[1]) * (found[3] ? 1024 ** Math.round(Math.log10(prefix) / 3) : prefix);
}

function keeps(i) {
  for (const [m, bound] of state.bounds) {
    const own = value(i, m);
    if (own === null || (MEASURES[m].maximize ? own < bound : own > bound)) return 0;
  }
  const isTrial = typeof POINTS.names[i] === "number";
  if (isTrial && state.order !== "" && POINTS.params.order?.[i] !== state.order) return 0;
  return isTrial && state.frontOnly && !FRONT.has(i) ? 0 : 1;
}

function filter() {
  for (const i of ALL) state.kept[i] = keeps(i);
  state.page = 0;
  drawTable();
  drawFront();
}

function boundInput(m) {
  const measure = MEASURES[m];
  const input = h("input", { type: "text", inputmode: "decimal", autocomplete: "off", "data-measure": measure.key, placeholder: measure.unit === "byte" ? "24kB" : "" });
  input.addEventListener("input", () => {
    const bound = parsedBound(input.value);
    input.setAttribute("aria-invalid", input.value.trim() !== "" && Number.isNaN(bound) ? "true" : "false");
    if (Number.isNaN(bound)) state.bounds.delete(m);
    else state.bounds.set(m, bound);
    filter();
  });
  return h("label", {}, `${titled(measure)} ${measure.maximize ? "≥" : "≤"}`, input);
}

function tick(text, action) {
  const box = h("input", { type: "checkbox" });
  box.addEventListener("change", () => action(box.checked));
  return h("label", { class: "tick" }, box, text);
}

function drawFilters() {
  const orders = [...new Set(TRIALS.map((i) => POINTS.params.order?.[i]))].filter(Boolean).sort();
  const select = h("select", { "data-filter": "order" }, h("option", { value: "" }, "any"), orders.map((order) => h("option", { value: order }, order)));
  select.addEventListener("change", () => {
    state.order = select.value;
    filter();
  });
  const onFront = tick("only the front", (on) => {
    state.frontOnly = on;
    filter();
  });
  const clear = h("button", { type: "reset" }, "Clear");
  const form = document.getElementById("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    Object.assign(state, { bounds: new Map(), order: "", frontOnly: false });
    for (const input of form.querySelectorAll("[aria-invalid]")) input.setAttribute("aria-invalid", "false");
    filter();
  });
  const others = [...MEASURES.keys()].filter((m) => !MEASURES[m].shown);
  const more = others.length === 0 ? null : h("details", {}, h("summary", {}, "More bounds"), h("div", { class: "controls" }, others.map(boundInput)));
  place("filters", SHOWN.map(boundInput), orders.length > 1 ? h("label", {}, "order", select) : null, onFront, clear, more);
}

// -- columns ----------------------------------------------------------------------------------------

function planOf(i) {
  const order = POINTS.params.order?.[i] || "";
  return POINTS.strengths[i] === "" ? order : `${order}, λ ${POINTS.strengths[i]}`;
}

function columns() {
  const found = [{ key: "trial", title: "trial", of: (i) => POINTS.names[i] }];
  for (const m of SHOWN) {
    found.push({ key: MEASURES[m].key, title: titled(MEASURES[m]), of: (i) => value(i, m), text: (i) => written(value(i, m), MEASURES[m]) });
  }
  found.push({ key: "plan", title: "order, λ", of: planOf, kind: "text" });
  found.push({ key: "epochs", title: "epochs trained", of: (i) => POINTS.epochs[i]?.[0] ?? null });
  found.push({ key: "reused", title: "from the store", of: (i) => POINTS.epochs[i]?.[1] ?? null });
  found.push({ key: "seconds", title: "time", of: (i) => (stateOf(i) === "complete" ? POINTS.seconds[i] : null), text: (i) => (stateOf(i) === "complete" ? lasting(POINTS.seconds[i]) : "") });
  found.push({ key: "standing", title: "state", of: standing, kind: "text" });
  return found;
}

const COLUMNS = columns();

function compared(a, b) {
  if (a === b) return 0;
  // What is unknown comes last, whichever way the rest is sorted.
  if (a === null || a === "") return 2;
  if (b === null || b === "") return -2;
  return a < b ? -1 : 1;
}

function sortedRows() {
  const column = COLUMNS.find((own) => own.key === state.sort);
  const rows = TRIALS.filter((i) => state.kept[i]);
  const keys = new Map(rows.map((i) => [i, column.of(i)]));
  return rows.sort((i, j) => {
    const order = compared(keys.get(i), keys.get(j));
    return Math.abs(order) === 2 ? order : (state.down ? -order : order) || POINTS.names[i] - POINTS.names[j];
  });
}

function sortHead(column) {
  const own = state.sort === column.key;
  const arrow = own ? (state.down ? " ▼" : " ▲") : "";
  const button = h("button", { type: "button", "data-sort": column.key }, column.title, h("span", { "aria-hidden": "true" }, arrow));
  button.addEventListener("click", () => {
    Object.assign(state, { sort: column.key, down: own && !state.down, page: 0 });
    drawTable();
    document.querySelector(`[data-sort="${column.key}"]`).focus();
  });
  return h("th", { scope: "col", class: column.kind, "aria-sort": own ? (state.down ? "descending" : "ascending") : "none" }, button);
}

function tableRow(i) {
  const pressed = chosen.first === i;
  const button = h("button", { type: "button", "aria-pressed": pressed ? "true" : "false", "data-choose": i, title: "Show this trial" }, `${POINTS.names[i]}`);
  const cells = COLUMNS.slice(1).map((column) => h("td", { class: column.kind }, `${(column.text || column.of)(i) ?? ""}`));
  if (FRONT.has(i)) cells.at(-1).classList.add("front-mark");
  return h("tr", { class: pressed ? "chosen" : "", "data-row": i }, h("th", { scope: "row" }, button), cells);
}

function chooseRow(event) {
  const row = event.target.closest("[data-row]");
  if (!row) return;
  const i = Number(row.dataset.row);
  choose(event.shiftKey ? chosen.first : i, event.shiftKey ? i : chosen.second);
  document.querySelector(`[data-choose="${i}"]`)?.focus();
}

function drawTable() {
  const rows = sortedRows();
  const pages = Math.max(Math.ceil(rows.length / PAGE), 1);
  const first = state.page * PAGE;
  const part = rows.slice(first, first + PAGE);
  const body = table({ label: "Trials", heads: COLUMNS.map(sortHead), rows: part.map(tableRow) });
  body.querySelector("tbody").addEventListener("click", chooseRow);
  place("points-body", body);
  const all = `${counted(rows.length)} of ${counted(TRIALS.length)} trials`;
  place("points-count", document.createTextNode(pages === 1 ? all : `${all}, shown: ${first + 1} to ${first + part.length}`));
  const turn = (text, page) => {
    const button = h("button", { type: "button", disabled: page < 0 || page >= pages }, text);
    button.addEventListener("click", () => {
      state.page = page;
      drawTable();
    });
    return button;
  };
  place("points-pages", pages === 1 ? [] : [turn("Earlier", state.page - 1), turn("Later", state.page + 1)]);
}
