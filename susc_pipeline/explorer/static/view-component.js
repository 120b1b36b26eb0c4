// One component: how sure it is, which tokens and clusters it expresses and suppresses, and what goes with it.
"use strict";
(() => {
  const { element, number, fixed, visible, charts, terms } = explorer;
  const { term, fact } = terms;
  const FIRST = 12, CLUSTERS = 10;
  const UNIT = "standard deviations";

  async function responsesOf(index) {
    const file = await explorer.numbered("responses", index, 4);
    file.decoded ??= Object.fromEntries(["expressed", "suppressed", "measuredExpressed", "measuredSuppressed"].map((name) => [name, { token: explorer.numbers(file[name].token), values: explorer.numbers(file[name].values) }]));
    return file;
  }

  const withError = (value, error) => (Number.isFinite(value) ? `${fixed(value, 2)} ± ${fixed(error, 2)}` : "–");

  // A token in its context with its response and, where it was sampled, what was measured.
  async function tokenLine({ token, values }, row) {
    const [response, error, measured, measuredError] = values.subarray(4 * row, 4 * row + 4);
    const line = await explorer.contextLine(explorer.placeOf(token[row]), null, { before: 16, after: 4 });
    const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = explorer.colors.diverging(response / 6);
    line.classList.add("valued");
    line.append(element("span", { class: "value" }, swatch, ` ${withError(response, error)}`), element("span", { class: "value soft" }, Number.isFinite(measured) ? `sampled ${withError(measured, measuredError)}` : "not sampled"));
    return line;
  }

  function tokenList(title, key, name, file, measured) {
    const chosen = measured ? `measured${name[0].toUpperCase()}${name.slice(1)}` : name, found = file.decoded[chosen];
    const list = element("ol", { class: "lines small" }), more = element("button", { type: "button" }, "more");
    let shown = 0;
    const add = async (count) => {
      const rows = Array.from({ length: Math.min(count, found.token.length - shown) }, (_, i) => shown + i);
      shown += rows.length;
      more.hidden = shown >= found.token.length;
      list.append(...await Promise.all(rows.map((row) => tokenLine(found, row))));
    };
    more.addEventListener("click", () => add(found.token.length));
    const box = element("section", {}, element("h3", {}, term(title, key)), found.token.length ? list : element("p", { class: "note" }, "No token was sampled."), more);
    return { box, ready: add(FIRST) };
  }

  async function tokens(file, query) {
    const box = element("div", { class: "columns even" }), source = visible(explorer.site.source);
    const select = element("select", { "aria-label": "Which tokens" }, element("option", { value: "all" }, `of all tokens, by ${source}`), element("option", { value: "sampled" }, "of sampled tokens, by the sampled value"));
    select.value = query.get("tokens") === "sampled" ? "sampled" : "all";
    async function draw() {
      const parts = [["Most expressed", "expressed", "expressed"], ["Most suppressed", "suppressed", "suppressed"]].map(([title, key, name]) => tokenList(title, key, name, file, select.value === "sampled"));
      await Promise.all(parts.map((part) => part.ready));
      box.replaceChildren(...parts.map((part) => part.box));
    }
    select.addEventListener("change", () => { if (select.value === "all") query.delete("tokens"); else query.set("tokens", "sampled"); explorer.remember(query); draw(); });
    await draw();
    return element("section", {}, element("div", { class: "title" }, element("h2", {}, "Tokens in context"), select),
      element("p", { class: "note" }, `Value ± its error, in ${UNIT} over tokens from the mean token: of the `, term("response", "response"), ` (${source}) half the difference of two halves that share nothing, of the `, term("sampled value", "sampled"), " one standard error over chains. The largest of many are also the luckiest: expect a repeat to be smaller."), box);
  }

  async function clusters(index, one) {
    const { mean, half } = await explorer.components.means(index);
    const order = Array.from(mean.keys()).filter((c) => Number.isFinite(mean[c])).sort((a, b) => mean[a] - mean[b] || a - b);
    const line = async (c) => element("li", {}, element("a", { href: `#/cluster/${c}` }, `${c}`), await explorer.example(c), element("span", { class: "num" }, `${fixed(mean[c], 2)} ± ${fixed(half[c], 2)}`));
    const side = async (title, key, rows) => element("section", {}, element("h3", {}, "Clusters most ", term(title, key)), rows.length ? element("ul", { class: "near valued" }, await Promise.all(rows.map(line))) : element("p", { class: "note" }, "None."));
    const low = order.filter((c) => mean[c] < 0).slice(0, CLUSTERS), high = order.filter((c) => mean[c] > 0).slice(-CLUSTERS).reverse();
    const all = element("a", { href: `#/clusters?by=${encodeURIComponent(one.name)}&sort=deviation` }, `all ${number(order.length)} clusters by ${one.name}`);
    return element("section", {}, element("h2", {}, "Clusters by mean response"), element("p", { class: "note" }, `Mean over the members ± 95 %, over documents and chains; ${UNIT} over tokens, from the mean token. See `, all, "."),
      element("div", { class: "columns even" }, await side("expressed", "expressed", low), await side("suppressed", "suppressed", high)));
  }

  function means(title, names, found, name, note) {
    const mean = Array.from(explorer.numbers(found.mean)), errors = Array.from(explorer.numbers(found.half), (half) => half / 1.96);
    return element("div", {}, charts.intervals(names, [{ name: "mean response, 95 % over documents and chains", values: mean, errors }], { caption: title, name, yLabel: UNIT, width: 440 }), element("p", { class: "note" }, note));
  }

  function companions(found) {
    const r = explorer.numbers(found.r), all = explorer.components.all();
    const rows = found.component.map((other, i) => [all[other].name, ...r.subarray(3 * i, 3 * i + 3)]).filter(([, value]) => Number.isFinite(value));
    if (!rows.length) return null;
    const shown = (v) => fixed(v, 2);
    return explorer.table("Components that go with it, over all tokens", [{ name: "component", shown: (name) => element("a", { href: explorer.components.address({ name }) }, name) },
      { name: "r", shown, title: "Correlation over tokens without the noise of the chains: covariance of the halves that share nothing over their own. Chance can push it past 1." },
      { name: "its even, other's odd chains", shown, title: "The same from one pair of halves." }, { name: "its odd, other's even", shown, title: "From the other pair: the difference of both shows the error." }], rows, { file: "companions" });
  }

  // The two commonest token texts of a list of extreme tokens, where one is common at all.
  function commonest(file, name) {
    const found = file[name].commonest.filter(([, count]) => count > 2).slice(0, 2), n = file.decoded[name].token.length;
    if (!found.length) return [`no text is common among the ${n} tokens`];
    return [`commonest of the ${n} tokens: `, ...found.flatMap(([id, count], i) => [i ? ", " : "", element("code", {}, element("bdi", {}, explorer.tokenShown(id))), ` (${count})`])];
  }

  // What there is to say of it in words; nothing that is not a figure below.
  function sentence(one, file, { mean, half }) {
    const sure = one.reliability === null ? [] : [", ", one.reliability >= 0.9 ? "well measured" : one.reliability >= 0.7 ? "measured with some noise" : "poorly measured", " (", term(`reliability ${fixed(one.reliability, 2)}`, "reliability"), ")"];
    const farthest = (sign) => mean.reduce((best, m, c) => (sign * m > half[c] && (best < 0 || sign * m > sign * mean[best]) ? c : best), -1);
    const cluster = (c) => (c < 0 ? ["; no cluster surely"] : ["; farthest cluster ", element("a", { href: `#/cluster/${c}` }, `${c}`), ` (${fixed(mean[c], 1)})`]);
    const decides = one.loss_pull === null ? [] : [one.loss_pull < 1 ? " Round Gaussian noise, not the loss, decides how far its weights move" : " In at least one direction the loss holds its weights more than the Gaussian does", " (", term(`loss pull ${fixed(one.loss_pull, 2)}`, "lossPull"), ")."];
    return element("p", { class: "lead" }, `${one.name} is ${explorer.components.described(one)}`, sure, ". It most ", term("expresses", "expressed"), ": ", commonest(file, "expressed"), cluster(farthest(-1)),
      ". It most ", term("suppresses", "suppressed"), ": ", commonest(file, "suppressed"), cluster(farthest(1)), ".", decides);
  }

  function facts(one, file) {
    const range = (low, high) => (low === null || high === null ? "" : ` (${fixed(low, 2)} to ${fixed(high, 2)})`);
    return element("dl", { class: "facts" }, fact("kind", one.kind.replaceAll("_", " ")), one.layer === null ? null : fact("layer", `${one.layer}`), one.head === null ? null : fact(one.kind === "head" ? "head" : "group", `${one.head}`), fact("weights", number(one.n_weights)),
      fact("reliability", `${fixed(one.reliability, 2)}${range(one.reliability_low, one.reliability_high)}`, "reliability"),
      fact("LLC", one.llc === null ? "–" : `${number(one.llc, 3)} ± ${number(1.96 * one.llc_error, 2)}`, "llc"),
      fact("share of variance", `${number(100 * one.share_of_variance, 2)} %`, "variance"), fact("loss pull", fixed(one.loss_pull, 2), "lossPull"), fact("controlled share", number(one.controlled_share), "controlled"),
      fact("standard deviation", `${number(one.standard_deviation)} nats²`, "deviation"),
      fact("error of a response", `${fixed(file.error, 2)} sd`, "Root mean square, over all tokens, of half the difference of the responses by two halves that share nothing."),
      fact("response with sampled", file.agreement === null ? "–" : `r ${fixed(file.agreement, 2)}, ${number(file.sampled)} tokens`, "Correlation over the sampled tokens of the response with the sampled susceptibility; noise of both lowers it."));
  }

  explorer.views.component = async (view, [name], query) => {
    const index = explorer.components.numbered(name), all = explorer.components.all(), one = all[index];
    if (!one) throw explorer.expected(`There is no component ${visible(String(name))}; they are listed under Components.`);
    const [file, ofClusters] = await Promise.all([responsesOf(index), explorer.components.means(index)]);
    const go = (to, label) => element("a", { class: "button", href: all[to] ? explorer.components.address(all[to]) : null, "aria-disabled": all[to] ? null : "true" }, label);
    const places = file.positions, groups = places.first.map((first, i) => (first === places.last[i] ? `${first}` : `${first}–${places.last[i]}`));
    const link = (address, text) => element("a", { class: "button", href: address }, text);
    view.append(element("div", { class: "title" }, element("h1", {}, one.name), element("span", { class: "pager" }, go(index - 1, "‹ previous"), go(index + 1, "next ›"), link(`#/map?color=component-${index}`, "on the map"), link(`#/text/0?color=component-${index}`, "in the text"), explorer.live ? link(`#/text?color=component-${index}`, "in a text of your own") : null)),
      sentence(one, file, ofClusters), facts(one, file), await tokens(file, query), await clusters(index, one),
      element("section", { class: "pair" }, means("By position in the context", groups, places, `${one.name}-positions`, "Position 1 is the first token that is predicted; later groups hold twice as many."),
        file.kinds.names.length ? means("By kind of document", file.kinds.names.map((kind, i) => `${visible(kind)} (${file.kinds.documents[i]})`), file.kinds, `${one.name}-kinds`, "A kind is an outermost folder of the corpus, with its number of documents; folders of most tokens first.") : null),
      companions(file.companions));
    return one.name;
  };
})();
