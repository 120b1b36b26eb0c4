// Text of the corpus with its tokens coloured; a token opens its card beside the text.
"use strict";
(() => {
  const { element, number, fixed, visible, charts } = explorer;

  // Scores of the tokens of a context, or their errors.
  async function scoresOf(context, folder = "scores") {
    const { site } = explorer, per = site.perFile.texts, file = await explorer.numbered(folder, Math.floor(context / per));
    file.decoded ??= explorer.numbers(file);
    const size = (site.positions - 1) * site.pcs, row = context % per;
    return file.decoded.subarray(row * size, (row + 1) * size);
  }
  function basis() {
    const { site } = explorer;
    site.basis.decoded ??= explorer.numbers(site.basis.components);
    return site.basis.decoded;
  }
  // A component's predicted susceptibility in standard deviations from the mean token: scores times its loadings.
  function componentOf(scores, row, component) {
    const { site } = explorer, axes = basis(), width = site.components.length;
    let sum = 0;
    for (let k = 0; k < site.pcs; k++) sum += scores[row * site.pcs + k] * axes[k * width + component];
    return sum;
  }
  async function neighborsOf(context, position) {
    const { site } = explorer, per = site.perFile.texts, file = await explorer.numbered("neighbors", Math.floor(context / per));
    file.decoded ??= explorer.numbers(file);
    const rows = Math.min(per, site.contexts - Math.floor(context / per) * per) * (site.positions - 1);
    const width = file.decoded.length / rows, row = (context % per) * (site.positions - 1) + position - 1;
    return Array.from(file.decoded.subarray(row * width, (row + 1) * width)).filter(Boolean).map((v) => v - 1);
  }
  async function sampledOf(context, position) {
    const { site } = explorer, width = site.components.length;
    if (!site.sampled.some(([first, last]) => first <= context && context <= last)) return null;
    const file = await explorer.numbered("truth", context);
    file.decoded ??= { positions: explorer.numbers(file.positions), value: explorer.numbers(file.value), error: explorer.numbers(file.error) };
    const row = file.decoded.positions.indexOf(position);
    if (row < 0) return null;
    return { value: Array.from(file.decoded.value.subarray(row * width, (row + 1) * width)), error: Array.from(file.decoded.error.subarray(row * width, (row + 1) * width)) };
  }

  const UNIT = "standard deviations over tokens", HALVES = "half the difference of two halves of the chains, which share nothing";

  // A token's vector with its errors, and what was sampled of it.
  async function vectorsOf(context, position) {
    const { site } = explorer, [scores, errors, sampled] = await Promise.all([scoresOf(context), scoresOf(context, "errors"), sampledOf(context, position)]);
    const all = (values) => site.components.map((_, i) => componentOf(values, position - 1, i)), predicted = all(scores), name = `token-${context}-${position}`;
    const limit = charts.largest([...predicted, ...(sampled ? sampled.value : [])]), options = { unit: UNIT, limit, href: explorer.components.address };
    return [charts.heatmap(site.components, predicted, all(errors).map((half) => Math.abs(half) / 1.96), { ...options, caption: `Susceptibility by ${visible(site.source)}`, name, errorMeaning: HALVES }),
      sampled ? charts.heatmap(site.components, sampled.value, sampled.error, { ...options, caption: "Measured, with Monte-Carlo error", name: `${name}-measured`, errorMeaning: "1.96 standard errors over chains" }) : element("p", { class: "note" }, "Not sampled: this token has a prediction only.")];
  }
  // The chosen component's value in words: with its error, for a picture shows that only when it is pointed at.
  async function valueOf(context, position, by) {
    if (by?.split("-")[0] !== "component") return null;
    const index = Number(by.split("-")[1]), [value, half] = (await Promise.all([scoresOf(context), scoresOf(context, "errors")])).map((values) => componentOf(values, position - 1, index));
    return element("p", { class: "surely" }, `${explorer.site.components[index].name}: ${fixed(value, 2)} ± ${fixed(Math.abs(half), 2)}`, element("small", {}, ` ${UNIT}; ± is ${HALVES}`));
  }
  // How sure the values are, over all components.
  async function errorOf(context, position) {
    const { site } = explorer, errors = await scoresOf(context, "errors"), halves = site.components.map((_, i) => componentOf(errors, position - 1, i));
    const size = Math.sqrt(halves.reduce((sum, v) => sum + v * v, 0) / halves.length);
    return element("p", { class: "note error" }, `Error of its values, root mean square over components: ${fixed(size, 2)} ${UNIT}; each is ${HALVES}. Point at a cell to read its own.`);
  }

  async function tokenCard(context, position, by) {
    const { site } = explorer, found = await explorer.contextOf(context), near = await neighborsOf(context, position);
    const cluster = found.clusters[position - 1], list = element("ol", { class: "lines small" }), more = element("button", { type: "button" }, "all");
    const add = async (from, to) => list.append(...await Promise.all(near.slice(from, to).map((token) =>
      explorer.contextLine({ context: Math.floor(token / (site.positions - 1)), position: (token % (site.positions - 1)) + 1 }, null, { before: 9, after: 2 }))));
    await add(0, 10);
    more.hidden = near.length <= 10;
    more.addEventListener("click", () => { add(10, near.length); more.hidden = true; });
    return element("aside", { class: "tokencard", "aria-label": "Chosen token" }, element("a", { class: "button close", href: location.hash.replace(/^(#\/text\/\d+)\/\d+/, "$1") }, "close"),
      element("h2", {}, element("code", {}, element("bdi", {}, explorer.tokenShown(found.tokens[position])))),
      element("p", {}, cluster >= 0 ? element("a", { href: `#/cluster/${cluster}` }, `cluster ${cluster}`) : "in no cluster", `, loss ${fixed(found.losses[position - 1], 2)} nats, token ${number(found.start + position)} of `, element("bdi", {}, visible(found.document))),
      await valueOf(context, position, by), await errorOf(context, position), await vectorsOf(context, position),
      element("h3", {}, `Its ${near.length} neighbours`), element("p", { class: "note" }, "Strongest edges of the graph that the clusters come from."), list, more);
  }

  // Where a text of one's own is measured, or how that is had.
  const own = () => element("p", { class: "note" }, "Text of the corpus. ", element("a", { href: "#/documents" }, "All documents"), ". ", ...(explorer.live ? [element("a", { href: "#/text" }, "Measure a text of your own"), "."]
    : ["To measure a text of your own here: ", element("code", {}, `make explore LIVE=1`), ", which serves this page with the model on your machine."]));

  function selectOf(by, changed) {
    const { site } = explorer;
    const select = element("select", { "aria-label": "Colour by", onchange: () => changed(select.value) }, element("option", { value: "cluster" }, "cluster"), element("option", { value: "loss" }, "loss"),
      element("optgroup", { label: `component (${visible(site.source)})` }, explorer.components.options((_, i) => `component-${i}`)),
      element("optgroup", { label: "principal component" }, Array.from({ length: site.pcs }, (_, i) => element("option", { value: `pc-${i}` }, `PC${i + 1}`))));
    select.value = by;
    if (select.selectedIndex < 0) select.value = "cluster";
    return select;
  }

  // What the text is coloured by: what to say of it, and of each token of a context the colour and the value.
  function coloringOf(by) {
    const { site, colors } = explorer, [kind, index] = by.split("-"), k = Number(index), scale = (signed, limit, unit) => charts.colorBar({ signed, limit, unit });
    if (kind === "cluster") return { legend: "A tint is a cluster (tints repeat); no tint: in none. Choose a token to open its card.", of: async () => (i, { clusters }) => ({ channels: clusters[i - 1] >= 0 ? colors.tintChannels(clusters[i - 1]) : null }) };
    if (kind === "loss") return { legend: scale(false, 10, "loss in nats"), of: async () => (i, { losses }) => ({ channels: colors.sequentialChannels(losses[i - 1] / 10) }) };
    const limit = kind === "pc" ? 3 * site.basis.scores[k] : 3, name = kind === "pc" ? `PC${k + 1}` : site.components[k].name;
    return { legend: scale(true, limit, kind === "pc" ? `score on ${name}` : `${name} by ${visible(site.source)}, standard deviations from the mean token`), of: async (context) => {
      const scores = await scoresOf(context);
      return (i) => { const value = kind === "pc" ? scores[(i - 1) * site.pcs + k] : componentOf(scores, i - 1, k); return { channels: colors.divergingChannels(value / limit), told: `, ${name} ${fixed(value, 2)}` }; };
    } };
  }

  // A context with its tokens coloured, each of which leads to its card.
  async function block(context, by, coloring, { chosen, position, first }) {
    const { colors } = explorer, found = await explorer.contextOf(context), { tokens, clusters, losses, start } = found, of = await coloring.of(context);
    const line = element("p", { class: "text", dir: "auto" });
    tokens.forEach((id, i) => {
      const text = visible(explorer.tokenText(id)).replaceAll("⏎", "⏎\n");
      if (i === 0) { line.append(element("span", { class: "first" }, text)); return; }
      const cluster = clusters[i - 1], here = context === chosen && i === position, { channels, told = "" } = of(i, found);
      const node = element("a", { href: `#/text/${context}/${i}${by === "cluster" ? "" : `?color=${by}`}`, class: here ? "t here" : "t", tabIndex: here || (position === null && context === first && i === 1) ? 0 : -1,
        title: `${explorer.tokenShown(id)}  ${cluster >= 0 ? `cluster ${cluster}` : "no cluster"}, loss ${fixed(losses[i - 1], 2)}${told}` }, text);
      if (channels) { node.style.backgroundColor = colors.text(channels); node.style.color = colors.ink(channels); }
      line.append(node);
    });
    return element("section", { class: "context-block" }, element("h2", {}, `tokens ${number(start)}–${number(start + tokens.length - 1)}`), line);
  }

  function placeOf(contextText, positionText) {
    const { site } = explorer, chosen = Number(contextText ?? 0), position = positionText === undefined ? null : Number(positionText);
    if (!(chosen >= 0 && chosen < site.contexts && Number.isInteger(chosen))) throw explorer.expected(`There is no context ${visible(String(contextText))}; the numbers are 0 to ${site.contexts - 1}.`);
    if (position !== null && !(Number.isInteger(position) && position >= 1 && position < site.positions)) throw explorer.expected(`A context has tokens 1 to ${site.positions - 1}.`);
    return { chosen, position };
  }

  explorer.views.text = async (view, [contextText, positionText], query) => {
    if (explorer.live && contextText === undefined) return explorer.viewOwn(view, query);
    const { site } = explorer, { chosen, position } = placeOf(contextText, positionText), found = await explorer.contextOf(chosen);
    const { found: entries } = await explorer.documentEntries("documents", found.document);
    const contexts = entries.find(([name]) => name === found.document)?.[1] ?? [chosen];
    const legend = element("div", { class: "note legend" }), body = element("div", { class: "texts" }), side = element("div", { class: "side" });
    const select = selectOf(query.get("color") ?? "cluster", (by) => { if (by === "cluster") query.delete("color"); else query.set("color", by); explorer.remember(query); draw(); });
    async function draw() {
      const by = select.value, coloring = coloringOf(by);
      const blocks = await Promise.all(contexts.map((context) => block(context, by, coloring, { chosen, position, first: contexts[0] })));
      const card = position === null ? element("p", { class: "note" }, "No token is chosen.") : await tokenCard(chosen, position, by);
      if (select.value !== by) return; // chosen anew meanwhile
      legend.replaceChildren(coloring.legend);
      body.replaceChildren(...blocks);
      side.replaceChildren(card);
      view.querySelector(".here")?.focus({ preventScroll: true });
    }
    // Arrows go from token to token.
    body.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], all = [...body.querySelectorAll(".t")], to = step && all[all.indexOf(document.activeElement) + step];
      if (to) { to.focus(); event.preventDefault(); }
    });
    const go = (to, label) => element("a", { class: "button", href: `#/text/${Math.min(Math.max(to, 0), site.contexts - 1)}` }, label);
    await draw();
    view.append(element("div", { class: "title" }, element("h1", {}, element("bdi", {}, visible(found.document))), element("span", { class: "pager" }, element("label", { class: "inline" }, "colour by ", select), go(chosen - 1, "‹"), go(chosen + 1, "›"))),
      own(), legend, element("div", { class: "columns text-columns" }, body, side));
    view.addEventListener("shown", () => view.querySelector(".here")?.scrollIntoView({ block: "center" }), { once: true });
    return `${visible(found.document)}`;
  };
})();
