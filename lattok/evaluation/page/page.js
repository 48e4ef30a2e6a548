// Figures under the pointer, codes of the frame that a film shows, a filter by task. Pages say all there is to say
// without it; what it adds can be reached from the keyboard, and it builds text as text: no word of a dataset becomes
// markup.
"use strict";
const added = (svg, kind, attributes) => {
  const node = document.createElementNS(svg.namespaceURI, kind);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return svg.appendChild(node);
};
const shown = (value) => String(Number(value.toPrecision(3)));
// make a slider of `node`: `placeOf(event)` is the place under the pointer, `show(place)` draws it and says what is so
function slider(node, label, count, placeOf, show) {
  let place = 0;
  const go = (to) => {
    place = Math.max(0, Math.min(count - 1, to));
    node.setAttribute("aria-valuenow", place);
    node.setAttribute("aria-valuetext", show(place));
  };
  for (const [name, value] of [["tabindex", 0], ["role", "slider"], ["aria-label", label], ["aria-valuemin", 0],
    ["aria-valuemax", count - 1], ["aria-valuenow", 0]]) node.setAttribute(name, value);
  node.addEventListener("keydown", (event) => {
    const by = {ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10}[event.key];
    const to = event.key === "Home" ? 0 : event.key === "End" ? count - 1 : by === undefined ? null : place + by;
    if (to === null) return;
    event.preventDefault();
    go(to);
    node.dispatchEvent(new CustomEvent("chosen", {detail: place}));
  });
  node.addEventListener("focus", () => go(place));
  node.addEventListener("pointermove", (event) => go(placeOf(event)));
  node.addEventListener("click", (event) => {
    go(placeOf(event));
    node.dispatchEvent(new CustomEvent("chosen", {detail: place}));
  });
  return go;
}
const within = (node, event, from, to, width) => {
  const box = node.getBoundingClientRect();
  return ((event.clientX - box.left) / box.width * width - from) / (to - from);
};
for (const plot of document.querySelectorAll("svg[data-frame]")) {
  const [left, right, top, bottom, low, high] = plot.dataset.frame.split(" ").map(Number);
  const names = {truth: "true", model: "model", rival: "control"};
  const curves = [...plot.querySelectorAll("polyline")].map((line) => ({
    name: names[line.classList[0]] || line.classList[0],
    points: line.getAttribute("points").trim().split(" ").map((pair) => pair.split(",").map(Number)),
  })).reverse();
  const count = Math.max(...curves.map((curve) => curve.points.length));
  if (count < 2) continue;
  const mark = added(plot, "path", {class: "axis", d: ""});
  const text = added(plot, "text", {class: "m", x: right, y: 14, "text-anchor": "end"});
  const label = plot.getAttribute("aria-label");
  const width = plot.viewBox.baseVal.width;
  slider(plot, label, count, (event) => Math.round(within(plot, event, left, right, width) * (count - 1)), (place) => {
    const values = curves.filter((curve) => place < curve.points.length).map((curve) =>
      curve.name + " " + shown(low + (bottom - curve.points[place][1]) / (bottom - top) * (high - low)));
    const x = curves.find((curve) => place < curve.points.length).points[place][0];
    mark.setAttribute("d", `M${x} ${top}V${bottom}`);
    text.textContent = `${place}: ${values.join(", ")}`;
    return `${place}: ${values.join(", ")}`;
  });
}
for (const episode of document.querySelectorAll(".episode")) {
  const films = [...episode.querySelectorAll("video")];
  const tracks = [...episode.querySelectorAll(".timeline")].map((track) => {
    const rows = track.dataset.codes.split(";"), moments = track.dataset.moments.split(",").map(Number);
    const plot = track.querySelector("svg"), now = track.querySelector(".now");
    const {width, height} = plot.viewBox.baseVal, from = Number(track.dataset.left), fps = Number(track.dataset.fps);
    const mark = added(plot, "path", {class: "axis", d: ""});
    const show = (place) => {
      const x = from + (place + 0.5) / rows.length * (width - from);
      mark.setAttribute("d", `M${x} 0V${height}`);
      const codes = rows[place] ? rows[place].replaceAll(",", " ") : "no label";
      return now.textContent = `frame ${moments[place]}, ${shown(moments[place] / fps)} s: ${codes}`;
    };
    const place = (event) => Math.floor(within(plot, event, from, width, width) * rows.length);
    const go = slider(plot, plot.getAttribute("aria-label"), rows.length, place, show);
    plot.addEventListener("chosen", (event) => {
      for (const film of films) {
        film.pause();
        if (film.duration) film.currentTime = (event.detail + 0.5) / rows.length * film.duration;
      }
    });
    return {go, count: rows.length};
  });
  for (const film of films) film.addEventListener("timeupdate", () => {
    for (const each of tracks) if (film.duration) each.go(Math.floor(film.currentTime / film.duration * each.count));
  });
}
for (const group of document.querySelectorAll("figure")) {
  const episodes = [...group.querySelectorAll(".episode")];
  const tasks = [...new Set(episodes.map((episode) => episode.dataset.task))];
  if (tasks.length < 2) continue;
  const label = document.createElement("label"), choice = document.createElement("select");
  label.className = "filter";
  label.append("Task ", choice);
  const named = tasks.map((task, i) => [String(i), task || "no task"]);
  for (const [value, text] of [["", `all ${tasks.length}`], ...named]) {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = text;
    choice.append(option);
  }
  choice.addEventListener("change", () => {
    for (const episode of episodes) {
      const hidden = choice.value !== "" && episode.dataset.task !== tasks[Number(choice.value)];
      (episode.closest(".panel") || episode).hidden = hidden;
    }
  });
  group.prepend(label);
}
