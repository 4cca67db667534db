// The blocks of a Markdown text: what is a list, what is code. Which lines belong to which, and nothing about looks.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:( +)(.*)|)$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const DIVIDER = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
const MOST_DEPTH = 6;

/** The blocks of these lines. `goesOn`: the first line belongs to a paragraph, whatever it looks like. */
export function parsed(lines, goesOn = false, depth = 0) {
  const blocks = [];
  let at = 0;
  if (goesOn) at = paragraph(lines, 0, blocks);
  while (at < lines.length) {
    if (!lines[at].trim()) at++;
    else at = nextBlock(lines, at, blocks, depth);
  }
  return blocks;
}

function nextBlock(lines, at, blocks, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return code(lines, at, fence, blocks);
  const heading = HEADING.exec(line);
  if (heading) {
    blocks.push({
      kind: "heading",
      level: heading[1].length,
      text: heading[2] ?? "",
      source: lines.slice(at).join("\n"),
    });
    return at + 1;
  }
  if (RULE.test(line)) {
    blocks.push({ kind: "rule", source: lines.slice(at).join("\n") });
    return at + 1;
  }
  if (depth < MOST_DEPTH && QUOTE.test(line)) return quote(lines, at, blocks, depth);
  if (depth < MOST_DEPTH && ITEM.test(line)) return list(lines, at, blocks, depth);
  if (line.includes("|") && DIVIDER.test(lines[at + 1] ?? "") && lines[at + 1].includes("-"))
    return table(lines, at, blocks);
  return paragraph(lines, at, blocks);
}

function code(lines, at, [, marker, language], blocks) {
  const closing = new RegExp(`^ {0,3}${marker[0]}{${marker.length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end++;
  const closed = end < lines.length - 1; // the last line may still grow
  const text = lines
    .slice(at + 1, end)
    .map((line) => `${line}\n`)
    .join("");
  const source = lines.slice(at).join("\n");
  const rest = lines.slice(at + 1).join("\n");
  const isNamed = at + 1 < lines.length; // the line with the language is complete
  blocks.push({ kind: "code", marker, language, text, closed, isNamed, rest, source });
  return closed ? end + 1 : lines.length;
}

function quote(lines, at, blocks, depth) {
  const inside = [];
  let end = at;
  for (; end < lines.length; end++) {
    const found = QUOTE.exec(lines[end]);
    if (!found && (!lines[end].trim() || interrupts(lines[end]))) break;
    inside.push(found ? found[1] : lines[end]);
  }
  blocks.push({ kind: "quote", blocks: parsed(inside, false, depth + 1), source: lines.slice(at).join("\n") });
  return end;
}

function list(lines, at, blocks, depth) {
  const ordered = /\d/.test(ITEM.exec(lines[at])[2]);
  const found = {
    kind: "list",
    ordered,
    start: parseInt(lines[at], 10),
    items: [],
    source: lines.slice(at).join("\n"),
  };
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (!item || /\d/.test(item[2]) !== ordered || RULE.test(lines[end])) break;
    end = listItem(lines, end, item, found.items, depth);
  }
  blocks.push(found);
  return end;
}

function listItem(lines, at, [, indent, marker, blanks, text], items, depth) {
  const width = indent.length + marker.length + Math.min((blanks ?? " ").length, 4);
  const inside = [text ?? ""];
  let end = at + 1;
  for (; end < lines.length; end++) {
    const line = lines[end];
    const deep = line.length - line.trimStart().length;
    if (!line.trim()) {
      const next = lines.slice(end).find((one) => one.trim());
      if (next === undefined || (next.length - next.trimStart().length < width && !ITEM.test(next))) break;
      inside.push("");
    } else if (deep >= Math.min(width, 2) && deep > indent.length) {
      inside.push(line.slice(Math.min(deep, width)));
    } else if (ITEM.test(line) || interrupts(line) || !inside[inside.length - 1]) {
      break;
    } else {
      inside.push(line); // a paragraph that goes on without its indentation
    }
  }
  items.push({ blocks: parsed(inside, false, depth + 1), source: lines.slice(at).join("\n") });
  return end;
}

function table(lines, at, blocks) {
  const aligns = cells(lines[at + 1]).map((cell) =>
    /^:-+:$/.test(cell) ? "center" : /-:$/.test(cell) ? "end" : "start",
  );
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end++;
  const rows = lines.slice(at + 2, end).map(cells);
  blocks.push({ kind: "table", head: cells(lines[at]), aligns, rows, source: lines.slice(at).join("\n") });
  return end;
}

function cells(line) {
  const inside = line
    .trim()
    .replace(/^\|/, "")
    .replace(/(?<!\\)\|$/, "");
  return inside.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function paragraph(lines, at, blocks) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !interrupts(lines[end])) end++;
  const text = lines.slice(at, end).join("\n");
  blocks.push({ kind: "paragraph", text: text.trimStart(), source: lines.slice(at).join("\n").trimStart() });
  return end;
}

function interrupts(line) {
  const item = ITEM.exec(line);
  const begins = item && item[4] && (!/\d/.test(item[2]) || /^1[.)]$/.test(item[2]));
  return begins || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line);
}
