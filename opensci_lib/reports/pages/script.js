// Tables sort by a click on their head, and long ones fold after ten rows. Without this script all is there, unsorted.
const shown = 10;
const number = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?( %)?$/i;
const words = new Intl.Collator("en", { numeric: true });

function compare(a, b) {
  if (!a || !b) return 0; // see below: empty cells stay last
  return number.test(a) && number.test(b) ? parseFloat(a) - parseFloat(b) : words.compare(a, b);
}

function fold(table) {
  [...table.tBodies[0].rows].forEach((row, place) => row.classList.toggle("folded", place >= shown));
}

function sort(table, head) {
  const up = head.ariaSort !== "ascending";
  const text = (row) => row.cells[head.cellIndex].textContent.trim().replace("\u2212", "-");
  const rows = [...table.tBodies[0].rows].sort(
    (a, b) => !text(a) - !text(b) || (up ? 1 : -1) * compare(text(a), text(b)),
  );
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.ariaSort = up ? "ascending" : "descending";
  table.tBodies[0].append(...rows);
  fold(table);
}

for (const table of document.querySelectorAll("table")) {
  if (!table.tHead || table.tHead.rows.length > 1 || table.querySelector("tbody [rowspan]")) continue;
  const count = table.tBodies[0].rows.length;
  for (const head of count > 1 ? table.tHead.rows[0].cells : []) {
    if (!head.textContent.trim()) continue;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.onclick = () => sort(table, head);
    head.append(button);
  }
  if (count <= shown + 2) continue;
  fold(table);
  const button = document.createElement("button");
  button.className = "unfold";
  const label = () => {
    const open = table.classList.contains("open");
    button.textContent = open ? `Show ${shown} rows` : `Show all ${count} rows`;
    button.ariaExpanded = open;
  };
  button.onclick = () => label(table.classList.toggle("open"));
  label();
  (table.closest(".scroll") ?? table).after(button);
}

// What scrolls must be within reach of the keyboard.
const reach = () => {
  for (const box of document.querySelectorAll(".scroll, pre")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
addEventListener("resize", reach);
document.addEventListener("toggle", reach, true);
reach();

// Paper has no clicks: all is open there, except for the code.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not(.code)")) part.open = true;
  for (const table of document.querySelectorAll("table")) table.classList.add("open");
});
