// One cluster: its members in context, its tokens, and how the model's components respond to them.
"use strict";
(() => {
  const { element, number, fixed, visible, charts } = explorer;
  const value = explorer.terms.fact;
  const FIRST = 20, MORE = 40;

  // Context and position of members number from ... to of a cluster, by rank.
  async function membersOf(cluster, ranks) {
    const table = await explorer.columns(), per = explorer.site.perFile.members, first = table.firstMember[cluster];
    return Promise.all(ranks.map(async (rank) => {
      const file = await explorer.numbered("members", Math.floor((first + rank) / per));
      file.decoded ??= { context: explorer.numbers(file.context), position: explorer.numbers(file.position) };
      const place = (first + rank) % per;
      return { rank, context: file.decoded.context[place], position: file.decoded.position[place] };
    }));
  }

  async function contextOf(number) {
    const per = explorer.site.perFile.texts, file = await explorer.numbered("texts", Math.floor(number / per));
    file.decoded ??= { tokens: explorer.numbers(file.tokens), clusters: explorer.numbers(file.clusters), losses: explorer.numbers(file.losses) };
    const row = number % per, width = explorer.site.positions;
    return { document: file.documents[row], start: file.starts[row], tokens: file.decoded.tokens.subarray(row * width, (row + 1) * width),
      clusters: file.decoded.clusters.subarray(row * (width - 1), (row + 1) * (width - 1)), losses: file.decoded.losses.subarray(row * (width - 1), (row + 1) * (width - 1)) };
  }

  // A member in its context: what precedes, the token, a little of what follows, its loss; other members of it marked too.
  async function line({ context, position }, cluster, { before = 24, after = 6 } = {}) {
    const found = await contextOf(context);
    const piece = (i) => {
      const text = visible(explorer.tokenText(found.tokens[i]));
      return i > 0 && cluster !== null && found.clusters[i - 1] === cluster ? element("span", { class: "also" }, text) : text;
    };
    const span = (from, to) => element("bdi", {}, Array.from({ length: Math.max(0, to - from) }, (_, k) => piece(from + k)));
    const loss = found.losses[position - 1];
    return element("li", { class: "line" },
      element("span", { class: "before" }, span(Math.max(0, position - before), position)),
      element("a", { href: `#/text/${context}/${position}`, class: "token", title: `${found.document}, token ${found.start + position}` }, element("bdi", {}, explorer.tokenShown(found.tokens[position]))),
      element("span", { class: "after" }, span(position + 1, Math.min(found.tokens.length, position + 1 + after))),
      element("span", { class: "loss", title: "loss in nats" }, fixed(loss, 2)),
      element("span", { class: "from" }, element("bdi", {}, visible(found.document))));
  }

  function contexts(cluster, size, query) {
    const list = element("ol", { class: "lines" });
    const more = element("button", { type: "button" }, "more"), note = element("span", { class: "note" });
    const mode = element("select", { "aria-label": "Which members" }, element("option", { value: "central" }, "most central first"), element("option", { value: "random" }, "a random sample"), element("option", { value: "spread" }, "one of each document first"));
    let order = [], shown = 0;
    function start() {
      order = Array.from({ length: size }, (_, i) => i);
      if (mode.value === "random") for (let i = size - 1; i > 0; i--) { const j = Math.floor(Math.random() * (i + 1)); [order[i], order[j]] = [order[j], order[i]]; }
      list.replaceChildren();
      shown = 0;
      return mode.value === "spread" ? spread().then(() => add(FIRST)) : add(FIRST);
    }
    async function spread() {
      const seen = new Set(), first = [], rest = [];
      for (const member of await membersOf(cluster, order.slice(0, 400))) {
        const { document: name } = await contextOf(member.context);
        (seen.has(name) ? rest : first).push(member.rank);
        seen.add(name);
      }
      order = [...first, ...rest, ...order.slice(400)];
    }
    async function add(count) {
      const members = await membersOf(cluster, order.slice(shown, shown + count));
      list.append(...await Promise.all(members.map((m) => line(m, cluster))));
      shown = Math.min(size, shown + count);
      note.textContent = `${number(shown)} of ${number(size)} members`;
      more.hidden = shown >= size;
    }
    more.addEventListener("click", () => add(MORE));
    mode.value = query.get("members") ?? "central";
    if (mode.selectedIndex < 0) mode.selectedIndex = 0;
    mode.addEventListener("change", () => { explorer.choose(query, "members", mode.value, "central"); start(); });
    const save = element("button", { type: "button", class: "quiet", onclick: async () => explorer.table.save(`cluster-${cluster}-members.csv`, explorer.table.csv(["rank", "context", "position", "document", "token", "loss"], await all()), "text/csv") }, "CSV");
    async function all() {
      const found = await membersOf(cluster, Array.from({ length: size }, (_, i) => i)), result = [];
      for (const m of found) { const c = await contextOf(m.context); result.push([m.rank, m.context, m.position, c.document, explorer.tokenText(c.tokens[m.position]), c.losses[m.position - 1]]); }
      return result;
    }
    const box = element("section", {}, element("h2", {}, "Members in context"), element("div", { class: "bar" }, element("span", {}, mode, " ", note), save), list, more);
    return { box, ready: start() };
  }

  function tokenHistogram(card, size) {
    const most = card.tokens[0]?.[1] ?? 1, occurrences = new Map(card.occurrences);
    const list = element("ul", { class: "bars" }, card.tokens.slice(0, 20).map(([id, count]) => {
      const bar = element("span", { class: "fill" });
      bar.style.width = `${(100 * count) / most}%`;
      return element("li", {}, element("a", { href: `#/search?q=${encodeURIComponent(explorer.tokenText(id))}` }, element("code", {}, element("bdi", {}, explorer.tokenShown(id)))), element("span", { class: "track" }, bar), element("span", { class: "num" }, occurrences.has(id) ? `${number(count)} of ${number(occurrences.get(id))}` : number(count)));
    }));
    return element("section", {}, element("h2", {}, "Tokens"), element("p", { class: "note" }, `${number(card.nTokens)} different; members of all occurrences of each.`), list, card.tokens.length >= 40 ? element("p", { class: "note" }, "Of more than 40 different tokens the 20 most frequent.") : card.tokens.length > 20 ? element("p", { class: "note" }, `${card.tokens.length} different tokens; the 20 most frequent.`) : null);
  }

  // A cluster's row of the matrices of its file.
  function vectorsOf(file, row) {
    file.decoded ??= Object.fromEntries(["components", "pcs", "sampled", "predicted"].map((name) => [name, { mean: explorer.numbers(file[name].mean), error: explorer.numbers(file[name].half).map((half) => half / 1.96) }]));
    const cut = (values, width) => Array.from(values.subarray(row * width, (row + 1) * width));
    return Object.fromEntries(Object.entries(file.decoded).map(([name, one]) => {
      const width = name === "pcs" ? explorer.site.pcs : explorer.site.components.length;
      return [name, { mean: cut(one.mean, width), error: cut(one.error, width) }];
    }));
  }

  // Means shown from the average token, or from zero susceptibility.
  function profileSection(card, vectors, cluster, query) {
    const { site } = explorer;
    const box = element("section", { class: "profile" });
    const predicted = vectors.components, measured = card.measured ? vectors : null;
    const choice = element("select", { "aria-label": "Zero of the scale" }, element("option", { value: "mean" }, "from the mean token"), element("option", { value: "zero" }, "from zero susceptibility"));
    const pictures = element("div");
    function draw() {
      const from = choice.value === "zero" ? site.basis.zero : site.components.map(() => 0);
      const moved = (means) => Array.from(means, (m, i) => m - from[i]);
      const unit = "standard deviations over tokens";
      const limit = charts.largest([...moved(predicted.mean), ...(measured ? moved(measured.sampled.mean) : [])]);
      pictures.replaceChildren(
        element("div", { class: "pair" },
          charts.heatmap(site.components, moved(predicted.mean), Array.from(predicted.error), { caption: `By ${explorer.visible(site.source)}, all members`, name: `cluster-${cluster}-predicted`, unit, limit, errorMeaning: "95 %, over documents and chains", href: explorer.components.address }),
          measured ? charts.heatmap(site.components, moved(measured.sampled.mean), Array.from(measured.sampled.error), { caption: `Sampled, on ${card.measured} members`, name: `cluster-${cluster}-measured`, unit, limit, errorMeaning: "95 %, over documents and chains", href: explorer.components.address }) : element("p", { class: "note" }, "No member has a sampled susceptibility.")),
        charts.intervals(explorer.components.names(), [
          { name: `${explorer.visible(site.source)}, all members`, values: moved(predicted.mean), errors: Array.from(predicted.error) },
          ...(measured ? [{ name: "sampled", values: moved(measured.sampled.mean), errors: Array.from(measured.sampled.error) }, { name: `${explorer.visible(site.source)}, same members`, values: moved(measured.predicted.mean), mark: "ring" }] : []),
        ], { caption: "The same with intervals, component by component", name: `cluster-${cluster}-intervals`, yLabel: "standard deviations" }));
    }
    choice.value = query.get("from") === "zero" ? "zero" : "mean";
    choice.addEventListener("change", () => { explorer.choose(query, "from", choice.value, "mean"); draw(); });
    draw();
    const meaning = "Below zero: expression, the loss of these tokens rises when the component is shaken; above: suppression; from the mean token, more of it than the average token. " +
      "Intervals are 95 %: Student's t over documents, and the error of the chains, which all documents share, from how the halves of the chains differ.";
    box.append(element("div", { class: "title" }, element("h2", {}, "Mean susceptibility"), choice), element("p", { class: "note" }, meaning), pictures);
    return box;
  }

  explorer.views.cluster = async (view, [text], query) => {
    const cluster = Number(text), { site } = explorer;
    if (!Number.isInteger(cluster) || cluster < 0 || cluster >= site.clusters) throw explorer.expected(`There is no cluster ${explorer.visible(String(text))}; the numbers are 0 to ${site.clusters - 1}.`);
    const [table, file] = await Promise.all([explorer.columns(), explorer.numbered("cards", Math.floor(cluster / site.perFile.cards))]);
    const row = cluster % site.perFile.cards, card = file.cards[row], vectors = vectorsOf(file, row), size = table.size[cluster];
    const go = (to, label) => element("a", { class: "button", href: `#/cluster/${to}`, "aria-disabled": to < 0 || to >= site.clusters ? "true" : null }, label);
    const onkey = ({ detail: event }) => {
      if (!view.isConnected) { document.removeEventListener("shortcut", onkey); return; }
      const to = cluster + ({ j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 }[event.key] ?? 0);
      if (to !== cluster && to >= 0 && to < site.clusters) location.hash = `#/cluster/${to}`;
    };
    document.addEventListener("shortcut", onkey);
    const members = contexts(cluster, size, query);
    await members.ready;
    const facts = element("dl", { class: "facts" },
      value("size", number(size), "tokens"), value("conductance", fixed(table.conductance[cluster], 4), "leaving / (leaving + staying) edge weight; low is well separated"),
      value("volume", number(card.volume), "sum of weighted degrees"), value("density", number(card.density), "edge weight inside, over pairs"),
      value("reproducibility", fixed(card.reproducibility), "largest Jaccard index with a cluster by half of the chains alone, the lesser of two halves that share no chain, document or draw; 0.5 or more: found again"),
      value("found by members", fixed(card.foundByMembers), "share of eight members, from core to edge, whose own cut finds the cluster"),
      card.parent ? value("parent", `${number(card.parent[0])} tokens, conductance ${fixed(card.parent[1], 4)}`, "smallest larger set that holds four fifths of the cluster and passes the same rules") : null,
      value("documents", `${number(card.nDocuments)}; near duplicates as one ${number(table.documents[cluster])}`), value("mean loss", `${fixed(card.loss[0], 2)}${card.loss[1] === null ? "" : ` ± ${fixed(card.loss[1], 2)}`} nats`, "95 % interval over documents (Student's t)"),
      value("measured members", number(card.measured), "members whose susceptibility was sampled"),
      value("agreement", fixed(card.agreement), "r over components of the sampled with the upsampled mean, on the members that have both; from 5 members"),
      value("reliability", fixed(card.reliability), "of the sampled mean, between halves that share no chain, document or draw (Spearman–Brown); from 5 members"),
      card.controls ? value("also found by", explorer.controls.finders(card.controls), "other clusterings of the same tokens with a cluster of Jaccard index 0.5 or more with this one; see Compare") : null);
    const scored = Number.isNaN(table.gain[cluster]) ? [] : [
      value("precision", fixed(table.precision[cluster]), "share of the tokens that the label takes that are members, on the half of the documents that it was not learned on"),
      value("recall", fixed(table.recall[cluster]), "share of the members that the label takes, on the same half"),
      value("F1", `${fixed(table.f1[cluster])}; by the token's text alone ${fixed(table.tokenF1[cluster])}`, "2 hits / (tokens taken + members), on the same half; beside that of the best label that knows the token's text alone"),
      value("gain", `${fixed(table.gain[cluster])}${card.gainHalf === null ? "" : ` ± ${fixed(card.gainHalf)}`}`, "F1 less that of the token's text alone; 95 % interval over documents (jackknife). An interval that holds zero: the context says nothing sure beyond the token"),
      value("scored on", `${number(card.scored[0])} members in ${number(card.scored[1])} documents`)];
    const label = element("section", { class: "label" }, element("h2", {}, "In words"), element("p", {}, element("bdi", {}, visible(card.label))),
      card.tokenLabel === null ? null : element("p", { class: "note" }, "By the token's text alone: ", element("bdi", {}, visible(card.tokenLabel))), scored.length ? element("dl", { class: "facts" }, scored) : null);
    const nearest = element("section", {}, element("h2", {}, "Nearest clusters"), element("ul", { class: "near" }, await Promise.all(card.nearest.map(async ([other, distance]) =>
      element("li", {}, element("a", { href: `#/cluster/${other}` }, `${other}`), await explorer.example(other), element("span", { class: "num", title: "distance of mean whitened vectors" }, fixed(distance, 1)))))));
    const sources = element("section", {}, element("h2", {}, "Documents"), element("ul", { class: "plain" }, card.documents.map(([name, count]) =>
      element("li", {}, element("a", { href: `#/document/${encodeURIComponent(name)}` }, element("bdi", {}, visible(name))), " ", element("small", {}, `${number(count)} of ${number(size)}`)))));
    const pcs = vectors.pcs, names = Array.from(pcs.mean, (_, i) => `PC${i + 1}`);
    view.append(
      element("div", { class: "title" }, element("h1", {}, `Cluster ${cluster}`), element("span", { class: "pager" }, go(cluster - 1, "‹ previous"), go(cluster + 1, "next ›"), element("a", { class: "button", href: `#/map?cluster=${cluster}` }, "on the map"))),
      element("p", { class: "lead" }, await explorer.heading(cluster)),
      facts, label,
      element("div", { class: "columns" }, element("div", {}, members.box), element("div", {}, tokenHistogram(card, size), nearest, sources)),
      profileSection(card, vectors, cluster, query),
      element("section", { class: "pair" },
        charts.intervals(names, [{ name: "mean predicted score", values: Array.from(pcs.mean), errors: Array.from(pcs.error) }], { caption: "Principal components", name: `cluster-${cluster}-pcs`, yLabel: "score", width: 420 }),
        charts.histogram(site.lossEdges, card.lossHistogram, { caption: "Loss of the members", name: `cluster-${cluster}-loss`, xLabel: "loss (nats)", yLabel: "tokens" })));
    return `Cluster ${cluster}`;
  };
  explorer.contextOf = contextOf;
  explorer.contextLine = line;
})();
