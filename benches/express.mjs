/** A contender: the official `@x402/express`. Its handler answers by itself, which spares it the hop to an upstream. */
import express from "express";
import { paymentMiddleware, x402ResourceServer } from "@x402/express";
import { HTTPFacilitatorClient } from "@x402/core/server";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";

const [port, facilitatorUrl, settle, answer, scheme = "exact"] = process.argv.slice(2);
const [network, payTo] = ["eip155:84532", "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"];
const official = scheme === "exact" ? new ExactEvmScheme() : new BatchSettlementEvmScheme(payTo);
const server = new x402ResourceServer(new HTTPFacilitatorClient({ url: facilitatorUrl })).register(network, official);
const accepts = { scheme, price: "$0.001", network, payTo, maxTimeoutSeconds: 300 };
if (settle === "before") accepts.extra = { paymentFlow: "upfront" };
const routes = { "GET /weather": { accepts, description: "Weather data", mimeType: "application/json" } };

const app = express();
app.use(paymentMiddleware(routes, server));
app.get("/{*path}", (_, response) => response.type("application/json").send(answer));
app.listen(Number(port), "127.0.0.1");
