// Sorts the table of models by the heading that is pressed, and opens what is folded before the page is printed.
"use strict";
const table = document.getElementById("table");
const headings = [...table.tHead.rows[0].cells];
const value = (row, at) => row.cells[at].dataset.value ?? "";
const order = (a, b) => {
  if (a === "" || b === "") return null; // what has no figure stays last, whichever way
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
};
for (const heading of headings) {
  heading.querySelector("button")?.addEventListener("click", () => {
    const at = headings.indexOf(heading);
    const first = heading.dataset.first ?? "descending";
    const other = first === "ascending" ? "descending" : "ascending";
    const wanted = heading.getAttribute("aria-sort") === first ? other : first;
    headings.forEach((each) => each.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", wanted);
    const sign = wanted === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].sort((p, q) => {
      const [a, b] = [value(p, at), value(q, at)];
      const by = order(a, b);
      return by === null ? (a === "") - (b === "") : sign * by;
    });
    table.tBodies[0].append(...rows);
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
