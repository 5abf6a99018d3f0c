"use strict";
(() => {
  const box = document.querySelector(".search");
  if (!box) return;
  const [text, kind] = [box.querySelector("input"), box.querySelector("select")];
  const samples = [...document.querySelectorAll("#samples .sample")];
  const words = samples.map((sample) => sample.textContent.toLowerCase());
  const show = () => {
    const wanted = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    samples.forEach((sample, place) => {
      sample.hidden = !(!kind.value || sample.dataset.of.split(" ").includes(kind.value)) ||
        !wanted.every((word) => words[place].includes(word));
      shown += !sample.hidden;
    });
    box.querySelector("output").textContent = `${shown} of ${samples.length} shown`;
  };
  text.addEventListener("input", show);
  kind.addEventListener("change", show);
  box.hidden = false;
  show();
})();
