/**
 * Draws the dashboard's panels as they look after some minutes of mixed traffic on the stage, by the dashboard's own queries
 * from a real Prometheus: docs/dashboard.svg.
 *
 * Usage: node stage/dashboard.mjs [SECONDS]
 */
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parse, stringify } from "yaml";
import { makePayer } from "./client.mjs";
import { checkout, startProcess, until } from "./processes.mjs";
import { startStage } from "./stage.mjs";

const SECONDS = Number(process.argv[2] ?? 120);
const [GAP, WHOLE] = [18, 1138];
/** How the panels of a type are laid out: how many beside each other, how high. */
const LAYOUT = { stat: { columns: 4, height: 90 }, timeseries: { columns: 2, height: 190 } };
const LEGEND = 236;
const COLORS = ["#2563eb", "#16a34a", "#d97706", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#4b5563"];

const observability = join(checkout, "envoy", "observability");
const { panels } = JSON.parse(readFileSync(join(observability, "dashboard.json"), "utf8"));

const stage = await startStage({ label: "dashboard" });
const port = stage.ports.spare2;
const config = parse(readFileSync(join(observability, "prometheus.yaml"), "utf8"));
config.global = { scrape_interval: "2s" };
delete config.rule_files;
config.scrape_configs[0].static_configs[0].targets = [`127.0.0.1:${stage.envoy.adminPort}`];
const file = join(stage.run.path, "prometheus.yaml");
writeFileSync(file, stringify(config));
const prometheus = startProcess({
  name: "prometheus",
  command: execFileSync("sh", ["-c", "command -v prometheus"], { encoding: "utf8" }).trim(),
  args: [`--config.file=${file}`, `--storage.tsdb.path=${join(stage.run.path, "tsdb")}`, `--web.listen-address=127.0.0.1:${port}`, "--log.level=warn"],
  run: stage.run,
});
const url = `http://127.0.0.1:${port}`;
await until(async () => (await fetch(`${url}/-/ready`)).ok, { what: "Prometheus", process: prometheus });

/** Clients of all kinds: who only ask, who pay, who send a payment twice, and who send nonsense. */
async function traffic(until) {
  const payer = makePayer();
  for (let i = 0; Date.now() < until; i++) {
    const target = `${stage.url}/${i % 4 ? "weather" : "v1/chat/completions"}`;
    const init = i % 4 ? {} : { method: "POST", body: JSON.stringify({ model: "fake-echo-1", messages: [{ role: "user", content: "Hello" }] }) };
    await (await payer.fetch(target, init)).text();
    const { sent } = payer.exchanges.at(-1);
    if (i % 5 === 0) await (await fetch(target, { ...init, headers: { "payment-signature": sent.get("payment-signature") } })).text();
    if (i % 7 === 0) await (await fetch(target, { ...init, headers: { "payment-signature": "e30=" } })).text();
    await (await fetch(target, init)).text();
    await sleep(60 + 50 * Math.sin(Date.now() / 9000));
  }
}

const begin = Date.now() / 1000;
await traffic(Date.now() + SECONDS * 1000);
await sleep(6000);
const end = Date.now() / 1000;

async function series({ targets }) {
  const found = [];
  for (const { expr, legendFormat } of targets) {
    const query = expr.replaceAll("$__rate_interval", "20s").replaceAll("$__range", `${SECONDS}s`);
    const answer = await fetch(`${url}/api/v1/query_range?${new URLSearchParams({ query, start: begin + 8, end, step: 2 })}`);
    for (const { metric, values } of (await answer.json()).data.result) {
      const name = legendFormat.replace(/\{\{(\w+)\}\}/g, (_, label) => metric[label] ?? "").replace(/(0x\w{4})\w+/g, "$1…");
      found.push({ name, points: values.map(([time, value]) => [time, Number(value)]).filter(([, value]) => Number.isFinite(value)) });
    }
  }
  return found.filter(({ points }) => points.length > 0);
}

const escaped = (text) => text.replace(/[&<>]/g, (letter) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[letter]);
const short = (value) => (value >= 1e6 ? `${+(value / 1e6).toFixed(2)}M` : value >= 1e3 ? `${+(value / 1e3).toFixed(1)}k` : String(+value.toFixed(2)));

function draw(panel, lines, { x, y, width: outer, height: high }) {
  const parts = [`<g transform="translate(${x} ${y})"><rect width="${outer}" height="${high}" rx="6" fill="#fff" stroke="#d4d4d8"/>`];
  parts.push(`<text x="12" y="22" font-weight="600">${escaped(panel.title)}</text>`);
  if (panel.type === "stat") {
    lines.forEach(({ name, points }, i) => {
      parts.push(`<text x="12" y="${70 + i * 40}" font-size="30" fill="${COLORS[i]}">${short(points.at(-1)[1])}</text>`);
      parts.push(`<text x="130" y="${68 + i * 40}" fill="#52525b">${escaped(name)}</text>`);
    });
  } else {
    const top = Math.max(...lines.flatMap(({ points }) => points.map(([, value]) => value)), 1e-9);
    const [left, upper, width, height] = [46, 34, outer - LEGEND - 58, high - 56];
    const at = ([time, value]) => `${(left + ((time - begin) / (end - begin)) * width).toFixed(1)},${(upper + height - (value / top) * height).toFixed(1)}`;
    for (const share of [0, 0.5, 1]) {
      const line = upper + height * (1 - share);
      parts.push(`<path d="M${left} ${line}h${width}" stroke="#e4e4e7"/><text x="${left - 6}" y="${line + 4}" text-anchor="end" fill="#71717a">${short(top * share)}</text>`);
    }
    lines.slice(0, 8).forEach(({ name, points }, i) => {
      parts.push(`<polyline fill="none" stroke-width="1.6" stroke="${COLORS[i]}" points="${points.map(at).join(" ")}"/>`);
      parts.push(`<rect x="${outer - LEGEND}" y="${upper + i * 17}" width="9" height="9" fill="${COLORS[i]}"/><text x="${outer - LEGEND + 14}" y="${upper + 9 + i * 17}" fill="#3f3f46">${escaped(name.slice(0, 38))}</text>`);
    });
  }
  return `${parts.join("")}</g>`;
}

const drawn = [];
let y = GAP;
for (const [type, { columns, height }] of Object.entries(LAYOUT)) {
  const shown = panels.filter((panel) => panel.type === type);
  const width = (WHOLE - GAP * (columns - 1)) / columns;
  for (const [index, panel] of shown.entries()) {
    const [column, row] = [index % columns, Math.floor(index / columns)];
    drawn.push(draw(panel, await series(panel), { x: GAP + column * (width + GAP), y: y + row * (height + GAP), width, height }));
  }
  y += Math.ceil(shown.length / columns) * (height + GAP);
}
const style = 'font-family="system-ui, sans-serif" font-size="11"';
writeFileSync(
  join(checkout, "docs", "dashboard.svg"),
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WHOLE + 2 * GAP} ${y}" ${style}><rect width="100%" height="100%" fill="#f4f4f5"/>${drawn.join("\n")}</svg>\n`,
);
await prometheus.stop();
await stage.stop();
