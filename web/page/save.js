// The results of this page as a file: CSV for spreadsheets, JSON for programs.

const COLUMNS = ["name", "label", "confidence", "model", "id", "error"];

/**
 * Formats rows as CSV (RFC 4180). A quote before a text that a spreadsheet would evaluate as a
 * formula keeps it a text.
 */
export function csv(rows) {
  const lines = [COLUMNS, ...rows.map((row) => COLUMNS.map((column) => row[column] ?? ""))];
  return lines.map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

function cell(value) {
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Lets the user save the rows as a file of this kind, `csv` or `json`. */
export function save(rows, kind) {
  const [text, type] = kind === "csv" ? [csv(rows), "text/csv"] : [`${JSON.stringify(rows, null, 1)}\n`, "application/json"];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = `eirs-results.${kind}`;
  link.click();
  // By then the browser has opened the object.
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
