// The explorer: reads histories, and keeps what is drawn to the play head and the filters.
"use strict";
(async () => {
const LIMIT = 20000;      // edges drawn singly; more are bundled until one zooms in
const MATRIX = 384;       // rows and columns of the adjacency matrix as a picture
const CELLS = [24, 14];   // of the grid between whose cells edges are bundled
const SHADES = 6, WIDTHS = [0.5, 0.8, 1.1, 1.5, 2.0, 2.8];
const HINT = "Click a node to keep it here: its edges, its paths, its kernel.";
const opacity = shade => 0.3 + 0.65 * shade / (SHADES - 1);
const $ = id => document.getElementById(id);
const given = JSON.parse($("neuralgraph-data").textContent);

// Reading a history: see neuralgraph/rewiring/records.py for the format

const MAGIC = "neuralgraph history 1\n".length;

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

class Bytes {
  constructor(content) {
    const end = content.indexOf(10);
    this.header = JSON.parse(new TextDecoder().decode(content.subarray(0, end)));
    this.content = content.slice(end + 1);
    this.place = 0;
  }
  take(number, Kind) {
    const size = number * Kind.BYTES_PER_ELEMENT;
    if (this.place + size > this.content.length) throw new Error("a record is too short");
    const values = new Kind(this.content.slice(this.place, this.place + size).buffer);
    this.place += size;
    return values;
  }
  summed(number, Kind) {
    const values = Int32Array.from(this.take(number, Kind));
    for (let i = 1; i < number; i++) values[i] += values[i - 1];
    return values;
  }
}

function float16(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
const HALF = Float32Array.from({length: 65536}, (_, bits) => float16(bits));

class History {
  constructor() { this.parts = null; this.steps = []; this.records = []; this.rest = new Uint8Array(0); this.begun = false; }

  // Takes what was written since; returns how many records that were.
  async append(bytes) {
    const all = new Uint8Array(this.rest.length + bytes.length);
    all.set(this.rest); all.set(bytes, this.rest.length);
    let place = 0, number = 0;
    if (!this.begun) { if (all.length < MAGIC) { this.rest = all; return 0; } this.begun = true; place = MAGIC; }
    const view = new DataView(all.buffer);
    while (place + 8 <= all.length) {
      const length = view.getUint32(place, true);
      if (place + 8 + length > all.length) break;
      this.record(new Bytes(await inflate(all.subarray(place + 8, place + 8 + length))));
      place += 8 + length;
      number++;
    }
    this.rest = all.slice(place);
    return number;
  }

  record(bytes) {
    if (!this.parts) {
      this.parts = bytes.header.parts.map(part => {
        if (part.nodes === undefined) return {name: part.name, candidates: part.candidates};
        bytes.take(part.nodes, Uint8Array); bytes.take(part.nodes, Int32Array);
        return {name: part.name, nodes: part.nodes, candidates: part.candidates,
                src: bytes.summed(part.candidates, Int32Array), dst: bytes.summed(part.candidates, Int32Array)};
      });
      return;
    }
    const before = this.records[this.records.length - 1];
    this.steps.push(bytes.header.step);
    this.records.push(bytes.header.parts.map(([births, deaths, width], number) => {
      const old = before ? before[number] : {real: new Int32Array(0), bits: null};
      const born = bytes.summed(births, Uint32Array), died = bytes.summed(deaths, Uint32Array);
      const real = merged(old.real, born, died);
      let bits = null;
      if (width) {
        const low = bytes.take(real.length * width, Uint8Array), Kind = width === 2 ? Uint16Array : Uint32Array;
        bits = new Kind(real.length);
        for (let i = 0; i < real.length; i++)
          for (let byte = width - 1; byte >= 0; byte--) bits[i] = bits[i] * 256 + low[byte * real.length + i];
        if (old.bits instanceof Kind)
          for (let i = 0, j = 0; i < real.length; i++) {
            while (j < old.real.length && old.real[j] < real[i]) j++;
            if (j < old.real.length && old.real[j] === real[i]) bits[i] += old.bits[j];
          }
      }
      return {born, died, real, bits};
    }));
  }

  // The weights of the real edges of a record; null where they were not recorded.
  weights(index, part) {
    const {bits} = this.records[index][part];
    if (!bits) return null;
    return bits instanceof Uint16Array ? Float32Array.from(bits, b => HALF[b]) : new Float32Array(bits.buffer);
  }
}

function merged(real, born, died) {
  const gone = new Set(died), now = new Int32Array(real.length - died.length + born.length);
  let i = 0, j = 0, n = 0;
  while (i < real.length || j < born.length) {
    if (j >= born.length || (i < real.length && real[i] < born[j])) { if (!gone.has(real[i])) now[n++] = real[i]; i++; }
    else now[n++] = born[j++];
  }
  return now;
}

// What belongs to which class: attributions and circuits of the model at the end

function decoded(text, Kind) { return new Kind(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer); }
function chosen(id, kind) {  // what is chosen there, of the graph that is shown
  const {classes} = sides[0], number = $(id).value;
  if (!classes || number === "") return null;
  const one = classes[kind][number], text = one.graphs[state.part];
  if (!one.read) one.read = new Map();
  if (!one.read.has(state.part)) one.read.set(state.part, kind === "circuits" ? new Set(decoded(text, Int32Array)) :
    {edges: decoded(text.edges, Float32Array), nodes: decoded(text.nodes, Float32Array)});
  return one.read.get(state.part);
}

// State

const sides = given.map(one => ({...one, history: new History(), read: 0}));
const state = {index: 0, part: 0, playing: false, pinned: null, drawn: [], dark: false, detail: null};

const models = new Map();
function model(name) {
  if (!models.has(name))
    for (const doc of Bokeh.documents) { const found = doc.get_model_by_name(name); if (found) { models.set(name, found); break; } }
  return models.get(name);
}
async function ready() {
  while (!(Bokeh.documents.length && given.every((_, side) => model(`graph-${side}`)) && Bokeh.documents.every(doc => doc.is_idle !== false)))
    await new Promise(done => setTimeout(done, 30));
}
function set(name, data) { model(name).data = data; }

// The record of a side at the play head: the one of the same time; of another run, the last not later.
function indexOf(side) {
  if (side === 0) return Math.min(state.index, sides[0].history.steps.length - 1);
  const step = sides[0].history.steps[state.index], steps = sides[side].history.steps;
  let index = 0;
  while (index + 1 < steps.length && steps[index + 1] <= step) index++;
  return index;
}

// What is looked at

// The real edges that pass the filters, ascending, with their weights.
function visible(side) {
  const one = sides[side], index = indexOf(side), record = one.history.records[index][state.part], {real} = record;
  const weights = one.history.weights(index, state.part), ends = one.history.parts[state.part], {block} = one.graphs[state.part];
  const attribution = chosen("view", "attributions"), circuit = chosen("circuit", "circuits");
  const value = (i, edge) => attribution ? attribution.edges[edge] : weights ? weights[i] : 1;
  let most = 0;
  if (weights || attribution) for (let i = 0; i < real.length; i++) most = Math.max(most, Math.abs(value(i, real[i])));
  const least = Number($("least").value) * most, from = $("from").value, to = $("to").value;
  const age = Number($("age").value) || 0, since = age > 0 ? births(side, index) : null, now = one.history.steps[index];
  let edges = new Int32Array(real.length), shown = new Float32Array(real.length), number = 0;
  for (let i = 0; i < real.length; i++) {
    const edge = real[i], w = value(i, edge);
    if (Math.abs(w) < least || circuit && !circuit.has(edge) || from !== "" && block[ends.src[edge]] !== Number(from) || to !== "" && block[ends.dst[edge]] !== Number(to) ||
        since && now - since[edge] < age) continue;
    edges[number] = edge; shown[number++] = w;
  }
  edges = edges.subarray(0, number); shown = shown.subarray(0, number);
  const top = $("top").value === "" ? Infinity : Number($("top").value);
  if (number > top) {
    const strongest = [...shown.keys()].sort((a, b) => Math.abs(shown[b]) - Math.abs(shown[a])).slice(0, top).sort((a, b) => a - b);
    edges = Int32Array.from(strongest, i => edges[i]); shown = Float32Array.from(strongest, i => shown[i]);
  }
  return {edges, shown, most, record, weights, index, attribution};
}

// The step at which each edge that is real now became so.
function births(side, index) {
  const {history} = sides[side], since = new Float64Array(history.parts[state.part].candidates).fill(NaN);
  for (let i = 0; i <= index; i++) for (const edge of history.records[i][state.part].born) since[edge] = history.steps[i];
  return since;
}

function shadeOf(w, most) { return most > 0 ? Math.min(SHADES - 1, Math.floor(SHADES * Math.sqrt(Math.abs(w) / most))) : 0; }

// Lines by sign and shade, each of segments with gaps between.
class Lines {
  constructor(number) { this.number = number; this.of = new Uint8Array(number); this.ends = new Float32Array(4 * number); this.counts = new Int32Array(2 * SHADES); this.at = 0; }
  add(isPositive, shade, x1, y1, x2, y2) {
    const which = (isPositive ? 0 : SHADES) + shade, at = 4 * this.at;
    this.of[this.at++] = which; this.counts[which]++;
    this.ends[at] = x1; this.ends[at + 1] = y1; this.ends[at + 2] = x2; this.ends[at + 3] = y2;
  }
  made() {
    const made = Array.from(this.counts, count => ({x: new Float32Array(3 * count).fill(NaN), y: new Float32Array(3 * count).fill(NaN)})), next = new Int32Array(2 * SHADES);
    for (let i = 0; i < this.at; i++) {
      const {x, y} = made[this.of[i]], place = next[this.of[i]];
      x[place] = this.ends[4 * i]; y[place] = this.ends[4 * i + 1]; x[place + 1] = this.ends[4 * i + 2]; y[place + 1] = this.ends[4 * i + 3];
      next[this.of[i]] += 3;
    }
    return Object.fromEntries(made.map((line, which) => [(which < SHADES ? "p" : "n") + which % SHADES, line]));
  }
}

// Edges as lines: each, or bundled between the cells of a grid where there are too many in sight.
function linesOf(side, {edges, shown, most}) {
  const {x, y} = sides[side].graphs[state.part], {src, dst} = sides[side].history.parts[state.part];
  const {x_range, y_range} = model(`graph-${side}`);
  const left = Math.min(x_range.start, x_range.end), right = Math.max(x_range.start, x_range.end);
  const top = Math.min(y_range.start, y_range.end), bottom = Math.max(y_range.start, y_range.end);
  const inSight = new Int32Array(edges.length);
  let number = 0;
  for (let i = 0; i < edges.length; i++) {
    const u = src[edges[i]], v = dst[edges[i]];
    if (Math.max(x[u], x[v]) >= left && Math.min(x[u], x[v]) <= right && Math.max(y[u], y[v]) >= top && Math.min(y[u], y[v]) <= bottom) inSight[number++] = i;
  }
  if (number <= LIMIT) {
    const lines = new Lines(number);
    for (let j = 0; j < number; j++) {
      const i = inSight[j], u = src[edges[i]], v = dst[edges[i]];
      lines.add(shown[i] > 0, shadeOf(shown[i], most), x[u], y[u], x[v], y[v]);
    }
    return {made: lines.made(), bundles: 0, inSight: number};
  }
  const cells = Int32Array.from(x, (_, node) => {  // margins are cells of their own
    const column = Math.max(-1, Math.min(CELLS[0], Math.floor((x[node] - left) / (right - left) * CELLS[0])));
    return (column + 1) * (CELLS[1] + 2) + Math.max(-1, Math.min(CELLS[1], Math.floor((y[node] - top) / (bottom - top) * CELLS[1]))) + 1;
  });
  const count = (CELLS[0] + 2) * (CELLS[1] + 2), places = new Int32Array(count * count).fill(-1), sums = new Float32Array(6 * number);
  let bundles = 0, largest = 0;
  for (let j = 0; j < number; j++) {
    const i = inSight[j], u = src[edges[i]], v = dst[edges[i]], key = cells[u] * count + cells[v];
    if (places[key] < 0) places[key] = bundles++;
    const at = 6 * places[key];
    largest = Math.max(largest, ++sums[at]);
    sums[at + 1] += shown[i]; sums[at + 2] += x[u]; sums[at + 3] += y[u]; sums[at + 4] += x[v]; sums[at + 5] += y[v];
  }
  const lines = new Lines(bundles);
  for (let at = 0; at < 6 * bundles; at += 6) {
    const n = sums[at];
    lines.add(sums[at + 1] > 0, shadeOf(n, largest), sums[at + 2] / n, sums[at + 3] / n, sums[at + 4] / n, sums[at + 5] / n);
  }
  return {made: lines.made(), bundles, inSight: number};
}

function degreesOf(side, kept) {
  const graph = sides[side].graphs[state.part], ends = sides[side].history.parts[state.part];
  const inward = new Int32Array(graph.x.length), outward = new Int32Array(graph.x.length);
  for (const edge of kept) { outward[ends.src[edge]]++; inward[ends.dst[edge]]++; }
  return {inward, outward};
}

// Drawing

const ROLES = {1: "#009E73", 2: "#CC79A7"};
const NAMES = ["hidden", "input", "output"];

function drawSide(side) {
  const seen = visible(side), graph = sides[side].graphs[state.part], ends = sides[side].history.parts[state.part];
  const {made, bundles, inSight} = linesOf(side, seen);
  const fading = Math.min(1, Math.sqrt(1000 / Math.max(1, bundles || inSight)));
  for (const [name, line] of Object.entries(made)) {
    set(`edges-${side}-${name}`, line);
    model(`look-edges-${side}-${name}`).setv({line_alpha: {value: opacity(Number(name[1])) * (0.1 + 0.9 * fading)}, line_width: {value: WIDTHS[name[1]] * (0.5 + 0.5 * fading)}});
  }
  const {inward, outward} = degreesOf(side, seen.record.real), number = graph.x.length;
  const found = $("find").value.trim().toLowerCase(), hidden = state.dark ? "#c9d1d9" : "#444444";
  const size = Math.max(4, Math.min(13, 330 / Math.sqrt(number) / 2));
  let largest = 0;
  if (seen.attribution) for (const a of seen.attribution.nodes) largest = Math.max(largest, Math.abs(a));
  const columns = {x: graph.x, y: graph.y, colour: [], alpha: [], size: [], label: graph.label, degrees: []};
  for (let v = 0; v < number; v++) {
    const hit = found !== "" && graph.label[v].toLowerCase().includes(found);
    columns.colour.push(hit || v === state.pinned ? "#E69F00" : ROLES[graph.role[v]] || hidden);
    columns.alpha.push(hit || inward[v] + outward[v] > 0 ? 1 : 0.12);
    const counts = largest ? 0.5 + 1.8 * Math.sqrt(Math.abs(seen.attribution.nodes[v]) / largest) : 1;
    columns.size.push(hit || v === state.pinned ? size * 1.8 : size * counts);
    columns.degrees.push(`${inward[v]} in, ${outward[v]} out`);
  }
  set(`nodes-${side}`, columns);
  drawMatrix(side, seen);
  set(`lit-${side}`, pathsThrough(side, seen.edges));
  state.drawn[side] = {kept: seen.edges, real: seen.record.real.length, bundles, inSight, lines: made,
                       dead: inward.reduce((n, d, v) => n + (d + outward[v] === 0 ? 1 : 0), 0), seen, inward, outward};
}

// Which edges there are, [to, from], as a picture: of many nodes some share a row
function drawMatrix(side, {edges, shown}) {
  const {src, dst} = sides[side].history.parts[state.part], order = orderOf(side), number = order.length;
  const cells = Math.min(number, MATRIX), sums = new Float32Array(cells * cells), counts = new Int32Array(cells * cells), pixels = new Uint32Array(cells * cells);
  let most = 1;
  for (let i = 0; i < edges.length; i++) {
    const at = Math.floor(order[dst[edges[i]]] * cells / number) * cells + Math.floor(order[src[edges[i]]] * cells / number);
    sums[at] += Math.sign(shown[i]); most = Math.max(most, ++counts[at]);
  }
  for (let at = 0; at < pixels.length; at++)
    if (counts[at]) pixels[at] = (Math.round(255 * (0.45 + 0.55 * Math.sqrt(counts[at] / most))) << 24 | (sums[at] > 0 ? 0xB27200 : 0x005ED5)) >>> 0;
  const name = `matrix-image-${side}`, Image = model(name).data.image[0].constructor;
  set(name, {image: [new Image(pixels, [cells, cells])], size: [number]});
}

function orderOf(side) {
  const graph = sides[side].graphs[state.part];
  if (!graph.order) {
    const nodes = [...graph.x.keys()].sort((a, b) => graph.block[a] - graph.block[b] || graph.y[a] - graph.y[b]);
    graph.order = new Int32Array(nodes.length);
    nodes.forEach((node, place) => { graph.order[node] = place; });
  }
  return graph.order;
}

// All edges that lie on a path through the pinned node: what leads to it, and what it leads to.
function pathsThrough(side, edges) {
  const line = {x: [], y: []}, push = (x1, y1, x2, y2) => { line.x.push(x1, x2, NaN); line.y.push(y1, y2, NaN); };
  if (state.pinned === null) return line;
  const graph = sides[side].graphs[state.part], ends = sides[side].history.parts[state.part];
  for (const [own, other] of [[ends.dst, ends.src], [ends.src, ends.dst]]) {
    const at = new Map();
    for (const edge of edges) { if (!at.has(own[edge])) at.set(own[edge], []); at.get(own[edge]).push(edge); }
    const reached = new Set([state.pinned]), queue = [state.pinned];
    while (queue.length) {
      for (const edge of at.get(queue.pop()) || []) {
        push(graph.x[ends.src[edge]], graph.y[ends.src[edge]], graph.x[ends.dst[edge]], graph.y[ends.dst[edge]]);
        if (!reached.has(other[edge])) { reached.add(other[edge]); queue.push(other[edge]); }
      }
    }
  }
  return line;
}

function drawCharts() {
  const {seen, inward, outward} = state.drawn[0], step = sides[0].history.steps[indexOf(0)];
  for (const name of ["turnover", "threshold", "dead", "accuracy"]) model(`head-${name}`).location = step;
  const bars = {left: [], right: [], top: [], colour: []};
  let threshold = NaN, heaviest = 0;
  if (seen.weights && seen.weights.length) {
    threshold = Infinity;
    for (const w of seen.weights) heaviest = Math.max(heaviest, Math.abs(w));
    for (const w of seen.weights) threshold = Math.min(threshold, Math.abs(w));
    const BINS = 20, width = (heaviest - threshold) / BINS || heaviest / BINS || 1, counts = new Int32Array(2 * BINS);  // bins begin at the threshold
    for (const w of seen.weights) {
      const bin = Math.min(BINS - 1, Math.floor((Math.abs(w) - threshold) / width));
      counts[w > 0 ? BINS + bin : BINS - 1 - bin]++;
    }
    counts.forEach((count, bin) => {
      const left = bin < BINS ? -threshold - (BINS - bin) * width : threshold + (bin - BINS) * width;
      bars.left.push(left); bars.right.push(left + width); bars.top.push(count); bars.colour.push(bin >= BINS ? "#0072B2" : "#D55E00");
    });
  }
  set("weights", bars);
  frame("weights", bars.left.length ? [bars.left[0], bars.right[bars.right.length - 1]] : [], [0, ...bars.top]);
  model("threshold-low").location = -threshold; model("threshold-high").location = threshold;
  const role = sides[0].graphs[state.part].role;
  const largest = Math.max(1, ...inward.reduce((m, d) => [Math.max(m[0], d)], [1]), ...outward.reduce((m, d) => [Math.max(m[0], d)], [1]));
  const width = Math.ceil((largest + 1) / 60), bins = Math.ceil((largest + 1) / width), ins = new Int32Array(bins), outs = new Int32Array(bins);
  inward.forEach((d, v) => { if (d + outward[v] > 0) { if (role[v] !== 1) ins[Math.floor(d / width)]++; if (role[v] !== 2) outs[Math.floor(outward[v] / width)]++; } });
  const at = [...ins.keys()];
  set("degrees", {left: at.map(b => b * width - 0.5), right: at.map(b => (b + 1) * width - 0.5), top: [...ins], colour: at.map(() => "#0072B2")});
  frame("degrees", [-0.5, bins * width - 0.5], [0, ...ins, ...outs]);
  set("degrees-out", {x: at.map(b => b * width + (width - 1) / 2), y: [...outs]});
}

// The ranges of a chart: these numbers and a little more
function frame(name, xs, ys) {
  const {x_range, y_range} = model(`chart-${name}`);
  for (const [range, values, room] of [[x_range, xs, 0.02], [y_range, ys, 0.08]]) {
    let least = Infinity, most = -Infinity;
    for (const value of values) if (Number.isFinite(value)) { least = Math.min(least, value); most = Math.max(most, value); }
    if (least > most) [least, most] = [0, 1];
    const more = (most - least || Math.abs(most) || 1) * room;
    range.setv({start: range === y_range && least >= 0 && least - more < 0 ? 0 : least - more, end: most + more});
  }
}

// Curves over all records, drawn anew when there are more
function drawCurves() {
  sides.forEach((one, side) => {
    const {history} = one, part = state.part, turnover = {x: [], y: []}, threshold = {x: [], y: []}, dead = {x: [], y: []};
    history.records.forEach((record, index) => {
      const {born, real} = record[part], step = history.steps[index];
      if (index) { turnover.x.push(step); turnover.y.push(real.length ? born.length / real.length : 0); }
      const weights = history.weights(index, part);
      if (weights && weights.length) { let least = Infinity; for (const w of weights) least = Math.min(least, Math.abs(w)); threshold.x.push(step); threshold.y.push(least); }
      const {inward, outward} = degreesOf(side, real);
      dead.x.push(step); dead.y.push(inward.reduce((n, d, v) => n + (d + outward[v] === 0 ? 1 : 0), 0));
    });
    const tested = one.metrics.filter(row => typeof row.test_accuracy === "number");
    set(`turnover-${side}`, turnover); set(`threshold-${side}`, threshold); set(`dead-${side}`, dead);
    set(`accuracy-${side}`, {x: tested.map(row => row.step), y: tested.map(row => row.test_accuracy)});
  });
  const steps = sides.flatMap(one => [one.history.steps[0], one.history.steps[one.history.steps.length - 1]]);
  for (const name of ["turnover", "threshold", "dead", "accuracy"])
    frame(name, steps, sides.flatMap((_, side) => [...model(`${name}-${side}`).data.y]));
}

function draw() {
  sides.forEach((_, side) => drawSide(side));
  drawCharts();
  const texts = sides.map((one, side) => {
    const d = state.drawn[side];
    return `${d.kept.length.toLocaleString("en")} of ${d.real.toLocaleString("en")} real edges shown` +
      (d.bundles ? ` (${d.inSight.toLocaleString("en")} in ${d.bundles.toLocaleString("en")} bundles; zoom in for single ones)` : "") + `, ${d.dead} dead nodes`;
  });
  $("counts").textContent = texts.join(" | ");
  const metrics = sides[0].metrics.filter(row => row.step <= sides[0].history.steps[state.index]).pop();
  $("moment").textContent = `${sides[0].unit} ${sides[0].history.steps[state.index].toLocaleString("en")}` +
    (metrics ? `, epoch ${metrics.epoch}` + (typeof metrics.test_accuracy === "number" ? `, ${metrics.test_accuracy.toFixed(1)} %` : "") : "");
  $("head").value = state.index;
  $("least-text").textContent = (Number($("least").value) * state.drawn[0].seen.most).toPrecision(2);
  drawDetail();
}

// The side panel; made anew only if what it shows is something else, for it is the slowest to lay out
function drawDetail() {
  const detail = $("detail"), shows = state.pinned === null ? [$("circuit").value] :
    [state.part, state.pinned, state.index, sides[0].history.steps.length, $("view").value];
  if (state.detail === String(shows)) return;
  state.detail = String(shows);
  if (state.pinned === null) { drawOverlap(detail); return; }
  const graph = sides[0].graphs[state.part], v = state.pinned, {inward, outward, seen} = state.drawn[0], ends = sides[0].history.parts[state.part];
  detail.replaceChildren();
  const add = (tag, text, parent = detail) => { const made = document.createElement(tag); made.textContent = text; parent.append(made); return made; };
  add("h3", `${NAMES[graph.role[v]]} node ${graph.label[v]}`);
  add("p", `block ${graph.block[v]}` + (graph.function[v] ? `; ${graph.function[v]}` : ""));
  add("p", `${inward[v]} in-edges, ${outward[v]} out-edges now`);
  if (seen.attribution) add("p", `attribution ${seen.attribution.nodes[v].toPrecision(3)} (at the end)`);
  const kernel = graph.kernel[v];
  if (kernel) {
    const table = document.createElement("table"); table.className = "kernel"; table.title = "kernel at the end";
    const most = Math.max(...kernel.flat().map(Math.abs)) || 1;
    for (const row of kernel) {
      const line = table.insertRow();
      for (const value of row) { const cell = line.insertCell(); cell.title = String(value); cell.style.background = `rgba(${value > 0 ? "0,114,178" : "213,94,0"},${Math.abs(value) / most})`; }
    }
    detail.append(table);
  }
  detail.append(degreeCurve(v));
  for (const [title, own, other] of [["from", ends.dst, ends.src], ["to", ends.src, ends.dst]]) {
    const edges = [];
    seen.record.real.forEach((edge, i) => { if (own[edge] === v) edges.push([edge, seen.weights ? seen.weights[i] : NaN]); });
    edges.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
    if (!edges.length) continue;
    add("p", `${title} ${edges.length} nodes:`);
    const table = document.createElement("table");
    for (const [edge, w] of edges.slice(0, 40)) {
      const line = table.insertRow();
      line.insertCell().textContent = graph.label[other[edge]].slice(0, 24);
      line.insertCell().textContent = Number.isNaN(w) ? "" : w.toPrecision(3);
    }
    detail.append(table);
    if (edges.length > 40) add("p", `and ${edges.length - 40} weaker ones`);
  }
  const release = add("button", "release (Esc)");
  release.onclick = () => pin(null);
}

// What is other than chance; how large the circuits are, and how much of them they share
function drawOverlap(detail) {
  const {classes} = sides[0];
  detail.replaceChildren(Object.assign(document.createElement("p"), {textContent: HINT}));
  if (!classes) return;
  const add = (tag, text, parent) => { const made = document.createElement(tag); made.textContent = text; parent.append(made); return made; };
  if (classes.chance.length) {
    add("h3", "against chance (at the end)", detail);
    const table = document.createElement("table"); detail.append(table);
    const head = table.insertRow();
    for (const text of ["", "here", "random", "z", "p"]) add("td", text, head);
    for (const one of classes.chance) {
      const line = table.insertRow(); line.title = one.text;
      for (const text of [one.name, one.observed, one.mean, one.z, one.p]) add("td", text, line);
    }
  }
  if (!classes.circuits.length) return;
  add("h3", "circuits", detail);
  const one = classes.circuits[$("circuit").value];
  add("p", one ? one.text : "edges of each, and the share that two have in common:", detail);
  const table = document.createElement("table"); table.className = "overlap"; detail.append(table);
  classes.circuits.forEach((circuit, i) => {
    const line = table.insertRow();
    add("th", circuit.name.slice(0, 12), line); add("td", circuit.number, line);
    classes.overlap[i].forEach((share, j) => {
      const cell = add("td", i === j ? "" : Math.round(100 * share), line);
      cell.title = `${circuit.name} and ${classes.circuits[j].name}: ${(100 * share).toFixed(1)} %`;
      if (i !== j) cell.style.background = `rgba(230,159,0,${share})`;
    });
  });
}

// How many edges lead to and from a node, over time
function degreeCurve(v) {
  const {history} = sides[0], ends = history.parts[state.part], made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const series = [[], []];
  for (const record of history.records) {
    let inward = 0, outward = 0;
    for (const edge of record[state.part].real) { if (ends.dst[edge] === v) inward++; if (ends.src[edge] === v) outward++; }
    series[0].push(inward); series[1].push(outward);
  }
  const most = Math.max(1, ...series[0], ...series[1]), last = Math.max(1, history.steps.length - 1);
  made.setAttribute("class", "spark"); made.setAttribute("viewBox", "0 0 200 48"); made.setAttribute("preserveAspectRatio", "none");
  series.forEach((values, which) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    path.setAttribute("points", values.map((value, i) => `${(200 * i / last).toFixed(1)},${(46 - 44 * value / most).toFixed(1)}`).join(" "));
    path.setAttribute("fill", "none"); path.setAttribute("stroke", which ? "#D55E00" : "#0072B2"); path.setAttribute("stroke-width", "1.5");
    made.append(path);
  });
  const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
  title.textContent = `in-edges (blue) and out-edges (orange) over time, up to ${most}`;
  made.append(title);
  return made;
}

// Doing

let asked = false;
function redraw() { if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; draw(); }); } }
function seek(index) { state.index = Math.max(0, Math.min(sides[0].history.steps.length - 1, index)); redraw(); }
function pin(node) { state.pinned = node; redraw(); }
let timer = null;
function play(on) {
  state.playing = on; $("play").textContent = on ? "❚❚" : "▶";
  clearInterval(timer);
  if (!on) return;
  if (state.index >= sides[0].history.steps.length - 1) seek(0);
  timer = setInterval(() => state.index < sides[0].history.steps.length - 1 ? seek(state.index + 1) : play(false), 1000 / Number($("speed").value));
}
function fit() { sides.forEach((_, side) => { const {x_range, y_range} = model(`graph-${side}`); x_range.setv({start: -0.03, end: 1.03}); y_range.setv({start: 1.03, end: -0.03}); }); redraw(); }

function choosePart(part) {
  state.part = part; state.pinned = null;
  const blocks = [...new Set(sides[0].graphs[part].block)].sort((a, b) => a - b);
  for (const id of ["from", "to"]) {
    $(id).replaceChildren(new Option("any", ""), ...blocks.map(block => new Option(block, block)));
  }
  sides.forEach((one, side) => {
    const number = one.graphs[part].x.length, {x_range, y_range} = model(`matrix-${side}`);
    x_range.setv({start: -1, end: number, reset_start: -1, reset_end: number}); y_range.setv({start: number, end: -1, reset_start: number, reset_end: -1});
  });
  drawCurves(); pin(null); fit();
}

function theme(dark) {
  state.dark = dark;
  document.documentElement.classList.toggle("dark", dark);
  const back = dark ? "#14171c" : "#ffffff", text = dark ? "#e8eaee" : "#1d2129", line = dark ? "#39414d" : "#d5d9e0";
  for (const doc of Bokeh.documents) for (const root of doc.roots()) {
    root.setv({background_fill_color: back, border_fill_color: back, outline_line_color: line});
    for (const place of ["left", "below", "above", "right", "center"]) for (const thing of root[place] || []) {
      if (thing.axis_label_text_color !== undefined) thing.setv({axis_label_text_color: text, major_label_text_color: text, axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: null});
      if (thing.grid_line_color !== undefined && thing.visible) thing.setv({grid_line_color: line});
    }
    if (root.title) root.title.text_color = text;
  }
  redraw();
}

function save(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], {type})); link.download = name; link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// What the first graph shows, as it is drawn.
function svg() {
  const {x_range, y_range} = model("graph-0"), graph = sides[0].graphs[state.part], W = 1000, H = 640, parts = [];
  const px = x => ((x - x_range.start) / (x_range.end - x_range.start) * W).toFixed(1), py = y => ((y - y_range.end) / (y_range.start - y_range.end) * H).toFixed(1);
  for (const [name, line] of Object.entries(state.drawn[0].lines)) {
    const shade = Number(name[1]), d = [];
    for (let i = 0; i < line.x.length; i += 3) d.push(`M${px(line.x[i])} ${py(line.y[i])}L${px(line.x[i + 1])} ${py(line.y[i + 1])}`);
    if (d.length) parts.push(`<path d="${d.join("")}" fill="none" stroke="${name[0] === "p" ? "#0072B2" : "#D55E00"}" stroke-width="${WIDTHS[shade]}" stroke-opacity="${opacity(shade).toFixed(2)}"/>`);
  }
  const data = model("nodes-0").data;
  for (let v = 0; v < graph.x.length; v++)
    parts.push(`<circle cx="${px(graph.x[v])}" cy="${py(graph.y[v])}" r="${(data.size[v] / 2).toFixed(1)}" fill="${data.colour[v]}" fill-opacity="${data.alpha[v]}"/>`);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${W} ${H}" width="${W}" height="${H}"><rect width="${W}" height="${H}" fill="${state.dark ? "#14171c" : "#ffffff"}"/>${parts.join("")}</svg>`;
}
function png() {
  const image = new Image(), canvas = document.createElement("canvas");
  canvas.width = 2000; canvas.height = 1280;
  image.onload = () => { canvas.getContext("2d").drawImage(image, 0, 0, 2000, 1280); canvas.toBlob(blob => save("wiring.png", "image/png", blob)); };
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(svg());
}

// A run that trains is asked for what it has written since
async function follow(one) {
  const answer = await fetch(`${one.address}?from=${one.read}`, {cache: "no-store"});
  if (!answer.ok) throw new Error(`the run's history: ${answer.status}`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  one.read += bytes.length;
  const number = await one.history.append(bytes), metrics = await fetch(`${one.address}/metrics`, {cache: "no-store"});
  if (metrics.ok) one.metrics = await metrics.json();
  return number;
}

// Beginning

try {
  for (const one of sides) {
    if (one.address) await follow(one);
    else await one.history.append(Uint8Array.from(atob(one.content), c => c.charCodeAt(0)));
  }
  await ready();
} catch (error) { $("counts").textContent = `This history cannot be shown: ${error.message}`; throw error; }
$("part").replaceChildren(...sides[0].graphs.map((graph, number) => new Option(graph.name, number)));
document.body.classList.toggle("plain", !(sides[0].classes && (sides[0].classes.attributions.length || sides[0].classes.circuits.length)));
if (sides[0].classes) for (const [id, kind] of [["view", "attributions"], ["circuit", "circuits"]])
  $(id).append(...sides[0].classes[kind].map((one, number) => new Option(one.name, number)));
$("notes").textContent = sides.flatMap(one => one.notes).join(" ");
const stretch = () => {
  $("head").max = sides[0].history.steps.length - 1;
  document.body.classList.toggle("still", sides[0].history.steps.length === 1 && !sides[0].address);
};
stretch();
$("head").oninput = () => seek(Number($("head").value));
$("first").onclick = () => seek(0);
$("last").onclick = () => seek(Infinity);
$("play").onclick = () => play(!state.playing);
$("speed").onchange = () => play(state.playing);
$("part").onchange = () => choosePart(Number($("part").value));
for (const id of ["least", "top", "age", "from", "to", "view", "circuit", "find"]) $(id).oninput = redraw;
$("fit").onclick = fit;
$("svg").onclick = () => save("wiring.svg", "image/svg+xml", svg());
$("png").onclick = png;
$("dark").onclick = () => theme(!state.dark);
document.addEventListener("keydown", event => {
  if (/INPUT|SELECT|TEXTAREA/.test(event.target.tagName) && event.target.id !== "head") { if (event.key === "Escape") event.target.blur(); return; }
  const keys = {" ": () => play(!state.playing), ArrowRight: () => seek(state.index + 1), ArrowLeft: () => seek(state.index - 1), Home: () => seek(0),
                End: () => seek(Infinity), "/": () => $("find").focus(), d: () => theme(!state.dark), f: fit, Escape: () => pin(null)};
  if (keys[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); keys[event.key](); }
});
sides.forEach((_, side) => {
  model(`nodes-${side}`).selected.change.connect(() => { const [node] = model(`nodes-${side}`).selected.indices; if (node !== undefined) pin(node); });
  const {x_range, y_range} = model(`graph-${side}`);
  for (const range of [x_range, y_range]) range.change.connect(redraw);
});
choosePart(0);
seek(Infinity);
theme(matchMedia("(prefers-color-scheme: dark)").matches);
draw();
if (sides.some(one => one.address)) {
  $("live").hidden = false;
  setInterval(async () => {
    const atEnd = state.index >= sides[0].history.steps.length - 1;
    try {
      let number = 0;
      for (const one of sides) if (one.address) number += await follow(one);
      if (number) { stretch(); drawCurves(); if (atEnd) seek(Infinity); else redraw(); }
      $("live").textContent = "live";
    } catch { $("live").textContent = "the run cannot be reached"; }
  }, 1000);
}
window.neuralgraph = {state, sides, seek, pin, play, theme, fit, svg, draw, choosePart};
document.body.dataset.ready = "yes";
})();
