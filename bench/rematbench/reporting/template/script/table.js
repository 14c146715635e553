// The table of all rows: sorted, filtered, copied, and marked with what is chosen.
const table = (() => {
  const rowsShown = (node) => dom.findAll("tbody tr:not([hidden])", node);
  const cellsShown = (row) => [...row.children].filter((cell) => getComputedStyle(cell).display !== "none");

  // Compare two keys as a column's sort does; what is absent comes last either way.
  function compare(one, other, { isNumber, isDown }) {
    if (one === undefined || other === undefined) return (one === undefined) - (other === undefined);
    return (isNumber ? one - other : one.localeCompare(other)) * (isDown ? -1 : 1);
  }

  // Sort by a heading's column: upwards, and downwards when asked again.
  function sortBy(node, heading) {
    const isDown = heading.getAttribute("aria-sort") === "ascending";
    const isNumber = heading.classList.contains("number");
    dom.findAll("th", node).forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    // A cell is sorted by its key, and by its text where that is the same; one that is empty has neither.
    const at = [...heading.parentElement.children].indexOf(heading);
    const key = (row) => row.children[at].dataset.key ?? (row.children[at].textContent || undefined);
    const body = dom.find("tbody", node);
    body.append(...[...body.children].sort((one, other) => compare(key(one), key(other), { isNumber, isDown })));
  }

  // Show the rows that hold every word; returns how many do.
  function filter(node, typed) {
    const wanted = typed.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of dom.findAll("tbody tr", node)) {
      row.hidden = !wanted.every((word) => row.textContent.toLowerCase().includes(word));
    }
    return rowsShown(node).length;
  }

  // Names may hold what Markdown reads as markup or as the end of a cell.
  function escaped(name) {
    const entities = { "<": "&lt;", ">": "&gt;" };
    return name.trim().replace(/\s+/g, " ").replace(/[\\|`*_<>[\]]/g, (sign) => entities[sign] ?? `\\${sign}`);
  }

  function markdown(node) {
    const head = cellsShown(dom.find("thead tr", node));
    const rule = head.map((cell) => (cell.classList.contains("number") ? "---:" : "---"));
    const texts = (cells) => cells.map((cell) => escaped(cell.textContent));
    const rows = rowsShown(node).map((row) => texts(cellsShown(row)));
    return [texts(head), rule, ...rows].map((cells) => `| ${cells.join(" | ")} |\n`).join("");
  }

  // chosen: ids of rows.
  function mark(node, chosen) {
    for (const row of dom.findAll("tbody tr", node)) {
      const isChosen = chosen.has(Number(row.dataset.row));
      row.classList.toggle("chosen", isChosen);
      dom.find(".pick", row).setAttribute("aria-pressed", isChosen);
    }
  }

  return { compare, sortBy, filter, escaped, markdown, mark };
})();
