// The list of documents: how many tokens each has, how many are in clusters, and in which.
"use strict";
(() => {
  const { element, number, visible } = explorer;
  const PAGE = 100;

  // The entries of a page, in order of name; of a search, those whose names hold the text.
  async function rowsOf(text, page) {
    const { site } = explorer, per = site.perFile.documents;
    if (text) {
      const { found, cut } = await explorer.documentsNamed(text);
      return { rows: found.slice(page * PAGE, (page + 1) * PAGE), count: found.length, cut };
    }
    const first = page * PAGE, files = new Set([first, Math.min(first + PAGE, site.documents) - 1].map((row) => Math.max(0, Math.floor(row / per))));
    const loaded = site.documents ? await Promise.all([...files].map((file) => explorer.numbered("documents", file, 4))) : [];
    const start = first - Math.floor(first / per) * per;
    return { rows: loaded.flat().slice(start, start + PAGE), count: site.documents, cut: false };
  }

  function table(rows) {
    const tokens = explorer.site.positions - 1, link = (name) => element("a", { href: `#/document/${encodeURIComponent(name)}` }, element("bdi", {}, visible(name)));
    const most = (_, [, , , n, clusters]) => element("span", {}, clusters.flatMap(([cluster, count]) => [element("a", { class: "chip", href: `#/cluster/${cluster}` }, `${cluster}`, element("small", {}, ` ×${number(count)}`)), " "]), n > clusters.length ? element("small", {}, `and ${number(n - clusters.length)} more`) : null);
    return explorer.table("Documents", [{ name: "document", shown: link }, { name: "tokens", title: "Predicted tokens: all but the first of each context" }, { name: "in clusters", title: "Those that are members of a cluster" }, { name: "clusters", title: "Clusters with a member in the document" }, { name: "those with most members", shown: most, nowrap: true }],
      rows.map(([name, contexts, members, clusters, listed]) => [name, contexts.length * tokens, members, clusters, listed]), { file: "documents" });
  }

  explorer.views.documents = async (view, parts, query) => {
    const text = query.get("q") ?? "", page = Math.max(0, Math.floor(Number(query.get("page")) || 0)), { rows, count, cut } = await rowsOf(text, page);
    const pages = Math.max(1, Math.ceil(count / PAGE));
    const to = (next) => { const changed = new URLSearchParams(query); if (next) changed.set("page", next); else changed.delete("page"); const told = changed.toString(); return `#/documents${told ? `?${told}` : ""}`; };
    const go = (next, label, title) => element("a", { class: "button", "aria-label": title, href: next >= 0 && next < pages ? to(next) : null, "aria-disabled": next >= 0 && next < pages ? null : "true" }, label);
    const form = element("form", { class: "inline", onsubmit: (event) => { event.preventDefault(); const q = form.elements.q.value; location.hash = `#/documents${q ? `?q=${encodeURIComponent(q)}` : ""}`; } },
      element("input", { name: "q", type: "search", value: text, placeholder: "part of a name", "aria-label": "Part of a document's name", spellcheck: false }), element("button", {}, "find"));
    view.append(element("div", { class: "title" }, element("h1", {}, `${number(count)} documents`), element("span", { class: "pager" }, form, go(page - 1, "‹", "Previous page"), element("span", {}, `${page + 1} / ${pages}`), go(page + 1, "›", "Next page"))),
      element("p", { class: "note" }, "By name; a column's head sorts this page.", cut ? " More names begin so: type more." : ""), rows.length ? table(rows) : element("p", {}, "None."));
    return "Documents";
  };
})();
