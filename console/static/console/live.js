// Keeps a page true without a reload: what is marked data-live is asked for again and put in where it differs.
"use strict";
(() => {
  const script = document.currentScript;
  const EVERY_MS = Number(script.dataset.every || 10) * 1000;
  const said = () => document.getElementById("live-status");

  // The numbers of a chart change; the chart stays, or every round would leave one behind.
  function redraw(canvas, fresh) {
    const chart = Chart.getChart(canvas);
    if (!chart || canvas.dataset.value === fresh.dataset.value) return;
    canvas.dataset.value = fresh.dataset.value;
    const data = JSON.parse(fresh.dataset.value);
    chart.data.labels = data.labels;
    data.datasets.forEach((one, place) => { chart.data.datasets[place].data = one.data; });
    chart.update();
  }

  function swap(region, fresh) {
    const charts = region.querySelectorAll("canvas.chart"), others = fresh.querySelectorAll("canvas.chart");
    if (charts.length) {
      charts.forEach((one, place) => others[place] && redraw(one, others[place]));
      region.querySelectorAll("figure p").forEach((one, place) => {
        one.textContent = fresh.querySelectorAll("figure p")[place]?.textContent ?? "";
      });
      return;
    }
    if (region.innerHTML === fresh.innerHTML) return;
    const held = region.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    region.innerHTML = fresh.innerHTML;
    if (held) [...region.querySelectorAll("a[href]")].find((one) => one.getAttribute("href") === held)?.focus();
  }

  async function round() {
    if (!document.hidden) {
      try {
        const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
        if (answer.redirected) return location.reload(); // logged out meanwhile
        if (!answer.ok) throw new Error(answer.status);
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const region of document.querySelectorAll("[data-live]")) {
          const other = fresh.getElementById(region.id);
          if (other) swap(region, other);
        }
        if (said()) said().textContent = `As of ${new Date().toLocaleTimeString()}`;
      } catch {
        if (said()) said().textContent = "The server does not answer; this is what it said last.";
      }
    }
    setTimeout(round, EVERY_MS);
  }

  function colour() {
    if (typeof Chart === "undefined") return;
    Chart.defaults.color = document.documentElement.classList.contains("dark") ? "#d1d5db" : "#374151";
    for (const one of Object.values(Chart.instances)) {
      Object.values(one.options.scales).forEach((axis) => { axis.ticks.color = Chart.defaults.color; });
      one.update();
    }
  }

  window.addEventListener("load", () => {
    colour();
    new MutationObserver(colour).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
    setTimeout(round, EVERY_MS);
  });
})();
