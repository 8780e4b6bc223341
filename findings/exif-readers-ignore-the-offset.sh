#!/bin/sh
# exifr 7.1.3, exif-parser 0.1.12, exif-reader 2.0.3: a photo taken at 12:00 in a zone of +02:00 is dated 12:00 UTC or local time.
#
# Since Exif 2.31 a camera can write its offset beside the time (OffsetTimeOriginal). The three return an instant (a Date, or seconds of
# the epoch), and none uses the offset in the same file: two take the time for UTC, and exifr for the time of the machine it runs on, so
# that one photo has as many instants as there are servers. Order and rate limits of cameras in two zones are off by hours. Read the text
# of the tag and the offset (exifr: `reviveValues: false`).
#
# Expected beforehand: 10:00 UTC, as the file says.
# Seen: 12:00 UTC from two, 17:00 UTC from exifr on a machine 5 hours west.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund exifr@7.1.3 exif-parser@0.1.12 exif-reader@2.0.3
cat >run.cjs <<'NODE'
const assert = require("assert");
const exifParser = require("exif-parser"), exifReader = require("exif-reader"), exifr = require("exifr");

// TIFF, big-endian: the first directory has a pointer to the second, which has the time and its offset.
const entry = (tag, type, count, value) => {
  const bytes = Buffer.alloc(12);
  bytes.writeUInt16BE(tag, 0);
  bytes.writeUInt16BE(type, 2);
  bytes.writeUInt32BE(count, 4);
  bytes.writeUInt32BE(value, 8);
  return bytes;
};
const directory = (...entries) => Buffer.concat([Buffer.from([0, entries.length]), ...entries, Buffer.alloc(4)]);
const tiff = Buffer.concat([
  Buffer.from("MM\0*\0\0\0\x08", "latin1"), directory(entry(0x8769, 4, 1, 26)),
  directory(entry(0x9003, 2, 20, 56), entry(0x9011, 2, 7, 76)), Buffer.from("2026:07:01 12:00:00\0+02:00\0", "latin1"),
]);
const exif = Buffer.concat([Buffer.from("Exif\0\0", "latin1"), tiff]);
const head = Buffer.from([0xff, 0xd8, 0xff, 0xe1, 0, exif.length + 2]);
const photo = Buffer.concat([head, exif, Buffer.from([0xff, 0xc0, 0, 11, 8, 0, 1, 0, 1, 1, 1, 0x11, 0, 0xff, 0xd9])]);

(async () => {
  const tags = await exifr.parse(photo);
  assert.strictEqual(tags.OffsetTimeOriginal, "+02:00");
  const seen = {
    exifr: tags.DateTimeOriginal.toISOString(),
    "exif-parser": new Date(exifParser.create(photo).parse().tags.DateTimeOriginal * 1000).toISOString(),
    "exif-reader": exifReader(exif).Photo.DateTimeOriginal.toISOString(),
  };
  console.log(seen);
  assert.deepStrictEqual(seen, {
    exifr: "2026-07-01T17:00:00.000Z", "exif-parser": "2026-07-01T12:00:00.000Z", "exif-reader": "2026-07-01T12:00:00.000Z",
  }, "changed");
})();
NODE
# A zone by its offset: no summer time.
TZ=WEST5 node run.cjs
