// The model's components as the page reads them: number, kind, layer and head are data; a name is only shown.
"use strict";
explorer.components = (() => {
  const all = () => explorer.site.components;
  const names = () => all().map((one) => one.name);
  const numbered = (name) => all().findIndex((one) => one.name === name);

  // What it is, in words.
  function described({ kind, layer, head }) {
    const of = { head: `attention head ${head} of layer ${layer}`, key_value: `the keys and values that the heads of group ${head} in layer ${layer} share`,
      mlp: `the MLP of layer ${layer}`, embed: "the embedding (both ends of the model, where they are tied)", unembed: "the unembedding" };
    return of[kind] ?? kind.replaceAll("_", " ");
  }

  // Row and column of each component in a layer × head picture: heads of a layer, keys and values that heads share, then the
  // MLP; what is in no layer stands below the layers or, the unembedding, above them.
  function places(components) {
    const count = (kind) => Math.max(0, ...components.filter((one) => one.kind === kind).map((one) => (one.head ?? 0) + 1));
    const groups = [["head", count("head")], ["key_value", count("key_value")], ["mlp", count("mlp")]];
    const first = {}, headings = [];
    for (const [kind, size] of groups) {
      first[kind] = headings.length;
      for (let i = 0; i < size; i++) headings.push({ kind, text: { head: `${i}`, key_value: `KV${i}`, mlp: "MLP" }[kind], wide: kind === "head" ? `head ${i}` : null });
    }
    const layers = Math.max(0, ...components.map((one) => (one.layer ?? -1) + 1));
    const below = components.filter((one) => one.layer === null && one.kind !== "unembed");
    const of = (one) => one.layer !== null ? [one.layer, first[one.kind] + (one.head ?? 0)] : one.kind === "unembed" ? [layers, 0] : [-1 - below.indexOf(one), 0];
    return { headings, layers, below: below.length, above: components.length > below.length && components.some((one) => one.kind === "unembed") ? 1 : 0, of };
  }

  const address = ({ name }) => `#/component/${encodeURIComponent(name)}`;

  // The options of a choice of component.
  const options = (value = (one) => one.name) => all().map((one, i) => explorer.element("option", { value: value(one, i) }, one.name));

  // Mean response of every cluster to one component, and half of its 95 % interval.
  async function means(number) {
    const file = await explorer.numbered("means", number, 4);
    file.decoded ??= { mean: explorer.numbers(file.mean), half: explorer.numbers(file.half) };
    return file.decoded;
  }
  return { all, names, numbered, described, places, address, options, means };
})();
