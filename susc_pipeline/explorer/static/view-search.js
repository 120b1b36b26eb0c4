// What a search found: clusters by token text, documents by name, a cluster by number.
"use strict";
(() => {
  const { element, number, visible } = explorer;
  const MOST_FILES = 6;

  // Entries whose key begins with the text, from the one file (or, of short prefixes, the few) where such keys lie.
  async function entries(folder, text) {
    const firsts = explorer.site.search[folder];
    let low = 0;
    while (low + 1 < firsts.length && firsts[low + 1] < text) low++;
    const found = [];
    let cut = false;
    for (let i = low; i < firsts.length && (firsts[i] <= text || firsts[i].startsWith(text)); i++) {
      if (i - low >= MOST_FILES) { cut = true; break; }
      const file = await explorer.numbered(folder, i, 4);
      found.push(...file.filter(([key]) => key.startsWith(text)));
    }
    return { found, cut };
  }
  async function containing(text) {
    const firsts = explorer.site.search.documents;
    if (firsts.length > MOST_FILES) return entries("documents", text);
    const files = await Promise.all(firsts.map((_, i) => explorer.numbered("documents", i, 4)));
    return { found: files.flat().filter(([key]) => key.toLowerCase().includes(text.toLowerCase())), cut: false };
  }

  // Components whose name begins with the text, or that are described by it.
  const components = (text) => (text ? explorer.components.all().filter((one) => one.name.toLowerCase().startsWith(text) || (text.length > 2 && explorer.components.described(one).toLowerCase().includes(text))) : []);

  const exactly = (text) => components(text).find((one) => one.name.toLowerCase() === text);

  explorer.views.search = async (view, parts, query) => {
    const raw = query.get("q") ?? "", { site } = explorer;
    document.getElementById("query").value = raw;
    const text = raw.replaceAll("·", " ").replaceAll("⏎", "\n").replaceAll("⇥", "\t");
    const key = text.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, "").toLowerCase() || text;
    const exact = query.get("exact") === "1";
    const { found: all, cut } = await entries("tokens", key);
    const spaced = key !== text.toLowerCase();
    const tokens = all.filter(([, id]) => { const t = explorer.tokenText(id); return exact ? t === text : !spaced || t.toLowerCase().startsWith(text.toLowerCase()); })
      .sort((a, b) => (explorer.tokenText(b[1]) === text) - (explorer.tokenText(a[1]) === text) || b[3] - a[3]);
    const documents = await containing(text.trim());
    const numbered = /^\s*#?(\d+)\s*$/.exec(text);
    view.append(element("div", { class: "title" }, element("h1", {}, "Search: ", element("code", {}, element("bdi", {}, visible(text, { spaces: true })))),
      element("label", { class: "inline" }, element("input", { type: "checkbox", checked: exact, onchange: (e) => { if (e.target.checked) query.set("exact", "1"); else query.delete("exact"); location.hash = `#/search?${query}`; } }), " exact")));
    if (numbered && Number(numbered[1]) < site.clusters) view.append(element("p", {}, element("a", { href: `#/cluster/${numbered[1]}` }, `Cluster ${numbered[1]}`)));
    const named = components(text.trim().toLowerCase());
    if (named.length) view.append(element("h2", {}, `Components (${number(named.length)})`), element("p", {}, named.slice(0, 60).flatMap((one) => [element("a", { href: explorer.components.address(one), class: "chip" }, one.name, element("small", {}, ` ${explorer.components.described(one)}`)), " "])));
    const examples = await Promise.all(tokens.slice(0, 12).map(([, , , , clusters]) => Promise.all(clusters.slice(0, 3).map(async (c) =>
      element("li", {}, element("a", { href: `#/cluster/${c}` }, `${c}`), await explorer.example(c))))));
    view.append(await explorer.textWords.section(text, entries));
    view.append(element("h2", {}, `Members of clusters, by token (${number(tokens.length)}${cut ? "; more begin so, type more of it" : ""})`),
      element("p", { class: "note" }, "A space is shown as ·, a line feed as ⏎, a tab as ⇥; they may be typed so."),
      tokens.length ? element("ul", { class: "found" }, tokens.slice(0, 60).map(([, id, nClusters, nMembers, clusters, counts], row) => element("li", {},
        element("h3", {}, element("code", {}, element("bdi", {}, explorer.tokenShown(id))), ` ${number(nMembers)} members of ${number(nClusters)} ${nClusters === 1 ? "cluster" : "clusters"}`),
        element("p", {}, clusters.slice(0, 30).flatMap((c, i) => [element("a", { href: `#/cluster/${c}`, class: "chip" }, `${c}`, element("small", {}, ` ×${number(counts[i])}`)), " "]), nClusters > 30 ? element("small", {}, "the 30 with most of it") : null),
        examples[row] ? element("ul", { class: "near" }, examples[row]) : null))) : element("p", {}, "None."));
    view.append(element("h2", {}, `Documents (${number(documents.found.length)}${documents.cut ? "; more begin so" : ""})`),
      documents.found.length ? element("ul", { class: "plain" }, documents.found.slice(0, 100).map(([name, list]) => element("li", {}, element("a", { href: `#/document/${encodeURIComponent(name)}` }, element("bdi", {}, visible(name))), " ", element("small", {}, `${number(list.length)} ${list.length === 1 ? "context" : "contexts"}`)))) : element("p", {}, "None."));
    return `Search ${visible(text)}`;
  };

  explorer.views.document = async (view, [name]) => {
    const { found } = await entries("documents", name ?? "");
    const entry = found.find(([key]) => key === name);
    if (!entry) throw explorer.expected(`There is no document ${visible(String(name))}.`);
    return explorer.views.text(view, [String(entry[1][0])], new URLSearchParams());
  };
  explorer.documentEntries = entries;
  explorer.documentsNamed = containing;
  explorer.componentNamed = exactly;
})();
