// Session: one job, from its first line on stdin to the worker's exit code. Puts checkpoint, loader, engine and batcher
// behind the protocol of worker/protocol.h.
#pragma once

#include "worker/control_reader.h"
#include "worker/event_writer.h"
#include "worker/protocol.h"

namespace hproc::worker {

// Says hello, takes the job and works it off. Every end is reported as an event before it returns: a refused allocation
// as `oom`, whatever else goes wrong as `error`. Call from the working thread, once.
WorkerExit RunSession(ControlReader& control, EventWriter& events);

}  // namespace hproc::worker
