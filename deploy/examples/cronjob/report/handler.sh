#!/bin/sh
# One part of a report. Which one, a Job with indexes says.
set -eu

part=${JOB_COMPLETION_INDEX:-all}
echo "report of part $part, $(date -u +%FT%RZ)"
if [ "$part" = "${BROKEN:-none}" ]; then
	echo "part $part has no data" | tee /dev/termination-log >&2
	exit 42
fi
