// Keys, theme and the first drawing.
"use strict";
(() => {
  const stored = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = (theme) => { root.dataset.theme = theme; };
  apply(stored ?? (system.matches ? "dark" : "light"));
  system.addEventListener("change", (event) => { if (!stored) { apply(event.matches ? "dark" : "light"); explorer.draw(); } });
  document.getElementById("theme").addEventListener("click", () => {
    apply(root.dataset.theme === "dark" ? "light" : "dark");
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a page without storage forgets the choice */ }
    explorer.draw();
  });
  document.querySelector("[data-skip]").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  });
  const query = document.getElementById("query");
  document.getElementById("find").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = query.value;
    const cluster = /^#?(\d+)$/.exec(text.trim());
    if (!text) return;
    const component = explorer.componentNamed(text.trim().toLowerCase()); // its page, where the whole name is given
    location.hash = component ? explorer.components.address(component) : cluster && text.trim().startsWith("#") ? `#/cluster/${cluster[1]}` : `#/search?q=${encodeURIComponent(text)}`;
  });
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape" && typing) { event.target.blur(); return; }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const places = { c: "#/clusters", h: "#/components", t: "#/text", m: "#/map", r: "#/run", o: "#/compare" };
    if (event.key === "/") { query.focus(); query.select(); event.preventDefault(); }
    else if (event.key in places) location.hash = places[event.key];
    else document.dispatchEvent(new CustomEvent("shortcut", { detail: event }));
  });
  addEventListener("hashchange", () => explorer.draw());
  explorer.load("site").then((site) => {
    explorer.site = site;
    document.getElementById("brand").textContent = site.experiment;
    document.documentElement.dataset.ready = "yes";
    return explorer.draw();
  }).catch((error) => {
    document.getElementById("main").replaceChildren(explorer.element("p", { class: "note" }, error.message));
  });
})();
