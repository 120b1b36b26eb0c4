// Where a word or a phrase stands in the text of the corpus, in a cluster or not.
"use strict";
explorer.textWords = (() => {
  const { element, number, visible } = explorer;
  const FIRST = 10, MORE = 40, CHECKED = 200;
  const WORD = /[\p{L}\p{N}\p{M}_]+|[^\p{L}\p{N}\p{M}_\s]+/gu; // as word_index.py has it

  // Of some tokens, those at which the phrase begins.
  async function withPhrase(tokens, phrase) {
    const wanted = phrase.toLowerCase().replace(/\s+/g, " "), found = [];
    for (const token of tokens.slice(0, CHECKED)) {
      const { context, position } = explorer.placeOf(token), { tokens: ids } = await explorer.contextOf(context);
      const text = Array.from(ids.subarray(Math.max(0, position - 1)), explorer.tokenText).join("").toLowerCase().replace(/\s+/g, " ");
      const start = text.indexOf(wanted), ahead = explorer.tokenText(ids[position - 1]).length + explorer.tokenText(ids[position]).length;
      if (start >= 0 && start < ahead) found.push(token);
    }
    return { found, cut: tokens.length > CHECKED };
  }

  // The tokens at which a text stands: how many, in clusters how many, and those that are listed.
  async function lookUp(text, entries) {
    const key = text.replace(/^\s+|\s+$/g, "").toLowerCase() || text, parts = key.match(WORD) ?? [];
    const { found } = await entries("words", key), exact = found.find(([one]) => one === key);
    if (exact || parts.length < 2) return { key, count: exact?.[1] ?? 0, clustered: exact?.[2] ?? 0, tokens: exact?.[3] ?? [], longer: found.filter(([one]) => one !== key).sort((a, b) => b[1] - a[1]), sampled: (exact?.[1] ?? 0) > (exact?.[3].length ?? 0) };
    const first = (await entries("words", parts[0])).found.find(([one]) => one === parts[0]);
    const { found: tokens, cut } = await withPhrase(first?.[3] ?? [], key);
    return { key, count: tokens.length, clustered: null, tokens, longer: [], sampled: Boolean(first) && (cut || first[1] > first[3].length) };
  }

  async function line(token) {
    const place = explorer.placeOf(token), one = await explorer.contextLine(place, null, { before: 16, after: 6 }), { clusters } = await explorer.contextOf(place.context), cluster = clusters[place.position - 1];
    one.querySelector(".loss").replaceWith(element("span", { class: "loss", title: cluster >= 0 ? "its cluster" : "in no cluster" }, cluster >= 0 ? element("a", { href: `#/cluster/${cluster}` }, `${cluster}`) : "–"));
    return one;
  }

  function said({ count, clustered, tokens, sampled }) {
    if (clustered === null) return `${number(count)} ${sampled ? "among the places tried; there may be more" : count === 1 ? "place" : "places"}.`;
    return `${number(count)} ${count === 1 ? "place" : "places"}, ${number(clustered)} in a cluster.${sampled ? ` Listed are ${number(tokens.length)} of them, drawn from the whole text.` : ""} At the right the cluster.`;
  }

  async function section(text, entries) {
    const found = await lookUp(text, entries), list = element("ol", { class: "lines small occurrences" }), more = element("button", { type: "button" }, "more");
    let shown = 0;
    const add = async (size) => { const part = found.tokens.slice(shown, shown + size); shown += part.length; more.hidden = shown >= found.tokens.length; list.append(...await Promise.all(part.map(line))); };
    more.addEventListener("click", () => add(MORE));
    await add(FIRST);
    const longer = found.longer.slice(0, 24).flatMap(([key, count]) => [element("a", { class: "chip", href: `#/search?q=${encodeURIComponent(key)}` }, element("bdi", {}, visible(key)), element("small", {}, ` ×${number(count)}`)), " "]);
    return element("section", {}, element("h2", {}, `In the text (${number(found.count)})`), element("p", { class: "note" }, found.count ? said(found) : "Nowhere as a word of its own. A word is letters, digits and underscores, or other signs, in any case; the first token of a context is not counted."), list, more,
      longer.length ? element("p", {}, "Longer words: ", longer) : null);
  }
  return { section };
})();
