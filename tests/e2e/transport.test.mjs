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

/** By default Envoy keeps to itself why a connection failed; older ones do not know the guard, and tell. */
const TELLS = { "envoy.reloadable_features.hide_transport_failure_reason_in_response_body": false };

/** A gateway whose facilitator is behind TLS, at this port. */
const openGatewayTo = (port, runtime = TELLS) =>
  openGateway(backends, {
    plugin: pluginOf({ facilitator: { cluster: "facilitator", url: `https://${NAME}`, verify: "local" } }),
    clusters: { facilitator: port },
    edit: (bootstrap) => {
      bootstrap.layered_runtime = { layers: [{ name: "x402", static_layer: runtime }] };
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

const LIARS = {
  "of another name": [{ name: "localhost" }, "its certificate is for another name", "fail_verify_san"],
  "of an unknown authority": [{ ca: "theirs" }, "nobody who is trusted vouches for its certificate", "fail_verify_error"],
  "that has expired": [{ days: "-1" }, "its certificate has expired", "fail_verify_error"],
  "none at all": [null, "it does not speak TLS", "connection_error"],
};

/** Pays at a gateway; nothing is said, and the log has a line of the end of the request with these words. */
async function assertUnheard(gateway, heard, words) {
  const answer = await pay(gateway, "/weather", await paymentFor(gateway, "/weather"));
  assert.ok([502, 504].includes(answer.status), answer.text);
  assert.equal(answer.terms, null);
  assert.doesNotMatch(answer.text, /certificate|TLS|SSL/, "it is the operator's business");
  assert.deepEqual(heard, []);
  const said = `outcome=unknown reason="the facilitator did not answer; https://${NAME}/settle (cluster facilitator) answered 503: ${words}`;
  await eventually(async () => gateway.envoy.logs().includes(said), `the log says: ${words}`);
}

for (const [what, [tls, words, stat]] of Object.entries(LIARS)) {
  test(`One whose certificate is ${what} says nothing, and the log says why`, async () => {
    const { port, heard } = await startLiar(tls && certificate(what.replaceAll(" ", "-"), tls));
    const gateway = await openGatewayTo(port);
    await assertUnheard(gateway, heard, `${words} (`);
    // Where the log cannot say why, it leads there.
    const stats = await gateway.envoy.stats(`cluster.facilitator.ssl.${stat}`);
    assert.ok(Object.values(stats)[0] > 0, `${stat}: ${JSON.stringify(stats)}`);
  });
}

test("An Envoy that keeps the reason to itself leaves a line that leads to it", async () => {
  const { port, heard } = await startLiar(null);
  const gateway = await openGatewayTo(port, {});
  await pay(gateway, "/weather", await paymentFor(gateway, "/weather"));
  assert.deepEqual(heard, []);
  const says = /it does not speak TLS|should its TLS be to blame, the proxy's stats cluster\.facilitator\.ssl tell why/;
  await eventually(async () => says.test(gateway.envoy.logs()), "the log");
});
