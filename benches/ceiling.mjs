/**
 * Filters that do nothing: what Envoy itself takes for having one. No filter in its place can be faster than they are.
 *
 * `empty` has the payment filter's callbacks, and lets everything pass. `constant` reads the request's headers, as whoever
 * looks at a request must, and gives one answer to all: a 402 made in advance.
 */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { checkout } from "../stage/processes.mjs";
import { encodePairs } from "./host.mjs";

const ASSEMBLER = join(checkout, "node_modules", ".bin", "wasm-as");
const [HEADERS, BODY, HEAP, END] = [1 << 10, 1 << 15, 1 << 17, 1 << 18];

/** Callbacks by name: how many numbers they take, and what they give back, if anything. */
const CALLBACKS = {
  context_create: [2],
  vm_start: [2, 1],
  configure: [2, 1],
  request_headers: [3, 0],
  request_body: [3, 0],
  request_trailers: [2, 0],
  response_headers: [3, 0],
  response_body: [3, 0],
  response_trailers: [2, 0],
  http_call_response: [5],
  tick: [1],
  log: [1],
  delete: [1],
};

const bytes = (data) => `"${[...data].map((byte) => `\\${byte.toString(16).padStart(2, "0")}`).join("")}"`;

const callback = (name, [parameters, result]) => `
  (func (export "proxy_on_${name}") (param${" i32".repeat(parameters)})${result === undefined ? "" : ` (result i32) (i32.const ${result})`})`;

/** @param {{headers: [string, string][], body: string}} [answer] of `constant`; without one, of `empty` */
function moduleText(answer) {
  const names = Object.keys(CALLBACKS).filter((name) => !(answer && name === "request_headers"));
  const headers = answer && encodePairs(answer.headers.map((pair) => pair.map((text) => Buffer.from(text))));
  const body = answer && Buffer.from(answer.body);
  return `(module
  ${answer ? `(import "env" "proxy_get_header_map_pairs" (func $pairs (param i32 i32 i32) (result i32)))
  (import "env" "proxy_send_local_response" (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (data (i32.const ${HEADERS}) ${bytes(headers)})
  (data (i32.const ${BODY}) ${bytes(body)})` : ""}
  (memory (export "memory") ${END >> 16})
  (global $free (mut i32) (i32.const ${HEAP}))
  (func (export "malloc") (param i32) (result i32) (local i32)
    (local.set 1 (global.get $free))
    (global.set $free (i32.add (global.get $free) (local.get 0)))
    (local.get 1))
  (func (export "_initialize"))
  (func (export "proxy_abi_version_0_2_1"))${names.map((name) => callback(name, CALLBACKS[name])).join("")}
  ${answer ? `(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (global.set $free (i32.const ${HEAP}))
    (drop (call $pairs (i32.const 0) (i32.const 0) (i32.const 4)))
    (drop (call $reply (i32.const 402) (i32.const 0) (i32.const 0) (i32.const ${BODY}) (i32.const ${body.length}) (i32.const ${HEADERS}) (i32.const ${headers.length}) (i32.const -1)))
    (i32.const 1))` : ""})`;
}

/** Assembles a module into a directory; its path. */
export function assemble(directory, name, answer) {
  const [text, path] = [join(directory, `${name}.wat`), join(directory, `${name}.wasm`)];
  writeFileSync(text, moduleText(answer));
  execFileSync(ASSEMBLER, [text, "-o", path]);
  return path;
}

