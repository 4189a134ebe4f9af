/**
 * A fake facilitator for channels: it says yes to everything, says of each channel that it holds more than anybody will spend,
 * and moves no money. `GET /calls` says how often it was asked.
 */
import { createServer } from "node:http";

const [port] = process.argv.slice(2);
const network = "eip155:84532";
const BALANCE = "1000000000000";
const AUTHORIZER = "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65";
const kind = { x402Version: 2, scheme: "batch-settlement", network, extra: { receiverAuthorizer: AUTHORIZER } };
const supported = { kinds: [kind, { x402Version: 2, scheme: "exact", network }], extensions: [], signers: {} };
const calls = {};

const answers = {
  "/supported": () => supported,
  "/calls": () => calls,
  "/verify": ({ paymentPayload: { payload } }) => ({
    isValid: true,
    payer: payload.channelConfig?.payer ?? payload.authorization?.from,
    extra: payload.voucher && { channelId: payload.voucher.channelId, balance: BALANCE, totalClaimed: "0", withdrawRequestedAt: 0, refundNonce: "0" },
  }),
  "/settle": ({ paymentPayload: { payload } }) => ({
    success: true,
    transaction: `0x${"5b".repeat(32)}`,
    network,
    payer: payload.channelConfig?.payer ?? payload.authorization?.from,
  }),
};

createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const path = request.url;
    if (path !== "/calls") calls[path] = (calls[path] ?? 0) + 1;
    const text = Buffer.concat(chunks).toString();
    const answer = JSON.stringify(answers[path]?.(text && JSON.parse(text)) ?? {});
    response.writeHead(answers[path] ? 200 : 404, { "content-type": "application/json", "content-length": Buffer.byteLength(answer) });
    response.end(answer);
  });
}).listen(Number(port), "127.0.0.1");
