// This run's clusters beside another's: what survives.
"use strict";
(() => {
  const { element, number, fixed, charts } = explorer, term = explorer.terms.fact;
  const BINS = Array.from({ length: 20 }, (_, i) => i / 20);

  explorer.views.compare = async (view, [chosen]) => {
    const found = await explorer.load("compare"), table = await explorer.columns(), { site } = explorer;
    const index = Math.min(Math.max(Number(chosen ?? 0) || 0, 0), found.length - 1), one = found[index];
    view.append(element("h1", {}, "Compare"), await explorer.controls.section());
    if (!one) { view.append(element("p", { class: "note" }, "Other experiments of this store stand here, where [explorer] compare_with names them.")); return "Compare"; }
    const jaccard = explorer.numbers(one.jaccard), partner = explorer.numbers(one.partner), compared = explorer.numbers(one.compared);
    const present = Array.from(jaccard.keys()).filter((c) => compared[c] > 0);
    const counts = BINS.map(() => 0);
    for (const c of present) counts[Math.min(19, Math.floor(jaccard[c] * 20))]++;
    const kept = (limit) => present.filter((c) => jaccard[c] >= limit).length;
    const share = (n) => present.length ? `${number(n)} (${Math.round((100 * n) / present.length)} %)` : "–";
    const order = present.sort((a, b) => jaccard[b] - jaccard[a] || compared[b] - compared[a]);
    const LIMIT = 100;
    const part = async (rows) => element("ul", { class: "near" }, await Promise.all(rows.map(async (c) => element("li", {}, element("a", { href: `#/cluster/${c}` }, `${c}`), await explorer.example(c), element("span", { class: "num" }, fixed(jaccard[c]))))));
    view.append(
      element("h2", {}, "Beside another clustering"),
      element("p", { class: "pager" }, found.map((other, i) => element("a", { class: "button", href: `#/compare/${i}`, "aria-current": i === index ? "true" : null }, explorer.visible(other.name)))),
      element("p", { class: "note" }, explorer.visible(one.meaning)),
      element("dl", { class: "facts" }, term("clusters here", number(site.clusters)), term("with shared tokens", number(present.length), "clusters with a member that the other run clustered or left out; shares are of these"), term("clusters there", number(one.clusters)), term("adjusted Rand index", fixed(one.rand ?? NaN, 3), "over tokens that are in a cluster of either; 1 equal, about 0 unrelated"), term("tokens in either", number(one.tokens)),
        term("matched, Jaccard ≥ 0.5", share(kept(0.5))), term("matched, Jaccard ≥ 0.8", share(kept(0.8)))),
      charts.histogram(BINS, counts, { caption: "Best match of each cluster", name: `compare-${index}`, xLabel: "Jaccard index with the best match", yLabel: "clusters", width: 520 }),
      element("div", { class: "columns even" }, element("section", {}, element("h2", {}, "Survive best"), await part(order.slice(0, 15))), element("section", {}, element("h2", {}, "Lost"), await part(order.slice(-15).reverse()))),
      explorer.table(`The ${number(Math.min(LIMIT, order.length))} best matches of ${number(order.length)}`, [{ name: "cluster", shown: (c) => element("a", { href: `#/cluster/${c}` }, `${c}`) }, { name: "size" }, { name: "conductance" }, { name: "members compared" }, { name: "best match there" }, { name: "Jaccard", shown: (v) => fixed(v) }],
        order.slice(0, LIMIT).map((c) => [c, table.size[c], table.conductance[c], compared[c], partner[c], jaccard[c]]), { file: `compare-${index}` }));
    return "Compare";
  };
})();
