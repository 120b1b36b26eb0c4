// What the experiment asked: observables and data changes by component, and the clusters behind an entry. Only where some are named.
"use strict";
(() => {
  const { element, number, visible } = explorer;
  const signed = (value) => number(value).replace("-", "−");
  const ALL = ""; // no choice: no name is empty

  function chooser(label, names, query, key) {
    const select = element("select", { "aria-label": label }, [ALL, ...names].map((name) => element("option", { value: name }, name === ALL ? "all" : visible(name))));
    select.value = names.includes(query.get(key)) ? query.get(key) : ALL;
    return select;
  }

  // The tokens of the data change that respond most, in their contexts; of texts outside the corpus there are none.
  async function tokensOf(found, entry) {
    const place = found.tokens.findIndex(([observable, change]) => observable === entry.observable && change === entry.data_change);
    if (place < 0) return null;
    const file = await explorer.numbered("asked", place, 4), of = file[explorer.components.numbered(entry.name)];
    const token = explorer.numbers(of.token), values = explorer.numbers(of.values);
    const line = async (numbered, row) => {
      const shown = await explorer.contextLine(explorer.placeOf(numbered), null, { before: 16, after: 4 });
      shown.classList.add("valued");
      shown.append(element("span", { class: "value" }, `${signed(values[4 * row])} ± ${number(values[4 * row + 1])}`));
      return shown;
    };
    return [element("p", { class: "note" }, "Of the tokens of this data change those that respond most; value ± half the difference of two halves that share nothing. The largest of many are also the luckiest."),
      element("ol", { class: "lines small" }, await Promise.all(Array.from(token, line)))];
  }

  // The tokens and clusters that lie furthest from zero for an observable and a component, and how to read on.
  function behind(found, entry) {
    const own = found.clusters.filter((row) => row.observable === entry.observable && row.name === entry.name);
    const columns = [{ name: "cluster", shown: (c) => element("a", { href: `#/cluster/${c}` }, `${c}`) }, { name: "mean response", shown: signed }, { name: "± 95 %" }, { name: "tokens" }];
    const link = element("a", { href: explorer.components.address({ name: entry.name }) }, `tokens that respond most to ${visible(entry.name)}`);
    const members = /^cluster (\d+)$/.exec(entry.source);
    const lines = element("div");
    tokensOf(found, entry).then((parts) => { if (parts) lines.replaceChildren(...parts); });
    return element("section", { class: "behind" },
      element("h2", {}, `${visible(entry.observable)} × ${visible(entry.data_change)}, ${visible(entry.name)}`),
      element("p", {}, `${signed(entry.susceptibility)} ± ${number(entry.half_width)} over ${number(entry.n_tokens)} tokens of ${number(entry.n_documents)} documents (${visible(entry.source)}). The standard error of the chains is ${number(entry.chain_error)}, that over documents ${entry.document_error === null ? "unknown" : number(entry.document_error)}.`),
      element("p", {}, "Tokens: ", members ? element("a", { href: `#/cluster/${members[1]}` }, `members of cluster ${members[1]}`) : link, "."), lines,
      own.length ? explorer.table("Clusters furthest from zero for this observable and component", columns, own.map((row) => [row.cluster, row.susceptibility, row.half_width, row.n_tokens]), { file: "observable-clusters" })
        : element("p", { class: "note" }, "The cards of the clusters show this observable's response to each cluster."));
  }

  explorer.views.observables = async (view, parts, query) => {
    const found = await explorer.load("observables"), box = element("div"), below = element("div", { "aria-live": "polite" });
    const distinct = (key) => [...new Set(found.rows.map((row) => row[key]))];
    const observable = chooser("Observable", distinct("observable"), query, "observable"), change = chooser("Data change", distinct("data_change"), query, "change");
    const cell = (entry) => element("button", { type: "button", class: "quiet", onclick: () => below.replaceChildren(behind(found, entry)) }, `${signed(entry.susceptibility)} ± ${number(entry.half_width)}`);
    const draw = () => {
      const shown = found.rows.filter((row) => (observable.value === ALL || row.observable === observable.value) && (change.value === ALL || row.data_change === change.value));
      const heads = [...new Map(shown.map((row) => [JSON.stringify([row.observable, row.data_change]), row])).values()];
      if (!heads.length) return box.replaceChildren(element("p", { class: "note" }, "There is no entry: the experiment names no data change, and the run has no cluster."));
      const entries = new Map(shown.map((row) => [JSON.stringify([row.observable, row.data_change, row.name]), row]));
      const of = (head, name) => entries.get(JSON.stringify([head.observable, head.data_change, name]));
      const columns = [{ name: "component", shown: (name) => element("a", { href: explorer.components.address({ name }) }, visible(name)) },
        ...heads.map((head) => ({ name: `${visible(head.observable)} × ${visible(head.data_change)}`, title: `${head.source}, ${number(head.n_tokens)} tokens`, shown: (_, row) => cell(of(head, row[0])) }))];
      const names = explorer.site.components.map((one) => one.name);
      box.replaceChildren(explorer.table("Response by component, with 95 % intervals", columns, names.map((name) => [name, ...heads.map((head) => of(head, name).susceptibility)]), { file: "observables" }));
    };
    for (const [select, key] of [[observable, "observable"], [change, "change"]])
      select.addEventListener("change", () => { explorer.choose(query, key, select.value, ALL); below.replaceChildren(); draw(); });
    draw();
    view.append(element("div", { class: "title" }, element("h1", {}, "Observables"), element("label", { class: "inline" }, "observable ", observable), element("label", { class: "inline" }, "data change ", change)),
      element("p", { class: "note" }, "How each component ties an observable to a distribution of tokens: minus the covariance of the observable with the excess loss of the tokens, in nats times the observable's unit. Choose an entry to see what makes it."), box, below);
    return "Observables";
  };
})();
