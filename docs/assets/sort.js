// Sorts tables of the site by a click, or by the keyboard, on the head of a column. Without it the
// tables stand in the order in which they were written.
(() => {
  // What a cell is ordered by: of "95.5 → 0.0 [0.0, 1.3]" the 0.0, of "3/4 (ring a bell)" the
  // share, of "5.1" the number; else its text. A dash was not measured and comes last.
  const value = (text) => {
    const share = text.match(/^(\d+)\/(\d+)/);
    if (share) return Number(share[1]) / Number(share[2]);
    const number = text.split("→").pop().trim().match(/^[+-]?\d+(\.\d+)?/);
    return number ? Number(number[0]) : text.toLowerCase();
  };
  const order = (one, other) => {
    if (typeof one === typeof other) return one < other ? -1 : one > other ? 1 : 0;
    return typeof one === "number" ? -1 : 1;
  };
  const sort = (table, place, head) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [row.cells[place].innerText.trim(), row]);
    const missing = ([text]) => text === "" || text === "-" || text === "–";
    const sorted = rows
      .filter((one) => !missing(one))
      .sort(([one], [other]) => (down ? -1 : 1) * order(value(one), value(other)));
    body.append(...[...sorted, ...rows.filter(missing)].map(([, row]) => row));
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  for (const table of document.querySelectorAll(".md-typeset table:not([class])")) {
    if (!table.tHead || table.tBodies[0].rows.length < 4) continue;
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      if (!head.innerText.trim()) return;
      const button = document.createElement("button");
      button.append(...head.childNodes);
      button.title = "Sort by this column";
      head.append(button);
      head.classList.add("sorts");
      button.addEventListener("click", () => sort(table, place, head));
    });
  }
})();
