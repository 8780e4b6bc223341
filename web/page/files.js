// The files of a drop, of a paste and of the two dialogues. Of a folder these are the images in it, however deep they lie.

import { count, plural } from "./words.js";

/** What the workers read; a browser that does not know an ending names no type. */
const TYPES = ["image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff", "image/vnd.microsoft.icon", "image/x-icon", "image/heic", "image/heif", "image/avif"];
const ENDINGS = /\.(jpe?g|jpe|jfif|a?png|webp|gif|bmp|dib|tiff?|ico|p[bgpn]m|pam|qoi|hei[cf]|hif|avif)$/i;
/** What systems leave in folders for themselves. */
const HIDDEN = /^(\..*|thumbs\.db|desktop\.ini|__macosx)$/i;
/** `2.jpg` comes before `10.jpg`. */
const order = new Intl.Collator("en", { numeric: true });

/**
 * Answers { images: [{ file, name }], folders, left, unread }: how many folders were given, how many files in them are no images,
 * and how much could not be read. `onFound` gets the number of files found in folders so far.
 */
export async function dropped(transfer, onFound) {
  // All of it has to be taken within the event: a moment later the transfer is empty.
  const given = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => ({ entry: item.webkitGetAsEntry?.(), file: item.getAsFile() }));
  const end = { images: [], folders: 0, left: 0, unread: 0 };
  for (const { entry, file } of given) {
    if (entry?.isDirectory) {
      end.folders += 1;
      const found = [];
      await walk(entry, `${entry.name}/`, found, end, onFound);
      sort(found, end);
    } else if (file) {
      end.images.push({ file, name: file.name });
    }
  }
  return end;
}

/** The same of a list of files, of which the browser has opened folders itself. */
export function picked(files) {
  const end = { images: [], folders: 0, left: 0, unread: 0 };
  const inFolder = [];
  for (const file of files) {
    // The folder itself was meant, whatever it is called.
    const [, ...path] = (file.webkitRelativePath || "").split("/");
    if (!path.length) {
      end.images.push({ file, name: file.name });
      continue;
    }
    end.folders = 1;
    if (!path.some((part) => HIDDEN.test(part))) inFolder.push({ file, name: file.webkitRelativePath });
  }
  sort(inFolder, end);
  return end;
}

async function walk(folder, path, found, end, onFound) {
  const entries = await children(folder).catch(() => {
    end.unread += 1;
    return [];
  });
  const seen = entries.filter((entry) => !HIDDEN.test(entry.name));
  const files = seen.filter((entry) => entry.isFile).map((entry) =>
    new Promise((resolve, reject) => entry.file(resolve, reject)).then(
      (file) => found.push({ file, name: path + entry.name }),
      () => (end.unread += 1),
    ),
  );
  await Promise.all(files);
  onFound(end.images.length + found.length);
  for (const entry of seen) if (entry.isDirectory) await walk(entry, `${path}${entry.name}/`, found, end, onFound);
}

/** A browser hands a folder out in portions, of which the last one is empty. */
async function children(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const portion = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!portion.length) return all;
    all.push(...portion);
  }
}

/** Folders come in the order of their disk, which is nobody's. */
function sort(found, end) {
  const isImage = ({ file }) => TYPES.includes(file.type) || ENDINGS.test(file.name);
  const images = found.filter(isImage).sort((one, other) => order.compare(one.name, other.name) || (one.name < other.name ? -1 : 1));
  end.left += found.length - images.length;
  end.images.push(...images);
}

/** What became of the folders, in plain words; empty where there is nothing to say. */
export function said({ images, folders, left, unread }) {
  if (!folders) return "";
  const told = [];
  if (!images.length) told.push(folders === 1 ? "No images in this folder." : "No images in these folders.");
  if (left) told.push(`${plural(left, "file")} left out: no image type that is read.`);
  if (unread) told.push(`${count(unread)} could not be read.`);
  return told.join(" ");
}
