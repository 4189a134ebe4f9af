/**
 * The module in V8 without a proxy around it: a host that does no more than it must. What is measured here is the
 * filter's own, and every call that it makes to the host is counted.
 */
import { readFileSync } from "node:fs";

const [OK, NOT_FOUND, CAS_MISMATCH] = [0, 1, 8];
const ROOT = 1;
const BUFFERS = { request: 0, callout: 4, configuration: 7 };
const MAPS = { request: 0, response: 2, callout: 6 };
const pairsOf = (object) => Object.entries(object).map(([name, value]) => [Buffer.from(name), Buffer.from(String(value))]);

/** A list of headers as the ABI has it. */
export function encodePairs(pairs) {
  const sizes = Buffer.alloc(4 + pairs.length * 8);
  sizes.writeUInt32LE(pairs.length, 0);
  pairs.forEach(([name, value], index) => {
    sizes.writeUInt32LE(name.length, 4 + index * 8);
    sizes.writeUInt32LE(value.length, 8 + index * 8);
  });
  const zero = Buffer.alloc(1);
  return Buffer.concat([sizes, ...pairs.flatMap(([name, value]) => [name, zero, value, zero])]);
}

/**
 * Loads the module and configures it.
 *
 * @param {string} path of the module
 * @param {object} plugin its configuration
 * @param {number} seconds since the epoch: the clock, which stands still
 * @param {object} supported what the facilitator says that it supports; without it, it is not asked, and says yes to all else
 * @param {Record<string, object>} [said] what it says to other questions, by their paths, in place of that
 */
export function loadModule(path, plugin, seconds, supported, said = {}) {
  const calls = {};
  const shared = new Map();
  const configuration = Buffer.from(JSON.stringify(plugin));
  const now = BigInt(seconds) * 1_000_000_000n;
  const headers = {
    [MAPS.response]: encodePairs(pairsOf({ ":status": "200", "content-type": "application/json", "content-length": "96", server: "envoy" })),
    [MAPS.callout]: encodePairs(pairsOf({ ":status": "200", "content-type": "application/json", "content-length": "120", server: "envoy" })),
  };
  let calloutBody = Buffer.alloc(0);
  let requestBody = Buffer.alloc(0);
  let pending = [];
  let tokens = 0;
  let metrics = 0;
  let replied = 0;
  let exports;

  const bytes = (at, length) => Buffer.from(exports.memory.buffer, at, length);
  const number = (at, value) => new DataView(exports.memory.buffer).setUint32(at, value, true);
  const hand = (value, dataAt, lengthAt) => {
    const at = exports.malloc(value.length);
    bytes(at, value.length).set(value);
    number(dataAt, at);
    number(lengthAt, value.length);
    return OK;
  };
  const env = {
    proxy_get_log_level: (at) => (number(at, 2), OK),
    proxy_log: (level, at, length) => {
      if (level >= 4) throw new Error(bytes(at, length).toString());
      return OK;
    },
    proxy_get_current_time_nanoseconds: (at) => (new DataView(exports.memory.buffer).setBigUint64(at, now, true), OK),
    proxy_get_header_map_pairs: (map, data, length) => hand(headers[map], data, length),
    proxy_remove_header_map_value: () => OK,
    proxy_replace_header_map_value: () => OK,
    proxy_add_header_map_value: () => OK,
    proxy_get_buffer_bytes: (buffer, _start, _most, data, length) => hand({ [BUFFERS.configuration]: configuration, [BUFFERS.request]: requestBody }[buffer] ?? calloutBody, data, length),
    proxy_set_buffer_bytes: () => OK,
    proxy_send_local_response: (status) => ((replied = status), OK),
    proxy_continue_stream: () => OK,
    proxy_close_stream: () => OK,
    proxy_get_shared_data: (keyAt, keyLength, data, length, casAt) => {
      const found = shared.get(bytes(keyAt, keyLength).toString("latin1"));
      if (!found) return NOT_FOUND;
      number(casAt, found.cas);
      return hand(found.value, data, length);
    },
    proxy_set_shared_data: (keyAt, keyLength, at, length, cas) => {
      const key = bytes(keyAt, keyLength).toString("latin1");
      const found = shared.get(key);
      const isExpected = cas === 0 || (found ? found.cas === cas >>> 0 : cas === -1);
      if (!isExpected) return CAS_MISMATCH;
      shared.set(key, { value: Buffer.from(bytes(at, length)), cas: (found?.cas ?? 0) + 1 });
      return OK;
    },
    proxy_get_property: (_path, _length, data, length) => hand(Buffer.from("00000000-0000-4000-8000-000000000000"), data, length),
    proxy_set_property: () => OK,
    proxy_call_foreign_function: () => NOT_FOUND,
    proxy_set_tick_period_milliseconds: () => OK,
    proxy_set_effective_context: () => OK,
    proxy_define_metric: (kind, nameAt, length, idAt) => (number(idAt, ++metrics), OK),
    proxy_increment_metric: () => OK,
    proxy_record_metric: () => OK,
    proxy_http_call: (...given) => {
      const headersAt = given[2];
      const headers = bytes(headersAt, given[3]);
      const path = ["/supported", "/verify"].find((path) => headers.includes(path)) ?? "/settle";
      pending.push({ token: ++tokens, path });
      number(given.at(-1), tokens);
      return OK;
    },
  };
  const counted = Object.fromEntries(
    Object.entries(env).map(([name, call]) => [name, (...given) => ((calls[name] = (calls[name] ?? 0) + 1), call(...given))]),
  );
  const module = new WebAssembly.Module(readFileSync(path));
  ({ exports } = new WebAssembly.Instance(module, { env: counted, wasi_snapshot_preview1: { random_get: () => OK, environ_sizes_get: () => OK, environ_get: () => OK } }));
  exports._initialize();
  exports.proxy_on_context_create(ROOT, 0);
  exports.proxy_on_vm_start(ROOT, 0);
  if (exports.proxy_on_configure(ROOT, configuration.length) !== 1) throw new Error("the configuration was refused");
  pending = [];

  const answers = supported
    ? {
        "/supported": Buffer.from(JSON.stringify(supported)),
        "/verify": Buffer.from('{"isValid":false,"invalidReason":"insufficient_funds"}'),
        "/settle": Buffer.from('{"success":false,"errorReason":"insufficient_funds","transaction":"","network":""}'),
      }
    : {
        "/verify": Buffer.from('{"isValid":true}'),
        "/settle": Buffer.from(`{"success":true,"transaction":"0x${"5b".repeat(32)}","network":"eip155:84532"}`),
      };
  for (const [question, answer] of Object.entries(said)) answers[question] = Buffer.from(JSON.stringify(answer));
  const answerCallouts = () => {
    while (pending.length) {
      const { token, path: question } = pending.shift();
      calloutBody = answers[question];
      exports.proxy_on_http_call_response(ROOT, token, 4, calloutBody.length, 0);
    }
  };
  if (supported) {
    exports.proxy_on_tick(ROOT);
    answerCallouts();
  }
  let streams = ROOT;
  return {
    calls,
    /** A head as the host holds it. */
    head: (path, payment) =>
      encodePairs(
        pairsOf({
          ":authority": "127.0.0.1:10000",
          ":path": path,
          ":method": "GET",
          ":scheme": "http",
          ...(payment && { "payment-signature": payment }),
          "x-forwarded-proto": "http",
          "x-request-id": "00000000-0000-4000-8000-000000000000",
        }),
      ),
    /** Plays a request to its end, with a body if it has one; the status that the client sees. */
    play: (head, body) => {
      const id = ++streams;
      replied = 0;
      headers[MAPS.request] = head;
      exports.proxy_on_context_create(id, ROOT);
      exports.proxy_on_request_headers(id, head.readUInt32LE(0), body ? 0 : 1);
      if (body && !replied) {
        requestBody = body;
        exports.proxy_on_request_body(id, body.length, 1);
      }
      answerCallouts();
      if (!replied) {
        exports.proxy_on_response_headers(id, 4, 0);
        answerCallouts();
      }
      if (!replied) exports.proxy_on_response_body(id, 96, 1);
      exports.proxy_on_log(id);
      exports.proxy_on_delete(id);
      return replied || 200;
    },
  };
}
