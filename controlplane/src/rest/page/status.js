// The status page. All text of others (keys, errors, rules, names) becomes text nodes:
// nothing here makes markup of strings. Only looks; changes nothing.
"use strict";

const PAUSE_MS = 2000;
const SAMPLES = 60;
// That the control plane keeps of each worker.
const STEPS = 120;
const TOKEN = "quickwater-admin-token";
const SLOTS = 16384;
// Workers tell every second or so.
const HEARD_LATE_MS = 10000;
// Longer texts have a line of their own to scroll in.
const LONG = 160;
// Of a cluster its workers tell, and the control plane keeps; a single process is looked at
// twice. [name in `traffic`, name of the counter, title, text of a rate]
const RATES = [
  ["sent_bytes", "quickwater_s3_bytes_sent_total", "S3 bytes sent", bytesPerSecond],
  ["received_bytes", "quickwater_s3_bytes_received_total", "S3 bytes received", bytesPerSecond],
  ["requests", "quickwater_s3_http_requests_total", "S3 requests", perSecond],
  ["persisted_bytes", "quickwater_persist_bytes_total", "Persisted to storage", bytesPerSecond],
];
const history = new Map();
let before = null;
let timer = 0;
// Which look counts: an answer to an earlier one, or to one before the token was
// forgotten, is not shown.
let turn = 0;
// The service's clock less that of the browser, milliseconds.
let skew = 0;

const at = (id) => document.getElementById(id);

function make(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function count(n, one) { return n === 1 ? `1 ${one}` : `${n} ${one}s`; }

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${unit === 0 ? n : n.toFixed(n < 10 ? 1 : 0)} ${units[unit]}`;
}

function bytesPerSecond(n) { return `${bytes(Math.round(n))}/s`; }

function perSecond(n) { return `${n.toFixed(n < 10 ? 1 : 0)} /s`; }

function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

function since(ms) { return ms > 0 ? span(Date.now() + skew - ms) : ""; }

// What could be taken for something else shows as its number: line ends, and what turns
// the direction of text around or cannot be seen, which keys may hold.
function plain(text) {
  return text.replace(/[\u0000-\u001f\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\u{e0000}-\u{e0fff}]/gu,
    (one) => `\\u{${one.codePointAt(0).toString(16)}}`);
}

// What others named, which may be a key of a thousand bytes.
function named(text) {
  const shown = plain(text);
  return shown.length > LONG ? make("div", { class: "long", tabindex: "0" }, shown) : shown;
}

function say(id, text) { if (at(id).textContent !== text) at(id).textContent = text; }

// Makes `old` like `made` and changes nothing else: what is selected stays selected.
function settle(old, made) {
  if (old.nodeType !== made.nodeType || old.nodeName !== made.nodeName) { old.replaceWith(made); return; }
  if (old.nodeType === Node.TEXT_NODE) { if (old.data !== made.data) old.data = made.data; return; }
  for (const { name } of [...old.attributes]) if (!made.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of made.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  settleChildren(old, [...made.childNodes]);
}

function settleChildren(parent, wanted) {
  const there = [...parent.childNodes];
  there.slice(wanted.length).forEach((child) => child.remove());
  wanted.forEach((child, i) => { if (i < there.length) settle(there[i], child); else parent.append(child); });
}

// columns: [title, cell(row), class]; a cell is text or an element
function table(caption, columns, rows, none) {
  if (rows.length === 0) return make("p", { class: "quiet" }, none);
  const head = columns.map(([title, , kind]) => make("th", { scope: "col", class: kind || "" }, title));
  const body = rows.map((row) => make("tr", {}, ...columns.map(([, cell, kind]) =>
    make("td", { class: kind || "" }, cell(row)))));
  return make("table", {}, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
}

function bar(node) {
  const whole = Math.max(1, node.capacity_bytes);
  const used = Math.min(whole, node.used_bytes);
  const dirty = Math.min(used, node.dirty_bytes);
  const text = `${bytes(used - dirty)} clean, ${bytes(dirty)} dirty of ${bytes(node.capacity_bytes)}`;
  // What there is can be seen, however little of the whole it is.
  const wide = (n) => n > 0 ? Math.max(1.5, 100 * n / whole) : 0;
  const [clean, unsaved] = [wide(used - dirty), wide(dirty)];
  const left = Math.min(clean, 100 - unsaved);
  const part = (kind, x, width) => svg("rect", { class: kind, x, width, y: 0, height: 10 });
  return make("div", {}, svg("svg",
    { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": text },
    part("free", 0, 100), part("clean", 0, left), part("dirty", left, unsaved)),
  make("span", { class: "quiet" }, text));
}

function state(word) {
  return make("span", { class: /suspect|failed|gone|silent/.test(word) ? "bad" : /ready|done|live/.test(word) ? "good" : "" }, word);
}

// As the control plane has it. One that was killed stays what it was until its lease is over.
function nodeState(node, unheard) {
  const quiet = node.heard_ms > HEARD_LATE_MS;
  if (quiet && !/gone|removed/.test(node.state)) return make("span", { class: "bad wrap" }, `${node.state}, last heard ${span(node.heard_ms)} ago`);
  if (unheard.includes(node.name) && node.lease_ms > 0) return state(`${node.state}, silent now`);
  return state(node.state);
}

// Rates by time as a path; null is a gap in it, never a zero. One rate alone is a dot.
function course(values, length, top, base = 29, height = 28) {
  let path = "";
  let open = false;
  values.forEach((value, i) => {
    if (value !== null) {
      const x = (100 * (i + length - values.length) / (length - 1)).toFixed(2);
      const y = (base - height * value / top).toFixed(2);
      path += open ? `L${x} ${y}` : `M${x} ${y}h0`;
    }
    open = value !== null;
  });
  return path;
}

function known(values) { return values.filter((value) => value !== null); }

function last(values) { return values.length ? values[values.length - 1] : null; }

function drawing(label, paths) {
  return svg("svg", { class: "spark", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": label }, ...paths);
}

// missing: how many workers did not tell, by step: the line is broken off where some did not,
// and what is known of the sum is dotted.
function sparkline(values, missing, length, top, label) {
  const lacks = (i) => (missing[i] || 0) > 0;
  const whole = values.map((value, i) => (lacks(i) ? null : value));
  const partly = values.map((value, i) => (lacks(i) || lacks(i - 1) || lacks(i + 1) ? value : null));
  const dotted = missing.some((n) => n > 0) ? [svg("path", { class: "partly", d: course(partly, length, top) })] : [];
  return drawing(label, [...dotted, svg("path", { class: "sent", d: course(whole, length, top) })]);
}

// What the picture says, for those who do not see it.
function inWords(values, text) {
  const told = known(values);
  if (!told.length) return "nothing was told";
  const gaps = values.length - told.length;
  return `${last(values) === null ? "not told" : text(last(values))} now, ${text(Math.max(...told))} at most` +
    (gaps ? `, not told in ${gaps} of ${values.length} steps` : "");
}

// That a sum is without some workers.
function incomplete(missing, length) {
  const steps = missing.filter((n) => n > 0).length;
  return steps ? `, without workers that did not tell in ${steps} of ${length} steps` : "";
}

function nodeTraffic(node, length, top) {
  const traffic = node.traffic || { sent_bytes: [], received_bytes: [], requests: [] };
  const { sent_bytes: sent, received_bytes: received, requests } = traffic;
  const label = `${node.name}: sent ${inWords(sent, bytesPerSecond)}; received ${inWords(received, bytesPerSecond)}`;
  const now = last(sent) === null ? "not told" :
    `${bytesPerSecond(last(sent))} sent, ${bytesPerSecond(last(received))} received, ${perSecond(last(requests))}`;
  // Either side of a line, so that neither hides the other.
  const paths = [
    svg("path", { class: "zero", d: "M0 15h100" }),
    svg("path", { class: "received", d: course(received, length, top, 15, -14) }),
    svg("path", { class: "sent", d: course(sent, length, top, 15, 14) }),
  ];
  return make("div", {}, drawing(label, paths), make("span", { class: "quiet" }, now));
}

function showNodes(nodes, unheard, traffic) {
  const owners = nodes.filter((node) => node.slots > 0);
  const map = at("map");
  map.hidden = owners.length === 0;
  map.setAttribute("aria-label", `Slots by worker: ${owners.map((n) => `${n.name} ${n.slots}`).join(", ")}`);
  map.replaceChildren(...owners.map((node) => {
    const piece = make("span", { title: `${node.name}: ${node.slots} of ${SLOTS} slots` }, node.name);
    piece.style.flexGrow = node.slots;
    piece.style.flexBasis = "0";
    return piece;
  }));
  const caption = traffic ? "; traffic of the last minutes, sent upwards in blue and received downwards in orange, on one scale for all" : "";
  settleChildren(at("nodes"), [table(`One line for each worker${caption}`, [
    ["Name", (n) => n.name],
    ["State", (n) => nodeState(n, unheard)],
    ["Zone", (n) => n.zone],
    ["S3", (n) => n.s3_address],
    ["Slots", (n) => (n.advertise ? String(n.slots) : "all"), "number"],
    ["Cache", bar, "cache"],
    ...trafficColumn(nodes, traffic),
    ["Changes queued", (n) => lastTold(n, n.changes), "number"],
    ["TRANSIENT objects", (n) => lastTold(n, n.transient_objects), "number"],
    ...keptColumns(nodes),
  ], nodes, "No worker has registered.")]);
}

// Of a worker that is not heard its numbers are old.
function lastTold(node, number) {
  const old = number > 0 && node.heard_ms > HEARD_LATE_MS;
  return old ? make("span", { class: "quiet wrap" }, `${number} when last heard`) : String(number);
}

// What no UFS has, and is in no queue. One that does not say has not nothing.
function keptColumns(nodes) {
  if (nodes.every((n) => n.copies_kept === null)) return [];
  const told = (node, number) => (number === null ? "" : lastTold(node, number));
  return [
    ["Copies kept for others", (n) => told(n, n.copies_kept), "number"],
    ["Parts of open uploads", (n) => told(n, n.parts_held), "number"],
  ];
}

function trafficColumn(nodes, traffic) {
  if (!traffic) return [];
  const all = nodes.flatMap((n) => (n.traffic ? [...n.traffic.sent_bytes, ...n.traffic.received_bytes] : []));
  // One scale for all, so that they can be compared. Of many workers there are more values than
  // a function takes.
  const top = known(all).reduce((most, value) => Math.max(most, value), 1);
  return [["S3 traffic", (n) => nodeTraffic(n, traffic.worker_steps, top), "traffic"]];
}

// What a worker that does not answer has queued is not listed: never "nothing". Besides
// those that were asked in vain now, those that have been silent for longer.
function unheard(queue, nodes) {
  const silent = nodes.filter((n) => n.state === "silent" || n.state === "gone").map((n) => n.name);
  const names = [...new Set([...(queue.totals.unheard || []), ...silent])].sort();
  return names.length ? ` No answer from ${names.join(", ")}: what is queued there is counted as the metadata has it, and not listed.` : "";
}

function showPersist(queue, nodes) {
  const t = queue.totals;
  const pending = t.puts + t.deletes;
  const deletes = t.deletes > 0 ? `, ${count(t.deletes, "delete")} among them` : "";
  let text = `${count(pending, "change")} (${bytes(t.bytes)})${deletes}, ${t.running} running, ${t.failing} failing`;
  if (pending > 0) text += `; the oldest for ${since(t.oldest_ms)}`;
  if (t.transient_objects > 0) text += `; ${count(t.transient_objects, "TRANSIENT object")} (${bytes(t.transient_bytes)})`;
  const missing = unheard(queue, nodes);
  const elsewhere = nodes.some((n) => n.changes > 0);
  const none = pending > 0 ? "Their workers have not named any." : "None that is known of.";
  say("persist-totals", `${text}.${missing}`);
  const of = queue.all ? "" : ` of the first ${queue.looked_through}`;
  settleChildren(at("persist"), [table(`Oldest changes${of}`, [
    ["Object", (c) => named(`/${c.bucket}/${c.key}`), "key"],
    ["State", (c) => c.state],
    ["Bytes", (c) => bytes(c.bytes), "number"],
    ["Since", (c) => since(c.since_ms), "number"],
    ["Attempts", (c) => String(c.attempts), "number"],
    ["Last error", (c) => make("span", { class: "bad" }, named(c.error)), "key"],
  ], queue.oldest, pending > 0 || missing || elsewhere ? none : "Nothing: all is where it belongs.")]);
}

function progress(job) {
  if (!job.found) return job.state === "waiting" ? "" : "counting";
  const done = (job.done ? job.done.objects : 0) + job.failed + job.left;
  const text = `${done} of ${job.found.objects}`;
  if (job.state !== "running") return text;
  return make("span", {}, make("progress",
    { max: Math.max(1, job.found.objects), value: done, "aria-label": text }), ` ${text}`);
}

function showJobs(jobs) {
  settleChildren(at("jobs"), [table("Latest first", [
    ["Job", (j) => String(j.id), "number"],
    ["Kind", (j) => j.kind],
    ["Path", (j) => named(`/${j.bucket}/${j.path}`), "key"],
    ["State", (j) => state(j.state)],
    ["Objects", progress],
    ["Bytes", (j) => (j.done ? bytes(j.done.bytes) : ""), "number"],
    ["Failed", (j) => (j.failed ? make("span", { class: "bad" }, String(j.failed)) : "0"), "number"],
    ["Created", (j) => `${since(j.created_ms)} ago`, "number"],
  ], jobs, "No jobs.")]);
}

function showMounts(mounts) {
  settleChildren(at("mounts"), [table("Buckets and what is behind them", [
    ["Bucket", (m) => m.bucket],
    ["Location", (m) => named(m.uri), "key"],
    ["Trouble", (m) => make("span", { class: "bad" }, plain(m.trouble)), "key"],
  ], mounts, "No mounts.")]);
}

function tile(title, values, missing, length, minutes, text) {
  const told = known(values);
  const now = last(values);
  const period = `in the last ${minutes} minutes`;
  return make("div", { class: "tile" }, title, make("strong", {}, now === null ? "not told" : text(now)),
    sparkline(values, missing, length, Math.max(...told, 1),
      `${title} ${period}: ${inWords(values, text)}${incomplete(missing, values.length)}`));
}

// Of all workers, as they told; who did not is named, because the sums are without it.
function showWorkersTraffic(traffic, nodes) {
  const minutes = Math.round(STEPS * traffic.step_ms / 60000);
  const tiles = RATES.map(([name, , title, text]) => tile(title, traffic[name], traffic.missing, STEPS, minutes, text));
  settleChildren(at("traffic"), tiles);
  const silent = nodes.filter((n) => n.state !== "removed" && last(n.traffic ? n.traffic.sent_bytes : []) === null);
  const without = silent.length ? ` Now without ${silent.map((n) => n.name).join(", ")}: not told.` : "";
  const dotted = traffic.missing.some((n) => n > 0) ? " Dotted: the sum without workers that did not tell." : "";
  say("traffic-note", nodes.length ? `Told by the workers; each number is the mean of ${span(traffic.step_ms)}.${dotted}${without}` : "No worker has registered.");
}

function showTraffic(status, now) {
  const { counters } = status;
  say("traffic-title", status.traffic ? "Traffic of all workers" : "Traffic of this process");
  if (status.traffic) { showWorkersTraffic(status.traffic, status.nodes); return; }
  const counted = RATES.filter(([, name]) => name in counters);
  const tiles = counted.map(([, name, title, text]) => {
    const values = history.get(name) || [];
    if (before && name in before.counters) {
      const seconds = Math.max(0.001, (now - before.now) / 1000);
      values.push(Math.max(0, counters[name] - before.counters[name]) / seconds);
      if (values.length > SAMPLES) values.shift();
      history.set(name, values);
    }
    return tile(title, values, [], SAMPLES, 2, text);
  });
  settleChildren(at("traffic"), tiles);
  before = { counters, now };
}

function show(status) {
  const now = performance.now();
  showTraffic(status, now);
  showNodes(status.nodes, status.persist.totals.unheard || [], status.traffic);
  showPersist(status.persist, status.nodes);
  showJobs(status.jobs);
  showMounts(status.mounts);
  const rules = status.policies.document.split("\n").map(plain).join("\n");
  const text = `Version ${status.policies.version}\n${rules}`;
  say("document", text);
  const troubles = status.mounts.filter((m) => m.trouble).length;
  at("summary").textContent = `${status.version}, up for ${span(status.uptime_ms)}, ` +
    `${status.nodes.length} ${status.nodes.length === 1 ? "worker" : "workers"}` +
    (troubles ? `, ${count(troubles, "mount")} in trouble` : "");
  at("login").hidden = true;
  at("page").hidden = false;
  at("forget").hidden = false;
}

async function ask(path, options) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(TOKEN) || ""}` };
  const reply = await fetch(path, { ...options, headers, cache: "no-store", signal: AbortSignal.timeout(30000) });
  const body = await reply.json().catch(() => null);
  if (reply.ok && body) {
    // In whole seconds, which is enough for ages.
    const date = Date.parse(reply.headers.get("date"));
    if (date) skew = date - Date.now();
    return body;
  }
  const why = body && body.error ? body.error.message : `status ${reply.status}`;
  throw Object.assign(new Error(why), { status: reply.status });
}

function forget(why) {
  clearTimeout(timer);
  turn += 1;
  sessionStorage.removeItem(TOKEN);
  at("page").hidden = true;
  at("forget").hidden = true;
  at("login").hidden = false;
  at("refusal").textContent = why;
  at("summary").textContent = "Not connected.";
  say("trouble", "");
  before = null;
  history.clear();
  for (const id of ["traffic", "traffic-note", "map", "nodes", "persist-totals", "persist", "jobs", "mounts", "tested", "document"])
    at(id).replaceChildren();
}

async function look() {
  clearTimeout(timer);
  turn += 1;
  const mine = turn;
  try {
    const status = await ask("/api/v1/status", {});
    if (mine !== turn) return;
    show(status);
    say("trouble", "");
  } catch (error) {
    if (mine !== turn) return;
    if (error.status === 401) { forget(error.message); return; }
    say("trouble", `No answer: ${error.message}. What is shown may be old; asking again.`);
  }
  timer = setTimeout(look, PAUSE_MS);
}

at("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = at("token").value.trim();
  at("token").value = "";
  // What else there may be in a field cannot be sent in a header.
  if (!/^[!-~]+$/.test(token)) {
    at("refusal").textContent = "An admin token has visible ASCII characters only: look at what was pasted.";
    return;
  }
  sessionStorage.setItem(TOKEN, token);
  at("refusal").textContent = "";
  look();
});

at("forget").addEventListener("click", () => forget(""));

at("tester").addEventListener("submit", async (event) => {
  event.preventDefault();
  const mine = sessionStorage.getItem(TOKEN);
  try {
    const found = await ask("/api/v1/conf/test",
      { method: "POST", body: JSON.stringify({ path: at("path").value }) });
    if (mine !== sessionStorage.getItem(TOKEN)) return;
    const rule = found.rule_path ? `rule ${plain(found.rule_path)}` : "the default rule";
    at("tested").textContent = `${found.policy_mode}, ${found.write_replicas} ` +
      `${found.write_replicas === 1 ? "copy" : "copies"}, by ${rule} of version ${found.version}`;
  } catch (error) {
    at("tested").textContent = error.message;
  }
});

if (sessionStorage.getItem(TOKEN)) look();
