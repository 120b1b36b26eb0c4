// The list of clusters: filtered, sorted, a page at a time.
"use strict";
(() => {
  const { element, number, fixed } = explorer;
  const PAGE = 50;
  // What is listed, and in which order, unless the address says otherwise: what both halves find, most beyond the token first.
  const DEFAULTS = { "min-reproducibility": "0.5" }, DEFAULT_SORT = "gain";
  const SORTS = [
    ["gain", "gain", "F1 of the cluster's label less that of the best label that knows the token's text alone, on the half of the documents that no label was learned on; a dash: too few documents"],
    ["f1", "label F1", "2 hits / (tokens that the label takes + members) on the half of the documents that it was not learned on"],
    ["documents", "documents", "documents with members; near duplicates count as one"],
    ["cluster", "number", "by rising conductance"], ["size", "size", "tokens"],
    ["conductance", "conductance", "leaving / (leaving + staying) edge weight"],
    ["reproducibility", "reproducibility", "largest Jaccard index with a cluster by half of the chains alone, the lesser of two halves that share nothing; 0.5 or more: found again"],
    ["reliability", "reliability", "of the sampled mean profile, between halves that share nothing (Spearman–Brown)"],
    ["deviation", "component", "mean response of the component chosen above, or of the farthest one, in standard deviations from the mean token"],
    ["tokenShare", "token", "most frequent token and its share"],
    ["sourceShare", "source", "most frequent source and its share"],
    ["loss", "loss", "mean loss of the members, nats"],
  ];
  const RANGES = [["reproducibility", "reproducibility"], ["gain", "gain"], ["documents", "documents"], ["size", "size"], ["conductance", "conductance"], ["reliability", "reliability"]];

  const wanted = (query, name) => query.get(name) ?? DEFAULTS[name] ?? "";

  function matching(table, query) {
    const { site } = explorer;
    const limits = RANGES.flatMap(([name]) => [[name, wanted(query, `min-${name}`), 1], [name, wanted(query, `max-${name}`), -1]])
      .filter(([, limit]) => limit !== "" && Number.isFinite(Number(limit)));
    const text = (query.get("token") ?? "").replaceAll("·", " ").replaceAll("⏎", "\n").replaceAll("⇥", "\t");
    const tokens = text ? new Set(site.texts.flatMap((t, id) => ((text.trim() === text ? t.trim() : t).startsWith(text) ? [id] : []))) : null;
    const component = explorer.components.numbered(query.get("component"));
    const source = table.sources.indexOf(query.get("source"));
    const found = [];
    for (let i = 0; i < site.clusters; i++) {
      if (tokens && !tokens.has(table.token[i])) continue;
      if (component >= 0 && table.component[i] !== component) continue;
      if (source >= 0 && table.source[i] !== source) continue;
      if (limits.every(([name, limit, sign]) => sign * (table[name][i] - limit) >= 0)) found.push(i);
    }
    return found;
  }

  function sorted(rows, table, by, falling) {
    if (by === "cluster") return falling ? rows.reverse() : rows;
    const keys = table[by], sign = falling ? -1 : 1;
    return rows.sort((a, b) => Number.isNaN(keys[a]) - Number.isNaN(keys[b]) || sign * (keys[a] - keys[b]) || a - b);
  }

  async function preview(cluster) {
    const per = explorer.site.perFile.previews;
    const file = await explorer.numbered("previews", Math.floor(cluster / per));
    file.decoded ??= explorer.numbers(file);
    const width = 15;
    return file.decoded.subarray((cluster % per) * width, (cluster % per + 1) * width);
  }

  // The columns of the list; with a component chosen, its mean response instead of that of the farthest component.
  async function columnsBy(chosen) {
    const table = await explorer.columns();
    if (chosen < 0) return { ...table, limit: 2 };
    const { mean, half } = await explorer.components.means(chosen), sizes = Array.from(mean, Math.abs).filter(Number.isFinite).sort((a, b) => a - b);
    return { ...table, deviation: mean, half, shown: chosen, limit: Number((sizes[Math.floor(0.95 * sizes.length)] || 1).toPrecision(1)) };
  }

  // The most central member in its context, as text with the token marked.
  async function example(cluster) {
    const ids = Array.from(await preview(cluster));
    const text = (part) => explorer.shortened(part.filter(Boolean).map((id) => explorer.tokenText(id - 1)).join(""));
    return element("span", { class: "context" }, element("span", { class: "before" }, element("bdi", {}, text(ids.slice(0, 10)))),
      element("mark", {}, element("bdi", {}, explorer.tokenShown(ids[10] - 1))), element("span", { class: "after" }, element("bdi", {}, text(ids.slice(11)))));
  }

  // What the cluster is, in words.
  async function heading(cluster) {
    const per = explorer.site.perFile.previews, file = await explorer.numbered("headings", Math.floor(cluster / per));
    return element("bdi", {}, explorer.visible(file[cluster % per]));
  }

  async function row(cluster, table, order) {
    const { site } = explorer;
    const deviation = table.deviation[cluster], component = site.components[table.shown ?? table.component[cluster]];
    const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = explorer.colors.diverging(deviation / table.limit);
    const ratio = (name, digits = 2) => element("td", { class: "num" }, fixed(table[name][cluster], digits));
    const cells = {
      cluster: element("th", { scope: "row" }, element("a", { href: `#/cluster/${cluster}` }, `${cluster}`)),
      heading: element("td", { class: "heading" }, await heading(cluster)),
      example: element("td", { class: "wide" }, await example(cluster)),
      gain: ratio("gain"), f1: ratio("f1"), documents: element("td", { class: "num" }, number(table.documents[cluster])),
      tokenShare: element("td", { class: "nowrap" }, element("code", {}, element("bdi", {}, explorer.tokenShown(table.token[cluster]))), " ", element("small", {}, `${Math.round(100 * table.tokenShare[cluster])} %`)),
      size: element("td", { class: "num" }, number(table.size[cluster])), conductance: ratio("conductance", 3), reproducibility: ratio("reproducibility", 1),
      reliability: ratio("reliability"), loss: ratio("loss"),
      deviation: element("td", { class: "nowrap" }, swatch, " ", table.half ? `${fixed(deviation)} ± ${fixed(table.half[cluster])}` : [element("a", { href: explorer.components.address(component) }, component.name), " ", element("small", {}, fixed(deviation, 1))]),
      sourceShare: element("td", { class: "clip" }, element("bdi", {}, explorer.visible(table.sources[table.source[cluster]] ?? "–")), " ", element("small", {}, `${Math.round(100 * table.sourceShare[cluster])} %`)),
    };
    return element("tr", { data: { cluster } }, order.map((name) => cells[name]));
  }

  explorer.example = example;
  explorer.heading = heading;
  explorer.views.clusters = async (view, parts, query) => {
    const { site } = explorer, chosen = explorer.components.numbered(query.get("by")), table = await columnsBy(chosen);
    let page = Math.max(0, Number(query.get("page") ?? 0)), by = query.get("sort") ?? DEFAULT_SORT, falling = query.has("sort") ? query.get("falling") === "1" : true;
    let rows = [], selected = -1;
    const count = element("p", { class: "note", role: "status" });
    const NUMERIC = new Set(["gain", "f1", "documents", "size", "conductance", "reproducibility", "reliability", "loss"]);
    const body = element("tbody");
    const head = element("tr");
    // Where there is little room, what says most comes first.
    const order = innerWidth > 900 ? ["cluster", "heading", "gain", "f1", "reproducibility", "documents", "size", "example", "conductance", "reliability", "deviation", "loss", "tokenShare", "sourceShare"]
      : ["cluster", "heading", ...(chosen < 0 ? ["gain", "reproducibility", "size", "deviation"] : ["deviation", "size", "reproducibility", "gain"]), "example", "documents", "f1", "tokenShare", "conductance", "reliability", "loss", "sourceShare"];
    const heads = order.map((key) => {
      const [, name, definition] = SORTS.find(([k]) => k === key) ?? [null, key === "heading" ? "what it is" : "most central member"];
      return element("th", { scope: "col", class: key === "example" ? "wide" : NUMERIC.has(key) ? "num" : "" }, definition ? element("button", { type: "button", data: { definition }, onclick: () => { falling = by === key ? !falling : key !== "cluster" && key !== "conductance"; by = key; page = 0; refresh(); } }, key === "cluster" ? "#" : key === "deviation" && chosen >= 0 ? site.components[chosen].name : name) : name);
    });
    head.append(...heads);

    const set = (name, value) => { if (value === (DEFAULTS[name] ?? "")) query.delete(name); else query.set(name, value); page = 0; refresh(); };
    const field = (name, text, properties = {}) => element("label", {}, element("span", {}, text), element("input", { value: query.get(name) ?? "", oninput: (e) => set(name, e.target.value), ...properties }));
    const choice = (name, text, options) => element("label", {}, element("span", {}, text), element("select", { onchange: (e) => set(name, e.target.value) },
      element("option", { value: "" }, "any"), options.map((o) => element("option", { value: o, selected: o === query.get(name) }, explorer.visible(o)))));
    const range = ([name, text]) => element("fieldset", {}, element("legend", {}, text), ["min", "max"].map((end) =>
      element("input", { type: "number", step: "any", placeholder: end, "aria-label": `${end} ${text}`, value: wanted(query, `${end}-${name}`), oninput: (e) => set(`${end}-${name}`, e.target.value) })));
    const filters = element("form", { class: "filters", onsubmit: (e) => e.preventDefault() },
      field("token", "dominant token begins", { placeholder: "·self", spellcheck: false }),
      choice("component", "dominant component", explorer.components.names()), choice("source", "source", table.sources.slice(0, 3000)), RANGES.map(range));

    const pager = element("nav", { class: "pager", "aria-label": "Pages" });
    async function refresh() {
      rows = sorted(matching(table, query), table, by, falling);
      const pages = Math.max(1, Math.ceil(rows.length / PAGE));
      page = Math.min(page, pages - 1);
      const isDefault = by === DEFAULT_SORT && falling;
      for (const [key, value] of [["sort", isDefault ? null : by], ["falling", falling && !isDefault ? "1" : null], ["page", page || null]]) if (value === null) query.delete(key); else query.set(key, value);
      if (view.isConnected) explorer.remember(query);
      heads.forEach((node, i) => (order[i] === by ? node.setAttribute("aria-sort", falling ? "descending" : "ascending") : node.removeAttribute("aria-sort")));
      const shown = rows.slice(page * PAGE, (page + 1) * PAGE);
      const built = await Promise.all(shown.map((cluster) => row(cluster, table, order)));
      if (rows[page * PAGE] !== shown[0]) return; // a later call was faster
      body.replaceChildren(...built);
      selected = -1;
      count.textContent = `${number(rows.length)} of ${number(site.clusters)} clusters; ${number(site.members)} of ${number(site.tokens)} tokens are in one.`;
      const turn = (to, text, title) => element("button", { type: "button", "aria-label": title, disabled: to < 0 || to >= pages || to === page, onclick: () => { page = to; refresh(); } }, text);
      pager.replaceChildren(turn(0, "«", "First page"), turn(page - 1, "‹", "Previous page"), element("span", {}, `${page + 1} / ${pages}`), turn(page + 1, "›", "Next page"), turn(pages - 1, "»", "Last page"));
    }
    const COLUMNS = ["cluster", "what it is", "gain", "gain from", "label F1", "token F1", "precision", "recall", "documents", "size", "conductance", "density", "reproducibility", "reliability", "agreement", "measured members", "token", "token share", "component", "deviation", "source", "source share", "loss"];
    const csvRows = async () => { const said = await Promise.all(rows.map(async (i) => (await heading(i)).textContent)); return rows.map((i, n) => [i, said[n], table.gain[i], table.gainLow[i], table.f1[i], table.tokenF1[i], table.precision[i], table.recall[i], table.documents[i], table.size[i], table.conductance[i], table.density[i], table.reproducibility[i], table.reliability[i], table.agreement[i], table.measured[i], explorer.tokenText(table.token[i]), table.tokenShare[i],
      site.components[table.shown ?? table.component[i]].name, table.deviation[i], table.sources[table.source[i]], table.sourceShare[i], table.loss[i]]); };
    function select(step) {
      const all = [...body.rows];
      all[selected]?.classList.remove("selected");
      selected = Math.min(Math.max(selected + step, 0), all.length - 1);
      all[selected]?.classList.add("selected");
      all[selected]?.querySelector("a").focus();
    }
    const onkey = ({ detail: event }) => {
      if (!view.isConnected) { document.removeEventListener("shortcut", onkey); return; }
      const steps = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 };
      if (event.key in steps) { select(steps[event.key]); event.preventDefault(); }
      else if (event.key === "n" || event.key === "ArrowRight") { if ((page + 1) * PAGE < rows.length) { page++; refresh(); } }
      else if (event.key === "p" || event.key === "ArrowLeft") { if (page > 0) { page--; refresh(); } }
    };
    document.addEventListener("shortcut", onkey);

    const choices = element("p", { class: "note choices" }, "Listed: ", element("a", { href: "#/clusters" }, "worth reading first"), " (found again by both halves of the chains, reproducibility 0.5 or more; most gain over the token's text first) · ",
      element("a", { href: "#/clusters?min-reproducibility=&sort=cluster" }, "all, by conductance"), " · or as filters and column heads say.");
    await refresh();
    const shownBy = element("select", { "aria-label": "Component shown", onchange: () => { if (shownBy.value) { query.set("by", shownBy.value); query.set("sort", "deviation"); } else query.delete("by"); query.delete("page"); explorer.remember(query); explorer.draw(); } },
      element("option", { value: "" }, "the farthest of each cluster"), explorer.components.options());
    shownBy.value = chosen < 0 ? "" : site.components[chosen].name;
    const legend = element("div", { class: "legend" }, element("label", { class: "inline" }, "component shown ", shownBy),
      explorer.charts.colorBar({ limit: table.limit, unit: "mean over the cluster, standard deviations from the mean token" }));
    view.append(explorer.introduction(), element("div", { class: "title" }, element("h1", {}, "Clusters"), explorer.table.saver("clusters", COLUMNS, csvRows)),
      element("details", { class: "filterbox", open: innerWidth > 900 }, element("summary", {}, "Filters"), filters), legend, choices, element("div", { class: "bar" }, count, pager),
      element("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Table of clusters" }, element("table", { class: "clusters" }, element("thead", {}, head), body)),
      element("p", { class: "note keys" }, "Keys: j k or ↓ ↑ choose, Enter opens, n p turn the page, / searches, c h t m r o change the view. A dash: fewer than 5 members were measured."));
    return "Clusters";
  };
})();
