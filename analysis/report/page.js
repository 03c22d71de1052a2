"use strict";
// The page's script: tables that sort and filter, figures that zoom and switch, and on a live page fresh data. All text
// from runs arrives escaped; the script only moves, compares and draws it.
(() => {
  // Disable plotly's button that sends a figure to its maker's servers.
  const drawing = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
                    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
                    toImageButtonOptions: { format: "svg" } };
  // On touch screens dragging scrolls the page; figures zoom with their buttons.
  const dragging = matchMedia("(pointer: coarse)").matches ? { dragmode: false } : {};
  const data = JSON.parse(document.getElementById("data").textContent);
  const figures = new Map(data.figures.map((figure) => [figure.key, figure]));
  document.documentElement.classList.add("scripted");

  // --- tables ------------------------------------------------------------------------------------------------------

  const orders = new Map(); // table's name -> the column it is sorted by, and whether descending

  function cellValue(row, column) {
    const cell = row.cells[column];
    const text = cell.dataset.by ?? cell.textContent.trim();
    if (text === "inf" || text === "-inf") return text === "inf" ? Infinity : -Infinity;
    // A cell may begin with its number, as in "3.73 (0.00 … 7.90)", "> 40000" and "80% (4 of 5)"; a date does not.
    const [, number] = /^[<>]?\s*([-−]?\d+(?:\.\d*)?(?:e[-+]?\d+)?)(?:$|[\s%/]|,\s)/i.exec(text) ?? [];
    return number === undefined ? text : Number(number.replace("−", "-"));
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a < b ? -1 : a > b ? 1 : 0;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b, undefined, { numeric: true });
  }

  function sort(table) {
    const order = orders.get(table.ariaLabel);
    if (!order) return;
    const direction = order.down ? -1 : 1;
    // Missing values come last in both directions.
    const missing = (value) => [Infinity, -Infinity, "", "–"].includes(value);
    const lines = [...table.tBodies[0].rows].map((row) => [cellValue(row, order.column), row]);
    lines.sort(([a], [b]) => missing(a) || missing(b) ? missing(a) - missing(b) : direction * compare(a, b));
    table.tBodies[0].append(...lines.map(([, row]) => row));
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (column === order.column) head.ariaSort = order.down ? "descending" : "ascending";
      else head.removeAttribute("aria-sort");
    });
  }

  function makeSortable(table) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.addEventListener("click", () => {
        const order = orders.get(table.ariaLabel);
        orders.set(table.ariaLabel, { column, down: order?.column === column && !order.down });
        sort(table);
      });
      head.replaceChildren(button);
    });
  }

  function filter(box) {
    const table = box.querySelector("table");
    const words = box.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [...box.querySelectorAll("select")].filter((select) => select.value !== "");
    let left = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      const fits = words.every((word) => word.length > 1 && word[0] === "-" ? !text.includes(word.slice(1))
                                                                            : text.includes(word))
        && chosen.every((select) => row.cells[select.dataset.column].textContent === select.value);
      row.hidden = !fits;
      left += fits;
    }
    box.querySelector("output").textContent = `${left} of ${table.tBodies[0].rows.length}`;
  }

  function fillChoices(box) {
    const rows = [...box.querySelector("table").tBodies[0].rows];
    for (const select of box.querySelectorAll("select")) {
      const kept = select.value;
      const values = [...new Set(rows.map((row) => row.cells[select.dataset.column].textContent))].sort();
      select.replaceChildren(new Option(select.dataset.all, ""), ...values.map((value) => new Option(value, value)));
      select.value = values.includes(kept) ? kept : "";
    }
  }

  function makeFiltered(box) {
    const table = box.querySelector("table");
    const bar = document.createElement("div");
    bar.className = "filter";
    const words = document.createElement("input");
    words.type = "search";
    words.placeholder = "words, -without";
    words.ariaLabel = `Filter: ${table.ariaLabel}`;
    words.addEventListener("input", () => filter(box));
    const selects = [...table.tHead.rows[0].cells].filter((head) => "choice" in head.dataset).map((head) => {
      const select = document.createElement("select");
      select.dataset.column = head.cellIndex;
      select.dataset.all = `${head.textContent}: all`;
      select.ariaLabel = head.textContent;
      select.addEventListener("change", () => filter(box));
      return select;
    });
    bar.append(words, ...selects, document.createElement("output"));
    box.prepend(bar);
    fillChoices(box);
    filter(box);
  }

  function makeTables(within) {
    for (const box of within.querySelectorAll("[data-filtered]")) makeFiltered(box);
    for (const table of within.querySelectorAll("table.sortable")) {
      makeSortable(table);
      sort(table);
    }
    writeTimes(within);
  }

  // --- times -------------------------------------------------------------------------------------------------------

  function ago(then) {
    const seconds = Math.max(0, Math.round((Date.now() - then) / 1000));
    return seconds < 120 ? `${seconds} s ago` : seconds < 7200 ? `${Math.round(seconds / 60)} min ago`
      : seconds < 172800 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86400)} d ago`;
  }

  function writeTimes(within) {
    for (const time of within.querySelectorAll("time")) {
      const then = new Date(time.dateTime);
      if (Number.isNaN(then.getTime())) continue;
      const spelled = then.toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" });
      time.textContent = data.refresh === null || time.closest("#made") ? spelled : ago(then);
      time.title = spelled;
    }
  }

  // --- figures -----------------------------------------------------------------------------------------------------

  const ranges = new Map(); // group -> the zoomed range of its horizontal axis

  function traces(plot) {
    const form = plot.closest(".family")?.querySelector("form");  // a search's figure has no switches
    const off = (name, value) => {
      const box = [...form?.elements ?? []].find((input) => input.name === name && input.value === String(value));
      return box !== undefined && !box.checked;
    };
    return figures.get(plot.dataset.figure).data.map((trace) => {
      const { kind, column, seed } = trace.meta;
      const hidden = off("column", column) || off("kind", kind) || (seed !== undefined && off("seed", seed));
      return { ...trace, visible: !hidden };
    });
  }

  function layout(plot) {
    const figure = figures.get(plot.dataset.figure);
    const range = ranges.get(figure.group);
    return { ...figure.layout, ...dragging,
             xaxis: range ? { ...figure.layout.xaxis, range, autorange: false } : figure.layout.xaxis };
  }

  async function draw(plot) {
    plot.dataset.drawn = "";
    plot.ariaLabel = figures.get(plot.dataset.figure).alternative;
    await Plotly.newPlot(plot, traces(plot), layout(plot), drawing);
    plot.on("plotly_relayout", (change) => zoomed(plot, change));
    plot.on("plotly_click", ({ points: [point] }) => choose(point.data.meta.run));
  }

  function redraw(plot) {
    plot.ariaLabel = figures.get(plot.dataset.figure).alternative;
    return Plotly.react(plot, traces(plot), layout(plot), drawing);
  }

  function drawn(within) {
    return [...within.querySelectorAll(".plot[data-drawn]")];
  }

  function zoomed(plot, change) {
    const { group } = figures.get(plot.dataset.figure);
    const range = change["xaxis.range"]
      ?? (change["xaxis.range[0]"] === undefined ? null : [change["xaxis.range[0]"], change["xaxis.range[1]"]]);
    if (!group || (range === null && !change["xaxis.autorange"])) return;
    if (String(ranges.get(group) ?? "") === String(range ?? "")) return;
    if (range) ranges.set(group, range); else ranges.delete(group);
    for (const other of drawn(document)) {
      const axis = other.layout.xaxis;
      if (other === plot || figures.get(other.dataset.figure).group !== group) continue;
      if (range ? axis.range[0] !== range[0] || axis.range[1] !== range[1] : !axis.autorange) {
        Plotly.relayout(other, range ? { "xaxis.range": range } : { "xaxis.autorange": true });
      }
    }
  }

  function choose(run) {
    const row = run === null || run === undefined ? null : document.getElementById(`run-${run}`);
    if (!row) return;
    for (const other of document.querySelectorAll("tr.chosen")) other.classList.remove("chosen");
    row.hidden = false;
    row.classList.add("chosen");
    row.scrollIntoView({ block: "center" });
  }

  // Draw figures only shortly before they become visible: a study has many.
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting && !("drawn" in target.dataset)) draw(target);
    }
  }, { rootMargin: "500px" });

  function makeFigures(within) {
    for (const plot of within.querySelectorAll(".plot")) watcher.observe(plot);
    for (const form of within.querySelectorAll("form.switches")) {
      form.addEventListener("submit", (event) => event.preventDefault());
      form.addEventListener("change", () => drawn(form.closest(".family")).forEach(redraw));
    }
  }

  // --- fresh data --------------------------------------------------------------------------------------------------

  let versions = data.versions; // section -> hash of its content
  let version = null;

  /** A section's HTML without its tables' lines and its sentences, which can be exchanged so that the filter stays. */
  const frame = (html) => html.replace(/<(tbody|p)\b.*?<\/\1>/gs, "");
  const frames = new Map([...document.querySelectorAll("section")].map(({ id, innerHTML }) => [id, frame(innerHTML)]));

  function replace(section, html) {
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    const before = frames.get(section.id);
    frames.set(section.id, frame(fresh.innerHTML));
    if (section.querySelector("[data-filtered]") !== null && before === frames.get(section.id)) {
      const parts = fresh.content.querySelectorAll("tbody, p");
      section.querySelectorAll("tbody, p").forEach((part, place) => part.replaceWith(parts[place]));
      for (const box of section.querySelectorAll("[data-filtered]")) {
        fillChoices(box);
        filter(box);
      }
      section.querySelectorAll("table.sortable").forEach(sort);
      writeTimes(section);
      return;
    }
    const unchecked = new Set([...section.querySelectorAll("form.switches")].flatMap((form) =>
      [...form.elements].filter((box) => box.type === "checkbox").map((box) => `${form.ariaLabel} ${box.name} ${box.value} ${box.checked}`)));
    section.replaceChildren(fresh.content);
    for (const form of section.querySelectorAll("form.switches")) {
      for (const box of form.elements) {
        if (unchecked.has(`${form.ariaLabel} ${box.name} ${box.value} ${!box.checked}`)) box.checked = !box.checked;
      }
    }
    makeTables(section);
    makeFigures(section);
  }

  async function refresh() {
    const live = document.getElementById("live");
    try {
      const answer = await fetch("data", { cache: "no-store", headers: version ? { "If-None-Match": version } : {} });
      if (answer.status !== 304) {
        if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
        const fresh = await answer.json();
        version = answer.headers.get("ETag");
        figures.clear();
        for (const figure of fresh.figures) figures.set(figure.key, figure);
        for (const [name, html] of Object.entries(fresh.parts)) {
          if (fresh.versions[name] !== versions[name]) replace(document.getElementById(name), html);
        }
        versions = fresh.versions;
        await Promise.all(drawn(document).map(redraw));
      }
      document.querySelector("#made time").dateTime = new Date().toISOString();
      live.className = "";
      live.textContent = "live";
    } catch (error) {
      live.className = "silent";
      live.textContent = `no answer (${error.message}); what is shown is old`;
    }
    writeTimes(document);
    setTimeout(refresh, 1000 * data.refresh);
  }

  makeTables(document);
  makeFigures(document);
  if (data.refresh !== null) setTimeout(refresh, 1000 * data.refresh);
})();
