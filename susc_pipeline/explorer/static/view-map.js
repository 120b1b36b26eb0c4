// The map: a point is a token; near points have near susceptibilities.
"use strict";
(() => {
  const { element, number, visible } = explorer;

  explorer.views.map = async (view, parts, query) => {
    const { site, colors } = explorer;
    const [places, tokens, clusters] = await Promise.all(["places", "tokens", "clusters"].map(async (name) => {
      const file = await explorer.load(`map/${name}`);
      return (file.decoded ??= explorer.numbers(file));
    }));
    const count = tokens.length;
    const canvas = element("canvas", { class: "points", tabIndex: 0, role: "application", "aria-label": `Map of ${number(count)} tokens. Arrows pan, plus and minus zoom, zero shows all.` });
    const over = element("canvas", { class: "over", "aria-hidden": "true" });
    const tip = element("div", { class: "tip", role: "status" }), side = element("div", { class: "side" }), legend = element("div", { class: "note legend" });
    let by = query.get("color") ?? "cluster", marked = query.has("cluster") ? Number(query.get("cluster")) : null, lasso = null, lassoing = false, layer = null;

    const select = element("select", { "aria-label": "Colour by" }, element("option", { value: "cluster" }, "cluster"),
      element("optgroup", { label: `component (${visible(site.source)})` }, explorer.components.options((_, i) => `component-${i}`)),
      element("optgroup", { label: "principal component" }, Array.from({ length: site.pcs }, (_, i) => element("option", { value: `pc-${i}` }, `PC${i + 1}`))));
    select.value = by;
    if (select.selectedIndex < 0) { by = "cluster"; select.value = by; }
    select.addEventListener("change", () => { by = select.value; if (by === "cluster") query.delete("color"); else query.set("color", by); explorer.remember(query); paint(); });
    const field = element("input", { type: "number", min: 0, max: site.clusters - 1, placeholder: "cluster", "aria-label": "Cluster to mark", value: marked ?? "", oninput: (e) => {
      marked = e.target.value === "" ? null : Number(e.target.value);
      if (marked === null) query.delete("cluster"); else query.set("cluster", marked);
      explorer.remember(query); paint(); about();
    } });
    const lassoButton = element("button", { type: "button", "aria-pressed": "false", onclick: () => { lassoing = !lassoing; lassoButton.setAttribute("aria-pressed", String(lassoing)); canvas.classList.toggle("lassoing", lassoing); } }, "lasso");
    const home = element("button", { type: "button", onclick: () => layer.home() }, "all");
    const closer = (factor, text, title) => element("button", { type: "button", "aria-label": title, onclick: () => layer.zoom(factor, canvas.clientWidth / 2, canvas.clientHeight / 2) }, text);
    const png = element("button", { type: "button", class: "quiet", onclick: () => { layer.render(); canvas.toBlob((blob) => explorer.table.save("map.png", blob, "image/png")); } }, "PNG");

    // The number by which points are coloured, its name, and where its colours end; none of these by cluster.
    let values = null, limit = 0, named = "";
    async function choose() {
      const [kind, index] = by.split("-");
      values = null;
      if (kind === "cluster") { legend.replaceChildren("Colours repeat; a grey token is in no cluster."); return; }
      const file = await explorer.load(`map/${kind}-${index.padStart(4, "0")}`);
      values = file.decoded ??= explorer.numbers(file);
      limit = kind === "pc" ? 3 * site.basis.scores[Number(index)] : 3;
      named = kind === "pc" ? `PC${Number(index) + 1}` : site.components[Number(index)].name;
      legend.replaceChildren(explorer.charts.colorBar({ limit, unit: kind === "pc" ? `score on ${named}` : `${named} by ${visible(site.source)}, standard deviations` }));
    }
    async function paint() {
      await choose();
      const found = new Uint8Array(4 * count), dim = channels(colors.token("dim"));
      const put = (i, [r, g, b], a) => { found[4 * i] = r; found[4 * i + 1] = g; found[4 * i + 2] = b; found[4 * i + 3] = a; };
      if (marked !== null) {
        const strong = colors.categoryChannels(1);
        for (let i = 0; i < count; i++) { if (clusters[i] === marked) put(i, strong, 255); else put(i, dim, 128); }
      } else if (by === "cluster") {
        const made = new Map();
        for (let i = 0; i < count; i++) {
          const c = clusters[i];
          if (c < 0) { put(i, dim, 128); continue; }
          if (!made.has(c % 24)) made.set(c % 24, colors.categoryChannels(c % 24));
          put(i, made.get(c % 24), 200);
        }
      } else {
        const ramp = Array.from({ length: 201 }, (_, k) => colors.divergingChannels((k - 100) / 100));
        for (let i = 0; i < count; i++) put(i, ramp[Math.round(100 + 100 * Math.max(-1, Math.min(1, values[i] / limit)))], 200);
      }
      layer?.paint(found, channels(colors.token("paper")));
    }
    const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

    async function describe(point) {
      const width = site.positions - 1, context = Math.floor(tokens[point] / width), position = (tokens[point] % width) + 1;
      return { line: await explorer.contextLine({ context, position }, null, { before: 10, after: 3 }), context, position };
    }
    async function about(points = null) {
      const chosen = points ?? (marked === null ? [] : Array.from({ length: count }, (_, i) => i).filter((i) => clusters[i] === marked));
      if (!chosen.length) {
        side.replaceChildren(element("p", { class: "note" }, marked !== null && !points ? `Cluster ${marked} has no token on the map.` : "Point at a token to read it; choose it to open its text. With the lasso, enclose some to see what they are."));
        return;
      }
      const counts = new Map();
      for (const p of chosen) counts.set(clusters[p], (counts.get(clusters[p]) ?? 0) + 1);
      const listed = [...counts].filter(([c]) => c >= 0).sort((a, b) => b[1] - a[1]).slice(0, 12);
      const shown = chosen.length <= 12 ? chosen : Array.from({ length: 12 }, (_, i) => chosen[Math.floor(((i + 0.5) * chosen.length) / 12)]);
      side.replaceChildren(element("h2", {}, `${number(chosen.length)} tokens`),
        element("p", {}, listed.flatMap(([c, n]) => [element("a", { class: "chip", href: `#/cluster/${c}` }, `${c}`, element("small", {}, ` ×${n}`)), " "]), counts.has(-1) ? element("small", {}, `${number(counts.get(-1))} in none`) : null),
        element("ol", { class: "lines small" }, (await Promise.all(shown.map(describe))).map((d) => d.line)));
    }
    function outline() {
      over.width = over.clientWidth; over.height = over.clientHeight;
      const pen = over.getContext("2d");
      pen.clearRect(0, 0, over.width, over.height);
      if (!lasso?.length) return;
      pen.beginPath();
      lasso.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.closePath();
      pen.strokeStyle = colors.token("ink"); pen.lineWidth = 1.5; pen.setLineDash([4, 3]); pen.stroke();
    }
    const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    let grabbed = null, moved = false, hovered = -1;
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); grabbed = at(event); moved = false; if (lassoing) { lasso = [grabbed]; } });
    canvas.addEventListener("pointermove", async (event) => {
      const [x, y] = at(event);
      if (grabbed) {
        if (Math.hypot(x - grabbed[0], y - grabbed[1]) > 3) moved = true;
        if (lassoing) { lasso.push([x, y]); outline(); }
        else if (moved) { layer.pan(x - grabbed[0], y - grabbed[1]); grabbed = [x, y]; }
        return;
      }
      await tell(layer.nearest(x, y), x, y);
    });
    // What a point is, beside it.
    async function tell(point, x, y) {
      if (point === hovered) return;
      hovered = point;
      tip.hidden = point < 0;
      if (point < 0) return;
      const { line } = await describe(point);
      if (hovered !== point) return;
      tip.replaceChildren(element("strong", {}, clusters[point] >= 0 ? `cluster ${clusters[point]}` : "in no cluster", values ? `, ${named} ${explorer.fixed(values[point], 2)}` : ""), element("ol", { class: "lines small" }, line));
      tip.style.left = `${Math.min(x + 14, Math.max(0, canvas.clientWidth - 330))}px`;
      tip.style.top = `${y + 14}px`;
    }
    canvas.addEventListener("pointerup", async (event) => {
      const [x, y] = at(event);
      if (lassoing && lasso?.length > 2) { about(layer.inside(lasso)); }
      else if (!moved) {
        const point = layer.nearest(x, y), touched = event.pointerType === "touch";
        tip.classList.toggle("touched", touched);
        if (touched) { hovered = -1; await tell(point, x, y); } // a finger cannot point without choosing: its card first, whose token leads on
        else if (point >= 0) { const width = site.positions - 1; location.hash = `#/text/${Math.floor(tokens[point] / width)}/${(tokens[point] % width) + 1}`; }
      }
      grabbed = null;
    });
    canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "touch") return; hovered = -1; tip.hidden = true; });
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); layer.zoom(Math.exp(-event.deltaY / 300), ...at(event)); }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const middle = [canvas.clientWidth / 2, canvas.clientHeight / 2];
      const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
      if (event.key in moves) layer.pan(...moves[event.key]);
      else if (event.key === "+" || event.key === "=") layer.zoom(1.3, ...middle);
      else if (event.key === "-") layer.zoom(1 / 1.3, ...middle);
      else if (event.key === "0") layer.home();
      else return;
      event.preventDefault();
    });
    view.append(element("div", { class: "title" }, element("h1", {}, "Map"), element("span", { class: "pager" }, element("label", { class: "inline" }, "colour by ", select), field, lassoButton, closer(1.5, "+", "Closer"), closer(1 / 1.5, "−", "Farther"), home, png)),
      element("p", { class: "note" }, count < site.tokens ? `A random ${number(count)} of ${number(site.tokens)} tokens. ` : `All ${number(count)} tokens. `, "UMAP of the graph that the clusters come from: nearness means something, far distances and the size of islands nothing."), legend,
      element("div", { class: "mapbox" }, element("div", { class: "stage" }, canvas, over, tip), side));
    tip.hidden = true;
    view.addEventListener("shown", () => {
      layer = explorer.points.layer(canvas, places);
      if (!layer) { side.replaceChildren(element("p", { class: "note" }, "This browser has no WebGL 2, which the map needs; the other views work without it.")); return; }
      explorer.map = layer;
      layer.resize();
      new ResizeObserver(() => layer.resize()).observe(canvas);
      paint();
      about();
    }, { once: true });
    return "Map";
  };
})();
