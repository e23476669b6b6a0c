"use strict";

// Texts of a run enter the page only through setAttribute and append, which never parse them as HTML.

/** An HTML element. Attributes named on… are event listeners; attributes that are null or false are omitted. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** A drop-down list with its label; choices are [value, text], or [group, [[value, text], …]]. */
function choice(label, choices, onchange) {
  const option = ([value, content]) =>
    Array.isArray(content)
      ? el("optgroup", { label: value }, ...content.map(option))
      : el("option", { value }, content);
  const select = el("select", { onchange }, ...choices.map(option));
  return [select, el("label", {}, el("span", {}, label), select)];
}

/** Position an element on a track from start to end; all times in seconds. */
function place(element, start, end, duration) {
  element.style.left = `${(100 * start) / duration}%`;
  element.style.width = `${(100 * (end - start)) / duration}%`;
  return element;
}

/** A time span as text, such as "62–72 s". */
function span([start, end]) {
  return `${Number(start.toFixed(1))}–${Number(end.toFixed(1))} s`;
}
