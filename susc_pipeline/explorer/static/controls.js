// What the clusters are not: how many of them other clusterings of the same tokens find too.
"use strict";
explorer.controls = (() => {
  const { element, fixed, visible } = explorer;
  const percent = (share) => (share === null ? "–" : `${Math.round(100 * share)} %`);
  const between = (low, high, shown, unit = "") => (low === null || high === null ? "–" : `${shown(low)}–${shown(high)}${unit}`);
  const shares = { shown: percent }, numbers = { shown: (value) => (value === null ? "–" : fixed(value)) };
  const COLUMNS = [
    { name: "control" }, { name: "made of" }, { name: "clusters" }, { name: "tokens in them" }, { name: "of tokens", title: "Tokens that it clusters: all, or the sampled ones alone" },
    { name: "can find", title: "Clusters of this run with enough of these tokens" },
    { name: "finds", title: "Share of these clusters with a cluster there of Jaccard index 0.5 or more", ...shares },
    { name: "95 %", title: "Interval over documents", nowrap: true },
    { name: "by chance", title: "The same after its labels are permuted among the occurrences of each token", ...shares },
    { name: "beyond chance", title: "(finds − by chance) / (1 − by chance); 0 is chance, 1 all", ...numbers },
    { name: "information", title: "Adjusted mutual information over all tokens: 1 for equal clusterings, 0 on average for unrelated ones", ...numbers },
    { name: "95 % of it", title: "Interval over documents", nowrap: true },
    { name: "its chance", title: "The same after its labels are permuted among the occurrences of each token", ...numbers },
    { name: "information beyond chance", title: "(information − chance) / (1 − chance)", ...numbers },
  ];

  async function section() {
    const found = await explorer.load("controls"), box = element("section", {}, element("h2", {}, "What these clusters are not"));
    if (!found.rows) {
      box.append(element("p", { class: "note" }, "Not measured in this run. ", element("code", {}, "make controls"), " clusters the same tokens by their text, their activations, gradients and other weights, and shows here how many of the clusters these find too."));
      return box;
    }
    const rows = found.rows.map((row) => [visible(row.control), visible(row.knows), row.clusters, row.clustered_tokens, row.tokens, row.run_clusters, row.matched, between(row.matched_low, row.matched_high, (share) => Math.round(100 * share), " %"), row.matched_by_chance, row.matched_beyond,
      row.information, between(row.information_low, row.information_high, fixed), row.information_by_chance, row.information_beyond]);
    box.append(element("p", {}, visible(found.conclusion)), explorer.table("Controls: other clusterings of the same tokens", COLUMNS, rows, { file: "controls" }));
    return box;
  }

  // The controls that find a cluster, in words; nothing where none was made.
  const finders = (found) => (found ? found.map(([name, jaccard]) => `${visible(name)} (${fixed(jaccard)})`).join(", ") || "none" : null);
  return { section, finders };
})();
