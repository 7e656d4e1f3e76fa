"use strict";
(() => {
  document.documentElement.classList.add("script");
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const drawn = new Set();

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  // "@3" is the page's third colour, "@3/0.5" the same half transparent.
  function colour(token) {
    const match = /^@(\w+)(?:\/([\d.]+))?$/.exec(token);
    if (!match) return token;
    const solid = css(match[1]);
    if (!match[2]) return solid;
    const parts = [1, 3, 5].map((i) => parseInt(solid.slice(i, i + 2), 16));
    return `rgba(${parts.join(",")},${match[2]})`;
  }

  // A copy with the page's colours in place of tokens; only what plotly takes for a colour is looked at.
  function coloured(value, key) {
    if (key === "colorscale") return [[0, css("heat-low")], [1, css("heat-high")]];
    if (Array.isArray(value)) return value.map((item) => coloured(item, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, item]) => [k, coloured(item, k)]));
    }
    return typeof value === "string" && (key === "color" || key === "fillcolor") ? colour(value) : value;
  }

  function axis(given) {
    return {
      gridcolor: css("line"), linecolor: css("line"), zerolinecolor: css("muted"), zeroline: false,
      tickcolor: css("line"), automargin: true, ticklabelstandoff: 5, fixedrange: true, ...given,
      title: { ...(given.title || {}), font: { size: 12, color: css("muted") }, standoff: 8 },
    };
  }

  function draw(place) {
    const figure = figures[Number(place.dataset.chart)];
    const data = coloured(figure.data);
    const named = data.filter((trace) => trace.showlegend !== false && trace.type !== "heatmap");
    const legend = named.length > 1;
    const width = place.clientWidth - 70;
    const longest = Math.max(...named.map((trace) => (trace.name || "").length), 1) * 6.6 + 52;
    const rows = legend ? Math.ceil(named.length / Math.max(1, Math.floor(width / longest))) : 0;
    place.style.height = "";
    place.style.height = `${place.clientHeight + Math.max(0, rows - 1) * 19}px`;
    const layout = {
      showlegend: legend,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("ink") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 48, r: 12, t: 10, b: 44 },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12 } },
      hoverlabel: { bgcolor: css("card"), bordercolor: css("line"), font: { color: css("ink") } },
      ...figure.layout,
      xaxis: axis(figure.layout.xaxis), yaxis: axis(figure.layout.yaxis),
    };
    Plotly.react(place, data, layout, { displayModeBar: false, responsive: true });
    drawn.add(place);
  }

  const places = [...document.querySelectorAll(".plot")];
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        watcher.unobserve(entry.target);
        draw(entry.target);
      }
    }
  }, { rootMargin: "600px 0px" });
  places.forEach((place) => watcher.observe(place));
  dark.addEventListener("change", () => drawn.forEach(draw));

  // Recipes that are folded away: what was drawn in the dark is drawn again in the light, and a link opens its goal.
  const groups = [...document.querySelectorAll("details.group")];
  for (const group of groups) {
    group.addEventListener("toggle", () => group.querySelectorAll(".plot").forEach((place) => drawn.has(place) && draw(place)));
  }
  function open() {
    const goal = location.hash && document.getElementById(location.hash.slice(1));
    const group = goal && (goal.closest("details.group") || goal.querySelector(":scope > details.group"));
    if (group && !group.open) {
      group.open = true;
      goal.scrollIntoView();
    }
  }
  addEventListener("hashchange", open);
  open();
  addEventListener("beforeprint", () => {
    groups.forEach((group) => { group.open = true; });
    places.forEach((place) => drawn.has(place) || draw(place));
  });

  // On a narrow screen the contents are folded away at first.
  if (!matchMedia("(min-width: 1080px)").matches) document.querySelector(".contents").open = false;
  if (!still.matches) document.documentElement.classList.add("smooth");
})();
