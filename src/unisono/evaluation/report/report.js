"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Filter and sort. The page shows everything without this script.
  const byTask = document.getElementById("by-task");
  if (byTask) {
    const byMetric = document.getElementById("by-metric");
    const byText = document.getElementById("by-text");
    const byFailure = document.getElementById("by-failure");
    const shown = document.getElementById("shown");
    const tasks = all(".task").map((section) => ({
      section,
      list: section.querySelector(".cards"),
      cards: all(".card", section).map((card, place) => ({
        card,
        place,
        values: JSON.parse(card.dataset.values),
        text: all(".id a, h4, .instruction", card).map((node) => node.textContent).join(" ").toLowerCase(),
      })),
    }));

    // Worst first: failed items, then by value, then those to which the metric does not apply.
    const badness = (values, metric, sign) => {
      if (!(metric in values)) return -Infinity;
      return values[metric] === null ? Infinity : sign * values[metric];
    };

    const update = () => {
      const metric = byMetric.value;
      const sign = byMetric.selectedOptions[0].dataset.direction === "higher" ? -1 : 1;
      const text = byText.value.trim().toLowerCase();
      let count = 0, total = 0;
      for (const task of tasks) {
        const inTask = !byTask.value || task.section.id === byTask.value;
        let visible = 0;
        for (const entry of task.cards) {
          const match = (!byFailure.checked || entry.card.dataset.failed === "yes") && entry.text.includes(text);
          entry.card.hidden = !match;
          visible += match ? 1 : 0;
        }
        task.section.hidden = !inTask || visible === 0;
        count += inTask ? visible : 0;
        total += task.cards.length;
        const order = [...task.cards].sort((a, b) => {
          const x = badness(a.values, metric, sign), y = badness(b.values, metric, sign);
          return x === y ? a.place - b.place : y > x ? 1 : -1;
        });
        task.list.append(...order.map((entry) => entry.card));
      }
      shown.textContent = `${count} of ${total}`;
    };
    for (const control of [byTask, byMetric, byFailure]) control.addEventListener("change", update);
    byText.addEventListener("input", update);
    byTask.form.addEventListener("submit", (event) => event.preventDefault());
    update();
  }

  // One clip at a time; a line runs over the picture, and a click on the picture plays from there.
  for (const clip of all(".clip")) {
    const audio = clip.querySelector("audio"), plot = clip.querySelector(".plot");
    if (!audio || !plot) continue;
    const head = plot.querySelector(".playhead"), span = Number(plot.dataset.span);
    const follow = () => {
      head.style.left = `${100 * audio.currentTime / span}%`;
      if (!audio.paused) requestAnimationFrame(follow);
    };
    audio.addEventListener("play", () => {
      for (const other of all("audio")) if (other !== audio) other.pause();
      head.hidden = false;
      follow();
    });
    audio.addEventListener("seeked", follow);
    audio.addEventListener("ended", () => { head.hidden = true; });
    plot.addEventListener("click", (event) => {
      const box = plot.getBoundingClientRect();
      const seek = () => { audio.currentTime = Math.min(span * (event.clientX - box.left) / box.width, audio.duration); };
      if (audio.readyState > 0) seek();
      else audio.addEventListener("loadedmetadata", seek, { once: true });
      audio.play().catch(() => {});
    });
  }

  // A link to a metric opens its card.
  const open = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  addEventListener("hashchange", open);
  open();

  // Values under the pointer.
  const short = (value) => String(Number(value.toPrecision(4)));
  for (const chart of all(".chart")) {
    const svg = chart.querySelector("svg"), cursor = chart.querySelector(".cursor"), readout = chart.querySelector(".readout");
    const lines = JSON.parse(chart.querySelector("script").textContent);
    const labels = all(".key", chart).map((key) => key.textContent);
    const rest = readout.dataset.rest;
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
      const nearest = lines.map((points) => points.reduce((a, b) => (Math.abs(b[2] - x) < Math.abs(a[2] - x) ? b : a)));
      const at = nearest.reduce((a, b) => (Math.abs(b[2] - x) < Math.abs(a[2] - x) ? b : a));
      cursor.setAttribute("x1", at[2]);
      cursor.setAttribute("x2", at[2]);
      cursor.setAttribute("visibility", "visible");
      readout.textContent = `${rest.split(" ")[0]} ${short(at[0])}: ` + nearest.map((point, i) => `${labels[i]} ${short(point[1])}`).join(" · ");
    });
    svg.addEventListener("pointerleave", () => {
      cursor.setAttribute("visibility", "hidden");
      readout.textContent = rest;
    });
  }
})();
