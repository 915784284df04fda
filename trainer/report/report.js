"use strict";
// Filters by class and subject, the cards of every test segment, and the switch between the main metrics and all.
(() => {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const pageSize = 24;
  const element = (id) => document.getElementById(id);
  const cards = element("cards");
  let shown = pageSize;

  const isRight = (item) => item.label === item.predicted;
  const isRecognised = (item) => item.predicted !== null; // null: the evaluation had no classifier
  // The chosen order as a comparison of two items: "given", "wrong", or "highest 0", the number being that of a metric.
  const comparison = (chosen) => {
    const [order, metric] = chosen.split(" ");
    if (order === "wrong") return (a, b) => isRight(a) - isRight(b);
    if (order === "highest") return (a, b) => b.figures[metric] - a.figures[metric];
    if (order === "lowest") return (a, b) => a.figures[metric] - b.figures[metric];
    return null;
  };

  const matches = (label, subject) => {
    const chosenClass = element("filter-class").value;
    const chosenSubject = element("filter-subject").value;
    return (chosenClass === "" || label === undefined || String(label) === chosenClass)
      && (chosenSubject === "" || subject === undefined || String(subject) === chosenSubject);
  };

  const card = (number) => {
    const item = data.items[number];
    const figure = document.createElement("figure");
    const trio = document.createElement("div");
    trio.className = "trio";
    data.columns.forEach((column, sheet) => {
      const image = document.createElement("div");
      image.className = `sheet-${sheet}`;
      image.setAttribute("role", "img");
      image.setAttribute("aria-label", `${column} of ${item.stimulus}`);
      const [x, y] = [number % data.side, Math.floor(number / data.side)];
      image.style.backgroundSize = `${100 * data.side}% ${100 * data.rows}%`;
      image.style.backgroundPosition = `${(100 * x) / (data.side - 1)}% ${data.rows > 1 ? (100 * y) / (data.rows - 1) : 0}%`;
      trio.append(image);
    });
    const caption = document.createElement("figcaption");
    const name = document.createElement("b");
    name.textContent = data.names[item.label];
    const verdict = document.createElement("span");
    const sign = document.createElement("i");
    sign.className = isRight(item) ? "right" : "wrong";
    sign.textContent = isRight(item) ? "✓" : `✗ ${data.names[item.predicted]}`;
    verdict.append(`s${item.subject} `, ...(isRecognised(item) ? [sign] : []));
    caption.append(name, verdict);
    figure.title = `${item.stimulus}, subject ${item.subject}: ${item.caption}`;
    figure.append(trio, caption);
    return figure;
  };

  const showCards = () => {
    if (!cards) return; // a run without images
    const chosen = data.items.map((_, number) => number).filter((number) => matches(data.items[number].label, data.items[number].subject));
    const compare = comparison(element("explorer-order").value);
    if (compare) chosen.sort((a, b) => compare(data.items[a], data.items[b]));
    cards.replaceChildren(...chosen.slice(0, shown).map(card));
    element("more").classList.toggle("hidden", shown >= chosen.length);
    element("count").textContent = `${Math.min(shown, chosen.length)} of ${chosen.length}`;
  };

  const apply = () => {
    shown = pageSize;
    for (const row of document.querySelectorAll(".class-row")) row.classList.toggle("hidden", !matches(row.dataset.class));
    for (const figure of document.querySelectorAll(".examples figure")) figure.classList.toggle("dim", !matches(undefined, figure.dataset.subject));
    for (const mark of document.querySelectorAll(".map [data-class], .confusion [data-class]")) {
      mark.classList.toggle("dim", !matches(mark.dataset.class, mark.dataset.subject));
    }
    for (const row of document.querySelectorAll("tr[data-subject]")) row.classList.toggle("dim", !matches(undefined, row.dataset.subject));
    showCards();
  };

  element("filter-class").addEventListener("change", apply);
  element("filter-subject").addEventListener("change", apply);
  if (cards) {
    element("explorer-order").addEventListener("change", () => { shown = pageSize; showCards(); });
    element("more").addEventListener("click", () => { shown += 2 * pageSize; showCards(); });
  }
  element("all-metrics").addEventListener("change", (event) => {
    for (const table of document.querySelectorAll("#table .results")) table.classList.toggle("all", event.target.checked);
  });
  apply();
})();
