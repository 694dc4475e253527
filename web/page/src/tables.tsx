// Tables, and the table behind every plot.
import type { ComponentChildren } from "preact";
import { useMemo, useState } from "preact/hooks";

export interface Column<T> {
  head: string;
  cell: (row: T) => ComponentChildren;
  sort?: (row: T) => number | string;  // sortable by it
  numeric?: boolean;
}

const PAGE = 100;

// Sorted by a press on a head; long ones in pages, so that two thousand rows cost no more than a hundred.
export function DataTable<T>({ caption, columns, rows, keyOf, onlyShown }:
    { caption: string; columns: Column<T>[]; rows: T[]; keyOf: (row: T) => string | number; onlyShown?: boolean }) {
  const [order, setOrder] = useState<{ column: number; down: boolean } | null>(null);
  const [page, setPage] = useState(0);
  const sorted = useMemo(() => {
    const by = order && columns[order.column].sort;
    if (!order || !by) return rows;
    const sign = order.down ? -1 : 1;
    return [...rows].sort((a, b) => {
      const [x, y] = [by(a), by(b)];
      return sign * (x < y ? -1 : x > y ? 1 : 0);
    });
  }, [rows, order]);
  const pages = Math.max(1, Math.ceil(sorted.length / PAGE));
  const at = Math.min(page, pages - 1);
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={caption}>
      <table>
        <caption class={onlyShown ? "hidden" : ""}>{caption}</caption>
        <thead>
          <tr>
            {columns.map((column, i) => (
              <th key={column.head} scope="col" class={column.numeric ? "number" : ""}
                  aria-sort={order?.column === i ? (order.down ? "descending" : "ascending") : undefined}>
                {column.sort
                  ? <button type="button" class="head" onClick={() => setOrder({ column: i, down: order?.column === i ? !order.down : false })}>
                      {column.head}<span aria-hidden="true">{order?.column === i ? (order.down ? " ▾" : " ▴") : ""}</span>
                    </button>
                  : column.head}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {sorted.slice(at * PAGE, (at + 1) * PAGE).map((row) => (
            <tr key={keyOf(row)}>
              {columns.map((column) => <td key={column.head} class={column.numeric ? "number" : ""}>{column.cell(row)}</td>)}
            </tr>
          ))}
        </tbody>
      </table>
      {pages > 1 && (
        <p class="pager">
          <button type="button" disabled={at === 0} onClick={() => setPage(at - 1)}>Earlier</button>
          <span>{at * PAGE + 1} to {Math.min(sorted.length, (at + 1) * PAGE)} of {sorted.length}</span>
          <button type="button" disabled={at === pages - 1} onClick={() => setPage(at + 1)}>Later</button>
        </p>
      )}
    </div>
  );
}

// The table is made when it is opened.
export function AsTable({ label, children }: { label?: string; children: () => ComponentChildren }) {
  const [open, setOpen] = useState(false);
  return (
    <details class="as-table" onToggle={(event) => setOpen((event.currentTarget as HTMLDetailsElement).open)}>
      <summary>{label ?? "The same as a table"}</summary>
      {open && children()}
    </details>
  );
}
