"use strict";

const ANNOTATED_SECONDS = 2; // length of the clips that annotators scored
const HIGHEST_SCORE = 4; // highest score that an annotator can give

/** All details of a query on one time axis. */
function showSample(sample, data) {
  const url = data.videos[sample.vid];
  const player = url ? makePlayer(url, sample.vid) : null;
  const chosen = el("p", { class: "chosen", "aria-live": "polite" });
  const refinement = el("div", {});
  const timeline = el("div", { class: "timeline" });

  const choose = (button, text, window) => {
    timeline.querySelector("[aria-pressed=true]")?.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", "true");
    chosen.textContent = text;
    player?.play(...window);
  };
  const showTrace = (index, rank) => {
    refinement.replaceChildren(...refinementRows(sample, data.runs[index].name, index, rank));
  };

  const thumbnails = track([], "thumbnails");
  thumbnails.setAttribute("role", "img");
  thumbnails.setAttribute("aria-label", "Frames of the video along the time axis");
  if (url) timeline.append(row("video", thumbnails));
  timeline.append(axis(sample.duration));
  if (sample.moments) {
    const moments = sample.moments.map((window) => trueMoment(window, sample, choose));
    timeline.append(row("true", track(moments), "", sample.moments.length === 1 ? span(sample.moments[0]) : ""));
  }
  sample.answers.forEach((answer, index) => {
    answer.windows.forEach((window, rank) => {
      const text = describeAnswer(data.runs[index].name, answer, rank);
      const button = moment(window, sample.duration, `run-${index}`, text, () => {
        choose(button, text, window);
        showTrace(index, rank);
      });
      const label = `${rank + 1} · ${window[2].toFixed(2)}`;
      timeline.append(row(label, track([button]), `run-${index}`, span(window)));
    });
  });
  timeline.append(...saliencyRow(sample, data), refinement);
  if (sample.answers[0].windows.length) showTrace(0, 0);

  if (player) {
    timeline.append(el("div", { class: "playhead" }));
    player.video.addEventListener("timeupdate", () =>
      timeline.style.setProperty("--now", Math.min(1, player.video.currentTime / sample.duration)),
    );
  }
  const facts = `qid ${sample.qid}, video ${sample.vid}, ${Number(sample.duration.toFixed(1))} s`;
  const isTraced = sample.answers.some((answer) => answer.traces);
  const more = isTraced ? " Choosing a predicted moment also shows below how the model arrived at it." : "";
  const hint = player ? `Choose a moment to play it.${more}` : "";
  const notes = el("div", {}, el("p", { class: "facts" }, `${facts}. ${hint}`), legend(sample, data), chosen);
  const detail = el("div", { class: "detail" }, notes, ...(player ? [player.video] : []), timeline);
  // The track has no width until it is in the document.
  if (url) requestAnimationFrame(() => drawThumbnails(thumbnails, url, sample.duration));
  return detail;
}

function row(label, content, className = "", times = "") {
  const described = el("span", { class: "label" }, label, el("span", { class: "times" }, times));
  return el("div", { class: `row ${className}` }, described, content);
}

function track(children, className = "") {
  return el("div", { class: `track ${className}` }, ...children);
}

function moment([start, end], duration, className, text, onclick) {
  const named = { title: text, "aria-label": text, "aria-pressed": "false" };
  const button = el("button", { type: "button", class: `moment ${className}`, ...named, onclick });
  return place(button, start, end, duration);
}

function trueMoment(window, sample, choose) {
  const text = `True moment ${span(window)}`;
  const button = moment(window, sample.duration, "true", text, () => choose(button, text, window));
  return button;
}

function describeAnswer(name, answer, rank) {
  const window = answer.windows[rank];
  const iou = answer.ious.length ? `, IoU ${answer.ious[rank].toFixed(2)}` : "";
  return `Prediction ${rank + 1} of ${name}: ${span(window)}, score ${window[2].toFixed(2)}${iou}`;
}

/** Times in seconds along a track, by default round ones; label is the text of a time. */
function axis(duration, ticks = niceTicks(0, duration), label = (second) => `${second} s`) {
  const marks = ticks.filter((second) => second <= duration).map((second) => {
    const mark = el("span", {}, label(second));
    const share = `${(100 * second) / duration}%`;
    mark.style.left = share;
    mark.style.transform = `translateX(-${share})`; // keeps the first and last mark inside the axis
    return mark;
  });
  return row("", track(marks, "axis"));
}

function legend(sample, data) {
  const runs = data.runs.map((run, index) => el("li", { class: `run-${index}` }, `${run.name}: rank and score`));
  const items = sample.moments ? [el("li", { class: "true" }, "true moments"), ...runs] : runs;
  return el("ul", { class: "legend" }, ...items);
}

/** Predicted saliency of each run, scaled to its own range, over mean and range of the annotators; [] without data. */
function saliencyRow(sample, data) {
  const drawing = svg("svg", { viewBox: `0 0 ${sample.duration} 1`, preserveAspectRatio: "none", role: "img" });
  const texts = [];
  if (sample.annotators) {
    const share = (pick) => sample.annotators.map((scores) => pick(scores) / HIGHEST_SCORE);
    const mean = share((scores) => scores.reduce((sum, score) => sum + score, 0) / scores.length);
    const [most, least] = [share((scores) => Math.max(...scores)), share((scores) => Math.min(...scores))];
    const band = `${stairs(most, ANNOTATED_SECONDS)} ${stairs(least, ANNOTATED_SECONDS, true)} Z`;
    drawing.append(
      svg("path", { class: "range", d: band }),
      svg("path", { class: "curve true", d: stairs(mean, ANNOTATED_SECONDS) }),
    );
    texts.push(`the annotators' mean is highest at ${peak(mean, ANNOTATED_SECONDS)}`);
  }
  sample.answers.forEach((answer, index) => {
    if (!answer.saliency) return;
    const [low, high] = [Math.min(...answer.saliency), Math.max(...answer.saliency)];
    const scaled = answer.saliency.map((value) => (high > low ? (value - low) / (high - low) : 0));
    drawing.append(svg("path", { class: `curve run-${index}`, d: stairs(scaled, data.clip_seconds) }));
    texts.push(`${data.runs[index].name} is highest at ${peak(scaled, data.clip_seconds)}`);
  });
  if (!texts.length) return [];
  const text = `Saliency over time: ${texts.join(", ")}`;
  drawing.setAttribute("aria-label", text);
  const band = sample.annotators ? "; the band spans the annotators" : "";
  const note = `${text}. Predictions are scaled to their own range${band}.`;
  return [row("saliency", track([drawing], "saliency")), el("p", { class: "note" }, note)];
}

/** SVG path of a step curve whose values each last the given seconds; backwards to continue another path. */
function stairs(values, seconds, backwards = false) {
  const corners = values.flatMap((value, i) => [
    [i * seconds, 1 - value],
    [(i + 1) * seconds, 1 - value],
  ]);
  if (backwards) corners.reverse();
  return (backwards ? "L" : "M") + corners.map(([x, y]) => `${x},${y.toFixed(3)}`).join("L");
}

function peak(values, seconds) {
  const best = values.indexOf(Math.max(...values));
  return span([best * seconds, (best + 1) * seconds]);
}

/** One row per reference of a moment, from start to last level, with the points that the next level reads. */
function refinementRows(sample, name, index, rank) {
  const { traces } = sample.answers[index];
  if (!traces) return [];
  const title = el("h4", {}, `How '${name}' arrived at prediction ${rank + 1}`);
  if (!traces[rank]) return [title, el("p", { class: "note" }, "Rerunning the model did not reproduce this moment.")];
  const [references, points] = traces[rank];
  const rows = references.map((reference, level) => {
    const bar = place(el("div", { class: `reference run-${index}` }), ...reference, sample.duration);
    const heads = points[level] ?? [];
    const marks = heads.map((second, head) => {
      const mark = el("span", { class: "point", title: `head ${head + 1} looks at ${Number(second.toFixed(1))} s` });
      mark.style.left = `${(100 * second) / sample.duration}%`;
      mark.style.top = `${(100 * (head + 0.5)) / heads.length}%`;
      return mark;
    });
    const label = level ? `level ${level}` : "start";
    const shown = track([bar, ...marks], "references");
    shown.setAttribute("role", "img");
    shown.setAttribute("aria-label", `${label}: ${span(reference)}`);
    return row(label, shown);
  });
  const legend = points.length
    ? "Bars are references. A dot is the mean sampling point of a head of the next level; each head has its own line."
    : "Bars are references. This attention has no sampling points.";
  return [title, ...rows, el("p", { class: "note" }, legend)];
}
