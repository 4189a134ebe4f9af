/**
 * Records what moto's server, a stand-in for DynamoDB, answers to the questions that the filter asks of its store. Nothing here is
 * DynamoDB's own.
 *
 * Usage: node tests/vectors/dynamodb.mjs, after make .tools/moto.stamp
 */
import { writeFileSync } from "node:fs";
import { bytesToBigInt, keccak256, stringToBytes } from "viem";
import { makeRunDirectory } from "../../stage/processes.mjs";
import { startFakeDynamoDb } from "../e2e/fake-dynamodb.mjs";

const [CLAIM, CHANNEL] = ["c", "h"].map((letter) => `${letter}:${"11".repeat(32)}`);
const keyOf = (name, partition = `x402:shop:${name}`) => ({ p: { S: partition }, k: { S: name } });
const markOf = (value) => String(bytesToBigInt(keccak256(stringToBytes(value), "bytes").slice(0, 8)));

const table = { TableName: "x402" };
const capacity = { ReturnConsumedCapacity: "TOTAL" };
const read = (name) => ["GetItem", { ...table, Key: keyOf(name), ConsistentRead: true, ...capacity }];
const write = (key, value, seen, until) => [
  "PutItem",
  {
    ...table,
    Item: { ...key, v: { B: Buffer.from(value).toString("base64") }, r: { N: markOf(value) }, ...(until && { t: { N: String(until) } }) },
    ConditionExpression: seen ? "r = :r" : "attribute_not_exists(k)",
    ...(seen && { ExpressionAttributeValues: { ":r": { N: seen } } }),
    ReturnValuesOnConditionCheckFailure: "ALL_OLD",
    ...capacity,
  },
];
const list = (behind, most) => [
  "Query",
  {
    ...table,
    KeyConditionExpression: "p = :p AND k > :k",
    ExpressionAttributeValues: { ":p": { S: "x402:shop:h" }, ":k": { S: behind } },
    ProjectionExpression: "k, v",
    ConsistentRead: true,
    Limit: most,
    ...capacity,
  },
];
const channel = (letter) => `h:${letter.repeat(64)}`;
const writeChannel = (letter) => write(keyOf(channel(letter), "x402:shop:h"), `channel ${letter}`);

const STEPS = {
  "a record that is not there is read": read(CLAIM),
  "a record that is not there is written on": write(keyOf(CLAIM), "first", markOf("second")),
  "a record is made": write(keyOf(CLAIM), "first", null, 1_900_000_120),
  "a record is made again": write(keyOf(CLAIM), "second"),
  "a record is read": read(CLAIM),
  "a record is written on with an old mark": write(keyOf(CLAIM), "third", markOf("second")),
  "a record is written on": write(keyOf(CLAIM), "second", markOf("first")),
  "a channel is made": writeChannel("1"),
  "another channel is made": writeChannel("2"),
  "a third channel is made": writeChannel("3"),
  "channels are listed": list("h:", 2),
  "channels behind one are listed": list(channel("2"), 2),
  "channels behind the last are listed": list(channel("3"), 2),
  "there is no such table": ["GetItem", { ...read(CHANNEL)[1], TableName: "none" }],
};

const run = makeRunDirectory("record-dynamodb");
const moto = await startFakeDynamoDb({ run });
const recorded = [];
for (const [name, [operation, request]] of Object.entries(STEPS)) recorded.push({ name, operation, request, ...(await moto.tell(operation, request)) });
writeFileSync(new URL("dynamodb.json", import.meta.url), `${JSON.stringify({ by: "moto's server, a stand-in for DynamoDB", recorded }, null, 1)}\n`);
await moto.stop();
run.remove();
