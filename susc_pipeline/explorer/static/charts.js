// Pictures as SVG with their colours written into them, so that a saved file looks as it does on the page.
"use strict";
explorer.charts = (() => {
  const { element, colors } = explorer;
  const SPACE = "http://www.w3.org/2000/svg";
  const FONT = "system-ui, sans-serif";

  function shape(tag, attributes = {}, ...children) {
    const node = document.createElementNS(SPACE, tag);
    for (const [key, value] of Object.entries(attributes)) if (value !== undefined && value !== null) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  const hint = (text) => shape("title", {}, text);
  function label(text, x, y, { anchor = "start", size = 11, color = colors.token("soft"), turn = 0, weight } = {}) {
    return shape("text", { x, y, "text-anchor": anchor, "font-size": size, "font-family": FONT, fill: color, "font-weight": weight,
      transform: turn ? `rotate(${turn} ${x} ${y})` : null }, text);
  }

  // A figure with its caption and the buttons that save it.
  function figure(caption, svg, { name = "picture", note = null } = {}) {
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", caption);
    const buttons = ["SVG", "PNG"].map((kind) => element("button", { type: "button", class: "quiet", onclick: () => save(svg, name, kind) }, kind));
    return element("figure", {}, element("figcaption", {}, element("span", {}, caption), element("span", {}, buttons)),
      element("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": caption }, svg), note ? element("p", { class: "note" }, note) : null);
  }

  function save(svg, name, kind) {
    const copy = svg.cloneNode(true);
    const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    copy.setAttribute("xmlns", SPACE);
    copy.prepend(shape("rect", { width, height, fill: colors.token("paper") }));
    const text = new XMLSerializer().serializeToString(copy);
    if (kind === "SVG") { explorer.table.save(`${name}.svg`, text, "image/svg+xml"); return; }
    const image = new Image();
    image.onload = () => {
      const canvas = element("canvas", { width: 2 * width, height: 2 * height });
      canvas.getContext("2d").drawImage(image, 0, 0, 2 * width, 2 * height);
      canvas.toBlob((blob) => explorer.table.save(`${name}.png`, blob, "image/png"));
    };
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  }

  function canvas(width, height) {
    return shape("svg", { viewBox: `0 0 ${width} ${height}`, width, height });
  }

  // Five or so round numbers that span low ... high.
  function ticks(low, high, count = 5) {
    const raw = (high - low) / count || 1, unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * unit).find((s) => s >= raw * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found;
  }
  // The same range, with ends on round numbers.
  function rounded([low, high]) {
    const found = ticks(low, high, 4), step = found.length > 1 ? found[1] - found[0] : 1;
    return [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step];
  }
  const short = (v) => (Math.abs(v) >= 1000 ? v.toLocaleString("en", { notation: "compact" }) : String(Number(v.toPrecision(3)))).replace("-", "−");

  // Axes of a panel, and the functions from values to places in it.
  function panel(svg, { x, y, width, height, xDomain, yDomain, xLabel, yLabel, xTicks, xNames = null }) {
    const px = (v) => x + ((v - xDomain[0]) / (xDomain[1] - xDomain[0] || 1)) * width;
    const py = (v) => y + height - ((v - yDomain[0]) / (yDomain[1] - yDomain[0] || 1)) * height;
    const line = colors.token("line");
    for (const v of ticks(...yDomain, 4)) {
      svg.append(shape("line", { x1: x, x2: x + width, y1: py(v), y2: py(v), stroke: line, "stroke-width": 1 }), label(short(v), x - 6, py(v) + 4, { anchor: "end" }));
    }
    for (const v of xTicks ?? ticks(...xDomain, Math.max(2, Math.round(width / 70)))) svg.append(label(xNames ? xNames(v) : short(v), px(v), y + height + 15, { anchor: "middle" }));
    if (xLabel) svg.append(label(xLabel, x + width / 2, y + height + 32, { anchor: "middle" }));
    if (yLabel) svg.append(label(yLabel, x - 42, y + height / 2, { anchor: "middle", turn: -90 }));
    return { px, py };
  }

  // The end of a scale that holds all values; pictures side by side share one.
  const largest = (values) => Math.max(...values.filter(Number.isFinite).map(Math.abs), 1e-9);

  // A bar of a colour scale with its ends, from -limit where it is signed.
  function scaleBar(svg, x, y, width, { signed, limit, unit, format = short }) {
    const steps = 40, color = (t) => (signed ? colors.divergingChannels(t) : colors.sequentialChannels(t));
    for (let i = 0; i < steps; i++) svg.append(shape("rect", { x: x + (i * width) / steps, y, width: width / steps + 0.5, height: 9, fill: colors.text(color(signed ? (2 * (i + 0.5)) / steps - 1 : (i + 0.5) / steps)) }));
    svg.append(label(signed ? `−${format(limit)}` : "0", x, y + 22), label(format(limit), x + width, y + 22, { anchor: "end" }), label(unit, x, y + 36));
    if (signed) svg.append(label("0", x + width / 2, y + 22, { anchor: "middle" }));
  }
  // The same by itself, as the legend of a list, a text or a map.
  function colorBar({ signed = true, limit, unit, format = short }) {
    const svg = canvas(Math.max(220, 6.4 * unit.length), 40);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `Colours from ${signed ? `−${format(limit)}` : 0} to ${format(limit)} ${unit}`);
    svg.classList.add("colorbar");
    scaleBar(svg, 2, 2, 200, { signed, limit, unit, format });
    return svg;
  }

  // A number for each component as a layer x head picture; the bar in a cell is its 95 % interval on the cell's own scale.
  // With `href` a cell is a link.
  function heatmap(components, values, errors, { signed = true, unit = "", caption, name, href = null, format = (v) => explorer.fixed(v, 2), errorMeaning = "95 %", limit = largest(values) } = {}) {
    const { headings, layers, below, above, of } = explorer.components.places(components);
    const large = headings.length <= 7, columns = Math.max(large ? 2 : 4, headings.length);
    const cw = large ? 62 : Math.max(20, Math.min(30, 560 / columns)), ch = large ? 34 : 20, left = 40, top = 22;
    const width = left + columns * cw + 14, height = top + (layers + below + above) * ch + 54;
    const svg = canvas(Math.max(width, 300, 6.4 * unit.length + left), height);
    headings.forEach(({ kind, text, wide }, i) => { if (large || kind !== "head" || i % 4 === 0) svg.append(label((large && wide) || text, left + (i + 0.5) * cw, 14, { anchor: "middle" })); });
    for (let l = 0; l < layers; l++) if (large || l % 2 === 0) svg.append(label(`L${l}`, left - 8, top + (layers - 1 + above - l + 0.5) * ch + 4, { anchor: "end" }));
    const color = (v) => (signed ? colors.divergingChannels(v / limit) : colors.sequentialChannels(v / limit));
    components.forEach((component, i) => {
      const value = values[i], error = errors?.[i];
      if (!Number.isFinite(value)) return;
      const [row, column] = of(component), outer = component.layer === null, channels = color(value);
      const told = `${component.name}: ${format(value)}${Number.isFinite(error) ? ` ± ${format(1.96 * error)} (${errorMeaning})` : ""} ${unit}`;
      const at = { x: left + column * cw, y: top + (layers - 1 + above - row) * ch, w: outer ? (large ? 2 : 4) * cw : cw, h: ch };
      const text = large || outer ? (outer ? `${component.name} ${format(value)}` : format(value)) : null;
      const half = Number.isFinite(error) ? Math.min(1, (1.96 * error) / limit) : null;
      svg.append(cell(at, { told, text, half, channels, size: large ? 12 : 9, href: href?.(component) }));
    });
    scaleBar(svg, left, height - 40, Math.min(200, width - left - 60), { signed, limit, unit, format: (v) => (signed ? short(v) : format(v)) });
    const found = figure(caption, svg, { name, note: errors ? `The bar in a cell is ± the error (${errorMeaning}), as long as the cell for ± ${short(limit)}.` : null });
    if (href) svg.setAttribute("role", "group"); // a picture may hold no link
    return found;
  }
  function cell({ x, y, w, h }, { told, text, half, channels, size, href }) {
    const tone = colors.ink(channels), group = href ? shape("a", { href, "aria-label": told }) : shape("g");
    group.append(hint(told), shape("rect", { x: x + 0.5, y: y + 0.5, width: w - 1, height: h - 1, fill: colors.text(channels), rx: 2 }));
    if (text) group.append(label(text, x + w / 2, y + (half === null ? h / 2 + 4 : h > 30 ? 15 : 11), { anchor: "middle", color: tone, size }));
    if (half !== null) {
      const reach = half * (w / 2 - 4), cy = y + h - (h > 30 ? 8 : text ? 4 : 9);
      group.append(shape("line", { x1: x + w / 2 - reach, x2: x + w / 2 + reach, y1: cy, y2: cy, stroke: tone, "stroke-width": 1.5, opacity: 0.75 }));
    }
    return group;
  }

  // Values with 95 % intervals, one column for each name; further series as other marks.
  function intervals(names, series, { caption, name, yLabel, width = 760, zero = true } = {}) {
    const left = 56, inner = Math.max(width, names.length * 13 + left + 10) - left - 10;
    const legend = legendPlaces(series, inner), top = 10 + 15 * (1 + Math.max(...legend.map((p) => p.row)));
    const foot = 14 + 5.2 * Math.max(6, ...names.map((n) => Math.min(n.length, 24))), height = 164 + top + foot;
    const svg = canvas(left + inner + 10, height);
    const ends = series.flatMap((s) => s.values.flatMap((v, i) => (Number.isFinite(v) ? [v - 1.96 * (s.errors?.[i] || 0), v + 1.96 * (s.errors?.[i] || 0)] : [])));
    const low = Math.min(...(zero ? [0] : []), ...ends), high = Math.max(...(zero ? [0] : []), ...ends);
    const { px, py } = panel(svg, { x: left, y: top, width: inner, height: height - top - foot - 10, xDomain: [-0.5, names.length - 0.5], yDomain: rounded([low, high]), yLabel, xTicks: [] });
    if (zero) svg.append(shape("line", { x1: left, x2: left + inner, y1: py(0), y2: py(0), stroke: colors.token("soft"), "stroke-width": 1 }));
    const every = Math.ceil(names.length / (inner / 12));
    names.forEach((n, i) => { if (i % every === 0) svg.append(label(n.length > 24 ? `${n.slice(0, 23)}…` : n, px(i) + 4, height - foot, { anchor: "end", turn: -60, size: 10 })); });
    series.forEach((s, k) => {
      const color = s.color ?? colors.category(k), shift = (k - (series.length - 1) / 2) * 4, { x, row } = legend[k];
      svg.append(mark(s.mark ?? "dot", left + x + 5, 9 + 15 * row, color), label(s.name, left + x + 14, 13 + 15 * row));
      s.values.forEach((v, i) => {
        if (!Number.isFinite(v)) return;
        const error = s.errors?.[i], cx = px(i) + shift;
        const group = shape("g", {}, hint(`${names[i]}, ${s.name}: ${explorer.fixed(v, 3)}${Number.isFinite(error) ? ` ± ${explorer.fixed(1.96 * error, 3)}` : ""}`));
        if (Number.isFinite(error)) group.append(shape("line", { x1: cx, x2: cx, y1: py(v - 1.96 * error), y2: py(v + 1.96 * error), stroke: color, "stroke-width": 1.3 }));
        group.append(mark(s.mark ?? "dot", cx, py(v), color));
        svg.append(group);
      });
    });
    return figure(caption, svg, { name });
  }
  // Where the names of series go, in as many rows as they need.
  function legendPlaces(series, width) {
    let x = 0, row = 0;
    return series.map(({ name }) => {
      const needed = 28 + 6.2 * name.length;
      if (x > 0 && x + needed > width) { x = 0; row++; }
      const place = { x, row };
      x += needed;
      return place;
    });
  }
  function mark(kind, x, y, color) {
    if (kind === "dash") return shape("line", { x1: x - 5, x2: x + 5, y1: y, y2: y, stroke: color, "stroke-width": 2 });
    if (kind === "cross") return shape("path", { d: `M${x - 3} ${y - 3}l6 6m0 -6l-6 6`, stroke: color, "stroke-width": 1.5, fill: "none" });
    if (kind === "ring") return shape("circle", { cx: x, cy: y, r: 3, stroke: color, "stroke-width": 1.5, fill: "none" });
    return shape("circle", { cx: x, cy: y, r: 3, fill: color });
  }

  // Lines over one axis; series: [{ name, x, y, dashed }], with the ends of intervals where there are low and high.
  function lines(series, { caption, name, xLabel, yLabel, width = 480, height = 240, zero = false, legend = true, xTicks, xNames } = {}) {
    const left = 60, top = legend ? 26 : 8, svg = canvas(width, height);
    const xs = series.flatMap((s) => s.x), ys = series.flatMap((s) => [...s.y, ...(s.low ?? []), ...(s.high ?? [])]).filter(Number.isFinite);
    const { px, py } = panel(svg, { x: left, y: top, width: width - left - 20, height: height - top - 42, xDomain: [Math.min(...xs), Math.max(...xs)],
      yDomain: rounded([Math.min(...(zero ? [0] : []), ...ys), Math.max(...ys)]), xLabel, yLabel, xTicks, xNames });
    let at = left;
    series.forEach((s, k) => {
      const color = s.color ?? colors.category(k);
      const path = s.x.map((v, i) => `${i ? "L" : "M"}${px(v).toFixed(1)} ${py(s.y[i]).toFixed(1)}`).join("");
      svg.append(shape("path", { d: path, fill: "none", stroke: color, "stroke-width": s.thin ? 1 : 1.8, "stroke-dasharray": s.dashed ? "4 3" : null, opacity: s.thin ? 0.6 : 1 }));
      if (s.low) s.x.forEach((v, i) => svg.append(shape("line", { x1: px(v), x2: px(v), y1: py(s.low[i]), y2: py(s.high[i]), stroke: color, "stroke-width": 1.3 })));
      if (s.dots) s.x.forEach((v, i) => svg.append(shape("circle", { cx: px(v), cy: py(s.y[i]), r: 2.5, fill: color }, hint(`${s.name} at ${xNames ? xNames(v) : v}: ${explorer.number(s.y[i])}${s.low ? ` (${explorer.number(s.low[i])} to ${explorer.number(s.high[i])})` : ""}`))));
      if (legend && s.name) {
        svg.append(shape("line", { x1: at, x2: at + 16, y1: 9, y2: 9, stroke: color, "stroke-width": 2, "stroke-dasharray": s.dashed ? "4 3" : null }), label(s.name, at + 20, 13));
        at += 34 + 6.2 * s.name.length;
      }
    });
    return figure(caption, svg, { name });
  }

  // Columns of counts between edges.
  function histogram(edges, counts, { caption, name, xLabel, yLabel = "", width = 360, height = 190 } = {}) {
    const left = 56, svg = canvas(width, height), step = edges[1] - edges[0];
    const { px, py } = panel(svg, { x: left, y: 8, width: width - left - 12, height: height - 52, xDomain: [edges[0], edges.at(-1) + step], yDomain: rounded([0, Math.max(1, ...counts)]), xLabel, yLabel });
    counts.forEach((count, i) => count && svg.append(shape("rect", { x: px(edges[i]) + 0.5, width: Math.max(1, px(edges[i] + step) - px(edges[i]) - 1), y: py(count), height: Math.max(0, py(0) - py(count)), fill: colors.category(0) },
      hint(`${short(edges[i])}${i === counts.length - 1 ? " and more" : ` to ${short(edges[i] + step)}`}: ${count}`))));
    return figure(caption, svg, { name });
  }
  return { shape, hint, label, figure, canvas, panel, ticks, heatmap, colorBar, intervals, lines, histogram, largest };
})();
