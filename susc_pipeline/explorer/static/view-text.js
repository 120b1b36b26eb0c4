// Text of the corpus with its tokens coloured; a token opens its card beside the text.
"use strict";
(() => {
  const { element, number, fixed, visible, charts } = explorer;

  async function scoresOf(context) {
    const { site } = explorer, per = site.perFile.texts, file = await explorer.numbered("scores", Math.floor(context / per));
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

  async function tokenCard(context, position) {
    const { site } = explorer, found = await explorer.contextOf(context), scores = await scoresOf(context);
    const cluster = found.clusters[position - 1];
    const predicted = site.components.map((_, i) => componentOf(scores, position - 1, i));
    const sampled = await sampledOf(context, position);
    const near = await neighborsOf(context, position);
    const list = element("ol", { class: "lines small" });
    const more = element("button", { type: "button" }, "all");
    const add = async (from, to) => list.append(...await Promise.all(near.slice(from, to).map((token) =>
      explorer.contextLine({ context: Math.floor(token / (site.positions - 1)), position: (token % (site.positions - 1)) + 1 }, null, { before: 9, after: 2 }))));
    await add(0, 10);
    more.hidden = near.length <= 10;
    more.addEventListener("click", () => { add(10, near.length); more.hidden = true; });
    const limit = charts.largest([...predicted, ...(sampled ? sampled.value : [])]);
    return element("aside", { class: "tokencard", "aria-label": "Chosen token" }, element("a", { class: "button close", href: location.hash.replace(/^(#\/text\/\d+)\/\d+/, "$1") }, "close"),
      element("h2", {}, element("code", {}, element("bdi", {}, explorer.tokenShown(found.tokens[position])))),
      element("p", {}, cluster >= 0 ? element("a", { href: `#/cluster/${cluster}` }, `cluster ${cluster}`) : "in no cluster", `, loss ${fixed(found.losses[position - 1], 2)} nats, token ${number(found.start + position)} of `, element("bdi", {}, visible(found.document))),
      charts.heatmap(site.components, predicted, null, { caption: `Susceptibility by ${explorer.visible(site.source)}`, name: `token-${context}-${position}`, unit: "standard deviations over tokens", limit, href: explorer.components.address }),
      sampled ? charts.heatmap(site.components, sampled.value, sampled.error, { caption: "Measured, with Monte-Carlo error", name: `token-${context}-${position}-measured`, unit: "standard deviations over tokens", limit, errorMeaning: "1.96 standard errors over chains", href: explorer.components.address }) : element("p", { class: "note" }, "Not sampled: this token has a prediction only."),
      element("h3", {}, `Its ${near.length} neighbours`), element("p", { class: "note" }, "Strongest edges of the graph that the clusters come from."), list, more);
  }

  // Where a text of one's own is measured, or how that is had.
  const own = () => explorer.live ? element("p", { class: "note" }, "Text of the corpus. ", element("a", { href: "#/text" }, "Measure a text of your own"), ".")
    : element("p", { class: "note" }, "Text of the corpus. To measure a text of your own here: ", element("code", {}, `make explore LIVE=1`), ", which serves this page with the model on your machine.");

  explorer.views.text = async (view, [contextText, positionText], query) => {
    if (explorer.live && contextText === undefined) return explorer.viewOwn(view, query);
    const { site, colors } = explorer;
    const chosen = Number(contextText ?? 0), position = positionText === undefined ? null : Number(positionText);
    if (!(chosen >= 0 && chosen < site.contexts && Number.isInteger(chosen))) throw explorer.expected(`There is no context ${visible(String(contextText))}; the numbers are 0 to ${site.contexts - 1}.`);
    if (position !== null && !(position >= 1 && position < site.positions)) throw explorer.expected(`A context has tokens 1 to ${site.positions - 1}.`);
    const found = await explorer.contextOf(chosen);
    const { found: entries } = await explorer.documentEntries("documents", found.document);
    const contexts = entries.find(([name]) => name === found.document)?.[1] ?? [chosen];
    let by = query.get("color") ?? "cluster";
    const legend = element("div", { class: "note legend" });
    const body = element("div", { class: "texts" });
    const side = element("div", { class: "side" });
    const select = element("select", { "aria-label": "Colour by" },
      element("option", { value: "cluster" }, "cluster"), element("option", { value: "loss" }, "loss"),
      element("optgroup", { label: `component (${explorer.visible(site.source)})` }, explorer.components.options((_, i) => `component-${i}`)),
      element("optgroup", { label: "principal component" }, Array.from({ length: site.pcs }, (_, i) => element("option", { value: `pc-${i}` }, `PC${i + 1}`))));
    select.value = by;
    if (select.selectedIndex < 0) { by = "cluster"; select.value = by; }
    select.addEventListener("change", () => { by = select.value; if (by === "cluster") query.delete("color"); else query.set("color", by); explorer.remember(query); draw(); });

    async function draw() {
      const [kind, index] = by.split("-");
      const spread = kind === "pc" ? site.basis.scores[Number(index)] : 1, scale = (signed, limit, unit) => explorer.charts.colorBar({ signed, limit, unit });
      const name = { loss: "loss", component: site.components[Number(index)]?.name, pc: `PC${Number(index) + 1}` }[kind];
      legend.replaceChildren({ cluster: () => "A tint is a cluster (tints repeat); no tint: in none. Choose a token to open its card.", loss: () => scale(false, 10, "loss in nats"),
        component: () => scale(true, 3, `${name} by ${visible(site.source)}, standard deviations from the mean token`), pc: () => scale(true, 3 * spread, `score on ${name}`) }[kind]());
      const blocks = await Promise.all(contexts.map(async (context) => {
        const { tokens, clusters, losses, start } = await explorer.contextOf(context);
        const scores = kind === "component" || kind === "pc" ? await scoresOf(context) : null;
        const line = element("p", { class: "text", dir: "auto" });
        tokens.forEach((id, i) => {
          const text = visible(explorer.tokenText(id)).replaceAll("⏎", "⏎\n");
          if (i === 0) { line.append(element("span", { class: "first" }, text)); return; }
          const cluster = clusters[i - 1];
          let channels = null;
          const value = kind === "component" ? componentOf(scores, i - 1, Number(index)) : kind === "pc" ? scores[(i - 1) * site.pcs + Number(index)] : null;
          if (kind === "cluster") channels = cluster >= 0 ? colors.tintChannels(cluster) : null;
          else if (kind === "loss") channels = colors.sequentialChannels(losses[i - 1] / 10);
          else channels = colors.divergingChannels(value / (3 * spread));
          const here = context === chosen && i === position;
          const node = element("a", { href: `#/text/${context}/${i}${by === "cluster" ? "" : `?color=${by}`}`, class: here ? "t here" : "t", tabIndex: here || (position === null && context === contexts[0] && i === 1) ? 0 : -1,
            title: `${explorer.tokenShown(id)}  ${cluster >= 0 ? `cluster ${cluster}` : "no cluster"}, loss ${fixed(losses[i - 1], 2)}${value === null ? "" : `, ${name} ${fixed(value, 2)}`}` }, text);
          if (channels) { node.style.backgroundColor = colors.text(channels); node.style.color = colors.ink(channels); }
          line.append(node);
        });
        return element("section", { class: "context-block" }, element("h2", {}, `tokens ${number(start)}–${number(start + tokens.length - 1)}`), line);
      }));
      body.replaceChildren(...blocks);
      view.querySelector(".here")?.focus({ preventScroll: true });
    }
    // Arrows go from token to token.
    body.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const all = [...body.querySelectorAll(".t")], to = all[all.indexOf(document.activeElement) + step];
      if (to) { to.focus(); event.preventDefault(); }
    });
    const go = (to, label) => element("a", { class: "button", href: `#/text/${Math.min(Math.max(to, 0), site.contexts - 1)}` }, label);
    await draw();
    if (position !== null) side.append(await tokenCard(chosen, position));
    else side.append(element("p", { class: "note" }, "No token is chosen."));
    view.append(element("div", { class: "title" }, element("h1", {}, element("bdi", {}, visible(found.document))), element("span", { class: "pager" }, element("label", { class: "inline" }, "colour by ", select), go(chosen - 1, "‹"), go(chosen + 1, "›"))),
      own(), legend, element("div", { class: "columns text-columns" }, body, side));
    view.addEventListener("shown", () => view.querySelector(".here")?.scrollIntoView({ block: "center" }), { once: true });
    return `${visible(found.document)}`;
  };
})();
