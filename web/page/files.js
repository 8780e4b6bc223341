// The files of a drop, of a paste and of the two dialogs. From folders, only the images, at any
// depth.

import { count, plural } from "./words.js";

/** The types that the workers read. A browser that does not know an extension gives no type. */
const TYPES = ["image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff", "image/vnd.microsoft.icon", "image/x-icon", "image/heic", "image/heif", "image/avif"];
const ENDINGS = /\.(jpe?g|jpe|jfif|a?png|webp|gif|bmp|dib|tiff?|ico|p[bgpn]m|pam|qoi|hei[cf]|hif|avif)$/i;
/** Files that operating systems create in folders. */
const HIDDEN = /^(\..*|thumbs\.db|desktop\.ini|__macosx)$/i;
/** `2.jpg` comes before `10.jpg`. */
const order = new Intl.Collator("en", { numeric: true });

/**
 * Resolves to { images: [{ file, name }], folders, left, unread }: the number of folders, the
 * number of files in them that are not images, and the number of entries that could not be read.
 * Calls `onFound` with the number of files found in folders so far.
 */
export async function dropped(transfer, onFound) {
  // Read all items during the event; afterwards the transfer is empty.
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

/** Like `dropped`, for a list of files from a dialog, where the browser has read the folders. */
export function picked(files) {
  const end = { images: [], folders: 0, left: 0, unread: 0 };
  const inFolder = [];
  for (const file of files) {
    // The name of the folder itself is not checked, because the user chose it.
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

/** A browser returns the entries of a folder in batches; an empty batch is the last one. */
async function children(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const portion = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!portion.length) return all;
    all.push(...portion);
  }
}

/**
 * Keeps the images, sorted by name, because browsers return the entries of a folder in any order.
 */
function sort(found, end) {
  const isImage = ({ file }) => TYPES.includes(file.type) || ENDINGS.test(file.name);
  const images = found.filter(isImage).sort((one, other) => order.compare(one.name, other.name) || (one.name < other.name ? -1 : 1));
  end.left += found.length - images.length;
  end.images.push(...images);
}

/** Returns a summary of the folders for the user; empty if there is nothing to report. */
export function summaryOf({ images, folders, left, unread }) {
  if (!folders) return "";
  const sentences = [];
  if (!images.length) sentences.push(folders === 1 ? "No images in this folder." : "No images in these folders.");
  if (left) sentences.push(`${plural(left, "file")} left out: no image type that is read.`);
  if (unread) sentences.push(`${count(unread)} could not be read.`);
  return sentences.join(" ");
}
