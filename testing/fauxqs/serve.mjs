// Serves SQS and S3 by fauxqs on a free port of the loopback, says where in a file, and ends when its input does: also where
// the test that started it is killed.
//
//   node serve.mjs FOLDER_OF_NODE_MODULES ADDRESS_FILE

import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, file] = process.argv.slice(2);
const { startFauxqs } = await import(pathToFileURL(join(modules, "fauxqs", "dist", "app.js")));
const server = await startFauxqs({ port: 0, host: "127.0.0.1", defaultRegion: "eu-central-1", logger: false });
// Written aside and moved: who waits for it must not read half of it.
writeFileSync(`${file}.part`, `127.0.0.1:${server.port}\n`);
renameSync(`${file}.part`, file);

process.stdin.on("end", () => process.exit(0)).resume();
