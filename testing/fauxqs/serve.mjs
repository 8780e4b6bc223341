// Serves SQS and S3 by fauxqs on a free port of the loopback, says where in a file, and ends when its input does: also where
// the test that started it is killed.
//
//   node serve.mjs FOLDER_OF_NODE_MODULES ADDRESS_FILE [MILLISECONDS]
//
// Each call takes that number of milliseconds more, as on a way through a network. GET /calls says how many there were of
// SQS and of S3 since the last time.

import http from "node:http";
import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, file, delay = "0"] = process.argv.slice(2);
const calls = { sqs: 0, s3: 0 };
const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, ...rest) {
  if (event !== "request") return emit.call(this, event, ...rest);
  const [request, response] = rest;
  if (request.url === "/calls") {
    response.end(JSON.stringify(calls));
    Object.assign(calls, { sqs: 0, s3: 0 });
    return true;
  }
  calls[request.headers["x-amz-target"] ? "sqs" : "s3"] += 1;
  if (delay === "0") return emit.call(this, event, ...rest);
  setTimeout(() => emit.call(this, event, ...rest), Number(delay));
  return true;
};
const { startFauxqs } = await import(pathToFileURL(join(modules, "fauxqs", "dist", "app.js")));
const server = await startFauxqs({ port: 0, host: "127.0.0.1", defaultRegion: "eu-central-1", logger: false });
// Written aside and moved: who waits for it must not read half of it.
writeFileSync(`${file}.part`, `127.0.0.1:${server.port}\n`);
renameSync(`${file}.part`, file);

process.stdin.on("end", () => process.exit(0)).resume();
