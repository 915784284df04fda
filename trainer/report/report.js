"use strict";
// Filters by class and subject, the cards of every test segment, and the switch between the main and all metrics.
(() => {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const pageSize = 24;
  const element = (id) => document.getElementById(id);
  const cards = element("cards");
  let shown = pageSize;

  const [LABEL, SUBJECT, PREDICTED, SSIM, PIXCORR, TWO_WAY, STIMULUS] = [0, 1, 2, 3, 4, 5, 6];
  const orders = {
    given: null,
    best: (a, b) => data.items[b][PIXCORR] - data.items[a][PIXCORR],
    worst: (a, b) => data.items[a][PIXCORR] - data.items[b][PIXCORR],
    wrong: (a, b) => (data.items[a][LABEL] === data.items[a][PREDICTED]) - (data.items[b][LABEL] === data.items[b][PREDICTED]),
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
      const picture = document.createElement("div");
      picture.className = `sheet-${sheet}`;
      picture.setAttribute("role", "img");
      picture.setAttribute("aria-label", `${column} of ${item[STIMULUS]}`);
      const [x, y] = [number % data.side, Math.floor(number / data.side)];
      picture.style.backgroundSize = `${100 * data.side}% ${100 * data.rows}%`;
      picture.style.backgroundPosition = `${(100 * x) / (data.side - 1)}% ${data.rows > 1 ? (100 * y) / (data.rows - 1) : 0}%`;
      trio.append(picture);
    });
    const right = item[LABEL] === item[PREDICTED];
    const caption = document.createElement("figcaption");
    const name = document.createElement("b");
    name.textContent = data.names[item[LABEL]];
    const verdict = document.createElement("span");
    const sign = document.createElement("i");
    sign.className = right ? "right" : "wrong";
    sign.textContent = right ? "✓" : `✗ ${data.names[item[PREDICTED]]}`;
    verdict.append(`s${item[SUBJECT]} `, sign);
    caption.append(name, verdict);
    figure.title = `${item[STIMULUS]}, subject ${item[SUBJECT]}: SSIM ${item[SSIM].toFixed(2)}, PixCorr ${item[PIXCORR].toFixed(2)}, `
      + `two-way CLIP ${(100 * item[TWO_WAY]).toFixed(0)} %`;
    figure.append(trio, caption);
    return figure;
  };

  const showCards = () => {
    const chosen = data.items.map((_, number) => number).filter((number) => matches(data.items[number][LABEL], data.items[number][SUBJECT]));
    const order = orders[element("explorer-order").value];
    if (order) chosen.sort(order);
    cards.replaceChildren(...chosen.slice(0, shown).map(card));
    element("more").classList.toggle("hidden", shown >= chosen.length);
    element("count").textContent = `${Math.min(shown, chosen.length)} of ${chosen.length}`;
  };

  const apply = () => {
    shown = pageSize;
    for (const row of document.querySelectorAll(".class-row")) row.classList.toggle("hidden", !matches(row.dataset.class));
    for (const figure of document.querySelectorAll(".examples figure")) figure.classList.toggle("dim", !matches(undefined, figure.dataset.subject));
    for (const part of document.querySelectorAll(".map [data-class], .confusion [data-class]")) {
      part.classList.toggle("dim", !matches(part.dataset.class, part.dataset.subject));
    }
    for (const row of document.querySelectorAll("tr[data-subject]")) row.classList.toggle("dim", !matches(undefined, row.dataset.subject));
    showCards();
  };

  element("filter-class").addEventListener("change", apply);
  element("filter-subject").addEventListener("change", apply);
  element("explorer-order").addEventListener("change", () => { shown = pageSize; showCards(); });
  element("more").addEventListener("click", () => { shown += 2 * pageSize; showCards(); });
  element("all-metrics").addEventListener("change", (event) => {
    for (const table of document.querySelectorAll("#table .results")) table.classList.toggle("all", event.target.checked);
  });
  apply();
})();
