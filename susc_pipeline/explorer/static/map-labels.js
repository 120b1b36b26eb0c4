// Labels of the map: the clusters of most tokens first, none over another; they go with the points as the map moves.
"use strict";
explorer.mapLabels = (() => {
  const { element, visible } = explorer;
  const FONT = "12px system-ui, sans-serif", HEIGHT = 17, PADDING = 5, LIFT = 5; // pixels; a label stands above its point
  const ROOM = 14000; // square pixels of the map for each label

  // The labels that are shown, of those wanted in order of importance: wholly on the stage, and apart from all before them.
  // wanted: functions that give { x, y, width } (a place on the stage); the result has `left` and `top` too.
  function apart(wanted, stage) {
    const most = Math.max(3, Math.floor((stage.width * stage.height) / ROOM)), shown = [];
    for (const of of wanted) {
      if (shown.length >= most) break;
      const one = of();
      if (one.x < 0 || one.y < 0 || one.x > stage.width || one.y > stage.height || one.width > stage.width) continue;
      one.left = Math.min(Math.max(one.x - one.width / 2, 0), stage.width - one.width);
      one.top = Math.min(Math.max(one.y - HEIGHT - LIFT, 0), stage.height - HEIGHT);
      if (shown.every((other) => one.left >= other.left + other.width || other.left >= one.left + one.width || Math.abs(one.top - other.top) >= HEIGHT)) shown.push(one);
    }
    return shown;
  }

  // Where each cluster's landmark lies, and the words of the largest.
  function landmarks(file, places) {
    const [cluster, point, color] = ["cluster", "point", "color"].map((name) => explorer.numbers(file[name])), row = new Map();
    cluster.forEach((c, i) => row.set(c, i));
    return { cluster, color, row, words: file.words, at: (i) => [places[2 * point[i]], places[2 * point[i] + 1]] };
  }

  // A box of labels over the stage. Its method `place` puts them where the layer's camera has them.
  function box(found) {
    const node = element("div", { class: "maplabels", "aria-hidden": "true" }), pen = document.createElement("canvas").getContext("2d"), made = new Map();
    const label = (i) => {
      if (!made.has(i)) {
        const cluster = found.cluster[i], text = visible(found.words[i] ?? "") || `cluster ${cluster}`;
        pen.font = FONT;
        made.set(i, { node: element("span", { data: { cluster } }, element("bdi", {}, text)), width: Math.ceil(pen.measureText(text).width) + 2 * PADDING });
      }
      return made.get(i);
    };
    function place(layer, stage, marked = null) {
      const first = found.row.get(marked), rows = found.words.map((_, i) => i).filter((i) => i !== first);
      if (first !== undefined) rows.unshift(first);
      const shown = apart(rows.map((i) => () => { const [x, y] = layer.toScreen(...found.at(i)); return { i, x, y, width: label(i).width }; }), stage);
      node.replaceChildren(...shown.map(({ i, left, top, width }) => {
        const { node: one } = label(i);
        one.style.width = `${width}px`;
        one.style.transform = `translate(${left}px, ${top}px)`;
        return one;
      }));
    }
    return { node, place };
  }
  return { landmarks, box, apart, HEIGHT };
})();
