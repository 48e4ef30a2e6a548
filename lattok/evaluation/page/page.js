// One playhead for the films, curves and codes of an episode, and a filter by task. Pages say all there is to say
// without it; what it adds can be reached from the keyboard, and it builds text as text: no word of a dataset becomes
// markup.
"use strict";
const shown = (value) => String(Number(value.toPrecision(3))).replace("-", "−");
// read what a track draws: a list of [line, values by place], of codes with one line ""
function readTrack(plot, count) {
  const lines = new Map();
  const [low, high] = (plot.dataset.ends || "0 0").split(" ").map(Number);
  const values = (line) => lines.get(line) || lines.set(line, new Array(count)).get(line);
  for (const drawn of plot.querySelectorAll("polyline")) {
    for (const point of drawn.getAttribute("points").split(" ")) {
      const [x, y] = point.split(",").map(Number);
      values(drawn.classList[0])[Math.floor(x)] = shown(high - y / plot.viewBox.baseVal.height * (high - low));
    }
  }
  for (const cell of plot.querySelectorAll("rect")) {
    const from = cell.x.baseVal.value;
    values("").fill(cell.dataset.code, from, from + cell.width.baseVal.value);
  }
  return [...lines].reverse();
}
for (const episode of document.querySelectorAll(".episode")) {
  const area = episode.querySelector(".tracks");
  if (!area) continue;
  const moments = area.dataset.moments.split(",").map(Number), fps = Number(area.dataset.fps), count = moments.length;
  const films = [...episode.querySelectorAll("video")], now = episode.querySelector(".now");
  const names = {}, gap = Math.ceil(count / 600);  // long curves have no point for some places
  for (const key of episode.querySelectorAll("[data-line]")) names[key.dataset.line] = key.textContent + " ";
  const tracks = [...area.querySelectorAll(".track")].filter((track) => track.querySelector("svg")).map((track) => ({
    name: track.querySelector(".name").textContent, value: track.querySelector(".value"),
    lines: readTrack(track.querySelector("svg"), count),
  }));
  let place = 0, playing = false;
  const said = (values) => {
    for (let i = place; i > place - gap && i >= 0; i--) if (values[i] !== undefined) return values[i];
    return "–";
  };
  const go = (to) => {
    place = Math.max(0, Math.min(count - 1, to));
    area.style.setProperty("--at", `${(place + 0.5) / count * 100}%`);
    now.textContent = `${(moments[place] / fps).toFixed(2)} s, frame ${moments[place]}`;
    const texts = tracks.map(({name, value, lines}) => {
      value.replaceChildren(...lines.map(([line, values]) => {
        const part = document.createElement("span");
        part.className = line;
        part.textContent = said(values);
        return part;
      }));
      return `${name}: ${lines.map(([line, values]) => (names[line] || "") + said(values)).join(", ") || "no label"}`;
    });
    area.setAttribute("aria-valuenow", place);
    area.setAttribute("aria-valuetext", [now.textContent, ...texts].join("; "));
  };
  const seek = (to) => {
    play(false);
    go(to);
    for (const film of films) if (film.duration) film.currentTime = (place + 0.5) / count * film.duration;
  };
  const follow = () => {
    const [film, ...others] = films;
    if (film.duration) go(Math.floor(film.currentTime / film.duration * count));
    if (!playing) return;
    for (const each of others) if (Math.abs(each.currentTime - film.currentTime) > 0.2) each.currentTime = film.currentTime;
    requestAnimationFrame(follow);
  };
  const button = document.createElement("button");
  const play = (start) => {
    if (start === playing || !films.length) return;
    playing = start;
    button.textContent = start ? "❚❚" : "▶";
    button.setAttribute("aria-label", start ? "Pause" : "Play");
    for (const film of films) {
      if (start) film.play().catch(() => {}); else film.pause();
    }
    if (start) follow();
  };
  if (films.length) {
    button.type = "button";
    button.textContent = "▶";
    button.setAttribute("aria-label", "Play");
    button.addEventListener("click", () => play(!playing));
    now.before(button);
    for (const film of films) {
      film.removeAttribute("controls");
      film.addEventListener("click", () => play(!playing));
    }
    films[0].addEventListener("seeked", () => { if (!playing) follow(); });
    films[0].addEventListener("ended", () => {
      play(false);
      follow();
    });
  }
  for (const [name, value] of [["tabindex", 0], ["role", "slider"], ["aria-label", "Moment of the episode"],
    ["aria-valuemin", 0], ["aria-valuemax", count - 1], ["aria-valuenow", 0]]) area.setAttribute(name, value);
  area.addEventListener("keydown", (event) => {
    if (event.target !== area) return;
    const by = {ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10}[event.key];
    const to = event.key === "Home" ? 0 : event.key === "End" ? count - 1 : by === undefined ? null : place + by;
    if (to === null && event.key !== " ") return;
    event.preventDefault();
    if (to === null) play(!playing); else seek(to);
  });
  const point = (event) => {
    const box = area.querySelector(".plot").getBoundingClientRect();
    seek(Math.floor((event.clientX - box.left) / box.width * count));
  };
  area.addEventListener("pointerdown", (event) => {
    if (!event.target.closest("summary")) point(event);
  });
  area.addEventListener("pointermove", (event) => {
    if (event.buttons || !films.length) point(event);
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
