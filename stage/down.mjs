/** `make down`: ends what `make up` started; does nothing, and says so, when nothing runs. */
import { rmSync } from "node:fs";
import { endRecorded, readRecord, sweepDeadRuns } from "./processes.mjs";
import { line } from "./terminal.mjs";
import { outputFile, upDirectory } from "./up.mjs";

const record = readRecord(upDirectory);
// The supervisor first: it ends its children itself. They are noted too, for the case that it cannot.
const ended = record ? (await endRecorded([record])) + (await endRecorded(record.children)) : 0;
for (const path of [upDirectory, outputFile]) rmSync(path, { recursive: true, force: true });
await sweepDeadRuns();
line(ended ? "The stage is down." : "Nothing was running.");
