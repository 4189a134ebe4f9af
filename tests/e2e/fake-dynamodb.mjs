/**
 * A fake of DynamoDB: moto's server, which knows its API, behind a server of our own, which checks signatures, counts, and fails as
 * it is told. It has nothing of DynamoDB's but its answers: moto keeps items in memory, sweeps none, and knows no lock, which is why
 * it is asked one question after the other.
 */
import { createHash, createHmac } from "node:crypto";
import { createServer } from "node:http";
import { join } from "node:path";
import { claimPorts } from "../../stage/ports.mjs";
import { checkout, startProcess, until } from "../../stage/processes.mjs";

/** `make .tools/moto.stamp` installs it. */
const MOTO = process.env.MOTO ?? join(checkout, ".tools", "moto", "bin", "moto_server");

const REGION = "eu-central-1";
const KEY = { access_key_id: "AKIDEXAMPLE", secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" };
/** The host that requests are to be signed for. */
const HOST = `dynamodb.${REGION}.amazonaws.com`;
const API = "DynamoDB_20120810.";

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const hmac = (key, text) => createHmac("sha256", key).update(text).digest();

/**
 * Whether a request is signed as AWS wants it (Signature Version 4), its body included.
 *
 * @param {import("node:http").IncomingMessage} request
 * @param {Buffer} body
 */
function isSigned({ method, url, headers }, body) {
  const [, day, names, signature] =
    /^AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE\/(\d{8})\/eu-central-1\/dynamodb\/aws4_request, ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$/.exec(headers.authorization) ?? [];
  if (!signature || headers.host !== HOST) return false;
  const signed = names.split(";");
  if (!["host", "x-amz-date", "x-amz-target"].every((name) => signed.includes(name))) return false;
  const lines = signed.map((name) => `${name}:${headers[name].trim()}\n`).join("");
  const canonical = [method, url, "", lines, names, sha256(body)].join("\n");
  const scope = `${day}/${REGION}/dynamodb/aws4_request`;
  const key = [day, REGION, "dynamodb", "aws4_request"].reduce(hmac, `AWS4${KEY.secret_access_key}`);
  return hmac(key, ["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, sha256(canonical)].join("\n")).toString("hex") === signature;
}

/**
 * Starts it, with a table.
 *
 * @param {object} options
 * @param {ReturnType<typeof import("../../stage/processes.mjs").makeRunDirectory>} options.run
 * @param {string} [options.table]
 * @returns {Promise<FakeDynamoDb>}
 *
 * @typedef {object} FakeDynamoDb
 * @property {{operation: string, isSigned: boolean, authorization: string | undefined, body: object, status?: number}[]} calls every
 *   request by way of Envoy, oldest first
 * @property {"pass" | "silent" | "refuse" | "throttle" | "lose"} mode answers; says nothing, nor asks moto; closes the connection; says
 *   that it is too much; does what is asked, and says nothing
 * @property {(operation: string, body: object) => Promise<{status: number, text: string}>} tell asks moto itself
 * @property {(operation: string, body: object) => Promise<object>} ask the same, where it is to be answered with 200
 * @property {(bootstrap: object) => void} edit adds the cluster `dynamodb` to a bootstrap of Envoy's
 * @property {() => Promise<void>} stop
 */
export async function startFakeDynamoDb({ run, table = "x402" }) {
  const ports = await claimPorts();
  const moto = startProcess({ name: "moto", command: MOTO, run, args: ["-H", "127.0.0.1", "-p", String(ports.chain)] });
  const url = `http://127.0.0.1:${ports.chain}/`;
  const headersFor = (operation, authorization = `AWS4-HMAC-SHA256 Credential=${KEY.access_key_id}/20260101/${REGION}/dynamodb/aws4_request`) => ({
    "content-type": "application/x-amz-json-1.0",
    "x-amz-target": API + operation,
    authorization,
  });
  let turn = Promise.resolve();
  const passOn = (operation, body) => {
    const answer = turn.then(async () => {
      const response = await fetch(url, { method: "POST", headers: headersFor(operation), body });
      return { status: response.status, text: await response.text() };
    });
    turn = answer.catch(() => {});
    return answer;
  };
  const tell = (operation, body) => passOn(operation, JSON.stringify(body));
  const ask = async (operation, body) => {
    const { status, text } = await tell(operation, body);
    if (status !== 200) throw new Error(`${operation}: ${status} ${text}`);
    return JSON.parse(text);
  };

  const fake = { calls: [], mode: "pass", tell, ask };
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const { authorization, "x-amz-target": target = "" } = request.headers;
    const call = { operation: target.replace(API, ""), isSigned: isSigned(request, body), authorization, body: JSON.parse(body.toString()) };
    fake.calls.push(call);
    const say = (status, text) => {
      call.status = status;
      response.writeHead(status, { "content-type": "application/x-amz-json-1.0" }).end(text);
    };
    const refuse = (status, name, message) => say(status, JSON.stringify({ __type: `com.amazonaws.dynamodb.v20120810#${name}`, message }));
    if (!call.isSigned) return refuse(400, "InvalidSignatureException", "The request signature we calculated does not match the signature you provided.");
    const { mode } = fake;
    if (mode === "silent") return;
    if (mode === "refuse") return void request.socket.destroy();
    if (mode === "throttle") return refuse(400, "ThrottlingException", "Throughput exceeds the current capacity of your table or index.");
    const { status, text } = await passOn(call.operation, body);
    if (mode === "lose") return;
    say(status, text);
  });
  await new Promise((resolve) => server.listen(ports.gateway, "127.0.0.1", resolve));

  fake.stop = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    await moto.stop();
    await ports.release();
  };
  fake.edit = (bootstrap) => {
    const cluster = structuredClone(CLUSTER);
    cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value = ports.gateway;
    bootstrap.static_resources.clusters.push(cluster);
  };
  try {
    await until(() => ask("ListTables", {}), { what: "moto", process: moto, timeoutMs: 60_000 });
    await ask("CreateTable", {
      TableName: table,
      AttributeDefinitions: ["p", "k"].map((AttributeName) => ({ AttributeName, AttributeType: "S" })),
      KeySchema: [{ AttributeName: "p", KeyType: "HASH" }, { AttributeName: "k", KeyType: "RANGE" }],
      BillingMode: "PAY_PER_REQUEST",
    });
    await ask("UpdateTimeToLive", { TableName: table, TimeToLiveSpecification: { AttributeName: "t", Enabled: true } });
  } catch (error) {
    await fake.stop();
    throw error;
  }
  return fake;
}

const filter = (name, type, more = {}) => ({ name, typed_config: { "@type": `type.googleapis.com/envoy.extensions.filters.http.${type}`, ...more } });

/** The cluster, which signs what it sends. */
const CLUSTER = {
  name: "dynamodb",
  type: "STATIC",
  connect_timeout: "0.5s",
  typed_extension_protocol_options: {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
      "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
      explicit_http_config: { http_protocol_options: {} },
      http_filters: [
        filter("envoy.filters.http.aws_request_signing", "aws_request_signing.v3.AwsRequestSigning", {
          service_name: "dynamodb",
          region: REGION,
          host_rewrite: HOST,
          credential_provider: { inline_credential: KEY },
        }),
        filter("envoy.filters.http.upstream_codec", "upstream_codec.v3.UpstreamCodec"),
      ],
    },
  },
  load_assignment: {
    cluster_name: "dynamodb",
    endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: "127.0.0.1", port_value: 0 } } } }] }],
  },
};

