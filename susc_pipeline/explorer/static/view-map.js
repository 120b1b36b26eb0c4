// The map: a point is a token; near points have near susceptibilities.
"use strict";
(() => {
  const { element, number, mapColors, mapLabels } = explorer;
  const MARGIN = 8; // pixels that the hover card keeps from the edges of the window

  const decoded = async (name) => {
    const file = await explorer.load(`map/${name}`);
    return (file.decoded ??= explorer.numbers(file));
  };

  // Context and position of a point, and its line of text.
  async function describe(point) {
    const place = explorer.placeOf((await decoded("tokens"))[point]);
    return { ...place, line: await explorer.contextLine(place, null, { before: 10, after: 3 }) };
  }

  // What the address says of the map: coloured by what, which cluster is marked, and where the camera is.
  function stateOf(query) {
    const camera = (query.get("at") ?? "").split(",").map(Number), cluster = Number(query.get("cluster"));
    return { by: query.get("color") ?? "cluster", marked: query.get("cluster") && Number.isInteger(cluster) && cluster >= 0 && cluster < explorer.site.clusters ? cluster : null,
      start: camera.length === 3 && camera.every(Number.isFinite) && camera[2] > 0 ? { x: camera[0], y: camera[1], zoom: camera[2] } : null };
  }

  // The card beside the pointer: it goes along, turns to the other side where there is no room, and stays in the window.
  function hoverCard(clusters, landmarks, coloring) {
    const node = element("div", { class: "tip", role: "status", hidden: true });
    let shown = -1;
    function follow(x, y) {
      const { width, height } = node.getBoundingClientRect(), low = y + 14 + height + MARGIN > innerHeight ? y - 14 - height : y + 14;
      node.style.left = `${Math.max(MARGIN, Math.min(x + 14, document.documentElement.clientWidth - width - MARGIN))}px`;
      node.style.top = `${Math.max(MARGIN, Math.min(low, innerHeight - height - MARGIN))}px`;
    }
    function hide() { shown = -1; node.hidden = true; }
    async function tell(point, x, y) {
      if (point < 0) { hide(); return; }
      if (point !== shown) {
        shown = point;
        const { line } = await describe(point);
        if (shown !== point) return;
        const cluster = clusters[point], found = coloring(), words = landmarks.words[landmarks.row.get(cluster)];
        node.replaceChildren(element("strong", {}, cluster >= 0 ? `cluster ${cluster}` : "in no cluster", found ? `, ${found.name} ${explorer.fixed(found.values[point], 2)}` : ""),
          words ? element("span", {}, ": ", element("bdi", {}, explorer.visible(words))) : "", element("ol", { class: "lines small" }, line));
        node.hidden = false;
      }
      follow(x, y);
    }
    return { node, tell, hide };
  }

  // What some points are: how many of which clusters, and a dozen of them in context.
  async function about(side, clusters, marked, points = null) {
    const chosen = points ?? (marked === null ? [] : Array.from(clusters.keys()).filter((i) => clusters[i] === marked));
    if (!chosen.length) {
      side.replaceChildren(element("p", { class: "note" }, marked !== null && !points ? `Cluster ${marked} has no token on the map.` : "Point at a token to read it; choose it to open its text. With the lasso, enclose some to see what they are."));
      return;
    }
    const counts = new Map();
    for (const p of chosen) counts.set(clusters[p], (counts.get(clusters[p]) ?? 0) + 1);
    const listed = [...counts].filter(([c]) => c >= 0).sort((a, b) => b[1] - a[1]).slice(0, 12);
    const shown = chosen.length <= 12 ? chosen : Array.from({ length: 12 }, (_, i) => chosen[Math.floor(((i + 0.5) * chosen.length) / 12)]);
    side.replaceChildren(element("h2", {}, `${number(chosen.length)} tokens`),
      element("p", {}, listed.flatMap(([c, n]) => [element("a", { class: "chip", href: `#/cluster/${c}` }, `${c}`, element("small", {}, ` ×${number(n)}`)), " "]), counts.has(-1) ? element("small", {}, `${number(counts.get(-1))} in none`) : null),
      element("ol", { class: "lines small" }, (await Promise.all(shown.map(describe))).map((d) => d.line)));
  }

  // The line that the lasso has drawn.
  function outline(over, lasso) {
    over.width = over.clientWidth; over.height = over.clientHeight;
    const pen = over.getContext("2d");
    if (!lasso?.length) return;
    pen.beginPath();
    lasso.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.closePath();
    pen.strokeStyle = explorer.colors.token("ink"); pen.lineWidth = 1.5; pen.setLineDash([4, 3]); pen.stroke();
  }

  // Pointer: drags pan or draw the lasso, a point is told when pointed at and opened when chosen.
  function answerToPointer(map) {
    const { canvas, over, card } = map;
    const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    let grabbed = null, moved = false, lasso = null;
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); grabbed = at(event); moved = false; lasso = map.lassoing ? [grabbed] : null; });
    canvas.addEventListener("pointermove", async (event) => {
      const [x, y] = at(event);
      if (!grabbed) { await card.tell(map.layer.nearest(x, y), event.clientX, event.clientY); return; }
      if (Math.hypot(x - grabbed[0], y - grabbed[1]) > 3) moved = true;
      if (lasso) { lasso.push([x, y]); outline(over, lasso); }
      else if (moved) { card.hide(); map.layer.pan(x - grabbed[0], y - grabbed[1]); grabbed = [x, y]; }
    });
    canvas.addEventListener("pointerup", async (event) => {
      const [x, y] = at(event), point = moved ? -1 : map.layer.nearest(x, y), touched = event.pointerType === "touch";
      grabbed = null;
      if (lasso?.length > 2) { await map.tell(map.layer.inside(lasso)); return; }
      if (moved) return;
      card.node.classList.toggle("touched", touched);
      if (touched) await card.tell(point, event.clientX, event.clientY); // a finger cannot point without choosing: its card first, whose token leads on
      else if (point >= 0) { const { context, position } = await describe(point); location.hash = `#/text/${context}/${position}`; }
    });
    canvas.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") card.hide(); });
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); card.hide(); map.layer.zoom(Math.exp(-event.deltaY / 300), ...at(event)); }, { passive: false });
  }
  function answerToKeys({ canvas, layer }) {
    const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    canvas.addEventListener("keydown", (event) => {
      const middle = [canvas.clientWidth / 2, canvas.clientHeight / 2];
      if (event.key in moves) layer.pan(...moves[event.key]);
      else if (event.key === "+" || event.key === "=") layer.zoom(1.3, ...middle);
      else if (event.key === "-") layer.zoom(1 / 1.3, ...middle);
      else if (event.key === "0") layer.home();
      else return;
      event.preventDefault();
    });
  }

  function buttons(map) {
    const button = (text, properties) => element("button", { type: "button", ...properties }, text);
    const lasso = button("lasso", { "aria-pressed": "false", onclick: () => { map.lassoing = !map.lassoing; lasso.setAttribute("aria-pressed", String(map.lassoing)); map.canvas.classList.toggle("lassoing", map.lassoing); } });
    const closer = (factor, text, title) => button(text, { "aria-label": title, onclick: () => map.layer.zoom(factor, map.canvas.clientWidth / 2, map.canvas.clientHeight / 2) });
    const png = button("PNG", { class: "quiet", onclick: () => { map.layer.render(); map.canvas.toBlob((blob) => explorer.table.save("map.png", blob, "image/png")); } });
    return [lasso, closer(1.5, "+", "Closer"), closer(1 / 1.5, "−", "Farther"), button("all", { onclick: () => map.layer.home() }), png];
  }

  // Make the layer once the canvas is on the page; from then on the address follows the camera.
  function show(view, map, places, query, start) {
    const moved = (atRest) => {
      map.labels.place(map.layer, { width: map.canvas.clientWidth, height: map.canvas.clientHeight }, map.state.marked);
      if (!atRest || !view.isConnected) return;
      const { x, y, zoom } = map.layer.camera;
      explorer.choose(query, "at", map.layer.isHome() ? null : [x, y, zoom].map((v) => Number(v.toPrecision(6))).join(","), null);
    };
    map.layer = explorer.points.layer(map.canvas, places, { moved, start });
    if (!map.layer) { map.side.replaceChildren(element("p", { class: "note" }, "This browser has no WebGL 2, which the map needs; the other views work without it.")); return; }
    explorer.map = map.layer;
    map.layer.resize();
    new ResizeObserver(() => map.layer.resize()).observe(map.canvas);
    answerToPointer(map);
    answerToKeys(map);
    map.paint();
    map.tell();
  }

  explorer.views.map = async (view, parts, query) => {
    const { site } = explorer, { start, ...state } = stateOf(query), coloring = state.by === "cluster" ? null : explorer.load(`map/${state.by.replace(/\d+$/, (n) => n.padStart(4, "0"))}`).catch(() => null);
    const [places, clusters, file] = await Promise.all([decoded("places"), decoded("clusters"), explorer.load("map/landmarks"), coloring]);
    const landmarks = mapLabels.landmarks(file, places), count = clusters.length;
    const legend = element("div", { class: "note legend" }), side = element("div", { class: "side" });
    const map = { state, side, lassoing: false, layer: null, over: element("canvas", { class: "over", "aria-hidden": "true" }),
      canvas: element("canvas", { class: "points", tabIndex: 0, role: "application" }) };
    let found = null;
    map.labels = mapLabels.box(landmarks);
    map.card = hoverCard(clusters, landmarks, () => found);
    map.tell = (points) => about(side, clusters, state.marked, points);
    const select = mapColors.select(state.by, (by) => { state.by = by; explorer.choose(query, "color", by, "cluster"); map.paint(); });
    state.by = select.value;
    map.paint = async () => {
      const asked = { ...state }, painted = await mapColors.painted(asked, clusters, landmarks);
      if (asked.by !== state.by || asked.marked !== state.marked) return; // chosen anew meanwhile
      found = painted.found;
      legend.replaceChildren(...painted.legend);
      map.canvas.setAttribute("aria-label", `Map of ${number(count)} tokens, coloured by ${state.marked === null ? found?.name ?? "cluster" : `whether they are in cluster ${state.marked}`}. Arrows pan, plus and minus zoom, zero shows all.`);
      map.layer.paint(painted.colors, mapColors.paper());
    };
    const field = element("input", { type: "number", min: 0, max: site.clusters - 1, placeholder: "cluster", "aria-label": "Cluster to mark", value: state.marked ?? "", oninput: (event) => {
      const number = Number(event.target.value);
      state.marked = event.target.value !== "" && Number.isInteger(number) && number >= 0 && number < site.clusters ? number : null;
      explorer.choose(query, "cluster", state.marked, null); map.paint(); map.tell();
    } });
    view.append(element("div", { class: "title" }, element("h1", {}, "Map"), element("span", { class: "pager" }, element("label", { class: "inline" }, "colour by ", select), field, buttons(map))),
      element("p", { class: "note" }, count < site.tokens ? `A random ${number(count)} of ${number(site.tokens)} tokens. ` : `All ${number(count)} tokens. `, "UMAP of the graph that the clusters come from: nearness means something, far distances and the size of islands nothing. Labels: the clusters of most tokens here; the closer, the more."), legend,
      element("div", { class: "mapbox" }, element("div", { class: "stage" }, map.canvas, map.over, map.labels.node, map.card.node), side));
    view.addEventListener("shown", () => show(view, map, places, query, start), { once: true });
    return "Map";
  };
})();
