// Checkpoints of one training run: LLC trajectories, a layer × head picture of the chosen checkpoint, clusters born and dead.
"use strict";
(() => {
  const { element, charts, colors, fixed, visible } = explorer;
  const slider = document.getElementById("step"), shown = document.getElementById("shown"), main = document.getElementById("main");
  const MEASURES = {
    llc: { title: "Local learning coefficient", errors: "llc_error", signed: true, unit: "" },
    reliability: { title: "Reliability of linear responses", errors: null, signed: true, unit: "" },
    mean_response: { title: "Mean size of the response", errors: null, signed: false, unit: "nats²" },
    variance_share: { title: "Share of the variance", errors: null, signed: false, unit: "" },
  };
  const INTRODUCTION = "How the components of one model develop in training. Every checkpoint is measured on the same tokens, and each chain draws its noise in the same order. "
    + "The local learning coefficient (LLC) says how much the loss rises under a component's noise; a cluster holds tokens whose losses respond alike. Move the slider to another checkpoint.";
  let data = null, measure = "llc";

  // The value of Student's t behind a 95 % interval comes with the data: few chains have wide ones.
  const half = (error) => data.quantile * error;
  const at = () => data.steps[Number(slider.value)];
  const rowsAt = (table, step) => data[table].filter((row) => row.step === step);
  const places = () => data.steps.map((step) => Math.log2(Math.max(step, 0.5))); // untrained weights lie a doubling before step 1
  const MOST_TICKS = 9;

  function trajectories(kind, caption) {
    const chosen = data.described.map((one, i) => ({ one, i })).filter(({ one }) => kind(one)), x = places();
    const series = chosen.map(({ one }, k) => {
      const rows = data.components.filter((row) => row.component === one.name);
      const y = rows.map((row) => row.llc);
      return { name: one.name, x, y, low: rows.map((row, i) => y[i] - half(row.llc_error)), high: rows.map((row, i) => y[i] + half(row.llc_error)),
        color: colors.category(k), dots: true };
    });
    if (!series.length) return null;
    const every = Math.ceil(x.length / MOST_TICKS), xTicks = x.filter((_, i) => i % every === 0);
    const xNames = (place) => data.steps[x.indexOf(place)].toLocaleString("en");
    return charts.lines(series, { caption, name: `llc-${caption.split(" ")[0]}`, xLabel: "step, on a logarithmic scale", yLabel: "LLC", width: 420, height: 260, zero: true, xTicks, xNames });
  }

  function grid() {
    const { title, errors, signed, unit } = MEASURES[measure], rows = rowsAt("components", at());
    const limit = charts.largest(data.components.map((row) => row[measure])); // one scale for all checkpoints
    // The picture draws 1.96 errors; Student's t over it makes the bar the 95 % interval over chains.
    const bars = errors ? rows.map((row) => half(row[errors]) / 1.96) : null;
    return charts.heatmap(data.described, rows.map((row) => row[measure]), bars, { signed, unit, limit, caption: `${title} at step ${at()}`, name: `${measure}-${at()}`, errorMeaning: "95 %, over chains" });
  }

  function sentence() {
    const row = data.summary.checkpoints[Number(slider.value)];
    const scopes = { all: "The heads' LLCs", layer: "LLCs of heads of one layer" };
    const differ = Object.entries(row.heads).map(([scope, one]) => `${scopes[scope]} ${one.p_adjusted < data.summary.level ? "differ" : "are not known to differ"} (spread ${fixed(one.spread)}, noise ${fixed(one.noise)}, p ${one.p_adjusted.toPrecision(2)}).`);
    return element("p", {}, `Step ${row.step}: mean loss ${fixed(row.mean_loss, 3)} nats; mean reliability ${fixed(row.mean_reliability)} (least ${fixed(row.least_reliability)}). ${differ.join(" ")} `
      + (row.clusters === null ? "No axis is reliable, so no clusters were searched for." : `${row.clusters} clusters, of them ${row.clusters_both_halves_find} found by both halves of the chains.`));
  }

  function clusters() {
    // Before a checkpoint lies the last one that has clusters, which need not be its neighbour.
    const step = at(), pair = data.matches.find((row) => row.next_step === step), before = pair ? pair.step : null;
    const columns = [{ name: "cluster" }, { name: "lineage", title: "Clusters of one lineage continue one another." }, { name: "tokens", title: "Its commonest tokens, with their number." },
      { name: "size" }, { name: "growth", title: "Size over that of its match before." }, { name: "Jaccard", title: "With its match before." }, { name: "by halves", title: "Lesser Jaccard index with a cluster of either half of the chains." }];
    const values = (row) => [row.cluster, row.lineage, visible(row.tokens, { spaces: true }), row.size, row.growth, row.jaccard, row.half_jaccard];
    const own = rowsAt("clusters", step), dead = before === null ? [] : rowsAt("clusters", before).filter((row) => row.is_dead);
    const parts = [
      ["Born", own.filter((row) => row.is_born)], ["Continued", own.filter((row) => row.is_born === false)],
      ["Clusters of the first checkpoint", own.filter((row) => row.is_born === null)], [`Dead since step ${before}`, dead],
    ];
    return [
      element("h2", {}, `Clusters at step ${step}`),
      pair ? element("p", { class: "note" }, `${pair.matched} of ${pair.clusters} clusters of step ${pair.step} continue; by chance ${fixed(pair.matched_by_chance, 1)} (95 % of permutations: at most ${fixed(pair.chance_high, 0)}).`) : null,
      ...parts.filter(([, rows]) => rows.length).map(([caption, rows]) => explorer.table(`${caption}: ${rows.length}`, columns, rows.map(values), { file: `clusters-${step}`, order: 3 })),
    ];
  }

  function changed() {
    const rows = data.tokens.filter((row) => row.next_step === at());
    if (!rows.length) return [];
    const columns = [{ name: "before" }, { name: "token" }, { name: "change", title: "Squared change of the z-scored response, noise taken off." }, { name: "loss before" }, { name: "loss" }];
    const values = (row) => [visible(row.before), visible(row.token, { spaces: true }), row.change, row.loss, row.next_loss];
    return [explorer.table(`Tokens whose response changed most since step ${rows[0].step}`, columns, rows.map(values), { file: `tokens-${at()}`, order: 2 })];
  }

  const choice = element("select", { "aria-label": "Measure of the picture", onchange: () => { measure = choice.value; draw(); choice.focus(); } },
    Object.entries(MEASURES).map(([key, { title }]) => element("option", { value: key }, title)));

  function draw() {
    shown.value = `step ${at()}`;
    slider.setAttribute("aria-valuetext", shown.value);
    const layers = [...new Set(data.described.filter((one) => one.kind === "head").map((one) => one.layer))];
    main.replaceChildren(element("p", { class: "note" }, INTRODUCTION), sentence(), ...data.summary.left_out.map((text) => element("p", { class: "note" }, text)), choice, grid(),
      element("h2", {}, "LLC by checkpoint, with 95 % intervals over chains"),
      element("div", { class: "pictures" }, layers.map((layer) => trajectories((one) => one.kind === "head" && one.layer === layer, `L${layer} heads`)),
        trajectories((one) => one.kind === "mlp", "MLPs"), trajectories((one) => !["head", "mlp"].includes(one.kind), "Others")),
      ...clusters().filter(Boolean), ...changed());
    document.documentElement.dataset.ready = "yes";
  }

  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
  document.documentElement.dataset.theme = stored ?? (system.matches ? "dark" : "light");
  document.getElementById("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try { localStorage.setItem("theme", theme); } catch { /* a page without storage forgets the choice */ }
    draw();
  });
  explorer.load("development").then((found) => {
    data = found;
    slider.max = String(data.steps.length - 1);
    slider.value = slider.max;
    slider.addEventListener("input", draw);
    draw();
  }).catch((error) => main.replaceChildren(element("p", { class: "note" }, error.message)));
})();
