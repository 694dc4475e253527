// The buttons over a plot that can be zoomed.
import type { ComponentChildren } from "preact";

// `zoom(f)` shows f times as much as now; `whole` shows all, null where all is shown. `children` stand in between.
export function ZoomButtons({ step, zoom, whole, children }: {
  step: number;
  zoom: (factor: number) => void;
  whole: (() => void) | null;
  children?: ComponentChildren;
}) {
  return (
    <span class="buttons" role="group" aria-label="Zoom">
      <button type="button" aria-label="Zoom in" onClick={() => zoom(step)}>+</button>
      <button type="button" aria-label="Zoom out" onClick={() => zoom(1 / step)}>−</button>
      {children}
      <button type="button" disabled={!whole} onClick={() => whole?.()}>All of it</button>
    </span>
  );
}
