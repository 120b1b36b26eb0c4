// The page's one global: data files call receive, views register themselves, the hash chooses among them.
"use strict";
const explorer = (() => {
  const views = {};
  const waiting = new Map();
  const loaded = new Map();
  const KEPT = 400; // data files held at once, the latest ones
  let drawing = 0;

  function receive(name, value) {
    waiting.get(name)?.(value);
  }

  // A data file by name; a page opened from a file may load scripts, but fetch nothing.
  function load(name) {
    if (loaded.has(name)) {
      const found = loaded.get(name);
      loaded.delete(name);
      loaded.set(name, found);
      return found;
    }
    const promise = new Promise((resolve, reject) => {
      waiting.set(name, resolve);
      const script = document.createElement("script");
      script.src = `data/${name}.js`;
      script.onload = () => { waiting.delete(name); script.remove(); };
      script.onerror = () => {
        waiting.delete(name);
        loaded.delete(name);
        script.remove();
        reject(new Error(`data/${name}.js is missing; materialize the explorer again`));
      };
      document.head.append(script);
    });
    loaded.set(name, promise);
    if (loaded.size > KEPT) loaded.delete(loaded.keys().next().value);
    return promise;
  }

  const numbered = (folder, number, width = 5) => load(`${folder}/${String(number).padStart(width, "0")}`);

  const TYPES = { uint8: Uint8Array, uint16: Uint16Array, int16: Int16Array, int32: Int32Array, uint32: Uint32Array, float32: Float32Array };

  // Numbers as payload.py wrote them; those with a scale as Float32Array, missing ones as NaN.
  function numbers(packed) {
    const flat = new TYPES[packed.type](bytesOf(packed.data).buffer);
    if (!packed.scale) return flat;
    const width = packed.scale.length;
    const result = new Float32Array(flat.length);
    for (let i = 0; i < flat.length; i++) result[i] = flat[i] === -32768 ? NaN : flat[i] * packed.scale[i % width];
    return result;
  }
  function bytesOf(base64) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64); // of browsers since 2025, ten times as fast
    const text = atob(base64), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  // An element with properties, attributes (names with a dash, role) and children; strings become text, never markup.
  function element(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (value === undefined || value === null) continue;
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (key === "class") node.className = value;
      else if (key === "data") Object.assign(node.dataset, value);
      else if (key in node && !key.includes("-")) node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return node;
  }

  // How whitespace and what cannot be seen is shown: · space, ⏎ line feed, ⇥ tab, and code points of the rest.
  const SHOWN = { "\n": "⏎", "\t": "⇥", "\r": "␍" };
  const INVISIBLE = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu;
  function visible(text, { spaces = false } = {}) {
    const shown = text.replace(INVISIBLE, (c) => SHOWN[c] ?? `⟨${c.codePointAt(0).toString(16)}⟩`);
    return spaces ? shown.replace(/ /g, "·") : shown;
  }

  // Text on one line, long runs of spaces cut: where there is little room an indentation says little.
  const shortened = (text) => visible(text).replace(/ {4,}/g, "   ");

  const tokenText = (id) => explorer.site.texts[id] ?? `⟨token ${id}⟩`;
  const tokenShown = (id) => visible(tokenText(id), { spaces: true });

  // Context and position of a token by its number among those of all shards, of which every context predicts as many.
  function placeOf(token) {
    const width = explorer.site.positions - 1;
    return { context: Math.floor(token / width), position: (token % width) + 1 };
  }

  function number(value, digits = 3) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (Number.isInteger(value)) return value.toLocaleString("en");
    const size = Math.abs(value);
    if (size !== 0 && (size < 0.001 || size >= 1e5)) return value.toExponential(digits - 1);
    return size >= 1000 ? Math.round(value).toLocaleString("en") : value.toPrecision(digits).replace(/^-0\.?0*$/, "0");
  }
  const fixed = (value, digits = 2) => value === null || value === undefined || Number.isNaN(value) ? "–" : value.toFixed(digits).replace("-", "−");

  function parse(hash) {
    const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
    return { parts: path.split("/").filter(Boolean).map(decodeURIComponent), query: new URLSearchParams(query) };
  }

  // How far each entry of the history was scrolled, so that Back returns to the place.
  const scrolled = new Map();
  let entry = null;
  function enter() {
    if (!history.state?.entry) history.replaceState({ entry: `${Date.now()}-${scrolled.size}` }, "");
    entry = history.state.entry;
    return scrolled.get(entry) ?? 0;
  }
  history.scrollRestoration = "manual";
  addEventListener("scroll", () => { if (entry !== null) scrolled.set(entry, scrollY); }, { passive: true });

  async function draw() {
    const turn = ++drawing, place = enter();
    const main = document.getElementById("main");
    let { parts, query } = parse(location.hash);
    const name = parts[0] in views ? parts[0] : "clusters";
    for (const link of document.querySelectorAll("nav a")) {
      const section = { cluster: "clusters", component: "components", search: "clusters", document: "text", documents: "text" }[name] ?? name;
      if (link.getAttribute("href") === `#/${section}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const view = element("div", { class: `view view-${name}` });
    try {
      const title = await views[name](view, parts.slice(1), query);
      if (turn !== drawing) return;
      document.title = `${title} · ${explorer.site.experiment}`;
      announce(title);
    } catch (error) {
      if (turn !== drawing) return;
      view.replaceChildren(element("h1", {}, "Not shown"), element("p", { class: "note" }, error.message));
      if (!error.expected) console.error(error);
    }
    main.replaceChildren(view);
    window.scrollTo(0, place);
    view.dispatchEvent(new CustomEvent("shown"));
  }

  function announce(text) {
    document.getElementById("status").textContent = text;
  }

  function expected(message) {
    return Object.assign(new Error(message), { expected: true });
  }

  // Change the query of the address without a new entry in the history, and without drawing anew.
  function remember(query) {
    const text = query.toString(), path = location.hash.split("?")[0] || "#/clusters"; // a first page has no hash of its own
    history.replaceState(history.state, "", path + (text ? `?${text}` : ""));
  }

  // Keep a choice in the address, unless it is the usual one.
  function choose(query, name, value, usual) {
    if (value === usual) query.delete(name); else query.set(name, value);
    remember(query);
  }

  const columns = async () => {
    const found = await load("clusters");
    if (!found.decoded) {
      found.decoded = { sources: found.sources };
      for (const [name, value] of Object.entries(found)) if (value.data) found.decoded[name] = numbers(value);
      const firsts = new Float64Array(explorer.site.clusters + 1);
      for (let i = 0; i < explorer.site.clusters; i++) firsts[i + 1] = firsts[i] + found.decoded.size[i];
      found.decoded.firstMember = firsts;
    }
    return found.decoded;
  };

  return { receive, load, numbered, numbers, element, visible, shortened, tokenText, tokenShown, placeOf, number, fixed, parse, draw, views,
    announce, expected, remember, choose, columns, site: null, live: null };
})();
