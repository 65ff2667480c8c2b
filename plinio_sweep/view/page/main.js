// Draws everything once, and what depends on the choice again.

function start() {
  const seed = BESIDE.find((i) => POINTS.names[i] === "seed");
  const first = DATA.knee ?? DATA.front[0] ?? TRIALS.find(isDrawn) ?? seed ?? null;
  chosen.first = first;
  chosen.second = seed ?? DATA.front.find((i) => i !== first) ?? null;
  state.sort = MEASURES.find((m) => m.objective && m.kind === "cost")?.key ?? "trial";
  place("parts", [...document.querySelectorAll("main section")].map((part) => h("a", { href: `#${part.id}` }, part.querySelector("h2").textContent)));
  place("front-controls", tick("zoom to the front", (on) => {
    zoom.on = on;
    drawFront();
  }), h("span", { class: "small soft" }, "A click or Enter chooses a point, with Shift the second one to compare."));
  drawFilters();
  listeners.push(drawFront, drawTable, drawCard, drawLayers, drawCompare);
  choose(chosen.first, chosen.second);
  drawBaselines();
  drawSeeds();
  drawHardware();
  drawCourse();
  drawOrigin();
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return; // a phone's bars come and go
    width = window.innerWidth;
    drawFront();
    drawCourse();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip();
  });
  document.documentElement.dataset.drawn = `${Math.round(performance.now())}`; // [ms] until all is there
}

start();
