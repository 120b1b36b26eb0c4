// What one looks at: the run's title, three sentences and a picture, before the first list.
"use strict";
explorer.introduction = (() => {
  const { element, visible } = explorer;

  // A model of which one part is shaken, the losses of tokens that answer, tokens of like answers together.
  function picture() {
    const { charts, colors } = explorer, { shape, label } = charts, svg = charts.canvas(620, 118), soft = colors.token("soft");
    const answers = [[-0.9, 0.1, 0.5], [0.6, -0.5, 0], [-0.8, 0.2, 0.6], [0.7, -0.4, 0.1]], words = ["self", "return", "self", "import"];
    const square = (x, y, color, stroke = colors.token("line")) => svg.append(shape("rect", { x, y, width: 17, height: 15, rx: 2, fill: color, stroke }));
    const row = (token, x, y) => { svg.append(label(words[token], x, y + 12, { color: colors.token("ink") })); answers[token].forEach((v, k) => square(x + 46 + 20 * k, y, colors.diverging(v))); };
    const arrow = (x) => svg.append(shape("path", { d: `M${x} 62h34m-7 -5l7 5l-7 5`, fill: "none", stroke: soft, "stroke-width": 1.5 }));
    for (let l = 0; l < 4; l++) for (let h = 0; h < 4; h++) square(14 + 21 * h, 26 + 19 * l, l === 1 && h === 2 ? colors.category(1) : colors.token("panel"));
    svg.append(label("1. shake one component", 14, 14), label("2. how each token's loss answers", 186, 14), label("3. tokens of like answers", 446, 14));
    arrow(124); arrow(378);
    [0, 1, 2, 3].forEach((token, i) => row(token, 190, 26 + 21 * i));
    [0, 2].forEach((token, i) => row(token, 450, 26 + 18 * i));
    [1, 3].forEach((token, i) => row(token, 450, 75 + 18 * i));
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "One component of the model is shaken; the loss of each token answers; tokens with like answers to all components are a cluster.");
    return element("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "What is measured" }, svg);
  }

  const model = (source) => (source === "embedded" ? "the embedded model" : visible(source.split(/[\\/]/).filter(Boolean).slice(-2).join("/")));

  return () => {
    const { site, terms: { term } } = explorer, count = site.components.length;
    return element("section", { class: "introduction" },
      element("p", {}, element("strong", {}, visible(site.experiment)), `: ${model(site.model)} on ${visible(site.corpus)}, ${explorer.number(site.tokens)} tokens, ${count} components.`),
      element("p", {}, `The weights of one `, term("component", "component"), ` at a time were shaken around their trained values. A token's `, term("susceptibility", "susceptibility"),
        ` says how its loss answers: below zero the component `, term("expresses", "expressed"), " the token, above zero it ", term("suppresses", "suppressed"), " it. A ", term("cluster", "cluster"), ` holds tokens that answer alike to all ${count} components.`),
      element("details", {}, element("summary", {}, "In a picture"), picture()));
  };
})();
