// A text of one's own with its tokens coloured, beside a second one if there are two; a token opens its card.
"use strict";
(() => {
  const { element, number, fixed, charts, ownText } = explorer;
  const ERROR = "half of the difference of the two halves of the chains";
  const NAMES = ["a", "b"], TITLES = ["First text", "Second text"];
  const shownAs = (v, half) => `${fixed(v, 2)}${half ? ` ± ${fixed(Math.abs(half), 2)}` : ""}`;
  const kindOf = (by) => by.split("-")[0];

  // What is coloured by: its name, its unit, where the scale ends, and whether it has a sign.
  function scaleOf(by) {
    const { site } = explorer, [kind, index] = by.split("-");
    if (kind === "loss") return { name: "loss", unit: "loss in nats", limit: 10, signed: false };
    if (kind === "pc") return { name: `PC${Number(index) + 1}`, unit: `score on PC${Number(index) + 1}`, limit: 3 * site.basis.scores[Number(index)], signed: true };
    const name = site.components[Number(index)].name;
    return { name, unit: `linear response of ${name}, standard deviations from the mean token`, limit: 3, signed: true };
  }
  function choice(by, changed) {
    const { site } = explorer;
    const select = element("select", { "aria-label": "Colour by", onchange: (event) => changed(event.target.value) }, element("option", { value: "cluster" }, "cluster"), element("option", { value: "loss" }, "loss"),
      element("optgroup", { label: "component (linear response)" }, explorer.components.options((_, i) => `component-${i}`)),
      element("optgroup", { label: "principal component" }, Array.from({ length: site.pcs }, (_, i) => element("option", { value: `pc-${i}` }, `PC${i + 1}`))));
    select.value = by;
    if (select.selectedIndex < 0) select.value = "cluster";
    return select;
  }

  // The boxes, and what is done with them.
  function form(query) {
    const { live } = explorer, note = element("p", { class: "note", role: "status" });
    const boxes = element("div", { class: "ownboxes" });
    const box = (text, i) => element("label", {}, ownText.drafts.length > 1 ? TITLES[i] : "Your text", element("textarea", { rows: 5, value: text, spellcheck: false, dir: "auto", maxLength: live.characters, oninput: (event) => { ownText.drafts[i] = event.target.value; } }));
    const second = element("button", { type: "button", onclick: () => { ownText.drafts = ownText.drafts.length > 1 ? [ownText.drafts[0]] : [ownText.drafts[0], ownText.drafts[0]]; fill(); } });
    const fill = () => { boxes.replaceChildren(...ownText.drafts.map(box)); second.textContent = ownText.drafts.length > 1 ? "one text only" : "compare with a second text"; };
    const send = () => {
      if (ownText.drafts.some((text) => !text)) { note.textContent = "Write a text first: it needs two tokens."; return; }
      const color = query.get("color");
      location.hash = `#/text?t=${ownText.keep(ownText.drafts.slice())}${color ? `&color=${color}` : ""}`;
    };
    const address = element("button", { type: "button", class: "quiet", title: "The address then holds the text, and so does a bookmark of it", onclick: () => { NAMES.forEach((name) => query.delete(name)); ownText.drafts.forEach((text, i) => query.set(NAMES[i], text)); query.delete("t"); explorer.remember(query); note.textContent = "The address holds the text now."; } }, "put the text into the address");
    fill();
    boxes.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send(); });
    return element("section", { class: "ownform" }, boxes, element("div", { class: "bar" }, element("span", { class: "pager" }, element("button", { type: "button", class: "primary", onclick: send }, "Measure"), second), address), note);
  }

  // A text with each token coloured by `colored(token)`: channels or none, and what to say of it.
  function block(text, title, { name, chosen, colored, href, note = null }) {
    const line = element("p", { class: "text", dir: "auto" });
    text.tokens.forEach((id, i) => {
      const shown = explorer.visible(explorer.tokenText(id)).replaceAll("⏎", "⏎\n"), found = i === 0 ? null : colored(i);
      if (!found) { line.append(element("span", { class: "first", title: i === 0 ? "The first token is not predicted." : "Not compared." }, shown)); return; }
      const here = chosen === `${name}${i}`;
      const node = element("a", { href: href(`${name}${i}`), class: here ? "t here" : "t", tabIndex: here || (!chosen && i === 1) ? 0 : -1, title: `${explorer.tokenShown(id)}  ${found.told}` }, shown);
      if (found.channels) { node.style.backgroundColor = explorer.colors.text(found.channels); node.style.color = explorer.colors.ink(found.channels); }
      line.append(node);
    });
    return element("section", { class: "context-block" }, element("h2", {}, title), note, line);
  }

  const clusterName = (cluster) => (cluster >= 0 ? `cluster ${cluster}` : "no cluster");
  function coloring(text, by) {
    const { colors } = explorer;
    if (by === "cluster") return (i) => ({ channels: text.cluster[i - 1] >= 0 ? colors.tintChannels(text.cluster[i - 1]) : null, told: `${clusterName(text.cluster[i - 1])}, loss ${fixed(text.losses[i - 1], 2)}` });
    const { name, limit, signed } = scaleOf(by);
    return (i) => {
      const { value, half } = ownText.value(text, i, by);
      return { channels: (signed ? colors.divergingChannels : colors.sequentialChannels)(value / limit), told: `${name} ${shownAs(value, half)}, ${clusterName(text.cluster[i - 1])}` };
    };
  }
  // The second text less the first.
  function differing(found, by) {
    const [first, second] = found.texts, { colors } = explorer;
    return (i) => {
      const other = ownText.partner(found, i);
      if (other === null) return null;
      if (by === "cluster") {
        const [from, to] = [first.cluster[other - 1], second.cluster[i - 1]];
        return { channels: from === to ? null : to >= 0 ? colors.tintChannels(to) : colors.sequentialChannels(0.15), told: from === to ? `${clusterName(to)} in both` : `${clusterName(from)} → ${clusterName(to)}` };
      }
      const { name, limit } = scaleOf(by), a = ownText.value(first, other, by), b = ownText.value(second, i, by);
      return { channels: colors.divergingChannels((b.value - a.value) / limit), told: `${name} ${shownAs(b.value - a.value, b.half - a.half)}` };
    };
  }
  function comparedAs({ texts: [first, second], pairs }) {
    if (pairs.byPosition) return `Both texts have ${number(first.tokens.length)} tokens: each token of the second less the one at its place in the first.`;
    return `The texts have ${number(first.tokens.length)} and ${number(second.tokens.length)} tokens: equal tokens are compared, ${number(pairs.second.filter((token, row) => token > 0 && pairs.first[row] > 0).length)} of a longest common subsequence; the others, in grey, are not.`;
  }

  function legendOf(found, by) {
    const { live } = explorer, { trial } = live;
    if (by === "cluster") {
      const share = (part, all) => `${Math.round((100 * part) / all)} %`;
      return [`A tint is the cluster of at least half of a token's ${live.near} nearest corpus tokens; no tint: there is none. `,
        trial.n_clustered && trial.n_unclustered ? `Tried on this corpus, each token without itself: of tokens in a cluster ${share(trial.n_right, trial.n_clustered)} get their own, of tokens in none ${share(trial.n_joined, trial.n_unclustered)} get one.` : ""];
    }
    const { unit, limit, signed } = scaleOf(by), sizes = found.texts.flatMap((text) => text.tokens.slice(1).map((_, i) => Math.abs(ownText.value(text, i + 1, by).half)));
    const error = kindOf(by) === "loss" ? null : element("span", {}, `Mean error over these tokens ${fixed(sizes.reduce((sum, v) => sum + v, 0) / sizes.length, 2)}: ${ERROR}.`);
    return [charts.colorBar({ signed, limit, unit }), error];
  }

  function clusterList(near) {
    return element("ul", { class: "near" }, near.map(({ number: cluster, distance }) => element("li", {}, element("a", { href: `#/cluster/${cluster}` }, `${cluster}`), element("span", {}), element("span", { class: "num" }, fixed(distance, 2)))));
  }
  async function tokenList(near) {
    const { site } = explorer, width = site.positions - 1;
    return element("ol", { class: "lines small" }, await Promise.all(near.map(async ({ number: token, distance }) => {
      const line = await explorer.contextLine({ context: Math.floor(token / width), position: (token % width) + 1 }, null, { before: 9, after: 2 });
      Object.assign(line.querySelector(".loss"), { textContent: fixed(distance, 2), title: "distance" });
      return line;
    })));
  }
  const heatmap = ({ value, half }, caption, name, limit) => charts.heatmap(explorer.site.components, value, half.map((v) => Math.abs(v) / 1.96), { caption, name, unit: "standard deviations", limit, errorMeaning: "half the difference of the halves", href: explorer.components.address });

  async function card(found, chosen, close) {
    const { site, live } = explorer, which = NAMES.indexOf(chosen[0]), token = Number(chosen.slice(1)), text = found.texts[which];
    const cluster = text.cluster[token - 1], own = ownText.vector(text.responses, token), other = which === 1 ? ownText.partner(found, token) : null;
    const from = other === null ? null : ownText.vector(found.texts[0].responses, other);
    const less = from && { value: own.value.map((v, k) => v - from.value[k]), half: own.half.map((v, k) => v - from.half[k]) };
    const pcs = Array.from({ length: site.pcs }, (_, k) => ownText.value(text, token, `pc-${k}`));
    const limit = charts.largest([...own.value, ...(less?.value ?? [])]);
    return element("aside", { class: "tokencard", "aria-label": "Chosen token" }, element("a", { class: "button close", href: close }, "close"),
      element("h2", {}, element("code", {}, element("bdi", {}, explorer.tokenShown(text.tokens[token])))),
      element("p", {}, cluster >= 0 ? element("a", { href: `#/cluster/${cluster}` }, `cluster ${cluster}`) : `no cluster holds half of its ${live.near} nearest tokens`, `, loss ${fixed(text.losses[token - 1], 2)} nats, token ${number(token)} of the ${found.texts.length > 1 ? TITLES[which].toLowerCase() : "text"}`),
      heatmap(own, "Linear response from the mean token", `own-${chosen}`, limit),
      less ? heatmap(less, "Less that of its partner in the first text", `own-${chosen}-difference`, limit) : null,
      element("details", {}, element("summary", {}, "Principal components"), charts.intervals(pcs.map((_, k) => `PC${k + 1}`), [{ name: `score ± ${ERROR}`, values: pcs.map((v) => v.value), errors: pcs.map((v) => Math.abs(v.half) / 1.96) }], { caption: "Scores", name: `own-${chosen}-pcs`, width: 360 })),
      element("h3", {}, "Nearest clusters"), element("p", { class: "note" }, "Distance to a cluster's mean in the space in which clusters are found (whitened)."), clusterList(text.clusters[token - 1]),
      element("h3", {}, "Nearest corpus tokens"), element("p", { class: "note" }, live.corpusTokens < live.allTokens ? `Of ${number(live.corpusTokens)} of the ${number(live.allTokens)} tokens; distance in the same space.` : "Distance in the same space."), await tokenList(text.near[token - 1]));
  }

  // Everything below the boxes.
  async function results(found, query, changed) {
    const by = choice(query.get("color") ?? "cluster", changed), chosen = query.get("token"), text = found.texts[NAMES.indexOf(chosen?.[0])], place = Number(chosen?.slice(1));
    const valid = text && Number.isInteger(place) && place >= 1 && place < text.tokens.length;
    const to = (token) => { const next = new URLSearchParams(query); if (token) next.set("token", token); else next.delete("token"); return `#/text?${next}`; };
    const both = found.texts.length > 1, told = { chosen: valid ? chosen : null, href: to };
    const body = element("div", { class: "texts" }, found.texts.map((one, i) => block(one, both ? TITLES[i] : `${number(one.tokens.length)} tokens`, { ...told, name: NAMES[i], colored: coloring(one, by.value) })),
      both ? block(found.texts[1], "Second less first", { ...told, name: "b", chosen: null, colored: differing(found, by.value), note: element("p", { class: "note" }, comparedAs(found)) }) : null);
    body.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], all = [...body.querySelectorAll(".t")], next = step && all[all.indexOf(document.activeElement) + step];
      if (next) { next.focus(); event.preventDefault(); }
    });
    const side = element("div", { class: "side" }, valid ? await card(found, chosen, to(null)) : element("p", { class: "note" }, "Choose a token to open its card."));
    return [element("div", { class: "bar" }, element("label", { class: "inline" }, "colour by ", by), element("span", { class: "note" }, `measured in ${fixed(found.seconds, 1)} s`)),
      element("div", { class: "note legend" }, legendOf(found, by.value)), element("div", { class: "columns text-columns" }, body, side)];
  }

  explorer.viewOwn = async (view, query) => {
    const { live } = explorer, texts = ownText.of(query), area = element("div", { class: "ownresults" });
    view.append(element("div", { class: "title" }, element("h1", {}, "Your own text"), element("a", { href: "#/text/0" }, "text of the corpus"), element("a", { href: "#/documents" }, "documents")),
      element("p", { class: "note" }, `The model reads it on this machine; no draw is taken, and nothing is stored. Up to ${number(live.tokens)} tokens, in windows of ${number(live.contextLength)}. Values are linear responses, as of every token of the corpus.`), form(query), area);
    const changed = (by) => { if (by === "cluster") query.delete("color"); else query.set("color", by); explorer.remember(query); draw(); };
    const draw = async () => area.replaceChildren(...await results(ownText.known(texts), query, changed));
    async function measured() {
      const note = element("p", { class: "note", role: "status" }), started = performance.now();
      let state = "Measuring";
      const tell = () => { note.textContent = `${state} … ${((performance.now() - started) / 1000).toFixed(0)} s`; };
      const clock = setInterval(tell, 500);
      area.replaceChildren(note);
      tell();
      try { await ownText.measure(texts, ({ done, total }) => { state = `Measured ${done} of ${total} windows`; tell(); }); await draw(); explorer.announce("Measured"); }
      catch (error) { note.textContent = error.message; if (!error.expected) throw error; }
      finally { clearInterval(clock); }
    }
    view.addEventListener("shown", () => view.querySelector(".here")?.scrollIntoView({ block: "center" }), { once: true });
    if (!texts) view.addEventListener("shown", () => view.querySelector("textarea").focus(), { once: true });
    if (texts && ownText.known(texts)) await draw();
    else if (texts) measured();
    return "Your own text";
  };
})();
