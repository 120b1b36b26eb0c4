// All components at once: a layer × head picture of one of their figures, and the table of all figures.
"use strict";
(() => {
  const { element, number, fixed, charts, terms } = explorer;
  const share = (v) => `${Number((100 * v).toPrecision(2))}%`;
  // Column of the table, name, unit, key of its definition, how it is written.
  const FIGURES = [
    ["reliability", "reliability", "signal's share of the variance", "reliability", (v) => fixed(v, 2)],
    ["llc", "LLC", "local learning coefficient", "llc", (v) => number(v, 3)],
    ["share_of_variance", "share of variance", "share of all components' variance", "variance", share],
    ["loss_pull", "regime: loss pull", "n_beta × curvature / localization", "lossPull", (v) => fixed(v, 2)],
    ["controlled_share", "regime: controlled share", "2 LLC / number of weights", "controlled", share],
  ];

  // Half of a 95 % interval as a standard error, where the figure has one.
  const errorOf = { reliability: (one) => (one.reliability_high - one.reliability_low) / 3.92, llc: (one) => one.llc_error };

  function picture([key, name, unit, , format]) {
    const all = explorer.components.all(), error = errorOf[key];
    const values = all.map((one) => one[key] ?? NaN);
    return charts.heatmap(all, values, error ? all.map((one) => error(one) || NaN) : null, { caption: `${name[0].toUpperCase()}${name.slice(1)} of each component; choose one to open it`, name: `components-${key}`, signed: false, unit, format,
      limit: key === "reliability" ? 1 : undefined, href: explorer.components.address, errorMeaning: "95 % interval" });
  }

  function tableOfAll() {
    const all = explorer.components.all(), link = (name) => element("a", { href: explorer.components.address({ name }) }, name);
    const columns = [{ name: "component", shown: link }, ...FIGURES.map(([, name, , key, format]) => ({ name, title: terms.MEANINGS[key], shown: (v) => (Number.isFinite(v) ? format(v) : "–") })),
      { name: "kind", shown: (v) => v.replaceAll("_", " ") }, { name: "layer" }, { name: "head or group" }, { name: "weights" }, { name: "standard deviation (nats²)", title: terms.MEANINGS.deviation }];
    const rows = all.map((one) => [one.name, ...FIGURES.map(([key]) => one[key]), one.kind, one.layer, one.head, one.n_weights, one.standard_deviation]);
    return explorer.table("Figures of each component", columns, rows, { file: "components" });
  }

  explorer.views.components = async (view, parts, query) => {
    const box = element("div"), note = element("p", { class: "note" });
    const select = element("select", { "aria-label": "Colour by" }, FIGURES.map(([key, name]) => element("option", { value: key }, name)));
    select.value = query.get("color") ?? FIGURES[0][0];
    if (select.selectedIndex < 0) select.selectedIndex = 0;
    const draw = () => {
      const chosen = FIGURES[select.selectedIndex];
      box.replaceChildren(picture(chosen));
      note.textContent = terms.MEANINGS[chosen[3]];
    };
    select.addEventListener("change", () => { query.set("color", select.value); explorer.remember(query); draw(); });
    draw();
    view.append(element("div", { class: "title" }, element("h1", {}, `${number(explorer.site.components.length)} components`), element("label", { class: "inline" }, "colour by ", select)),
      element("p", { class: "note" }, "A ", terms.term("component", "component"), " is what is shaken: a row is a layer, a column a head; the MLP stands beside them. Darker (on dark: lighter) is more."), box, note, tableOfAll());
    return "Components";
  };
})();
