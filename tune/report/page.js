"use strict";
// Pointing at a line highlights its row of the table, and the reverse.
const items = [...document.querySelectorAll("[data-trial]")];
for (const item of items) {
  const both = items.filter((other) => other.dataset.trial === item.dataset.trial);
  item.addEventListener("pointerenter", () => both.forEach((other) => other.classList.add("on")));
  item.addEventListener("pointerleave", () => both.forEach((other) => other.classList.remove("on")));
}
