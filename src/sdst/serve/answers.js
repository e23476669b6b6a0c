"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const answers = document.getElementById("answers");
for (const sample of data.samples) {
  answers.append(el("section", {}, el("h2", {}, sample.query), showSample(sample, data)));
}

// The frame is as high as its content, so that only the surrounding page scrolls.
const fit = () => (frameElement.style.height = `${document.documentElement.offsetHeight}px`);
new ResizeObserver(fit).observe(document.body);
