// Words with a definition: shown beside the word while it is pointed at, tapped or has the keyboard's focus.
"use strict";
explorer.terms = (() => {
  const { element } = explorer;
  const MEANINGS = {
    susceptibility: "How much a token's loss, relative to the mean loss, answers when the noise on one component's weights gives way slightly to the loss: −Cov[φ, ℓ − L]. Shown in standard deviations over tokens, from the mean token.",
    component: "A part of the model whose weights are shaken alone: an attention head, the keys and values that heads share, an MLP, the embedding or the unembedding.",
    cluster: "Tokens that lie close together, in the graph of nearest neighbours, by their susceptibilities to all components; few edges leave the set.",
    expressed: "Susceptibility below the mean token: the loss of the token rises more than the mean loss when the component is shaken. The component helps to predict it.",
    suppressed: "Susceptibility above the mean token: the loss of the token rises less than the mean loss, or falls, when the component is shaken. The component stands against it.",
    reliability: "Share of the variance over tokens that is signal and not noise of the chains: from chains, or halves of them, that share no document and no draw. 1 is certain, 0 is noise.",
    llc: "Local learning coefficient: n_beta times the mean rise of the loss when the component is shaken. Twice it counts the directions of its weights that the loss controls.",
    lossPull: "Loss pull: n_beta × curvature / localization, in the component's most curved direction. Below 1 the round Gaussian noise, not the loss, decides how far the weights move.",
    controlled: "2 LLC over the number of weights: the share of directions that the loss, not the Gaussian, controls.",
    variance: "Share of the summed variance of sampled susceptibilities over tokens, noise included: how much the losses answer to this component beside the others.",
    deviation: "Standard deviation over tokens of the sampled susceptibilities, in nats squared: what 1 means on this page.",
    response: "The response of a token without a draw, for every token: the slope of its loss along the component's response direction.",
    sampled: "The susceptibility estimated from draws of the weights; known for the ground-truth tokens only.",
    conductance: "Leaving / (leaving + staying) edge weight of the cluster: 0 is an island, 0.45 the limit.",
    reproducibility: "Largest Jaccard index with a cluster by half of the chains alone, the lesser of two halves that share nothing. From 0.5 on the cluster is found again; near 0 noise may have made it.",
  };

  // A word that opens its definition; the words of MEANINGS by their key.
  function term(text, key) {
    return element("button", { type: "button", class: "term", data: { definition: MEANINGS[key] ?? key } }, text);
  }

  const box = element("div", { id: "definition", role: "tooltip", hidden: true });
  let of = null;
  function show(node) {
    of = node;
    box.textContent = node.dataset.definition;
    box.hidden = false;
    node.setAttribute("aria-describedby", box.id);
    const place = node.getBoundingClientRect(), width = box.offsetWidth, below = place.bottom + 6;
    box.style.left = `${Math.max(8, Math.min(place.left, innerWidth - width - 8))}px`;
    box.style.top = `${below + box.offsetHeight < innerHeight ? below : Math.max(8, place.top - box.offsetHeight - 6)}px`;
  }
  function hide() {
    of?.removeAttribute("aria-describedby");
    of = null;
    box.hidden = true;
  }
  const under = (event) => event.target.closest?.("[data-definition]");
  document.body.append(box);
  for (const name of ["focusin", "pointerover", "click"]) document.addEventListener(name, (event) => { const node = under(event); if (node?.dataset.definition) show(node); else if (name === "click") hide(); });
  document.addEventListener("focusout", hide);
  document.addEventListener("pointerout", (event) => { if (of && under(event) === of && document.activeElement !== of) hide(); });
  document.addEventListener("scroll", hide, { capture: true, passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("hashchange", hide);

  // A figure of a list of facts: its name, its value and, where the name wants one, a definition.
  const fact = (name, value, key) => element("div", {}, element("dt", {}, key ? term(name, key) : name), element("dd", {}, value));
  return { term, fact, MEANINGS };
})();
