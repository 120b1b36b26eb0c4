// Tables that sort by a click on their heads and can be saved as CSV.
"use strict";
explorer.table = (() => {
  const { element } = explorer;

  function csvCell(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "";
    let text = String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`; // a spreadsheet would run it
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }
  const csv = (columns, rows) => [columns, ...rows].map((row) => row.map(csvCell).join(",")).join("\r\n") + "\r\n";

  function save(name, content, type) {
    const address = URL.createObjectURL(new Blob([content], { type }));
    const link = element("a", { href: address, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  }

  const saver = (name, columns, rows) =>
    element("button", { type: "button", class: "quiet", onclick: async () => save(`${name}.csv`, csv(columns, await rows()), "text/csv") }, "CSV");

  // columns: [{ name, title, shown, nowrap }], rows: arrays of values.
  function table(caption, columns, rows, { file = "table", order = null } = {}) {
    let sorted = rows.slice(), by = -1, falling = false;
    const body = element("tbody");
    const fill = () => body.replaceChildren(...sorted.map((row) => element("tr", {}, columns.map((column, i) => {
      const shown = column.shown ? column.shown(row[i], row) : typeof row[i] === "number" ? explorer.number(row[i]) : explorer.visible(String(row[i] ?? "–"));
      return element(i ? "td" : "th", { class: typeof row[i] === "number" ? "num" : column.nowrap ? "nowrap" : "", scope: i ? null : "row" }, shown);
    }))));
    const heads = columns.map((column, i) => element("th", { scope: "col", class: typeof rows[0]?.[i] === "number" ? "num" : "" },
      element("button", { type: "button", data: column.title ? { definition: column.title } : {}, onclick: () => sort(i) }, column.name)));
    function sort(i) {
      falling = by === i ? !falling : typeof rows[0]?.[i] === "number";
      by = i;
      const sign = falling ? -1 : 1;
      const missing = (v) => v === null || v === undefined || Number.isNaN(v);
      sorted = rows.slice().sort((a, b) => missing(a[i]) - missing(b[i]) || sign * (a[i] < b[i] ? -1 : a[i] > b[i] ? 1 : 0));
      heads.forEach((head, j) => (j === i ? head.setAttribute("aria-sort", falling ? "descending" : "ascending") : head.removeAttribute("aria-sort")));
      fill();
    }
    fill();
    if (order !== null) sort(order);
    return element("figure", { class: "table" },
      element("figcaption", {}, element("span", {}, caption), saver(file, columns.map((c) => c.name), () => sorted)),
      element("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": caption },
        element("table", {}, element("thead", {}, element("tr", {}, heads)), body)));
  }
  return Object.assign(table, { csv, save, saver });
})();
