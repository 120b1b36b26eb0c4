// What the points of the map are coloured by: their colours, what they mean, and the value of each point.
"use strict";
explorer.mapColors = (() => {
  const { element, number, visible } = explorer;
  const STEPS = 100;

  const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  // Four bytes in one number, as the layer takes them.
  const packed = ([r, g, b], alpha) => (r | (g << 8) | (b << 16) | (alpha << 24)) >>> 0;

  function select(by, changed) {
    const { site } = explorer;
    const node = element("select", { "aria-label": "Colour by", onchange: () => changed(node.value) }, element("option", { value: "cluster" }, "cluster"),
      element("optgroup", { label: `component (${visible(site.source)})` }, explorer.components.options((_, i) => `component-${i}`)),
      element("optgroup", { label: "principal component" }, Array.from({ length: site.pcs }, (_, i) => element("option", { value: `pc-${i}` }, `PC${i + 1}`))));
    node.value = by;
    if (node.selectedIndex < 0) node.value = "cluster";
    return node;
  }

  // Values of all points, their name, and where their colours end; null by cluster.
  async function valuesOf(by) {
    const { site } = explorer, [kind, index] = by.split("-");
    if (kind === "cluster") return null;
    const file = await explorer.load(`map/${kind}-${index.padStart(4, "0")}`), values = file.decoded ??= explorer.numbers(file);
    if (kind === "pc") return { values, limit: 3 * site.basis.scores[Number(index)], name: `PC${Number(index) + 1}`, unit: `score on PC${Number(index) + 1}` };
    const { name } = site.components[Number(index)];
    return { values, limit: 3, name, unit: `${name} by ${visible(site.source)}, standard deviations from the mean token` };
  }

  function byValue({ values, limit }) {
    const { colors } = explorer, found = new Uint32Array(values.length), none = packed(channels(colors.token("dim")), 128);
    const ramp = Uint32Array.from({ length: 2 * STEPS + 1 }, (_, k) => packed(colors.divergingChannels((k - STEPS) / STEPS), 200));
    for (let i = 0; i < values.length; i++) {
      const t = values[i] / limit;
      found[i] = t === t ? ramp[Math.round(STEPS + STEPS * (t < -1 ? -1 : t > 1 ? 1 : t))] : none;
    }
    return found;
  }

  function byCluster(clusters, { cluster, color }) {
    const { colors, site } = explorer, found = new Uint32Array(clusters.length), none = packed(channels(colors.token("dim")), 128);
    const palette = colors.palette.map((hex) => packed(channels(hex), 200)), of = new Uint32Array(site.clusters);
    cluster.forEach((c, i) => { of[c] = palette[color[i]]; });
    for (let i = 0; i < clusters.length; i++) found[i] = clusters[i] < 0 ? none : of[clusters[i]];
    return found;
  }

  function byMark(clusters, marked) {
    const { colors } = explorer, strong = packed(channels(colors.palette[0]), 255), none = packed(channels(colors.token("dim")), 128);
    return Uint32Array.from(clusters, (cluster) => (cluster === marked ? strong : none));
  }

  function swatch(color) {
    const node = element("span", { class: "swatch", "aria-hidden": "true" });
    node.style.background = color;
    return node;
  }

  // Colours of the points, the legend that says what they mean, and their values, if they have any.
  async function painted({ by, marked }, clusters, landmarks) {
    const { colors } = explorer, found = await valuesOf(by);
    if (marked !== null) {
      const count = clusters.reduce((sum, cluster) => sum + (cluster === marked), 0);
      return { found, colors: byMark(clusters, marked), legend: [element("span", {}, swatch(colors.palette[0]), ` cluster ${marked}: ${number(count)} tokens on the map`), element("span", {}, swatch(colors.token("dim")), " every other token. Empty the number to colour all.")] };
    }
    if (found) return { found, colors: byValue(found), legend: [explorer.charts.colorBar({ limit: found.limit, unit: found.unit })] };
    return { found, colors: byCluster(clusters, landmarks), legend: [element("span", {}, colors.palette.flatMap((color) => [swatch(color), " "]), "a cluster; neighbours differ: a cluster's colour comes back only beyond the five nearest larger ones"), element("span", {}, swatch(colors.token("dim")), " in no cluster")] };
  }
  return { select, painted, paper: () => channels(explorer.colors.token("paper")) };
})();
