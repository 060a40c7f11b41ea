// The page's own wiring: plotly draws, DataTables lists, this asks them to. Text from records is only ever set as text.
const data = JSON.parse(document.getElementById("data").textContent);
const at = Object.fromEntries(data.columns.map((column, n) => [column.name, n]));
const objective = Object.fromEntries(data.objectives.map((o) => [o.column, o]));
const $ = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");
const LIMITS = ["val_accuracy", "test_accuracy", "worst_class_accuracy", "relus", "macs", "depth", "est_delphi_online_wan_s", "pred_wan_s", "pred_link_s", "pred_bytes"].filter((c) => c in objective);
const MANY = 2000; // from here on points are drawn by the graphics card, where there is one
let visible = null; // rows that pass search and limits; null: all
let list = null;

const escape = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = (value, o) => {
  if (value === null || value === undefined) return "-";
  if (typeof value !== "number") return String(value);
  if (o && o.maximise) return value.toFixed(2);
  if (Math.abs(value) >= 1e9) return (value / 1e9).toPrecision(4) + "G";
  if (Math.abs(value) >= 1e6) return (value / 1e6).toPrecision(4) + "M";
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return Number.isInteger(value) ? value.toLocaleString("en") : Number(value.toPrecision(4)).toString();
};
const element = (name, attributes = {}, ...children) => {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
};

// ---- the plot

const KINDS = [
  ["final", "final classifier", "circle", "--final"],
  ["ac", "auxiliary classifier", "triangle-up", "--ac"],
  ["baseline", "all-ReLU baseline", "star", "--baseline"],
];
const kind = (row) => (row[at.mask_method] === "none" ? "baseline" : row[at.exit] === "final" ? "final" : "ac");

function hover(row) {
  const said = ["model", "width", "mask_method", "budget", "d_th", "gate_blocks", "gate_loss", "max_seconds", "link", "gamma", "ac_after", "exit"]
    .filter((name) => row[at[name]] !== null && row[at[name]] !== undefined)
    .map((name) => `${name} ${escape(short(row[at[name]]))}`);
  const told = ["est_delphi_online_wan_s", "pred_wan_s", "pred_link_s", "pred_bytes"];
  const costs = data.objectives.filter((o) => !/^(est|pred)_/.test(o.column) || told.includes(o.column));
  const figures = costs.map((o) => `${escape(o.short)} <b>${short(row[at[o.column]], o)}</b>`);
  return `${said.slice(0, 4).join(", ")}<br>${said.slice(4).join(", ")}<br>${figures.slice(0, 5).join(", ")}<br>${figures.slice(5).join(", ")}`;
}

function layout(more = {}) {
  const axis = { gridcolor: css("--grid"), linecolor: css("--line"), zerolinecolor: css("--grid"), automargin: true };
  const { xaxis = {}, yaxis = {}, ...rest } = more;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--text"), family: "system-ui, sans-serif", size: 13 },
    margin: { l: 55, r: 15, t: 15, b: 45 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    hoverlabel: { bgcolor: css("--panel"), font: { color: css("--text") } },
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}

const title = (o) => (innerWidth < 600 ? o.short : o.label);

function drawPlot() {
  const [x, y, group] = [objective[$("x").value], objective[$("y").value], Number($("group").value)];
  const rows = [];
  data.rows.forEach((row, n) => {
    if (row[at.group] === group && (visible === null || visible.has(n)) && row[at[x.column]] !== null && row[at[y.column]] !== null) rows.push(n);
  });
  const type = rows.length > MANY && hasWebgl() ? "scattergl" : "scatter";
  const traces = [];
  for (const [curve, points] of Object.entries(x.column === "relus" && ["val_accuracy", "test_accuracy"].includes(y.column) ? data.published[group] : {})) {
    traces.push({
      x: points.map((p) => p[0]), y: points.map((p) => p[1]), name: `${curve}, as published (test)`, type: "scatter", mode: "lines+markers",
      line: { color: css("--published"), dash: "dot", width: 1 }, marker: { color: css("--published"), symbol: "square-open", size: 6 }, hovertemplate: "%{x:,} ReLUs: %{y} %",
    });
  }
  const front = data.fronts[`${x.column}|${y.column}`][group].map((n) => data.rows[n]);
  traces.push({
    x: front.map((row) => row[at[x.column]]), y: front.map((row) => row[at[y.column]]), name: "front", type: "scatter", mode: "lines", hoverinfo: "skip",
    line: { color: css("--soft"), width: 1.5, shape: x.maximise ? "vh" : "hv" },
  });
  for (const [name, label, symbol, color] of KINDS) {
    const mine = rows.filter((n) => kind(data.rows[n]) === name);
    if (!mine.length) continue;
    const trace = {
      x: mine.map((n) => data.rows[n][at[x.column]]), y: mine.map((n) => data.rows[n][at[y.column]]), customdata: mine, name: label, type, mode: "markers",
      text: mine.map((n) => hover(data.rows[n])), hovertemplate: "%{text}<extra></extra>", marker: { symbol, color: css(color), size: name === "baseline" ? 13 : 9, opacity: 0.85 },
    };
    if (data.means.includes(y.column) && mine.length < 500) {
      const deviation = mine.map((n) => data.rows[n][at[`${y.column}_std`]]);
      if (deviation.some((s) => s !== null)) trace.error_y = { type: "data", array: deviation.map((s) => s ?? 0), thickness: 1, width: 3, color: css(color) };
    }
    traces.push(trace);
  }
  $("log").disabled = !rows.every((n) => data.rows[n][at[x.column]] > 0); // a model without any ReLU has no place on a logarithm
  const asLog = $("log").checked && !$("log").disabled;
  const axes = { xaxis: { title: { text: title(x) }, type: asLog ? "log" : "linear", tickformat: x.maximise ? "" : "~s", dtick: asLog && spread(rows.map((n) => data.rows[n][at[x.column]])) < 100 ? "D2" : null }, yaxis: { title: { text: title(y) } }, hovermode: "closest" };
  Plotly.react("plot", traces, layout(axes), { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] });
  const of = data.rows.filter((row) => row[at.group] === group).length;
  $("count").textContent = `${rows.length.toLocaleString("en")} of ${of.toLocaleString("en")} models`;
}

function spread(values) {
  const positive = values.filter((v) => v > 0);
  return Math.max(...positive) / Math.min(...positive);
}

let webgl = null;
function hasWebgl() {
  webgl ??= Boolean(document.createElement("canvas").getContext("webgl"));
  return webgl;
}

// ---- the controls

function passes(row) {
  if (row[at.group] !== Number($("group").value)) return false;
  return LIMITS.every((column) => {
    const limit = amount($(`limit-${column}`).value);
    const value = row[at[column]];
    return limit === null || (value !== null && (objective[column].maximise ? value >= limit : value <= limit));
  });
}

function amount(text) {
  const found = /^\s*(\d+\.?\d*|\.\d+)\s*([kKmMgG]?)\s*$/.exec(text);
  return found ? Number(found[1]) * { "": 1, k: 1e3, m: 1e6, g: 1e9 }[found[2].toLowerCase()] : null;
}

function setUpControls() {
  data.groups.forEach((name, n) => $("group").append(new Option(name, n)));
  for (const o of data.objectives) {
    $("x").append(new Option(o.label, o.column));
    $("y").append(new Option(o.label, o.column));
  }
  $("x").value = "relus" in objective ? "relus" : data.objectives.at(-1)?.column;
  $("y").value = data.y in objective ? data.y : data.objectives[0]?.column;
  $("log").checked = Boolean(objective[$("x").value]?.is_log);
  for (const column of LIMITS) {
    const o = objective[column];
    const input = element("input", { id: `limit-${column}`, type: "text", inputMode: "decimal", placeholder: o.maximise ? "at least" : "at most" });
    input.addEventListener("input", () => {
      input.setCustomValidity(input.value.trim() && amount(input.value) === null ? "a number, such as 70 or 50k" : "");
      input.reportValidity();
      list.draw();
    });
    $("limits").append(element("label", {}, o.short, input));
  }
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["x", "y"])
    $(id).addEventListener("change", () => {
      if (id === "x") $("log").checked = objective[$("x").value].is_log;
      if ($("x").value === $("y").value) $(id === "x" ? "y" : "x").value = data.objectives.find((o) => o.column !== $(id).value).column;
      drawPlot();
    });
  $("log").addEventListener("change", drawPlot);
  $("group").addEventListener("change", () => list.draw());
}

// ---- the list

async function setUpList() {
  const bundle = URL.createObjectURL(new Blob([$("datatables").textContent], { type: "text/javascript" }));
  const { default: DataTable, set_or_remove_dark_class: followSystem } = await import(bundle);
  followSystem();
  const columns = data.columns.map(({ name, heading, shown }, n) => ({
    title: escape(heading), data: n, visible: shown, defaultContent: "",
    className: name in objective ? "dt-right" : "",
    render: { display: (value) => escape(short(value, objective[name])), filter: (value) => (value === null ? "" : String(value)), sort: (value) => (value === null ? "" : value) },
    ...(name === "key" && { orderable: false, createdCell: (cell, value, row, n) => cell.replaceChildren(opener(n)) }),
  }));
  const first = at[data.y];
  list = new DataTable("#models", {
    data: data.rows, columns, deferRender: true, autoWidth: false, pageLength: 25, lengthMenu: [10, 25, 100, 500],
    order: first === undefined ? [] : [[first, "desc"]], language: { search: "Filter:", emptyTable: "No model is finished yet.", zeroRecords: "No model meets the filter and the limits." },
  });
  list.search.fixed("limits", (text, row, n) => passes(data.rows[n]));
  let waiting = 0;
  list.on("draw", () => {
    const now = list.rows({ search: "applied" }).indexes().toArray();
    if (visible && now.length === visible.size && now.every((n) => visible.has(n))) return; // sorted or paged
    visible = new Set(now);
    clearTimeout(waiting);
    waiting = setTimeout(drawPlot, 60);
  });
  list.draw();
}

function opener(n) {
  const button = element("button", { className: "open", type: "button", textContent: String(data.rows[n][at.key]).slice(0, 12) });
  button.setAttribute("aria-label", `Open record ${button.textContent}`);
  button.addEventListener("click", () => openRow(n));
  return button;
}

// ---- one record

const packs = new Map();
async function recordOf(key) {
  const number = data.chunkOf[key];
  if (number === undefined) return null;
  if (!packs.has(number)) {
    const bytes = Uint8Array.from(atob($(`chunk-${number}`).textContent), (letter) => letter.charCodeAt(0));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    packs.set(number, await new Response(unpacked).json());
  }
  return packs.get(number)[key] ?? null;
}

async function openRow(n) {
  const row = data.rows[n];
  const keys = row[at.key_list] ?? [row[at.key]];
  const body = $("record-body");
  const show = async (key) => {
    const record = await recordOf(key);
    body.querySelectorAll(".js-plotly-plot").forEach((plot) => Plotly.purge(plot));
    body.replaceChildren();
    $("record-title").textContent = record ? record.label : String(key);
    if (!record) return body.append(element("p", { textContent: "This record is not on the page." }));
    if (keys.length > 1) {
      const choice = element("select");
      keys.forEach((other, k) => choice.append(new Option(`seed ${(row[at.seed_list] ?? [])[k]}`, other, false, other === key)));
      choice.addEventListener("change", () => show(choice.value).then(() => body.querySelector("select")?.focus()));
      body.append(element("label", {}, `One of ${keys.length} seeds: `, choice));
    }
    await fill(body, record, row, n);
  };
  await show(row[at.key]);
  if (!$("record").open) $("record").showModal();
  $("record").scrollTop = 0;
  body.querySelectorAll(".js-plotly-plot").forEach((plot) => Plotly.Plots.resize(plot));
}

// Predicted seconds by layer, over a link: what is computed, what is sent, and waiting.
function drawSeconds(body, record, row, n) {
  const shared = data.predicted.shared[data.predicted.of[n]];
  if (!shared || record.key !== row[at.key]) return; // another seed's network may be another
  const counted = Object.fromEntries(record.metrics.costs[row[at.exit]].map((layer) => [layer.layer, layer]));
  const [ofLayer, ofRelu, ofPosition] = shared.relu;
  const parts = shared.layers.map(([name, costs]) => {
    if (costs) return [name, ...costs];
    const { relus: kept = 0, relu_positions: size = 0 } = counted[name] ?? {};
    if (!kept) return [name, 0, 0, 0];
    const [s, bytes, trips] = ofLayer.map((one, i) => one + kept * ofRelu[i]);
    return [name, s + (kept < size ? size * ofPosition : 0), bytes, trips];
  });
  const choice = element("select", { id: "seconds-link" });
  for (const [name] of [...data.predicted.links, ["one machine"]]) choice.append(new Option(name, name));
  choice.value = data.predicted.links.at(-1)[0]; // the user's own, or WAN
  const place = element("div", { id: "seconds" });
  const total = element("span");
  body.append(element("h3", { textContent: "Predicted seconds by layer" }), element("label", {}, "Link: ", choice), total, place);
  const draw = () => {
    const [, perByte, perTrip] = data.predicted.links.find(([name]) => name === choice.value) ?? ["", 0, 0];
    const stacks = [
      ["computed", parts.map((part) => part[1]), "--final"],
      ["sent", parts.map((part) => part[2] * perByte), "--ac"],
      ["waited", parts.map((part) => part[3] * perTrip), "--published"],
    ];
    total.textContent = ` ${short(stacks.flatMap(([, seconds]) => seconds).reduce((sum, s) => sum + s, 0))} s in all`;
    const ticks = parts.map(([name]) => escape(name));
    const bars = stacks.map(([name, x, color]) => ({ type: "bar", orientation: "h", y: ticks, x, name, marker: { color: css(color) } }));
    const look = { barmode: "stack", height: 90 + 14 * parts.length, yaxis: { autorange: "reversed", dtick: 1, tickfont: { size: 10 } }, xaxis: { title: { text: "seconds, predicted" } } };
    Plotly.react(place, bars, layout(look), { responsive: true, displaylogo: false });
  };
  choice.addEventListener("change", draw);
  draw();
}

async function fill(body, record, row, n) {
  const mask = await recordOf(record.parents?.mask?.key);
  const exits = record.rows ?? [];
  if (exits.length) {
    const shown = data.objectives.filter((o) => exits.some((e) => e[o.column] !== undefined));
    body.append(element("h3", { textContent: "Results and costs" }));
    body.append(grid(["exit", ...shown.map((o) => o.label)], exits.map((e) => [e.exit, ...shown.map((o) => short(e[o.column], o))])));
    const estimated = data.objectives.filter((o) => /^(est|pred)_/.test(o.column) && row[at[o.column]] !== null);
    if (estimated.length) body.append(grid([`estimated or predicted, not measured${row[at.seeds] > 1 ? "; of the best seed" : ""}`, row[at.exit] ?? ""], estimated.map((o) => [o.label, short(row[at[o.column]], o)])));
  }
  const pair = element("div", { className: "pair" });
  body.append(pair);
  const history = record.history ?? [];
  const names = ["val_accuracy", "loss", "gamma"].filter((name) => history.some((h) => typeof h[name] === "number"));
  for (const name of names) {
    const place = element("div", { className: "small" });
    pair.append(place);
    const line = { x: history.map((h, i) => h.epoch ?? i + 1), y: history.map((h) => h[name] ?? null), mode: "lines+markers", line: { color: css("--final") } };
    const label = { val_accuracy: "validation accuracy (%)", loss: "training loss", gamma: "gate γ" }[name];
    Plotly.newPlot(place, [line], layout({ xaxis: { title: { text: "epoch" } }, yaxis: { title: { text: label } } }), { responsive: true, displaylogo: false });
  }
  const before = mask?.metrics?.layers ?? record.metrics?.layers;
  const costs = record.metrics?.costs?.[row[at.exit]];
  if (Array.isArray(before)) {
    const left = Object.fromEntries((Array.isArray(costs) ? costs : []).map((layer) => [layer.layer, layer.relus]));
    const layers = before.map((layer) => layer.layer);
    const ticks = layers.map(escape); // plotly takes tags in tick labels for formatting
    const place = element("div", { className: "layers" });
    pair.append(place);
    const bars = [{ type: "bar", orientation: "h", y: ticks, x: before.map((l) => l.kept), name: "in the mask", marker: { color: css("--published") } }];
    if (costs) bars.push({ type: "bar", orientation: "h", y: ticks, x: layers.map((name) => left[name] ?? 0), name: "deployed, after gating", marker: { color: css("--final") } });
    Plotly.newPlot(place, bars, layout({ yaxis: { autorange: "reversed" }, xaxis: { title: { text: "ReLUs per image" } }, barmode: "group", bargap: 0.25 }), { responsive: true, displaylogo: false });
  }
  drawSeconds(body, record, row, n);
  const flat = [];
  flatten(record.config ?? {}, "", flat);
  body.append(element("h3", { textContent: "Configuration" }), grid(["field", "value"], flat));
  if (Array.isArray(costs)) {
    const head = ["layer", "kind", "relus", "relu_positions", "macs", "depth", "params"];
    body.append(element("h3", { textContent: `Costs by layer, exit ${row[at.exit]}` }), grid(head, costs.map((layer) => head.map((name) => short(layer[name])))));
  }
  const whole = element("details", {}, element("summary", { textContent: "The whole record" }));
  whole.addEventListener("toggle", () => whole.open && whole.children.length < 2 && whole.append(element("pre", { textContent: JSON.stringify(record, null, 1) })));
  body.append(whole);
}

function flatten(value, name, into) {
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    for (const [inner, of] of Object.entries(value)) flatten(of, name ? `${name}.${inner}` : inner, into);
  } else into.push([name, Array.isArray(value) ? JSON.stringify(value) : String(value)]);
}

function grid(headings, lines) {
  const table = element("table", { className: "plain" });
  const head = element("tr");
  headings.forEach((text) => head.append(element("th", { scope: "col", textContent: text })));
  table.append(element("thead", {}, head));
  const rows = element("tbody");
  for (const line of lines) {
    const tr = element("tr");
    line.forEach((text) => tr.append(element("td", { textContent: text })));
    rows.append(tr);
  }
  table.append(rows);
  const scroll = element("div", { className: "scroll", tabIndex: 0 }, table);
  return scroll;
}

for (const made of document.querySelectorAll(".scripted")) made.hidden = false; // a plot takes the size of where it is shown
if (data.objectives.length) {
  setUpControls();
  drawPlot();
  $("plot").on("plotly_click", (event) => event.points[0].customdata !== undefined && openRow(event.points[0].customdata));
  dark.addEventListener("change", drawPlot);
  await setUpList();
} else {
  $("front").replaceChildren(element("p", { textContent: "No model is finished yet." }));
  $("list").remove();
}
for (const id of ["still", "still-front"]) $(id)?.remove(); // last: where anything above fails, they say so and stand in
document.body.dataset.ready = "yes";
