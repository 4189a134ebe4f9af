/**
 * Nobody but the facilitator says "settled": one that shows another's certificate, one of an unknown authority, one that has
 * expired, or none, is not heard, and the log says which of these it was.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer as createPlainServer } from "node:http";
import { createServer } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { assertServed, eventually, openBackends, openGateway, pay, paymentFor, pluginOf } from "./support.mjs";

const NAME = "facilitator.example.com";
const directory = mkdtempSync(join(tmpdir(), "x402-transport-"));
const backends = await openBackends();
backends.atEnd(async () => rmSync(directory, { recursive: true, force: true }));

const openssl = (...args) => execFileSync("openssl", args, { cwd: directory, stdio: "pipe" });
const KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
for (const ca of ["ours", "theirs"]) {
  openssl("req", "-x509", ...KEY, "-keyout", `${ca}.key`, "-out", `${ca}.crt`, "-subj", `/CN=${ca}`, "-days", "2");
}

/** A certificate: its name, its authority, and the days for which it is good. */
function certificate(file, { name = NAME, ca = "ours", days = "2" }) {
  openssl("req", ...KEY, "-keyout", `${file}.key`, "-out", `${file}.csr`, "-subj", `/CN=${name}`);
  writeFileSync(join(directory, `${file}.ext`), `subjectAltName=DNS:${name}\n`);
  openssl("x509", "-req", "-in", `${file}.csr`, "-CA", `${ca}.crt`, "-CAkey", `${ca}.key`, "-CAcreateserial", "-days", days, "-extfile", `${file}.ext`, "-out", `${file}.crt`);
  const read = (end) => readFileSync(join(directory, `${file}.${end}`));
  return { key: read("key"), cert: read("crt") };
}

/** One that says yes to everything, at a free port. */
async function startLiar(tls) {
  const heard = [];
  const answer = (request, response) => {
    let body = "";
    request.on("data", (bytes) => (body += bytes));
    request.on("end", () => {
      heard.push(request.url);
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({ isValid: true, success: true, transaction: `0x${"ab".repeat(32)}`, network: "eip155:84532", kinds: [] }));
    });
  };
  const server = tls ? createServer(tls, answer) : createPlainServer(answer);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  backends.atEnd(() => new Promise((resolve) => (server.closeAllConnections(), server.close(resolve))));
  return { port: server.address().port, heard };
}

/** A gateway whose facilitator is behind TLS, at this port. */
const openGatewayTo = (port) =>
  openGateway(backends, {
    plugin: pluginOf({ facilitator: { cluster: "facilitator", url: `https://${NAME}`, verify: "local" } }),
    clusters: { facilitator: port },
    edit: (bootstrap) => {
      bootstrap.layered_runtime = { layers: [{ name: "static", static_layer: { "envoy.reloadable_features.hide_transport_failure_reason_in_response_body": false } }] };
      const { clusters } = bootstrap.static_resources;
      clusters.find(({ name }) => name === "facilitator").transport_socket = {
        name: "envoy.transport_sockets.tls",
        typed_config: {
          "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
          sni: NAME,
          auto_sni_san_validation: true,
          common_tls_context: { validation_context: { trusted_ca: { filename: join(directory, "ours.crt") } } },
        },
      };
    },
  });

test("The facilitator itself is heard", async () => {
  const { port, heard } = await startLiar(certificate("right", {}));
  const gateway = await openGatewayTo(port);
  assertServed(await pay(gateway, "/weather", await paymentFor(gateway, "/weather")), { transaction: `0x${"ab".repeat(32)}` });
  assert.ok(heard.includes("/settle"));
});

for (const [what, tls, reason] of [
  ["of another name", { name: "localhost" }, /XX/],
  ["of an unknown authority", { ca: "theirs" }, /XX/],
  ["that has expired", { days: "-1" }, /XX/],
  ["none at all", null, /XX/],
]) {
  test(`One whose certificate is ${what} says nothing, and the log says why`, async () => {
    const { port, heard } = await startLiar(tls && certificate(what.replaceAll(" ", "-"), tls));
    const gateway = await openGatewayTo(port);
    const answer = await pay(gateway, "/weather", await paymentFor(gateway, "/weather"));
    assert.ok([502, 504].includes(answer.status), answer.text);
    assert.deepEqual(heard, []);
    console.log(gateway.envoy.logs().split("\n").filter((l) => /x402/.test(l)).join("\n"));
    //await eventually(async () => reason.test(gateway.envoy.logs()), "the log");
  });
}
