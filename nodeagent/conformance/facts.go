package conformance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// Facts are what a probe has told: "status.CapEff" → "0000000000000000". Errors
// are named as the kernel's (EPERM), success is "ok".
type Facts map[string]string

// lastLine is what a probe ends with, so that one that was cut off is known.
const lastLine = "end=end"

func parse(out string) (Facts, error) {
	body, whole := strings.CutSuffix(strings.TrimRight(out, "\n"), lastLine)
	if !whole {
		return nil, fmt.Errorf("the probe's output has no end: …%q", out[max(0, len(out)-300):])
	}
	f := Facts{}
	for l := range strings.Lines(body) {
		k, v, ok := strings.Cut(strings.TrimSuffix(l, "\n"), "=")
		if !ok {
			return nil, fmt.Errorf("the probe printed %q", l)
		}
		f[k] = v
	}
	return f, nil
}

// want complains of each fact that is not as told.
func (f Facts) want(t *testing.T, want map[string]string) {
	t.Helper()
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if got, ok := f[k]; !ok || got != want[k] {
			t.Errorf("%s: got %q (told: %v), want %q", k, got, ok, want[k])
		}
	}
}

// under are the facts whose names begin with prefix, by the rest of the name.
func (f Facts) under(prefix string) Facts {
	out := Facts{}
	for k, v := range f {
		if rest, ok := strings.CutPrefix(k, prefix); ok {
			out[rest] = v
		}
	}
	return out
}
