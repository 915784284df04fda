"use strict";
document.getElementById("condition").addEventListener("change", (event) => {
  for (const line of document.querySelectorAll("tr[data-condition]")) {
    line.classList.toggle("hidden", event.target.value !== "" && line.dataset.condition !== event.target.value);
  }
});
