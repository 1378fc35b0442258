"use strict";
// Sortable tables: a button in a heading sorts by that column, again turns the order. Cells may carry data-value;
// cells without a number stay last. Everything else on the page works without JavaScript.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = heading.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") !== "descending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const rows = [...table.tBodies[0].rows].map((row) => ({ row, text: key(row) }));
      const filled = rows.filter((item) => item.text !== "" && item.text !== "–");
      const empty = rows.filter((item) => item.text === "" || item.text === "–");
      const numeric = filled.every((item) => Number.isFinite(Number(item.text)));
      filled.sort((a, b) => (numeric ? Number(a.text) - Number(b.text) : a.text.localeCompare(b.text)));
      if (descending) filled.reverse();
      table.tBodies[0].append(...filled.concat(empty).map((item) => item.row));
    });
  });
}
