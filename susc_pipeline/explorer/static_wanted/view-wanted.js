// The changes that the experiment wants: what each asks of the components, and the documents that would make it. Only where some are named.
"use strict";
(() => {
  const { element, number, visible } = explorer;
  const signed = (value) => number(value).replace("-", "−");
  const share = (value) => `${number(100 * value)} %`;

  function said(change) {
    const asked = change.components.filter((one) => one.role === "asked"), kept = change.components.filter((one) => one.role === "kept").length;
    const wants = asked.map((one) => `${visible(one.name)} by ${signed(one.wanted)} nats (predicted ${signed(one.predicted)} ± ${number(1.96 * one.standard_error)})`).join(", ");
    const clipped = change.n_clipped ? `${number(change.n_clipped)} would be below zero and are zero.` : "None had to be raised to zero.";
    return [element("p", {}, `Change the loss of ${wants}; ${kept ? `keep that of ${kept === 1 ? "one other" : `${number(kept)} others`}` : "the others may do what they will"}.`),
      element("p", { class: "note" }, `${number(change.n_documents)} documents have a weight, of mean one. ${clipped} ${share(change.reachable_share)} of the change rises above the noise; ${number(change.unclipped_share)} times the change needs no weight below zero. Intervals hold the noise of the responses, documents taken as independent, not what training adds.`)];
  }

  function components(change) {
    const columns = [{ name: "component", shown: (name) => element("a", { href: explorer.components.address({ name }) }, visible(name)) },
      { name: "role", title: "asked: its loss is to change; kept: it is to stay; free: it may do what it will" },
      { name: "wanted", title: "Change of the population's mean loss under the component's posterior, in nats", shown: (value) => (value === null ? "–" : signed(value)) },
      { name: "predicted", title: "By these weights, less what was fitted to noise; nats", shown: signed }, { name: "± 95 %", title: "1.96 standard errors" }];
    return explorer.table("What the weights do to each component", columns, change.components.map((one) => [one.name, one.role, one.wanted, one.predicted, 1.96 * one.standard_error]), { file: "wanted-components" });
  }

  function documents(caption, rows, file) {
    const link = (name) => element("a", { href: `#/document/${encodeURIComponent(name)}` }, element("bdi", {}, visible(name)));
    const columns = [{ name: "document", shown: link }, { name: "weight", title: "Of its loss in training; 1 is as it was" }, { name: "± 95 %", title: "1.96 standard errors, before clipping" }, { name: "tokens" }];
    return explorer.table(caption, columns, rows.map((row) => [row.document_id, row.weight, 1.96 * row.standard_error, row.n_tokens]), { file });
  }

  explorer.views.wanted = async (view, parts, query) => {
    const found = await explorer.load("wanted"), names = found.map((one) => one.name), below = element("div", { "aria-live": "polite" });
    const select = element("select", { "aria-label": "Wanted change" }, names.map((name) => element("option", { value: name }, visible(name))));
    select.value = names.includes(query.get("change")) ? query.get("change") : names[0];
    const draw = () => {
      const change = found[names.indexOf(select.value)];
      const lists = element("div", { class: "pair" }, documents("More of these documents", change.more, "more-documents"), documents("Less of these documents", change.less, "less-documents"), components(change));
      below.replaceChildren(...said(change), lists);
    };
    select.addEventListener("change", () => { explorer.choose(query, "change", select.value, names[0]); draw(); });
    draw();
    view.append(element("div", { class: "title" }, element("h1", {}, "Wanted changes"), element("label", { class: "inline" }, "change ", select)),
      element("p", { class: "note" }, "Which documents to weigh more, and which less, so that the losses change as the experiment asks: susceptibilities, inverted (patterning). No training process ends in these posteriors, so fine-tuning cannot test these weights."), below);
    return "Wanted changes";
  };
})();
