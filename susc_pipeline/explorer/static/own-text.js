// Text of one's own: the server measures it, this page keeps it. It is in the page's memory and, for a reload, in the entry of
// the history; in the address only when that is asked for.
"use strict";
explorer.ownText = (() => {
  const kept = new Map(), measured = new Map();
  let latest = null, drafts = [""], drafted = "", asking = null;

  // A key for the address, under which the texts are kept.
  function keep(texts) {
    latest = `${Date.now().toString(36)}${kept.size}`;
    kept.set(latest, texts);
    drafted = JSON.stringify(texts);
    return latest;
  }

  // The texts that an address means: its own, those of its entry in the history, else the latest.
  function of(query) {
    const named = query.has("a") ? query.getAll("a").concat(query.getAll("b")).slice(0, 2) : null;
    const key = query.get("t"), texts = named ?? kept.get(key) ?? (key ? history.state?.own : kept.get(latest)) ?? null;
    if (texts && key && !kept.has(key)) kept.set(key, texts);
    if (key && texts) latest = key;
    if (texts && JSON.stringify(texts) !== drafted) { drafts = texts.slice(); drafted = JSON.stringify(texts); } // what is being written stays
    if (texts && !named) history.replaceState({ ...history.state, own: texts }, "");
    return texts;
  }

  async function* lines(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const part of parts) yield JSON.parse(part);
    }
  }

  const known = (texts) => measured.get(JSON.stringify(texts));

  // What the server measures of one or two texts; told how far it is.
  async function measure(texts, told) {
    if (known(texts)) return known(texts);
    asking?.abort();
    const own = (asking = new AbortController());
    let response;
    try {
      response = await fetch("live", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ texts }), signal: own.signal });
    } catch (error) {
      throw explorer.expected(own.signal.aborted ? "Another text is being measured." : "The server does not answer; is it still running?");
    }
    if (!response.ok) throw explorer.expected((await response.json().catch(() => ({}))).error ?? `The server refused the text (${response.status}).`);
    for await (const answer of lines(response.body)) {
      if (answer.error) throw explorer.expected(answer.error);
      if (!answer.result) { told(answer); continue; }
      const found = { ...answer.result, texts: answer.result.texts.map(decoded) };
      measured.set(JSON.stringify(texts), found);
      if (measured.size > 20) measured.delete(measured.keys().next().value);
      return found;
    }
    throw explorer.expected("The server ended before the text was measured.");
  }

  function decoded(text) {
    const halved = ({ value, half_difference }) => ({ value: explorer.numbers(value), half: explorer.numbers(half_difference) });
    const near = (one, name) => one[name].map((row, i) => row.map((number, k) => ({ number, distance: one.decoded[i * row.length + k] })));
    const unpack = (one) => ({ ...one, decoded: explorer.numbers(one.distances) });
    return { tokens: text.tokens, losses: explorer.numbers(text.losses), responses: halved(text.responses), scores: halved(text.scores), cluster: text.cluster,
      near: near(unpack(text.near), "tokens"), clusters: near(unpack(text.clusters), "numbers") };
  }

  // A token's value and half of the difference of the halves, with its sign, by what the text is coloured by; token 0 has none.
  function value(text, token, by) {
    const [kind, index] = by.split("-"), row = token - 1;
    if (kind === "loss") return { value: text.losses[row], half: 0 };
    const one = kind === "pc" ? text.scores : text.responses, width = one.value.length / text.losses.length, at = row * width + Number(index);
    return { value: one.value[at], half: one.half[at] };
  }
  const vector = (one, token) => { const width = explorer.site.components.length, from = (token - 1) * width; return { value: Array.from(one.value.subarray(from, from + width)), half: Array.from(one.half.subarray(from, from + width)) }; };

  // The token of the first text with which a token of the second is compared, or null.
  function partner(found, token) {
    const row = found.pairs.second.indexOf(token);
    return row < 0 || token === 0 || found.pairs.first[row] === 0 ? null : found.pairs.first[row];
  }
  return { keep, of, known, measure, value, vector, partner, get drafts() { return drafts; }, set drafts(texts) { drafts = texts; }, get latest() { return latest; } };
})();
