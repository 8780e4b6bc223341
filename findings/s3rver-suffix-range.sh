#!/bin/sh
# s3rver 3.7.1: the last bytes of an object are asked for, and the first ones come.
#
# `Range: bytes=-2` means the last two bytes (RFC 9110, 14.1.2), and is how readers of ZIP, Parquet and tar indexes begin. This emulator of
# S3 takes the missing start for 0 and the number for the end (`getObject` in lib/controllers/object.js): three bytes from the front,
# status 206. A reader of such a file finds no index, or another one than on S3.
#
# Expected beforehand: the two last bytes, or status 416 or 501.
# Seen: "cat" of "cat and dog", with Content-Range bytes 0-2/11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund s3rver@3.7.1
cat >run.cjs <<'NODE'
const assert = require("assert"), http = require("http");
const S3rver = require("s3rver");

const send = (port, method, headers, body) => new Promise((done, failed) => {
  const request = http.request({ host: "127.0.0.1", port, path: "/images/a", method, headers }, (answer) => {
    let text = "";
    answer.on("data", (part) => (text += part)).on("end", () => done([answer.statusCode, answer.headers["content-range"], text]));
  });
  request.on("error", failed).end(body);
});

(async () => {
  const server = new S3rver({
    port: 0, address: "127.0.0.1", silent: true, directory: "./data", configureBuckets: [{ name: "images" }],
  });
  const { port } = await server.run();
  assert.strictEqual((await send(port, "PUT", {}, "cat and dog"))[0], 200);
  const seen = await send(port, "GET", { range: "bytes=-2" }), middle = await send(port, "GET", { range: "bytes=4-6" });
  await server.close();
  console.log("bytes=-2:", seen, "bytes=4-6:", middle);
  assert.deepStrictEqual(middle, [206, "bytes 4-6/11", "and"]);
  assert.deepStrictEqual(seen, [206, "bytes 0-2/11", "cat"], "changed");
})();
NODE
node run.cjs
