// What was run, and how far its numbers can be trusted.
"use strict";
(() => {
  const { element, number, fixed, charts } = explorer, term = explorer.terms.fact;

  const column = (table, name) => { const i = table.columns.indexOf(name); return table.rows.map((row) => row[i] ?? NaN); };
  const named = (names) => names.map((name) => explorer.site.components[explorer.components.numbered(name)]);
  const whole = (table, caption, file, titles = {}) => element("details", {}, element("summary", {}, `Table: ${caption}`), explorer.table(caption, table.columns.map((name) => ({ name: name.replaceAll("_", " "), title: titles[name] })), table.rows, { file }));

  function traces(found, query) {
    const box = element("div"), select = element("select", { "aria-label": "Component" }, found.components.map((name) => element("option", { value: name }, name)));
    const draw = () => {
      const i = found.components.indexOf(select.value);
      const series = found.losses[i].map((losses) => ({ name: "", x: found.steps[i], y: losses, thin: true, color: explorer.colors.category(0) }));
      series.push({ name: "", x: [found.steps[i][0], found.steps[i].at(-1)], y: [found.initial[i], found.initial[i]], dashed: true, color: explorer.colors.category(1) });
      box.replaceChildren(charts.lines(series, { caption: `Loss traces of ${select.value}: a line is a chain with its mirror image; dashed, the trained weights`, name: `traces-${select.value}`, xLabel: "step", yLabel: "rise of the mean loss (nats)", legend: false }));
    };
    if (found.components.includes(query.get("traces"))) select.value = query.get("traces");
    select.addEventListener("change", () => { explorer.choose(query, "traces", select.value, found.components[0]); draw(); });
    draw();
    return element("div", {}, element("label", { class: "inline" }, "component ", select), box);
  }

  function settings(run) {
    return element("details", {}, element("summary", {}, "All settings"), element("div", { class: "settings" }, Object.entries(run.settings).map(([section, values]) => element("dl", {}, element("dt", {}, element("strong", {}, section)), element("dd", {}),
      Object.entries(values).flatMap(([name, value]) => [element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, explorer.visible(Array.isArray(value) ? value.join(", ") || "–" : String(value === "" ? "–" : value)))])))));
  }

  explorer.views.run = async (view, parts, query) => {
    const run = await explorer.load("run"), { site } = explorer, t = run.tables;
    const seconds = Object.entries(run.seconds).sort((a, b) => b[1] - a[1]);
    const total = seconds.reduce((sum, [, s]) => sum + s, 0);
    view.append(element("h1", {}, "Run"),
      element("dl", { class: "facts" }, term("experiment", run.experiment), term("digest", element("code", {}, run.digest)), term("seed", number(run.seed)), term("model", explorer.visible(String(run.settings.model.source))), term("corpus", run.settings.corpus.kind.replaceAll("_", " ")),
        term("tokens", number(site.tokens)), term("components", number(site.components.length)), term("estimator", run.settings.susceptibility.estimator), term("seconds", seconds.length ? number(Math.round(total)) : "–")),
      settings(run),
      element("section", {}, element("h2", {}, "Chains"), element("div", { class: "pair" },
        charts.heatmap(named(column(t.chains, "component")), column(t.chains, "llc"), column(t.chains, "llc_error"), { caption: "Local learning coefficient", name: "llc", signed: false, unit: "LLC", errorMeaning: "1.96 standard errors over chains" }),
        traces(run.traces, query)),
        whole(t.chains, "Convergence of the chains, and reliability of the response directions", "chains", { r_hat: "1 where chains agree; above about 1.1 they do not", effective_share: "effective sample size over number of draws" })),
      element("section", {}, element("h2", {}, "Reliability"), element("div", { class: "pair" }, ...["component", "pc"].map((kind) => {
        const rows = t.reliability.rows.filter((row) => row[0] === kind);
        return charts.intervals(rows.map((row) => row[1]), [{ name: kind === "pc" ? "halves that share nothing, Spearman–Brown" : "chains that share nothing", values: rows.map((row) => row[3]), errors: rows.map((row) => (row[5] - row[4]) / 3.92) }], { caption: kind === "pc" ? "Of principal components" : "Of components", name: `reliability-${kind}`, yLabel: "reliability", width: 440 });
      })), whole(t.reliability, "Reliability and noise ceiling", "reliability")),
      element("section", {}, element("h2", {}, "Prediction"), element("div", { class: "pair" },
        charts.intervals(column(t.aux_correlation, "pc").map((n) => `PC${n}`), [
          { name: "linear response, withheld documents", values: column(t.aux_correlation, "linear_response_r"), errors: column(t.aux_correlation, "linear_response_high").map((h, i) => (h - column(t.aux_correlation, "linear_response_low")[i]) / 3.92) },
          { name: "auxiliary model", values: column(t.aux_correlation, "r"), errors: column(t.aux_correlation, "high").map((h, i) => (h - column(t.aux_correlation, "low")[i]) / 3.92) },
          { name: "noise ceiling", values: column(t.aux_correlation, "ceiling"), mark: "dash" },
          { name: "null, 95 %", values: column(t.aux_correlation, "null_95"), mark: "cross" }, { name: "ridge", values: column(t.aux_correlation, "ridge_r"), mark: "ring" }], { caption: "Linear response and auxiliary model beside the ceiling", name: "aux-correlation", yLabel: "Pearson r", width: 440 }),
        charts.intervals(run.explainedVariance.map((_, i) => `PC${i + 1}`), [{ name: "share of variance of the z-scored ground truth", values: run.explainedVariance }], { caption: "Explained variance", name: "explained-variance", yLabel: "share", width: 440 })),
        whole(t.aux_correlation, "Correlation with sampled scores", "aux-correlation")),
      element("section", {}, element("h2", {}, "Likeness to the activations"), element("div", { class: "pair" }, ...["cka", "jaccard"].map((measure) => {
        const spaces = [...new Set(column(t.leakage, "space"))];
        const part = (rows, name) => rows.map((row) => row[t.leakage.columns.indexOf(name)]);
        const rows = spaces.map((space) => t.leakage.rows.filter((row) => row[0] === space));
        const series = spaces.map((space, i) => ({ name: space.replaceAll("_", " "), dots: true, x: part(rows[i], "layer"), y: part(rows[i], measure), low: part(rows[i], `${measure}_low`), high: part(rows[i], `${measure}_high`) }));
        series.push({ name: "chance", dashed: true, color: explorer.colors.token("soft"), x: part(rows[0], "layer"), y: part(rows[0], `${measure}_chance`) });
        return charts.lines(series, { caption: measure === "cka" ? "Linear CKA by layer, 95 % intervals over documents" : "Shared neighbours (Jaccard) by layer, 95 % intervals over documents", name: measure, xLabel: "layer of the activations", yLabel: measure === "cka" ? "linear CKA" : "mean Jaccard index", zero: true, xTicks: part(rows[0], "layer") });
      })), whole(t.leakage, "CKA and Jaccard beside chance", "leakage")),
      element("section", {}, element("h2", {}, "What a susceptibility is here"), element("p", {}, explorer.visible(run.meaning)), whole(t.regime, "Regime of each component: what decides its susceptibilities", "regime", { controlled_share: "2 LLC over the number of weights: the directions that the loss controls", prior_slope: "linear response over that of chains at nβ = 0" })),
      element("section", {}, element("h2", {}, "Negative control"), element("div", { class: "pair" },
        t.negative_control.rows.length ? charts.heatmap(named(column(t.negative_control, "component")), column(t.negative_control, "slope"), column(t.negative_control, "slope_error"), { caption: "Change of the mean excess loss from nβ = 0 to nβ, over nβ times the susceptibility: 1 where both agree", name: "negative-control", signed: false, unit: "slope", errorMeaning: "1.96 standard errors over chains" }) : element("p", { class: "note" }, "No negative control was sampled (sampling.negative_control).")),
        t.negative_control.rows.length ? whole(t.negative_control, "Negative control", "negative-control") : null),
      element("section", {}, element("h2", {}, "Calibration"), whole(t.calibration, "Settings tried, and the verdict on each", "calibration")),
      element("section", {}, element("h2", {}, "Price and versions"), element("div", { class: "pair" },
        explorer.table("Seconds of each asset", [{ name: "asset" }, { name: "seconds" }], seconds, { file: "seconds" }),
        explorer.table("Versions", [{ name: "library" }, { name: "version" }], Object.entries(run.versions), { file: "versions" }))));
    return "Run";
  };
})();
